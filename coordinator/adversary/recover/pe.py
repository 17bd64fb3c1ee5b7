"""Key recovery from a pool under one pixel-based encryption (T1; T0 with one image).

Source: our own. The key flips the sign of every value about mid-gray, and may reorder the colours of a pixel, but
every value stays in its pixel. Neighbours are alike in the plain images, so over a pool they show:

1. for two values near each other, whether they are more alike as they are or with one flipped, and by how much;
2. all flips from these relations (synchronise.py), up to one for the whole picture;
3. with colour_shuffle, the same for the six colour orders of two neighbouring pixels, once the flips are undone.

What no ciphertext tells is chosen by what pictures usually are: the flip for all that makes the pool darker, and
of the colours, green is the one most like the two others and red is brighter than blue. With one image all
relations agree with each other, and the result is that of the leading-bit attack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numba
import numpy as np

from coordinator.adversary.contract import Ciphertexts, Recovered
from coordinator.adversary.values.group_synchronisation import PERMUTATIONS, SIGNS, grid_edges, synchronise
from crypto.schemes.pe import ORDERS, Pe

_CHUNK = 32  # images held at a time
_COMPARED = 600_000_000  # most pairs of values compared
_PROBED = 64  # images that decide what the relations leave open
#: Neighbours whose distances from mid-gray differ by more than this share of those of any two tell nothing.
_UNLIKE = 0.9


def recover(pool: Ciphertexts, seen: np.ndarray, time_left: Callable[[], bool]) -> Recovered | None:
    """negative bool [h, w, c] and, with colour_shuffle, order int64 [h, w], from int64 [n] rows.

    None where neighbours are no more alike than any two values. `more` says whether to go on.
    """
    height, width, channels = shape = pool.spec.image_shape
    shuffled = bool(pool.spec.options["colour_shuffle"])
    notes: list[str] = []
    i, j = grid_edges(height, width, channels, mixed=shuffled)
    limit = max(4, _COMPARED // max(1, len(i)))
    rows = _spaced(seen, limit)
    if len(rows) < len(seen):
        notes.append(f"from {len(rows)} of {len(seen)} images")
    probe = _values(pool, rows[: _PROBED if height * width <= 1 << 18 else 4])
    if not alike(probe, i, j):
        return None
    signs = _signs(pool, rows, np.arange(len(probe)), (i, j), time_left)
    parts: dict[str, np.ndarray] = {}
    order = None
    if shuffled:
        order = _colours(pool, rows, signs, time_left)
        # Once it is known which colour stands where, the flips can be had from like colours alone.
        place = colour_places(order)
        signs[place] = _signs(pool, rows, place, grid_edges(height, width, 3, mixed=False), time_left)
        order = _colours(pool, rows, signs, time_left)
    opened = (probe - np.float32(127.5)) * signs[:, None]  # [h·w·c, r]
    if opened.mean() > 0:
        signs, opened = -signs, -opened
    negative = (signs < 0).reshape(shape)
    if order is not None:
        usual = usual_order(opened[colour_places(order)].reshape(height * width, 3, -1))
        order = PERMUTATIONS.times[order, usual].reshape(height, width)
        parts["order"] = PERMUTATIONS.inverse[order]
        negative = np.take_along_axis(negative, ORDERS[order], 2)
    parts["negative"] = negative
    if not time_left():
        notes.append("truncated: out of time")
    return Recovered(Pe(pool.spec).table(parts).inverse(), parts, tuple(notes))


def _signs(
    pool: Ciphertexts,
    rows: np.ndarray,
    place: np.ndarray,
    edges: tuple[np.ndarray, np.ndarray],
    time_left: Callable[[], bool],
) -> np.ndarray:
    """float32 [P] of 1 and -1: the signs of the values at int64 [P] places, between which the edges run."""
    costs = np.zeros((len(edges[0]), 2), np.float32)
    for values in _chunks(pool, rows, time_left):
        add_sign_costs(values, place[edges[0]], place[edges[1]], costs)
    flips = synchronise(*edges, costs, len(place), SIGNS, time_left)
    return np.where(flips == 1, -1.0, 1.0).astype(np.float32)


def _colours(
    pool: Ciphertexts, rows: np.ndarray, signs: np.ndarray, time_left: Callable[[], bool]
) -> np.ndarray:
    """int64 [h·w] into ORDERS: at which component of each sealed pixel three colours stand, in any order."""
    height, width, _ = pool.spec.image_shape
    i, j = grid_edges(height, width, 1, mixed=False)
    pairs = np.zeros((len(i), 3, 3), np.float32)
    for values in _chunks(pool, rows, time_left):
        add_colour_costs(values.reshape(-1, 3, values.shape[1]), signs.reshape(-1, 3), i, j, pairs)
    return synchronise(i, j, relation_costs(pairs), height * width, PERMUTATIONS, time_left)


def colour_places(order: np.ndarray) -> np.ndarray:
    """int64 [h·w] into ORDERS → int64 [h·w·3]: the flat place of every pixel's three colours."""
    return (np.arange(len(order))[:, None] * 3 + ORDERS[order]).ravel()


