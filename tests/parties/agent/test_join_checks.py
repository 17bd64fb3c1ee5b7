"""Before an agent starts anything: the kit, the plan, the code and the machine must fit; one agent a hospital."""

from __future__ import annotations

import datetime
import errno
import hashlib
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil  # type: ignore[import-untyped]  # it has no types
import pytest
import yaml
from flwr.app import ConfigRecord, RecordDict

from coordinator.exchange.code_approval import read_approval
from coordinator.exchange.kit import PLAN, STUDY, Kit
from coordinator.exchange.statement import plan_digest
from coordinator.exchange.versions import installed_versions
from crypto.errors import CipherwardError
from crypto.files import json_text, write_json
from parties.agent import join as join_module
from parties.agent.agent_log import AgentLog
from parties.agent.approval import approvals_path, approve, withdraw
from parties.agent.approval_key import approval_key_path
from parties.agent.bundle import parse_bundle
from parties.agent.enrol import node_key_path
from parties.agent.join import Options, check_kit, join
from parties.agent.message_facts import MessageFacts, read_facts
from parties.agent.running import hold, leave, read_state, write_state
from parties.agent.supernode import SuperNode, explain
from parties.sealing.place import Place
from tests.support.agents import kit_for, make_place, ready_place
from tests.support.hospitals import plan
from tests.support.manifests import manifest_of
from tests.support.stub_app import write_stub_app

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


@pytest.fixture
def bundle(tmp_path: Path) -> bytes:
    """Give an app bundle."""
    return write_stub_app(tmp_path / "app")


@pytest.fixture
def place(tmp_path: Path, bundle: bytes) -> Place:
    """Give a hospital that may join."""
    return ready_place(tmp_path, plan(), bundle)


def make(tmp_path: Path, bundle: bytes, **changes: Any) -> Kit:
    """Return a kit for hospital-0 with these changes of its manifest."""
    return kit_for(tmp_path, plan(), hashlib.sha256(bundle).hexdigest(), **changes)


def test_a_hospital_that_did_everything_may_join(tmp_path: Path, place: Place, bundle: bytes) -> None:
    check_kit(place, make(tmp_path, bundle), NOW)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"hospital": "hospital-1"}, "for hospital-1, and the folder is hospital-0's"),
        ({"expires": (NOW - DAY).isoformat()}, "expired on"),
        ({"versions": {**installed_versions(), "flwr": "1.40.0"}}, r"runs flwr 1\.40\.0"),
        ({"versions": {}}, "runs cipherward unknown"),
        ({"bundle_sha256": "0" * 64}, "not approved by hospital-0"),
    ],
)
def test_a_kit_that_does_not_fit_is_refused_with_a_sentence(
    tmp_path: Path, place: Place, bundle: bytes, changes: dict[str, Any], reason: str
) -> None:
    kit = make(tmp_path, bundle, **changes)
    with pytest.raises(CipherwardError, match=reason):
        join(place, kit, print, Options())
    assert not (place.private / "agent").exists()  # nothing was started


def test_a_plan_that_was_not_accepted_is_refused_by_its_field(
    tmp_path: Path, place: Place, bundle: bytes
) -> None:
    kit = kit_for(tmp_path, plan(rounds=7), hashlib.sha256(bundle).hexdigest())
    with pytest.raises(CipherwardError, match=r"not accepted the plan.*rounds 7"):
        check_kit(place, kit, NOW)
    with pytest.raises(CipherwardError, match="no plan"):
        check_kit(place, Kit(kit.manifest, {**kit.files, PLAN: b"["}), NOW)


