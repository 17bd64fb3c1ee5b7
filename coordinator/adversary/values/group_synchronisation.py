"""Labels from relations: every node of a graph carries an element of a small group, and edges say how two differ.

A pool shows only how the secret states of two neighbours relate (same or opposite sign, which colour stands
where), as a cost for every possible relation. Labels are spread along the tree of the surest edges. They are
then improved by changing single nodes (iterated conditional modes: Besag 1986) and whole branches of the tree
at once. A wrong edge of the tree leaves a branch that agrees with itself, which no change of single nodes
repairs.

One element for all nodes together cannot be known: relations are unchanged when every label is multiplied by the same
element from the right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree

from coordinator.adversary.time_budget import TimeLeft, always
from crypto.arrays import Float32Array, Float64Array, Int64Array
from crypto.symmetry import ORDER_PRODUCTS

#: Most sweeps over single nodes, most rounds of nodes and branches in turn, and most branches changed in a round.
#: Set once by hand; no measurement is recorded.
_SWEEPS, _ROUNDS, _BRANCHES = 60, 8, 200
#: Least gain for which a label changes: above the rounding errors of float32 costs.
_MIN_GAIN = 1e-6


@dataclass(frozen=True)
class Group:
    """A finite group of K elements. Element 0 is the identity.

    Attributes:
        product: int64 [K, K]: the element a·b at [a, b].
        inverse: int64 [K].
    """

    product: Int64Array
    inverse: Int64Array


def _group(product: Int64Array) -> Group:
    """Return the group with this table of products."""
    return Group(product.astype(np.int64), np.argmin(product, axis=1).astype(np.int64))


#: Signs: 0 keeps, 1 flips.
SIGNS = _group(np.array([[0, 1], [1, 0]]))
#: Orders of three things, numbered as COLOUR_ORDERS: (a·b)[k] = a[b[k]].
PERMUTATIONS = _group(ORDER_PRODUCTS)


@dataclass(frozen=True)
class _Tree:
    """A spanning tree, rooted at node 0.

    Attributes:
        order: int64 [count], the nodes from the root outwards.
        parent: int64 [count], the parent of every node.
    """

    order: Int64Array
    parent: Int64Array


def grid_edges(height: int, width: int, channels: int, mixed: bool) -> tuple[Int64Array, Int64Array]:
    """Return the two ends of every edge between values of an image that are near each other, int64 [E] each.

    Values are numbered flat by (row, column, channel). Near are the eight neighbours in the same channel, and the
    channels of one pixel.

    Args:
        height: Rows of the image.
        width: Columns of the image.
        channels: Channels of the image.
        mixed: Whether the eight neighbours count in any channel.
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


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator] # numba has no types
def _improve_nodes(
    start: Int64Array,
    edge: Int64Array,
    i: Int64Array,
    j: Int64Array,
    costs: Float32Array,
    product: Int64Array,
    inverse: Int64Array,
    labels: Int64Array,
    sweeps: int,
) -> None:
    """Give node after node its cheapest label, in place, until none changes.

    The edges of a node are edge[start[node] : start[node + 1]].
    """
    total = np.empty(len(product), np.float64)
    for _ in range(sweeps):
        changed = 0
        for node in range(len(labels)):
            total[:] = 0.0
            for k in range(start[node], start[node + 1]):
                e = edge[k]
                for label in range(len(product)):
                    if i[e] == node:
                        total[label] += costs[e, product[labels[j[e]], inverse[label]]]
                    else:
                        total[label] += costs[e, product[label, inverse[labels[i[e]]]]]
            best = labels[node]
            for label in range(len(product)):
                if total[label] < total[best] - _MIN_GAIN:
                    best = label
            changed += best != labels[node]
            labels[node] = best
        if changed == 0:
            break


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator] # numba has no types
def _lowest_common_ancestors(
    order: Int64Array, parent: Int64Array, i: Int64Array, j: Int64Array
) -> Int64Array:
    """Return the node where the paths from an edge's two ends to the root of the tree meet, int64 [E]."""
    depth = np.zeros(len(order), np.int64)
    for k in range(1, len(order)):
        depth[order[k]] = depth[parent[order[k]]] + 1
    ancestor = np.empty(len(i), np.int64)
    for e in range(len(i)):
        a, b = i[e], j[e]
        while a != b:
            if depth[a] >= depth[b]:
                a = parent[a]
            else:
                b = parent[b]
        ancestor[e] = a
    return ancestor


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator] # numba has no types
def _improve_branch(
    order: Int64Array,
    parent: Int64Array,
    ancestor: Int64Array,
    i: Int64Array,
    j: Int64Array,
    costs: Float32Array,
    product: Int64Array,
    inverse: Int64Array,
    labels: Int64Array,
) -> float:
    """Multiply the one branch by the one element that lowers the cost most, in place, and return the gain."""
    best, best_node, best_element = -_MIN_GAIN, -1, 0
    change = np.empty(len(labels), np.float64)
    for element in range(1, len(product)):
        change[:] = 0.0
        for e in range(len(i)):
            a, b = labels[i[e]], labels[j[e]]
            now = costs[e, product[b, inverse[a]]]
            left = costs[e, product[b, inverse[product[a, element]]]] - now
            right = costs[e, product[product[b, element], inverse[a]]] - now
            change[i[e]] += left
            change[j[e]] += right
            change[ancestor[e]] -= left + right  # both ends in the branch: nothing changes
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
            labels[node] = product[labels[node], best_element]
    return -best


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator] # numba has no types
def _spread_labels(
    order: Int64Array, parent: Int64Array, relation: Int64Array, product: Int64Array
) -> Int64Array:
    """Return the labels that follow along a tree from each node's relation to its parent; the root has element 0."""
    labels = np.zeros(len(order), np.int64)
    for k in range(1, len(order)):
        labels[order[k]] = product[relation[order[k]], labels[parent[order[k]]]]
    return labels


