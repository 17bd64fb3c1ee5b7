"""The executor's decisions, with Flower's Runtime API replaced: what runs, what is logged, what leaves."""

from __future__ import annotations

import errno
import http.server
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from flwr.app import ConfigRecord, Context, Message, Metadata, RecordDict
from flwr.app.message import make_message
from flwr.common.serde import recorddict_to_proto

from crypto.errors import CipherwardError
from parties.agent import executor as module
from parties.agent.agent_log import AgentLog
from parties.agent.approval import approve, withdraw
from parties.agent.bundle import parse_bundle
from parties.agent.executor import UNREACHABLE, Executor
from parties.agent.message_facts import MessageFacts
from parties.agent.warm_client import Answer
from parties.sealing.place import Place
from tests.support.agents import make_place
from tests.support.stub_app import write_stub_app

CONTENT = "the-content-of-a-message"


class _Client:
    """As much of Flower's Runtime client as an executor needs: one task, and what is done with it."""

    def __init__(self) -> None:
        self.heartbeats = 0
        self.replies: list[Message] = []
        self.outputs: list[str] = []
        self.pushing: Callable[[], None] = lambda: None

    def AcquireTask(self, _request: object) -> Any:  # noqa: N802 - Flower's name
        return SimpleNamespace(HasField=lambda _name: True, token="token")

    def SendTaskHeartbeat(self, _request: object) -> None:  # noqa: N802 - Flower's name
        self.heartbeats += 1

    def close(self) -> None:
        pass


class _Warm:
    """A warm client that answers without a process."""

    def __init__(self, answer: Answer) -> None:
        self.result = answer
        self.calls: list[float] = []
        self.pid = 1

    def answer(self, _message: bytes, context: bytes, limit_s: float, tick: Callable[[], None]) -> Answer:
        tick()
        self.calls.append(limit_s)
        assert context
        return self.result

    def end(self) -> None:
        pass


