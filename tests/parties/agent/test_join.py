"""Agents with real processes: a SuperLink with TLS on the loopback interface, and a client that misbehaves."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # it has no types
import pytest

from parties.agent.agent_log import AgentLog
from parties.agent.approval import withdraw
from parties.agent.bundle import parse_bundle
from parties.agent.running import read_state
from parties.sealing.place import Place
from tests.support.agents import plan_text, ready_place
from tests.support.hospitals import plan
from tests.support.stub_app import write_stub_app
from tests.support.superlink import BIN, Link, make_kit, marked_processes, superlink, wait_until

pytestmark = pytest.mark.slow

#: Seconds that a hung message may take in these tests.
LIMIT_S = 6


@dataclass
class Federation:
    """A SuperLink, hospitals that joined, and the stub app."""

    folder: Path
    link: Link
    app: Path
    places: list[Place] = field(default_factory=list)
    agents: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def join(self, name: str) -> None:
        """Let a hospital enrol, accept, approve and join; wait until it is online."""
        bundle = write_stub_app(self.app)
        place = ready_place(self.folder, plan(), bundle, name)
        self.link.register(place)
        kit = self.folder / f"{name}.kit"
        ca = (self.link.folder / "ca.crt").read_bytes()
        sha256 = parse_bundle(bundle, "the stub").sha256
        make_kit(kit, name, plan_text(plan()), sha256, self.link.address, ca)
        words = [
            str(BIN / "cipherward-party"),
            "join",
            str(kit),
            str(place.folder),
            "--limit",
            f"{LIMIT_S}s",
            "--agent-check-only",  # Flower's own SuperLink carries no signatures
        ]
        with open(self.folder / f"{name}.out", "wb") as sink:
            agent = subprocess.Popen(words, stdout=sink, stderr=subprocess.STDOUT)
        self.places.append(place)
        self.agents.append(agent)
        wait_until(lambda: self.is_online(place), 60, f"{name} online: {self.output(place)}")

    def is_online(self, place: Place) -> bool:
        """Return whether a hospital's agent says that it is connected."""
        state = read_state(place)
        return state is not None and state.get("connection") == "online"

    def output(self, place: Place) -> str:
        """Return what a hospital's agent printed."""
        return (self.folder / f"{place.settings.party}.out").read_text()

    def run(self, steps: str, timeout: float = 90.0) -> list[dict[str, Any]]:
        """Run the stub's steps and return the rows that its ServerApp wrote."""
        out = self.folder / "rows.json"
        out.unlink(missing_ok=True)
        run = self.link.run(self.app, steps=steps, out=str(out), nodes=len(self.places), timeout=timeout)
        wait_until(lambda: self.link.status(run).startswith("finished"), 300, "the run's end")
        assert self.link.status(run).startswith("finished:completed"), self.link.status(run)
        rows: list[dict[str, Any]] = json.loads(out.read_text())
        return rows


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    """Give a federation without hospitals; what was started is ended by its own id."""
    with superlink(tmp_path / "link") as link:
        federation = Federation(tmp_path, link, tmp_path / "app")
        try:
            yield federation
        finally:
            for agent in federation.agents:
                if agent.poll() is None:
                    agent.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    agent.wait(30)


def _is_empty(place: Place) -> bool:
    return not marked_processes(place.folder)


def events(place: Place) -> list[tuple[str, str]]:
    """Return event and error of each line of a hospital's log."""
    return [(line["event"], line.get("error", "")) for line in AgentLog(place).read()]


