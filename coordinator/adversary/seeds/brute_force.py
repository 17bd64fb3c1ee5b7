"""The weak-seed search (T1; T0 with one image): is this key one of the 2^32 that a small seed makes?

Source: our own. Re-implementations of block and pixel shuffling draw K1 and K2 with a library's generator from a seed
of at most 32 bits, whatever the formula's key space. The search goes through the seeds of each generator in
weak_generators.py.

For every seed, K1 orders the mean gray values of the blocks to a thumbnail. If the seed is right, the thumbnail's
neighbours differ less than under any other order. A seed is accepted if the difference is 8 standard deviations below
that of random orders, which is lower than 2^32 random orders reach. Pictures of few blocks need several images to get
there. Both readings of a permutation are tried: block i of the result is block K1[i], or goes to K1[i]. K2 is then
drawn from the same seed, after K1 or from a new start, whichever opens the images more smoothly.

A key of this program comes from the operating system's generator and has no seed. The search must fail on it, and the
note says how many seeds were tried and how long all of them would take.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numba
import numpy as np

from coordinator.adversary.contract import Ciphertexts, Guess, Knowledge, Recovered
from coordinator.adversary.opened import open_rows
from coordinator.adversary.seeds.weak_generators import GENERATORS, Generator
from crypto.arrays import AnyArray, Float32Array, Float64Array, Images, Int64Array
from crypto.kernels.blocks import to_blocks
from crypto.kernels.executors import apply
from crypto.kernels.table import Table
from crypto.schemes.block_pixel_shuffle import BlockPixelShuffle

SEEDS = 1 << 32
#: Seeds that `attack` tries: those that people choose. All 2^32 take hours by the same method.
FIRST_SEEDS = 1 << 17
#: Seeds tried between two looks at the clock. It does not change the result.
_CHUNK = 512
#: Most images in which a thumbnail's neighbours are compared. Set once; not tuned further.
_IMAGES = 16
#: Standard deviations below random orders at which a seed is accepted: lower than 2^32 random orders reach.
_SIGMAS = 8.0
#: Random orders that give the mean and the standard deviation. Set once; not tuned further.
_RANDOM_ORDERS = 1000
#: With fewer blocks, the thumbnail cannot tell a right seed. Set once; not tuned further.
_LEAST_BLOCKS = 16
#: Gray levels at which a difference counts half, the same as in puzzle/distances.py.
_HALF_DIFFERENCE = 8.0


@dataclass(frozen=True)
class WeakKey:
    """A seed that explains the pool.

    Attributes:
        generator: The generator's name.
        seed: The seed.
        parts: K1 and K2 in the scheme's own reading.
    """

    generator: str
    seed: int
    parts: Mapping[str, Int64Array]


def attack(knowledge: Knowledge) -> Guess:
    """Open the rows to guess with a weak key. For block_pixel_shuffle only; otherwise they stay sealed."""
    return search(knowledge, range(FIRST_SEEDS))


def search(knowledge: Knowledge, seeds: range) -> Guess:
    """Run the attack over these consecutive seeds, all generators in turn, within the budget."""
    started = time.monotonic()
    pool = knowledge.pool
    note = _reason_not_to_run(pool)
    if note:
        return open_rows(knowledge, None, note, idle=True)
    images = pool.images(np.asarray(knowledge.pool_rows, np.int64)[:_IMAGES])
    costs = block_differences(images, pool.spec.block)
    mean, deviation = _random_thumbnails(costs, pool.spec.grid[1])
    if not deviation > 0:
        return open_rows(knowledge, None, "nothing identifiable", idle=True)
    limit = mean - _SIGMAS * deviation
    tried = 0
    while tried < len(seeds) and knowledge.budget.time_left():
        count = min(_CHUNK, len(seeds) - tried)
        for generator in GENERATORS:
            weak = _try_seeds(generator, seeds[tried], count, costs, limit, pool, images)
            if weak is not None:
                table = BlockPixelShuffle(pool.spec).table(weak.parts).inverse()
                note = f"weak seed {weak.seed} of {weak.generator}"
                return open_rows(knowledge, Recovered(table, weak.parts, ()), note)
        tried += count
    return open_rows(knowledge, None, _failure_note(tried, len(seeds), time.monotonic() - started))


def _reason_not_to_run(pool: Ciphertexts) -> str:
    """Return what is in the way of the attack, or ""."""
    if pool.spec.name != "block_pixel_shuffle":
        return "for block_pixel_shuffle only"
    if pool.spec.key_scope == "image":
        return "every image has a key of its own"
    return "" if pool.spec.blocks >= _LEAST_BLOCKS else "too few blocks to tell a right seed"


def _failure_note(tried: int, total: int, seconds: float) -> str:
    """Return the note of a search that found no seed: how many were tried, and how long all would take."""
    seconds = max(seconds, 1e-6)
    hours = SEEDS / max(tried, 1) * seconds / 3600
    note = f"no weak seed among the first {tried} of {total} of each of {len(GENERATORS)} generators"
    note += f" ({tried / seconds:.0f} a second; all 2^32: {hours:.0f} hours)" if tried else ""
    return note + ("; truncated: out of time" if tried < total else "")


def block_differences(images: Images, block: int) -> Float32Array:
    """Return float32 [N, N]: how much the mean gray of two sealed blocks differs, summed over uint8 [n, h, w, c]."""
    means = to_blocks(images, block).mean((2, 3), dtype=np.float64)  # [n, N]
    apart = np.abs(means[:, :, None] - means[:, None, :])
    # The distance saturates, so that the border of a dark shape does not outweigh everything else.
    saturated: Float32Array = (apart / (apart + _HALF_DIFFERENCE)).sum(0).astype(np.float32)
    return saturated


def _random_thumbnails(costs: Float32Array, across: int) -> tuple[float, float]:
    """Return the mean and the standard deviation of the thumbnail's differences over random orders."""
    rng = np.random.default_rng(0)
    orders = np.stack([rng.permutation(len(costs)) for _ in range(_RANDOM_ORDERS)])
    sums = thumbnail_costs(costs, orders, across)[:, 0]
    return float(sums.mean()), float(sums.std())


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator] # numba has no types
def thumbnail_costs(costs: Float32Array, orders: Int64Array, across: int) -> Float64Array:
    """Return the summed differences of neighbours in thumbnails, under both readings of a permutation.

    Args:
        costs: float32 [N, N], the difference of every two sealed blocks.
        orders: int64 [k, N], permutations.
        across: The width of a thumbnail in blocks.

    Returns:
        float64 [k, 2]. In column 0, sealed block i is at place orders[k, i]. In column 1, place i holds sealed block
        orders[k, i].
    """
    out = np.zeros((len(orders), 2))
    n = orders.shape[1]
    block = np.empty(n, np.int64)  # the sealed block at each place
    for k in range(len(orders)):
        for reading in range(2):
            for i in range(n):
                if reading == 0:
                    block[orders[k, i]] = i
                else:
                    block[i] = orders[k, i]
            total = 0.0
            for i in range(n):
                if i % across + 1 < across:
                    total += costs[block[i], block[i + 1]]
                if i + across < n:
                    total += costs[block[i], block[i + across]]
            out[k, reading] = total
    return out


