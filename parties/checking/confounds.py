"""Does something about the files, rather than about the patients, tell the class?

A model that can see it learns it. File format and mode are removed by sealing, which brings all images to one mode;
size and aspect ratio leave traces in the pixels; a border or a site stays. Each is tried alone: a decision tree
predicts the class from it, cross-validated by patient.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crypto.arrays import Float64Array, Int64Array

#: Images that the tree learns from, at most, drawn evenly.
MAX_IMAGES = 4000
_FOLDS = 5
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


def measure(features: dict[str, Float64Array], labels: Int64Array, groups: Int64Array) -> list[Confound]:
    """Return a score for each property that varies at all.

    Args:
        features: Property → its values, float64 [n, k]. Rows with NaN are left out.
        labels: int64 [n].
        groups: Patient of each image, int64 [n]: all images of one are predicted by the others'.
    """
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
        hits = _predict(values[rows], labels[rows], groups[rows])
        if hits is not None:
            result.append(_score(what, hits, labels[rows]))
    return result


def _predict(values: Float64Array, labels: Int64Array, groups: Int64Array) -> Float64Array | None:
    """Return whether each image's class is predicted right, or None if there are too few images or patients."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
    from sklearn.tree import DecisionTreeClassifier

    least = np.bincount(labels)[np.unique(labels)].min()
    if len(np.unique(labels)) < 2 or least < _FOLDS or len(np.unique(groups)) < 2 * _FOLDS:
        return None
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
