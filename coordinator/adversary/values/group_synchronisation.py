"""Labels from relations: every node of a graph carries an element of a small group, edges tell how two differ.

A pool shows only how the secret states of two neighbours relate (same or opposite sign, which colour stands
where), as a cost for every possible relation. Labels are laid along the tree of the surest edges, then improved
by changing single nodes (iterated conditional modes: Besag 1986) and whole branches of the tree at once: a
wrong edge of the tree leaves a branch that agrees with itself, which no change of single nodes repairs.

One element for all nodes together is beyond knowing: relations are unchanged when every label is multiplied by
the same element from the right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numba
import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree

from coordinator.adversary.time_budget import always
from crypto.schemes.pe import ORDERS

_SWEEPS, _ROUNDS, _BRANCHES = 60, 8, 200


@dataclass(frozen=True)
class Group:
    """times int64 [K, K]: the element a·b at [a, b]. inverse int64 [K]. Element 0 is the identity."""

    times: np.ndarray
    inverse: np.ndarray


def _group(times: np.ndarray) -> Group:
    return Group(times.astype(np.int64), np.argmin(times, axis=1).astype(np.int64))


#: Signs: 0 keeps, 1 flips.
SIGNS = _group(np.array([[0, 1], [1, 0]]))
#: Orders of three things, numbered as ORDERS: (a·b)[k] = a[b[k]].
PERMUTATIONS = _group(
    np.array([[np.flatnonzero((a[b] == ORDERS).all(1))[0] for b in ORDERS] for a in ORDERS])
)


def grid_edges(height: int, width: int, channels: int, mixed: bool) -> tuple[np.ndarray, np.ndarray]:
    """(int64 [E], int64 [E]): values of an image that are near each other, as flat (row, column, channel).

    Near are the eight neighbours in the same channel (in any channel where `mixed`) and the channels of a pixel.
    """
    ids = np.arange(height * width * channels).reshape(height, width, channels)
    first, second = [], []
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        a = ids[: height - down, max(0, -right) : width - max(0, right)]
        b = ids[down:, max(0, right) : width + min(0, right)]
        for shift in range(channels if mixed else 1):
            first.append(a.ravel())
            second.append(np.roll(b, -shift, 2).ravel())
    for c in range(channels):
        for d in range(c):
            first.append(ids[..., c].ravel())
            second.append(ids[..., d].ravel())
    return np.concatenate(first), np.concatenate(second)


@numba.njit(cache=True, nogil=True)
def _settle(
    start: np.ndarray,
    edge: np.ndarray,
    i: np.ndarray,
    j: np.ndarray,
    costs: np.ndarray,
    times: np.ndarray,
    inverse: np.ndarray,
    labels: np.ndarray,
    sweeps: int,
) -> None:
    """Gives node after node its cheapest label, in place, until none changes."""
    total = np.empty(len(times), np.float64)
    for _ in range(sweeps):
        changed = 0
        for node in range(len(labels)):
            total[:] = 0.0
            for k in range(start[node], start[node + 1]):
                e = edge[k]
                for label in range(len(times)):
                    if i[e] == node:
                        total[label] += costs[e, times[labels[j[e]], inverse[label]]]
                    else:
                        total[label] += costs[e, times[label, inverse[labels[i[e]]]]]
            best = labels[node]
            for label in range(len(times)):
                if total[label] < total[best] - 1e-6:
                    best = label
            changed += best != labels[node]
            labels[node] = best
        if changed == 0:
            break


@numba.njit(cache=True, nogil=True)
def _meetings(order: np.ndarray, parent: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """int64 [E]: the node of the tree where the ways from an edge's two ends to the root meet."""
    depth = np.zeros(len(order), np.int64)
    for k in range(1, len(order)):
        depth[order[k]] = depth[parent[order[k]]] + 1
    meet = np.empty(len(i), np.int64)
    for e in range(len(i)):
        a, b = i[e], j[e]
        while a != b:
            if depth[a] >= depth[b]:
                a = parent[a]
            else:
                b = parent[b]
        meet[e] = a
    return meet


