"""Whether a report.json is what signed scores make: it has no signature of its own, and the scores have one."""

from __future__ import annotations

from collections.abc import Mapping

from coordinator.exchange.audit.scores import Scores
from coordinator.exchange.records import Record
from coordinator.report.build import build_report
from coordinator.report.records import Report
from crypto.errors import CipherwardError

#: What a report adds to the scores: no signature covers it.
UNSIGNED = ("created", "study", "versions", "machine", "training")


def require_made_of(report: Report, scores: Scores, where: str, scores_file: str) -> None:
    """Check that a report is what scores make, in every field that follows from them.

    Args:
        report: The report. Its figures fit each other (`report_file.read_report`).
        scores: The scores, whose signature was checked.
        where: The report's file, as it stands in messages.
        scores_file: The scores' file.

    Raises:
        CipherwardError: If a field differs; the message names the first.
    """
    made = build_report(scores, report.study, report.training)
    for name in type(made).model_fields:
        stated, right = getattr(report, name), getattr(made, name)
        if name in UNSIGNED or stated == right:
            continue
        place, first, second = _first_difference(name, stated, right)
        raise CipherwardError(
            f"{where} is not what {scores_file} makes: {place} is {first!r:.120}, not {second!r:.120}",
            "it was changed, is of other scores, or was written by another version: make it again from the scores "
            "with `cipherward-coordinator report`",
        )


def _first_difference(place: str, one: object, other: object) -> tuple[str, object, object]:
    """Return the place of the first difference within two values of one kind, and what stands there in both."""
    if isinstance(one, Record) and isinstance(other, Record):
        one, other = one.to_json(), other.to_json()
    if isinstance(one, tuple | list) and isinstance(other, tuple | list) and len(one) == len(other):
        one, other = dict(enumerate(one)), dict(enumerate(other))
    if not isinstance(one, Mapping) or not isinstance(other, Mapping):
        return place, one, other
    for name in [*other, *(name for name in one if name not in other)]:
        if one.get(name) != other.get(name):
            return _first_difference(f"{place}.{name}", one.get(name), other.get(name))
    return place, one, other


def unsigned_parts(report: Report) -> list[str]:
    """Return what a report says beside the scores, in words."""
    parts = ["the study's name", "the date, machine and versions of the report"]
    return [*parts, "the whole training section"] if report.training is not None else parts