class _Bench:
    """An executor on a bench: its hospital, what it is given and what it does."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.place: Place = make_place(folder)
        self.bundle = parse_bundle(write_stub_app(folder / "app"), "the stub")
        self.client = _Client()
        content = RecordDict({"about": ConfigRecord({"ok": True})})
        self.warm = _Warm(Answer(content=recorddict_to_proto(content).SerializeToString(), cpu_s=0.25))
        self.announced: list[tuple[str, str]] = []
        self.unpacked: list[str] = []
        self.plan = '{"study": "s", "deadline_s": 40}'
        monkeypatch.setattr(module, "pull_task_input", self._pull)
        monkeypatch.setattr(module, "push_message", self._push)
        monkeypatch.setattr(module, "push_task_output", lambda *words: self.client.outputs.append(words[2]))
        self.executor = Executor(
            self.place, "", b"", folder / "apps", {}, folder / "client.log", "fork", lambda: None,
            self._announce, 60.0,
        )  # fmt: skip
        monkeypatch.setattr(Executor, "_connect", lambda _self, *_words: self.client)
        monkeypatch.setattr(Executor, "_unpack", self._unpack)
        self.executor.connect("", b"s")

    def _announce(self, _facts: MessageFacts, outcome: str, _seconds: float, text: str) -> None:
        self.announced.append((outcome, text))

    def _unpack(self, _fab: bytes, code: str, *_words: str) -> _Warm:
        self.unpacked.append(code)
        return self.warm

    def _pull(self, _client: object) -> tuple[Message, Context, Any, Any]:
        record = ConfigRecord({"server-round": 2, "plan": self.plan, "x": CONTENT})
        metadata = Metadata(
            run_id=7, message_id="m" * 64, src_node_id=1, dst_node_id=2, reply_to_message_id="", group_id="",
            created_at=time.time(), ttl=600.0, message_type="train",
        )  # fmt: skip
        message = make_message(metadata=metadata, content=RecordDict({"config": record}))
        context = Context(
            run_id=7, node_id=2, node_config={"party-dir": "/of/the/coordinator"}, state=RecordDict(),
            run_config={},
        )  # fmt: skip
        run = SimpleNamespace(fab_id="tests/stub", fab_version="1.0.0")
        return message, context, run, SimpleNamespace(content=self.bundle.data)

    def _push(self, _client: object, reply: Message, context: Context) -> None:
        assert context.node_config == {"party-dir": str(self.place.folder)}
        self.client.pushing()
        self.client.replies.append(reply)

    @property
    def events(self) -> list[str]:
        """The events of the log, the approval left out."""
        return [line["event"] for line in AgentLog(self.place).read() if line["event"] != "approved"]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Bench:
    """Give an executor on a bench; nothing is approved yet."""
    return _Bench(tmp_path, monkeypatch)


def test_an_approved_bundle_answers_and_the_log_has_both_ends(bench: _Bench) -> None:
    approve(bench.place, bench.bundle, 30)
    assert bench.executor.step()
    (reply,) = bench.client.replies
    assert (reply.metadata.reply_to_message_id, reply.metadata.run_id) == ("m" * 64, 7)
    assert bool(reply.content["about"]["ok"])
    received, answered = AgentLog(bench.place).read()[1:]
    assert (received["event"], answered["event"]) == ("received", "answered")
    assert answered["received"] == received["n"]
    for line in (received, answered):
        assert (line["type"], line["study"], line["round"]) == ("train", "s", 2)
        assert line["code"] == bench.bundle.sha256
    assert received["bytes_in"] > 0
    assert (answered["bytes_out"], answered["cpu_s"]) == (len(bench.warm.result.content), 0.25)
    assert CONTENT not in AgentLog(bench.place).path.read_text()
    assert bench.warm.calls == [70.0]  # the round's deadline and 30 s


def test_what_an_app_prints_does_not_fill_the_disk(bench: _Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parties.agent.supernode._MAX_LOG_BYTES", 1000)
    approve(bench.place, bench.bundle, 30)
    log = bench.executor.client_log
    with open(log, "ab", buffering=0) as sink:  # as the client has it
        for _ in range(50):
            sink.write(b"a traceback of a refused message\n" * 10)
            assert bench.executor.step()
        sink.write(b"the last words\n")
    assert log.read_bytes().endswith(b"the last words\n")
    assert sum(path.stat().st_size for path in log.parent.glob(f"{log.name}*")) < 5000
    assert len(bench.client.replies) == 50


def test_unapproved_code_is_not_even_unpacked(bench: _Bench) -> None:
    bench.executor.step()
    (reply,) = bench.client.replies
    assert "not approved" in reply.error.reason
    assert bench.unpacked == []
    assert bench.events == ["received", "refused"]
    assert AgentLog(bench.place).read()[-1]["field"] == "code"
    assert bench.announced[0][0] == "refused"


def test_an_approval_that_ends_is_noticed_by_the_next_message(bench: _Bench) -> None:
    approve(bench.place, bench.bundle, 30)
    bench.executor.step()
    withdraw(bench.place, bench.bundle.sha256)
    bench.executor.step()
    assert bench.client.replies[0].has_content()
    assert "not approved" in bench.client.replies[1].error.reason
    assert len(bench.warm.calls) == 1


@pytest.mark.parametrize("failing", [1, 2])
def test_what_cannot_be_logged_is_not_answered(
    bench: _Bench, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    approve(bench.place, bench.bundle, 30)
    write, calls = os.write, 0

    def full(handle: int, data: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls >= failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, data)

    monkeypatch.setattr(os, "write", full)
    bench.executor.step()
    monkeypatch.undo()
    (reply,) = bench.client.replies
    assert reply.has_error()
    assert "cannot write its log" in reply.error.reason
    assert str(bench.place.folder) not in reply.error.reason
    # Before the code runs where the first line fails, and before the answer leaves where the second does.
    assert len(bench.warm.calls) == failing - 1


def test_a_refusal_of_the_hospital_s_policy_is_logged_by_its_field(bench: _Bench) -> None:
    approve(bench.place, bench.bundle, 30)
    bench.warm.result = Answer(error="RefusedError", text="says rounds 9", field="rounds")
    bench.executor.step()
    line = AgentLog(bench.place).read()[-1]
    assert (line["event"], line["field"], line["error"]) == ("refused", "rounds", "RefusedError")
    assert "says rounds 9" in bench.client.replies[0].error.reason


def test_an_error_is_logged_by_its_type(bench: _Bench) -> None:
    approve(bench.place, bench.bundle, 30)
    bench.warm.result = Answer(error="ValueError")
    bench.executor.step()
    assert AgentLog(bench.place).read()[-1]["error"] == "ValueError"
    assert bench.events[-1] == "error"


def test_an_error_of_ours_tells_the_coordinator_no_folder_of_the_hospital_s_machine(bench: _Bench) -> None:
    approve(bench.place, bench.bundle, 30)
    inside, outside = bench.place.folder / "sealed" / "val", "/data/ward-7/Mueller_Hans/weights.safetensors"
    text = (
        f"no sealed set in {inside}; {outside} is another; ~/keys/id.txt; see {Path.home()}/x/y and "
        "https://a.org/b/c (hint: cipherward-party accept PLAN)"
    )
    bench.warm.result = Answer(error="CipherwardError", text=text)
    bench.executor.step()
    (reply,) = bench.client.replies
    assert reply.error.reason == (
        "<class 'CipherwardError'>:<'no sealed set in sealed/val; …/weights.safetensors is another; …/id.txt; see "
        "…/y and https://a.org/b/c (hint: cipherward-party accept PLAN)'>"
    )
    assert bench.announced == [("error", text)]  # here it stands whole


@pytest.mark.parametrize("name", ["Klinik Nord", "Meier, Anna", "data (old)", "ward's"])
def test_a_folder_is_taken_out_whatever_its_name_holds(bench: _Bench, tmp_path: Path, name: str) -> None:
    approve(bench.place, bench.bundle, 30)
    folder = tmp_path / name / "Dr Meier"
    folder.mkdir(parents=True)
    text = f"the weights are others, and {folder}/vit.safetensors is not here; {folder}/k.key is"
    bench.warm.result = Answer(error="CipherwardError", text=text)
    bench.executor.step()
    (reply,) = bench.client.replies
    assert "and …/vit.safetensors is not here; …/k.key is" in reply.error.reason
    assert "Meier" not in reply.error.reason


def test_a_long_message_keeps_its_task_alive(bench: _Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    approve(bench.place, bench.bundle, 30)
    monkeypatch.setattr(module, "_HEARTBEAT_S", -1.0)
    bench.executor.step()
    assert bench.client.heartbeats == 1


def test_a_reply_that_does_not_reach_the_supernode_is_logged_so(bench: _Bench) -> None:
    approve(bench.place, bench.bundle, 30)

    def fail() -> None:
        raise httpx.ConnectError("gone")

    bench.client.pushing = fail
    with pytest.raises(httpx.ConnectError):
        bench.executor.step()
    assert bench.events == ["received", "answered", "unsent"]


def test_a_message_that_flower_cannot_read_ends_nothing(
    bench: _Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_client: object) -> None:
        raise ValueError("inflating failed")

    monkeypatch.setattr(module, "pull_task_input", fail)
    assert bench.executor.step()
    assert bench.events == ["unreadable"]
    assert bench.client.replies == []


@pytest.mark.parametrize(
    "plan",
    [
        '{"study":"s","source":"folder","images":"x","image_size":1000000000000,"block":8}',
        '{"study":"s","source":"folder","images":"x","image_size":64,"block":8,"parties":1e999}',
        "[" * 100_000,
    ],
)
def test_whatever_a_plan_says_its_message_is_logged_and_answered(bench: _Bench, plan: str) -> None:
    approve(bench.place, bench.bundle, 30)
    bench.plan = plan
    assert bench.executor.step()
    assert bench.events == ["received", "answered"] and len(bench.client.replies) == 1


def test_a_full_disk_does_not_end_the_agent(bench: _Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    approve(bench.place, bench.bundle, 30)

    def is_full(_log: object, event: str, **_fields: object) -> int:
        raise CipherwardError(f"{event}: no space left", "free some")

    def fail(_client: object) -> None:
        raise ValueError("inflating failed")

    monkeypatch.setattr(AgentLog, "append", is_full)
    assert bench.executor.step()
    assert (
        bench.announced[-1][0] == "error" and bench.client.replies
    )  # what is not in the log does not leave
    monkeypatch.setattr(module, "pull_task_input", fail)
    assert bench.executor.step()


def test_a_log_that_lost_lines_is_said_here_and_nothing_leaves(bench: _Bench) -> None:
    approve(bench.place, bench.bundle, 30)
    assert bench.executor.step()
    AgentLog(bench.place).path.write_bytes(b"")
    assert bench.executor.step()
    outcome, text = bench.announced[-1]
    assert outcome == "error" and "agent-head.json names line 3" in text
    assert "this hospital cannot write its log" in bench.client.replies[-1].error.reason
    assert "agent-head" not in bench.client.replies[-1].error.reason


def test_a_machine_that_can_start_no_process_costs_the_message_and_not_the_agent(
    bench: _Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    approve(bench.place, bench.bundle, 30)

    def no_process(*_words: object) -> Answer:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    answer = bench.warm.answer
    monkeypatch.setattr(bench.warm, "answer", no_process)
    assert bench.executor.step()
    assert bench.events == ["received", "error"]
    assert bench.announced == [("error", "Resource temporarily unavailable")]
    assert "BlockingIOError" in bench.client.replies[0].error.reason
    monkeypatch.setattr(bench.warm, "answer", answer)
    assert bench.executor.step() and bench.events[-1] == "answered"


def test_an_agent_that_leaves_says_that_a_message_was_not_answered(
    bench: _Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    approve(bench.place, bench.bundle, 30)

    def leave() -> None:
        raise KeyboardInterrupt

    bench.executor.tick = leave
    with pytest.raises(KeyboardInterrupt):
        bench.executor.step()
    assert bench.events == ["received", "unanswered"]


def test_an_app_that_cannot_be_loaded_is_an_error_of_its_message(
    bench: _Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    approve(bench.place, bench.bundle, 30)

    def fail(*_words: Any, **_named: Any) -> Answer:
        raise CipherwardError("the approved app cannot be loaded: ImportError", "see /a/path")

    monkeypatch.setattr(bench.warm, "answer", fail)
    bench.executor.step()
    reason = bench.client.replies[0].error.reason
    assert "cannot be loaded" in reason
    assert "/a/path" not in reason
    assert bench.events == ["received", "error"]


class _Refuses(http.server.BaseHTTPRequestHandler):
    """Answers every request with 401, as a SuperNode does that has dropped a task."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(401)
        self.end_headers()

    def log_message(self, *_words: object) -> None:
        pass


