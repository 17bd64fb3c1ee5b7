"""Moment matching for `block_projection`: every place has a matrix of its own, and blocks change places (T2).

Rows of a block are y = x·R + noise, with one orthogonal R for a place, or one for all. Half of the noise's range is
taken off, and its variance is taken off second moments:

1. places: row_places.py, where the scheme shuffles blocks;
2. matrices: R of a place turns the public mean rows there into the sealed ones, the products of its rows with
   themselves and with the next row, and those with the blocks beside, above and below, whose matrices turn their
   other side. Each step solves the orthogonal Procrustes problem that is linear in one place's R, the others fixed;
3. the fit is how well the images to guess agree across the borders of blocks once they are opened
   (border_agreement.py). No step has seen these images;
4. what is opened still bears the noise: wiener.py takes off what public images allow to.

A uniform R is no rotation, and keeps no length: its pools are first whitened place by place, and so are public
images. Then 1 to 3 hold for a rotation between whitened rows. Under noise, whitening leaves it in weak directions.

Source: our own, after moment_matching.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from coordinator.adversary.contract import Fit, Guess, Knowledge
from coordinator.adversary.opened import RecoveredProjection, open_rows
from coordinator.adversary.recover.border_agreement import border_agreement
from coordinator.adversary.recover.pool_reading import image_chunks, random_order
from coordinator.adversary.recover.row_places import find_places
from coordinator.adversary.recover.wiener import WienerFilter
from coordinator.adversary.time_budget import TimeLeft
from crypto.arrays import AnyArray, Float64Array, Images, Rows
from crypto.kernels.blocks import from_blocks, to_blocks
from crypto.projection_cipher import ProjectionCipher
from crypto.scheme import load
from crypto.schemes.block_projection import BlockProjection
from crypto.spec import SchemeSpec

#: Most images on either side. Set once; not tuned further.
_IMAGES = 600
#: Steps over all places. Set once; not tuned further.
_STEPS = 40
#: Most blocks whose places are sought.
_MOST_BLOCKS = 1024
#: Weight of the products with the next row. Set once; not tuned further.
_NEXT_ROW = 0.5
#: Images that the fit is read from, at most and at least: where fewer are to be guessed, pool images complete them.
#: Set once.
_FIT_IMAGES, _LEAST_FIT_IMAGES = 64, 16
#: Least fit to be believed: at most 5 % of wrong keys reach it, in 200 attacks of which half had public images that
#: tell nothing (benchmarks/projection_fit.py; the fits of wrong and right keys: docs/results/50-projection-fit.json).
LEAST_FIT = 0.73
_FIT = "agreement across the borders of blocks, in images that no step has seen"
#: Smallest eigenvalue in whitening, as a share of the largest.
_SMALLEST = 1e-4


@dataclass(frozen=True)
class RowMoments:
    """Moments of the rows of blocks, float64. Products are summed over rows and averaged over images.

    Attributes:
        means: [N, M, W], the mean rows of each place.
        itself: [N, W, W], of rows with themselves.
        next_row: [N, W, W], of rows with the next one.
        right: [down, across - 1, W, W], of blocks with their right neighbours.
        below: [down - 1, across, W, W], of blocks with those below.
    """

    means: Float64Array
    itself: Float64Array
    next_row: Float64Array
    right: Float64Array
    below: Float64Array


def attack(knowledge: Knowledge) -> Guess:
    """Open the rows to guess with the places and matrices that public images suggest."""
    spec = knowledge.pool.spec
    algorithm = load(spec).algorithm
    assert isinstance(algorithm, BlockProjection)
    if algorithm.moves_blocks and spec.blocks > _MOST_BLOCKS:
        note = f"not sought: {spec.blocks} blocks, at most {_MOST_BLOCKS}"
        return open_rows(knowledge, None, note, idle=True)
    rows = random_order(np.asarray(knowledge.pool_rows, np.int64))[:_IMAGES]
    half = algorithm.noise / 2
    sealed = np.concatenate([rows_of(images, spec) - half for images in image_chunks(knowledge.pool, rows)])
    plain = np.asarray(knowledge.public)
    public = rows_of(plain[random_order(np.arange(len(plain)))[:_IMAGES]], spec)
    if not sealed.any() or not public.any():
        return open_rows(knowledge, None, "nothing identifiable", idle=True)
    key = recover(sealed, public, algorithm, knowledge.budget.time_left)
    note = "" if knowledge.budget.time_left() else "truncated: out of time"
    cipher = ProjectionCipher(spec.image_shape, spec.block, key.matrices.astype(np.float64), key.order)
    fit = _fit(knowledge, rows, cipher, key, algorithm)
    return open_with(knowledge, replace(key, fits=(Fit(fit, LEAST_FIT, _FIT),)), algorithm, note)


def open_with(
    knowledge: Knowledge, key: RecoveredProjection, algorithm: BlockProjection, note: str = ""
) -> Guess:
    """Return the guess that a key makes of the rows to guess: opened, and filtered where the scheme adds noise."""
    guess = open_rows(knowledge, key, note)
    return replace(guess, images=_without_noise(knowledge, key, algorithm)) if algorithm.noise else guess


def rows_of(images: AnyArray, spec: SchemeSpec) -> Float64Array:
    """Return the rows of the blocks of images [n, h, w, c], float64 [n, N, M, W]."""
    blocks = to_blocks(images, spec.block).astype(np.float64)
    return blocks.reshape(*blocks.shape[:2], spec.block, -1)


def recover(
    sealed: Float64Array, public: Float64Array, algorithm: BlockProjection, time_left: TimeLeft
) -> RecoveredProjection:
    """Recover places and matrices.

    Args:
        sealed: Rows of the pool's blocks, half of the noise's range taken off, float64 [n, N, M, W].
        public: Rows of public images' blocks, float64 [m, N, M, W].
        algorithm: The scheme.
        time_left: Asked between steps.
    """
    grid, variance = algorithm.spec.grid, algorithm.noise_sigma_of_values**2
    before, after = _whiteners(public, 0.0), _whiteners(sealed, variance)
    if algorithm.is_orthogonal:
        before = after = np.broadcast_to(np.eye(sealed.shape[3]), before.shape)
    else:
        sealed, public = sealed @ after, public @ before
    noise = variance * np.einsum("pij,pij->p", after, after)  # of a row's squared length
    places = np.arange(algorithm.spec.blocks)
    if algorithm.moves_blocks:
        places = find_places(_lengths(sealed, noise), _lengths(public, 0 * noise), grid)
    in_place = np.empty_like(sealed)
    in_place[:, places] = sealed
    placed = np.empty_like(after)
    placed[places] = after
    here, there = row_moments(in_place, grid), row_moments(public, grid)
    weights = np.einsum("pji,pjk->pik", placed, placed) * variance * sealed.shape[2]
    here = RowMoments(here.means, here.itself - weights, *list(vars(here).values())[2:])
    turns = match(here, there, grid, algorithm.count == 1, time_left)
    matrices = before @ turns @ np.linalg.inv(placed)
    return RecoveredProjection(matrices.astype(np.float32), places, algorithm.noise / 2)


def _whiteners(rows: Float64Array, variance: float) -> Float64Array:
    """Return for every place the matrix that makes the products of its rows the identity, float64 [N, W, W]."""
    count = len(rows) * rows.shape[2]
    second = np.einsum("npri,nprj->pij", rows, rows, optimize=True) / count
    values, axes = np.linalg.eigh(second)
    least = np.maximum(_SMALLEST * values[:, -1:], 1e-9) + variance
    return np.asarray((axes / np.sqrt(np.maximum(values, least))[:, None]) @ axes.transpose(0, 2, 1))


def _lengths(rows: Float64Array, noise: Float64Array) -> Float64Array:
    """Return the length of rows per value, without the noise's part, float64 [n, N, M]."""
    squares = (rows**2).sum(3) - noise[:, None]
    return np.asarray(np.sqrt(np.maximum(squares, 0.0) / rows.shape[3]))


