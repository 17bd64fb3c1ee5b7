"""The list of images that could not be used, `private/quarantine.txt`: a line for each, with the reason."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from crypto.files import disk_errors, write_text
from crypto.printable import printable
from parties.sealing.place import Place

QUARANTINE = "quarantine.txt"


def quarantine_line(name: str, reason: str) -> str:
    """Return the line of an image: one line, whatever its name holds."""
    return printable(f"{name}: {reason}" if reason else name)


def quarantine(place: Place, lines: Sequence[str], checked: Iterable[str]) -> None:
    """Put images on the list, each once, and take those off that were checked and can be used now.

    Args:
        place: The hospital.
        lines: Of the images that cannot be used (`quarantine_line`).
        checked: The names of all images that were looked at. What an earlier look said of them no longer counts.
    """
    path = place.private / QUARANTINE
    known = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    starts = {printable(name) for name in checked} if known else set()
    kept = [line for line in known if not _is_of(line, starts)]
    merged = list(dict.fromkeys([*kept, *lines]))
    if merged != known:
        with disk_errors(path):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_text(path, "".join(f"{line}\n" for line in merged))


def forget_absent(place: Place, names: Iterable[str]) -> None:
    """Take images off the list that are no longer there.

    Args:
        place: The hospital.
        names: The names of all images that are there, whether they can be used or not.
    """
    path = place.folder / "private" / QUARANTINE
    if not path.exists():
        return
    known, there = path.read_text(encoding="utf-8").splitlines(), {printable(name) for name in names}
    kept = [line for line in known if _is_of(line, there)]
    if kept != known:
        write_text(path, "".join(f"{line}\n" for line in kept))


def _is_of(line: str, names: set[str]) -> bool:
    """Return whether a line is of one of these images. A name may hold a colon, so every colon may end it."""
    ends = (at for at in range(len(line)) if line.startswith(": ", at))
    return line in names or any(line[:end] in names for end in ends)