def _try_seeds(
    generator: Generator,
    first: int,
    count: int,
    costs: Float32Array,
    limit: float,
    pool: Ciphertexts,
    images: Images,
) -> WeakKey | None:
    """Return the key of the seed with the smoothest thumbnail, or None if that is not below the limit."""
    spec = pool.spec
    pixels = (spec.block // 2) ** 2
    k1, _ = generator.draws(first, count, spec.blocks, 1)
    sums = thumbnail_costs(costs, k1, spec.grid[1])
    best, reading = np.unravel_index(int(sums.argmin()), sums.shape)
    if sums[best, reading] > limit:
        return None
    seed = first + int(best)
    order = k1[best] if reading == 0 else np.argsort(k1[best])
    after_k1 = generator.draws(seed, 1, spec.blocks, pixels)[1][0]
    from_new_start = generator.draws(seed, 1, pixels, 1)[0][0]
    keys = [
        {"K1": order, "K2": k2} for draw in (after_k1, from_new_start) for k2 in (draw, np.argsort(draw))
    ]
    algorithm = BlockPixelShuffle(spec)
    smoothest = min(keys, key=lambda parts: _roughness(algorithm.table(parts).inverse(), images))
    return WeakKey(generator.name, seed, smoothest)


def _roughness(table: Table, images: Images) -> float:
    """Return how much neighbouring pixels of images opened with a table differ on average."""
    opened: AnyArray = apply(table, images).astype(np.int32)
    return float(np.abs(np.diff(opened, axis=1)).mean() + np.abs(np.diff(opened, axis=2)).mean())
