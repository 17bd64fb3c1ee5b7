"""A set's row list, `private/rows-NAME.json`: the plain image behind each sealed row, and what the files held.

digest   of the set that was sealed
source   fingerprint of the images: names, sizes, labels, and how they are read
files    stamp (sizes and times of the files) and content (a digest of all their bytes)
rows     the image of each sealed row
"""

from __future__ import annotations

import hashlib
from typing import Any

from crypto.errors import CipherwardError
from crypto.files import read_json
from crypto.plural import counted
from crypto.printable import printable
from crypto.sets.dataset import SealedDataset
from parties.sealing.place import Place
from parties.sources.catalog import FileStates
from parties.sources.source import Source


def stamp_of(states: FileStates) -> str:
    """Return a digest of the files' names, sizes and times."""
    digest = hashlib.sha256()
    for name, state in states.items():
        digest.update(f"{name}:{':'.join(map(str, state))}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()


def read_row_list(place: Place, name: str) -> dict[str, Any]:
    """Return a set's row list. Raises CipherwardError if there is none, or a damaged one."""
    record: dict[str, Any] = read_json(place.rows_file(name), "row list")
    return record


def is_unchanged(record: dict[str, Any], source: Source) -> bool:
    """Return whether the images are those of a row list. Files are read whole if any was written since."""
    if record["source"] != source.fingerprint():
        return False
    files: dict[str, str] = record.get("files", {})  # an earlier version kept none
    return files.get("stamp") == stamp_of(source.states()) or files.get("content") == source.content()


def require_unwritten(source: Source, before: FileStates) -> None:
    """Check after a source was read for sealing that nobody wrote to its files meanwhile.

    Args:
        source: The source.
        before: Its states before the first image was read.

    Raises:
        CipherwardError: If a file was written, whatever it holds now: which of its contents was sealed is not known.
    """
    hint = "nothing of the set is kept; run the same command again when nobody writes to the images"
    try:
        now = source.states()
    except CipherwardError as error:  # one is gone
        raise CipherwardError(f"images changed while they were sealed: {error.message}", hint) from None
    if now == before:
        return
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    others = f" and {counted(len(changed) - 1, 'other')}" if len(changed) > 1 else ""
    raise CipherwardError(f"images changed while they were sealed: {printable(changed[0])}{others}", hint)


def require_unchanged(place: Place, name: str, source: Source) -> dict[str, Any]:
    """Return a set's row list after checking that the plain images are those that were sealed.

    Raises:
        CipherwardError: If they are not.
    """
    record = read_row_list(place, name)
    if not is_unchanged(record, source):
        raise CipherwardError(
            f"the plain images of {place.settings.party} are not those that {name} was sealed from",
            "restore the images, or seal again",
        )
    return record


def require_recorded(sealed: SealedDataset, must: bool = False) -> None:
    """Raise CipherwardError if a set in a hospital's folder is not the one that was sealed there last.

    Keys and MACs cannot tell an earlier sealing under the same key and name from the present one; the hospital's row
    list can. A set elsewhere, or without a row list, is not judged.

    Args:
        sealed: The set.
        must: Whether a set without a row list is refused, too.
    """
    above = sealed.folder.resolve().parent
    if above.name != "sealed":  # also a set that is mounted at the root, which has nothing above it
        return
    rows_file = above.parent / "private" / f"rows-{sealed.name}.json"
    if not rows_file.exists():
        if must:
            raise CipherwardError(
                f"{rows_file}, which says what was sealed as {sealed.folder}, is missing",
                "restore it from a backup, or remove the set and seal again",
            )
        return
    if read_json(rows_file, "row list").get("digest") != sealed.digest:
        raise CipherwardError(
            f"{sealed.folder} is not the set that this hospital sealed last: another one was put in its place",
            "restore it from a backup, or remove it and seal again",
        )
