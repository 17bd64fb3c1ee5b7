"""Two hospitals and a coordinator with the commands that their people type, on the loopback interface."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from parties.agent.agent_log import AgentLog
from parties.agent.running import read_state
from parties.sealing.place import Place
from tests.support.hospitals import plan, seal_hospitals
from tests.support.superlink import BIN, free_port, marked_processes, wait_until

pytestmark = pytest.mark.slow


class _People:
    """Runs commands, and keeps those that go on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: list[subprocess.Popen[bytes]] = []

    def run(self, program: str, *words: object) -> str:
        """Run a command to its end and return what it printed as its result."""
        done = subprocess.run(
            [str(BIN / f"cipherward-{program}"), *map(str, words)],
            capture_output=True, text=True, timeout=500, check=False, cwd=self.folder,
        )  # fmt: skip
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def start(self, name: str, program: str, *words: object) -> subprocess.Popen[bytes]:
        """Start a command that goes on; what it prints is in NAME.out."""
        with open(self.folder / f"{name}.out", "wb") as sink:
            process = subprocess.Popen(
                [str(BIN / f"cipherward-{program}"), *map(str, words)],
                stdout=sink, stderr=subprocess.STDOUT, cwd=self.folder,
            )  # fmt: skip
        self.running.append(process)
        return process


@pytest.fixture
def people(tmp_path: Path) -> Iterator[_People]:
    """Give people with a folder; what they left running is ended by its own id."""
    people = _People(tmp_path)
    try:
        yield people
    finally:
        for process in reversed(people.running):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)


def test_a_study_over_tls_with_the_commands_of_both_sides(people: _People, tmp_path: Path) -> None:
    p = plan(deadline_s=90.0, grace_s=10.0)
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(p.model_dump(mode="json")))
    places = seal_hospitals(tmp_path, p)
    names = [place.settings.party for place in places]
    federation: dict[str, Any] = {
        "name": "trial",
        "plan": "plan.yaml",
        "hospitals": names,
        "address": ["127.0.0.1"],
    }
    federation |= {"port": free_port(), "local_port": free_port()}
    (tmp_path / "federation.yaml").write_text(yaml.safe_dump(federation))

    # Each hospital makes its keys, accepts the plan and states what it has; then all agree on one manifest.
    for place in places:
        people.run("party", "enrol", place.folder)
        people.run("party", "accept", "plan.yaml", place.folder, "--yes")
        people.run("party", "declare", place.folder, "--out", f"{place.settings.party}.json")
    people.run(
        "coordinator", "manifest", "plan.yaml", *(f"{name}.json" for name in names), "--out", "study.json"
    )
    for place in places:
        people.run("party", "agree", "study.json", place.folder, "--yes")
    (tmp_path / "federation.yaml").write_text(yaml.safe_dump(federation | {"study": "study.json"}))
    people.run("coordinator", "provision", "federation.yaml", "cloud")
    for place in places:
        people.run("coordinator", "enrol", "cloud", place.folder / "enrol.pub")
        people.run(
            "party",
            "approve",
            tmp_path / "cloud" / "kits" / f"{place.settings.party}.kit",
            place.folder,
            "--yes",
        )
        people.run("coordinator", "carry", "cloud", place.folder / "approval.json")

    people.start("serve", "coordinator", "serve", "cloud")
    agents = []
    for place in places:
        kit = tmp_path / "cloud" / "kits" / f"{place.settings.party}.kit"
        agents.append(people.start(place.settings.party, "party", "join", kit, place.folder))
    for place in places:
        wait_until(partial(_is_online, place), 90, f"{place.settings.party} online")
    printed = people.run("coordinator", "run", "cloud")
    assert "test accuracy" in printed
    for place, agent in zip(places, agents, strict=True):
        lines = AgentLog(place).read()
        outcomes = [line for line in lines if line["event"] in ("answered", "refused", "error", "unsent")]
        assert {line["event"] for line in outcomes} == {"answered"}
        assert [line["type"] for line in outcomes].count("train") == p.rounds
        manifest = json.loads((tmp_path / "study.json").read_text())
        assert {line["manifest"] for line in outcomes} == {_digest(place)}
        trained = [line for line in outcomes if line["type"] == "train"]
        assert {line["plan"] for line in trained} == {
            manifest["statements"][place.settings.party]["plan_sha256"]
        }
        people.run("party", "leave", place.folder)
        assert agent.wait(10) == 0
        assert marked_processes(place.folder) == []
        assert "unbroken" in people.run("party", "log", "verify", place.folder)


def _is_online(place: Place) -> bool:
    state = read_state(place)
    return state is not None and state.get("connection") == "online"


def _digest(place: Place) -> str:
    return str(yaml.safe_load(place.policy_file.read_text())["manifest_sha256"])
