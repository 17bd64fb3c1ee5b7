"""The weak-seed search (T1; T0 with one image): is this key one of the 2^32 that a small seed makes?

Source: our own. Re-implementations of block and pixel shuffling draw K1 and K2 by a library's generator from a seed
of at most 32 bits, whatever the formula's key space. For each generator of weak_generators.py, seed after seed: K1
orders the mean gray of the blocks to a thumbnail, whose neighbours differ less than those of any other order if
the seed is right. A seed counts as found where the difference is 8 standard deviations below that of random orders,
lower than 2^32 of those go. Pictures of few blocks need several images to get there. Both readings of a permutation
are tried: block i of the result is block K1[i], or goes to K1[i]. K2 is then read from the same seed, in sequence or
anew, whichever opens more smoothly.

A key of this program comes from the operating system's generator and has no seed: the search must fail on it, and
the note says how many seeds were tried and how long all would take.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numba
import numpy as np

from coordinator.adversary.contract import Ciphertexts, Guess, Knowledge
from coordinator.adversary.seeds.weak_generators import GENERATORS, Generator
from crypto.kernels.blocks import to_blocks
from crypto.kernels.executors import Table, apply
from crypto.scheme import load
from crypto.schemes.block_pixel_shuffle import BlockPixelShuffle

SEEDS = 1 << 32
#: Seeds that `attack` tries: those that people choose. All of them are a matter of hours, not of another method.
FIRST = 1 << 17
_CHUNK = 512  # seeds at a time
_IMAGES = 16  # images that a thumbnail's neighbours are compared in
_SIGMAS = 8.0
_LEAST_BLOCKS = 16


@dataclass(frozen=True)
class WeakKey:
    """A seed that explains the pool. generator: its name. parts: K1 and K2 in the scheme's own reading."""

    generator: str
    seed: int
    parts: dict[str, np.ndarray]


def attack(knowledge: Knowledge) -> Guess:
    """Opens the rows with the weak key, or hands back the sealed pictures. For block_pixel_shuffle only."""
    return search(knowledge, range(FIRST))


def search(knowledge: Knowledge, seeds: range) -> Guess:
    """The attack over these seeds (consecutive ones), within the budget, all generators in turn."""
    started = time.monotonic()
    pool, rows = knowledge.pool, np.asarray(knowledge.rows, np.int64)
    sealed, key = pool.images(rows), None
    images, note = load(pool.spec).picture(sealed), _missing(pool)
    idle = bool(note)
    if not idle:
        some = pool.images(np.asarray(knowledge.pool_rows, np.int64)[:_IMAGES])
        differ = differences(some, pool.spec.block)
        tried = 0
        weak = None
        low, spread = _usual(differ, pool.spec.grid[1])
        if not spread > 0:
            note = "nothing identifiable"
        while not note and weak is None and tried < len(seeds) and knowledge.budget.left() > 0:
            count = min(_CHUNK, len(seeds) - tried)
            for generator in GENERATORS:
                limit = low - _SIGMAS * spread
                weak = _try(generator, seeds[tried], count, differ, limit, pool, some)
                if weak is not None:
                    break
            tried += count
        spent = max(time.monotonic() - started, 1e-6)
        if weak is not None:
            note = f"weak seed {weak.seed} of {weak.generator}"
            table = BlockPixelShuffle(pool.spec).table(weak.parts).inverse()
            images, key = apply(table, sealed), {"gather": table.flattened()[0], **weak.parts}
        elif not note:
            hours = SEEDS / max(tried, 1) * spent / 3600
            note = f"no weak seed among the first {tried} of {len(seeds)} of each of {len(GENERATORS)} generators"
            note += f" ({tried / spent:.0f} a second; all 2^32: {hours:.0f} hours)" if tried else ""
            note += "; truncated: out of time" if tried < len(seeds) else ""
    return Guess(images, key, note, idle)


def _missing(pool: Ciphertexts) -> str:
    if pool.spec.name != "block_pixel_shuffle":
        return "for block_pixel_shuffle only"
    if pool.spec.key_scope == "image":
        return "every image has a key of its own"
    return "" if pool.spec.blocks >= _LEAST_BLOCKS else "too few blocks to tell a right seed"


def differences(images: np.ndarray, block: int) -> np.ndarray:
    """float32 [N, N]: how much the mean gray of two sealed blocks differs, summed over uint8 [n, h, w, c] images."""
    means = to_blocks(images, block).mean((2, 3), dtype=np.float64)  # [n, N]
    apart = np.abs(means[:, :, None] - means[:, None, :])
    # A saturating distance: the border of a dark shape shall not outweigh everything else.
    return (apart / (apart + 8.0)).sum(0).astype(np.float32)


def _usual(differ: np.ndarray, across: int) -> tuple[float, float]:
    """(mean, standard deviation) of the thumbnail's differences over random orders."""
    rng = np.random.default_rng(0)
    orders = np.stack([rng.permutation(len(differ)) for _ in range(1000)])
    sums = thumbnails(differ, orders, across)[:, 0]
    return float(sums.mean()), float(sums.std())


@numba.njit(cache=True, nogil=True)
def thumbnails(differ: np.ndarray, orders: np.ndarray, across: int) -> np.ndarray:
    """float64 [k, 2]: the differences of neighbours in a thumbnail `across` blocks wide, summed, where sealed block i
    stands at orders[k, i], and where place i holds sealed block orders[k, i]. orders: int64 [k, N]."""
    out = np.zeros((len(orders), 2))
    n = orders.shape[1]
    block = np.empty(n, np.int64)  # which sealed block stands at a place
    for k in range(len(orders)):
        for way in range(2):
            for i in range(n):
                if way == 0:
                    block[orders[k, i]] = i
                else:
                    block[i] = orders[k, i]
            total = 0.0
            for i in range(n):
                if i % across + 1 < across:
                    total += differ[block[i], block[i + 1]]
                if i + across < n:
                    total += differ[block[i], block[i + across]]
            out[k, way] = total
    return out


def _try(
    generator: Generator,
    first: int,
    count: int,
    differ: np.ndarray,
    limit: float,
    pool: Ciphertexts,
    some: np.ndarray,
) -> WeakKey | None:
    """The smoothest of these seeds, if it is below the limit."""
    spec = pool.spec
    pixels = (spec.block // 2) ** 2
    k1, _ = generator.draws(first, count, spec.blocks, 1)
    sums = thumbnails(differ, k1, spec.grid[1])
    best, way = np.unravel_index(int(sums.argmin()), sums.shape)
    if sums[best, way] > limit:
        return None
    seed = first + int(best)
    order = k1[best] if way == 0 else np.argsort(k1[best])
    in_turn, anew = (
        generator.draws(seed, 1, spec.blocks, pixels)[1][0],
        generator.draws(seed, 1, pixels, 1)[0][0],
    )
    keys = [{"K1": order, "K2": k} for d in (in_turn, anew) for k in (d, np.argsort(d))]
    smoothest = min(
        keys, key=lambda parts: _roughness(BlockPixelShuffle(spec).table(parts).inverse(), some)
    )
    return WeakKey(generator.name, seed, smoothest)


def _roughness(table: Table, some: np.ndarray) -> float:
    wide = apply(table, some).astype(np.int32)
    return float(np.abs(np.diff(wide, axis=1)).mean() + np.abs(np.diff(wide, axis=2)).mean())