def synchronise(
    i: Int64Array,
    j: Int64Array,
    costs: Float32Array,
    count: int,
    group: Group,
    time_left: TimeLeft = always,
) -> Int64Array:
    """Return labels at a low sum of costs[e, label_j · label_i⁻¹] over the edges, int64 [count].

    Node 0 gets element 0.

    Args:
        i: int64 [E], the first end of every edge. No edge comes twice, and all nodes are connected.
        j: int64 [E], the second end.
        costs: float32 [E, K], the cost of every relation.
        count: The number of nodes.
        group: The group of the labels.
        time_left: Asked between branches.
    """
    if count == 1:
        return np.zeros(1, np.int64)
    costs = np.ascontiguousarray(costs, np.float32)
    product, inverse = group.product, group.inverse
    ends = np.concatenate([i, j])
    edge = np.argsort(ends, kind="stable")
    start = np.concatenate([[0], np.cumsum(np.bincount(ends, minlength=count))])
    edge %= len(i)
    tree = _spanning_tree(i, j, _relation_margins(costs, costs.argmin(1)), count)
    relations = _parent_relations(i, j, costs, tree.parent, group)
    labels: Int64Array = _spread_labels(tree.order, tree.parent, relations, product)
    for _ in range(_ROUNDS):
        _improve_nodes(start, edge, i, j, costs, product, inverse, labels, _SWEEPS)
        # Branches of a tree of edges that agree with the labels: what is connected is changed together.
        now = product[labels[j], inverse[labels[i]]]
        tree = _spanning_tree(i, j, _relation_margins(costs, now), count)
        ancestor = _lowest_common_ancestors(tree.order, tree.parent, i, j)
        changed = 0
        while changed < _BRANCHES and time_left():
            gain = _improve_branch(tree.order, tree.parent, ancestor, i, j, costs, product, inverse, labels)
            if gain <= 0.0:
                break
            changed += 1
        if not changed or not time_left():
            break
    relative: Int64Array = product[labels, inverse[labels[0]]]
    return relative


def _relation_margins(costs: Float32Array, chosen: Int64Array) -> Float64Array:
    """Return the margin of the chosen relation over the runner-up, float64 [E]; negative if another is cheaper."""
    others = costs.astype(np.float64)
    chosen_costs = others[np.arange(len(costs)), chosen]
    others[np.arange(len(costs)), chosen] = np.inf
    margins: Float64Array = others.min(1) - chosen_costs
    return margins


def _spanning_tree(i: Int64Array, j: Int64Array, margins: Float64Array, count: int) -> _Tree:
    """Return the tree of the edges with the largest margins."""
    weights = 1e-9 + (margins.max() - margins) / max(float(np.ptp(margins)), 1e-30)
    tree = minimum_spanning_tree(coo_matrix((weights, (i, j)), (count, count)).tocsr())
    order, parent = breadth_first_order(tree, 0, directed=False)
    return _Tree(order.astype(np.int64), parent.astype(np.int64))


def _parent_relations(
    i: Int64Array, j: Int64Array, costs: Float32Array, parent: Int64Array, group: Group
) -> Int64Array:
    """Return for every node the cheapest relation to its parent, int64 [count]."""
    relations = np.zeros(len(parent), np.int64)
    cheapest = costs.argmin(1)
    is_down = parent[j] == i
    relations[j[is_down]] = cheapest[is_down]
    is_up = parent[i] == j
    relations[i[is_up]] = group.inverse[cheapest[is_up]]
    return relations


def total_cost(
    i: Int64Array, j: Int64Array, costs: Float32Array, labels: Int64Array, group: Group
) -> float:
    """Return the sum of the costs that `synchronise` lowers."""
    relations = group.product[labels[j], group.inverse[labels[i]]]
    return float(costs[np.arange(len(i)), relations].sum())
