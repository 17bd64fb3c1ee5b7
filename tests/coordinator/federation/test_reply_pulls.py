"""A reply whose upload stalls holds up nobody, and an evaluation that fails is asked for again."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Error, Message, RecordDict
from flwr.supercore.inflatable import inflatable_utils

from coordinator.exchange import flower_pauses
from coordinator.federation import reply_pulls
from coordinator.federation.reply_pulls import ReplyPulls
from coordinator.federation.reply_store import ReplyStore
from coordinator.federation.rounds import run_rounds
from crypto.errors import CipherwardError
from tests.support.fake_parties import START, federation_of, parties, plan, read_journal
from tests.support.local_grid import FIRST_NODE, LocalGrid


class StallingGrid(LocalGrid):
    """A grid on which the first training reply of a node never comes as a whole, as after a kill in mid-upload."""

    def __init__(self, node: int) -> None:
        super().__init__(parties(), [{"partition-id": i} for i in range(4)])
        self.node, self.stalled = node, ""
        self.released = threading.Event()

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        [message_id] = message_ids
        [sent] = [m for m in self.sent if m.metadata.message_id == message_id]
        is_first = sent.metadata.message_type.startswith("train") and not self.stalled
        if sent.metadata.dst_node_id == self.node and (is_first or message_id == self.stalled):
            self.stalled = message_id
            self.released.wait(60)
            return []
        return super().pull_messages([message_id])


@pytest.fixture
def grid(monkeypatch: pytest.MonkeyPatch) -> Iterator[StallingGrid]:
    monkeypatch.setattr(reply_pulls, "STALL_S", 0.05)
    grid = StallingGrid(FIRST_NODE)  # the first in the order of nodes: all others come after it
    yield grid
    grid.released.set()


def test_others_are_heard_while_the_first_hospitals_upload_stalls(
    grid: StallingGrid, tmp_path: Path
) -> None:
    started = time.monotonic()
    p = plan(parties=4, quorum=3, rounds=2, deadline_s=20.0, grace_s=0.3)
    run_rounds(federation_of(grid, p), START, tmp_path)
    assert time.monotonic() - started < 15
    first, second = read_journal(tmp_path)
    assert (first["parties"], first["absent"]) == (["p1", "p2", "p3"], ["p0"])
    assert second["parties"] == ["p0", "p1", "p2", "p3"]


def test_a_stalled_reply_is_taken_when_it_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reply_pulls, "STALL_S", 0.05)
    came, asked = threading.Event(), []

    class SlowGrid(LocalGrid):
        def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
            asked.append(list(message_ids))
            came.wait(60)
            return [Message(Error(code=1, reason="the reply"), reply_to=question)]

    slow = SlowGrid(parties(), [{"partition-id": 0}])
    question = slow.create_message(RecordDict(), "query.x", FIRST_NODE, "")
    question.metadata.__dict__["_message_id"] = "a"
    pulls = ReplyPulls(slow)
    assert pulls.pull("a", FIRST_NODE) == [] == pulls.pull("a", FIRST_NODE)
    came.set()
    deadline = time.monotonic() + 10
    while not (replies := pulls.pull("a", FIRST_NODE)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [reply.error.reason for reply in replies] == ["the reply"]
    assert asked == [["a"]]  # one pull, however often it was looked at


def test_what_flower_raised_is_raised_where_the_reply_is_waited_for() -> None:
    class BrokenGrid(LocalGrid):
        def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
            raise ConnectionError("the SuperLink is gone")

    with pytest.raises(ConnectionError, match="is gone"):
        ReplyPulls(BrokenGrid(parties(), [])).pull("a", FIRST_NODE)


def test_so_many_stalled_uploads_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reply_pulls, "STALL_S", 0.01)
    monkeypatch.setattr(reply_pulls, "MOST_STALLED", 3)
    released, count = threading.Event(), []

    class FullGrid(LocalGrid):
        def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
            count.append(message_ids)
            released.wait(60)
            return []

    pulls = ReplyPulls(FullGrid(parties(), []))
    for node, name in enumerate("abcdef"):
        assert pulls.pull(name, node) == []
    assert len(count) == 3
    pulls.forget(["a"])  # nobody waits for the others
    assert pulls.pull("g", 6) == []
    assert len(count) == 4
    released.set()


def test_one_node_that_stalls_whatever_it_is_asked_takes_no_place_of_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who gives no introduction is asked again every 15 s, and could stall each of its answers."""
    monkeypatch.setattr(reply_pulls, "STALL_S", 0.01)
    released = threading.Event()
    asked: list[str] = []

    class StalledNode(LocalGrid):
        def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
            asked.extend(message_ids)
            released.wait(60)
            return []

    pulls = ReplyPulls(StalledNode(parties(), []))
    for number in range(reply_pulls.MOST_STALLED + 2):
        assert pulls.pull(f"question-{number}", 1) == []
    assert len(asked) == reply_pulls.MOST_OF_NODE
    assert pulls.pull("of another", 2) == [] and asked[-1] == "of another"
    released.set()


def test_a_pull_that_nobody_waits_for_ends_and_keeps_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """By Flower's own function: a hospital that sends one part and never the other, round after round."""
    monkeypatch.setattr(reply_pulls, "STALL_S", 0.05)
    pull_objects = flower_pauses._soon(inflatable_utils.pull_objects)
    ended = threading.Event()

    def pull_part(object_id: str) -> bytes:
        if object_id == "never":
            raise inflatable_utils.ObjectUnavailableError(object_id)
        return bytes(1 << 10)

    class HalfGrid(LocalGrid):
        def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
            try:
                pull_objects(["part", "never"], pull_part)
            except inflatable_utils.ObjectPullError as error:
                assert "nobody waits" in str(error)
                ended.set()
            return []

    pulls = ReplyPulls(HalfGrid(parties(), []))
    assert pulls.pull("a", 1) == []
    assert not ended.wait(0.2)  # while it is waited for, it goes on
    pulls.forget([])
    assert ended.wait(20)


@pytest.mark.parametrize("values", [10, 100_000])  # within one buffer of a file, and beyond it
def test_a_reply_that_does_not_fit_on_the_disk_is_not_lost_in_silence(values: int, tmp_path: Path) -> None:
    (tmp_path / "7").symlink_to("/dev/full")
    record = ArrayRecord({"model": Array(np.zeros(values, np.float32))})
    reply = Message(RecordDict({"arrays": record}), dst_node_id=1, message_type="train")
    with pytest.raises(CipherwardError, match="the disk is full"):
        ReplyStore(tmp_path, "float32").keep(7, reply)
    assert record["model"].shape == (values,)


def test_an_evaluation_without_a_quorum_is_asked_for_again(tmp_path: Path) -> None:
    """After the SuperLink was killed, all messages that were under way come back as errors."""

    class LosingGrid(LocalGrid):
        lost_once = False

        def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
            [message_id] = message_ids
            [sent] = [m for m in self.sent if m.metadata.message_id == message_id]
            evaluations = [m for m in self.sent if m.metadata.message_type.startswith("evaluate")]
            if sent in evaluations[:3]:
                self.lost_once = True
                return [Message(Error(code=3, reason="Message Unavailable"), reply_to=sent)]
            return super().pull_messages([message_id])

    grid = LosingGrid(parties(), [{"partition-id": i} for i in range(3)])
    state = run_rounds(federation_of(grid, plan(parties=3, rounds=2, retries=1)), START, tmp_path)
    assert grid.lost_once
    assert state.round == 2
    assert [row["aggregated"] for row in read_journal(tmp_path)] == [True, True]
