"""One hospital neither stops nor owns a federation whose quorum is met: it is refused, and the others go on."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message

from coordinator.exchange.statement import SPLITS
from coordinator.federation.clipping import find_scales, scale_update, update_norm
from coordinator.federation.participants import Federation
from coordinator.federation.rounds import evaluate, run_rounds
from coordinator.federation.strategies import build_strategy
from crypto.arrays import AnyArray, Float32Array
from crypto.errors import CipherwardError
from crypto.identity import Identity
from tests.support.fake_parties import (
    START,
    federation_of,
    introduction,
    make_grid,
    parties,
    plan,
    read_journal,
)
from tests.support.local_grid import FIRST_NODE, LocalGrid
from tests.support.manifests import identity_of, manifest_of

#: The step of a round of the three honest parties, of 10, 20 and 30 images: (1·10 + 2·20 + 3·30) / 60.
STEP = 140 / 60
BAD = FIRST_NODE + 3


class LateGrid(LocalGrid):
    """A grid whose last node comes when the first round is over."""

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        messages = list(messages)
        if any(message.metadata.message_type == "evaluate" for message in messages):
            self.offline.clear()
        return super().push_messages(messages)


def federation_of_four(
    about: dict[str, Any], late: bool, signer: Identity | None = None, **changes: Any
) -> tuple[Federation, LocalGrid]:
    """Return a federation of three honest parties and one that introduces itself in this way.

    signer: who signs its introduction, the hospital p3 by default.
    """
    record: dict[str, Any] = {"about": {3: about}, "signers": {3: signer} if signer else {}}
    grid = LateGrid(parties(record), [{"partition-id": i} for i in range(4)])
    grid.offline = {BAD} if late else set()
    return federation_of(grid, plan(**{"parties": 4, "quorum": 3, "rounds": 2} | changes)), grid


def splits_of(name: str = "p3", **changes: Any) -> dict[str, Any]:
    """Return what a hospital says of its sets, with these changes in each."""
    statement = manifest_of(plan(parties=4)).statements[name]
    facts = {split: statement.sets.of(split) for split in SPLITS}
    rows = {s: {"rows": f.images, "digest": f.digest, "key_id": statement.key_id} for s, f in facts.items()}
    return {"splits": {split: row | changes for split, row in rows.items()}}


def options_of(options: dict[str, Any]) -> dict[str, Any]:
    """Return p3's scheme with other options."""
    return {"spec": manifest_of(plan(parties=4)).statements["p3"].spec | {"options": options}}


