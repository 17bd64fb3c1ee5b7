"""A key of block_pixel that opens pictures roughly, made exact in rounds.

With the values of every block nearly in place, two things can be done again, better than before:

1. all values of a block are assigned to its cells at once, by what surrounds each cell in the whole picture
   (values/surroundings.py);
2. what is left, with the insides of the blocks put right, is encryption-then-compression (etc.py): sharp sides show
   which blocks touch where rough ones did not, as at the border of a scan.

Each makes the other one easier, so that they are repeated as long as neighbouring pixels come nearer to each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coordinator.adversary.contract import Ciphertexts, Fit, Recovered
from coordinator.adversary.recover import etc
from coordinator.adversary.recover.half_opened import HalfOpened
from coordinator.adversary.sampling import evenly_spaced
from coordinator.adversary.time_budget import TimeLeft
from coordinator.adversary.values.constant_planes import constant_planes
from coordinator.adversary.values.surroundings import assign_by_surroundings
from coordinator.adversary.values.value_distances import LOG_DIFFERENCES
from crypto.arrays import BoolArray, Images, Int64Array, Parts, Rows, UInt8Array
from crypto.kernels.blocks import from_blocks, to_blocks
from crypto.kernels.executors import apply
from crypto.kernels.table import Table
from crypto.scheme import describe, load
from crypto.schemes.block_pixel import BlockPixel
from crypto.schemes.etc import Etc
from crypto.spec import SchemeSpec

#: Most rounds. On 100 brain scans of 64×64 the third still gained. Set once by hand; no measurement is recorded.
_ROUNDS = 5
#: A round that brings neighbouring pixels less than this share nearer is the last.
#: Set once by hand; no measurement is recorded.
_LEAST_GAIN = 0.0005
#: A puzzle that changes the distance of neighbouring pixels less than this is solved as before, perhaps turned whole.
_SAME = 1e-6
#: Images by which values are assigned and rounds are compared. Set once by hand; no measurement is recorded.
_IMAGES = 100


@dataclass(frozen=True)
class Insides:
    """What is known of the insides of N sealed blocks of V values.

    Attributes:
        places: int64 [N, V], the plain value that each sealed one is.
        flip: bool [N, V], the values that are negated.
        varies: bool [N, V], the values that vary in the pool.
    """

    places: Int64Array
    flip: BoolArray
    varies: BoolArray


@dataclass(frozen=True)
class Refined:
    """A key, and how well the puzzle that it comes from fits; no fit if it comes from none."""

    parts: Parts
    fits: tuple[Fit, ...]


def refine_in_rounds(pool: Ciphertexts, parts: Parts, time_left: TimeLeft) -> Refined:
    """Return a key of block_pixel that brings neighbouring pixels nearer, by steps 1 and 2, or the same one.

    Args:
        pool: Sealed images under one key, all of which are read, and more than once.
        parts: K1, K2 and mask, as found so far.
        time_left: Asked between steps. When it returns False, the best key so far is returned.
    """
    algorithm = load(pool.spec).algorithm
    assert isinstance(algorithm, BlockPixel)
    rows = np.arange(len(pool))
    sealed = pool.images(evenly_spaced(rows, _IMAGES))
    ranges = to_blocks(np.ptp(pool.images(rows), axis=0)[None], pool.spec.block)[0]
    varies = ranges.reshape(parts["K2"].shape) > 0
    candidates = (_assigned(sealed, pool.spec, parts, time_left), parts)
    steps = [_step_size(apply(algorithm.table(each).inverse(), sealed)) for each in candidates]
    best, apart = Refined(candidates[int(np.argmin(steps))], ()), min(steps)
    for _ in range(_ROUNDS):
        known = Insides(best.parts["K2"], best.parts["mask"].astype(bool), varies)
        solution = set_upright(pool, rows, known, time_left) if time_left() else None
        if solution is None:
            break
        upright = upright_parts(pool.spec, solution, known)
        moved = _step_size(apply(algorithm.table(upright).inverse(), sealed))
        if abs(moved - apart) < _SAME * apart:
            best = Refined(best.parts, solution.fits)
            break
        again = _assigned(sealed, pool.spec, upright, time_left)
        nearer = _step_size(apply(algorithm.table(again).inverse(), sealed))
        if nearer < apart:
            best = Refined(again, solution.fits)
        if nearer > apart * (1.0 - _LEAST_GAIN):
            break
        apart = nearer
    return best


def set_upright(pool: Ciphertexts, rows: Rows, insides: Insides, time_left: TimeLeft) -> Recovered | None:
    """Return the key of the encryption-then-compression that is left; None if nothing can be recovered of it."""
    solution = etc.recover(_half_opened(pool, insides), rows, time_left)
    return solution if solution is not None and solution.parts else None


def upright_parts(
    spec: SchemeSpec, solution: Recovered, insides: Insides
) -> dict[str, Int64Array | BoolArray]:
    """Return K1, K2 and mask of block_pixel, with every block as the solution sets it upright."""
    negative = solution.parts["negative"].astype(bool)[:, None]
    return {
        "K1": solution.parts["K1"],
        "K2": upright_places(spec, solution, insides),
        # Values that never vary stay dark, whatever the sign of their block.
        "mask": insides.flip ^ (negative & insides.varies),
    }


def upright_places(spec: SchemeSpec, solution: Recovered, insides: Insides) -> Int64Array:
    """Return the plain value that each sealed one is, with all blocks upright: int64 [N, V]."""
    puzzle = load(_left(spec)).algorithm
    assert isinstance(puzzle, Etc)
    inner = puzzle.table(solution.parts).inner  # [N, V]
    assert inner is not None
    return np.take_along_axis(inner, insides.places, 1)


def _left(spec: SchemeSpec) -> SchemeSpec:
    """Return the encryption-then-compression that is left once the insides of all blocks are right."""
    return describe("etc", spec.image_shape, spec.block)


def _half_opened(pool: Ciphertexts, insides: Insides) -> HalfOpened:
    """Return the pool with the values of every block put back, and colour planes that never vary in mid-gray."""
    left = _left(pool.spec)
    shape, block = left.image_shape, left.block
    mask = np.where(insides.flip, 255, 0).astype(np.uint8)
    opening = Table(shape, (block, block), None, insides.places, mask).inverse()
    planes = [constant_planes(each, block * block, shape[2]) for each in insides.varies]
    if not any(planes):
        return HalfOpened(pool, left, opening)
    # A constant plane, dark in all blocks, would otherwise say that all blocks have one sign.
    of_planes = ~insides.varies & (np.array(planes) > 0)[:, None]
    unsigned = apply(
        Table(shape, (block, block), None, insides.places).inverse(), _as_image(of_planes, left)[None]
    )[0]
    return HalfOpened(pool, left, opening, unsigned.astype(bool))


def _as_image(by_block: BoolArray, spec: SchemeSpec) -> UInt8Array:
    """Return values by block and place, bool [N, V], as an image uint8 [h, w, c] of 0 and 1."""
    height, width, channels = spec.image_shape
    blocks = by_block.astype(np.uint8).reshape(1, len(by_block), spec.block**2, channels)
    image: UInt8Array = from_blocks(blocks, height, width)[0]
    return image


def _assigned(sealed: Images, spec: SchemeSpec, parts: Parts, time_left: TimeLeft) -> Parts:
    """Return the key with all values assigned to the cells that suit what surrounds them, by step 1."""
    algorithm = load(spec).algorithm
    assert isinstance(algorithm, BlockPixel)
    opened = apply(algorithm.table(parts).inverse(), sealed)
    channels = spec.image_shape[2]
    component, places = parts["K2"] % channels, parts["K2"].copy()
    for c in range(channels):
        picture = np.ascontiguousarray(opened[..., c].transpose(1, 2, 0))
        moved = assign_by_surroundings(picture, spec.block, time_left)[parts["K1"]]  # by sealed block
        better = np.take_along_axis(moved, parts["K2"] // channels, 1) * channels + c
        places[component == c] = better[component == c]
    return {**parts, "K2": places}


def _step_size(opened: Images) -> float:
    """Return how far neighbouring pixels are apart, as the mean log(1 + |difference|) of uint8 [n, h, w, c]."""
    steps = [LOG_DIFFERENCES[np.abs(np.diff(opened.astype(np.int16), axis=axis))].mean() for axis in (1, 2)]
    return float(np.mean(steps))
