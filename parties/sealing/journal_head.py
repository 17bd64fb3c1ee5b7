"""The head of a journal: a second file that tells when lines at the journal's end were cut.

    JOURNAL.jsonl   one entry a line, the last one in no way different from the others
    HEAD.json       how many entries there are, and the SHA-256 of all of them

The journal is written first, so a kill between the two leaves the head one entry behind, and that is no loss. Whoever
can write both files can cut both: this is against an accident, and a backup of one of the files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crypto.errors import CipherwardError
from crypto.files import read_json, write_json
from crypto.plural import counted

#: What an entry says of itself that is noted in a head. Those of an earlier version had none.
MARK: Mapping[str, object] = {"noted": True}


class JournalHead:
    """What a head says of its journal. Read it before the journal: a writer adds its entry there first."""

    def __init__(self, path: Path) -> None:
        """Read the head. path: its file, which may be missing."""
        self._name = path.name
        self._noted: tuple[int, str] | None = None
        self._is_damaged = False
        if not path.exists():
            return
        try:
            noted = read_json(path, "head of a journal")
        except CipherwardError:
            noted = None
        match noted:
            case {"entries": int(count), "sha256": str(digest)} if count > 0:
                self._noted = count, digest
            case _:
                self._is_damaged = True

    def find_loss(self, entries: Sequence[Mapping[str, Any]]) -> str:
        """Return why a journal with these entries has lost some, or "" if it is whole."""
        if self._is_damaged:
            return f"{self._name} is damaged"
        if self._noted is None:
            # Of one entry, a kill may have prevented the head.
            is_lost = sum(MARK.items() <= entry.items() for entry in entries) > 1
            return f"{self._name} is missing, and nothing else shows that it is whole" if is_lost else ""
        count, digest = self._noted
        if len(entries) < count:
            return f"it has {counted(len(entries), 'entry', 'entries')}, and {self._name} says that it had {count}"
        return "" if _digest(entries[:count]) == digest else f"it is not the one that {self._name} is of"


def note_head(path: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """Write the head of a journal with these entries."""
    write_json(path, {"entries": len(entries), "sha256": _digest(entries)})


def _digest(entries: Sequence[Mapping[str, Any]]) -> str:
    return hashlib.sha256(json.dumps(list(entries), sort_keys=True).encode()).hexdigest()