INTRODUCTIONS: dict[str, tuple[dict[str, Any], str, str]] = {
    "other classes": ({"classes": ["a", "z"]}, "p3 (node-103)", "its classes are not those that it stated"),
    "another scheme": (
        {"spec": {"name": "pe"}},
        "p3 (node-103)",
        "it was sealed with block None, and stated in the study manifest 8",
    ),
    "no scheme": ({"spec": {}}, "p3 (node-103)", "it was sealed with block None"),
    "other options": (
        options_of({"form": "gray"}),
        "p3 (node-103)",
        "sealed with options {'form': 'gray'}",
    ),
    "another key": (splits_of(key_id="another"), "p3 (node-103)", "its key id of train is another"),
    "sets sealed anew": (splits_of(digest="0" * 64), "p3 (node-103)", "its digest of train is 0000"),
    "sets without a digest": (splits_of(digest=None), "p3 (node-103)", "its digest of train is None"),
    "too many images": (
        splits_of(rows=10**7),
        "p3 (node-103)",
        "its images of train is 10000000, and stated",
    ),
    "one image more": (splits_of(rows=41), "p3 (node-103)", "its images of train is 41, and stated in the"),
    "one image fewer": (
        splits_of(rows=39),
        "p3 (node-103)",
        "its images of train is 39, and stated in the",
    ),
    "another manifest": (
        {"manifest": "0" * 64},
        "p3 (node-103)",
        "it agreed to another study manifest: 000",
    ),
    "no manifest": ({"manifest": None}, "node-103", "an introduction with impossible values"),
    "a stranger": ({"party": "p9"}, "p9 (node-103)", "no hospital of the study manifest has this name"),
    "a path as a name": ({"party": "../p3"}, "../p3 (node-103)", "no hospital of the study manifest"),
    "another run": ({"run": 7}, "p3 (node-103)", "signed for another run or another node"),
    "another node": ({"node": FIRST_NODE}, "p3 (node-103)", "signed for another run or another node"),
    "a node as text": ({"node": str(BAD)}, "node-103", "an introduction with impossible values"),
    "no time": ({"time_ns": None}, "node-103", "an introduction with impossible values"),
    "unreadable": ({"splits": {}}, "node-103", "an introduction that cannot be read"),
    "no classes": ({"classes": []}, "node-103", "impossible classes"),
    "a class twice": ({"classes": ["a", "a"]}, "node-103", "impossible classes"),
    "a name that controls the terminal": ({"party": "p\x1b[2J"}, "node-103", "without valid names"),
    "a name with a space around it": ({"party": "p0 "}, "node-103", "without valid names"),
    "infinity": ({"more": float("inf")}, "node-103", "cannot be read"),
    "a long text": ({"more": "x" * (1 << 20)}, "node-103", "too long"),
}


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("kind", INTRODUCTIONS)
def test_a_node_that_cannot_belong_is_refused_and_the_others_go_on(
    tmp_path: Path, kind: str, late: bool
) -> None:
    about, name, reason = INTRODUCTIONS[kind]
    federation, grid = federation_of_four(about, late)
    state = run_rounds(federation, START, tmp_path)
    assert np.allclose(state.weights, 2 * STEP)
    rows = read_journal(tmp_path)
    assert [row["parties"] for row in rows] == [["p0", "p1", "p2"]] * 2
    assert list(rows[1]["refused"]) == [name] and reason in rows[1]["refused"][name]
    # It gets neither plan nor weights, and is asked once.
    sent = [m.metadata.message_type for m in grid.sent if m.metadata.dst_node_id == BAD]
    assert sent == ["query.hello"]
    [asked] = [m for m in grid.sent if m.metadata.dst_node_id == BAD]
    assert dict(asked.content["config"]) == {"manifest": federation.manifest.digest}


def test_who_comes_while_a_round_is_made_and_is_refused_is_in_the_journal_of_that_round(
    tmp_path: Path,
) -> None:
    """Its answer comes after the round's beginning; there may be no later round."""
    federation, grid = federation_of_four({"party": "p9"}, late=False, rounds=1)
    kept: list[Message] = []

    def hold(node: int, reply: Message) -> Message:
        if node == BAD and "about" in reply.content:
            kept.append(reply)
        return reply

    def pull(message_ids: Iterable[str]) -> list[Message]:
        """Give out the fourth hospital's answer once the evaluation was asked for."""
        ids = list(message_ids)
        is_late = any(m.metadata.message_type == "evaluate" for m in grid.sent)
        if kept and not is_late and kept[0].metadata.reply_to_message_id in ids:
            return []
        return LocalGrid.pull_messages(grid, ids)

    grid.tamper, grid.pull_messages = hold, pull  # type: ignore[method-assign]
    run_rounds(federation, START, tmp_path)
    [row] = read_journal(tmp_path)
    assert row["parties"] == ["p0", "p1", "p2"]
    assert list(row["refused"]) == ["p9 (node-103)"] and "no hospital of the study" in str(row["refused"])


def test_a_round_is_kept_if_the_server_goes_before_its_line_is_written(tmp_path: Path) -> None:
    class EndingGrid(LocalGrid):
        evaluated = 0

        def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
            replies = super().pull_messages(message_ids)
            self.evaluated += sum(m.metadata.message_type == "evaluate" for m in replies)
            return replies

        def get_node_ids(self) -> list[int]:
            if self.evaluated == 3:
                raise httpx.ConnectError("refused")
            return super().get_node_ids()

    grid = EndingGrid(parties(), [{"partition-id": i} for i in range(3)])
    state = run_rounds(federation_of(grid, plan(parties=3, rounds=1)), START, tmp_path)
    assert state.round == 1 and [row["refused"] for row in read_journal(tmp_path)] == [{}]


