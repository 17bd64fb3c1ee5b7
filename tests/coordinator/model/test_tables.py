"""Confusion and calibration: by their definitions, pooled over hospitals, and refused where they cannot be."""

from __future__ import annotations

import math

import numpy as np
import pytest

from coordinator.model.metrics import BINS, check, pooled, tables


def outputs(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Softmax outputs float32 [n, 3] that are right more often than not, and labels int64 [n]."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, n)
    logits = random.normal(size=(n, 3)) * 2
    logits[np.arange(n), labels] += 1.0
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return scores.astype(np.float32), labels


def error_by_definition(scores: np.ndarray, labels: np.ndarray) -> float:
    """Guo et al. 2017, section 2, image by image."""
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(10)]
    for row, label in zip(scores, labels, strict=True):
        confidence = float(max(row))
        for m in range(1, 11):
            if (m - 1) / 10 < confidence <= m / 10:
                bins[m - 1].append((confidence, int(row.argmax()) == label))
    total = 0.0
    for held in filter(None, bins):
        accuracy = sum(hit for _, hit in held) / len(held)
        confidence = sum(c for c, _ in held) / len(held)
        total += len(held) / len(labels) * abs(accuracy - confidence)
    return total


def test_tables_follow_their_definitions():
    scores = np.array([[0.95, 0.05], [0.45, 0.55], [0.25, 0.75], [1.0, 0.0]], np.float32)
    made = tables(scores, np.array([0, 0, 1, 1]))
    assert made["confusion"] == [1, 1, 1, 1]
    assert made["bin_counts"] == [0, 0, 0, 0, 0, 1, 0, 1, 0, 2]
    assert made["bin_hits"] == [0, 0, 0, 0, 0, 0, 0, 1, 0, 1]
    figures = pooled([made])
    assert figures["confusion"] == [[1, 1], [1, 1]]
    # The last bin holds a hit at 0.95 and a miss at 1.
    assert figures["calibration"]["ece"] == pytest.approx((0.55 + 0.25 + 2 * 0.475) / 4, abs=1e-6)
    edge = tables(np.array([[0.5, 0.5], [0.25, 0.75]], np.float32), np.array([0, 0]))
    assert edge["bin_counts"] == [0, 0, 0, 0, 1, 0, 0, 1, 0, 0]  # 0.5 belongs to the bin that ends there
    scores, labels = outputs(300, 1)
    expected = error_by_definition(scores, labels)
    assert pooled([tables(scores, labels)])["calibration"]["ece"] == pytest.approx(expected, abs=1e-6)
    assert expected > 0.01


def test_pooled_tables_are_those_of_all_images():
    parts = [outputs(n, seed) for n, seed in ((50, 1), (3, 2), (200, 3))]
    apart = pooled([tables(s, y) for s, y in parts])
    scores, labels = np.concatenate([s for s, _ in parts]), np.concatenate([y for _, y in parts])
    whole = pooled([tables(scores, labels)])
    assert apart["confusion"] == whole["confusion"] and apart["per_class"] == whole["per_class"]
    assert apart["calibration"]["ece"] == pytest.approx(whole["calibration"]["ece"], abs=1e-9)
    named = scores.argmax(1)
    for c in range(3):
        assert whole["per_class"]["recall"][c] == pytest.approx((named[labels == c] == c).mean())
        assert whole["per_class"]["precision"][c] == pytest.approx((labels[named == c] == c).mean())


def test_a_class_that_is_nowhere_has_no_recall_or_precision():
    made = tables(np.array([[0.2, 0.8, 0.0], [0.3, 0.7, 0.0]], np.float32), np.array([0, 1]))
    assert pooled([made])["per_class"] == {"recall": [0.0, 1.0, None], "precision": [None, 0.5, None]}


@pytest.mark.parametrize("n", [1, 7, 5000])
def test_honest_tables_pass(n):
    scores, labels = outputs(n, n)
    assert check(tables(scores, labels), 3, n) == ""
    sure = np.zeros((n, 3), np.float32)
    sure[:, 1] = 1.0000001
    assert check(tables(sure, labels), 3, n) == ""


def changed(name: str, at: int, value) -> dict:
    scores, labels = outputs(40, 5)
    made = tables(scores, labels)
    made[name][at] = value
    return made


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (dict, "instead of"),
        (lambda: {**changed("confusion", 0, 1), "more": [1]}, "instead of"),
        (lambda: changed("confusion", 0, -1), "no 40 images give"),
        (lambda: changed("confusion", 0, 1.0), "numbers of int"),
        (lambda: changed("confusion", 0, True), "numbers of int"),
        (lambda: changed("confusion", 0, 39), "another number of images"),
        (lambda: changed("bin_counts", 0, 3), "another number of images"),
        (lambda: changed("bin_hits", 9, 0), "contradict"),
        (lambda: changed("bin_confidence", 9, math.nan), "no 40 images give"),
        (lambda: changed("bin_confidence", 9, math.inf), "no 40 images give"),
        (lambda: changed("bin_confidence", 0, 1.0), "not in their bins"),
        (lambda: {**changed("confusion", 0, 1), "confusion": [40]}, "is not 9 numbers"),
        (lambda: {**changed("confusion", 0, 1), "bin_hits": [0] * (BINS + 1)}, "is not 10 numbers"),
        (lambda: {**changed("confusion", 0, 1), "bin_hits": 4}, "is not 10 numbers"),
    ],
)
def test_tables_that_cannot_be_are_refused(given, said):
    assert said in check(given(), 3, 40)
