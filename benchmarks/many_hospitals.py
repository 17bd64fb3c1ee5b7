"""How many hospitals one machine trains: seconds a round and memory, with a bounded number of processes.

    python -m benchmarks.many_hospitals [--hospitals 50 200] [--workers 2] [--set key=value …] [--json FILE]

Every hospital has twelve phantom images, sealed under one key, in a folder of its own, and accepts the plan. Then the
study trains as `cipherward-coordinator simulate` trains it: the ServerApp in one process, and a process for each
hospital while its turn lasts. Memory is the sum of all processes' proportional set sizes (PSS), which counts a page
that several processes share once; it is read a few times a second. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # it has no types
from rich.console import Console
from rich.table import Table

from benchmarks.command_line import add_json, make_parser, parse_settings, write_figures
from coordinator.exchange.manifest import FILE as MANIFEST_FILE
from coordinator.exchange.manifest import assemble, write_manifest
from coordinator.exchange.plan import Plan, write_plan
from coordinator.report.build import machine
from coordinator.study.processes.run import run_processes
from coordinator.study.study import party_folder
from crypto.cores import cores
from crypto.key import SecretKey
from crypto.keyfile import write_key
from parties.agent.accept import accept, propose
from parties.agent.agree import agree
from parties.agent.declare import make_statement
from parties.agent.identity_file import ensure_identity
from parties.sealing.place import Place
from parties.sealing.seal import plan_sealing, seal
from parties.training.policy_file import read_policy

#: The plan of a study of tiny hospitals, without its number of hospitals.
PLAN = {
    "study": "many",
    "image_size": 32,
    "block": 8,
    "model_args": {"patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2},
    "rounds": 3,
    "batch": 8,
    "warmup_steps": 0,
}
#: Images of each hospital: train, val, test.
IMAGES = (8, 2, 2)


def prepare(folder: Path, plan: Plan) -> None:
    """Seal the images of a plan's hospitals, and let them accept the plan and agree on the study."""
    (folder / "cloud").mkdir(parents=True)
    write_plan(plan, folder)
    key, statements, places = SecretKey(os.urandom(32)), [], []
    for index in range(plan.parties):
        names = ("source", "counts", "image_size", "channels", "seed", "scheme", "block", "key_scope")
        settings = {name: getattr(plan, name) for name in names}
        settings |= {"party": f"hospital-{index}", "share": (index, plan.parties)}
        place = Place.from_settings(party_folder(folder, index), settings)
        place.save()
        write_key(place.key_path, key)
        for split in ("train", "val", "test"):
            seal(place, plan_sealing(place, split))
        accept(place, propose(place, plan, None), lambda _rows, _before: True)
        statements.append(make_statement(place, read_policy(place), ensure_identity(place)))
        places.append(place)
    manifest = assemble(plan, statements)
    write_manifest(folder / MANIFEST_FILE, manifest)
    for place in places:
        agree(place, read_policy(place), manifest, ensure_identity(place), lambda _members: True)


class Watch:
    """Reads the memory and the number of the processes that this one started.

    Attributes:
        peak: the most memory of all of them at a time, in bytes (PSS).
        server_peak: the most memory of the process that runs the ServerApp, in bytes (RSS).
        most: the most processes at a time.
    """

    def __init__(self) -> None:
        self.peak = self.server_peak = self.most = 0

    def look(self) -> None:
        """Read them once."""
        processes = psutil.Process().children(recursive=True)
        total = 0
        for process in processes:
            with contextlib.suppress(psutil.Error):
                total += int(process.memory_full_info().pss)
        self.peak, self.most = max(self.peak, total), max(self.most, len(processes))
        for process in psutil.Process().children():
            with contextlib.suppress(psutil.Error):
                self.server_peak = max(self.server_peak, int(process.memory_info().rss))


def measure(hospitals: int, workers: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Train a study of so many hospitals in a temporary folder, and return the figures."""
    counts = tuple(images * hospitals for images in IMAGES)
    plan = Plan.model_validate({**PLAN, "parties": hospitals, "counts": counts, **settings})
    with tempfile.TemporaryDirectory(prefix="cipherward-bench-") as temporary:
        folder, watch = Path(temporary) / "study", Watch()
        started = time.monotonic()
        prepare(folder, plan)
        sealing, started = time.monotonic() - started, time.monotonic()
        run_processes(folder, workers, Path(temporary) / "log", 3600, watch.look)
        run = time.monotonic() - started
        rounds = [json.loads(line) for line in (folder / "cloud" / "rounds.jsonl").read_text().splitlines()]
        training = json.loads((folder / "cloud" / "training.json").read_text())
    assert [row["round"] for row in rounds] == list(range(1, plan.rounds + 1)), rounds
    assert all(len(row["parties"]) == hospitals and not row["absent"] for row in rounds)
    return {
        "hospitals": hospitals,
        "workers": workers,
        "rounds": plan.rounds,
        "sealing_seconds": sealing,
        "start_and_end_seconds": run - training["seconds"],
        "round_seconds": statistics.median(row["seconds"] for row in rounds),
        "megabytes_a_round": (rounds[0]["bytes_down"] + rounds[0]["bytes_up"]) / 1e6,
        "peak_megabytes": watch.peak / 1e6,
        "server_peak_megabytes": watch.server_peak / 1e6,
        "most_processes": watch.most,
    }


def main() -> None:
    """Run the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--hospitals", type=int, nargs="+", default=[50, 200])
    parser.add_argument("--workers", type=int, default=cores(), help="processes of hospitals at a time")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting of the plan"
    )
    add_json(parser)
    args: argparse.Namespace = parser.parse_args()
    settings = parse_settings(args.set)
    records = [measure(count, args.workers, settings) for count in args.hospitals]
    table = Table("figure", *(str(record["hospitals"]) for record in records), title="many hospitals")
    for name in records[0]:
        table.add_row(name.replace("_", " "), *(f"{record[name]:.4g}" for record in records))
    Console().print(table)
    about = {"schema": "cipherward.many-hospitals/1", "machine": machine(), "images": IMAGES[0]}
    write_figures(args.json, {**about, "settings": settings, "records": records})


if __name__ == "__main__":
    main()