def test_a_slow_hospital_that_was_asked_twice_and_answers_twice_takes_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.federation.participants._ASK_AGAIN_S", 0.05)

    class SlowGrid(LocalGrid):
        """A grid that gives out no introduction of the last node before it was asked twice."""

        def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
            questions = [m for m in self.sent if m.metadata.message_type == "query.hello"]
            mine = [m.metadata.message_id for m in questions if m.metadata.dst_node_id == BAD]
            if len(mine) < 2 and set(message_ids) & set(mine):
                return []
            return super().pull_messages(message_ids)

    grid = SlowGrid(parties(), [{"partition-id": i} for i in range(4)])
    federation = federation_of(grid, plan(parties=4, quorum=4, rounds=1))
    run_rounds(federation, START, tmp_path)
    assert not federation.refused
    assert read_journal(tmp_path)[0]["parties"] == ["p0", "p1", "p2", "p3"]


def test_a_hospital_that_answers_with_an_error_only_is_in_the_journal_and_is_asked_again(
    tmp_path: Path,
) -> None:
    """As one that did not approve the code: it gives no introduction, and may do so later."""
    federation, grid = federation_of_four({}, late=True, rounds=2)

    def fail(node: int, reply: Message) -> Message:
        return Message(Error(code=2, reason="not approved"), reply_to=reply) if node == BAD else reply

    grid.tamper = fail
    run_rounds(federation, START, tmp_path)
    first, second = read_journal(tmp_path)
    assert first["parties"] == second["parties"] == ["p0", "p1", "p2"]
    assert "not approved" in second["refused"]["node-103"]
    assert BAD not in federation.refused


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("name", ["p0", "p3", "P0", "ｐ０"])
def test_a_stranger_takes_nobody_s_name(tmp_path: Path, name: str, late: bool) -> None:
    """It knows all that p0 says in public, and has an identity key, which is not p0's."""
    about = splits_of("p0") | {"party": name} if name == "p0" else {"party": name}
    federation, _ = federation_of_four(
        about, late, signer=Identity.generate(name if name.isascii() else "p")
    )
    state = run_rounds(federation, START, tmp_path)
    assert np.allclose(state.weights, 2 * STEP)
    row = read_journal(tmp_path)[1]
    assert row["parties"] == ["p0", "p1", "p2"] and list(row["refused"]) == [f"{name} (node-103)"]
    [reason] = row["refused"].values()
    is_known = name in ("p0", "p3")
    assert (f"not signed by the identity of {name}" if is_known else "no hospital of the study") in reason
    assert federation.parties[FIRST_NODE].name == "p0" and BAD not in federation.parties


def test_a_copied_introduction_is_of_no_use_to_another_node_or_run(tmp_path: Path) -> None:
    federation, grid = federation_of_four({}, late=True)
    federation.gather()
    [honest] = [m for m in grid.received if m.metadata.src_node_id == FIRST_NODE]

    def copy(node: int, reply: Message) -> Message:
        if node == BAD and "about" in reply.content:
            reply.content["about"] = honest.content["about"]
        return reply

    grid.tamper = copy
    run_rounds(federation, START, tmp_path)
    reason = "its introduction was signed for another run or another node"
    assert read_journal(tmp_path)[1]["refused"] == {"p0 (node-103)": reason}
    # A text that was altered after it was signed is no introduction of p0's either.
    text = str(honest.content["about"]["json"]).replace(f'"node": {FIRST_NODE}', f'"node": {BAD}')
    honest.content["about"]["json"] = text
    federation, grid = federation_of_four({}, late=True)
    grid.tamper = copy
    (tmp_path / "altered").mkdir()
    run_rounds(federation, START, tmp_path / "altered")
    [reason] = read_journal(tmp_path / "altered")[1]["refused"].values()
    assert "not signed by the identity of p0" in reason


def returning(**changes: Any) -> dict[str, Any]:
    """Return what p0 says from the fourth node."""
    context = make_grid(4).contexts[BAD]
    digest = str(changes.pop("manifest", ""))
    about = introduction(plan(parties=4), digest, "p0", context)
    return {k: v for k, v in about.items() if k not in ("manifest", "time_ns")} | changes


