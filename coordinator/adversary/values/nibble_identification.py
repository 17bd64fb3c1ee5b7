"""Which nibble of a block is which: the order and the signs of nibbles, from their second moments over a pool.

High nibbles carry the picture. They correlate within a block and with the next ones, as neighbouring pixels of
any picture do, and this gives their places. Low nibbles look like noise, but each is what remains between its
value, as the block's other values predict it, and its high nibble. Whole values are then similar where they are
neighbours, within a block and across to the next, and this corrects the places.

Nibbles are taken as signed: value - 7.5, float32, so that a reversal 15 - v is a change of sign.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from scipy.optimize import linear_sum_assignment

from coordinator.adversary.time_budget import TimeLeft, always
from coordinator.adversary.values.constant_planes import constant_planes, with_constant_planes
from coordinator.adversary.values.layout_fit import Layout, LayoutSearch
from coordinator.adversary.values.nibble_statistics import (
    consistent_signs,
    correlations,
    find_high_nibbles,
    is_beyond_noise,
    lag_correlations,
    nearness,
)
from coordinator.adversary.values.nibbles import Nibbles
from coordinator.adversary.values.value_layout import (
    improve_places,
    place_values,
    typical_correlations,
)
from crypto.arrays import BoolArray, Float32Array, Float64Array, Int64Array

#: Blocks that the typical covariance counts for. Set once by hand; no measurement is recorded.
_PRIOR = 200.0
#: Most rounds of predicting values and matching low nibbles. Set once by hand; no measurement is recorded.
_ROUNDS = 6
#: Starts of the layout if only one block is known. Of the rotations of the eigenvectors about one in ten leads to the
#: truth (coordinator/adversary/README.md).
_STARTS_SINGLE = 120
#: Added to the variance of every value, in squared gray levels, which keeps the covariance invertible.
#: Set once by hand; no measurement is recorded.
_NOISE_VARIANCE = 4.0


def identify_nibbles(
    signed: Float32Array,
    block: int,
    channels: int,
    time_left: TimeLeft = always,
    seed: int = 0,
    is_confirmed: Callable[[Nibbles], bool] | None = None,
) -> Nibbles | None:
    """Return which nibble is which; None if the high nibbles do not correlate.

    Nothing tells the symmetries of a block apart if there is only one row or column of blocks. The sign for all
    is the one that makes the pool darker, and the order of the colours is any.

    Args:
        signed: float32 [n, rows, columns, 2V], signed nibbles of neighbouring blocks.
        block: The block side in pixels.
        channels: Colour components of a pixel.
        time_left: Asked between steps of the layout.
        seed: Of the layout, if there is one block only.
        is_confirmed: Whether nibbles are certainly right, up to symmetries, colours and signs. Layouts are tried
            until one is. Without it, or if none is, the one that fits best is returned.
    """
    flat = signed.reshape(-1, signed.shape[-1])
    varies = (flat != flat[0]).any(0)
    if not varies.any():
        return None
    if planes := constant_planes(varies, 2 * block * block, channels):

        def whole(lively: Nibbles) -> Nibbles:
            return with_constant_planes(lively, varies, block)

        lively = identify_nibbles(
            signed[..., varies],
            block,
            channels - planes,
            time_left,
            seed,
            None if is_confirmed is None else lambda candidate: is_confirmed(whole(candidate)),
        )
        return None if lively is None else whole(lively)
    all_correlations = correlations(flat, flat)
    slots = find_high_nibbles(all_correlations)
    low_slots = np.setdiff1d(np.arange(len(all_correlations)), slots)
    high_correlations = all_correlations[np.ix_(slots, slots)]
    if not is_beyond_noise(high_correlations, len(flat)):
        return None
    signs = consistent_signs(high_correlations)
    if (flat[:, slots].mean(0) * signs).sum() > 0:
        signs = -signs
    high = signed[..., slots] * signs
    lags = 1 if signed.shape[1] * signed.shape[2] == 1 else 3
    typical = typical_correlations(block, channels)[:lags]
    places = place_values(lag_correlations(high), typical, block, channels, time_left)
    columns, flips, confidence = match_low_nibbles(
        high.reshape(-1, len(slots)), flat[:, low_slots], typical[0][np.ix_(places, places)]
    )
    nibbles = Nibbles(slots, low_slots[columns], signs < 0, flips, confidence)
    best = None
    for layout in _layouts(nibbles.to_values(signed), places, typical, block, channels, time_left, seed):
        if best is None or layout.fit > best.fit:
            best = layout
        if is_confirmed is not None and is_confirmed(nibbles.permuted(layout.places)):
            best = layout
            break
        if not time_left():
            break
    assert best is not None
    return replace(nibbles.permuted(best.places), fit=best.fit)


def rematch_low_nibbles(nibbles: Nibbles, signed: Float32Array, template: Float64Array) -> Nibbles:
    """Return the nibbles with the low ones matched again, by a better template than that of typical pictures.

    Args:
        nibbles: The nibbles of a block, by plain value.
        signed: float32 [..., 2V], signed nibbles of blocks.
        template: float64 [V, V], how the values of a block correlate, by plain value.
    """
    flat = signed.reshape(-1, signed.shape[-1])
    high = flat[:, nibbles.high] * np.where(nibbles.high_flip, np.float32(-1), np.float32(1))
    slots = np.sort(nibbles.low)
    columns, flips, confidence = match_low_nibbles(high, flat[:, slots], template)
    return replace(nibbles, low=slots[columns], low_flip=flips, confidence=confidence)


def _layouts(
    values: Float32Array,
    places: Int64Array,
    typical: Float64Array,
    block: int,
    channels: int,
    time_left: TimeLeft,
    seed: int,
) -> Iterator[Layout]:
    """Yield layouts of whole values float32 [n, rows, columns, V], the cheapest first.

    Args:
        values: float32 [n, rows, columns, V].
        places: int64 [V], the layout by the high nibbles.
        typical: float64 [lags, V, V], the correlations of typical pictures.
        block: The block side in pixels.
        channels: Colour components of a pixel.
        time_left: Asked between steps.
        seed: Of the random starts.
    """
    search = LayoutSearch(lag_correlations(values), block, channels)
    layouts = [search.judge(places)]
    yield layouts[0]
    if len(typical) > 1:
        order = np.argsort(places)
        better = improve_places(nearness(values[..., order]), block, channels, time_left)
        layouts.append(search.judge(better[places]))
        yield layouts[-1]
    if not seed:  # a second try repeats nothing that does not depend on it
        for layout in search.from_distances(time_left):
            layouts.append(layout)
            yield layout
        if len(typical) == 1:
            for layout in search.from_templates(time_left):
                layouts.append(layout)
                yield layout
            likeliest = max(layouts, key=lambda layout: layout.fit)
            layouts.append(search.with_planes_turned(likeliest, time_left))
            yield layouts[-1]
        best = max(layouts, key=lambda layout: layout.fit)
        yield from search.from_own_template(best, time_left)
    if len(typical) == 1:
        # Without the next block, nearness has other optima than the truth. Correlations of whole values have not.
        measured = lag_correlations(values)
        yield search.judge(
            place_values(measured, typical, block, channels, time_left, _STARTS_SINGLE, seed)
        )


def match_low_nibbles(
    high: Float32Array, low: Float32Array, typical: Float64Array
) -> tuple[Int64Array, BoolArray, Float64Array]:
    """Match every high nibble to its low nibble. Low nibbles that are identified help to predict the other values.

    Args:
        high: float32 [m, V], signed high nibbles of m blocks, all of one sign.
        low: float32 [m, V], signed low nibbles.
        typical: float64 [V, V], the typical correlations of the high ones.

    Returns:
        (int64 [V] column of `low` for every high nibble, bool [V] flips, float64 [V] correlations).
    """
    count, size = high.shape
    coarse = 16.0 * (high - high.mean(0))
    centred = low - low.mean(0)
    scaled = centred / np.maximum(centred.std(0), 1e-6)
    deviation = np.maximum(coarse.std(0), 1.0)
    prior = typical * deviation[:, None] * deviation
    values = coarse.copy()
    columns, flips = np.arange(size), np.zeros(size, bool)
    matched = np.zeros(size)
    for _ in range(_ROUNDS):
        covariance = (values.T @ values + _PRIOR * prior) / (count + _PRIOR) + _NOISE_VARIANCE * np.eye(
            size
        )
        precision = np.linalg.inv(covariance)
        # What the others predict of a value is the value less its partial residual.
        residual = coarse - values + (values @ precision) / np.diag(precision)
        residual -= residual.mean(0)
        # Axes: value, column.
        shared = -(residual / np.maximum(residual.std(0), 1e-6)).T @ scaled / count
        previous = columns, flips
        columns = linear_sum_assignment(-np.abs(shared))[1]
        matched = shared[np.arange(size), columns]
        flips = matched < 0
        if (previous[0] == columns).all() and (previous[1] == flips).all():
            break
        others = np.abs(shared)
        others[np.arange(size), columns] = 0.0
        # A match is sure if it beats all others by more than a correlation of noise.
        is_sure = np.abs(matched) > others.max(1) + 1.0 / np.sqrt(count)
        values = coarse + is_sure * centred[:, columns] * np.where(flips, -1.0, 1.0)
    return columns.astype(np.int64), flips, np.abs(matched)
