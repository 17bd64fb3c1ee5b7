"""What faults cost a deployed federation: a table of what happened, the time lost and the data lost.

    python -m benchmarks.faults [--only NAME …] [--moments 1] [--set key=value …] [--json FILE]

Three hospitals and a coordinator run as real processes on the loopback interface, with the product's own
commands. They train a small model, and fault after fault strikes one hospital, `hospital-1`, or the coordinator. If
FILE exists, its records of other faults are kept, so the faults can be tried in several runs. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # it has no types
from rich.console import Console
from rich.table import Table

from benchmarks.command_line import add_json, make_parser, parse_settings, write_figures
from benchmarks.faults.at_the_door import DOOR_FAULTS, try_door
from benchmarks.faults.deployment import PLAN, Deployment, TimedOutError
from benchmarks.faults.machine_faults import CLOUD_DISK, HOSPITAL_DISK, MACHINE_FAULTS, small_disk
from benchmarks.faults.observe import MOMENTS, VICTIM, Moment, Observer, Record
from benchmarks.faults.striking import AT_WORK, FAULTS, Fault, join_late
from coordinator.exchange.plan import Plan
from coordinator.report.build import machine
from coordinator.study.study import party_folder

_console = Console()
_DISKS = ("full-hospital", "full-cloud")
#: The fault of a hospital that is not there when the study begins.
ABSENT = "absent"
NAMES = (ABSENT, *FAULTS, *MACHINE_FAULTS, *DOOR_FAULTS)
_SHOWN = ("fault", "moment", "rounds_missed", "seconds_lost", "back_after_s", "data_lost", "skipped")


def run_faults(
    names: Sequence[str], moments: int = 1, settings: dict[str, Any] | None = None
) -> tuple[list[Record], dict[str, Any]]:
    """Try faults, one after the other, in one federation.

    Args:
        names: what to try, of NAMES.
        moments: at how many moments of a round each strikes, if it strikes one.
        settings: changes of the plan.

    Returns:
        A record for each, and figures of the run. What this machine does not allow is recorded as skipped.
    """
    skipped = {name: why for name, (_, test) in MACHINE_FAULTS.items() if name in names and (why := test())}
    records = [Record(name, skipped=why) for name, why in skipped.items()]
    striking = [name for name in names if name in (FAULTS.keys() | MACHINE_FAULTS.keys()) - skipped.keys()]
    with (
        tempfile.TemporaryDirectory(prefix="cipherward-faults-") as temporary,
        contextlib.ExitStack() as disks,
    ):
        folder = Path(temporary) / "f"
        if set(_DISKS) & set(striking):
            place = party_folder(folder / "study", int(VICTIM.rpartition("-")[2]))
            disks.enter_context(small_disk(place, HOSPITAL_DISK))
            disks.enter_context(small_disk(folder / "cloud", CLOUD_DISK))
        deployment = Deployment(folder, Plan.model_validate({**PLAN, **(settings or {})}))
        try:
            figures: dict[str, Any] = {"server_start_seconds": deployment.start_server()}
            if striking or ABSENT in names:
                records += _strike(deployment, striking, ABSENT in names, moments, figures)
                records += _end_study(deployment)
            for name in (name for name in DOOR_FAULTS if name in names):
                records.append(_show(_try_door(deployment, name)))
        finally:
            left = deployment.close()
        figures |= {"left_running": left, "load": os.getloadavg()[1]}
    return records, figures


def _strike(
    deployment: Deployment, names: Sequence[str], is_late: bool, moments: int, figures: dict[str, Any]
) -> list[Record]:
    """Try the faults that strike a study. is_late: let the victim join only after the study began."""
    records, watch = [], Observer(deployment)
    here = [name for name in deployment.names if not (is_late and name == VICTIM)]
    figures["join_seconds"] = deployment.join(*here)
    deployment.start_run()
    if is_late:
        records.append(_show(join_late(watch)))
    watch.settle(2)
    for name in names:
        fault = FAULTS[name] if name in FAULTS else MACHINE_FAULTS[name][0]
        for moment in MOMENTS[:moments]:
            if name not in AT_WORK or moment != "after the update":
                records.append(_show(_try(name, fault, watch, moment)))
    figures |= {"round_seconds": watch.undisturbed_s, "rounds": len(deployment.rows)}
    return records


def _try(name: str, fault: Fault, watch: Observer, moment: Moment) -> Record:
    """Let a fault strike; a harness that cannot go through with it says so, and goes on with the next one."""
    try:
        return fault(watch, moment)
    except (TimedOutError, AssertionError, psutil.Error, subprocess.TimeoutExpired) as error:
        return Record(name, moment, f"NOT OBSERVED: {error}", data_lost=watch.find_losses())


def _try_door(deployment: Deployment, name: str) -> Record:
    """Try a fault at the door; one that is not refused as it should be is recorded as that."""
    try:
        return try_door(deployment, name)
    except (TimedOutError, AssertionError, subprocess.TimeoutExpired) as error:
        return Record(DOOR_FAULTS[name][0], happened=f"NOT REFUSED: {error}")


def _end_study(deployment: Deployment) -> list[Record]:
    """Stop the run and let the agents leave; return a record if they do not."""
    try:
        deployment.end_study()
    except subprocess.TimeoutExpired as error:
        return [_show(Record("`stop` and SIGTERM to all agents", happened=f"NOT LEFT: {error.cmd[-1]}"))]
    return []


def _show(record: Record) -> Record:
    """Print a record as soon as it is there."""
    _console.print({name: value for name, value in record.to_json().items() if value not in ("", None)})
    return record


def main() -> None:
    """Run the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES), help="only these faults")
    parser.add_argument("--moments", type=int, choices=(1, 2, 3), default=1, help="moments of a round")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the plan")
    add_json(parser)
    args: argparse.Namespace = parser.parse_args()
    before = json.loads(args.json.read_text()) if args.json and args.json.exists() else {}
    records, figures = run_faults(args.only, args.moments, parse_settings(args.set))
    ran = {(record.fault, record.moment) for record in records}
    rows = [r for r in before.get("records", []) if (r["fault"], r["moment"]) not in ran]
    rows += [record.to_json() for record in records]
    table = Table(*(name.replace("_", " ") for name in _SHOWN), title="faults")
    for row in rows:
        table.add_row(*("" if row[name] is None else str(row[name]) for name in _SHOWN))
    _console.print(table)
    runs = [*before.get("runs", []), {**figures, "faults": args.only}]
    medians = [run["round_seconds"] for run in runs if "round_seconds" in run]
    now = datetime.datetime.now(datetime.UTC).isoformat()
    about = {"schema": "cipherward.faults/1", "machine": machine(), "created": now, "hospitals": 3}
    about |= {name: PLAN[name] for name in ("quorum", "deadline_s", "grace_s")}
    about |= {"round_seconds": statistics.median(medians) if medians else None}
    write_figures(args.json, {**about, "runs": runs, "records": rows})


if __name__ == "__main__":
    main()
