"""The units that a scheme moves, and how units are paired by what a key leaves unchanged in them.

Source: our own. Which units a scheme moves is one of its public facts (crypto/unit_layout.py).
"""

from __future__ import annotations

import numpy as np

from crypto.arrays import AnyArray, BoolArray, Images, Int32Array, Int64Array
from crypto.errors import CipherwardError
from crypto.kernels.blocks import quarter_pixels, to_blocks
from crypto.scheme import load
from crypto.spec import SchemeSpec
from crypto.unit_layout import UnitLayout


def layout_of(spec: SchemeSpec) -> UnitLayout:
    """Return the layout of a scheme.

    Raises:
        CipherwardError: If the scheme is no table of units.
    """
    layout = load(spec).unit_layout
    if layout is None:
        raise CipherwardError(
            f"{spec.name} is no table of units",
            "choose another attack: cipherward-coordinator attack --list says which schemes each one is for",
        )
    return layout


def fold_signatures(layout: UnitLayout, signatures: Int32Array) -> tuple[Int32Array, BoolArray]:
    """Invert every unit whose first value is bright, so that its signature does not depend on the key's inversion.

    Args:
        layout: What the scheme moves. Nothing is inverted if the scheme inverts nothing.
        signatures: [g, u, s], the s values of each of u units in each of g groups.

    Returns:
        The signatures, and bool [g, u], which units were inverted.
    """
    flips: BoolArray = signatures[..., 0] > layout.top // 2
    if not layout.signed:
        return signatures, np.zeros_like(flips)
    return np.where(flips[..., None], layout.top - signatures, signatures), flips


def split_units(layout: UnitLayout, images: Images) -> Int32Array:
    """Split images uint8 [m, h, w, c] into units, int32 [m, N, P, U].

    N is the number of blocks. P is 4 if units stay in their sub-blocks, else 1. U is the number of units in each.
    """
    m, channels = len(images), images.shape[3]
    if layout.single:
        return images.reshape(m, -1, 1, 1).astype(np.int32)
    blocks = to_blocks(images, layout.block).astype(np.int32)  # [m, N, M², c]
    units: Int32Array
    if layout.unit == "pixel":
        units = blocks @ (256 ** np.arange(channels, dtype=np.int32))
    else:
        units = blocks.reshape(m, blocks.shape[1], -1)
    if layout.unit == "nibble":
        units = np.concatenate([units & 15, units >> 4], 2)
    split: Int32Array = units[:, :, quarter_pixels(layout.block)] if layout.quarters else units[:, :, None]
    return split


def rows_as_ids(source: AnyArray, target: AnyArray) -> tuple[Int64Array, Int64Array]:
    """Return two int64 [k] for two [k, s]: equal numbers for equal rows."""
    both = np.ascontiguousarray(np.concatenate([source, target]))
    rows = both.view(np.dtype((np.void, both.dtype.itemsize * both.shape[1]))).ravel()
    ids = np.unique(rows, return_inverse=True)[1].reshape(-1)
    return ids[: len(source)], ids[len(source) :]


def pair_up(source: Int64Array, target: Int64Array) -> tuple[Int64Array, BoolArray, bool]:
    """Pair equal things in two lists of groups. Things that are equal in a group are paired in their order.

    Args:
        source: int64 [g, u], numbers of things.
        target: int64 [g, u], numbers of the same things in another order.

    Returns:
        gather int64 [g, u]: target j of a group is source gather[j], a permutation;
        ambiguous bool [g, u]: the targets that have equals in their group;
        whether both sides hold the same things.
    """
    first, second = (np.argsort(v, axis=1, kind="stable") for v in (source, target))
    ordered = np.take_along_axis(target, second, 1)
    is_match = bool((np.take_along_axis(source, first, 1) == ordered).all())
    gather = np.empty_like(first)
    np.put_along_axis(gather, second, first, 1)
    has_equal = np.zeros(ordered.shape, bool)
    equal = ordered[:, 1:] == ordered[:, :-1]
    has_equal[:, 1:] |= equal
    has_equal[:, :-1] |= equal
    ambiguous = np.empty_like(has_equal)
    np.put_along_axis(ambiguous, second, has_equal, 1)
    return gather, ambiguous, is_match
