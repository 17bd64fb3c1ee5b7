"""The commands of a hospital's agent, as docs/deployment-hospital.md shows them; `join` runs in test_join.py."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from coordinator.exchange.console import run
from coordinator.exchange.kit import read_kit
from parties.agent.agent_log import AgentLog
from parties.agent.approval import read_approvals
from parties.agent.bundle import parse_bundle
from parties.cli import agent as commands
from parties.cli.app import app
from parties.sealing.place import Place
from tests.support.agents import kit_for, make_place
from tests.support.hospitals import plan
from tests.support.paths import ROOT
from tests.support.stub_app import write_stub_app

PAGE = ROOT / "docs" / "deployment-hospital.md"


class _Terminal:
    """Runs a command and keeps what it printed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *words: object) -> tuple[int, str, str]:
        """Return exit status, standard output and standard error of `cipherward-party WORDS`."""
        self._monkeypatch.setattr(sys, "argv", ["cipherward-party", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            run(app, "cipherward-party")
        out, err = self._capsys.readouterr()
        status = end.value.code
        return (status if isinstance(status, int) else 0), out, re.sub(r"\s+", " ", err)


@pytest.fixture
def party(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> _Terminal:
    """Give a terminal."""
    return _Terminal(monkeypatch, capsys)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Give a hospital."""
    return make_place(tmp_path)


def test_enrol_prints_the_fingerprint_and_orders_to_compare_it(party: _Terminal, place: Place) -> None:
    status, out, err = party("enrol", place.folder)
    assert status == 0
    assert re.fullmatch(r"([A-Z2-7]{4}-){7}[A-Z2-7]{4}\n", out)
    assert "telephone" in err
    assert party("enrol", place.folder)[1] == out


def test_approve_shows_the_difference_and_asks(party: _Terminal, place: Place, tmp_path: Path) -> None:
    bundle = tmp_path / "app.fab"
    bundle.write_bytes(write_stub_app(tmp_path / "app"))
    status, _, err = party("approve", bundle, place.folder)
    assert status == 1
    assert "there is no terminal to ask on" in err
    assert "stub/client.py" in err
    assert read_approvals(place) == []
    status, out, _ = party("approve", bundle, place.folder, "--yes", "--days", "7")
    assert status == 0
    digest = parse_bundle(bundle.read_bytes(), "it").sha256
    assert out.startswith(digest)

    # The next one is compared with this one, and only its lines are shown.
    other = tmp_path / "other.fab"
    other.write_bytes(write_stub_app(tmp_path / "app", "another word"))
    _, _, err = party("approve", other, place.folder)
    assert '+"""another word"""' in err
    assert "1 of 4 files differs from the bundle" in err
    _, _, err = party("approve", bundle, place.folder, "--yes")
    assert f"all files are as in the bundle {digest[:16]}" in err

    assert party("agent", "approvals", place.folder)[1].startswith(digest)
    assert party("agent", "withdraw", digest[:10], place.folder)[0] == 0
    assert read_approvals(place) == []


def test_a_hostile_name_in_a_bundle_steers_no_terminal(
    party: _Terminal, place: Place, tmp_path: Path
) -> None:
    app_folder = tmp_path / "app"
    write_stub_app(app_folder)
    (app_folder / "stub" / "a\x1b[2J.py").write_text("x = '\x1b[2J'\n")
    bundle = tmp_path / "app.fab"
    bundle.write_bytes(write_stub_app(app_folder))
    status, out, err = party("approve", bundle, place.folder, "--yes")
    assert status == 0
    assert "\x1b" not in out + err
    assert "a\\x1b[2J.py" in err


def test_a_kit_is_approved_if_the_own_installation_builds_its_bundle(
    party: _Terminal, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_stub_app(tmp_path / "app")
    monkeypatch.setattr(commands, "_root", lambda: tmp_path / "app")
    sha256 = parse_bundle(data, "it").sha256
    kit_for(tmp_path, plan(), sha256)
    status, out, err = party("approve", tmp_path / "hospital-0.kit", place.folder, "--yes")
    assert (status, out[:64]) == (0, sha256)
    assert f"the kit's fingerprint: {read_kit(tmp_path / 'hospital-0.kit').fingerprint}" in err
    assert "all files are as in this hospital's own installation" in err
    kit_for(tmp_path, plan(), "0" * 64)
    status, _, err = party("approve", tmp_path / "hospital-0.kit", place.folder, "--yes")
    assert status == 1
    assert "names the app bundle 0000000000000000" in err
    kit_for(tmp_path, plan(), sha256, hospital="hospital-1")
    status, _, err = party("approve", tmp_path / "hospital-0.kit", place.folder, "--yes")
    assert status == 1
    assert "this kit is for hospital-1" in err


def test_what_is_no_kit_and_no_bundle_is_one_line(party: _Terminal, place: Place, tmp_path: Path) -> None:
    for name in ("damaged.kit", "damaged.fab"):
        (tmp_path / name).write_bytes(b"PK\x03\x04")
        status, out, err = party("approve", tmp_path / name, place.folder, "--yes")
        assert (status, out) == (1, "")
        assert "Traceback" not in err
    status, _, err = party("join", tmp_path / "damaged.kit", place.folder)
    assert status == 1
    assert "no kit" in err
    status, _, err = party("join", tmp_path / "missing.kit", place.folder, "--limit", "soon")
    assert status == 1
    assert "--limit" in err


def test_without_an_agent_leave_and_status_say_so(party: _Terminal, place: Place) -> None:
    status, _, err = party("leave", place.folder)
    assert status == 1
    assert "no agent of hospital-0 is running" in err and "join KIT HOSPITAL starts one" in err
    assert party("log", place.folder) == (0, "", "the log is empty: no agent of this hospital has run ")
    assert party("agent", "status", place.folder)[1] == "no agent of hospital-0 is running\n"
    assert json.loads(party("agent", "status", place.folder, "--json")[1]) == {
        "running": False,
        "approvals": [],
    }


def test_the_log_is_shown_and_verified(party: _Terminal, place: Place) -> None:
    log = AgentLog(place)
    log.append("joined", federation="f")
    log.append("answered", type="train", study="s", round=3, bytes_out=1234, seconds=0.5)
    status, out, _ = party("log", place.folder)
    assert status == 0
    assert "answered  type train  study s  round 3  seconds 0.5" in out
    assert [line["n"] for line in json.loads(party("log", place.folder, "--json")[1])] == [1, 2]
    status, out, _ = party("log", "verify", place.folder)
    head = log.verify().head
    assert (status, out) == (0, f"2 lines, unbroken; head {head}\n")
    assert json.loads(party("log", "verify", place.folder, "--json")[1])["head"] == head
    assert party("log", "verify", place.folder, "--head", "f" * 64)[0] == 1
    log.path.write_text(log.path.read_text().replace("round", "rounb"))
    status, out, err = party("log", "verify", place.folder)
    assert (status, out) == (1, "")
    assert "broken at line 2" in err
    assert party("log", "check", place.folder)[0] == 1
    assert party("log", place.folder, "--head", head)[0] == 1


def test_every_command_of_the_page_exists_with_its_options(party: _Terminal) -> None:
    page = PAGE.read_text()
    lines: list[str] = re.findall(r"cipherward-party ((?:agent |log )?[a-z-]+)[^`\n]*", page)
    assert len(set(lines)) >= 8
    for words in sorted({tuple(shlex.split(line)) for line in lines}):
        command = words if words[0] == "agent" else words[:1]
        assert party(*command, "--help")[0] == 0, words
    options = {"--days": "approve", "--limit": "join", "--head": "log", "--json": "agent status"}
    for option, name in options.items():
        assert option in page
        assert option in party(*name.split(), "--help")[1]


def test_the_service_runs_a_command_that_exists() -> None:
    text = (ROOT / "docs" / "deployment" / "cipherward-agent@.service").read_text()
    (command,) = re.findall(r"^ExecStart=(.+)$", text, re.MULTILINE)
    assert command.split()[0].endswith("/cipherward-party")
    assert command.split()[1:] == ["join", "/srv/cipherward/%i.kit", "/srv/cipherward/%i"]
    settings = dict(re.findall(r"^(\w+)=(.+)$", text, re.MULTILINE))
    assert settings["KillMode"] == "mixed"
    assert settings["MemoryMax"] == "80%" and settings["OOMPolicy"] == "continue"