def relation_costs(pairs: np.ndarray) -> np.ndarray:
    """float32 [E, 3, 3] → [E, 6]: what it costs that component a goes on as component ORDERS[k, a]."""
    return np.stack([pairs[:, np.arange(3), order].sum(1) for order in ORDERS], 1)


def usual_order(opened: np.ndarray) -> int:
    """float [m, 3, r] → the row of ORDERS that names red, green and blue among the three.

    Green is most like the two others, and red is the brighter of those.
    """
    colours = opened.transpose(1, 0, 2).reshape(3, -1)
    varied = colours.std(1) > 0
    likeness = np.corrcoef(colours).sum(0) if varied.all() else np.zeros(3)
    green = int(likeness.argmax())
    red, blue = sorted({0, 1, 2} - {green}, key=lambda k: -colours[k].mean())
    return int(np.flatnonzero((np.array([red, green, blue]) == ORDERS).all(1))[0])


def alike(values: np.ndarray, i: np.ndarray, j: np.ndarray) -> bool:
    """Whether neighbours are more alike in their distance from mid-gray, which no flip changes, than any two.

    values: uint8 [P, n]. A pool of constant images is: all its differences are nought.
    """
    some = _spaced(np.arange(len(i)), 20_000)
    folded = np.abs(values.astype(np.float32) - 127.5)
    near = np.abs(folded[i[some]] - folded[j[some]]).mean()
    any_two = np.random.default_rng(0).integers(0, len(values), (2, len(some)))
    far = np.abs(folded[any_two[0]] - folded[any_two[1]]).mean()
    return bool(near < _UNLIKE * far or far == 0)


#: A difference of d grey levels counts d^0.8: else the border of one bright shape outweighs many others.
_WEIGHTS = np.arange(256, dtype=np.float32) ** np.float32(0.8)


def add_sign_costs(values: np.ndarray, i: np.ndarray, j: np.ndarray, costs: np.ndarray) -> None:
    """uint8 [P, n]; adds to float32 [E, 2] how much the edges' values differ as they are, and with one flipped."""
    _add_sign_costs(values, i, j, _WEIGHTS, costs)


@numba.njit(cache=True, nogil=True)
def _add_sign_costs(
    values: np.ndarray, i: np.ndarray, j: np.ndarray, weights: np.ndarray, costs: np.ndarray
) -> None:
    for e in range(len(i)):
        same, other = np.float32(0.0), np.float32(0.0)
        for k in range(values.shape[1]):
            a, b = np.int32(values[i[e], k]), np.int32(values[j[e], k])
            same += weights[abs(a - b)]
            other += weights[abs(a + b - 255)]
        costs[e, 0] += same
        costs[e, 1] += other


@numba.njit(cache=True, nogil=True)
def add_colour_costs(
    values: np.ndarray, signs: np.ndarray, i: np.ndarray, j: np.ndarray, pairs: np.ndarray
) -> None:
    """uint8 [P, 3, n] under signs [P, 3]; adds to float32 [E, 3, 3] how much every two components differ."""
    middle = np.float32(127.5)
    for e in range(len(i)):
        for a in range(3):
            for b in range(3):
                total = np.float32(0.0)
                for k in range(values.shape[2]):
                    first = (np.float32(values[i[e], a, k]) - middle) * signs[i[e], a]
                    second = (np.float32(values[j[e], b, k]) - middle) * signs[j[e], b]
                    total += abs(first - second)
                pairs[e, a, b] += total


def _chunks(pool: Ciphertexts, rows: np.ndarray, time_left: Callable[[], bool]) -> Iterator[np.ndarray]:
    """uint8 [P, ≤ 32] values, at least one chunk."""
    for first in range(0, len(rows), _CHUNK):
        yield _values(pool, rows[first : first + _CHUNK])
        if not time_left():
            break


def _values(pool: Ciphertexts, rows: np.ndarray) -> np.ndarray:
    """uint8 [P, r]: every value of the picture, over the images."""
    return np.ascontiguousarray(pool.images(rows).reshape(len(rows), -1).T)


def _spaced(values: np.ndarray, limit: int) -> np.ndarray:
    """At most `limit` of the values, evenly spaced."""
    if len(values) <= limit:
        return values
    return values[np.linspace(0, len(values) - 1, limit).astype(np.int64)]