def row_moments(rows: Float64Array, grid: tuple[int, int]) -> RowMoments:
    """Return the moments of rows [n, N, M, W] of blocks on a grid."""

    def products(first: Float64Array, second: Float64Array) -> Float64Array:
        return np.asarray(np.einsum("n...ri,n...rj->...ij", first, second, optimize=True) / len(rows))

    on_grid = rows.reshape(len(rows), *grid, *rows.shape[2:])
    return RowMoments(
        means=rows.mean(0),
        itself=products(rows, rows),
        next_row=products(rows[:, :, :-1], rows[:, :, 1:]),
        right=products(on_grid[:, :, :-1], on_grid[:, :, 1:]),
        below=products(on_grid[:, :-1], on_grid[:, 1:]),
    )


def match(
    sealed: RowMoments, plain: RowMoments, grid: tuple[int, int], is_shared: bool, time_left: TimeLeft
) -> Float64Array:
    """Return the rotations on which the moments agree best, float64 [N, W, W], with sealed row = plain row · R."""
    here, there = _unit(sealed), _unit(plain)
    means = np.einsum("pri,prj->pij", there.means, here.means)
    turns = _nearest_rotations(means, is_shared)
    for _ in range(_STEPS):
        if not time_left():
            break
        pull = _unit_of(means) + 2 * there.itself @ turns @ here.itself
        pull += _NEXT_ROW * there.next_row @ turns @ here.next_row.transpose(0, 2, 1)
        pull += _NEXT_ROW * there.next_row.transpose(0, 2, 1) @ turns @ here.next_row
        on_grid = turns.reshape(*grid, *turns.shape[1:])
        sides = np.zeros_like(on_grid)
        sides[:, :-1] += there.right @ on_grid[:, 1:] @ here.right.transpose(0, 1, 3, 2)
        sides[:, 1:] += there.right.transpose(0, 1, 3, 2) @ on_grid[:, :-1] @ here.right
        sides[:-1] += there.below @ on_grid[1:] @ here.below.transpose(0, 1, 3, 2)
        sides[1:] += there.below.transpose(0, 1, 3, 2) @ on_grid[:-1] @ here.below
        turns = _nearest_rotations(pull + sides.reshape(turns.shape), is_shared)
    return turns


