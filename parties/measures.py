"""How good a guess is: the measures of `suite/1`, each a plain function on uint8 images [n, h, w, c]."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import uniform_filter
from scipy.stats import binomtest
from skimage.metrics import structural_similarity

from crypto.apply import cores

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

    plains: float32 [m, s*s], their `thumbnails`. labels: int64 [m]. own: int64 [n], the plain image behind each
    picture, which is left out.
    """
    scores = thumbnails(pictures) @ plains.T
    scores[np.arange(len(pictures)), own] = -np.inf
    named: np.ndarray = labels[scores.argmax(1)]
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


def _rounded(value: float) -> float:
    """Three digits: enough to read, and little for whoever collects figures about single images."""
    return round(float(value), 3)


def share(hits: int, n: int) -> dict[str, Any]:
    """A rate with its two-sided 95 % Wilson bounds."""
    if n == 0:
        return {"hits": 0, "n": 0, "rate": 0.0, "low": 0.0, "high": 1.0}
    bounds = binomtest(int(hits), int(n)).proportion_ci(0.95, method="wilson")
    return {
        "hits": int(hits),
        "n": int(n),
        "rate": hits / n,
        "low": float(bounds.low),
        "high": float(bounds.high),
    }


def summary(values: np.ndarray) -> dict[str, float]:
    """Median and 95th percentile, in three digits. No maximum: it would speak of one image."""
    v = values[np.isfinite(values)]
    if not len(v):
        return {"median": 0.0, "p95": 0.0}
    return {"median": _rounded(np.median(v)), "p95": _rounded(np.percentile(v, 95))}