def test_a_client_that_hangs_dies_or_raises_costs_one_message_and_the_agent_leaves_nothing(
    federation: Federation,
) -> None:
    federation.join("hospital-0")
    (place,), (agent,) = federation.places, federation.agents
    rows = federation.run("fine,hang,kill,raise,refuse,fine")
    by_word = {row["word"]: row for row in rows[1:]}
    answers = {word: row["answers"][0] for word, row in by_word.items()}

    # Each answers soon: a hung one after its limit, and none waits for Flower's own minute.
    assert by_word["hang"]["seconds"] < LIMIT_S + 30
    assert all(row["seconds"] < 30 for word, row in by_word.items() if word != "hang")
    assert [word for word, answer in answers.items() if "error" not in answer] == ["fine"]
    assert "more rounds" in answers["refuse"]["error"]
    assert not any("PATIENT" in answer.get("error", "") for answer in answers.values())
    assert answers["fine"]["calls"] == 2  # the state outlived the client that hung
    assert answers["fine"]["place"] == str(place.folder)
    assert answers["fine"]["env"] == ""

    log = AgentLog(place)
    outcomes = [event for event in events(place) if event[0] not in ("received", "joined", "approved")]
    assert outcomes == [
        ("answered", ""),
        ("error", "TimeLimit"),
        ("error", "Ended"),
        ("error", "ValueError"),
        ("refused", "OwnError"),
        ("answered", ""),
    ]
    assert log.verify().torn == ()
    assert "PATIENT" not in log.path.read_text()
    answered = [line for line in log.read() if line["event"] == "answered"]
    assert all(line["study"] == "stub" and len(line["code"]) == 64 for line in answered)
    assert all(line["bytes_out"] > 0 and len(line["sha256_out"]) == 64 for line in answered)

    # A killed SuperNode comes back by itself.
    state = read_state(place)
    assert state is not None
    os.kill(state["supernode"], signal.SIGKILL)
    wait_until(lambda: not federation.is_online(place), 20, "the kill")
    wait_until(lambda: federation.is_online(place), 75, "the SuperNode's return")
    assert federation.run("fine")[0]["answers"][0]["word"] == "fine"

    # Ctrl-C in a terminal goes to the agent. It ends what it started, although that hangs.
    assert len(marked_processes(place.folder)) >= 2
    agent.send_signal(signal.SIGINT)
    assert agent.wait(30) == 0
    assert marked_processes(place.folder) == []
    assert events(place)[-1][0] == "left"
    assert "has left" in federation.output(place)
    assert "round 1: query.step: error" in federation.output(place)
    assert log.verify().torn == ()


def test_unapproved_code_is_refused_the_other_hospital_goes_on_and_a_killed_agent_leaves_nothing(
    federation: Federation,
) -> None:
    federation.join("hospital-0")
    federation.join("hospital-1")
    first, second = federation.places
    # The approval is looked up for every message: it ends while the agent runs.
    withdraw(second, parse_bundle(write_stub_app(federation.app), "the stub").sha256)
    (row,) = federation.run("fine")
    errors = [answer for answer in row["answers"] if "error" in answer]
    assert len(row["answers"]) == 2
    assert len(errors) == 1
    assert "not approved by hospital-1" in errors[0]["error"]
    assert (
        AgentLog(second).read()[-1] | {"event": "refused", "field": "code"} == AgentLog(second).read()[-1]
    )

    # Another bundle of the same name and version, which the coordinator alone knows: refused by both.
    write_stub_app(federation.app, "altered by the coordinator")
    (row,) = federation.run("fine")
    assert len(row["answers"]) == 2
    assert all("not approved" in answer["error"] for answer in row["answers"])
    assert events(first)[-1][0] == "refused"

    for place, agent in zip(federation.places, federation.agents, strict=True):
        started = marked_processes(place.folder)
        # A SuperNode, and a client of the approved code; nothing of withdrawn code stays in memory.
        assert len(started) == (2 if place is first else 1)
        agent.kill()
        agent.wait()
        wait_until(partial(_is_empty, place), 20, "the end of all processes")
        assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in started)
        assert read_state(place) is None


def test_leave_ends_an_agent_that_is_at_work(federation: Federation) -> None:
    federation.join("hospital-0")
    (place,), (agent,) = federation.places, federation.agents
    federation.link.run(
        federation.app, steps="hang", out=str(federation.folder / "rows.json"), nodes=1, timeout=30.0
    )
    wait_until(lambda: events(place)[-1][0] == "received", 60, "the message")
    done = subprocess.run(
        [str(BIN / "cipherward-party"), "leave", str(place.folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert agent.wait(5) == 0
    assert marked_processes(place.folder) == []
    assert [event for event, _ in events(place)][-2:] == ["unanswered", "left"]
