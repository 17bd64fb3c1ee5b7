"""Read report.json, and check it. The records in it are in records.py, the checks in consistency.py."""

from __future__ import annotations

from pathlib import Path

from coordinator.exchange.records import parse_record, read_record
from coordinator.report.consistency import check_report
from coordinator.report.records import SCHEMA, Report


def read_report(path: Path) -> Report:
    """Read report.json.

    Raises:
        CipherwardError: If it is missing, not a report or damaged, or if a figure contradicts the others; the message
            names the field.
    """
    return _checked(read_record(Report, path, SCHEMA, "report", "cipherward-coordinator report"), str(path))


def parse_report(value: object, where: str = "report.json") -> Report:
    """Return the report in a parsed JSON value, as docs/results/*.json hold it.

    Raises:
        CipherwardError: If it is damaged, or if a figure contradicts the others; the message names the field.
    """
    return _checked(parse_record(Report, value, where), where)


def _checked(report: Report, where: str) -> Report:
    """Return the report after every figure that follows from others was computed anew."""
    check_report(report, where)
    return report