def test_a_hospital_that_returns_under_a_new_node_is_taken_in(tmp_path: Path) -> None:
    """Node 103 is p0 after a new start of its agent: node 100 is still listed, as Flower does for a while."""
    grid = LateGrid(parties(), [{"partition-id": i} for i in (0, 1, 2, 0)])
    grid.offline = {BAD}
    federation = federation_of(grid, plan(parties=4, quorum=3, rounds=3))
    run_rounds(federation, START, tmp_path)
    rows = read_journal(tmp_path)
    assert [row["parties"] for row in rows] == [["p0", "p1", "p2"]] * 3
    assert rows[1]["refused"]["p0 (node-100)"] == "p0 came back as node-103"
    assert sorted(federation.parties) == [FIRST_NODE + 1, FIRST_NODE + 2, BAD]
    # The node that had the name before gets nothing more.
    late = [m for m in grid.sent if m.metadata.dst_node_id == FIRST_NODE]
    assert [m.metadata.message_type for m in late] == ["query.hello", "train", "evaluate"]


@pytest.mark.parametrize(("newer", "winner"), [(1, BAD), (-1, FIRST_NODE)])
def test_of_two_nodes_of_one_hospital_the_newest_introduction_counts(newer: int, winner: int) -> None:
    about = returning(time_ns=time.time_ns() + newer * 10**12)
    federation, _ = federation_of_four(about, late=False, signer=identity_of("p0"))
    assert [party.name for party in federation.gather()] == ["p0", "p1", "p2"]
    [loser] = federation.refused
    assert {loser, winner} == {FIRST_NODE, BAD} and winner in federation.parties
    assert federation.refused[loser] == f"p0 came back as node-{winner}"


@pytest.mark.parametrize("strategy", ["fedavg", "fedmedian", "krum"])
def test_a_refused_node_counts_for_no_quorum_and_no_strategy(tmp_path: Path, strategy: str) -> None:
    """A node that was never accepted and claims no images must not pass as one of the quorum."""

    def claim_nothing(node: int, reply: Message) -> Message:
        if node == BAD and reply.has_content() and "metrics" in reply.content:
            reply.content["metrics"]["num-examples"] = 0
        return reply

    federation, grid = federation_of_four({"classes": ["a", "z"]}, late=False, strategy=strategy, rounds=1)
    grid.tamper = claim_nothing
    run_rounds(federation, START, tmp_path)
    assert read_journal(tmp_path)[0]["parties"] == ["p0", "p1", "p2"]
    with pytest.raises(CipherwardError, match=r"3 of 4 parties are usable: p3 \(node-103\)"):
        federation_of_four({"classes": ["a", "z"]}, late=False, quorum=4)[0].gather()


def test_a_stranger_does_not_shorten_the_wait_for_a_lost_hospital(tmp_path: Path) -> None:
    federation, grid = federation_of_four({"classes": ["a", "z"]}, late=True, deadline_s=1.5)
    federation.gather()
    grid.offline = {FIRST_NODE}
    looks = 0
    list_nodes = grid.get_node_ids

    def come_back() -> list[int]:
        nonlocal looks
        looks += 1
        if looks > 15:  # well after the grace period of 0.2 s
            grid.offline.clear()
        return list_nodes()

    grid.get_node_ids = come_back  # type: ignore[method-assign]  # a test's grid
    assert [party.name for party in federation.gather()] == ["p0", "p1", "p2"]


def test_a_silent_node_is_not_waited_for_in_every_round(tmp_path: Path) -> None:
    federation, grid = federation_of_four({}, late=False, rounds=5)
    grid.lost = {BAD}
    run_rounds(federation, START, tmp_path)
    asked = [m for m in grid.sent if m.metadata.dst_node_id == BAD]
    assert [m.metadata.message_type for m in asked] == ["query.hello"]