def test_a_study_manifest_that_was_not_agreed_to_is_refused(
    tmp_path: Path, place: Place, bundle: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit = make(tmp_path, bundle)
    agreed, other = (manifest_of(plan(counts=(n, n, n))) for n in (90, 99))
    with_study = Kit(kit.manifest, {**kit.files, STUDY: json_text(agreed.to_json()).encode()})
    with pytest.raises(CipherwardError, match="not agreed to the study manifest yet"):
        check_kit(place, with_study, NOW)
    monkeypatch.setattr(join_module, "read_agreed", lambda _place, _policy: agreed)
    check_kit(place, with_study, NOW)
    monkeypatch.setattr(join_module, "read_agreed", lambda _place, _policy: other)
    with pytest.raises(CipherwardError, match="not the one that this hospital agreed to"):
        check_kit(place, with_study, NOW)
    with pytest.raises(CipherwardError, match="study manifest in this kit"):
        check_kit(place, Kit(kit.manifest, {**kit.files, STUDY: b"{"}), NOW)


def test_each_missing_step_is_named(tmp_path: Path, place: Place, bundle: bytes) -> None:
    kit = make(tmp_path, bundle)
    withdraw(place, kit.manifest.bundle_sha256)
    with pytest.raises(CipherwardError, match="not approved"):
        check_kit(place, kit, NOW)
    place.policy_file.unlink()
    with pytest.raises(CipherwardError, match="accepted no study"):
        check_kit(place, kit, NOW)
    node_key_path(place).unlink()
    with pytest.raises(CipherwardError, match="no SuperNode key") as error:
        check_kit(place, kit, NOW)
    assert "enrol" in error.value.hint


def test_one_agent_a_hospital(tmp_path: Path) -> None:
    place = make_place(tmp_path)
    assert read_state(place) is None
    with hold(place):
        write_state(place, connection="online")
        state = read_state(place)
        assert state is not None
        assert (state["pid"], state["connection"]) == (os.getpid(), "online")
        with pytest.raises(CipherwardError, match="running already"), hold(place):
            pass
    assert read_state(place) is None
    with pytest.raises(CipherwardError, match="no agent of hospital-0"):
        leave(place)


def test_leave_ends_no_process_that_got_the_agents_number(tmp_path: Path) -> None:
    place = make_place(tmp_path)
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        with hold(place):
            began = psutil.Process(stranger.pid).create_time()
            # An agent of that number ran here an hour before the stranger began.
            write_json(
                place.private / "agent" / "agent.json", {"pid": stranger.pid, "started": began - 3600}
            )
            with pytest.raises(CipherwardError, match="starting or ending"):
                leave(place)
        assert stranger.poll() is None
        with pytest.raises(CipherwardError, match="no agent"):
            leave(place)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: unable to get local issuer certificate "
         "(_ssl.c:1006)", "unable to get local issuer certificate"),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: certificate is not yet valid (_ssl.c:1006)",
         "check the clock"),
        ("[code: 2004] Failed to activate SuperNode.", "not enrolled"),
        ("[code: 9] Something new.", "Something new"),
    ],
)  # fmt: skip
def test_a_connection_that_fails_is_explained(line: str, word: str) -> None:
    reason = explain(line)
    assert reason is not None
    assert word in reason
    assert explain("INFO :      SuperNode ID: 3") is None


