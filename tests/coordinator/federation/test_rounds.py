"""The round loop: averages, quorum, deadline, screening, journal, checkpoint, resume."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message

from coordinator.exchange.plan import Plan
from coordinator.federation import participants
from coordinator.federation.participants import Federation
from coordinator.federation.rounds import State, evaluate, run_rounds
from coordinator.federation.strategies import build_strategy
from crypto.errors import CipherwardError
from tests.support.fake_parties import (
    START,
    Tamper,
    federation_of,
    make_grid,
    parties,
    plan,
    read_journal,
)
from tests.support.local_grid import FIRST_NODE, LocalGrid

# (1·10 + 2·20 + 3·30) / 60: the weighted step of a round with all three parties.
STEP = 140 / 60


def run(grid: LocalGrid, p: Plan, folder: Path) -> State:
    """Run the rounds of a plan. The hospitals agreed to three, so that a run with fewer is one that was stopped."""
    return run_rounds(federation_of(grid, p, p.model_copy(update={"rounds": 3})), START, folder)


def test_averages_are_weighted_by_images(tmp_path: Path) -> None:
    state = run(make_grid(), plan(), tmp_path)
    assert np.allclose(state.weights, 3 * STEP) and state.weights.dtype == np.float32
    rows = read_journal(tmp_path)
    assert [r["round"] for r in rows] == [1, 2, 3] and all(r["aggregated"] for r in rows)
    assert rows[0]["parties"] == ["p0", "p1", "p2"] and rows[0]["absent"] == []
    assert rows[0]["bytes_up"] > 3 * START.nbytes and rows[0]["bytes_down"] > 3 * START.nbytes
    # Evaluation sends the model to everybody once more, and gets figures back.
    assert rows[0]["evaluation_bytes_down"] > 3 * START.nbytes and rows[0]["evaluation_bytes_up"] > 0


def test_the_best_round_on_val_is_kept(tmp_path: Path) -> None:
    state = run(make_grid(), plan(), tmp_path)
    assert state.best_round == 2 and np.allclose(state.best, 2 * STEP)


def test_parties_receive_the_number_of_the_best_round(tmp_path: Path) -> None:
    record: dict[str, Any] = {}
    run(make_grid(app=parties(record)), plan(rounds=4), tmp_path)
    assert record["best"] == [0] * 3 + [1] * 3 + [2] * 6


def test_fedmedian_takes_the_median(tmp_path: Path) -> None:
    state = run(make_grid(), plan(strategy="fedmedian", rounds=1), tmp_path)
    assert np.allclose(state.weights, 2.0)


def test_a_resumed_run_continues_after_the_last_finished_round(tmp_path: Path) -> None:
    record: dict[str, Any] = {}
    run(make_grid(app=parties(record)), plan(rounds=2), tmp_path)
    assert max(r for r, _ in record["rounds"]) == 2
    record.clear()
    resumed = run(make_grid(app=parties(record)), plan(rounds=3), tmp_path)
    assert {r for r, _ in record["rounds"]} == {3}
    (tmp_path / "straight").mkdir()
    straight = run(make_grid(), plan(rounds=3), tmp_path / "straight")
    assert np.array_equal(resumed.weights, straight.weights)
    assert resumed.best_round == straight.best_round


def spoil(kind: str) -> Tamper:
    """Return a function that spoils node 100's training reply in one way."""

    def tamper(node: int, reply: Message) -> Message:
        if node != FIRST_NODE or not reply.has_content() or "arrays" not in reply.content:
            return reply
        arrays, metrics = reply.content["arrays"], reply.content["metrics"]
        weights = arrays["model"].numpy().copy()
        if kind == "nan":
            weights[0] = math.nan
        elif kind == "shape":
            weights = weights[:2]
        elif kind == "float64":
            weights = weights.astype(np.float64)
        elif kind == "weight":
            metrics["num-examples"] = 10**9
        elif kind == "negative":
            metrics["num-examples"] = -5
        elif kind == "extra metric":
            metrics["surprise"] = 1.0
        elif kind == "nan metric":
            metrics["loss"] = math.nan
        reply.content["arrays"] = ArrayRecord({"other" if kind == "name" else "model": Array(weights)})
        if kind == "two records":
            reply.content["more"] = ArrayRecord({"model": Array(weights)})
        return reply

    return tamper


