"""One substitution of gray levels for all images (T1): a table of 256 entries, or one for each colour.

Textbook: simple substitution. Encrypting each value by itself is the same, as format-preserving encryption of single
values does. The shapes of the pictures stay, and neighbouring pixels are mostly of neighbouring levels: how often two
levels are neighbours makes a graph of levels, and the gray scale is the way through it. The second eigenvector of the
graph orders the levels (spectral seriation: Atkins, Boman, Hendrickson 1998), and all levels are then assigned to
ranks at once, in rounds, by those that they neighbour.

The order is found up to the negative. Ranks are spread over the gray scale evenly: where pictures use all levels,
that is exact. Two fits say whether to believe it: how much neighbouring pixels agree in images that were held back,
or in the half of a single one; and whether the gray scale holds together. Where pictures have few edges between two
parts of it, as made scans of a bright skull and a dark brain have, the parts may be the wrong way round.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import linear_sum_assignment

from coordinator.adversary.contract import Ciphertexts, Fit
from coordinator.adversary.opened import RecoveredLevels, open_levels
from coordinator.adversary.recover.neighbour_agreement import colour_agreement
from coordinator.adversary.recover.pool_reading import random_order
from coordinator.adversary.time_budget import TimeLeft
from crypto.arrays import Float64Array, Images, Int64Array, Rows, UInt8Array

LEVELS = 256
#: Most images that neighbours are counted in, and the least that are held back for the fit.
#: Set once by hand; no measurement is recorded.
_IMAGES, _HELD_BACK = 100, 8
#: Most rounds in which levels are assigned to ranks. Of 96 pools of eight kinds of pictures none took more than 11.
_ROUNDS = 40
#: Images of which it is measured how much neighbouring values agree as they are. From this on they are pictures
#: already; and opened, they must agree more than as they are by the gain.
#: Set once by hand; no measurement is recorded.
_LOOKED_AT, _AS_IT_IS, _GAIN = 16, 0.75, 0.1
#: A table for each colour must agree more than one for all by this, to be chosen: it has more to fit.
#: Set once by hand; no measurement is recorded.
_OWN_GAIN = 0.02
#: Smallest side of a picture in pixels: smaller ones are smooth by chance.
_LEAST_SIDE = 8
#: Least agreement of what was held back.
_LEAST_FIT = 0.5
_FIT = "the correlation of neighbouring pixels in images that the table was not sought in"
#: Levels that are looked at on either side of a place of the gray scale, and the share at either end that is not.
#: Set once by hand; no measurement is recorded.
_REACH, _END = 12, 1 / 32
#: Least of how much levels neighbour each other at the weakest place of the gray scale, of what is usual. Measured on
#: 160 pools of eight kinds of pictures: of the pools of 5 and more that opened at an SSIM of .9 or more, two were
#: below this; of the 20 of phantoms, none of which opened, three quarters were.
_LEAST_LINK = 0.25
_LINK = "how much levels neighbour each other at the weakest place of the gray scale, of what is usual"


def recover(pool: Ciphertexts, pool_rows: Rows, time_left: TimeLeft) -> RecoveredLevels | None:
    """Recover the table.

    Args:
        pool: Sealed images, uint8.
        pool_rows: int64 [n], the rows that may be used.
        time_left: Asked before the search.

    Returns:
        The key; None from pictures of a few pixels, if neighbouring values agree as much as they are, or if there is
        no time.
    """
    images = pool.images(np.sort(random_order(pool_rows)[:_IMAGES]))
    if not len(images) or min(images.shape[1:3]) < _LEAST_SIDE or not time_left():
        return None
    as_it_is = colour_agreement(images[:_LOOKED_AT])
    if as_it_is >= _AS_IT_IS:
        return None
    seen, unseen = _halves(images)
    agreements = {
        is_own: colour_agreement(open_levels(unseen, find_tables(seen, _table, is_own=is_own)))
        for is_own in ((False, True) if images.shape[3] > 1 else (False,))
    }
    is_own = agreements.get(True, -1.0) > agreements[False] + _OWN_GAIN
    agreement = agreements[is_own]
    if agreement < as_it_is + _GAIN:
        return None
    link = min(_weakest_link(neighbour_counts(part)) for part in _parts(images, is_own))
    fits = (Fit(agreement, _LEAST_FIT, _FIT), Fit(link, _LEAST_LINK, _LINK))
    return RecoveredLevels(find_tables(images, _table, is_own=is_own), fits)


def _halves(images: Images) -> tuple[Images, Images]:
    """Return what a table is sought in, and what its fit is measured on: of one image, the upper and lower half."""
    if len(images) == 1:
        middle = images.shape[1] // 2
        return images[:, :middle], images[:, middle:]
    held_back = min(_HELD_BACK, len(images) // 2)
    return images[held_back:], images[:held_back]


def find_tables(images: Images, find: Callable[[UInt8Array], UInt8Array], *, is_own: bool) -> UInt8Array:
    """Return the plain level of each sealed one by colour, uint8 [c, 256]: one table for all colours, or their own.

    The tables make the images dark; own ones have the signs under which colours rise and fall together.

    Args:
        images: uint8 [n, h, w, c].
        find: From gray pictures uint8 [m, h, w] to their table uint8 [256], up to the negative.
        is_own: Whether each colour has a table of its own.
    """
    channels = images.shape[3]
    tables = np.stack([find(part) for part in _parts(images, is_own)])
    tables = np.repeat(tables, channels // len(tables), 0)
    opened = open_levels(images, tables).astype(np.float64)
    centred = opened - opened.mean((1, 2), keepdims=True)
    for c in range(1, channels):
        if is_own and (centred[..., 0] * centred[..., c]).sum() < 0:
            tables[c] = 255 - tables[c]
            opened[..., c] = 255 - opened[..., c]
    if opened.mean() > 127.5:
        tables = 255 - tables
    return tables


def _parts(images: Images, is_own: bool) -> list[UInt8Array]:
    """Return the gray pictures that share a table, uint8 [n, h, w] each: all colours, or each by itself."""
    planes = np.moveaxis(images, 3, 0)  # [c, n, h, w]
    return list(planes) if is_own else [planes.reshape(-1, *images.shape[1:3])]


def neighbour_counts(planes: UInt8Array) -> Int64Array:
    """Return how often two levels are neighbours in gray pictures uint8 [n, h, w]: int64 [256, 256], symmetric."""
    counts = np.zeros(LEVELS * LEVELS, np.int64)
    for one, other in ((planes[:, 1:], planes[:, :-1]), (planes[:, :, 1:], planes[:, :, :-1])):
        pairs = one.astype(np.int64) * LEVELS + other
        counts += np.bincount(pairs.ravel(), minlength=LEVELS * LEVELS)
    square = counts.reshape(LEVELS, LEVELS)
    return square + square.T


def _table(planes: UInt8Array) -> UInt8Array:
    """Return the plain level of each sealed one of gray pictures uint8 [n, h, w], uint8 [256], up to the negative."""
    used, graph = _graph(neighbour_counts(planes))
    return spread_levels(used, order_levels(graph) if len(used) > 1 else used[:0])


def spread_levels(used: Int64Array, ranks: Int64Array) -> UInt8Array:
    """Return a table uint8 [256] that spreads these levels over the gray scale by their ranks, int64 [L] each.

    All other levels are left in mid-gray, and all of them if there are no ranks.
    """
    table = np.full(LEVELS, LEVELS // 2, np.uint8)
    if len(ranks):
        table[used] = np.round(ranks * (LEVELS - 1) / (len(used) - 1)).astype(np.uint8)
    return table


def _graph(counts: Int64Array) -> tuple[Int64Array, Float64Array]:
    """Return the levels that have neighbours, int64 [L], and how often two of them are, float64 [L, L]."""
    graph = counts.astype(np.float64)
    np.fill_diagonal(graph, 0.0)
    used = np.flatnonzero(graph.any(0))
    return used, graph[np.ix_(used, used)]


def _weakest_link(counts: Int64Array) -> float:
    """Return how much levels on either side of the weakest place of the gray scale are neighbours.

    It is a part of what is usual over all places; 0 if there are few levels.

    Args:
        counts: int64 [256, 256], from `neighbour_counts`.
    """
    used, graph = _graph(counts)
    end = max(4, int(len(used) * _END))
    if len(used) < 3 * end:
        return 0.0
    order = np.argsort(order_levels(graph))
    graph = graph[np.ix_(order, order)]
    links = []
    for place in range(end, len(used) - end):
        before, after = slice(max(0, place - _REACH), place), slice(place, place + _REACH)
        links.append(graph[before, after].sum() / np.sqrt(graph[before].sum() * graph[after].sum()))
    return float(np.min(links) / max(np.median(links), 1e-9))


def order_levels(graph: Float64Array) -> Int64Array:
    """Return the rank of each level, int64 [L], under which neighbouring levels are near: a local least.

    Args:
        graph: float64 [L, L], how often two levels are neighbours, with an empty diagonal. Every level has some.
    """
    degrees = graph.sum(1)
    vectors = np.linalg.eigh(graph / np.sqrt(np.outer(degrees, degrees)))[1]
    ranks: Int64Array = np.argsort(np.argsort(vectors[:, -2] / np.sqrt(degrees), kind="stable"))
    apart = np.log1p(np.abs(np.subtract.outer(np.arange(len(graph)), np.arange(len(graph)))))
    best, least = ranks, np.inf
    for _ in range(_ROUNDS):
        total = float((graph * apart[np.ix_(ranks, ranks)]).sum())
        if total >= least:
            break
        best, least = ranks, total
        ranks = linear_sum_assignment(graph @ apart[ranks] / degrees[:, None])[1].astype(np.int64)
    return best
