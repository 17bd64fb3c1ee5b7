"""Read scores.json, and check it. The records in it are in scores.py, the checks in consistency.py."""

from __future__ import annotations

from pathlib import Path

from coordinator.exchange.audit.consistency import check_scores
from coordinator.exchange.audit.scores import SCHEMA, Scores
from coordinator.exchange.records import read_record


def read_scores(path: Path) -> Scores:
    """Read scores.json, and check every figure that follows from others.

    Raises:
        CipherwardError: If it is missing, not a scores file or damaged, or if a figure contradicts its counts; the
            message names the field.
    """
    scores = read_record(Scores, path, SCHEMA, "scores")
    check_scores(scores, str(path))
    return scores
