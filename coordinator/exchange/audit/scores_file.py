"""Read scores.json, and check it. The records are in scores.py, the checks in signature.py and consistency.py."""

from __future__ import annotations

from pathlib import Path

from coordinator.exchange.audit.consistency import check_scores
from coordinator.exchange.audit.scores import SCHEMA, Scores
from coordinator.exchange.audit.signature import check_signature
from coordinator.exchange.records import read_record


def read_scores(path: Path) -> Scores:
    """Read scores.json, and check its signature and every figure that follows from others.

    Raises:
        CipherwardError: If it is missing, not a scores file or damaged, if it was changed after it was signed, or
            if a figure contradicts its counts; the message names the field.
    """
    scores = read_record(Scores, path, SCHEMA, "scores", "cipherward-party score")
    check_scores(scores, str(path))  # first: it names the field
    check_signature(scores, str(path))
    return scores
