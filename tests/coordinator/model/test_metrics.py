"""AUC, confusion and calibration: their definitions, pooling over hospitals, and the refusal of impossible tables."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from coordinator.model.metrics import BINS, check_tables, pool_tables, roc_auc, tabulate
from crypto.arrays import Float32Array, Int64Array


def draw_outputs(n: int, seed: int) -> tuple[Float32Array, Int64Array]:
    """Return softmax outputs float32 [n, 3] that are correct more often than not, and labels int64 [n]."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, n)
    logits = random.normal(size=(n, 3)) * 2
    logits[np.arange(n), labels] += 1.0
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return scores.astype(np.float32), labels


def calibration_error_by_definition(scores: Float32Array, labels: Int64Array) -> float:
    """Compute the expected calibration error image by image (Guo et al. 2017, section 2)."""
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(10)]
    for row, label in zip(scores, labels, strict=True):
        confidence = float(max(row))
        for m in range(1, 11):
            if (m - 1) / 10 < confidence <= m / 10:
                bins[m - 1].append((confidence, int(row.argmax()) == label))
    total = 0.0
    for occupied in filter(None, bins):
        accuracy = sum(hit for _, hit in occupied) / len(occupied)
        confidence = sum(c for c, _ in occupied) / len(occupied)
        total += len(occupied) / len(labels) * abs(accuracy - confidence)
    return total


def test_tables_follow_their_definitions() -> None:
    scores = np.array([[0.95, 0.05], [0.45, 0.55], [0.25, 0.75], [1.0, 0.0]], np.float32)
    tables = tabulate(scores, np.array([0, 0, 1, 1]))
    assert tables["confusion"] == [1, 1, 1, 1]
    assert tables["bin_counts"] == [0, 0, 0, 0, 0, 1, 0, 1, 0, 2]
    assert tables["bin_hits"] == [0, 0, 0, 0, 0, 0, 0, 1, 0, 1]
    figures = pool_tables([tables])
    assert figures["confusion"] == [[1, 1], [1, 1]]
    # The last bin holds a hit at 0.95 and a miss at 1.
    assert figures["calibration"]["ece"] == pytest.approx((0.55 + 0.25 + 2 * 0.475) / 4, abs=1e-6)
    edge = tabulate(np.array([[0.5, 0.5], [0.25, 0.75]], np.float32), np.array([0, 0]))
    assert edge["bin_counts"] == [0, 0, 0, 0, 1, 0, 0, 1, 0, 0]  # 0.5 belongs to the bin that ends there
    scores, labels = draw_outputs(300, 1)
    expected = calibration_error_by_definition(scores, labels)
    assert pool_tables([tabulate(scores, labels)])["calibration"]["ece"] == pytest.approx(
        expected, abs=1e-6
    )
    assert expected > 0.01


def test_pooled_tables_equal_the_tables_of_all_images() -> None:
    parts = [draw_outputs(n, seed) for n, seed in ((50, 1), (3, 2), (200, 3))]
    pooled = pool_tables([tabulate(s, y) for s, y in parts])
    scores, labels = np.concatenate([s for s, _ in parts]), np.concatenate([y for _, y in parts])
    whole = pool_tables([tabulate(scores, labels)])
    assert pooled["confusion"] == whole["confusion"] and pooled["per_class"] == whole["per_class"]
    assert pooled["calibration"]["ece"] == pytest.approx(whole["calibration"]["ece"], abs=1e-9)
    predicted = scores.argmax(1)
    for c in range(3):
        assert whole["per_class"]["recall"][c] == pytest.approx((predicted[labels == c] == c).mean())
        assert whole["per_class"]["precision"][c] == pytest.approx((labels[predicted == c] == c).mean())


def test_an_absent_class_has_no_recall_and_no_precision() -> None:
    tables = tabulate(np.array([[0.2, 0.8, 0.0], [0.3, 0.7, 0.0]], np.float32), np.array([0, 1]))
    assert pool_tables([tables])["per_class"] == {
        "recall": [0.0, 1.0, None],
        "precision": [None, 0.5, None],
    }


@pytest.mark.parametrize("n", [1, 7, 5000])
def test_honest_tables_pass(n: int) -> None:
    scores, labels = draw_outputs(n, n)
    assert check_tables(tabulate(scores, labels), 3, n) == ""
    certain = np.zeros((n, 3), np.float32)
    certain[:, 1] = 1.0000001
    assert check_tables(tabulate(certain, labels), 3, n) == ""


def changed_tables(name: str, index: int, value: float) -> dict[str, Any]:
    """Return honest tables of 40 images with one entry changed."""
    scores, labels = draw_outputs(40, 5)
    tables: dict[str, Any] = tabulate(scores, labels)
    tables[name][index] = value
    return tables


@pytest.mark.parametrize(
    ("make_tables", "reason"),
    [
        (dict, "instead of"),
        (lambda: {**changed_tables("confusion", 0, 1), "more": [1]}, "instead of"),
        (lambda: changed_tables("confusion", 0, -1), "impossible for 40 images"),
        (lambda: changed_tables("confusion", 0, 1.0), "numbers of int"),
        (lambda: changed_tables("confusion", 0, True), "numbers of int"),
        (lambda: changed_tables("confusion", 0, 39), "another number of images"),
        (lambda: changed_tables("bin_counts", 0, 3), "another number of images"),
        (lambda: changed_tables("bin_hits", 9, 0), "contradict"),
        (lambda: changed_tables("bin_confidence", 9, math.nan), "impossible for 40 images"),
        (lambda: changed_tables("bin_confidence", 9, math.inf), "impossible for 40 images"),
        (lambda: changed_tables("bin_confidence", 0, 1.0), "not in their bins"),
        (lambda: {**changed_tables("confusion", 0, 1), "confusion": [40]}, "is not 9 numbers"),
        (lambda: {**changed_tables("confusion", 0, 1), "bin_hits": [0] * (BINS + 1)}, "is not 10 numbers"),
        (lambda: {**changed_tables("confusion", 0, 1), "bin_hits": 4}, "is not 10 numbers"),
    ],
)
def test_impossible_tables_are_refused(make_tables: Callable[[], dict[str, Any]], reason: str) -> None:
    assert reason in check_tables(make_tables(), 3, 40)


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("digits", [1, 2, 9])
def test_auc_equals_that_of_scikit_learn(classes: int, digits: int) -> None:
    """Few digits make many ties."""
    random = np.random.default_rng(classes + 10 * digits)
    labels = np.concatenate([np.arange(classes), random.integers(0, classes, 200)])
    logits = random.normal(size=(len(labels), classes))
    logits[np.arange(len(labels)), labels] += 0.7
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    scores = np.maximum(scores.round(digits), 10.0**-digits).astype(np.float32)
    shares = scores.astype(np.float64) / scores.astype(np.float64).sum(1, keepdims=True)
    expected = roc_auc_score(labels, shares[:, 1] if classes == 2 else shares, multi_class="ovr")
    assert 0.5 < expected < 1
    assert roc_auc(scores, labels) == pytest.approx(float(expected), abs=1e-12)


def test_auc_without_a_class_is_not_defined() -> None:
    scores = np.full((4, 3), 1 / 3, np.float32)
    assert math.isnan(roc_auc(scores, np.array([0, 1, 1, 0])))
    assert math.isnan(roc_auc(np.ones((4, 1), np.float32), np.zeros(4, np.int64)))
