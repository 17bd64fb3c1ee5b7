"""Find pictures of one gray value: an empty mask, or a picture that another window or program would show."""

from __future__ import annotations

from crypto.plural import agreeing, counted
from parties.checking.glance import Look, look
from parties.checking.report import Finding, Report
from parties.checking.seen import Seen
from parties.sources.folder import Folder

_LOOK = "if a viewer shows a picture in them, state another --window or convert them"


def find_blank(report: Report, folder: Folder, seen: Seen) -> None:
    """Add how many pictures have one gray value, and an error for a class that has no others."""
    rows = [i for i, entry in enumerate(seen.looks) if isinstance(entry, Look)]
    blank = [i for i in rows if _is_blank(seen.looks[i])]
    report.blank = len(blank)
    if not blank:
        return
    lost = [label for label in range(len(report.classes)) if _has_no_other(label, folder, seen)]
    if lost:
        names = ", ".join(report.classes[label] for label in lost)
        blank = [i for i in blank if seen.items[i].label in lost]
        report.errors.append(
            Finding(
                f"every picture of {names} has one gray value, such as {seen.items[blank[0]].name}",
                f"{_LOOK}; if they are meant to be blank, such as empty masks, nothing can be learned from them:"
                " take the class away",
            )
        )
        return
    warn_of_blank(report, len(rows), seen.items[blank[0]].name)


def warn_of_blank(report: Report, looked: int, example: str) -> None:
    """Add a warning of the pictures of one gray value, of those that were looked at."""
    report.warnings.append(
        Finding(
            f"{report.blank} of {counted(looked, 'picture')} {agreeing(report.blank, 'has', 'have')} one gray "
            f"value, such as {example}",
            f"{_LOOK}; empty slices and empty masks may stay",
        )
    )


def _is_blank(entry: Look | str | None) -> bool:
    return isinstance(entry, Look) and entry.is_blank


def _has_no_other(label: int, folder: Folder, seen: Seen) -> bool:
    """Return whether all pictures of a class that can be used are blank, those that were not looked at included."""
    rows = [i for i, item in enumerate(seen.items) if item.label == label]
    known = [seen.looks[i] for i in rows if isinstance(seen.looks[i], Look)]
    if not known or not all(map(_is_blank, known)):
        return False
    others = (look(folder.path, seen.items[i], folder.reading) for i in rows if seen.looks[i] is None)
    return not any(isinstance(entry, Look) and not entry.is_blank for entry in others)
