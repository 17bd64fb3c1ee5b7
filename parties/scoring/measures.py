"""How good a guess is: the measures of the suite, each a plain function on images uint8 [n, h, w, c].

The numbers of the suite, such as SSIM's window, are in coordinator/exchange/audit/suite1.py.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from PIL import Image

from coordinator.exchange.audit.rates import Rate, rate_of
from coordinator.exchange.audit.scores import Summary
from coordinator.exchange.audit.suite1 import MARGIN, NEAR_DUPLICATE, RATE_STEPS, TEXTURE, WINDOW
from coordinator.exchange.records import Record
from crypto.arrays import BoolArray, Float32Array, Float64Array, Images, Int64Array, Rows, UInt8Array
from crypto.cores import cores
from parties.scoring.pixel_sums import squared_errors, value_counts
from parties.scoring.ssim_lanes import LANES, ssim_means
from parties.scoring.ssim_windows import ssim_windows

#: Side of the thumbnails by which near-duplicates are found, in pixels.
_DUPLICATE_SIDE = 32
#: One picture may stand for this many rows before it says nothing about any of them.
_MOST_COPIES = 2
#: Images that are normalised at a time. Chosen by hand: a few megabytes.
_CHUNK = 8
#: PSNR of an exact guess, in dB.
_EXACT_PSNR = 100.0
#: Keeps a share such as 0.3 from being rounded down because its float lies just below.
_ROUNDING = 1e-9

#: Guesses are compared with the images of this many following rows, to see what they reach without being about them.
DERANGEMENTS = 3
#: V: the percentile of these comparisons that a guess must exceed.
_CEILING_PERCENTILE = 99

_AnyRecord = TypeVar("_AnyRecord", bound=Record)


def ssim(guess: UInt8Array, plain: UInt8Array) -> float:
    """Return the SSIM of two images [h, w, c] over the plain image's textured windows; NaN if it has none.

    The convention is scikit-image's (Wang et al. 2004): 7×7 uniform windows, sample covariance, range 255, a border
    of 3 pixels left out. A window counts if the plain image's standard deviation in it exceeds 2 gray levels.
    """
    if guess.shape != plain.shape or min(plain.shape[:2]) < WINDOW:
        raise ValueError(f"no windows of {WINDOW} pixels in images {guess.shape} and {plain.shape}")
    values, textured = ssim_windows(guess, plain, WINDOW, TEXTURE)
    return float(values[textured].mean()) if textured.any() else float("nan")


def ssims(guesses: Images, plains: Images) -> Float64Array:
    """Return the SSIM of each pair as `ssim` does, up to rounding: float64 [n], computed on all cores."""
    if len(guesses) != len(plains):
        raise ValueError(f"{len(guesses)} guesses of {len(plains)} images")
    if guesses.shape != plains.shape or min(plains.shape[1:3]) < WINDOW:
        raise ValueError(f"no windows of {WINDOW} pixels in images {guesses.shape} and {plains.shape}")

    def means(first: int) -> Float64Array:
        some = slice(first, first + LANES)
        return ssim_means(guesses[some], plains[some], WINDOW, TEXTURE)

    with ThreadPoolExecutor(cores()) as threads:
        return np.concatenate([np.empty(0), *threads.map(means, range(0, len(plains), LANES))])


def deranged_ssims(guesses: Images, plains: Images) -> Float64Array:
    """Return the SSIM of each guess with the images of other rows, float64 [derangements, n]."""
    turns = [turn for turn in range(1, DERANGEMENTS + 1) if turn < len(plains)]
    return np.stack([ssims(np.roll(guesses, turn, axis=0), plains) for turn in turns])


def exceeds_baselines(values: Float64Array, baselines: Mapping[str, Float64Array]) -> BoolArray:
    """Return which SSIM values [n] exceed every baseline [n] by the margin of the suite; NaN exceeds nothing."""
    exceeds: BoolArray = np.isfinite(values) & (values >= _best(list(baselines.values())) + MARGIN)
    return exceeds


def visible_rows(
    values: Float64Array, baselines: Mapping[str, Float64Array], deranged: Float64Array
) -> BoolArray:
    """Return which guesses show more of their image than every baseline and than guesses about other images (V).

    Args:
        values: SSIM of each guess, float64 [n]; NaN where the plain image has no texture.
        baselines: SSIM without any attack, float64 [n] each.
        deranged: What `deranged_ssims` returns. Its first row is a baseline too.
    """
    ceiling = float(np.nanpercentile(deranged, _CEILING_PERCENTILE))
    return exceeds_baselines(values, {**baselines, "derangement": deranged[0]}) & (values > ceiling)


def _best(baselines: Sequence[Float64Array]) -> Float64Array:
    best: Float64Array = np.nanmax(np.stack(baselines), axis=0)
    return best


def psnr(guesses: Images, plains: Images) -> Float64Array:
    """Return the peak signal-to-noise ratio of each pair in dB, float64 [n], at most 100 (an exact guess)."""
    error = squared_errors(guesses, plains) / plains[0].size
    ratio = 20 * np.log10(255.0) - 10 * np.log10(np.maximum(error, 1e-12))
    limited: Float64Array = np.minimum(_EXACT_PSNR, ratio)
    return limited


def normalised(images: UInt8Array | Float32Array) -> Float32Array:
    """Return each image with mean 0 and norm 1, float32 [n, h*w*c]; 0 where it is constant."""
    values = images.reshape(len(images), -1)
    result = np.empty(values.shape, np.float32)
    for first in range(0, len(values), _CHUNK):  # what lies between stays in the processor's cache
        some = values[first : first + _CHUNK]
        flat = some.astype(np.float32)
        flat[some.max(1) == some.min(1)] = 0  # the mean of a large image is not exact in float32
        flat -= flat.mean(1, keepdims=True)
        norm = np.linalg.norm(flat, axis=1, keepdims=True)
        np.divide(flat, np.maximum(norm, 1e-6), out=result[first : first + _CHUNK])
    return result


def nearest(guesses: Images, gallery: Images) -> Int64Array:
    """Return the gallery image with the largest normalised cross-correlation to each guess, int64 [n].

    A guess without any variation names no image (-1).
    """
    return nearest_vector(guesses, normalised(gallery))


def nearest_vector(guesses: Images, gallery: Float32Array) -> Int64Array:
    """Return what `nearest` does, for a gallery that `normalised` returned: one gallery meets many guesses."""
    scores = normalised(guesses) @ gallery.T
    named: Int64Array = scores.argmax(1)
    named[scores.max(1) <= 0] = -1
    return named


def nearest_class(
    pictures: Images, plain_thumbnails: Float32Array, labels: Int64Array, own: Rows
) -> Int64Array:
    """Return the label of the plain image whose thumbnail correlates best with each picture's, int64 [n].

    A picture without any variation has no class (-1).

    Args:
        pictures: Guesses or ciphertexts as pictures [n, h, w, c].
        plain_thumbnails: Thumbnails of the plain images, float32 [m, s*s].
        labels: Labels of the plain images, int64 [m].
        own: The plain image behind each picture, int64 [n]. It is left out.
    """
    small = thumbnails(pictures)
    scores = small @ plain_thumbnails.T
    scores[np.arange(len(pictures)), own] = -np.inf
    named: Int64Array = np.where(small.any(axis=1), labels[scores.argmax(1)], -1)
    return named


def thumbnails(images: Images, side: int = 64) -> Float32Array:
    """Return normalised gray thumbnails, float32 [n, s*s], reduced by the means of boxes to at most this side."""
    side = min(side, images.shape[1], images.shape[2])
    small = [_gray(image) for image in images]
    if images.shape[1:3] != (side, side):  # Pillow takes longer for a small image than for its pixels
        small = [
            np.asarray(Image.fromarray(gray).resize((side, side), Image.Resampling.BOX)) for gray in small
        ]
    return normalised(np.stack(small)[..., None])


def _gray(image: UInt8Array) -> UInt8Array:
    """Return the mean of the channels of an image, rounded down, uint8 [h, w]."""
    channels = image.shape[2]
    if channels == 1:
        return image[..., 0]
    total = image[..., 0].astype(np.uint16)
    for channel in range(1, channels):
        total += image[..., channel]
    gray: UInt8Array = (total // channels).astype(np.uint8)
    return gray


def near_duplicates(images: Images) -> Int64Array:
    """Return for each image the first one that it nearly equals (mostly itself), int64 [n].

    Two images are near-duplicates if the correlation of their 32×32 thumbnails exceeds 0.97: neighbouring slices of
    one scan, and re-encoded copies.
    """
    vectors = thumbnails(images, _DUPLICATE_SIDE)
    first = np.arange(len(images))
    distinct: list[int] = []
    kept = np.empty_like(vectors)  # the distinct ones' vectors, first to last
    for i in range(len(images)):
        if distinct:
            scores = kept[: len(distinct)] @ vectors[i]
            if scores.max() > NEAR_DUPLICATE:
                first[i] = distinct[int(scores.argmax())]
                continue
        kept[len(distinct)] = vectors[i]
        distinct.append(i)
    return first


def histograms(images: Images, bins: int = 64) -> Float32Array:
    """Return the value histograms of each channel, float32 [n, c*bins]; each row sums to 1."""
    n, channels = len(images), images.shape[3]
    counts = value_counts(images).reshape(n, channels * bins, 256 // bins).sum(2)
    shares: Float32Array = (counts / counts.sum(1, keepdims=True)).astype(np.float32)
    return shares


def is_informative(images: Images) -> BoolArray:
    """Return which pictures say something about their row, bool [n]: neither flat nor repeated for several rows.

    Flat is what `is_flat` says. One picture may stand for two rows.
    """
    contents = [image.tobytes() for image in images]
    times = Counter(contents)
    copies = np.array([times[content] for content in contents])
    informative: BoolArray = ~is_flat(images) & (copies <= _MOST_COPIES)
    return informative


def is_flat(images: Images) -> BoolArray:
    """Return which pictures have a standard deviation of at most 2 gray levels in every channel, bool [n]."""
    # n²·variance, in whole numbers.
    counts, value = value_counts(images), np.arange(256)
    pixels, sums = images.shape[1] * images.shape[2], (counts * value).sum(2)
    # Python's integers: n²·variance can leave int64 from 4,880 × 4,880 pixels on.
    squares = pixels * (counts * value**2).sum(2).astype(object) - sums.astype(object) ** 2
    flat: BoolArray = np.sqrt(squares.astype(np.float64)).max(axis=1) / pixels <= TEXTURE
    return flat


def coarse_rate(hits: int, n: int, *, up: bool = False) -> Rate:
    """Return a rate in steps of .05, for figures that decide nothing.

    Args:
        hits: How many cases count.
        n: How many cases there are.
        up: Whether to round up, for figures in which less would flatter.
    """
    steps = RATE_STEPS * hits / max(1, n)
    rate = (math.ceil(steps - _ROUNDING) if up else round(steps)) / RATE_STEPS
    return rate_of(round(rate * n), n)


def summarise(values: Float64Array, step: float = 0.0) -> Summary:
    """Return the median of the finite values in three digits; 0 if there are none.

    There is no percentile and no maximum: they would speak of one image. With a step it is the mean of the middle
    fifth, rounded to the step. Forged rows can make one image the median of all, and the figure must not be that
    image's own.
    """
    finite = np.sort(values[np.isfinite(values)])
    if not len(finite):
        return Summary(median=0.0)
    if not step:
        return Summary(median=round(float(np.median(finite)), 3))
    aside = 2 * len(finite) // 5
    middle = float(finite[aside : len(finite) - aside].mean())
    return Summary(median=round(round(middle / step) * step, 3))


def round_down(share: float) -> float:
    """Return a share in three digits, and never 1 unless it is 1."""
    return math.floor(share * 1000 + _ROUNDING) / 1000


def rounded_down(record: _AnyRecord) -> _AnyRecord:
    """Return the record with all its shares rounded down."""
    shares = {name: round_down(value) for name, value in record if isinstance(value, float)}
    return record.model_copy(update=shares)
