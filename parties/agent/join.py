"""The agent of a hospital: `cipherward-party join`.

    kit, policy, approval checked ▶ SuperNode kept running ⇄ coordinator
                                    executor ▶ warm client ▶ log

It is one process with one thread. Everything that it starts carries a mark and ends with it, whatever ends it
(coordinator/exchange/end_with_us.py).
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import yaml

from coordinator.exchange.console import Log
from coordinator.exchange.end_with_us import MARK, ending_with_us
from coordinator.exchange.flower_pauses import MOST_MESSAGE
from coordinator.exchange.kit import CA, PLAN, STUDY, Kit
from coordinator.exchange.manifest import parse_manifest
from coordinator.exchange.plan import Plan
from coordinator.exchange.quiet import QUIET
from coordinator.exchange.settings import build, load_yaml
from coordinator.exchange.versions import installed_versions
from crypto.errors import CipherwardError
from crypto.files import write_bytes
from parties.agent.agent_log import AgentLog
from parties.agent.approval import kept_bundle, renew_trusted, require_approved, trusted_bundles
from parties.agent.approval_key import write_trusted
from parties.agent.clock import describe_offset, measure_offset
from parties.agent.enrol import node_key_path, read_node_key
from parties.agent.message_facts import MessageFacts
from parties.agent.running import agent_folder, hold, write_state
from parties.agent.supernode import SuperNode, require_flower, rotate
from parties.sealing.place import Place
from parties.training.policy import Policy, find_difference
from parties.training.policy_file import read_policy
from parties.training.study_file import read_agreed

#: Seconds between two looks for a task: right after a message, and at most; and which share of the time since the
#: last message they may be. In a round the next message comes soon. Chosen by hand.
_FIRST_LOOK_S, _LOOK_S, _LOOK_SHARE = 0.05, 0.25, 0.05
#: Seconds after which a SuperNode that does not answer on this machine is started again. It answers in milliseconds.
_STUCK_S = 60.0
#: What is shown when Flower's own check refused an app bundle.
_UNSIGNED = (
    "the coordinator sent no signature of this hospital with its app bundle. If you approved it, "
    "send the coordinator approval.json"
)
#: What is shown while this machine does not let the SuperNode start.
_NOT_STARTED = "the SuperNode cannot be started"
#: Seconds without a connection after which the clock is looked at; and between two such looks. Chosen by hand.
_CLOCK_S, _CLOCK_AGAIN_S = 6.0, 60.0
#: Seconds between two looks at the list of approvals, for the SuperNode's own check.
_TRUST_S = 1.0


class _Leaving(BaseException):
    """The agent was asked to leave while it worked."""


@dataclass(frozen=True)
class Options:
    """What the hospital's operator chooses.

    Attributes:
        limit_s: the longest that a message may take, in seconds; None for its round's deadline and 30 s.
        is_signature_asked: whether the SuperNode also asks for this hospital's signature beside the app bundle
            (`--trusted-entities`). The agent's own check is made in any case.
        threads: how many threads of PyTorch a message may have; None for one on each core. Hospitals that share a
            machine share its cores.
        most_message: the largest message that the SuperNode takes, in bytes.
    """

    limit_s: float | None = None
    is_signature_asked: bool = True
    threads: int | None = None
    most_message: int = MOST_MESSAGE

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that these choices are for the hospital's client."""
        return {} if self.threads is None else {"OMP_NUM_THREADS": str(self.threads)}


def read_plan(kit: Kit) -> Plan:
    """Return the plan in a kit. Raises CipherwardError if it is none."""
    try:
        values = load_yaml(kit.files[PLAN].decode())
    except (yaml.YAMLError, UnicodeDecodeError):
        values = None
    if not isinstance(values, dict):
        raise CipherwardError("the plan in this kit is no plan", "ask the coordinator for the kit again")
    return build(Plan, values, "the plan in this kit")


def check_kit(place: Place, kit: Kit, now: datetime.datetime) -> None:
    """Check that this hospital may join with a kit, now and on this machine.

    Raises:
        CipherwardError: if the kit is another hospital's or has expired, if versions differ, or if the hospital has
            no SuperNode key, has not accepted the kit's plan, or has not approved its app bundle.
    """
    manifest, own = kit.manifest, place.settings.party
    if manifest.hospital != own:
        raise CipherwardError(
            f"this kit is for {manifest.hospital}, and the folder is {own}'s",
            "ask the coordinator for your own kit",
        )
    kit.require_current(now)
    kit.require_versions(installed_versions())
    read_node_key(place)
    plan = read_plan(kit)
    policy = read_policy(place)
    if difference := find_difference(policy, plan):
        raise CipherwardError(
            f"this hospital has not accepted the plan of this kit: {difference}",
            f"read the plan and accept it: cipherward-party accept PLAN {place.folder}",
        )
    if STUDY in kit.files:
        _require_agreed(place, policy, kit.files[STUDY])
    require_approved(place, manifest.bundle_sha256, now)


