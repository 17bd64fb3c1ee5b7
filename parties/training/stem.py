"""Carry a Vision Transformer's stem into a key's coordinates, so that it reads sealed images, and back.

The stem is the patch embedding and the positions. Tokens are z0 = [cls; X·E] + Epos, where X [N, V] holds the
flattened blocks of an image. Its ciphertext is X̂ = Pb·X·Pp: Pb permutes blocks, and Pp permutes or rotates the values
of a block. With

    Ê = Ppᵀ·E     and rows 1…N of Epos permuted by Pb

the tokens are the same set in another order, and the encoder does not look at the order. The logits are those of the
plain model on the plain image, up to float rounding. The input is v / 127.5 - 1, which commutes with `orthogonal`,
whose centre is 127.5. Source: the model transform of Kiya 2022 (2207.05366) and Nagamori 2023 (2309.02556).

What it provides, and what it does not:

- SGD on the carried stem is SGD on the plain stem, step by step. The same holds for AdamW if the map permutes, but
  not under `orthogonal`. All gradients of the encoder are equal too. Updates therefore protect nothing that plain
  federated learning would not protect.
- A carried stem and the plain stem together reveal the key. The stem is therefore carried back before it is sent or
  stored. Under `orthogonal` this is not enough for AdamW, whose steps are signs in the key's coordinates: carried
  back, they show the matrix. Plans refuse that combination.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from coordinator.model.shares import in_stem
from crypto.arrays import AnyArray, Float32Array, Int64Array, Parts
from crypto.errors import CipherwardError, unknown
from crypto.key import SecretKey
from crypto.scheme import load
from crypto.schemes.block_pixel_shuffle import BlockPixelShuffle
from crypto.schemes.value_shuffle import ValueShuffle
from crypto.sets.dataset import SealedDataset
from crypto.spec import SchemeSpec
from parties.sealing.place import Place

#: The stem's weights, float32, by their names in the model's state.
Stem = Mapping[str, Float32Array]


@dataclass(frozen=True, repr=False)  # as secret as the key that it comes from
class Coordinates:
    """Where a key moves blocks, and the values inside a block.

    Blocks are in row-major order, values in (row, column, channel) order.

    Attributes:
        order: int64 [N], block i of the ciphertext is plain block order[i]. None: blocks stay.
        values: int64 [V], value k of a sealed block is value values[k] of the plain block. None: values stay.
        matrix: float32 [V, V], orthogonal: sealed block = plain block @ matrix. None: values are permuted or stay.
    """

    order: Int64Array | None = None
    values: Int64Array | None = None
    matrix: Float32Array | None = None


def _block_pixel_shuffle(spec: SchemeSpec, parts: Parts) -> Coordinates:
    pixels = BlockPixelShuffle(spec).table(parts).inner
    assert pixels is not None
    channels = spec.image_shape[2]
    return Coordinates(parts["K1"], (pixels[0][:, None] * channels + np.arange(channels)).ravel())


def _value_shuffle(spec: SchemeSpec, parts: Parts) -> Coordinates:
    table = ValueShuffle(spec).table(parts)
    assert table.inner is not None
    return Coordinates(table.order, table.inner[0])


def _orthogonal(_spec: SchemeSpec, parts: Parts) -> Coordinates:
    return Coordinates(matrix=parts["matrix"])


def _plain(_spec: SchemeSpec, _parts: Parts) -> Coordinates:
    return Coordinates()


#: How to read a key's coordinates, for the schemes whose stem can be carried.
COORDINATES: dict[str, Callable[[SchemeSpec, Parts], Coordinates]] = {
    "block_pixel_shuffle": _block_pixel_shuffle,
    "value_shuffle": _value_shuffle,
    "orthogonal": _orthogonal,
    "plain": _plain,
}


def key_coordinates(spec: SchemeSpec, key: SecretKey) -> Coordinates:
    """Return the coordinates of a key.

    Raises:
        CipherwardError: if the scheme, or the key scope, has no coordinates that are the same for all images.
    """
    if spec.name not in COORDINATES:
        raise unknown("scheme whose stem can be carried", spec.name, COORDINATES)
    scheme = load(spec)
    if scheme.row_keys:
        raise CipherwardError(
            "a stem cannot be carried if every image has its own key",
            "set stem: learn in the plan, or key_scope: consortium or party",
        )
    return COORDINATES[spec.name](spec, scheme.parts(key))


def hospital_coordinates(place: Place, sealed: SealedDataset) -> Coordinates:
    """Open the hospital's key and return its coordinates. Raise CipherwardError if it did not seal this set."""
    key = place.key()
    sealed.require_key(key)
    return key_coordinates(sealed.spec, key)


def carry(model: nn.Module, to: Coordinates) -> None:
    """Carry the model's stem into a key's coordinates, in place, so that it reads images sealed under that key."""
    _transform_stem(model, to, back=False)


def carry_back(model: nn.Module, of: Coordinates) -> None:
    """Undo `carry`, in place, so that the stem reads plain images."""
    _transform_stem(model, of, back=True)


@torch.no_grad()
def _transform_stem(model: nn.Module, coordinates: Coordinates, back: bool) -> None:
    """Apply coordinates, or their inverse, to patch embedding and positions."""
    state: dict[str, torch.Tensor] = model.state_dict()
    values = coordinates.values if coordinates.matrix is None else coordinates.matrix
    if values is not None:
        weight = state["patch_embed.proj.weight"]  # [D, c, P, P]
        channels_last = weight.permute(0, 2, 3, 1)  # [D, P, P, c]
        flat = channels_last.reshape(len(weight), -1)  # [D, V]
        _require_length("values in a patch", flat.shape[1], values)
        if coordinates.matrix is not None:
            matrix = torch.from_numpy(values.T if back else values)
            # In float64, so that only the result is rounded.
            flat = (flat.double() @ matrix.double()).to(weight.dtype)
        else:
            flat = flat[:, np.argsort(values) if back else values]
        weight.copy_(flat.reshape(channels_last.shape).permute(0, 3, 1, 2))
    if coordinates.order is not None and "pos_embed" in state:
        # Class and register tokens come first, if they have positions at all.
        positions = state["pos_embed"][0]
        embedding: Any = model.patch_embed
        blocks = positions[len(positions) - embedding.num_patches :]
        _require_length("patches", len(blocks), coordinates.order)
        blocks.copy_(blocks[np.argsort(coordinates.order) if back else coordinates.order])


def _require_length(what: str, length: int, part: AnyArray) -> None:
    """Raise CipherwardError if a part of the coordinates does not have the model's length."""
    if len(part) != length:
        raise CipherwardError(
            f"the model has {length} {what}, the key's coordinates {len(part)}: the stem cannot be carried",
            "the ViT's patch must be the scheme's block, and its input the sealed image",
        )


def copy_stem(model: nn.Module) -> Stem:
    """Return copies of the stem's weights."""
    return {k: v.detach().numpy().copy() for k, v in model.state_dict().items() if in_stem(k)}


@torch.no_grad()
def replace_stem(model: nn.Module, stem: Stem) -> None:
    """Replace the stem's weights in place. Raise CipherwardError if they belong to another model."""
    weights = {k: v for k, v in model.state_dict().items() if in_stem(k)}
    if {k: tuple(v.shape) for k, v in weights.items()} != {k: v.shape for k, v in stem.items()}:
        raise CipherwardError(
            "the hospital's own stem belongs to another model",
            "name the study's own model and plan; its stems are in HOSPITAL/private/stems",
        )
    for name, value in weights.items():
        value.copy_(torch.from_numpy(stem[name]))
