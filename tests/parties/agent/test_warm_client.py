"""The warm client: a fork for every message; what hangs, dies or raises costs its own message only."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # it has no types
import pytest
from flwr.app import ConfigRecord, Context, Metadata, RecordDict
from flwr.app.message import make_message as make_message_of
from flwr.common.serde import context_from_proto, context_to_proto, message_to_proto, recorddict_from_proto
from flwr.proto.message_pb2 import Context as ContextProto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto

from crypto.errors import CipherwardError
from parties.agent.warm_client import Answer, App, Mode, WarmClient
from tests.support.stub_app import write_stub_app


def make_message(word: str) -> bytes:
    """Return a serialized message that tells the stub what to do."""
    record = RecordDict({"config": ConfigRecord({"do": word})})
    metadata = Metadata(
        run_id=1, message_id="m", src_node_id=1, dst_node_id=2, reply_to_message_id="", group_id="",
        created_at=time.time(), ttl=600.0, message_type="query.step",
    )  # fmt: skip
    data: bytes = message_to_proto(make_message_of(metadata=metadata, content=record)).SerializeToString()
    return data


def make_context() -> bytes:
    """Return a serialized context without state."""
    context = Context(
        run_id=1, node_id=1, node_config={"party-dir": "/h"}, state=RecordDict(), run_config={}
    )
    data: bytes = context_to_proto(context).SerializeToString()
    return data


def read_about(answer: Answer) -> dict[str, Any]:
    """Return what the stub answered."""
    assert not answer.error, answer
    return dict(recorddict_from_proto(RecordDictProto.FromString(answer.content))["about"])


def make_client(folder: Path, mode: Mode = "fork") -> WarmClient:
    """Return a client of the stub app, not started."""
    write_stub_app(folder / "app")
    app = App("0" * 64, folder / "app", "tests/stub", "1.0.0")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return WarmClient(app, environment | {"OPENBLAS_NUM_THREADS": "1"}, folder / "client.log", mode)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmClient]:
    """Give a client that several tests share; each leaves it usable, which is what they are about."""
    client = make_client(tmp_path_factory.mktemp("warm"))
    yield client
    client.end()


def test_every_message_has_a_process_of_its_own_and_one_parent(client: WarmClient) -> None:
    answers = [client.answer(make_message("fine"), make_context(), 60) for _ in range(3)]
    about = [read_about(answer) for answer in answers]
    assert len({a["pid"] for a in about}) == 3
    assert {a["parent"] for a in about} == {client.pid}
    # The parent imported everything: a message costs a fraction of that.
    assert all(answer.cpu_s < client.start_cpu_s / 3 for answer in answers)


def test_the_state_comes_back_and_goes_into_the_next_message(client: WarmClient) -> None:
    first = client.answer(make_message("fine"), make_context(), 60)
    state = context_from_proto(ContextProto.FromString(first.context))
    second = client.answer(make_message("fine"), context_to_proto(state).SerializeToString(), 60)
    assert [read_about(a)["calls"] for a in (first, second)] == [1, 2]


@pytest.mark.parametrize(("word", "status"), [("kill", "-9"), ("leave", "3")])
def test_a_client_that_dies_costs_its_message_and_no_other(
    client: WarmClient, word: str, status: str
) -> None:
    answer = client.answer(make_message(word), make_context(), 60)
    assert answer.error == "Ended"
    assert status in answer.text
    assert read_about(client.answer(make_message("fine"), make_context(), 60))["word"] == "fine"


def test_a_client_that_hangs_is_ended_and_the_next_message_is_answered(client: WarmClient) -> None:
    client.start()
    parent = client.pid
    answer = client.answer(make_message("hang"), make_context(), 1.0)
    assert answer.error == "TimeLimit"
    assert parent is not None
    assert not psutil.pid_exists(parent)
    assert read_about(client.answer(make_message("fine"), make_context(), 60))["word"] == "fine"


def test_a_client_that_uses_no_cpu_time_is_ended_long_before_its_limit(
    client: WarmClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.start()
    monkeypatch.setattr("parties.agent.warm_client.IDLE_S", 1.0)
    answer = client.answer(make_message("hang"), make_context(), 600.0)
    assert (answer.error, answer.text) == ("Hung", "used no CPU time for 1 s, and was ended")
    assert read_about(client.answer(make_message("fine"), make_context(), 60))["word"] == "fine"


def test_a_client_that_computes_is_not_ended_as_idle(
    client: WarmClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.start()
    monkeypatch.setattr("parties.agent.warm_client.IDLE_S", 1.0)
    assert read_about(client.answer(make_message("compute"), make_context(), 60))["word"] == "compute"


def test_what_a_message_left_running_ends_with_the_client(tmp_path: Path) -> None:
    client = make_client(tmp_path)
    about = read_about(client.answer(make_message("orphan"), make_context(), 60))
    group = [p for p in psutil.process_iter() if p.pid > 1 and _group(p.pid) == client.pid]
    assert len(group) == 2  # the parent and what the message started
    client.end()
    # A killed process is gone once the system has cleared it away.
    psutil.wait_procs(group, timeout=10)
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in group)
    assert not psutil.pid_exists(about["pid"])


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


def test_only_errors_that_are_written_for_others_are_quoted(client: WarmClient) -> None:
    foreign = client.answer(make_message("raise"), make_context(), 60)
    assert (foreign.error, foreign.text, foreign.field) == ("ValueError", "", "")
    own = client.answer(make_message("refuse"), make_context(), 60)
    assert (own.error, own.field) == ("OwnError", "rounds")
    assert "more rounds" in own.text


@pytest.mark.long
def test_an_agent_that_leaves_ends_the_message(client: WarmClient) -> None:
    client.start()
    calls = 0

    def tick() -> None:
        nonlocal calls
        calls += 1
        if calls > 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.answer(make_message("hang"), make_context(), 60, tick)
    assert client.pid is None


def test_an_app_that_cannot_be_imported_is_an_error(tmp_path: Path) -> None:
    client = make_client(tmp_path)
    (tmp_path / "app" / "stub" / "client.py").write_text("import no_such_module")
    with pytest.raises(CipherwardError, match="cannot be loaded"):
        client.start()
    assert client.pid is None


def test_without_forking_each_message_has_a_fresh_process(tmp_path: Path) -> None:
    client = make_client(tmp_path, "spawn")
    abouts = []
    for _ in range(2):
        abouts.append(read_about(client.answer(make_message("fine"), make_context(), 60)))
        assert client.pid is None
    assert {a["parent"] for a in abouts} == {os.getpid()}
    assert abouts[0]["pid"] != abouts[1]["pid"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems count threads elsewhere")
def test_a_parent_with_threads_does_not_fork(tmp_path: Path) -> None:
    client = make_client(tmp_path)
    source = tmp_path / "app" / "stub" / "client.py"
    thread = (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
    )
    source.write_text(thread + source.read_text())
    answer = client.answer(make_message("fine"), make_context(), 60)
    assert client.mode == "spawn"
    assert read_about(answer)["parent"] == os.getpid()