KINDS = [
    "nan",
    "shape",
    "float64",
    "name",
    "weight",
    "negative",
    "extra metric",
    "nan metric",
    "two records",
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_malformed_reply_does_not_affect_the_others(tmp_path: Path, kind: str) -> None:
    state = run(make_grid(tamper=spoil(kind)), plan(rounds=1, quorum=2), tmp_path)
    assert np.allclose(state.weights, (2 * 20 + 3 * 30) / 50)
    row = read_journal(tmp_path)[0]
    assert list(row["refused"]) == ["p0"] and row["parties"] == ["p1", "p2"]


def test_an_unspoiled_reply_is_averaged(tmp_path: Path) -> None:
    state = run(make_grid(tamper=spoil("nothing")), plan(rounds=1, quorum=2), tmp_path)
    assert np.allclose(state.weights, STEP)


def test_below_the_quorum_nothing_is_averaged_and_earlier_rounds_are_kept(tmp_path: Path) -> None:
    run(make_grid(), plan(rounds=1), tmp_path)
    with pytest.raises(
        CipherwardError, match="round 2: fewer than 3 usable replies in 2 attempts"
    ) as error:
        run(make_grid(tamper=spoil("nan")), plan(rounds=3), tmp_path)
    assert "not finite" in error.value.message and "run again" in error.value.hint
    assert State.load(tmp_path / "checkpoint.safetensors").round == 1
    assert [r["aggregated"] for r in read_journal(tmp_path)] == [True, False, False]


def test_waiting_for_a_lost_reply_ends_with_the_grace_period(tmp_path: Path) -> None:
    grid = make_grid()
    p = plan(rounds=1, quorum=2)
    federation = federation_of(grid, p)
    federation.gather()
    grid.lost = {FIRST_NODE + 2}
    state = run_rounds(federation, START, tmp_path)
    assert read_journal(tmp_path)[0]["absent"] == ["p2"]
    assert np.allclose(state.weights, (1 * 10 + 2 * 20) / 30)


def test_the_log_says_who_is_missing_while_it_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert participants._ANNOUNCE_S < 10
    monkeypatch.setattr(participants, "_ANNOUNCE_S", 0.05)
    grid = make_grid(2)
    with pytest.raises(CipherwardError, match=r"2 of 3 parties came within 0 s"):
        run(grid, plan(parties=3, deadline_s=0.4), tmp_path)
    said = capsys.readouterr().out
    assert said.count("2 of 3 hospitals here; 3 are needed") == 1
    assert "at most 0 s more (the plan's deadline_s)" in said


def test_nothing_is_said_if_all_are_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(make_grid(), plan(rounds=1), tmp_path)
    assert "hospitals here" not in capsys.readouterr().out


def test_waiting_for_a_quorum_is_bounded() -> None:
    grid = make_grid()
    grid.offline = {FIRST_NODE}
    with pytest.raises(CipherwardError, match=r"2 of 3 parties came within 0 s"):
        federation_of(grid, plan(deadline_s=0.2)).gather()


def test_sets_that_do_not_belong_together_are_refused() -> None:
    app = parties({"about": {1: {"classes": ["a", "c"]}}})
    with pytest.raises(
        CipherwardError, match=r"2 of 3 .*p1 \(node-101\): its classes are not those that it stated"
    ):
        federation_of(make_grid(app=app), plan()).gather()


def test_a_party_under_another_one_s_name_is_refused() -> None:
    app = parties({"about": {1: {"party": "p0"}}})
    expected = r"2 of 3 .*p0 \(node-101\): its introduction is not signed by the identity of p0"
    with pytest.raises(CipherwardError, match=expected):
        federation_of(make_grid(app=app), plan()).gather()


def test_a_clock_that_is_set_back_in_a_round_makes_no_negative_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(10**9, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    run(make_grid(), plan(rounds=1), tmp_path)
    (row,) = read_journal(tmp_path)
    assert 0 <= row["train_seconds"] <= row["seconds"] < 3600


def test_a_damaged_checkpoint_is_an_error(tmp_path: Path) -> None:
    run(make_grid(), plan(rounds=1), tmp_path)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"\x00" * 40)
    with pytest.raises(CipherwardError, match=r"checkpoint .* cannot be read"):
        run(make_grid(), plan(), tmp_path)


def test_evaluation_has_a_row_for_each_party(tmp_path: Path) -> None:
    grid, p = make_grid(), plan()
    federation = federation_of(grid, p)
    federation.gather()
    figures = evaluate(build_strategy(p), federation, START + 5, 1, "test")
    assert figures["mean"]["accuracy"] == pytest.approx(0.9)
    assert [r["party"] for r in figures["parties"]] == ["p0", "p1", "p2"]
    assert [r["num-examples"] for r in figures["parties"]] == [10, 20, 30]
    # One in ten of all images is classified wrongly, at a confidence of 0.95.
    assert figures["confusion"] == [[54, 6], [0, 0]]
    assert figures["per_class"] == {"recall": [0.9, None], "precision": [1.0, 0.0]}
    assert figures["calibration"]["ece"] == pytest.approx(0.05)
    assert figures["calibration"]["bins"][9]["count"] == 60
    # The second party lacks a class. Its AUC is not defined, and does not count in the mean.
    assert [r["auc"] for r in figures["parties"]] == [0.5, None, 0.7]
    assert figures["mean"]["auc"] == pytest.approx((10 * 0.5 + 30 * 0.7) / 40)


@pytest.mark.parametrize("kind", ["none", "another length", "another number of images"])
def test_a_party_with_impossible_tables_does_not_count(kind: str) -> None:
    def tamper(node: int, reply: Message) -> Message:
        if node == FIRST_NODE and "tables" in reply.content:
            if kind == "none":
                del reply.content["tables"]
            elif kind == "another length":
                reply.content["tables"]["confusion"] = [9, 1]
            else:
                reply.content["tables"]["confusion"] = [9, 2, 0, 0]
        return reply

    federation, figures = evaluate_tampered(tamper)
    assert [r["party"] for r in figures["parties"]] == ["p1", "p2"]
    assert figures["confusion"] == [[45, 5], [0, 0]]
    federation.plan = plan()
    with pytest.raises(
        CipherwardError, match=r"only 2 of 3 parties evaluated round 1 on test: p0: .*table"
    ):
        evaluate(build_strategy(federation.plan), federation, START, 1, "test")


def evaluate_tampered(tamper: Tamper) -> tuple[Federation, dict[str, Any]]:
    """Evaluate three parties with tampered replies and a quorum of two. Return the federation and its figures."""
    federation = federation_of(make_grid(tamper=tamper), plan(quorum=2))
    federation.gather()
    return federation, evaluate(build_strategy(federation.plan), federation, START + 5, 1, "test")


LIES = {
    "accuracy": (1e300, 7.0, -3.0, 0.5),
    "auc": (99.0, -0.1),
    "loss": (-1e200,),
    "num-examples": (11, 10.9, 100_000_000),
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in LIES.items() for v in values])
def test_a_party_with_false_figures_does_not_count(name: str, value: float) -> None:
    def tamper(node: int, reply: Message) -> Message:
        if node == FIRST_NODE and "tables" in reply.content:
            reply.content["metrics"][name] = value
        return reply

    _, figures = evaluate_tampered(tamper)
    assert [r["party"] for r in figures["parties"]] == ["p1", "p2"]