def test_a_late_answer_takes_a_hospital_in_before_the_next_round(tmp_path: Path) -> None:
    """As after a killed ServerApp: a hospital is still busy with a message of the run before, for several rounds."""
    federation, grid = federation_of_four({}, late=False, rounds=6)
    pull, held = grid.pull_messages, True

    def pull_late(message_ids: Iterable[str]) -> list[Message]:
        nonlocal held
        held = held and sum(m.metadata.message_type == "evaluate" for m in grid.sent) < 3 * 3
        ids = list(message_ids)
        waiting = [grid._replies[i].metadata for i in ids if i in grid._replies]
        if held and any(metadata.src_node_id == BAD for metadata in waiting):
            kept.extend(ids)
            return []
        return list(pull(ids))

    kept: list[str] = []
    grid.pull_messages = pull_late  # type: ignore[method-assign]  # a test's grid
    run_rounds(federation, START, tmp_path)
    rows = read_journal(tmp_path)
    assert kept and rows[0]["parties"] == ["p0", "p1", "p2"]
    assert rows[-1]["parties"] == ["p0", "p1", "p2", "p3"]


def test_a_hospital_that_lost_the_question_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its agent was killed with the question, several times, and is there again in the end."""
    monkeypatch.setattr("coordinator.federation.participants._ASK_AGAIN_S", 0.0)
    federation, grid = federation_of_four({}, late=False, rounds=6)
    push = grid.push_messages
    grid.lost = {BAD}

    def push_and_mend(messages: Iterable[Message]) -> list[str]:
        if sum(m.metadata.message_type == "evaluate" for m in grid.sent) >= 2 * 3:
            grid.lost = set()
        return push(messages)

    grid.push_messages = push_and_mend  # type: ignore[method-assign]  # a test's grid
    run_rounds(federation, START, tmp_path)
    rows = read_journal(tmp_path)
    assert rows[0]["parties"] == ["p0", "p1", "p2"] and rows[-1]["parties"] == ["p0", "p1", "p2", "p3"]


@pytest.mark.long
def test_a_hospital_is_taken_in_by_rounds_that_last_longer_than_a_deadline(tmp_path: Path) -> None:
    """Flower drops an answer once its question has expired, and answers are looked for between two rounds."""

    class ExpiringGrid(LateGrid):
        def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
            [message_id] = message_ids
            [question] = [m for m in self.sent if m.metadata.message_id == message_id]
            age = time.time() - question.metadata.created_at
            if question.metadata.message_type != "query.hello":
                time.sleep(0.1)  # six replies: longer than a deadline in all
            elif question.metadata.dst_node_id == BAD and age < 0.2:
                return []  # it answers when the others are training
            replies = super().pull_messages([message_id])
            if age > question.metadata.ttl:
                return [Message(Error(code=5, reason="the question has expired"), reply_to=question)]
            return replies

    grid = ExpiringGrid(parties(), [{"partition-id": i} for i in range(4)])
    grid.offline = {BAD}
    p = plan(parties=4, quorum=3, rounds=4, deadline_s=0.45, grace_s=0.0)
    run_rounds(federation_of(grid, p), START, tmp_path)
    assert read_journal(tmp_path)[-1]["parties"] == ["p0", "p1", "p2", "p3"]


def write_array(header: dict[str, Any], data: bytes = b"") -> Array:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, header)
    return Array("float32", (4,), "numpy.ndarray", stream.getvalue() + data)


def pickled(_: AnyArray) -> Array:
    stream = io.BytesIO()
    np.save(stream, np.array([1, {}, 2, 3], object), allow_pickle=True)
    return Array("object", (4,), "numpy.ndarray", stream.getvalue())


REPLIES: dict[str, tuple[Callable[[AnyArray], Array], str]] = {
    "3e38": (lambda w: Array(np.full(4, 3e38, np.float32)), "weights beyond 1e+18"),
    "-3e38": (lambda w: Array(np.full(4, -3e38, np.float32)), "weights beyond 1e+18"),
    "one 3e38": (lambda w: Array(np.array([3e38, 0, 0, 0], np.float32)), "weights beyond 1e+18"),
    "a header of a terabyte": (
        lambda w: write_array({"descr": "<f4", "fortran_order": False, "shape": (2**38,)}),
        "weights of float32 (274877906944,) instead of float32 (4,)",
    ),
    "a pickle": (pickled, "weights of object (4,)"),
}


@pytest.mark.parametrize("strategy", ["fedavg", "fedmedian", "krum", "fedadam"])
@pytest.mark.parametrize("kind", REPLIES)
def test_weights_of_one_hospital_that_cannot_be_used_are_refused_by_name(
    tmp_path: Path, kind: str, strategy: str
) -> None:
    spoilt, reason = REPLIES[kind]

    def tamper(node: int, reply: Message) -> Message:
        if node == BAD and reply.has_content() and "arrays" in reply.content:
            array = spoilt(reply.content["arrays"]["model"].numpy())
            reply.content["arrays"] = ArrayRecord({"model": array})
        return reply

    p = plan(parties=4, quorum=3, rounds=1, strategy=strategy, max_update_norm=0)
    grid = LocalGrid(parties(), [{"partition-id": i} for i in range(4)], tamper=tamper)
    honest = LocalGrid(parties(), [{"partition-id": i} for i in range(3)])
    (tmp_path / "honest").mkdir()
    expected = run_rounds(federation_of(honest, p), START, tmp_path / "honest")
    state = run_rounds(federation_of(grid, p), START, tmp_path)
    row = read_journal(tmp_path)[0]
    assert list(row["refused"]) == ["p3"] and reason in row["refused"]["p3"]
    assert np.array_equal(state.weights, expected.weights) and np.isfinite(state.weights).all()


@pytest.mark.parametrize("kind", ["an empty list", "another record's name", "a metric of 1e300"])
def test_records_of_one_hospital_that_cannot_be_used_stop_nobody(tmp_path: Path, kind: str) -> None:
    def tamper(node: int, reply: Message) -> Message:
        if node == FIRST_NODE and reply.has_content() and "metrics" in reply.content:
            if kind == "an empty list":
                reply.content["more"] = ConfigRecord({"list": []})
            elif kind == "another record's name":
                reply.content["tables"] = ArrayRecord({"model": Array(np.zeros(3))})
            else:
                reply.content["metrics"]["loss"] = 1e300
        return reply

    run_rounds(federation_of(make_grid(tamper=tamper), plan(quorum=2, rounds=1)), START, tmp_path)
    row = read_journal(tmp_path)[0]
    assert row["parties"] == ["p1", "p2"] and "p0" in row["refused"]
    json.dumps(row, allow_nan=False)


def scale(factor: float) -> Callable[[int, Message], Message]:
    """Return a function that lengthens the update of node 102, p2, in a round."""

    def tamper(node: int, reply: Message) -> Message:
        if node == FIRST_NODE + 2 and reply.has_content() and "arrays" in reply.content:
            weights = reply.content["arrays"]["model"].numpy()
            reply.content["arrays"] = ArrayRecord({"model": Array((weights * factor).astype(np.float32))})
        return reply

    return tamper


@pytest.mark.parametrize("strategy", ["fedavg", "fedprox"])
def test_no_hospital_makes_a_variance_negative(tmp_path: Path, strategy: str) -> None:
    """Such an update is finite and no longer than others, and of the model every output would be no number."""
    kept = np.array([False, True, False, True])
    folders = [tmp_path / "kept", tmp_path / "unknown"]
    results = []
    for folder, variances in zip(folders, (kept, None), strict=True):
        folder.mkdir()
        federation = federation_of(make_grid(tamper=scale(-10)), plan(rounds=1, strategy=strategy))
        results.append(run_rounds(federation, START, folder, variances).weights)
    assert (results[1] < 0).all()
    assert np.array_equal(results[0], np.where(kept, 0, results[1]))


def test_an_update_a_thousand_times_too_long_is_clipped_and_named(tmp_path: Path) -> None:
    state = run_rounds(federation_of(make_grid(tamper=scale(1000)), plan(rounds=1)), START, tmp_path)
    # The norms are 2, 4 and 6000; the median is 4, and the bound 20 · 4, which is a step of 40 a weight.
    assert np.allclose(state.weights, (1 * 10 + 2 * 20 + 40 * 30) / 60)
    row = read_journal(tmp_path)[0]
    assert row["clipped"] == {"p2": pytest.approx(1500)} and row["parties"] == ["p0", "p1", "p2"]
    (tmp_path / "off").mkdir()
    p = plan(rounds=1, max_update_norm=0)
    unbounded = run_rounds(federation_of(make_grid(tamper=scale(1000)), p), START, tmp_path / "off")
    assert unbounded.weights.min() > 1000 and read_journal(tmp_path / "off")[0]["clipped"] == {}


def test_an_honest_round_is_the_same_to_the_bit_with_and_without_the_bound(tmp_path: Path) -> None:
    results = []
    for limit in (0.0, 20.0):
        folder = tmp_path / str(limit)
        folder.mkdir()
        results.append(run_rounds(federation_of(make_grid(), plan(max_update_norm=limit)), START, folder))
    assert results[0].weights.tobytes() == results[1].weights.tobytes()


def vectors(*norms: float) -> dict[str, Float32Array]:
    return {str(i): np.array([1 + norm, 1], np.float32) for i, norm in enumerate(norms)}


@pytest.mark.parametrize(
    ("norms", "expected"),
    [
        ((1, 2, 3), (1, 2, 3)),
        ((1, 2, 100), (1, 2, 6)),
        ((1, 100), (1, 3)),
        ((1, 2, 50, 100), (1, 2, 6, 6)),
        ((5,), (5,)),
        ((0, 0, 7), (0, 0, 0)),
        ((3e38, 1, 1), (3, 1, 1)),
    ],
)
def test_updates_are_scaled_down_to_the_bound(
    norms: tuple[float, ...], expected: tuple[float, ...]
) -> None:
    before = np.ones(2, np.float32)
    updates = vectors(*norms)
    lengths = {party: update_norm(after, before) for party, after in updates.items()}
    scales, clipped = find_scales(lengths, 3.0)
    scaled = {party: scale_update(updates[party], before, scale) for party, scale in scales.items()}
    result = [update_norm(after, before) for after in (updates | scaled).values()]
    assert np.allclose(result, expected) and scaled.keys() == clipped.keys()
    assert list(clipped) == [str(i) for i, (a, b) in enumerate(zip(norms, expected, strict=True)) if a != b]


@pytest.mark.parametrize("number", [10**7, 11, 0, -1])
def test_a_hospital_cannot_restate_its_number_of_images(tmp_path: Path, number: int) -> None:
    def tamper(node: int, reply: Message) -> Message:
        if node == FIRST_NODE and reply.has_content() and "metrics" in reply.content:
            reply.content["metrics"]["num-examples"] = number
        return reply

    run_rounds(federation_of(make_grid(tamper=tamper), plan(quorum=2, rounds=1)), START, tmp_path)
    row = read_journal(tmp_path)[0]
    assert row["parties"] == ["p1", "p2"] and "instead of the 10" in row["refused"]["p0"]


def spoil_evaluation(node: int, reply: Message) -> Message:
    if node == FIRST_NODE + 2 and reply.has_content() and "tables" in reply.content:
        reply.content["metrics"]["loss"] = float("nan")
    return reply


def test_a_bad_evaluation_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    federation = federation_of(make_grid(tamper=spoil_evaluation), plan(quorum=2))
    assert run_rounds(federation, START, tmp_path).round == 3
    for row in read_journal(tmp_path):
        assert row["refused"] == {"p2": "at evaluation: a metric is not a finite number"}
        assert row["parties"] == ["p0", "p1", "p2"]
    figures = evaluate(build_strategy(federation.plan), federation, START, 3, "test")
    assert figures["refused"] == {"p2": "a metric is not a finite number"}


def test_a_bad_evaluation_below_the_quorum_is_in_the_journal_by_name(tmp_path: Path) -> None:
    with pytest.raises(CipherwardError, match="only 2 of 3 parties evaluated round 1 on val: p2: a metric"):
        run_rounds(federation_of(make_grid(tamper=spoil_evaluation), plan()), START, tmp_path)
    [row] = read_journal(tmp_path)
    assert not row["aggregated"] and "p2: a metric is not a finite number" in row["error"]
    assert not (tmp_path / "checkpoint.safetensors").exists()
