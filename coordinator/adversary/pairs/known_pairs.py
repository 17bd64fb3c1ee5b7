"""The key from known pairs of plain and sealed images under it (T3): known-plaintext attacks.

Source: textbook known-plaintext attacks on permutations; for matrices, least squares and Procrustes' problem.

Every scheme but `orthogonal` moves units (pixels, values, nibbles) and inverts some of them. A unit's signature is
the list of its values in all pairs, and in all blocks if they share a key. The signature is inverted if its first
value is bright. It is then the same wherever the unit goes, and whether or not the key inverts it:

1. the order of the blocks: each block is recognised by the signatures of its units, sorted;
2. the order of the units in a block: by their signatures over the pairs and, if one order serves all blocks, over all
   blocks that the first step told apart; the inversions show in the same comparison;
3. blocks that are alike in step 1 and differ in their arrangement, by the order found in step 2.

Blocks of `etc` are turned as a whole (turned_blocks.py), those of `block_projection` multiplied (projections.py), and
those of `neuracrypt` are opened without a key (token_regression.py).
`orthogonal` takes as many independent blocks as a block has
values. With fewer, what lies outside their span is left at mid-gray. Units and blocks that are equal in all pairs are
interchangeable: their order is a guess, and the note counts them.
"""

from __future__ import annotations

import numpy as np

from coordinator.adversary.contract import Guess, Knowledge, Recovered
from coordinator.adversary.opened import Key, RecoveredLevels, RecoveredMatrix, RecoveredStream, open_rows
from coordinator.adversary.pairs import token_regression
from coordinator.adversary.pairs.projections import solve_projection
from coordinator.adversary.pairs.turned_blocks import solve_turned_blocks
from coordinator.adversary.pairs.unit_signatures import (
    fold_signatures,
    layout_of,
    pair_up,
    rows_as_ids,
    split_units,
)
from crypto.arrays import AnyArray, BoolArray, Images, Int32Array, Int64Array
from crypto.errors import CipherwardError
from crypto.kernels.blocks import quarter_pixels, to_blocks
from crypto.kernels.table import Table
from crypto.scheme import load
from crypto.spec import SchemeSpec
from crypto.unit_layout import UnitLayout

#: Smallest singular value of the blocks that counts, as a share of the largest. Set once; not tuned further.
_RANK = 1e-4
#: Range of the singular values of a matrix that counts as orthogonal. Set once; not tuned further.
_ORTHOGONAL = (0.9, 1.1)
#: Images whose blocks are multiplied at a time, which bounds memory.
_CHUNK = 16
#: Gray levels of a byte.
_LEVELS = 256
_NOT_ONE_KEY = "the pairs are not of one key"

#: A key from pairs, or None, and what stayed open or why there is no key.
Solution = tuple[Key | None, str]


def attack(knowledge: Knowledge) -> Guess:
    """Open the rows to guess with the key recovered from `knowledge.known`.

    Without pairs, the guess is the ciphertext's picture.

    Raises:
        CipherwardError: If the pairs have other shapes or dtypes than the scheme's.
    """
    if knowledge.known is None or not len(knowledge.known[0]):
        return open_rows(knowledge, None, "needs known pairs", idle=True)
    key, note = solve(knowledge.pool.spec, *knowledge.known)
    if knowledge.pool.spec.name == "neuracrypt" and not load(knowledge.pool.spec).row_keys:
        return token_regression.attack(knowledge)
    return open_rows(knowledge, key, note, idle=load(knowledge.pool.spec).row_keys)


def solve_keystream(plain: Images, sealed: Images) -> list[Key]:
    """Recover the one keystream of all images, XORed or added modulo 256: every one that gives these pairs.

    One pair always has two, and nothing confirms that either is right. Pairs of different images have one or none,
    but for a stream of 0 and 128 alone, where XOR is addition.

    Args:
        plain: uint8 [m, h, w, c].
        sealed: uint8 [m, h, w, c], the same images under the key.
    """
    keys: list[Key] = []
    xored, added = plain ^ sealed, sealed - plain
    if (xored == xored[0]).all():
        values = np.arange(xored[0].size)
        keys.append(Recovered(Table.flat(plain.shape[1:], values, xored[0].ravel()), {}, ()))
    if (added == added[0]).all():
        keys.append(RecoveredStream(added[0]))
    return keys