def _nearest_rotations(pulls: Float64Array, is_shared: bool) -> Float64Array:
    """Return the orthogonal matrices nearest to [N, W, W]; one for all of them if it is shared."""
    if is_shared:
        pulls = np.broadcast_to(pulls.sum(0), pulls.shape)
    left, _, right = np.linalg.svd(pulls)
    return np.asarray(left @ right)


def _unit_of(part: Float64Array) -> Float64Array:
    """Return matrices [..., i, j], each of norm 1 (or 0)."""
    norms = np.linalg.norm(part, axis=(-2, -1), keepdims=True)
    return np.asarray(part / np.maximum(norms, 1e-12))


def _unit(moments: RowMoments) -> RowMoments:
    return RowMoments(*(_unit_of(part) for part in vars(moments).values()))


def _fit(
    knowledge: Knowledge,
    pool_rows: Rows,
    cipher: ProjectionCipher,
    key: RecoveredProjection,
    algorithm: BlockProjection,
) -> float:
    """Return how well opened images agree across borders, without the noise's part."""
    spec, half = algorithm.spec, np.float32(algorithm.noise / 2)
    rows = np.asarray(knowledge.rows, np.int64)[:_FIT_IMAGES]
    if len(rows) < _LEAST_FIT_IMAGES:
        rows = np.unique(np.concatenate([rows, pool_rows[: _LEAST_FIT_IMAGES - len(rows)]]))
    if len(rows) < 2:
        return 0.0  # nothing varies
    opened = cipher.opened(knowledge.pool.images(rows) - half)
    # The noise of a sealed row becomes the row times the inverse matrix of the place that it is opened at.
    inverses = np.linalg.inv(key.matrices.astype(np.float64))
    in_row = (inverses**2).sum(1) * algorithm.noise_sigma_of_values**2  # [N, M·c]
    height, width, channels = spec.image_shape
    in_block = np.repeat(in_row[None, :, None], spec.block, 2).reshape(1, len(in_row), -1, channels)
    noise = from_blocks(in_block, height, width)[0]
    return border_agreement(opened, spec.block, noise)


def _without_noise(knowledge: Knowledge, key: RecoveredProjection, algorithm: BlockProjection) -> Images:
    """Return the rows to guess, opened with a key and filtered, uint8 [r, h, w, c]."""
    spec, rows = knowledge.pool.spec, np.asarray(knowledge.rows, np.int64)
    public = np.asarray(knowledge.public)
    noise_filter = WienerFilter(public, algorithm.noise_sigma_of_values)
    cipher = ProjectionCipher(spec.image_shape, spec.block, key.matrices.astype(np.float64), key.order)
    opened = [np.zeros((0, *spec.image_shape), np.uint8)]
    for images in image_chunks(knowledge.pool, rows):
        opened.append(noise_filter.apply(cipher.opened(images - np.float32(key.offset)).astype(np.float32)))
    return np.concatenate(opened)
