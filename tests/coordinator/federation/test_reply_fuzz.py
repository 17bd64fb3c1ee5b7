"""Whatever records a hospital puts into a reply, the round is made of the others' replies and the run goes on."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

from coordinator.federation.rounds import run_rounds
from tests.support.fake_parties import START, federation_of, parties, plan, read_journal
from tests.support.local_grid import FIRST_NODE, LocalGrid

BAD = FIRST_NODE + 2


def npy(value: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, value, allow_pickle=True)
    return stream.getvalue()


def raw(
    data: bytes, dtype: str = "float32", stype: str = "numpy.ndarray", shape: tuple[int, ...] = (4,)
) -> Array:
    return Array(dtype, shape, stype, data)


def put(record: Any, name: str = "x") -> Callable[[Message], None]:
    return lambda reply: reply.content.__setitem__(name, record)


def put_metric(name: str, value: Any) -> Callable[[Message], None]:
    def change(reply: Message) -> None:
        # Flower checks types when a record is made here. What comes over the network was never checked.
        dict.__setitem__(reply.content["metrics"]._data, name, value)

    return change


#: Changes of a reply to training, one for each kind of record and of damage.
CHANGES: dict[str, Callable[[Message], None]] = {
    "an empty list in a config record": put(ConfigRecord({"a": []})),
    "an empty list in a second metric record": put(MetricRecord({"a": []})),
    "an empty list among the metrics": put_metric("loss", []),
    "a list among the metrics": put_metric("loss", [1.0, 2.0]),
    "a text among the metrics": put_metric("loss", "1"),
    "bytes among the metrics": put_metric("loss", b"1"),
    "nothing among the metrics": put_metric("loss", None),
    "no number": put_metric("loss", float("nan")),
    "infinity": put_metric("loss", float("inf")),
    "a number beyond float": put_metric("steps", 10**400),
    "more images than there are": put_metric("num-examples", 10**9),
    "no images": put_metric("num-examples", 0),
    "fewer than no images": put_metric("num-examples", -30),
    "a truth value for the images": put_metric("num-examples", True),
    "another metric": put_metric("more", 1.0),
    "a second array record": put(ArrayRecord({"model": Array(START)})),
    "an empty array record": put(ArrayRecord({}), "arrays"),
    "another array": put(ArrayRecord({"other": Array(START)}), "arrays"),
    "two arrays": put(ArrayRecord({"model": Array(START), "more": Array(START)}), "arrays"),
    "another shape": put(ArrayRecord({"model": Array(START.reshape(2, 2))}), "arrays"),
    "another dtype": put(ArrayRecord({"model": Array(START.astype(np.float64))}), "arrays"),
    "big-endian": put(ArrayRecord({"model": Array(START.astype(">f4"))}), "arrays"),
    "objects": put(ArrayRecord({"model": raw(npy(np.array([{}, 1, 2, 3], object)))}), "arrays"),
    "no bytes": put(ArrayRecord({"model": raw(b"")}), "arrays"),
    "half an array": put(ArrayRecord({"model": raw(npy(START)[:-3])}), "arrays"),
    "another format": put(ArrayRecord({"model": raw(npy(START), stype="pickle")}), "arrays"),
    "a header that claims the whole memory": put(
        ArrayRecord({"model": raw(npy(START).replace(b"(4,), ", b"(9" + b"9" * 9 + b",)"))}), "arrays"
    ),
    "weights that are no numbers": put(ArrayRecord({"model": Array(START + np.nan)}), "arrays"),
    "weights beyond all bounds": put(ArrayRecord({"model": Array(START + 3e38)}), "arrays"),
    "no records": lambda reply: reply.content.clear(),
    "a config record in place of the weights": put(ConfigRecord({"model": "x"}), "arrays"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_reply_of_any_kind_ends_nobody_s_run(tmp_path: Path, kind: str) -> None:
    def tamper(node: int, reply: Message) -> Message:
        if node == BAD and reply.has_content() and "arrays" in reply.content:
            CHANGES[kind](reply)
        return reply

    grid = LocalGrid(parties(), [{"partition-id": i} for i in range(3)], tamper=tamper)
    settings = plan(parties=3, quorum=2, rounds=2)
    state = run_rounds(federation_of(grid, settings), START, tmp_path)
    assert state.round == 2 and np.isfinite(state.weights).all()
    for row in read_journal(tmp_path):
        assert row["parties"] == ["p0", "p1"] and list(row["refused"]) == ["p2"], row
    assert not list(tmp_path.glob(".replies-*"))


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
