"""Tables of an evaluation that add up: confusion and calibration, pooled over hospitals.

    confusion      k·k counts, row after row: rows are the true classes, columns those that the model named
    bin_counts     images in each of ten bins of confidence, ((m − 1) / 10, m / 10] for m = 1 … 10
    bin_hits       of those, how many the model was right about
    bin_confidence the sum of their confidences

Confidence is the probability of the class named. What a hospital sends is these sums alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

BINS = 10
Tables = Mapping[str, Sequence[float]]


def tables(scores: np.ndarray, labels: np.ndarray) -> dict[str, list[int] | list[float]]:
    """The tables of softmax outputs [n, classes] against labels int64 [n]."""
    classes, named = scores.shape[1], scores.argmax(1)
    confusion = np.bincount(labels * classes + named, minlength=classes**2)
    confidence = np.minimum(scores.max(1).astype(np.float64), 1.0)
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    hits = np.bincount(bins[named == labels], minlength=BINS)
    return {
        "confusion": confusion.tolist(),
        "bin_counts": np.bincount(bins, minlength=BINS).tolist(),
        "bin_hits": hits.tolist(),
        "bin_confidence": np.bincount(bins, confidence, BINS).tolist(),
    }


def check(given: Mapping[str, Any], classes: int, images: int) -> str:
    """Why tables from outside cannot be those of so many images, or "" where they can."""
    lengths = {"confusion": classes**2, "bin_counts": BINS, "bin_hits": BINS, "bin_confidence": BINS}
    if set(given) != set(lengths):
        return f"tables {sorted(given)} instead of {sorted(lengths)}"
    for name, length in lengths.items():
        kind = float if name == "bin_confidence" else int
        values = given[name]
        if (
            not isinstance(values, list)
            or len(values) != length
            or any(type(v) is not kind for v in values)
        ):
            return f"table {name} is not {length} numbers of {kind.__name__}"
        if not all(0 <= v <= images for v in values):  # NaN is not, either
            return f"table {name} holds what no {images} images give"
    confusion, counts, hits, sums = (np.array(given[name]) for name in lengths)
    right = int(np.trace(confusion.reshape(classes, classes)))
    if int(confusion.sum()) != images or int(counts.sum()) != images:
        return f"tables of another number of images than {images}"
    if int(hits.sum()) != right or (hits > counts).any():
        return "tables that contradict one another"
    edges = np.arange(BINS + 1) / BINS
    # A sum of float32 confidences may come out a rounding beside its bin.
    slack = 1e-5 * counts
    if (sums < edges[:-1] * counts - slack).any() or (sums > edges[1:] * counts + slack).any():
        return "confidences that are not in their bins"
    return ""


def pooled(parts: Sequence[Tables]) -> dict[str, Any]:
    """The tables of several hospitals as one evaluation of all their images.

    confusion: [[int]], rows the true classes. per_class: recall and precision of each class, None where no image
    is of it, or none was named it. calibration: the expected calibration error and its bins.
    """
    confusion, counts, hits, sums = (
        np.sum([part[name] for part in parts], axis=0)
        for name in ("confusion", "bin_counts", "bin_hits", "bin_confidence")
    )
    classes = round(len(confusion) ** 0.5)
    square = confusion.reshape(classes, classes)
    return {
        "confusion": square.tolist(),
        "per_class": {
            "recall": _shares(square.diagonal(), square.sum(1)),
            "precision": _shares(square.diagonal(), square.sum(0)),
        },
        "calibration": {
            "ece": calibration_error(counts, hits, sums),
            "bins": [
                {"count": int(n), "accuracy": a, "confidence": c}
                for n, a, c in zip(counts, _shares(hits, counts), _shares(sums, counts), strict=True)
            ],
        },
    }


def calibration_error(counts: np.ndarray, hits: np.ndarray, sums: np.ndarray) -> float:
    """Expected calibration error, Σ |Bm| / n · |accuracy(Bm) − confidence(Bm)| (Guo et al. 2017, equation 3)."""
    held = counts > 0
    accuracy, confidence = hits[held] / counts[held], sums[held] / counts[held]
    return float((counts[held] / counts.sum() * np.abs(accuracy - confidence)).sum())


def _shares(part: np.ndarray, whole: np.ndarray) -> list[float | None]:
    return [float(p / w) if w else None for p, w in zip(part, whole, strict=True)]
