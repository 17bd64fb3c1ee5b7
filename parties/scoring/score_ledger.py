"""The score ledger: which questions about its sealed sets a hospital has answered.

    private/score-ledger.jsonl       a line for every set that was scored, and for every audit of the hospital's own
    private/score-ledger-head.json   its head (parties/sealing/journal_head.py)

A line that is gone would let a cloud ask about its set again. So lines are numbered, and nothing is read of a ledger
that has lost one: nothing is scored then. Lines of an earlier version have no number, and are read as they are.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crypto.errors import CipherwardError
from crypto.files import append_line, cut_torn_line, read_every_line
from parties.sealing.journal_head import MARK, JournalHead, note_head
from parties.sealing.place import Place

FILE, HEAD_FILE = "score-ledger.jsonl", "score-ledger-head.json"


class ScoreLedger:
    """The ledger of one hospital. Whoever appends to it holds the lock of `private/`."""

    def __init__(self, place: Place) -> None:
        self.path: Path = place.private / FILE
        self.head_path: Path = place.private / HEAD_FILE

    def entries(self) -> list[dict[str, Any]]:
        """Return all entries, oldest first.

        Raises:
            CipherwardError: If a line is missing or damaged.
        """
        head = JournalHead(self.head_path)
        lines = read_every_line(self.path)
        numbers = [line.get("number") if isinstance(line, dict) else None for line in lines]
        # Earlier versions left lines that a kill cut short, and numbered none.
        first = next((at for at, number in enumerate(numbers) if number is not None), len(lines))
        if numbers[first:] != list(range(first, len(lines))):
            raise self._damaged("a line is missing or damaged")
        entries = [line for line in lines if isinstance(line, dict)]
        if loss := head.find_loss(entries):
            raise self._damaged(loss)
        return entries

    def append(self, entry: Mapping[str, object]) -> None:
        """Add an entry with its number and time, and make it durable.

        Raises:
            CipherwardError: If a line is missing or damaged, or the disk is full.
        """
        entries = self.entries()
        cut_torn_line(self.path)  # nothing was answered under it
        number = len(read_every_line(self.path))
        line = {"number": number, **MARK, **entry, "time": int(time.time())}
        append_line(self.path, json.dumps(line))
        note_head(self.head_path, [*entries, line])

    def _damaged(self, why: str) -> CipherwardError:
        return CipherwardError(
            f"the score ledger {self.path} cannot be believed: {why}",
            f"restore it and {self.head_path.name} from your backup. Without them nobody knows which sets were "
            "scored: move both away, and seal new audit sets before the next score",
        )
