"""Does something about the files, rather than about the patients, tell the class?

A model that can see it learns it. File format and mode are removed by sealing, which brings all images to one mode;
size and aspect ratio leave traces in the pixels; a border or a site stays. Each is tried alone: a decision tree
predicts the class from it, cross-validated by patient.

In `seal`, the images of other patients that are most similar in the property vote instead (`is_quick`). That needs
no scikit-learn, whose import takes longer than all other checks together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crypto.arrays import BoolArray, Float64Array, Int64Array

#: Images that the tree learns from, at most, drawn evenly.
MAX_IMAGES = 4000
_FOLDS = 5
#: Images that vote on the class of an image if values vary continuously. Set once; not tuned.
_NEIGHBOURS = 7
#: A confound is reported if the lower bound of its score is so far above chance. Set once; not tuned.
MARGIN = 0.1


@dataclass(frozen=True)
class Confound:
    """How well one property of the files predicts the class.

    Attributes:
        what: The property.
        score: Balanced accuracy, cross-validated: the mean over the classes of the share that is predicted right.
        low: Its lower bound, 95 %.
        high: Its upper bound.
        chance: The score of a guess: 1 / classes.
        images: Images that were used.
    """

    what: str
    score: float
    low: float
    high: float
    chance: float
    images: int

    @property
    def is_telling(self) -> bool:
        """Whether it tells the class."""
        return self.low > self.chance + MARGIN


def measure(
    features: dict[str, Float64Array], labels: Int64Array, groups: Int64Array, is_quick: bool = False
) -> list[Confound]:
    """Return a score for each property that varies at all.

    Args:
        features: Property → its values, float64 [n, k]. Rows with NaN are left out.
        labels: int64 [n].
        groups: Patient of each image, int64 [n]: all images of one are predicted by the others'.
        is_quick: Predict by the most similar images instead of a tree: for some hundred images.
    """
    predict = _predict_quickly if is_quick else _predict
    result = []
    for what, values in features.items():
        rows = np.flatnonzero(~np.isnan(values).any(1))
        rows = (
            rows[np.linspace(0, len(rows) - 1, min(len(rows), MAX_IMAGES)).astype(int)]
            if len(rows)
            else rows
        )
        if not len(rows) or (values[rows] == values[rows[0]]).all():
            continue
        hits = (
            predict(values[rows], labels[rows], groups[rows])
            if _is_enough(labels[rows], groups[rows])
            else None
        )
        if hits is not None:
            result.append(_score(what, hits, labels[rows]))
    return result


def _is_enough(labels: Int64Array, groups: Int64Array) -> bool:
    """Return whether there are enough images of each class, and enough patients, to cross-validate."""
    counts = np.bincount(labels)
    present = counts[counts > 0]
    return bool(len(present) >= 2 and present.min() >= _FOLDS and len(np.unique(groups)) >= 2 * _FOLDS)


def _predict_quickly(values: Float64Array, labels: Int64Array, groups: Int64Array) -> Float64Array:
    """Return whether each image's class is predicted right by the most similar images of other patients."""
    order = np.random.default_rng(0).permutation(int(groups.max()) + 1)
    # Patients in the order of their classes, each to the next fold: every fold has images of every class.
    known, first = np.unique(groups, return_index=True)
    ranked = known[np.lexsort((order[known], labels[first]))]
    folds = np.zeros(len(order), np.int64)
    folds[ranked] = np.arange(len(ranked)) % _FOLDS
    fold = folds[groups]
    codes = np.unique(values, axis=0, return_inverse=True)[1].reshape(-1)
    is_discrete = codes.max() < len(values) // (2 * _FOLDS)
    scaled = (values - values.mean(0)) / np.maximum(values.std(0), 1e-9)
    is_of = labels[:, None] == np.arange(labels.max() + 1)
    hits = np.zeros(len(labels))
    for part in range(_FOLDS):
        test, train = np.flatnonzero(fold == part), np.flatnonzero(fold != part)
        near = codes[test, None] == codes[train] if is_discrete else _nearest(scaled[test], scaled[train])
        votes = near.astype(np.float64) @ is_of[train]
        share = votes / np.maximum(is_of[train].sum(0), 1)  # as if the classes were of one size
        hits[test] = share.argmax(1) == labels[test]
    return hits


def _nearest(test: Float64Array, train: Float64Array) -> BoolArray:
    """Return which of the training images are among the _NEIGHBOURS nearest of each test image, bool [t, n]."""
    distance = ((test[:, None] - train[None]) ** 2).sum(2)
    count = min(_NEIGHBOURS, len(train))
    result: BoolArray = distance <= np.partition(distance, count - 1, axis=1)[:, count - 1 : count]
    return result


def _predict(values: Float64Array, labels: Int64Array, groups: Int64Array) -> Float64Array:
    """Return whether each image's class is predicted right."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
    from sklearn.tree import DecisionTreeClassifier

    by_patient = len(np.unique(groups)) < len(groups)
    folds = (StratifiedGroupKFold if by_patient else StratifiedKFold)(_FOLDS, shuffle=True, random_state=0)
    parts = folds.split(values, labels, groups if by_patient else None)
    hits = np.zeros(len(labels))
    for train, test in parts:
        tree = DecisionTreeClassifier(
            max_depth=6, min_samples_leaf=2, class_weight="balanced", random_state=0
        ).fit(values[train], labels[train])
        hits[test] = tree.predict(values[test]) == labels[test]
    return hits


def _score(what: str, hits: Float64Array, labels: Int64Array) -> Confound:
    """Return balanced accuracy with a normal bound (each class's variance by the rule of Agresti and Coull)."""
    present = np.unique(labels)
    counts = np.array([(labels == label).sum() for label in present])
    right = np.array([hits[labels == label].sum() for label in present])
    share = (right + 2) / (counts + 4)
    width = 1.96 * np.sqrt((share * (1 - share) / (counts + 4)).sum()) / len(present)
    score, centre = float((right / counts).mean()), float(share.mean())
    low = float(min(score, max(0.0, centre - width)))
    high = float(max(score, min(1.0, centre + width)))
    return Confound(what, score, low, high, 1 / len(present), len(labels))
