"""The sign and place of every colour of every pixel, refined with a model of the pool's own pictures.

Relations between two neighbours (group_synchronisation.py) treat all colours and all differences alike. In stained
tissue colours differ in level, and neighbours are hardly more alike than colours. Once most pixels are right, the
pool itself tells more: a linear regression predicts the colours of a pixel from the pixels around it, and the
covariance of what is left says which deviations are usual. Each pixel then takes the state whose values deviate least
over all images, and the regression is fitted again. No truth enters it.

Regions that agree with themselves but not with the rest survive that. So the states are also grown from small
patches, each of which mostly lies in one such region: the model is fitted to what is known, and the surest pixels at
its edge are added. The states of the largest likelihood are kept.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np

from coordinator.adversary.time_budget import TimeLeft
from crypto.arrays import BoolArray, Float32Array, Float64Array, Int64Array
from crypto.symmetry import COLOUR_ORDERS

#: Most rounds of fitting and choosing. Most pools settle in fewer than ten.
_ROUNDS = 30
#: Added to the diagonal of the regression and of the residuals' covariance, in squared gray levels.
_RIDGE = 1.0
#: The constant term of the regression, in gray levels: about the size of the other terms.
_CONSTANT = 100.0
#: A pixel is certain if its second best state is this much less likely, in natural logarithms.
_CERTAIN = 3.0
#: Values of pixels whose states are compared at once: bounds memory.
_CHUNK_VALUES = 200_000
#: With more pixels than this nothing is grown: it takes minutes.
_MOST_GROWN = 64 * 64
#: Patches on a side of the picture that states are grown from, and the least side of a patch in pixels.
_PATCHES, _LEAST_PATCH = 3, 8
#: Values of a patch that the regression is fitted to at least, and known neighbours of a pixel that is added.
_PATCH_VALUES, _KNOWN_NEIGHBOURS = 600, 3
#: Known pixels are improved again after so many steps of growing.
_IMPROVE_EVERY = 4
#: Two likelihoods that differ less are of the same states.
_SAME = 1e-4
_AROUND = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]


@dataclass(frozen=True)
class PixelStates:
    """The state of every pixel.

    Attributes:
        order: int64 [P] into COLOUR_ORDERS: where each colour stands in the sealed pixel.
        signs: float32 [P, c], 1 or -1, of the sealed components.
        likelihood: log likelihood per value under the model fitted to these states: larger is better.
        certain: the share of pixels whose second best state is far less likely.
    """

    order: Int64Array
    signs: Float32Array
    likelihood: float = -np.inf
    certain: float = 0.0


class PixelModel:
    """A pool of sealed pixels, and the search for their states.

    Args:
        sealed: float32 [P, c, n], sealed values less mid-gray.
        shape: Height and width in pixels.
        is_shuffled: Whether the order of the colours differs from pixel to pixel.
    """

    def __init__(self, sealed: Float32Array, shape: tuple[int, int], is_shuffled: bool) -> None:
        channels = sealed.shape[1]
        self._sealed, self._shape = sealed, shape
        self._orders = COLOUR_ORDERS if channels == 3 else np.arange(channels)[None]
        self._choices = np.arange(len(self._orders)) if is_shuffled else np.zeros(1, np.int64)
        patterns = np.array(list(itertools.product((1.0, -1.0), repeat=channels)), np.float32)
        self._patterns = len(patterns)
        self._components = np.repeat(self._orders[self._choices], len(patterns), 0)  # [states, c]
        self._flips = np.tile(patterns, (len(self._choices), 1))
        height, width = shape
        self._y, self._x = np.divmod(np.arange(height * width), width)
        framed = np.pad(np.arange(height * width).reshape(shape), 1, constant_values=-1)
        self._around = np.stack(
            [framed[1 + y : 1 + y + height, 1 + x : 1 + x + width].ravel() for y, x in _AROUND], 1
        )

    def improve(self, start: PixelStates, time_left: TimeLeft) -> PixelStates:
        """Return the states improved pixel by pixel, with their likelihood."""
        order, signs = start.order.copy(), start.signs.copy()
        opened, known = self._open(np.arange(len(order)), order, signs), np.ones(len(order), bool)
        certain = np.zeros(len(order), bool)
        for _ in range(_ROUNDS):
            changed = self._improve_once(order, signs, opened, known, certain)
            if not changed or not time_left():
                break
        return PixelStates(order, signs, self._fit(opened, known)[2], float(certain.mean()))

    def search(self, start: PixelStates, time_left: TimeLeft) -> PixelStates:
        """Return the likeliest of the improved states and those grown from patches of them."""
        best = self.improve(start, time_left)
        if len(start.order) > _MOST_GROWN:
            return best
        improved, likelihoods = best, [best.likelihood]
        for patch in self._patches():
            if not time_left():
                break
            grown = self.improve(self._grow(improved, patch), time_left)
            likelihoods.append(grown.likelihood)
            best = grown if grown.likelihood > best.likelihood else best
            if sum(abs(value - best.likelihood) < _SAME for value in likelihoods) > 2:
                break
        return best

    def _patches(self) -> list[Int64Array]:
        """Return the pixels of some patches of the picture, the middle one first."""
        height, width = self._shape
        side = max(_LEAST_PATCH, int(np.ceil(np.sqrt(_PATCH_VALUES / self._sealed.shape[2]))))
        patches = []
        for down, right in itertools.product(range(_PATCHES), repeat=2):
            top, left = (
                max(0, round((n - side) * k / (_PATCHES - 1))) for n, k in ((height, down), (width, right))
            )
            inside = (self._y >= top) & (self._y < top + side) & (self._x >= left) & (self._x < left + side)
            patches.append(np.flatnonzero(inside))
        return patches[len(patches) // 2 :] + patches[: len(patches) // 2]

    def _grow(self, states: PixelStates, patch: Int64Array) -> PixelStates:
        """Return the states that follow from those of one patch, outwards."""
        order, signs = states.order.copy(), states.signs.copy()
        opened = self._open(np.arange(len(order)), order, signs)
        known, certain = np.zeros(len(order), bool), np.zeros(len(order), bool)
        known[patch] = True
        step = 0
        while not known.all():
            neighbours = (known[self._around] & (self._around >= 0)).sum(1)
            edge = np.flatnonzero(~known & (neighbours >= min(_KNOWN_NEIGHBOURS, neighbours[~known].max())))
            weights, precision, _ = self._fit(opened, known)
            best, margin = self._choose(edge, opened, known, weights, precision)
            sure = margin >= np.median(margin)
            self._take(edge[sure], best[sure], order, signs, opened)
            known[edge[sure]] = True
            step += 1
            if step % _IMPROVE_EVERY == 0:
                self._improve_once(order, signs, opened, known, certain)
        return replace(states, order=order, signs=signs)

    def _improve_once(
        self,
        order: Int64Array,
        signs: Float32Array,
        opened: Float32Array,
        known: BoolArray,
        certain: BoolArray,
    ) -> int:
        """Give every known pixel its likeliest state, in place, and return how many changed."""
        changed = 0
        parity = self._y % 2 * 2 + self._x % 2  # no two pixels of one parity are neighbours
        for part in range(4):
            pixels = np.flatnonzero(known & (parity == part))
            weights, precision, _ = self._fit(opened, known)
            best, margin = self._choose(pixels, opened, known, weights, precision)
            before = opened[pixels].copy()
            self._take(pixels, best, order, signs, opened)
            changed += int((opened[pixels] != before).any((1, 2)).sum())
            certain[pixels] = margin > _CERTAIN
        return changed

    def _take(
        self,
        pixels: Int64Array,
        best: Int64Array,
        order: Int64Array,
        signs: Float32Array,
        opened: Float32Array,
    ) -> None:
        """Give some pixels the states numbered int64 [p], in place."""
        order[pixels] = self._choices[best // self._patterns]
        chosen = np.empty((len(pixels), signs.shape[1]), np.float32)
        np.put_along_axis(chosen, self._components[best], self._flips[best], 1)
        signs[pixels] = chosen
        opened[pixels] = self._open(pixels, order[pixels], chosen)

    def _open(self, pixels: Int64Array, order: Int64Array, signs: Float32Array) -> Float32Array:
        """Return the values of some pixels by colour, float32 [p, c, n]."""
        signed = self._sealed[pixels] * signs[:, :, None]
        opened: Float32Array = np.take_along_axis(signed, self._orders[order][:, :, None], 1)
        return opened

    def _chunks(self, pixels: Int64Array) -> list[Int64Array]:
        return np.array_split(pixels, max(1, len(pixels) * self._sealed[0].size // _CHUNK_VALUES))

    def _design(self, opened: Float32Array, known: BoolArray, pixels: Int64Array) -> Float32Array:
        """Return the rows of the regression, float32 [p·n, 8·c + 1]: the values around some pixels.

        For what is unknown or beyond the border stands the mean of what is known around the pixel.
        """
        around = self._around[pixels]
        is_known = known[around] & (around >= 0)
        values = opened[around] * is_known[:, :, None, None]  # [p, 8, c, n]
        mean = values.sum(1) / np.maximum(is_known.sum(1), 1)[:, None, None].astype(np.float32)
        values += mean[:, None] * ~is_known[:, :, None, None]
        rows = values.transpose(0, 3, 1, 2).reshape(len(pixels) * values.shape[3], -1)
        return np.concatenate([rows, np.full((len(rows), 1), _CONSTANT, np.float32)], 1)

    def _fit(self, opened: Float32Array, known: BoolArray) -> tuple[Float64Array, Float64Array, float]:
        """Return the regression's weights [8·c + 1, c], its residuals' precision [c, c], and the likelihood."""
        channels, count = opened.shape[1:]
        size = len(_AROUND) * channels + 1
        gram, cross = np.zeros((size, size)), np.zeros((size, channels))
        squares = np.zeros((channels, channels))
        pixels = np.flatnonzero(known)
        for chunk in self._chunks(pixels):
            # In float32 the sums of flat pictures would be off by more than the ridge.
            rows = self._design(opened, known, chunk).astype(np.float64)
            target = opened[chunk].transpose(0, 2, 1).reshape(-1, channels).astype(np.float64)
            gram += rows.T @ rows
            cross += rows.T @ target
            squares += target.T @ target
        weights = np.linalg.solve(gram + _RIDGE * np.eye(size), cross)
        rest = squares - weights.T @ cross - cross.T @ weights + weights.T @ gram @ weights
        # Residuals of pictures that explain themselves cancel to a little below 0: such variances count as none.
        variances, axes = np.linalg.eigh((rest + rest.T) / (2 * len(pixels) * count))
        variances = np.maximum(variances, 0.0) + _RIDGE
        likelihood = -0.5 * float(np.log(variances).sum()) / channels
        precision: Float64Array = (axes / variances) @ axes.T
        return np.asarray(weights, np.float64), precision, likelihood

    def _choose(
        self,
        pixels: Int64Array,
        opened: Float32Array,
        known: BoolArray,
        weights: Float64Array,
        precision: Float64Array,
    ) -> tuple[Int64Array, Float64Array]:
        """Return the likeliest state of some pixels, int64 [p], and its margin over the second, float64 [p]."""
        count = opened.shape[2]
        costs = np.empty((len(pixels), len(self._flips)))
        root = np.linalg.cholesky(precision).astype(np.float32)
        start = 0
        for chunk in self._chunks(pixels):
            rows = self._design(opened, known, chunk) @ weights.astype(np.float32)
            predicted = rows.reshape(len(chunk), count, -1)  # [p, n, c]
            sealed = self._sealed[chunk].transpose(0, 2, 1)
            for state, (component, flip) in enumerate(zip(self._components, self._flips, strict=True)):
                rest = (sealed[:, :, component] * flip - predicted) @ root
                costs[start : start + len(chunk), state] = 0.5 * np.einsum("pna,pna->p", rest, rest)
            start += len(chunk)
        best = costs.argmin(1)
        least = costs[np.arange(len(costs)), best]
        costs[np.arange(len(costs)), best] = np.inf
        return best.astype(np.int64), costs.min(1) - least
