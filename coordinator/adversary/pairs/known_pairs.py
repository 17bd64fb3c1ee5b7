"""The key from known pairs of plain and sealed images under it (T3).

Source: textbook known-plaintext attacks on permutations; for matrices, least squares and Procrustes' problem.

Every scheme but `orthogonal` moves units (pixels, values, nibbles) and inverts some of them. A unit's
values in all pairs, or in many blocks under the same key too, are its signature, inverted where the first is bright,
so that it is the same wherever the unit goes and whether the key inverts it:

1. the order of the blocks: each block by the signatures of its units, sorted;
2. the order of the units in a block: by their signatures over the pairs, and over all blocks that the first step
   told apart where one order serves them all; the inversions show in the same comparison;
3. blocks that are alike in step 1 and differ in their arrangement, by the order found in step 2.

Blocks of `etc` are turned as a whole: each is tried in its 8 turns, 2 signs and 6 colour orders. `orthogonal` takes
as many independent blocks as a block has values; with fewer, what lies outside their span is left at mid-gray.
Units and blocks that are equal in all pairs are interchangeable: their order is a guess, and the note counts them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from coordinator.adversary.contract import Guess, Knowledge
from coordinator.adversary.pairs.unit_signatures import Layout, cut, layout_of, pair_up, rows_as_ids
from crypto.cipher import MatrixCipher
from crypto.errors import CipherwardError
from crypto.kernels.blocks import quarter_pixels, to_blocks
from crypto.kernels.executors import apply
from crypto.kernels.table import Table
from crypto.scheme import load
from crypto.schemes.etc import Etc, to_planes, turned_pixels
from crypto.schemes.pe import ORDERS
from crypto.spec import SchemeSpec

_RANK = 1e-4  # least singular value that counts, as a share of the largest


@dataclass(frozen=True)
class Found:
    """A key from pairs. table or matrix: what opens (float32 [V, V] for `orthogonal`). note: what stayed open."""

    table: Table | None
    matrix: np.ndarray | None
    parts: Mapping[str, np.ndarray]
    note: str


def attack(knowledge: Knowledge) -> Guess:
    """Opens the rows with the key found from `knowledge.known`; without pairs, hands back the sealed pictures.

    Raises CipherwardError for pairs of other shapes than the scheme's.
    """
    found = None
    if knowledge.known is None or not len(knowledge.known[0]):
        note = "needs known pairs"
    else:
        found, note = solve(knowledge.pool.spec, *knowledge.known)
    return opened(knowledge, found, note)


def opened(knowledge: Knowledge, found: Found | None, note: str) -> Guess:
    """Return the guess of an attack that found this key, or none."""
    rows, spec = np.asarray(knowledge.rows, np.int64), knowledge.pool.spec
    sealed, key = knowledge.pool.images(rows), None
    if found is not None and found.matrix is not None:
        images = MatrixCipher(spec.image_shape, spec.block, found.matrix).decrypt(sealed)
        key = {"matrix": found.matrix}
    elif found is not None and found.table is not None:
        images = load(spec).picture(apply(found.table, sealed))
        gather, mask = found.table.flattened()
        key = {"gather": gather, **({} if mask is None else {"mask": mask}), **found.parts}
    else:
        images = load(spec).picture(sealed)
    return Guess(images, key, note)


def solve(spec: SchemeSpec, plain: np.ndarray, sealed: np.ndarray) -> tuple[Found | None, str]:
    """(the key, what stayed open) from uint8 [m, *image_shape] and [m, *sealed_shape]; None with the reason."""
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
        return None, "every image has a key of its own: pairs say nothing of others"
    if spec.name == "orthogonal":
        found = _matrix(spec, plain, sealed)
    elif spec.name == "etc":
        found = _turned_blocks(spec, plain, sealed)
    else:
        found = _units(layout_of(spec), plain, sealed)
    return (
        (found, found.note) if found.table is not None or found.matrix is not None else (None, found.note)
    )


def _matrix(spec: SchemeSpec, plain: np.ndarray, sealed: np.ndarray) -> Found:
    """Least squares over the span of the plain blocks."""
    size = spec.block**2 * spec.image_shape[2]
    products = np.zeros((2, size, size))
    for i in range(0, len(plain), 16):
        x = to_blocks(plain[i : i + 16], spec.block).reshape(-1, size) - 127.5
        y = to_blocks(sealed[i : i + 16], spec.block).reshape(-1, size).astype(np.float64) - 127.5
        products += np.stack([x.T @ x, x.T @ y])
    values, axes = np.linalg.eigh(products[0])
    kept = values > _RANK**2 * values[-1]
    rank = int(kept.sum())
    inverse = (axes[:, kept] / values[kept]) @ axes[:, kept].T
    q = inverse @ products[1]  # on the span, and 0 outside it
    left, singular, right = np.linalg.svd(q)
    matrix = (left[:, :rank] @ right[:rank]).astype(np.float32)
    if singular[rank - 1] < 0.9 or singular[0] > 1.1:
        return Found(None, None, {}, "the pairs are not of one orthogonal matrix")
    note = "" if rank == size else f"{rank} of {size} directions of a block are known"
    return Found(None, matrix, {}, note)


def _units(layout: Layout, plain: np.ndarray, sealed: np.ndarray) -> Found:
    """Steps 1 to 3 for every scheme that moves units."""
    x, y = cut(layout, plain), cut(layout, sealed)  # [m, N, P, U]
    n, units = x.shape[1], x.shape[3]
    order, loose = np.arange(n), np.zeros(n, bool)
    if layout.moves_blocks:
        sides = [layout.upright(v.reshape(1, len(v), -1).transpose(0, 2, 1))[0][0] for v in (x, y)]
        sets = [np.sort(v.reshape(x.shape[1:]), axis=2).reshape(n, -1) for v in rows_as_ids(*sides)]
        order, loose, fits = _one_pairing(*rows_as_ids(*sets))
        if not fits:
            return Found(None, None, {}, "the pairs are not of one key")
    inner, mask, open_units = None, None, 0
    if units > 1 or layout.signed:
        told = ~loose if layout.shared and not loose.all() else np.ones(n, bool)
        samples = [v[:, b].transpose(3, 1, 0, 2) for v, b in ((x, order[told]), (y, told))]  # [U, N', m, P]
        if layout.shared:
            wide = [s.reshape(1, units, -1) for s in samples]
        else:
            wide = [s.transpose(1, 0, 2, 3).reshape(n, units, -1) for s in samples]
        (source, source_flips), (target, flips) = (layout.upright(w) for w in wide)
        ids = rows_as_ids(*(v.reshape(-1, v.shape[2]) for v in (source, target)))
        inner, loose_units, fits = pair_up(*(i.reshape(len(source), units) for i in ids))
        if not fits:
            unclear = layout.shared and loose.all()
            return Found(
                None,
                None,
                {},
                "no block is unlike all others" if unclear else "the pairs are not of one key",
            )
        open_units = int(loose_units.sum())
        if layout.signed:
            mask = np.take_along_axis(source_flips, inner, 1) ^ flips
    if layout.shared and inner is not None and loose.any():
        sets = [np.ascontiguousarray(v.transpose(1, 0, 2, 3)).reshape(n, -1) for v in (x[..., inner[0]], y)]
        again, still, fits = _one_pairing(*rows_as_ids(*sets))
        if fits:  # else two units were interchanged, and step 1's order stays
            order, loose = again, still
    notes = [f"{int(loose.sum())} of {n} blocks are equal to others"] if loose.any() else []
    if open_units:
        total = units if layout.shared else n * units
        notes.append(f"{open_units} of {total} units are equal to others")
    parts = {}
    if layout.shared and layout.moves_blocks and inner is not None:
        parts = {"K1": order, "K2": inner[0]}
    return Found(_table(layout, order, inner, mask), None, parts, "; ".join(notes))


def _one_pairing(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    order, loose, fits = pair_up(source[None], target[None])
    return order[0], loose[0], fits


def _table(layout: Layout, order: np.ndarray, inner: np.ndarray | None, mask: np.ndarray | None) -> Table:
    """The table that opens."""
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
    moved = order if layout.moves_blocks else None
    if layout.single:  # single values: groups of one unit, c to a pixel
        inner, flips = None, None if flips is None else flips.reshape(-1, layout.shape[2])
    return Table(layout.shape, block, moved, inner, flips, layout.unit).inverse()


def _turned_blocks(spec: SchemeSpec, plain: np.ndarray, sealed: np.ndarray) -> Found:
    """`etc`: each block by its folded values, then in all its states."""
    algorithm = Etc(spec)
    if spec.options["form"] == "gray":
        plain = to_planes(plain)
    x, y = (to_blocks(v, spec.block).transpose(1, 0, 2, 3) for v in (plain, sealed))  # [N, m, M², c]
    n, channels = len(x), x.shape[3]
    sets = [
        np.sort(np.minimum(v, 255 - v).reshape(n, len(plain), -1), axis=2).reshape(n, -1) for v in (x, y)
    ]
    ids = rows_as_ids(*sets)
    _, loose, fits = _one_pairing(*ids)
    if not fits:
        return Found(None, None, {}, "the pairs are not of one key")
    orders = ORDERS if channels == 3 else np.zeros((1, 1), np.int64)
    states = [(t, s, o) for t in range(8) for s in (0, 1) for o in range(len(orders))]
    cells = turned_pixels(spec.block)
    chosen, fitting = np.zeros(n, np.int64), np.zeros(n, np.int64)
    taken, key = np.zeros(n, bool), np.empty(n, np.int64)
    groups: dict[int, list[int]] = {}
    for b in range(n):
        groups.setdefault(int(ids[0][b]), []).append(b)
    for i in range(n):
        for b in groups[int(ids[1][i])]:  # plain blocks with these values
            if taken[b]:
                continue
            fit = [
                k
                for k, (t, s, o) in enumerate(states)
                if np.array_equal(x[b][:, cells[t]][..., orders[o]] ^ np.uint8(255 * s), y[i])
            ]
            if fit:
                key[i], chosen[i], fitting[i], taken[b] = b, fit[0], len(fit), True
                break
    if not taken.all():
        return Found(None, None, {}, "the pairs are not of one key")
    turn, sign, colours = (np.array([s[k] for s in states])[chosen] for k in range(3))
    parts = {"K1": key, "turn": turn, "negative": sign.astype(bool)}
    if channels == 3:
        parts["order"] = colours
    open_blocks = int(((fitting > 1) | loose).sum())
    note = f"{open_blocks} of {n} blocks are open in place or state" if open_blocks else ""
    return Found(algorithm.table(parts).inverse(), None, parts, note)
