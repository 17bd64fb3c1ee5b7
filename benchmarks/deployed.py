"""What a deployed study costs: seconds, bytes on the wire, and memory of the coordinator and of a hospital.

    python -m benchmarks.deployed [--plan configs/demo.yaml] [--set rounds=3 …] [--json FILE]

The study runs over TLS through the agents, as real processes on the loopback interface. A relay between hospitals and
SuperLink counts every byte of the TLS connections, also those of polls, heartbeats and handshakes; they are compared
with the bytes of messages in the coordinator's journal, over the rounds after the first: before it the app bundle is
sent. Memory is the resident set of a process, or of all processes of one hospital, read a few times a second. Linux
only.

The hospitals share this machine's cores, as those of a simulation do (coordinator/study/processes), so each trains
with its share of PyTorch's threads: threads beyond the cores wait for each other by spinning. `--runs` repeats the
study with the same hospitals, and says whether the model is the same to the bit.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # it has no types
from rich.console import Console
from rich.table import Table

from benchmarks.command_line import (
    add_json,
    add_plan,
    make_parser,
    parse_settings,
    plan_paths,
    write_figures,
)
from benchmarks.faults.deployment import Deployment, wait_until
from coordinator.exchange.plan import Plan, read_plan
from coordinator.report.build import machine
from crypto.cores import cores
from crypto.files import read_json

#: Bytes of messages that the journal counts in a round.
_COUNTED = ("bytes_down", "bytes_up", "evaluation_bytes_down", "evaluation_bytes_up")


#: Seconds over which the cost of waiting hospitals is measured; and before, until they ask as seldom as they ever do
#: (coordinator/exchange/flower_pauses.py).
_IDLE_S, _SETTLE_S = 20.0, 30.0


class _Watch:
    """Reads memory, and notes what the relay had counted when each round ended."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.most: dict[str, int] = {}
        self.at_row: list[int] = []
        self._is_done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Look no more."""
        self._is_done.set()
        self._thread.join()

    def _look(self) -> None:
        d, looks = self.deployment, 0
        while not self._is_done.wait(0.05):
            relay = sum(d.relay.sent.values()) + sum(d.relay.received.values())
            self.at_row += [relay] * (len(d.rows) - len(self.at_row))
            looks += 1
            if looks % 10 == 0:
                with contextlib.suppress(psutil.Error):
                    self._note("superlink", d.server_process("coordinator.deployment.superlink"))
                    self._note("serverapp", d.server_process("flwr-serverapp"))
                    self._note("hospital", *d.processes(d.names[0]))

    def _note(self, name: str, *processes: psutil.Process | None) -> None:
        size = sum(process.memory_info().rss for process in processes if process is not None)
        self.most[name] = max(self.most.get(name, 0), size)


def _join(deployment: Deployment) -> float:
    """Start all agents, each with its share of the cores; wait until they are online, and return the seconds."""
    started = time.monotonic()
    for name in deployment.names:
        deployment.start_agent(name, OMP_NUM_THREADS=str(_threads(len(deployment.names))))
    for name in deployment.names:
        wait_until(lambda name=name: deployment.is_online(name), 150, f"{name} online")  # type: ignore[misc]
    return time.monotonic() - started


def _threads(hospitals: int) -> int:
    """Return each hospital's share of this machine's cores, at least 1."""
    return max(1, cores() // hospitals)


def _measure_idle(deployment: Deployment) -> dict[str, float]:
    """Return what hospitals that wait for work cost the SuperLink, for each of them and each second."""
    link = deployment.server_process("coordinator.deployment.superlink")
    assert link is not None

    def count() -> tuple[float, int]:
        relay = deployment.relay
        return sum(link.cpu_times()[:2]), sum(relay.sent.values()) + sum(relay.received.values())

    time.sleep(_SETTLE_S)
    cpu, passed = count()
    time.sleep(_IDLE_S)
    cpu_after, passed_after = count()
    share = _IDLE_S * len(deployment.names)
    return {
        "idle_cpu_milliseconds": 1000 * (cpu_after - cpu) / share,
        "idle_bytes": (passed_after - passed) / share,
        "idle_superlink_megabytes": link.memory_info().rss / 1e6,
    }


def _repeat(deployment: Deployment) -> tuple[float, str]:
    """Run the study once more from its beginning, with the same keys and images; return seconds and model digest."""
    deployment.study.parent.rename(deployment.folder / f"before-{len(deployment.runs)}")
    started = time.monotonic()
    deployment.start_run()
    wait_until(lambda: deployment.runs[-1].poll() is not None, 1800, "the end of the study")
    if deployment.runs[-1].returncode != 0:
        raise AssertionError(deployment.output("run"))
    training = read_json(deployment.study / "training.json", "training")
    return time.monotonic() - started, str(training["model_sha256"])


def measure(plan: Plan, runs: int = 1) -> dict[str, Any]:
    """Run a plan's study in a deployment in a temporary folder, and return the figures of its first run.

    Args:
        plan: the study's plan.
        runs: how often it runs. Of the further runs the seconds and the digest of the model are kept.

    Raises:
        AssertionError: if a round was not made of all hospitals' replies, or if a process was left running.
    """
    with tempfile.TemporaryDirectory(prefix="cipherward-deployed-") as temporary:
        deployment = Deployment(Path(temporary) / "f", plan)
        try:
            server = deployment.start_server()
            join = _join(deployment)
            idle = _measure_idle(deployment)
            link = deployment.server_process("coordinator.deployment.superlink")
            assert link is not None
            cpu = sum(link.cpu_times()[:2])
            watch = _Watch(deployment)
            started = time.monotonic()
            deployment.start_run()
            wait_until(lambda: deployment.runs[-1].poll() is not None, 1800, "the end of the study")
            wall = time.monotonic() - started
            load = os.getloadavg()[1]
            cpu = sum(link.cpu_times()[:2]) - cpu
            watch.end()
            if deployment.runs[-1].returncode != 0:
                raise AssertionError(deployment.output("run"))
            rows = list(deployment.rows)
            training = read_json(deployment.study / "training.json", "training")
            database = deployment.cloud.database.stat().st_size
            bundle = deployment.cloud.bundle.stat().st_size
            repeated = [_repeat(deployment) for _ in range(runs - 1)]
        finally:
            left = deployment.close()
    assert not left, left
    assert [len(row["parties"]) for _, row in rows] == [plan.parties] * plan.rounds, rows
    journal = sum(row[name] for _, row in rows[1:] for name in _COUNTED)
    relay = watch.at_row[len(rows) - 1] - watch.at_row[0]
    return {
        "plan": plan.study,
        "hospitals": plan.parties,
        "rounds": plan.rounds,
        "threads": _threads(plan.parties),
        "server_start_seconds": server,
        "join_seconds": join,
        "first_round_seconds": rows[0][0] - started,
        "run_seconds": wall,
        "round_seconds": statistics.median(row["seconds"] for _, row in rows),
        "all_round_seconds": [row["seconds"] for _, row in rows],
        **idle,
        "superlink_cpu_seconds": cpu,
        "journal_megabytes": journal / 1e6,
        "relay_megabytes": relay / 1e6,
        "relay_over_journal": relay / journal if journal else None,
        "bundle_megabytes": bundle / 1e6,
        **{f"{name}_megabytes": size / 1e6 for name, size in watch.most.items()},
        "database_megabytes": database / 1e6,
        "model_sha256": training["model_sha256"],
        "load": load,
        "all_run_seconds": [wall, *(seconds for seconds, _ in repeated)],
        "all_model_sha256": [training["model_sha256"], *(digest for _, digest in repeated)],
        "same_model": all(digest == training["model_sha256"] for _, digest in repeated)
        if repeated
        else None,
    }


def main() -> None:
    """Run the command line."""
    parser = make_parser(__doc__)
    add_plan(parser)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the plan")
    parser.add_argument("--runs", type=int, default=1, help="how often the study runs")
    add_json(parser)
    args: argparse.Namespace = parser.parse_args()
    values = read_plan(args.plan).model_dump(exclude_unset=True)
    plan = Plan.model_validate({**values, **plan_paths(args), **parse_settings(args.set)})
    figures = measure(plan, args.runs)
    table = Table("figure", "value", title="a deployed study")
    for name, value in figures.items():
        table.add_row(name.replace("_", " "), f"{value:.4g}" if isinstance(value, float) else str(value))
    Console().print(table)
    write_figures(args.json, {"schema": "cipherward.deployment/1", "machine": machine(), **figures})


if __name__ == "__main__":
    main()
