"""How good a guess is: the measures of `suite/1`, each a plain function on uint8 images [n, h, w, c]."""

from __future__ import annotations

import functools
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import uniform_filter
from scipy.stats import binomtest
from skimage.metrics import structural_similarity

from crypto.cores import cores

WINDOW = 7
TEXTURE = 2.0  # gray levels: windows flatter than this score high whatever the guess
NEAR_DUPLICATE = 0.97


def ssim(guess: np.ndarray, plain: np.ndarray) -> float:
    """SSIM of two uint8 [h, w, c] images over the plain image's textured windows; NaN where it has none.

    scikit-image's convention (Wang et al. 2004): 7×7 uniform windows, sample covariance, range 255, a
    border of 3 left out. A window counts where the plain image's standard deviation in it exceeds 2.
    """
    _, values = structural_similarity(
        guess, plain, win_size=WINDOW, data_range=255, channel_axis=-1, full=True
    )
    x = plain.astype(np.float64)
    size = (WINDOW, WINDOW, 1)
    mean = uniform_filter(x, size)
    spread = np.sqrt(np.maximum(uniform_filter(x * x, size) - mean * mean, 0) * (49 / 48))
    edge = WINDOW // 2
    inner = (slice(edge, -edge), slice(edge, -edge))
    textured = spread[inner] > TEXTURE
    return float(values[inner][textured].mean()) if textured.any() else float("nan")


def ssims(guesses: np.ndarray, plains: np.ndarray) -> np.ndarray:
    """float64 [n]: ssim of each pair, on all cores."""
    if len(guesses) != len(plains):
        raise ValueError(f"{len(guesses)} guesses of {len(plains)} images")
    with ThreadPoolExecutor(cores()) as threads:
        return np.array(list(threads.map(ssim, guesses, plains)), np.float64)


def psnr(guesses: np.ndarray, plains: np.ndarray) -> np.ndarray:
    """float64 [n]: peak signal-to-noise ratio in dB, at most 100 (an exact guess)."""
    error = ((guesses.astype(np.float64) - plains) ** 2).mean(axis=(1, 2, 3))
    return np.minimum(100.0, 20 * np.log10(255.0) - 10 * np.log10(np.maximum(error, 1e-12)))


def unit(images: np.ndarray) -> np.ndarray:
    """float32 [n, h*w*c]: each image with mean 0 and norm 1 (0 where it is constant)."""
    flat = images.reshape(len(images), -1).astype(np.float32)
    flat[flat.max(1) == flat.min(1)] = 0  # a large image's mean is not exact in float32
    flat -= flat.mean(1, keepdims=True)
    norm = np.linalg.norm(flat, axis=1, keepdims=True)
    return flat / np.maximum(norm, 1e-6)


