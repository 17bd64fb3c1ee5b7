"""Compare the weights of a Vision Transformer's stem unit by unit: similar units stand beside each other (T5).

A patch embedding is one linear map of a patch, so every value of a patch has weights of its own. The weights of
neighbouring pixels are similar. In a public stem they are, because it learnt on natural images. In what a training
adds to a stem they are, because a gradient sums the patches of its own images. A key that all blocks share moves
the weights and leaves their similarities as they are. So the similarities, laid out on the grid, give back the
order, just as distances of ciphertexts do. Position embeddings of neighbouring tokens are similar too, and give the
order of the blocks.

A unit is what the scheme moves as one: a pixel of a sub-block under block_pixel_shuffle, a value of a block under
value_shuffle. stem_layout.py turns similarities into places.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn

from coordinator.adversary.contract import Knowledge
from crypto.arrays import AnyArray, Float32Array, Float64Array
from crypto.kernels.blocks import quarter_pixels, to_blocks
from crypto.scheme import load
from crypto.spec import SchemeSpec

#: Schemes whose order a stem can show: all blocks have one key, and units only move.
SHUFFLES = ("block_pixel_shuffle", "value_shuffle")


@dataclass(frozen=True)
class Stem:
    """What reads the image in a Vision Transformer.

    Attributes:
        filters: float32 [D, P, P, c], the patch embedding.
        positions: float32 [tokens, D], the position embeddings, or None.
    """

    filters: Float32Array
    positions: Float32Array | None


def stem_from_weights(weights: Mapping[str, AnyArray]) -> Stem | None:
    """Return the stem among weights by timm's names, or None if there is no patch embedding among them."""
    if "patch_embed.proj.weight" not in weights:
        return None
    filters = np.asarray(weights["patch_embed.proj.weight"], np.float32).transpose(0, 2, 3, 1)
    rows = weights.get("pos_embed")
    return Stem(filters, None if rows is None else np.asarray(rows[0], np.float32))


def copy_stem(model: nn.Module) -> Stem | None:
    """Return a copy of a model's stem, or None if it has no patch embedding."""
    return stem_from_weights({k: v.detach().cpu().numpy().copy() for k, v in model.state_dict().items()})


def reads_whole_blocks(stem: Stem, spec: SchemeSpec) -> bool:
    """Return whether the patches of a stem are made of whole blocks of the scheme's images."""
    _, patch, _, channels = stem.filters.shape
    return bool(patch % spec.block == 0 and channels == spec.image_shape[2])


def unit_weights(filters: AnyArray, spec: SchemeSpec) -> AnyArray:
    """Return the weights of every unit in all blocks and sub-blocks of a patch, [D, P, P, c] to [units, weights]."""
    blocks = to_blocks(filters, spec.block)  # [D, blocks in a patch, M², c]
    if spec.name == "value_shuffle":
        values = spec.block**2 * spec.image_shape[2]
        return blocks.reshape(-1, values).T
    quarters = blocks[:, :, quarter_pixels(spec.block)]  # [D, blocks, 4, S, c]
    return quarters.transpose(3, 0, 1, 2, 4).reshape(quarters.shape[3], -1)


def block_positions(stem: Stem, count: int) -> Float32Array | None:
    """Return the position embeddings [count, D] of `count` blocks.

    The result is None if tokens are not blocks, or have no positions.
    """
    # Class and register tokens come first, where they have positions at all.
    rows = None if stem.positions is None else stem.positions[-count:]
    return rows if rows is not None and len(rows) == count else None


def learnt_change(first: AnyArray, trained: AnyArray) -> Float64Array:
    """Return what a training added to weights of any shape, float64, without the weight decay.

    Decay is a multiple of the first weights, and after a few steps of SGD it is nearly all of the change.
    """
    before = np.asarray(first, np.float64)
    change: Float64Array = trained - before
    decay: Float64Array = before * ((change * before).sum() / max(float((before**2).sum()), 1e-300))
    return change - decay


def cosine_similarities(first: AnyArray, second: AnyArray) -> Float64Array:
    """Return the cosines of the rows of [m, F] and [k, F], float64 [m, k]; 0 for rows of zeros."""
    one, other = np.asarray(first, np.float64), np.asarray(second, np.float64)
    one = one / np.maximum(np.linalg.norm(one, axis=1, keepdims=True), 1e-30)
    other = other / np.maximum(np.linalg.norm(other, axis=1, keepdims=True), 1e-30)
    similarities: Float64Array = one @ other.T
    return similarities


def cosine_distances(rows: AnyArray) -> Float64Array:
    """Return one minus the cosine of every two rows of [m, F]: float64 [m, m], symmetric, 0 on the diagonal."""
    distances = np.maximum(1.0 - cosine_similarities(rows, rows), 0.0)
    np.fill_diagonal(distances, 0.0)
    return (distances + distances.T) / 2.0


def scale_spectrum(rows: AnyArray, power: float) -> Float64Array:
    """Return rows [m, F] as float64 [m, k] with every singular value raised to a power.

    Without it, a few strong ones drown the rest.
    """
    left, strengths, _ = np.linalg.svd(np.asarray(rows, np.float64), full_matrices=False)
    return left * strengths**power


def why_unusable(knowledge: Knowledge) -> str:
    """Return why no stem of the observed training could show this pool's key; empty if one could."""
    observed, spec = knowledge.observed, knowledge.pool.spec
    if observed is None:
        return "needs the plan of a training: no training was given"
    if load(spec).row_keys:
        return "every image has a key of its own"
    if spec.name not in (*SHUFFLES, "orthogonal"):
        return f"no way is known from a stem to a key of {spec.name}"
    trained = observed.plan.describe()
    if (trained.name, trained.image_shape, trained.block) != (spec.name, spec.image_shape, spec.block):
        return "the training was on images of another scheme, size or block"
    return ""
