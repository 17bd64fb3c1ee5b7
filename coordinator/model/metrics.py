"""Figures of an evaluation: accuracy, loss and AUC of one hospital, and tables that add up over hospitals.

The tables of confusion and calibration:

    confusion       k·k counts, row after row: rows are the true classes, columns the predicted ones
    bin_counts      images in each of ten bins of confidence, ((m − 1) / 10, m / 10] for m = 1 … 10
    bin_hits        images of each bin that the model classified correctly
    bin_confidence  the sum of the confidences of each bin

Confidence is the probability of the predicted class. A hospital sends these sums only, nothing about single images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from crypto.arrays import AnyArray, BoolArray, Float32Array, Int64Array
from crypto.errors import CipherwardError

BINS = 10
Tables = Mapping[str, Sequence[float]]


def measure(scores: Float32Array, labels: Int64Array) -> Mapping[str, float]:
    """Return accuracy, cross-entropy and AUC of softmax outputs, as `accuracy`, `loss` and `auc`.

    Args:
        scores: softmax outputs [n, classes].
        labels: true classes, int64 [n].

    Raises:
        CipherwardError: if an output is not finite, because the training diverged.
    """
    if not np.isfinite(scores).all():
        raise CipherwardError("training diverged: the model's outputs are not finite", "set a lower lr")
    true_class_scores = scores[np.arange(len(labels)), labels]
    return {
        "accuracy": float((scores.argmax(1) == labels).mean()),
        "loss": float(-np.log(np.maximum(true_class_scores, 1e-12)).mean()),
        "auc": roc_auc(scores, labels),
    }


def roc_auc(scores: Float32Array, labels: Int64Array) -> float:
    """Return the area under the ROC curve: one class against the rest, averaged over classes (macro).

    With two classes it is the AUC of class 1. It is NaN if a class has no image, because AUC is not defined then.

    Args:
        scores: finite class scores [n, classes]. Each row is divided by its sum first.
        labels: true classes, int64 [n].
    """
    classes = scores.shape[1]
    if classes < 2 or len(np.unique(labels)) != classes:
        return float("nan")
    shares = scores.astype(np.float64)
    shares /= shares.sum(1, keepdims=True)
    positive_classes = [1] if classes == 2 else range(classes)
    return float(np.mean([_binary_auc(shares[:, c], labels == c) for c in positive_classes]))


def _binary_auc(scores: AnyArray, is_positive: BoolArray) -> float:
    """Return the share of (positive, negative) pairs in the right order, ties counted as one half (Mann–Whitney U).

    Whole numbers until the last division. scikit-learn gives the same figure, but takes a second to import.
    """
    _, group, group_sizes = np.unique(scores, return_inverse=True, return_counts=True)
    # Tied scores share the mean of their ranks; twice that mean is a whole number.
    doubled_ranks = (2 * np.cumsum(group_sizes) - group_sizes + 1)[group]
    positives = int(is_positive.sum())
    negatives = len(scores) - positives
    doubled_u = int(doubled_ranks[is_positive].sum()) - positives * (positives + 1)
    return doubled_u / (2 * positives * negatives)


def tabulate(scores: Float32Array, labels: Int64Array) -> dict[str, list[int] | list[float]]:
    """Return the tables of softmax outputs [n, classes] against labels int64 [n]."""
    classes, predicted = scores.shape[1], scores.argmax(1)
    confusion = np.bincount(labels * classes + predicted, minlength=classes**2)
    confidence = np.minimum(scores.max(1).astype(np.float64), 1.0)
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    hits = np.bincount(bins[predicted == labels], minlength=BINS)
    return {
        "confusion": confusion.tolist(),
        "bin_counts": np.bincount(bins, minlength=BINS).tolist(),
        "bin_hits": hits.tolist(),
        "bin_confidence": np.bincount(bins, confidence, BINS).tolist(),
    }


def check_tables(tables: Mapping[str, Any], classes: int, images: int) -> str:
    """Return why tables from outside cannot describe that number of images, or "" if they can."""
    lengths = {"confusion": classes**2, "bin_counts": BINS, "bin_hits": BINS, "bin_confidence": BINS}
    if set(tables) != set(lengths):
        return f"tables {sorted(tables)} instead of {sorted(lengths)}"
    for name, length in lengths.items():
        kind = float if name == "bin_confidence" else int
        values = tables[name]
        if (
            not isinstance(values, list)
            or len(values) != length
            or any(type(v) is not kind for v in values)
        ):
            return f"table {name} is not {length} numbers of {kind.__name__}"
        if not all(0 <= v <= images for v in values):  # also false for NaN
            return f"table {name} holds values that are impossible for {images} images"
    return _find_contradiction(tables, classes, images)


def _find_contradiction(tables: Mapping[str, Any], classes: int, images: int) -> str:
    """Return where well-formed tables contradict one another or the number of images, or ""."""
    confusion, counts, hits, sums = (
        np.array(tables[name]) for name in ("confusion", "bin_counts", "bin_hits", "bin_confidence")
    )
    correct = int(np.trace(confusion.reshape(classes, classes)))
    if int(confusion.sum()) != images or int(counts.sum()) != images:
        return f"tables of another number of images than {images}"
    if int(hits.sum()) != correct or (hits > counts).any():
        return "tables that contradict one another"
    edges = np.arange(BINS + 1) / BINS
    # The sum of float32 confidences may exceed its bin by a rounding error.
    slack = 1e-5 * counts
    if (sums < edges[:-1] * counts - slack).any() or (sums > edges[1:] * counts + slack).any():
        return "confidences that are not in their bins"
    return ""


def pool_tables(parts: Sequence[Tables]) -> dict[str, Any]:
    """Return the tables of several hospitals as one evaluation of all their images.

    Returns:
        `confusion`: [[int]], rows are the true classes. `per_class`: recall and precision of each class; recall is
        None if the class has no image, precision if the class was never predicted. `calibration`: the expected
        calibration error, and the bins that it comes from.
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


def calibration_error(counts: AnyArray, hits: AnyArray, sums: AnyArray) -> float:
    """Return the expected calibration error, Σ |Bm| / n · |accuracy(Bm) − confidence(Bm)|.

    Source: Guo et al. 2017, equation 3. Arguments: images, hits and summed confidences of each bin.
    """
    occupied = counts > 0
    accuracy, confidence = hits[occupied] / counts[occupied], sums[occupied] / counts[occupied]
    return float((counts[occupied] / counts.sum() * np.abs(accuracy - confidence)).sum())


def _shares(parts: AnyArray, wholes: AnyArray) -> list[float | None]:
    """Return part / whole of each pair, None where the whole is zero."""
    return [float(p / w) if w else None for p, w in zip(parts, wholes, strict=True)]
