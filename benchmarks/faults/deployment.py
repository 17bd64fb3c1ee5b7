"""Three hospitals and a coordinator as real processes on the loopback interface, for the fault harness."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # it has no types
import yaml

from benchmarks.command_line import ROOT
from benchmarks.faults.relay import Relay
from benchmarks.many_hospitals import prepare
from coordinator.deployment.approvals import carry
from coordinator.deployment.enrolment import enrol, read_public_keys
from coordinator.deployment.folder import DeploymentFolder
from coordinator.deployment.provision import provision
from coordinator.deployment.running import connect_to
from coordinator.exchange.kit import read_kit, write_kit
from coordinator.exchange.plan import Plan
from coordinator.study.study import party_folder
from crypto.files import read_lines
from parties.agent.agent_log import AgentLog
from parties.agent.approval import approve
from parties.agent.approval_key import APPROVAL_FILE
from parties.agent.bundle import read_bundle
from parties.agent.enrol import enrol as make_keys
from parties.agent.running import read_state
from parties.sealing.place import Place

#: The study: small, with a training of about half a second on a core, so that a fault can strike within it.
PLAN: dict[str, Any] = {
    "study": "faults",
    "parties": 3,
    "counts": (600, 60, 60),
    "image_size": 32,
    "block": 8,
    "model_args": {"patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2},
    "rounds": 2000,
    "local_epochs": 2,
    "batch": 16,
    "warmup_steps": 0,
    "baseline": False,
    "quorum": 2,
    "deadline_s": 20.0,
    "grace_s": 5.0,
}
#: A look that takes longer than this many seconds tells that this process was stopped meanwhile.
_STILL_S = 10.0
#: The modules of the two command lines.
COORDINATOR, HOSPITAL = "coordinator.cli.app", "parties.cli.app"
#: Where the SuperLink listens, and the address that the first hospital dials.
_LINK, _DIAL = "127.0.0.2", "127.0.0.{}"


class TimedOutError(Exception):
    """Something did not happen in time."""


def wait_until(condition: Callable[[], Any], seconds: float, what: str, step_s: float = 0.1) -> Any:
    """Wait until a condition holds, and return its value.

    Raises:
        TimedOutError: after so many seconds. Those in which this process itself stood still do not count.
    """
    waited, before = 0.0, time.monotonic()
    while not (value := condition()):
        now = time.monotonic()
        waited, before = waited + min(now - before, _STILL_S), now
        if waited > seconds:
            raise TimedOutError(f"{what} did not happen within {seconds:.0f} s")
        time.sleep(step_s)
    return value


def free_ports(count: int) -> list[int]:
    """Return loopback ports that nothing listens on."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


