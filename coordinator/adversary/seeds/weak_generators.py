"""The keys that a small seed makes: the generators of published re-implementations, fast enough to try all seeds.

Source: MT19937 as Matsumoto and Nishimura published it (2002); the shuffles of NumPy's RandomState.permutation and
Python's random.Random.shuffle, followed step by step. NumPy's default_rng is called as it is, which is slower. Tests
compare every generator with the library's own permutations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from crypto.arrays import Int64Array

#: From (first, count, blocks, pixels): two permutations int64 [count, blocks] and [count, pixels], drawn in turn from
#: each of the seeds `first` to `first + count - 1`.
Draws = Callable[[int, int, int, int], tuple[Int64Array, Int64Array]]
_State = NDArray[np.uint32]

#: Words of MT19937's state. Also the other numbers below are the algorithm's own.
_WORDS = 624


@dataclass(frozen=True)
class Generator:
    """A way to draw K1 and K2 from a seed.

    Attributes:
        name: As it is written in programs.
        draws: Draws the permutations.
    """

    name: str
    draws: Draws


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator] # numba has no types
def _seed(state: _State, seed: np.uint32) -> None:
    """Fill the state from a seed (`init_genrand`)."""
    state[0] = seed
    for i in range(1, _WORDS):
        before = state[i - 1]
        state[i] = np.uint32(1812433253) * (before ^ (before >> np.uint32(30))) + np.uint32(i)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator] # numba has no types
def _seed_by_array(state: _State, seed: np.uint32) -> None:
    """Fill the state from the array [seed] (`init_by_array`), as Python does for seeds of 32 bits."""
    _seed(state, np.uint32(19650218))
    i = 1
    for _ in range(_WORDS):
        before = state[i - 1]
        state[i] = (state[i] ^ ((before ^ (before >> np.uint32(30))) * np.uint32(1664525))) + seed
        i += 1
        if i == _WORDS:
            state[0] = state[_WORDS - 1]
            i = 1
    for _ in range(_WORDS - 1):
        before = state[i - 1]
        mixed = state[i] ^ ((before ^ (before >> np.uint32(30))) * np.uint32(1566083941))
        state[i] = mixed - np.uint32(i)
        i += 1
        if i == _WORDS:
            state[0] = state[_WORDS - 1]
            i = 1
    state[0] = np.uint32(0x80000000)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator] # numba has no types
def _word(state: _State, at: int) -> np.uint32:
    """Return the next word. `at` counts words. The state is renewed one word at a time, as words are drawn."""
    i = at % _WORDS
    j = i + 1 if i + 1 < _WORDS else 0
    m = i + 397 if i + 397 < _WORDS else i + 397 - _WORDS
    mixed = (state[i] & np.uint32(0x80000000)) | (state[j] & np.uint32(0x7FFFFFFF))
    odd = np.uint32(0x9908B0DF) if mixed & np.uint32(1) else np.uint32(0)
    word = state[m] ^ (mixed >> np.uint32(1)) ^ odd
    state[i] = word
    word ^= word >> np.uint32(11)
    word ^= (word << np.uint32(7)) & np.uint32(0x9D2C5680)
    word ^= (word << np.uint32(15)) & np.uint32(0xEFC60000)
    tempered: np.uint32 = word ^ (word >> np.uint32(18))
    return tempered


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator] # numba has no types
def _shuffle(state: _State, at: int, order: Int64Array, high: bool) -> int:
    """Fill a permutation by Fisher and Yates, from the end, and return the number of words drawn so far.

    A number up to i is the low bits of a word (NumPy) or, with `high`, the high bits of one for i + 1 (Python). It is
    drawn again while it is too large.
    """
    for i in range(len(order)):
        order[i] = i
    for i in range(len(order) - 1, 0, -1):
        bits = 0
        reach = i + 1 if high else i
        while reach >> bits:
            bits += 1
        while True:
            word = np.int64(_word(state, at))
            at += 1
            j = word >> (32 - bits) if high else word & ((1 << bits) - 1)
            if j <= i:
                break
        order[i], order[j] = order[j], order[i]
    return at


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator] # numba has no types
def _twister(
    first: int, count: int, blocks: int, pixels: int, python: bool
) -> tuple[Int64Array, Int64Array]:
    """Draw two permutations from each seed, as Python or as NumPy's RandomState does."""
    state = np.empty(_WORDS, np.uint32)
    k1, k2 = np.empty((count, blocks), np.int64), np.empty((count, pixels), np.int64)
    for s in range(count):
        if python:
            _seed_by_array(state, np.uint32(first + s))
        else:
            _seed(state, np.uint32(first + s))
        at = _shuffle(state, 0, k1[s], python)
        _shuffle(state, at, k2[s], python)
    return k1, k2


def _random_state(first: int, count: int, blocks: int, pixels: int) -> tuple[Int64Array, Int64Array]:
    """Draw as NumPy's RandomState does."""
    drawn: tuple[Int64Array, Int64Array] = _twister(first, count, blocks, pixels, False)
    return drawn


def _python(first: int, count: int, blocks: int, pixels: int) -> tuple[Int64Array, Int64Array]:
    """Draw as Python's random.Random does."""
    drawn: tuple[Int64Array, Int64Array] = _twister(first, count, blocks, pixels, True)
    return drawn


def _default_rng(first: int, count: int, blocks: int, pixels: int) -> tuple[Int64Array, Int64Array]:
    """Draw as NumPy's default_rng does."""
    k1, k2 = np.empty((count, blocks), np.int64), np.empty((count, pixels), np.int64)
    for s in range(count):
        rng = np.random.default_rng(first + s)
        k1[s], k2[s] = rng.permutation(blocks), rng.permutation(pixels)
    return k1, k2


GENERATORS = (
    Generator("numpy.random.RandomState", _random_state),
    Generator("random.Random", _python),
    Generator("numpy.random.default_rng", _default_rng),
)
