"""The order of things in a row, from how far each is from every other: the shortest path through all of them.

Two paths are improved, one through the shortest distances and one along the second eigenvector of the graph of
similarities (seriation: Atkins, Boman, Hendrickson 1998), by reversing parts of the path (2-opt: Croes 1958) and by
moving short parts (Or 1976). The shorter of the two is the answer. It has no first end: the reverse is as good.
"""

from __future__ import annotations

import numba
import numpy as np

from coordinator.adversary.time_budget import TimeLeft, always
from crypto.arrays import Float64Array, Int64Array

#: Most rounds of improvement: a bound. Set once by hand; no measurement is recorded.
_ROUNDS = 200
#: Most things that are moved together. Chosen by hand.
_MOVED = 8
#: Gain in length that is not rounding.
_LEAST_GAIN = 1e-9


def shortest_path(distances: Float64Array, time_left: TimeLeft = always) -> Int64Array:
    """Return a short path through all things, int64 [n].

    Args:
        distances: float64 [n, n], symmetric.
        time_left: Asked between rounds of improvement.
    """
    if len(distances) < 3:
        return np.arange(len(distances))
    starts = (_along_eigenvector(distances), _through_shortest(distances))
    paths = [_improve(distances, start.copy(), time_left) for start in starts]
    return min(paths, key=lambda path: path_length(distances, path))


def path_length(distances: Float64Array, path: Int64Array) -> float:
    """Return the sum of the distances of neighbours on a path."""
    return float(distances[path[:-1], path[1:]].sum())


def _along_eigenvector(distances: Float64Array) -> Int64Array:
    """Return the order of the second eigenvector of the normalised Laplacian of similarities."""
    nearest = np.median(np.sort(distances, axis=1)[:, 1])
    weights = np.exp(-distances / (nearest + 1e-9))
    np.fill_diagonal(weights, 0.0)
    scale = 1 / np.sqrt(weights.sum(1) + 1e-12)
    laplacian = np.eye(len(distances)) - scale[:, None] * weights * scale
    order: Int64Array = np.argsort(np.linalg.eigh(laplacian)[1][:, 1] * scale, kind="stable")
    return order


def _through_shortest(distances: Float64Array) -> Int64Array:
    """Return the path that takes the shortest distance left, as long as no branch or ring comes of it."""
    count = len(distances)
    first, second = np.triu_indices(count, 1)
    degree, root = np.zeros(count, np.int64), np.arange(count)
    beside: list[list[int]] = [[] for _ in range(count)]
    for e in np.argsort(distances[first, second], kind="stable").tolist():
        a, b = int(first[e]), int(second[e])
        if degree[a] < 2 and degree[b] < 2 and root[a] != root[b]:
            root[root == root[b]] = root[a]
            for one, other in ((a, b), (b, a)):
                degree[one] += 1
                beside[one].append(other)
    path, before = [int(np.flatnonzero(degree < 2)[0])], -1
    while len(path) < count:
        following = next(k for k in beside[path[-1]] if k != before)
        before = path[-1]
        path.append(following)
    return np.array(path)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator] # numba has no types
def _between(distances: Float64Array, path: Int64Array, one: int, other: int) -> float:
    """Return the distance of two places of a path; beyond its ends there is nothing, at no distance."""
    if one < 0 or other < 0 or one >= len(path) or other >= len(path):
        return 0.0
    return float(distances[path[one], path[other]])


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator] # numba has no types
def _reverse_parts(distances: Float64Array, path: Int64Array) -> bool:
    """Reverse every part of the path by whose reversal it becomes shorter; return whether there was one."""
    is_better = False
    for i in range(len(path) - 1):
        for j in range(i + 1, len(path)):
            now = _between(distances, path, i - 1, i) + _between(distances, path, j, j + 1)
            then = _between(distances, path, i - 1, j) + _between(distances, path, i, j + 1)
            if then < now - _LEAST_GAIN:
                path[i : j + 1] = path[i : j + 1][::-1].copy()
                is_better = True
    return is_better


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator] # numba has no types
def _move_parts(distances: Float64Array, path: Int64Array) -> bool:
    """Move every short part to where the path becomes shortest; return whether there was one."""
    count = len(path)
    is_better = False
    for size in range(1, min(_MOVED, count - 1) + 1):
        for i in range(count - size + 1):
            part = path[i : i + size].copy()
            rest = np.concatenate((path[:i], path[i + size :]))
            gap = _between(distances, rest, i - 1, i)
            saved = (
                _between(distances, path, i - 1, i)
                + _between(distances, path, i + size - 1, i + size)
                - gap
            )
            best, best_place, is_reversed = saved - _LEAST_GAIN, -1, False
            for place in range(len(rest) + 1):
                before = rest[place - 1] if place > 0 else -1
                after = rest[place] if place < len(rest) else -1
                gap = _between(distances, rest, place - 1, place)
                for turn in (False, True):
                    head, tail = (part[-1], part[0]) if turn else (part[0], part[-1])
                    added = -gap
                    if before >= 0:
                        added += distances[before, head]
                    if after >= 0:
                        added += distances[tail, after]
                    if added < best:
                        best, best_place, is_reversed = added, place, turn
            if best_place >= 0:
                if is_reversed:
                    part = part[::-1].copy()
                path[:] = np.concatenate((rest[:best_place], part, rest[best_place:]))
                is_better = True
    return is_better


def _improve(distances: Float64Array, path: Int64Array, time_left: TimeLeft) -> Int64Array:
    """Return the path improved until neither reversing nor moving a part makes it shorter."""
    for _ in range(_ROUNDS):
        is_better = _reverse_parts(distances, path)
        is_better = (time_left() and _move_parts(distances, path)) or is_better
        if not is_better or not time_left():
            break
    return path
