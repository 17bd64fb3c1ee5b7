"""What the harness keeps while it runs: a file of JSON lines, and the figures that are made of such files alone.

A line is added as soon as a fault's record is there. A harness that was ended goes on with what has no line yet.
Every line has the digest of the product's code: records of other code do not count.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.command_line import ROOT
from benchmarks.faults.deployment import PLAN
from benchmarks.faults.record import Moment, Record
from benchmarks.faults.targets import check_targets
from coordinator.report.build import machine
from crypto.files import append_line, json_text, read_lines

#: The folders of the product's code.
_CODE = ("coordinator", "crypto", "parties")
#: Rooms of it that no program of a deployed study imports: attacks, reports, scores, and the checks of image files.
NOT_DEPLOYED = ("coordinator/adversary", "coordinator/report", "parties/checking", "parties/scoring")
#: A fault's name and moment.
Trial = tuple[str, Moment]


def list_code() -> list[Path]:
    """Return the product's source files that the programs of a deployed study run, or may run."""
    paths = sorted(path for folder in _CODE for path in (ROOT / folder).rglob("*.py"))
    return [p for p in paths if not any(p.is_relative_to(ROOT / room) for room in NOT_DEPLOYED)]


def code_digest() -> str:
    """Return a digest of the source files that a deployed study runs: what the faults were tried on.

    A record of other code is none. Files that no program of the deployment runs are left out, such as attacks and
    reports: a change of them changes nothing that was measured, and would throw hours of records away.
    """
    digest = hashlib.sha256()
    for path in list_code():
        digest.update(f"{path.relative_to(ROOT)} {path.stat().st_size}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


class Ledger:
    """The records of one run of the harness and of its reruns.

    Args:
        path: the file; None to keep them in memory.
    """

    def __init__(self, path: Path | None) -> None:
        self.code = code_digest()
        self._path = path
        self._lines: list[dict[str, Any]] = read_lines(path) if path and path.exists() else []

    @property
    def records(self) -> list[dict[str, Any]]:
        """The records of this code, the last of each fault and moment."""
        return pick_records(self._lines, self.code)

    @property
    def runs(self) -> list[dict[str, Any]]:
        """The figures of the federations of this code."""
        return [line["run"] for line in self._lines if line["kind"] == "run" and line["code"] == self.code]

    def is_done(self, trial: Trial) -> bool:
        """Return whether there is a record of this code."""
        return any((record["name"], record["moment"]) == trial for record in self.records)

    def add(self, record: Record) -> None:
        """Keep a record."""
        self._append({"kind": "record", "record": record.to_json()})

    def add_run(self, figures: Mapping[str, Any]) -> None:
        """Keep the figures of a federation that was ended."""
        self._append({"kind": "run", "run": dict(figures)})

    def _append(self, line: dict[str, Any]) -> None:
        if code_digest() != self.code:
            # Programs that were started since then are of other code than those before.
            raise SystemExit(
                "the product's code changed while faults were tried: this one is not kept; start again"
            )
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        line |= {"code": self.code, "time": now, "load": round(os.getloadavg()[0], 2)}
        self._lines.append(line)
        if self._path:
            append_line(self._path, " ".join(json_text(line).split()))


def pick_records(lines: Sequence[Mapping[str, Any]], code: str) -> list[dict[str, Any]]:
    """Return the records of some code in lines, each with its time and load; the last of each fault and moment."""
    records: dict[Trial, dict[str, Any]] = {}
    for line in lines:
        if line["kind"] == "record" and line["code"] == code:
            record = line["record"]
            records[record["name"], record["moment"]] = {
                **record,
                "time": line["time"],
                "load": line["load"],
            }
    return list(records.values())


def make_figures(files: Sequence[Path], trials: Mapping[Trial, str]) -> dict[str, Any]:
    """Return the figures that the page is made of, from files of lines alone.

    Args:
        files: files of JSON lines.
        trials: the title of each fault and moment of the table. What has no record is in the figures as skipped.
    """
    code = code_digest()
    lines = [line for path in files for line in read_lines(path)]
    known = {(record["name"], record["moment"]): record for record in pick_records(lines, code)}
    missing = "no record of it: the harness was ended before"
    records = [
        known.get((name, moment)) or asdict(Record(name, title, moment, skipped=missing))
        for (name, moment), title in trials.items()
    ]
    runs = [line["run"] for line in lines if line["kind"] == "run" and line["code"] == code]
    medians = [record["round_s"] for record in records if record["round_s"]]
    now = datetime.datetime.now(datetime.UTC).isoformat()
    about = {
        "schema": "cipherward.faults/2",
        "machine": machine(),
        "created": now,
        "code": code,
        "hospitals": 3,
    }
    about |= {name: PLAN[name] for name in ("quorum", "deadline_s", "grace_s")}
    about |= {"round_seconds": statistics.median(medians) if medians else None}
    about |= {"other_code": sum(line["code"] != code for line in lines)}
    targets = [asdict(target) for target in check_targets(records, runs, float(PLAN["deadline_s"]))]
    return {**about, "targets": targets, "runs": runs, "records": records}
