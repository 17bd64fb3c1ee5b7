"""The rounds of a training, as the lines of its journal tell them: cloud/rounds.jsonl."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def finished_rounds(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rounds whose updates were aggregated, in order, each once.

    A round that was interrupted before its checkpoint is there twice: the later line counts. Where training began
    again from an earlier round, the rounds after it are of the training before, and do not count.

    Args:
        rows: lines of the journal.
    """
    rounds: list[dict[str, Any]] = []
    for row in rows:
        if row["aggregated"]:
            rounds = [earlier for earlier in rounds if earlier["round"] < row["round"]]
            rounds.append(row)
    return rounds