def nearest(guesses: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """int64 [n]: the gallery image with the largest normalised cross-correlation to each guess.

    A guess without any variation names nobody (-1).
    """
    scores = unit(guesses) @ unit(gallery).T
    found = scores.argmax(1)
    found[scores.max(1) <= 0] = -1
    return found


def nearest_class(
    pictures: np.ndarray, plains: np.ndarray, labels: np.ndarray, own: np.ndarray
) -> np.ndarray:
    """int64 [n]: the label of the plain image whose thumbnail correlates best with each picture's.

    A picture without any variation is of no class (-1). plains: float32 [m, s*s], their `thumbnails`.
    labels: int64 [m]. own: int64 [n], the plain image behind each picture, which is left out.
    """
    small = thumbnails(pictures)
    scores = small @ plains.T
    scores[np.arange(len(pictures)), own] = -np.inf
    named: np.ndarray = np.where(small.any(axis=1), labels[scores.argmax(1)], -1)
    return named


def thumbnails(images: np.ndarray, side: int = 64) -> np.ndarray:
    """float32 [n, s*s]: gray, reduced by the means of boxes to a side of at most this, with mean 0 and norm 1."""
    side = min(side, images.shape[1], images.shape[2])
    gray = images.mean(axis=3).astype(np.uint8)
    small = [np.asarray(Image.fromarray(i).resize((side, side), Image.Resampling.BOX)) for i in gray]
    return unit(np.stack(small)[..., None])


def near_duplicates(images: np.ndarray) -> np.ndarray:
    """int64 [n]: for each image the first one it nearly equals (itself, mostly).

    Correlation of 32×32 thumbnails above 0.97: neighbouring slices of one scan, and re-encoded copies.
    """
    vectors = thumbnails(images, 32)
    leader = np.arange(len(images))
    kept: list[int] = []
    for i in range(len(images)):
        if kept:
            scores = vectors[kept] @ vectors[i]
            if scores.max() > NEAR_DUPLICATE:
                leader[i] = kept[int(scores.argmax())]
                continue
        kept.append(i)
    return leader


def histograms(images: np.ndarray, bins: int = 64) -> np.ndarray:
    """float32 [n, c*bins]: value histograms of each channel, summing to 1."""
    n, c = len(images), images.shape[3]
    bin_of = (images.reshape(n, -1, c).astype(np.int64) * bins) // 256
    place = bin_of + bins * np.arange(c)
    counts = np.stack([np.bincount(p.ravel(), minlength=c * bins) for p in place])
    return (counts / counts.sum(1, keepdims=True)).astype(np.float32)


def tells(images: np.ndarray) -> np.ndarray:
    """bool [n]: which pictures say something of a row: neither flat nor handed back for several rows.

    Flat: a standard deviation of 2 gray levels at most in every channel. One picture may stand twice.
    """
    spread = images.std(axis=(1, 2)).max(axis=1)
    flat = np.ascontiguousarray(images).reshape(len(images), -1)
    _, same, counts = np.unique(flat, axis=0, return_inverse=True, return_counts=True)
    told: np.ndarray = (spread > TEXTURE) & (counts[same.ravel()] <= 2)
    return told


def share(hits: int, n: int) -> dict[str, Any]:
    """A rate with its two-sided 95 % Wilson bounds."""
    if n == 0:
        return {"hits": 0, "n": 0, "rate": 0.0, "low": 0.0, "high": 1.0}
    low, high = _wilson(int(hits), int(n))
    return {"hits": int(hits), "n": int(n), "rate": hits / n, "low": low, "high": high}


@functools.lru_cache(
    maxsize=4096
)  # SciPy works out a p-value as well, and an audit asks for the same few again
def _wilson(hits: int, n: int) -> tuple[float, float]:
    bounds = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    return float(bounds.low), float(bounds.high)


def coarse_share(hits: int, n: int, *, up: bool = False) -> dict[str, Any]:
    """`share` in steps of .05, for figures that decide nothing; up: to the next step, where less would flatter."""
    steps = 20 * hits / max(1, n)
    rate = (math.ceil(steps - 1e-9) if up else round(steps)) / 20
    return share(round(rate * n), n)


def summary(values: np.ndarray, step: float = 0.0) -> dict[str, float]:
    """The median in three digits. No percentile and no maximum: they would speak of one image.

    With a step it is the mean of the middle fifth, to the next step: forged rows can make one image the median
    of all, and what is told must not be that image's own figure.
    """
    v = np.sort(values[np.isfinite(values)])
    if not len(v):
        return {"median": 0.0}
    if not step:
        return {"median": round(float(np.median(v)), 3)}
    aside = 2 * len(v) // 5
    middle = float(v[aside : len(v) - aside].mean())
    return {"median": round(round(middle / step) * step, 3)}


def floored(figures: Any) -> Any:
    """Shares in three digits, and never 1 for less than all of it; also within dicts and lists."""
    if isinstance(figures, dict):
        return {name: floored(value) for name, value in figures.items()}
    return math.floor(figures * 1000 + 1e-9) / 1000 if isinstance(figures, float) else figures
