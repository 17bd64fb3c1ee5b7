"""The places of a block's values, from how alike those are in one block and across to the next.

All is by quadratic assignment: the places under which the measured likeness goes best with the one that usual
pictures have. What crosses to the block right and below tells the symmetries of a block apart.
"""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np
from scipy.optimize import linear_sum_assignment

from coordinator.adversary.time_budget import always
from crypto.schemes.pe import ORDERS

_WORK = 3_000_000_000  # multiply-adds of a search for places
_STARTS, _KICKS = 25, 12
#: Correlation of two pixels r apart, exp(-DECAY·r^POWER), and of two colours of a pixel, in usual pictures.
_DECAY, _POWER = 0.055, 0.9
_COLOURS = np.array([[1.0, 0.94, 0.84], [0.94, 1.0, 0.94], [0.84, 0.94, 1.0]])
_SWEEPS = 60
#: Of more values than this, places come from leading eigenvectors alone: swaps would take too long.
MOST_VALUES = 1024
#: Squared pixels that a colour counts for: red is as far from green as a pixel from its neighbour.
_COLOUR_STEP = 1.0


def usual_correlations(block: int, channels: int) -> np.ndarray:
    """float64 [3, V, V]: correlations of values of usual pictures, as for near_kernel."""
    apart, colour = _apart(block, channels)
    alike = _COLOURS[colour[:, None], colour] if channels == 3 else 1.0
    return np.exp(-_DECAY * apart ** (_POWER / 2)) * alike


