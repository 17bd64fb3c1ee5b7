"""Whatever records a hospital puts into a reply, the round is made of the others' replies and the run goes on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import httpx
import numpy as np
import pytest
from flwr.app import Message
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

from benchmarks.faults.malformed import EVALUATION, TRAINING
from coordinator.federation.rounds import run_rounds
from tests.support.fake_parties import START, federation_of, parties, plan, read_journal
from tests.support.local_grid import FIRST_NODE, LocalGrid

BAD = FIRST_NODE + 2


@pytest.mark.parametrize("kind", TRAINING)
def test_a_reply_of_any_kind_ends_nobody_s_run(tmp_path: Path, kind: str) -> None:
    def tamper(node: int, reply: Message) -> Message:
        if node == BAD and reply.has_content() and "arrays" in reply.content:
            TRAINING[kind](reply.content)
        return reply

    grid = LocalGrid(parties(), [{"partition-id": i} for i in range(3)], tamper=tamper)
    settings = plan(parties=3, quorum=2, rounds=2)
    state = run_rounds(federation_of(grid, settings), START, tmp_path)
    assert state.round == 2 and np.isfinite(state.weights).all()
    for row in read_journal(tmp_path):
        assert row["parties"] == ["p0", "p1"] and list(row["refused"]) == ["p2"], row
    assert not list(tmp_path.glob(".replies-*"))


@pytest.mark.parametrize("kind", EVALUATION)
def test_figures_of_any_kind_count_for_nothing_and_end_nobody_s_run(tmp_path: Path, kind: str) -> None:
    def tamper(node: int, reply: Message) -> Message:
        if node == BAD and reply.has_content() and "tables" in reply.content:
            EVALUATION[kind](reply.content)
        return reply

    grid = LocalGrid(parties(), [{"partition-id": i} for i in range(3)], tamper=tamper)
    run_rounds(federation_of(grid, plan(parties=3, quorum=2, rounds=1)), START, tmp_path)
    [row] = read_journal(tmp_path)
    assert row["aggregated"] and row["refused"]["p2"].startswith("at evaluation: "), row


def test_a_hospital_that_gives_no_figures_is_in_the_journal(tmp_path: Path) -> None:
    """It trained, and was gone before it evaluated: the mean on val is over the others, and says so."""

    class LeavingGrid(LocalGrid):
        def push_messages(self, messages: Iterable[Message]) -> list[str]:
            messages = list(messages)
            if any(message.metadata.message_type == "evaluate" for message in messages):
                self.lost = {BAD}
            return super().push_messages(messages)

    grid = LeavingGrid(parties(), [{"partition-id": i} for i in range(3)])
    run_rounds(federation_of(grid, plan(parties=3, quorum=2, rounds=1)), START, tmp_path)
    [row] = read_journal(tmp_path)
    assert row["parties"] == ["p0", "p1", "p2"]
    assert row["refused"] == {"p2": "at evaluation: no answer"}


class UnpackingGrid(LocalGrid):
    """A grid that unpacks replies as Flower's does: what it cannot unpack raises, and all of that call are gone."""

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        replies = super().pull_messages(message_ids)
        for reply in replies:
            is_bad = reply.metadata.reply_to_message_id in self.bad_ids
            if is_bad and reply.has_content() and "metrics" in reply.content:
                raise TypeError("no such object")
        return replies

    @property
    def bad_ids(self) -> set[str]:
        return {m.metadata.message_id for m in self.sent if m.metadata.dst_node_id == BAD}


def test_a_reply_that_flower_cannot_unpack_takes_no_other_with_it(tmp_path: Path) -> None:
    grid = UnpackingGrid(parties(), [{"partition-id": i} for i in range(3)])
    state = run_rounds(federation_of(grid, plan(parties=3, quorum=2, rounds=2)), START, tmp_path)
    assert state.round == 2
    for row in read_journal(tmp_path):
        assert row["parties"] == ["p0", "p1"]
        assert "cannot be unpacked (TypeError)" in row["refused"]["p2"]


def test_a_superlink_that_does_not_answer_is_no_hospital_s_fault(tmp_path: Path) -> None:
    class CutGrid(LocalGrid):
        def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
            raise httpx.ConnectError("refused")

    grid = CutGrid(parties(), [{"partition-id": i} for i in range(3)])
    with pytest.raises(httpx.ConnectError):
        run_rounds(federation_of(grid, plan(parties=3, rounds=1)), START, tmp_path)


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam", "fedmedian"])
def test_the_order_in_which_replies_come_changes_no_bit(tmp_path: Path, strategy: str) -> None:
    class BackwardGrid(LocalGrid):
        """A grid whose replies come in another order: the first node that is asked replies last."""

        def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
            return super().pull_messages([m for m in message_ids if m == max(self._replies, default="")])

    rng = np.random.default_rng(0)
    start = rng.normal(size=3000).astype(np.float32)
    results = []
    for place, kind in enumerate((LocalGrid, BackwardGrid)):
        grid = kind(parties(), [{"partition-id": i} for i in range(3)])
        folder = tmp_path / str(place)
        folder.mkdir()
        settings = plan(parties=3, rounds=2, strategy=strategy, max_update_norm=1.2)
        results.append(run_rounds(federation_of(grid, settings), start, folder).weights)
        assert read_journal(folder)[0]["clipped"]
    assert np.array_equal(results[0], results[1]) and not np.array_equal(results[0], start)


def test_the_mean_is_flower_s_to_the_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    start = rng.normal(size=(1 << 20) + 3000).astype(np.float32)
    grid = LocalGrid(parties(), [{"partition-id": i} for i in range(3)])
    settings = plan(parties=3, rounds=1, max_update_norm=0)
    result = run_rounds(federation_of(grid, settings), start, tmp_path).weights
    records = [m.content for m in grid.received if "arrays" in m.content]
    records.sort(key=lambda record: str(record["about"]["party"]))
    expected = aggregate_arrayrecords(records, "num-examples")["model"].numpy()
    assert np.array_equal(result, expected)