def _require_agreed(place: Place, policy: Policy, data: bytes) -> None:
    """Raise CipherwardError unless the hospital agreed to the study manifest in these bytes."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if parse_manifest(value, "the study manifest in this kit").digest != read_agreed(place, policy).digest:
        raise CipherwardError(
            "the study manifest in this kit is not the one that this hospital agreed to",
            f"read it and agree: cipherward-party agree STUDY.json {place.folder}; or ask for a new kit",
        )


def join(place: Place, kit: Kit, log: Log, options: Options) -> None:
    """Take part in a federation until SIGINT, SIGTERM or SIGHUP.

    Args:
        place: the hospital.
        kit: the coordinator's kit for it.
        log: gets a line about each round, and about each change of the connection.
        options: what the operator chooses.

    Raises:
        CipherwardError: if the hospital may not join, or if another agent of it runs.
    """
    require_flower()
    check_kit(place, kit, datetime.datetime.now(datetime.UTC))
    with hold(place), ending_with_us() as run_folder:
        agent = _Agent(place, kit, log, options, run_folder)
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # under nohup it stays ignored
            numbers.append(signal.SIGHUP)
        handlers = {number: signal.signal(number, agent.ask_to_leave) for number in numbers}
        try:
            agent.run()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)


class _Agent:
    """A running agent. It owns the SuperNode and the executor."""

    def __init__(self, place: Place, kit: Kit, log: Log, options: Options, run_folder: Path) -> None:
        from parties.agent.executor import Executor
        from parties.agent.warm_client import pick_mode

        self.place, self.kit, self.log = place, kit, log
        self.plan = read_plan(kit)
        self.folder = agent_folder(place)
        self.is_leaving = False
        self.counts = {"answered": 0, "refused": 0, "error": 0}
        self.last_message = ""
        self.last_contact = 0.0
        self.last_work = 0.0
        self.next_clock = time.monotonic() + _CLOCK_S
        ca = self.folder / "ca.crt"
        write_bytes(ca, kit.files[CA])
        mark = {MARK: str(run_folder)}
        self.node = SuperNode(
            self.folder, kit.manifest.address, ca, node_key_path(place), place.folder, mark,
            most_message=options.most_message,
        )  # fmt: skip
        self.next_trust = 0.0
        if options.is_signature_asked:
            trusted = self.folder / "trusted-entities.yaml"
            self.node.trusted = write_trusted(place, trusted, trusted_bundles(place))
        apps = self.folder / "apps"
        shutil.rmtree(apps, ignore_errors=True)  # a bundle is unpacked anew by every agent
        apps.mkdir(mode=0o700)
        client_log = self.folder / "client.log"
        rotate(client_log)
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        # NumPy's OpenBLAS would start threads when it is imported, and then a fork is not safe.
        own = {**QUIET, "FLWR_HOME": str(self.folder / "flwr"), "OPENBLAS_NUM_THREADS": "1"}
        own |= options.environment
        self.executor = Executor(
            place, "", b"", apps, {**inherited, **own, **mark}, client_log, pick_mode(), self.tick,
            self.announce, self.plan.deadline_s, options.limit_s, lambda message: message in self.node.dropped,
        )  # fmt: skip

    def ask_to_leave(self, _number: int, _frame: FrameType | None) -> None:
        """Leave at the next possible moment: a signal's handler."""
        self.is_leaving = True

    def tick(self) -> None:
        """Look after the SuperNode while a message is answered; raise if the agent was asked to leave."""
        if self.is_leaving:
            raise _Leaving
        self._read_log()

    def run(self) -> None:
        """Answer messages until asked to leave; then end everything in good order."""
        kit = self.kit.manifest
        AgentLog(self.place).append("joined", federation=kit.federation, address=kit.address,
                                    code=kit.bundle_sha256)  # fmt: skip
        self.log(f"{self.place.settings.party} joins {kit.federation} at {kit.address}; Ctrl-C leaves")
        self.log(f"the kit's fingerprint: {self.kit.fingerprint}")
        try:
            self.node.ensure()
            self._prepare()
            while not self.is_leaving:
                self._work()
        except _Leaving:
            pass
        finally:
            self.executor.close()
            self.node.end()
        AgentLog(self.place).append("left", federation=kit.federation)
        self.log(f"{self.place.settings.party} has left {kit.federation}")

    def _prepare(self) -> None:
        """Import the approved app while the SuperNode connects: the first message then waits for nothing."""
        code = self.kit.manifest.bundle_sha256
        bundle = kept_bundle(self.place, code)
        if bundle is not None:
            self.executor.prepare(bundle.data, code)
        self._connect()

    def _connect(self) -> None:
        """Let the executor take the tasks of a SuperNode that was just started."""
        self.executor.connect(self.node.address, self.node.secret)
        self.last_contact = time.monotonic()
        self._write_state()

    def _work(self) -> None:
        """Do one look: at the SuperNode, and for a task."""
        from parties.agent.executor import UNREACHABLE

        self._ensure_node()
        self._read_log()
        self._check_clock()
        if self.node.is_stuck:
            self.log("the SuperNode no longer tries to reach the coordinator, and is started again")
            self.node.end()
        worked = False
        if self.node.is_listening:
            with contextlib.suppress(*UNREACHABLE):
                worked = self.executor.step()
                self.last_contact = time.monotonic()
        if self.node.pid is not None and time.monotonic() - self.last_contact > _STUCK_S:
            self.log("the SuperNode does not answer, and is started again")
            self.node.end()
        now = time.monotonic()
        if worked:
            self.last_work = now
        elif not self.is_leaving:
            time.sleep(min(_LOOK_S, max(_FIRST_LOOK_S, _LOOK_SHARE * (now - self.last_work))))

    def _ensure_node(self) -> None:
        """Start the SuperNode if it does not run. What a full disk or the system refuses now may work later."""
        try:
            if self.node.ensure():
                if self.node.error.startswith(_NOT_STARTED):
                    self.node.error = ""
                self._connect()
        except (CipherwardError, OSError) as error:
            text = error.message if isinstance(error, CipherwardError) else f"{error.strerror or error}"
            text = f"{_NOT_STARTED}: {text}"
            if text != self.node.error:
                self.node.error = text
                self.log(f"{_clock()} {text}")
                self._write_state()

    def _read_log(self) -> None:
        """Show changes of the connection, and tell the SuperNode which approvals hold."""
        if self.node.trusted is not None and time.monotonic() >= self.next_trust:
            self.next_trust = time.monotonic() + _TRUST_S
            renew_trusted(self.place, self.node.trusted)
        before = (self.node.connection, self.node.error)
        self.node.read_log()
        self._log_unverified()
        if (self.node.connection, self.node.error) != before:
            text = f": {self.node.error}" if self.node.error else ""
            self.log(f"{_clock()} SuperNode {self.node.connection}{text}")
            self._write_state()

    def _log_unverified(self) -> None:
        """Log the messages that Flower's own check refused. They never reach the executor."""
        while self.node.unverified:
            kind, message = self.node.unverified.pop(0)
            with contextlib.suppress(
                CipherwardError
            ):  # a full disk: the refusal stands, and later lines tell of it
                AgentLog(self.place).append(
                    "refused", type=kind, message=message, field="code", by="SuperNode"
                )
            self.announce(MessageFacts(kind), "refused", 0.0, _UNSIGNED)

    def _check_clock(self) -> None:
        """Say so if there is no connection because a clock is wrong: what Flower says then does not name it."""
        now = time.monotonic()
        if self.node.connection == "online":
            self.next_clock = now + _CLOCK_S
        elif now > self.next_clock:
            self.next_clock = now + _CLOCK_AGAIN_S
            text = describe_offset(measure_offset(self.node.superlink, self.node.ca))
            if text and text != self.node.error:
                self.node.error = text
                self.log(f"{_clock()} {text}")
                self._write_state()

    def announce(self, facts: MessageFacts, outcome: str, seconds: float, text: str) -> None:
        """Show the outcome of a message."""
        self.counts[outcome] += 1
        self.last_message = f"{facts.title}, {outcome}"
        self.log(f"{_clock()} {facts.title}: {outcome} in {seconds:.1f} s{': ' + text if text else ''}")
        self._write_state()

    def _write_state(self) -> None:
        """Write what the agent is doing. A full disk does not end it: it answers again once it can write its log."""
        try:
            self._save_state()
        except CipherwardError as error:
            self.log(f"{_clock()} {error.message}")

    def _save_state(self) -> None:
        manifest = self.kit.manifest
        write_state(
            self.place,
            hospital=self.place.settings.party,
            federation=manifest.federation,
            address=manifest.address,
            connection=self.node.connection,
            error=self.node.error,
            supernode=self.node.pid,
            restarts=max(0, self.node.starts - 1),
            last_message=self.last_message,
            messages=self.counts,
            time=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )


def _clock() -> str:
    return time.strftime("%H:%M:%S")