@numba.njit(cache=True, nogil=True)
def _turn_branch(
    order: np.ndarray,
    parent: np.ndarray,
    meet: np.ndarray,
    i: np.ndarray,
    j: np.ndarray,
    costs: np.ndarray,
    times: np.ndarray,
    inverse: np.ndarray,
    labels: np.ndarray,
) -> float:
    """Multiplies the one branch by the one element that lowers the cost most, in place → the gain."""
    best, best_node, best_element = -1e-6, -1, 0
    change = np.empty(len(labels), np.float64)
    for element in range(1, len(times)):
        change[:] = 0.0
        for e in range(len(i)):
            a, b = labels[i[e]], labels[j[e]]
            now = costs[e, times[b, inverse[a]]]
            left = costs[e, times[b, inverse[times[a, element]]]] - now
            right = costs[e, times[times[b, element], inverse[a]]] - now
            change[i[e]] += left
            change[j[e]] += right
            change[meet[e]] -= left + right  # both ends in the branch: nothing changes
        for k in range(len(order) - 1, 0, -1):
            change[parent[order[k]]] += change[order[k]]
        for k in range(1, len(order)):
            if change[order[k]] < best:
                best, best_node, best_element = change[order[k]], order[k], element
    if best_node < 0:
        return 0.0
    inside = np.zeros(len(labels), np.bool_)
    for k in range(1, len(order)):
        node = order[k]
        inside[node] = node == best_node or inside[parent[node]]
        if inside[node]:
            labels[node] = times[labels[node], best_element]
    return -best


@numba.njit(cache=True, nogil=True)
def _lay_along(
    order: np.ndarray, parent: np.ndarray, relation: np.ndarray, times: np.ndarray
) -> np.ndarray:
    labels = np.zeros(len(order), np.int64)
    for k in range(1, len(order)):
        labels[order[k]] = times[relation[order[k]], labels[parent[order[k]]]]
    return labels


def synchronise(
    i: np.ndarray,
    j: np.ndarray,
    costs: np.ndarray,
    count: int,
    group: Group,
    time_left: Callable[[], bool] = always,
) -> np.ndarray:
    """int64 [count] labels at a low sum of costs[e, label_j · label_i⁻¹] over the edges.

    i, j: int64 [E], no edge twice, all nodes connected; costs: float32 [E, K]. Node 0 gets element 0.
    """
    if count == 1:
        return np.zeros(1, np.int64)
    costs = np.ascontiguousarray(costs, np.float32)
    ends = np.concatenate([i, j])
    edge = np.argsort(ends, kind="stable")
    start = np.concatenate([[0], np.cumsum(np.bincount(ends, minlength=count))])
    edge %= len(i)
    order, parent = _tree(i, j, _sureness(costs, costs.argmin(1)), count)
    labels = _lay_along(order, parent, _relations(i, j, costs, parent, group), group.times)
    for _ in range(_ROUNDS):
        _settle(start, edge, i, j, costs, group.times, group.inverse, labels, _SWEEPS)
        # Branches of a tree of edges that agree with the labels: what hangs together is turned together.
        now = group.times[labels[j], group.inverse[labels[i]]]
        order, parent = _tree(i, j, _sureness(costs, now), count)
        meet = _meetings(order, parent, i, j)
        turned = 0
        while turned < _BRANCHES and time_left():
            gain = _turn_branch(order, parent, meet, i, j, costs, group.times, group.inverse, labels)
            if gain <= 0.0:
                break
            turned += 1
        if not turned or not time_left():
            break
    return group.times[labels, group.inverse[labels[0]]]


def _sureness(costs: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """float64 [E]: how much cheaper the chosen relation is than the best other; negative where it is dearer."""
    others = costs.astype(np.float64)
    own = others[np.arange(len(costs)), chosen]
    others[np.arange(len(costs)), chosen] = np.inf
    return others.min(1) - own


def _tree(i: np.ndarray, j: np.ndarray, sure: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(order, parent), int64 [count] each: the tree of the surest edges, from node 0."""
    weights = 1e-9 + (sure.max() - sure) / max(float(np.ptp(sure)), 1e-30)
    tree = minimum_spanning_tree(coo_matrix((weights, (i, j)), (count, count)).tocsr())
    order, parent = breadth_first_order(tree, 0, directed=False)
    return order.astype(np.int64), parent.astype(np.int64)


def _relations(
    i: np.ndarray, j: np.ndarray, costs: np.ndarray, parent: np.ndarray, group: Group
) -> np.ndarray:
    """int64 [count]: for every node the likeliest relation to its parent."""
    found = np.zeros(len(parent), np.int64)
    likely = costs.argmin(1)
    down = parent[j] == i
    found[j[down]] = likely[down]
    up = parent[i] == j
    found[i[up]] = group.inverse[likely[up]]
    return found


def total(i: np.ndarray, j: np.ndarray, costs: np.ndarray, labels: np.ndarray, group: Group) -> float:
    """The sum of the costs that `synchronise` lowers."""
    return float(costs[np.arange(len(i)), group.times[labels[j], group.inverse[labels[i]]]].sum())
