"""What a Vision Transformer's stem shows of the key whose images it reads, unit by unit.

A patch embedding is one linear map of a patch, so every value of a patch has weights of its own. Those of
neighbouring pixels are alike: in a public stem because it learnt on natural images, and in what a training adds to a
stem because a gradient sums the patches of its own images. A key that all blocks share moves them and leaves their
likeness as it is: likeness against likeness, laid out on the grid, gives back the order, just as distances of
ciphertexts do. Position embeddings of neighbouring tokens are alike too, and give the order of the blocks.

A unit is what the scheme moves as one: a pixel of a sub-block under block_pixel_shuffle, a value of a block under
value_shuffle. stem_layout.py makes places of likenesses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from coordinator.adversary.contract import Knowledge
from crypto.kernels.blocks import quarter_pixels, to_blocks
from crypto.scheme import load
from crypto.spec import SchemeSpec

#: Schemes whose order a stem can show: all blocks alike, units that only move.
SHUFFLES = ("block_pixel_shuffle", "value_shuffle")


@dataclass(frozen=True)
class Stem:
    """filters: float32 [D, P, P, c], the patch embedding. positions: float32 [tokens, D], or None."""

    filters: np.ndarray
    positions: np.ndarray | None


def stem_of(weights: Mapping[str, np.ndarray]) -> Stem | None:
    """The stem among weights by timm's names, or None where there is no patch embedding among them."""
    if "patch_embed.proj.weight" not in weights:
        return None
    filters = np.asarray(weights["patch_embed.proj.weight"], np.float32).transpose(0, 2, 3, 1)
    rows = weights.get("pos_embed")
    return Stem(filters, None if rows is None else np.asarray(rows[0], np.float32))


def stem_in(model: torch.nn.Module) -> Stem | None:
    """A copy of a model's stem."""
    return stem_of({k: v.detach().cpu().numpy().copy() for k, v in model.state_dict().items()})


def fits(stem: Stem, spec: SchemeSpec) -> bool:
    """Whether the patches of a stem are made of whole blocks of the scheme's images."""
    _, patch, _, channels = stem.filters.shape
    return patch % spec.block == 0 and channels == spec.image_shape[2]


def units(filters: np.ndarray, spec: SchemeSpec) -> np.ndarray:
    """[D, P, P, c] → [units, weights]: the weights of every unit, in all blocks and sub-blocks of a patch."""
    blocks = to_blocks(filters, spec.block)  # [D, blocks in a patch, M², c]
    if spec.name == "value_shuffle":
        values = spec.block**2 * spec.image_shape[2]
        return blocks.reshape(-1, values).T
    quarters = blocks[:, :, quarter_pixels(spec.block)]  # [D, blocks, 4, S, c]
    return quarters.transpose(3, 0, 1, 2, 4).reshape(quarters.shape[3], -1)


def places_of(stem: Stem, count: int) -> np.ndarray | None:
    """[count, D] positions of `count` blocks; None where tokens are not blocks, or have no positions."""
    # Class and register tokens come first, where they have positions at all.
    rows = None if stem.positions is None else stem.positions[-count:]
    return rows if rows is not None and len(rows) == count else None


def learnt(first: np.ndarray, own: np.ndarray) -> np.ndarray:
    """float64, what a training added to weights of any shape, without the decay that shrank what it began with.

    Decay is a multiple of the first weights, and after a few steps of SGD it is nearly all of the change.
    """
    before = np.asarray(first, np.float64)
    change = own - before
    return change - before * ((change * before).sum() / max(float((before**2).sum()), 1e-300))


def alike(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """[m, F] and [k, F] → float64 [m, k]: cosines of their rows; 0 for rows of zeros."""
    one, other = (np.asarray(part, np.float64) for part in (first, second))
    one = one / np.maximum(np.linalg.norm(one, axis=1, keepdims=True), 1e-30)
    other = other / np.maximum(np.linalg.norm(other, axis=1, keepdims=True), 1e-30)
    return one @ other.T


def apart(rows: np.ndarray) -> np.ndarray:
    """[m, F] → float64 [m, m], symmetric: one less the cosine of every two rows, 0 on the diagonal."""
    distances = np.maximum(1.0 - alike(rows, rows), 0.0)
    np.fill_diagonal(distances, 0.0)
    return (distances + distances.T) / 2.0


def toned(rows: np.ndarray, power: float) -> np.ndarray:
    """[m, F] → float64 [m, k] with every principal strength raised to a power: a few strong ones drown the rest."""
    left, strength, _ = np.linalg.svd(np.asarray(rows, np.float64), full_matrices=False)
    return left * strength**power


def unfit(knowledge: Knowledge) -> str:
    """Why no stem of the training that was observed could show this pool's key, or nothing."""
    observed, spec = knowledge.observed, knowledge.pool.spec
    if observed is None:
        return "needs the plan of a training: no training was given"
    if load(spec).row_keys:
        return "every image has a key of its own"
    if spec.name not in (*SHUFFLES, "orthogonal"):
        return f"no way is known from a stem to a key of {spec.name}"
    theirs = observed.plan.describe()
    if (theirs.name, theirs.image_shape, theirs.block) != (spec.name, spec.image_shape, spec.block):
        return "the training was on images of another scheme, size or block"
    return ""