def solve_substitution(plain: Images, sealed: Images) -> RecoveredLevels | None:
    """Recover the substitution of gray levels of each colour that gives these pairs; None if there is none.

    Levels that no pair has are left in mid-gray. Where all colours agree, they share what each of them has.

    Args:
        plain: uint8 [m, h, w, c].
        sealed: uint8 [m, h, w, c], the same images under the key.
    """
    channels = plain.shape[3]
    counts = np.zeros((channels, _LEVELS, _LEVELS), bool)  # by colour, sealed and plain level
    for c in range(channels):
        counts[c, sealed[..., c].ravel(), plain[..., c].ravel()] = True
    together: BoolArray = np.asarray(counts.any(0))
    if _is_substitution(together):
        counts = np.broadcast_to(together, counts.shape)
    elif not all(_is_substitution(each) for each in counts):
        return None
    return RecoveredLevels(np.where(counts.any(2), counts.argmax(2), _LEVELS // 2).astype(np.uint8))


def _is_substitution(has: BoolArray) -> bool:
    """Return whether no sealed level stands for two plain ones, nor the other way round: bool [sealed, plain]."""
    return bool((has.sum(0) <= 1).all() and (has.sum(1) <= 1).all())


def solve(spec: SchemeSpec, plain: Images, sealed: AnyArray) -> Solution:
    """Recover the key from pairs.

    Args:
        spec: The scheme.
        plain: uint8 [m, *image_shape].
        sealed: [m, *sealed_shape], the same images under the key.

    Raises:
        CipherwardError: If the pairs have other shapes or dtypes than the scheme's.
    """
    scheme = load(spec)
    shapes = (len(plain), *spec.image_shape), (len(plain), *scheme.sealed_shape)
    if (
        (plain.shape, sealed.shape) != shapes
        or plain.dtype != np.uint8
        or sealed.dtype != scheme.sealed_dtype
    ):
        raise CipherwardError(
            f"pairs of {plain.dtype} {list(plain.shape)} and {sealed.dtype} {list(sealed.shape)} "
            f"are not of {spec.name}",
            f"plain images are uint8 {list(shapes[0])}, sealed ones {scheme.sealed_dtype} {list(shapes[1])}",
        )
    if scheme.row_keys:
        return None, "every image has a key of its own: pairs say nothing about others"
    if spec.name in ("orthogonal", "noisy_orthogonal"):
        return _solve_matrix(spec, plain, sealed)
    if spec.name == "block_projection":
        return solve_projection(spec, plain, sealed)
    if not scheme.is_invertible:
        return None, f"no key opens {spec.name}"
    if spec.name == "etc":
        recovered = solve_turned_blocks(spec, plain, sealed)
        return (None, _NOT_ONE_KEY) if recovered is None else (recovered, "; ".join(recovered.notes))
    layout = layout_of(spec)
    return _UnitSolver(layout, split_units(layout, plain), split_units(layout, sealed)).solve()


def _solve_matrix(spec: SchemeSpec, plain: Images, sealed: AnyArray) -> Solution:
    """Recover the matrix by least squares over the span of the plain blocks; under noise, the nearest rotation."""
    size = spec.block**2 * spec.image_shape[2]
    products = np.zeros((2, size, size))
    for i in range(0, len(plain), _CHUNK):
        x = to_blocks(plain[i : i + _CHUNK], spec.block).reshape(-1, size) - 127.5
        y = to_blocks(sealed[i : i + _CHUNK], spec.block).reshape(-1, size).astype(np.float64) - 127.5
        products += np.stack([x.T @ x, x.T @ y])
    values, axes = np.linalg.eigh(products[0])
    spanned = values > _RANK**2 * values[-1]
    rank = int(spanned.sum())
    inverse = (axes[:, spanned] / values[spanned]) @ axes[:, spanned].T
    if load(spec).noise_sigma:
        # Least squares would weigh the noise of weak directions up. The rotation that fits best is Procrustes'.
        left, _, right = np.linalg.svd(products[1])
        fitting = (left[:, :rank] @ right[:rank]).astype(np.float32)
        return RecoveredMatrix(fitting), "the images keep their noise"
    q = inverse @ products[1]  # on the span, and 0 outside it
    left, singular, right = np.linalg.svd(q)
    matrix = (left[:, :rank] @ right[:rank]).astype(np.float32)
    if singular[rank - 1] < _ORTHOGONAL[0] or singular[0] > _ORTHOGONAL[1]:
        return None, "the pairs are not of one orthogonal matrix"
    note = "" if rank == size else f"{rank} of {size} directions of a block are known"
    return RecoveredMatrix(matrix), note


class _UnitSolver:
    """Steps 1 to 3 for a scheme that moves units.

    Attributes:
        layout: What the scheme moves.
        plain: int32 [m, N, P, U], the units of the plain images (`split_units`).
        sealed: The same of the sealed images.
        order: int64 [N], the plain block that each sealed block is.
        ambiguous: bool [N], the sealed blocks that equal others.
        inner: None, or int64 [1 or N, U], the plain unit that each sealed unit is.
        mask: None, or bool [1 or N, U], which sealed units are inverted.
        open_units: How many units equal others.
    """

    def __init__(self, layout: UnitLayout, plain: Int32Array, sealed: Int32Array) -> None:
        self.layout, self.plain, self.sealed = layout, plain, sealed
        blocks = plain.shape[1]
        self.order: Int64Array = np.arange(blocks)
        self.ambiguous: BoolArray = np.zeros(blocks, bool)
        self.inner: Int64Array | None = None
        self.mask: BoolArray | None = None
        self.open_units = 0

    def solve(self) -> Solution:
        """Return the key and what stayed open, or None and the reason."""
        layout = self.layout
        blocks, units = self.plain.shape[1], self.plain.shape[3]
        if layout.moves_blocks and not self._order_blocks():
            return None, _NOT_ONE_KEY
        if (units > 1 or layout.signed) and not self._order_units():
            is_unclear = layout.shared and bool(self.ambiguous.all())
            return None, "no block is unlike all others" if is_unclear else _NOT_ONE_KEY
        if layout.shared and self.inner is not None and self.ambiguous.any():
            self._order_alike_blocks(self.inner)
        notes = []
        if self.ambiguous.any():
            notes.append(f"{int(self.ambiguous.sum())} of {blocks} blocks are equal to others")
        if self.open_units:
            total = units if layout.shared else blocks * units
            notes.append(f"{self.open_units} of {total} units are equal to others")
        parts = {}
        if layout.shared and layout.moves_blocks and self.inner is not None:
            parts = {"K1": self.order, "K2": self.inner[0]}
        table = _opening_table(layout, self.order, self.inner, self.mask)
        return Recovered(table, parts, tuple(notes)), "; ".join(notes)

    def _order_blocks(self) -> bool:
        """Step 1. Return whether both sides hold the same blocks."""
        shape, blocks = self.plain.shape[1:], self.plain.shape[1]
        folded = [
            fold_signatures(self.layout, v.reshape(1, len(v), -1).transpose(0, 2, 1))[0][0]
            for v in (self.plain, self.sealed)
        ]
        sets = [np.sort(v.reshape(shape), axis=2).reshape(blocks, -1) for v in rows_as_ids(*folded)]
        self.order, self.ambiguous, is_match = pair_blocks(*rows_as_ids(*sets))
        return is_match

    def _order_units(self) -> bool:
        """Step 2. Return whether both sides hold the same units."""
        layout, blocks, units = self.layout, self.plain.shape[1], self.plain.shape[3]
        used = np.ones(blocks, bool)
        if layout.shared and not self.ambiguous.all():
            used = ~self.ambiguous
        samples = [
            v[:, b].transpose(3, 1, 0, 2)  # [U, N', m, P]
            for v, b in ((self.plain, self.order[used]), (self.sealed, used))
        ]
        if layout.shared:
            signatures = [s.reshape(1, units, -1) for s in samples]
        else:
            signatures = [s.transpose(1, 0, 2, 3).reshape(blocks, units, -1) for s in samples]
        (source, source_flips), (target, flips) = (fold_signatures(layout, s) for s in signatures)
        source_ids, target_ids = rows_as_ids(*(v.reshape(-1, v.shape[2]) for v in (source, target)))
        inner, ambiguous, is_match = pair_up(
            source_ids.reshape(len(source), units), target_ids.reshape(len(source), units)
        )
        if not is_match:
            return False
        self.inner, self.open_units = inner, int(ambiguous.sum())
        if layout.signed:
            self.mask = np.take_along_axis(source_flips, inner, 1) ^ flips
        return True

    def _order_alike_blocks(self, inner: Int64Array) -> None:
        """Step 3. Two units may have been interchanged; the order of step 1 then stays."""
        blocks = self.plain.shape[1]
        sets = [
            np.ascontiguousarray(v.transpose(1, 0, 2, 3)).reshape(blocks, -1)
            for v in (self.plain[..., inner[0]], self.sealed)
        ]
        order, ambiguous, is_match = pair_blocks(*rows_as_ids(*sets))
        if is_match:
            self.order, self.ambiguous = order, ambiguous


def pair_blocks(source: Int64Array, target: Int64Array) -> tuple[Int64Array, BoolArray, bool]:
    """Return what `pair_up` returns for one group, int64 [N] twice."""
    order, ambiguous, is_match = pair_up(source[None], target[None])
    return order[0], ambiguous[0], is_match


def _opening_table(
    layout: UnitLayout, order: Int64Array, inner: Int64Array | None, mask: BoolArray | None
) -> Table:
    """Return the table that opens, from the orders and inversions that seal."""
    if inner is not None and layout.quarters:
        quarters = quarter_pixels(layout.block)
        within = np.empty(layout.block**2, np.int64)
        within[quarters] = quarters[:, inner[0]]
        inner = within[None]
    flips = None
    if mask is not None:
        flips = mask.astype(np.uint8) * np.uint8(layout.top)
        if layout.unit == "nibble":
            low, high = np.split(flips, 2, axis=1)
            flips = low | high << 4
    block = (layout.block, layout.block)
    block_order = order if layout.moves_blocks else None
    if layout.single:  # single values: groups of one unit, c to a pixel
        inner, flips = None, None if flips is None else flips.reshape(-1, layout.shape[2])
    return Table(layout.shape, block, block_order, inner, flips, layout.unit).inverse()