def test_a_party_cannot_claim_more_images_than_in_its_introduction(tmp_path: Path) -> None:
    def tamper(node: int, reply: Message) -> Message:
        if node == FIRST_NODE and "arrays" in reply.content:
            reply.content["metrics"]["num-examples"] = 10**8
        return reply

    state = run(make_grid(tamper=tamper), plan(quorum=2, rounds=1), tmp_path)
    assert "instead of the 10" in read_journal(tmp_path)[0]["refused"]["p0"]
    assert np.allclose(state.weights, (2 * 20 + 3 * 30) / 50)


@pytest.mark.parametrize(
    "data", [b"", b"PK\x03\x04 no zip", b"\x93NUMPY\x01\x00v\x00{'descr'", b"\x80pickle"]
)
def test_bytes_that_are_not_an_array_spoil_one_reply_and_not_the_round(tmp_path: Path, data: bytes) -> None:
    def tamper(node: int, reply: Message) -> Message:
        if node == FIRST_NODE and "arrays" in reply.content:
            reply.content["arrays"]["model"] = Array("float32", (4,), "numpy.ndarray", data)
        return reply

    run(make_grid(tamper=tamper), plan(quorum=2, rounds=1), tmp_path)
    row = read_journal(tmp_path)[0]
    assert row["refused"] == {"p0": "unreadable weights"} and row["parties"] == ["p1", "p2"]


@pytest.mark.parametrize(
    "about",
    [
        {"splits": {}},
        {"splits": {s: {"rows": 0} for s in ("train", "val", "test")}},
        {"splits": {s: {"rows": "9"} for s in ("train", "val", "test")}},
        {"party": ["p1"]},
        {"party": ""},
        {"classes": "ab"},
        {"classes": [1, 2]},
        {"spec": None},
    ],
)
def test_a_party_with_an_impossible_introduction_does_not_take_part(about: dict[str, Any]) -> None:
    app = parties({"about": {1: about}})
    usable = federation_of(make_grid(app=app), plan(quorum=2)).gather()
    assert [party.name for party in usable] == ["p0", "p2"]
    with pytest.raises(CipherwardError, match="2 of 3 parties are usable: node-101: an introduction"):
        federation_of(make_grid(app=app), plan()).gather()