class Deployment:
    """A federation whose hospitals are enrolled, agreed and approved, but have not joined.

    Attributes:
        folder: everything is below it.
        plan: the study's plan.
        cloud: the coordinator's folder.
        places: the hospitals.
        relay: what they dial.
        serve: the process of `cipherward-coordinator serve`, if it was started.
        agents: the processes of `cipherward-party join`, by the hospital's name.
        runs: the processes of `cipherward-coordinator run`.
        rows: the journal's lines, each with the time at which it was seen.
    """

    def __init__(self, folder: Path, plan: Plan, prepared: Path | None = None) -> None:
        """Prepare everything.

        Args:
            folder: everything is below it; it must not exist.
            plan: the study's plan.
            prepared: a folder that `prepare` made for this plan, which is copied: keys, sealed sets, agreements.
        """
        self.folder, self.plan = folder, plan
        count = self.plan.parties
        (self.folder / "out").mkdir(parents=True)
        if prepared is None:
            prepare(folder / "study", self.plan)
        else:
            shutil.copytree(prepared, folder / "study", dirs_exist_ok=True)
        self.places = [Place.open(party_folder(folder / "study", index)) for index in range(count)]
        self.names = [place.settings.party for place in self.places]
        dial = {name: _DIAL.format(11 + index) for index, name in enumerate(self.names)}
        port, local_port = free_ports(2)
        federation = {"name": "faults", "plan": "study/plan.yaml", "study": "study/study.json",
                      "hospitals": self.names, "address": list(dial.values()), "listen": _LINK,
                      "port": port, "local_port": local_port}  # fmt: skip
        self.federation_file = folder / "federation.yaml"
        self.federation_file.write_text(yaml.safe_dump(federation))
        provision(self.federation_file, folder / "cloud")
        self.cloud = DeploymentFolder.open(folder / "cloud")
        for place, name in zip(self.places, self.names, strict=True):
            enrol(self.cloud, read_public_keys(make_keys(place).path))
            approve(place, read_bundle(self.cloud.bundle), 90)
            carry(self.cloud, place.folder / APPROVAL_FILE)
            kit = read_kit(self.cloud.kit(name))
            manifest = kit.manifest.model_copy(update={"address": f"{dial[name]}:{port}"})
            write_kit(folder / f"{name}.kit", manifest, kit.files)
        self.relay = Relay(dial, port, (_LINK, port))
        self.serve: subprocess.Popen[bytes] | None = None
        self.agents: dict[str, subprocess.Popen[bytes]] = {}
        self.runs: list[subprocess.Popen[bytes]] = []
        self.rows: list[tuple[float, dict[str, Any]]] = []
        self._is_closed = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    @property
    def study(self) -> Path:
        """The folder of what the cloud writes about the study."""
        return self.cloud.study_folder(self.plan.study) / "cloud"

    def place(self, name: str) -> Place:
        """Return a hospital."""
        return self.places[self.names.index(name)]

    def start(self, label: str, module: str, *words: object, **variables: str) -> subprocess.Popen[bytes]:
        """Start a module's command that goes on; what it prints is added to out/LABEL."""
        with open(self.folder / "out" / label, "ab") as sink:
            return subprocess.Popen(
                [sys.executable, "-m", module, *map(str, words)],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env={**os.environ, **variables},
            )

    def output(self, label: str) -> str:
        """Return what a command printed."""
        path = self.folder / "out" / label
        return path.read_text(errors="replace") if path.exists() else ""

    def last_words(self, label: str) -> str:
        """Return the end of what a command printed, on one line."""
        return " ".join(self.output(label).split())[-400:]

    @property
    def submissions(self) -> int:
        """How often `run` said that it submits a lost run again."""
        return self.output("run").count("submitted again")

    def start_server(self) -> float:
        """Start `serve`, wait until it is ready, and return the seconds."""
        started, before = time.monotonic(), self.output("serve").count("ready:")
        self.serve = self.start("serve", COORDINATOR, "serve", self.cloud.root)
        wait_until(lambda: self.output("serve").count("ready:") > before, 90, "the server's start")
        return time.monotonic() - started

    def start_run(self) -> None:
        """Start `run`."""
        self.runs.append(self.start("run", COORDINATOR, "run", self.cloud.root))

    def start_agent(self, name: str, kit: Path | None = None, **variables: str) -> None:
        """Start a hospital's agent."""
        kit = kit or self.folder / f"{name}.kit"
        self.agents[name] = self.start(name, HOSPITAL, "join", kit, self.place(name).folder, **variables)

    def start_liar(self, name: str, told: Path) -> None:
        """Start a hospital's agent whose replies are damaged. told: gets a line for each damage."""
        kit = self.folder / f"{name}.kit"
        self.agents[name] = self.start(
            name, "benchmarks.faults.liar", told, "join", kit, self.place(name).folder
        )

    def join(self, *names: str) -> float:
        """Start agents, wait until they are online, and return the seconds."""
        started = time.monotonic()
        for name in names:
            self.start_agent(name)
        for name in names:
            wait_until(lambda name=name: self.is_online(name), 150, f"{name} online")  # type: ignore[misc]
        return time.monotonic() - started

    def is_online(self, name: str) -> bool:
        """Return whether an agent says that it is connected."""
        return self.state(name).get("connection") == "online"

    def state(self, name: str) -> dict[str, Any]:
        """Return what a hospital's agent says of itself."""
        return read_state(self.place(name)) or {}

    def log(self, name: str) -> list[dict[str, Any]]:
        """Return the lines of a hospital's log."""
        return AgentLog(self.place(name)).read()

    def processes(self, name: str) -> list[psutil.Process]:
        """Return a hospital's agent and all that it started."""
        agent = psutil.Process(self.agents[name].pid)
        return [agent, *agent.children(recursive=True)]

    def warm_client(self, name: str) -> psutil.Process | None:
        """Return a hospital's process that forks a child for every message, or will answer the next one itself."""
        with contextlib.suppress(psutil.Error):
            for process in self.processes(name):
                with contextlib.suppress(psutil.Error):
                    if any("warm_process" in word for word in process.cmdline()):
                        return process
        return None

    def client(self, name: str) -> psutil.Process | None:
        """Return the process that answers a hospital's message now, if there is one."""
        warm = self.warm_client(name)
        with contextlib.suppress(psutil.Error):
            children: list[psutil.Process] = warm.children() if warm else []
            return children[0] if children else None
        return None

    def server_process(self, word: str) -> psutil.Process | None:
        """Return the server's process whose command line has a word."""
        assert self.serve is not None
        for process in psutil.Process(self.serve.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if word in " ".join(process.cmdline()):
                    return process
        return None

    def end_study(self) -> None:
        """Let all agents leave, and stop the run."""
        with connect_to(self.cloud) as control:
            for run in control.runs():
                if not run.is_finished:
                    control.stop_run(run.run_id)
        for process in (*self.agents.values(), *self.runs):
            if process.poll() is None:
                process.terminate()
            process.wait(60)

    def close(self) -> list[str]:
        """End everything, and return the command lines of what was still there afterwards: nothing, it should be."""
        started = [*self.runs, *self.agents.values(), *([self.serve] if self.serve else [])]
        for process in started:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.send_signal(signal.SIGTERM)
        for process in started:
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._is_closed.set()
        self.relay.close()
        with contextlib.suppress(TimedOutError):
            wait_until(lambda: not self.left_over(), 10, "the end of all processes")
        return [" ".join(process.cmdline())[:200] for process in self.left_over()]

    def find_orphans(self, patience_s: float = 10.0) -> tuple[str, ...]:
        """Return the command lines of processes of this deployment that no command of ours looks after any more.

        Args:
            patience_s: the seconds that they have to end.
        """
        with contextlib.suppress(TimedOutError):
            wait_until(lambda: not self._orphans(), patience_s, "the end of orphans", 0.5)
        return tuple(" ".join(process.cmdline())[:200] for process in self._orphans())

    def _orphans(self) -> list[psutil.Process]:
        started = [*self.runs, *self.agents.values(), *([self.serve] if self.serve else [])]
        kept = {process.pid for process in started}
        orphans = []
        for process in self.left_over():
            with contextlib.suppress(psutil.Error):
                if not kept & {process.pid, *(parent.pid for parent in process.parents())}:
                    orphans.append(process)
        return orphans

    def left_over(self) -> list[psutil.Process]:
        """Return the processes that work in this deployment's folder."""
        found, mark = [], str(self.folder).encode()
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                files = (Path(f"/proc/{process.pid}") / name for name in ("environ", "cmdline"))
                if process.pid != os.getpid() and any(mark in file.read_bytes() for file in files):
                    found.append(process)
        own = {p.pid for p in (psutil.Process(), *psutil.Process().parents())}
        return [p for p in found if p.pid not in own and p.status() != psutil.STATUS_ZOMBIE]

    def _watch(self) -> None:
        """Note when each line of the journal appears."""
        while not self._is_closed.wait(0.1):
            with contextlib.suppress(OSError, json.JSONDecodeError):
                lines = read_lines(self.study / "rounds.jsonl")
                now = time.monotonic()
                self.rows += [(now, row) for row in lines[len(self.rows) :]]