def _apart(block: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """(float64 [3, V, V] squared pixels, int64 [V] channels) of a block's values, by (row, column, channel).

    In one block; from a block to the next one right; and to the one below.
    """
    values = np.arange(block * block * channels)
    row, column, colour = values // (block * channels), values // channels % block, values % channels
    squared = [
        (row + down - row[:, None]) ** 2 + (column + right - column[:, None]) ** 2
        for down, right in ((0, 0), (0, block), (block, 0))
    ]
    return np.stack(squared).astype(np.float64), colour


def near_kernel(block: int, channels: int) -> np.ndarray:
    """float64 [3, V, V]: exp(-r²/2) of two values r apart, in one block, and in it and the next one right, or below.

    A step from one channel to the next counts as one pixel.
    """
    apart, colour = _apart(block, channels)
    kernel = np.exp(-(apart + _COLOUR_STEP * np.abs(colour[:, None] - colour)) / 2.0)
    np.fill_diagonal(kernel[0], 0.0)
    return kernel


@numba.njit(cache=True, nogil=True, fastmath=True)
def _gain(found: np.ndarray, placed: np.ndarray, a: int, b: int) -> float:
    """Half of a swap's gain: the sum over the rows a and b."""
    gain = 0.0
    for k in range(found.shape[0]):
        gain += (found[a, k] - found[b, k]) * (placed[b, k] - placed[a, k])
    return gain


@numba.njit(cache=True, nogil=True)
def _swap_up(
    found: np.ndarray, across: np.ndarray, placed: np.ndarray, back: np.ndarray, places: np.ndarray
) -> bool:
    lags, size, _ = found.shape
    swapped = False
    for a in range(size):
        for b in range(a):
            gain = 0.0
            for m in range(lags):
                f, k = found[m], placed[m]
                gain += _gain(f, k, a, b) + _gain(across[m], back[m], a, b)
                # Where the swapped two meet themselves and each other, both sums are wrong.
                gain -= (f[a, a] - f[b, a]) * (k[b, a] - k[a, a]) + (f[a, b] - f[b, b]) * (
                    k[b, b] - k[a, b]
                )
                gain -= (f[a, a] - f[a, b]) * (k[a, b] - k[a, a]) + (f[b, a] - f[b, b]) * (
                    k[b, b] - k[b, a]
                )
                gain += (f[a, a] - f[b, b]) * (k[b, b] - k[a, a]) + (f[a, b] - f[b, a]) * (
                    k[b, a] - k[a, b]
                )
            if gain > 1e-9:
                places[a], places[b] = places[b], places[a]
                for m in range(lags):
                    for table in (placed[m], back[m]):
                        for k in range(size):
                            table[a, k], table[b, k] = table[b, k], table[a, k]
                        for k in range(size):
                            table[k, a], table[k, b] = table[k, b], table[k, a]
                swapped = True
    return swapped


def swap_up(
    found: np.ndarray,
    kernel: np.ndarray,
    places: np.ndarray,
    sweeps: int = _SWEEPS,
    time_left: Callable[[], bool] = always,
) -> None:
    """Passes over the pairs of int64 [V] places, swapped in place where that raises `likeness`, until none is."""
    # The kernel is kept in the order of the places: a swap's gain is then one pass over rows.
    found, placed = np.ascontiguousarray(found), np.ascontiguousarray(kernel[:, places[:, None], places])
    across, back = (np.ascontiguousarray(t.transpose(0, 2, 1)) for t in (found, placed))
    for _ in range(sweeps):
        if not _swap_up(found, across, placed, back, places) or not time_left():
            break


def likeness(found: np.ndarray, kernel: np.ndarray, places: np.ndarray) -> float:
    """sum found[m, a, b]·kernel[m, p_a, p_b] over both [3, V, V]: the more, the better the places fit."""
    return float((found * kernel[:, places[:, None], places]).sum())


def block_turns(block: int, channels: int) -> np.ndarray:
    """int64 [8 or 48, V]: the rotations and mirrors of a block's values, under every order of the colours."""
    cells = np.arange(block * block).reshape(block, block)
    turned = [np.rot90(face, k).ravel() for face in (cells, cells.T) for k in range(4)]
    orders = ORDERS if channels == 3 else np.zeros((1, 1), np.int64)
    return np.stack([(pixels[:, None] * channels + order).ravel() for order in orders for pixels in turned])


def place_values(
    found: np.ndarray,
    usual: np.ndarray,
    block: int,
    channels: int,
    time_left: Callable[[], bool] = always,
    starts: int = _STARTS,
    seed: int = 0,
) -> np.ndarray:
    """float64 [lags, V, V] correlations twice → int64 [V]: the value that each thing is, at the best fit met.

    After the common one, the leading eigenvectors of a block of usual pictures run across it, down it and
    through its colours. Starts take the measured ones for these, in any order and under any rotation.
    """
    turns = block_turns(block, channels)
    size = found.shape[1]
    values = np.arange(size)
    axes = [values // (block * channels), values // channels % block, values % channels]
    lattice = _standard(np.stack(axes[: 3 if channels == 3 else 2], 1).astype(np.float64))
    points = _standard(_coordinates(found[0], lattice.shape[1]))
    rng = np.random.default_rng(seed)
    best, best_value, met = values, -np.inf, 0
    for start in range(int(np.clip(_WORK // (60 * size**3), 1, starts))):
        turned = points @ _rotation(start, lattice.shape[1], rng)
        apart = ((turned[:, None] - lattice) ** 2).sum(-1)
        places, value = _climb(found, usual, turns, linear_sum_assignment(apart)[1], time_left)
        if value > best_value + 1e-9 * abs(value):
            best, best_value, met = places, value, 1
        else:
            met += value > best_value - 1e-9 * abs(value)
        if met >= 6 or not time_left():
            break
    return best


def _coordinates(within: np.ndarray, count: int) -> np.ndarray:
    """float64 [V, count]: the eigenvectors that follow the leading one, over it."""
    vectors = np.linalg.eigh(within)[1][:, ::-1]
    common = vectors[:, :1] if np.abs(vectors[:, 0]).min() > 1e-6 else np.ones((len(within), 1))
    return np.pad(vectors[:, 1 : 1 + count], ((0, 0), (0, max(0, 1 + count - len(within))))) / common


def _standard(points: np.ndarray) -> np.ndarray:
    centred: np.ndarray = points - points.mean(0)
    return centred / np.maximum(centred.std(0), 1e-9)


def _rotation(start: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """float64 [count, count]: at first one axis given to the colours, the others turned by steps; then any."""
    if start < 5 * (2 * count - 3):
        angle = np.pi / 10.0 * (start % 5)
        turn = np.eye(count)
        turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        return np.roll(np.eye(count), start // 5, 0) @ turn
    return np.linalg.qr(rng.normal(size=(count, count)))[0]


def improve_places(
    found: np.ndarray, block: int, channels: int, time_left: Callable[[], bool] = always
) -> np.ndarray:
    """float64 [3, V, V] nearness → int64 [V] places, improved from each value's own."""
    kernel, turns = near_kernel(block, channels), block_turns(block, channels)
    size = found.shape[1]
    rng = np.random.default_rng(0)
    best, best_value = _climb(found, kernel, turns, np.arange(size), time_left)
    for _ in range(int(np.clip(_WORK // (60 * size**3), 1, _KICKS))):
        if not time_left():
            break
        kicked = best.copy()
        few = rng.choice(size, min(size, 8), replace=False)
        kicked[few] = kicked[rng.permutation(few)]
        places, value = _climb(found, kernel, turns, kicked, time_left)
        if value > best_value + 1e-9 * abs(value):
            best, best_value = places, value
    return best


def _climb(
    found: np.ndarray,
    kernel: np.ndarray,
    turns: np.ndarray,
    places: np.ndarray,
    time_left: Callable[[], bool],
) -> tuple[np.ndarray, float]:
    """(places, likeness) after swaps of two and turns of the whole block, until neither helps.

    A layout that is right but for a mirror is many swaps from the truth.
    """
    turned, value = places.astype(np.int64), -np.inf
    while (now := likeness(found, kernel, turned)) > value + 1e-9 * abs(now):
        places = turned.copy()
        swap_up(found, kernel, places, _SWEEPS if len(places) <= MOST_VALUES else 0, time_left)
        value = likeness(found, kernel, places)
        turned = max((turn[places] for turn in turns), key=lambda p: likeness(found, kernel, p))
        if not time_left():
            break
    return places, value