class _Message:
    """As much of a Flower message as the log reads."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.metadata = self
        self.message_type = "train\x1b[2J"
        self.content = RecordDict({"config": ConfigRecord(config)})

    def has_content(self) -> bool:
        return True


def test_the_log_takes_facts_and_nothing_else_from_a_message() -> None:
    proposed = plan(study="s")
    text = proposed.model_dump_json()
    facts = read_facts(_Message({"plan": text, "server-round": 3, "manifest": "ab12", "note": "PATIENT"}))
    assert (facts.study, facts.round, facts.manifest, facts.deadline_s) == ("s", 3, "ab12", 60.0)
    # The digest by which the hospitals' statements name this plan.
    assert facts.plan == plan_digest(proposed)
    assert "PATIENT" not in str(facts.fields())
    assert "\x1b" not in str(facts.fields()["type"])


@pytest.mark.parametrize(
    "plan_json", ["", "[]", "{", '{"study": 3, "deadline_s": "x"}', '{"deadline_s": -1}']
)
def test_a_malformed_message_gives_fewer_facts_and_no_error(plan_json: str) -> None:
    facts = read_facts(_Message({"plan": plan_json, "server-round": "three", "split": 5}))
    assert (facts.study, facts.round, facts.split, facts.deadline_s) == (None, None, None, None)


_LISTEN = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"


def test_only_the_agent_s_own_supernode_counts_as_listening(tmp_path: Path) -> None:
    """The port stands in a command line that all users can read, seconds before the SuperNode takes it."""
    node = SuperNode(tmp_path, "127.0.0.1:1", tmp_path / "ca", tmp_path / "key", tmp_path, {})
    assert not node.is_listening  # it does not run
    words = [sys.executable, "-c", _LISTEN]
    node._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert node._process.stdin is not None and node._process.stdout is not None
    try:
        node.port = int(node._process.stdout.readline())
        assert node.is_listening
        with socket.create_server(("127.0.0.1", 0)) as impostor:
            node.port = impostor.getsockname()[1]
            assert not node.is_listening
    finally:
        node._process.stdin.close()
        node._process.stdout.close()
        node._process.wait()


def test_an_agent_asks_no_impostor_for_tasks(
    tmp_path: Path, place: Place, bundle: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = join_module._Agent(place, make(tmp_path, bundle), print, Options(), tmp_path)
    monkeypatch.setattr(SuperNode, "ensure", lambda _node: False)
    asked: list[bool] = []

    def step() -> bool:
        asked.append(True)
        return True

    monkeypatch.setattr(agent.executor, "step", step)
    agent._work()
    assert not asked
    monkeypatch.setattr(SuperNode, "is_listening", property(lambda _node: True))
    agent._work()
    assert asked == [True]


def test_a_full_disk_under_its_state_does_not_end_an_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_words: object, **_values: object) -> None:
        raise CipherwardError("the disk is full: cannot write agent.json", "free some space")

    monkeypatch.setattr(join_module, "write_state", fail)
    said: list[str] = []
    agent = object.__new__(join_module._Agent)
    agent.place = SimpleNamespace(settings=SimpleNamespace(party="hospital-0"))  # type: ignore[assignment]
    agent.kit = SimpleNamespace(manifest=SimpleNamespace(federation="f", address="a"))  # type: ignore[assignment]
    agent.node = SimpleNamespace(connection="online", error="", pid=1, starts=1)  # type: ignore[assignment]
    agent.last_message, agent.counts, agent.log = "", {"answered": 0, "refused": 0, "error": 0}, said.append
    agent.announce(MessageFacts("train", round=1), "error", 1.0, "no log")
    assert said[0].endswith("round 1: train: error in 1.0 s: no log") and "the disk is full" in said[1]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full: cannot write"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "Resource temporarily"),
    ],
)
def test_a_supernode_that_cannot_be_started_again_does_not_end_the_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, text: str
) -> None:
    started: list[str] = []

    def popen(*_words: object, **_options: object) -> SimpleNamespace:
        if error.errno == errno.EAGAIN and len(started) < 2:
            started.append("refused")
            raise error
        return SimpleNamespace(poll=lambda: None, pid=os.getpid())

    def full(*words: object) -> int:
        if len(started) < 2:
            started.append("refused")
            raise error
        return opening(*words)  # type: ignore[arg-type]

    opening = os.open
    lines: list[str] = []
    agent = object.__new__(join_module._Agent)
    agent.node = SuperNode(tmp_path, "127.0.0.1:1", tmp_path / "ca", tmp_path / "key", tmp_path, {})
    agent.log = lines.append
    monkeypatch.setattr(agent, "_write_state", lambda: None)
    monkeypatch.setattr(agent, "_connect", lambda: lines.append("connected"))
    monkeypatch.setattr(subprocess, "Popen", popen)
    if error.errno == errno.ENOSPC:
        monkeypatch.setattr(os, "open", full)
    for _ in range(5):
        agent._ensure_node()
        # A pause comes before the next try.
        agent._ensure_node()
        agent.node._next_start = 0.0
    assert started == ["refused"] * 2 and lines[1:] == ["connected"]
    assert "the SuperNode cannot be started: " in lines[0] and text in lines[0]
    assert not agent.node.error


def test_the_supernode_trusts_this_hospital_s_key_alone_unless_the_hospital_says_otherwise(
    tmp_path: Path, place: Place, bundle: bytes
) -> None:
    kit = make(tmp_path, bundle)
    agent = join_module._Agent(place, kit, print, Options(), tmp_path)
    assert agent.node.trusted is not None
    signed = read_approval(place.folder / "approval.json")
    assert yaml.safe_load(agent.node.trusted.read_text()) == {signed.key_id: signed.key}
    assert signed.bundle_sha256 == hashlib.sha256(bundle).hexdigest() and signed.hospital == "hospital-0"
    assert approval_key_path(place).stat().st_mode & 0o777 == 0o600
    # Another approval signs with the same key: what the coordinator carries stays valid.
    approve(place, parse_bundle(bundle, "the stub"), 30)
    assert read_approval(place.folder / "approval.json").key == signed.key
    assert (
        join_module._Agent(place, kit, print, Options(is_signature_asked=False), tmp_path).node.trusted
        is None
    )
    approval_key_path(place).unlink()
    with pytest.raises(CipherwardError, match="no key for approvals") as error:
        join_module._Agent(place, kit, print, Options(), tmp_path)
    assert "approve" in error.value.hint
    assert approvals_path(place).exists()


def test_the_operator_says_how_many_threads_a_message_may_have(
    tmp_path: Path, place: Place, bundle: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    kit = make(tmp_path, bundle)
    limited = join_module._Agent(place, kit, print, Options(threads=2), tmp_path)
    assert limited.executor.environment["OMP_NUM_THREADS"] == "2"
    free = join_module._Agent(place, kit, print, Options(), tmp_path)
    assert free.executor.environment["OMP_NUM_THREADS"] == "3"


_REFUSAL = """\x1b[92mINFO \x1b[0m:      Receiving: query.hello message (ID: {message})
\x1b[91mERROR \x1b[0m:     FAB verification failed: the provided trusted entities could not verify the FAB.
"""


def test_what_flower_s_own_check_refused_is_in_the_hospital_s_log(
    tmp_path: Path, place: Place, bundle: bytes
) -> None:
    said: list[str] = []
    agent = join_module._Agent(place, make(tmp_path, bundle), said.append, Options(), tmp_path)
    agent.node.log_file.write_text(_REFUSAL.format(message="ab" * 32))
    agent._read_log()
    agent._read_log()
    refused = [line for line in AgentLog(place).read() if line["event"] == "refused"]
    assert [(line["type"], line["message"], line["field"], line["by"]) for line in refused] == [
        ("query.hello", "ab" * 32, "code", "SuperNode")
    ]
    assert agent.counts["refused"] == 1
    assert any("send the coordinator approval.json" in line for line in said)