def test_a_task_that_the_supernode_has_dropped_does_not_end_the_agent(tmp_path: Path) -> None:
    place = make_place(tmp_path)
    signals: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: signals.append(number))
    with http.server.HTTPServer(("127.0.0.1", 0), _Refuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        executor = Executor(
            place, "", b"", tmp_path / "apps", {}, tmp_path / "client.log", "fork", lambda: None,
            lambda *_words: None, 60.0,
        )  # fmt: skip
        try:
            executor.connect(f"127.0.0.1:{server.server_port}", b"s" * 32)
            with pytest.raises(UNREACHABLE):
                executor.step()
        finally:
            executor.close()
            server.shutdown()
            signal.signal(signal.SIGINT, before)
    assert signals == []


def test_a_client_that_hangs_is_ended_long_before_the_deadline_of_a_long_round(
    bench: _Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its plan leaves a round 40 s; a training here took no time at all, so 30 s are more than patient."""
    approve(bench.place, bench.bundle, 30)
    assert bench.executor.step() and bench.executor.step()
    assert bench.warm.calls == [70.0, 30.0]
    # A slow hospital gets four times what it needed before, and never more than the plan's deadline and 30 s.
    [kind] = bench.executor._longest
    for longest, limit in ((10.0, 40.0), (1000.0, 70.0)):
        bench.executor._longest[kind] = longest
        bench.executor.step()
        assert bench.warm.calls[-1] == limit
    # After one that took too long, the next one has the whole deadline: a machine that became slow is not locked out.
    bench.executor._longest[kind] = 1.0
    bench.warm.result = Answer(error="TimeLimit", text="no answer")
    bench.executor.step()
    assert bench.warm.calls[-1] == 30.0
    bench.executor.step()
    assert bench.warm.calls[-1] == 70.0


def test_withdrawn_code_is_not_imported_again_after_the_message_that_it_hung_on(
    bench: _Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    approve(bench.place, bench.bundle, 30)
    ended: list[int] = []
    started: list[int] = []
    warm: Any = bench.warm
    warm.pid, warm.end, warm.start = None, lambda: ended.append(1), lambda _tick: started.append(1)
    bench.executor._clients[bench.bundle.sha256] = warm

    def push() -> None:
        withdraw(bench.place, bench.bundle.sha256)

    bench.client.pushing = push
    bench.executor.step()
    assert started == [] and ended == [1]
    assert bench.executor._clients == {}


@pytest.mark.parametrize("deadline", ["1e300", "1" + 400 * "0", "864000"], ids=["float", "whole", "days"])
def test_a_deadline_of_the_coordinator_neither_ends_the_agent_nor_lifts_its_time_limit(
    bench: _Bench, monkeypatch: pytest.MonkeyPatch, deadline: str
) -> None:
    approve(bench.place, bench.bundle, 30)
    pull = bench._pull

    def lie(client: object) -> Any:
        message, *rest = pull(client)
        message.content["config"]["plan"] = f'{{"study": "s", "deadline_s": {deadline}}}'
        return message, *rest

    monkeypatch.setattr(module, "pull_task_input", lie)
    bench.executor.step()
    assert bench.warm.calls[0] <= 86_400.0 + 30.0
    assert bench.events == ["received", "answered"]
