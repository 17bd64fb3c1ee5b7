"""The round loop: averages, quorum, deadline, screening, journal, checkpoint, resume."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from coordinator.exchange.plan import Plan
from coordinator.federation.rounds import Federation, State, evaluate, run_rounds, strategy_of
from crypto.errors import CipherwardError
from tests.support.local_grid import FIRST_NODE, LocalGrid

SPEC = {"name": "plain"}


def party_tables(me: int, right: int) -> dict:
    """Of 10·(me+1) images, all of the first class and named so with confidence 0.95, all but `right` wrongly."""
    n = 10 * (me + 1)
    bins = [0] * 9
    return {
        "confusion": [right, n - right, 0, 0],
        "bin_counts": [*bins, n],
        "bin_hits": [*bins, right],
        "bin_confidence": [0.0] * 9 + [0.95 * n],
    }


def parties(app_state: dict | None = None) -> ClientApp:
    """Parties that add (partition id + 1) to every weight; party i has 10·(i+1) images."""
    app = ClientApp()
    seen = app_state if app_state is not None else {}

    @app.query("hello")
    def hello(message: Message, context: Context) -> Message:
        about = {"party": f"p{context.node_config['partition-id']}", "classes": ["a", "b"], "spec": SPEC}
        rows = 10 * (int(context.node_config["partition-id"]) + 1)
        about["splits"] = {split: {"rows": rows} for split in ("train", "val", "test")}
        about |= seen.get("about", {}).get(context.node_config["partition-id"], {})
        return Message(RecordDict({"about": ConfigRecord({"json": json.dumps(about)})}), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        me = int(context.node_config["partition-id"])
        weights = message.content["arrays"]["model"].numpy()
        seen.setdefault("rounds", []).append((message.content["config"]["server-round"], me))
        seen.setdefault("best", []).append(message.content["config"]["best-round"])
        figures = {"num-examples": 10 * (me + 1), "loss": 1.0, "steps": 2, "seconds": 0.1}
        content = {
            "arrays": ArrayRecord({"model": Array((weights + me + 1).astype(np.float32))}),
            "metrics": MetricRecord(figures),
            "about": ConfigRecord({"party": f"p{me}"}),
        }
        return Message(RecordDict(content), reply_to=message)

    @app.evaluate()
    def evaluate_(message: Message, context: Context) -> Message:
        me = int(context.node_config["partition-id"])
        mean = float(message.content["arrays"]["model"].numpy().mean())
        # Best at round 2, so that "the last" and "the best" differ.
        n = 10 * (me + 1)
        right = round(n * max(0.0, 0.9 - abs(mean - seen.get("peak", 5.0)) / 10))
        figures = {"num-examples": n, "accuracy": right / n, "loss": abs(mean)}
        figures |= {"auc": 0.5 + me / 10, "auc-defined": int(me != 1)}
        content = {"metrics": MetricRecord(figures), "tables": ConfigRecord(party_tables(me, right))}
        return Message(RecordDict(content), reply_to=message)

    return app


def plan(**changes) -> Plan:
    settings = {"study": "t", "scheme": "plain", "counts": (9, 9, 9), "image_size": 16, "block": 8}
    return Plan.model_validate(settings | {"rounds": 3, "deadline_s": 5.0, "grace_s": 0.2} | changes)


def grid_of(n: int = 3, app: ClientApp | None = None, **kwargs) -> LocalGrid:
    return LocalGrid(app or parties(), [{"partition-id": i} for i in range(n)], **kwargs)


START = np.zeros(4, np.float32)
# (1·10 + 2·20 + 3·30) / 60: the weighted step of a round with all three parties.
STEP = 140 / 60


def run(grid: LocalGrid, p: Plan, folder) -> State:
    return run_rounds(grid, p, Federation(grid, p), START, folder)


def journal(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]


def test_averages_are_weighted_by_images(tmp_path):
    state = run(grid_of(), plan(), tmp_path)
    assert np.allclose(state.weights, 3 * STEP) and state.weights.dtype == np.float32
    rows = journal(tmp_path)
    assert [r["round"] for r in rows] == [1, 2, 3] and all(r["aggregated"] for r in rows)
    assert rows[0]["parties"] == ["p0", "p1", "p2"] and rows[0]["absent"] == []
    assert rows[0]["bytes_up"] > 3 * START.nbytes and rows[0]["bytes_down"] > 3 * START.nbytes


def test_the_best_round_on_val_is_kept(tmp_path):
    state = run(grid_of(), plan(), tmp_path)
    assert state.best_round == 2 and np.allclose(state.best, 2 * STEP)


def test_parties_are_told_which_round_was_best(tmp_path):
    seen: dict = {}
    run(grid_of(app=parties(seen)), plan(rounds=4), tmp_path)
    assert seen["best"] == [0] * 3 + [1] * 3 + [2] * 6


def test_median_is_flower_s(tmp_path):
    state = run(grid_of(), plan(strategy="fedmedian", rounds=1), tmp_path)
    assert np.allclose(state.weights, 2.0)


def test_resume_continues_after_the_last_whole_round(tmp_path):
    seen: dict = {}
    run(grid_of(app=parties(seen)), plan(rounds=2), tmp_path)
    assert max(r for r, _ in seen["rounds"]) == 2
    seen.clear()
    resumed = run(grid_of(app=parties(seen)), plan(rounds=3), tmp_path)
    assert {r for r, _ in seen["rounds"]} == {3}
    straight = run(grid_of(), plan(rounds=3), tmp_path_sub(tmp_path))
    assert np.array_equal(resumed.weights, straight.weights)
    assert resumed.best_round == straight.best_round


def tmp_path_sub(path):
    (path / "straight").mkdir()
    return path / "straight"


def spoil(kind: str):
    """A tamper that makes node 100's training reply bad in one way."""

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
def test_a_malformed_reply_does_not_touch_the_others(tmp_path, kind):
    state = run(grid_of(tamper=spoil(kind)), plan(rounds=1, quorum=2), tmp_path)
    assert np.allclose(state.weights, (2 * 20 + 3 * 30) / 50)
    row = journal(tmp_path)[0]
    assert list(row["refused"]) == ["p0"] and row["parties"] == ["p1", "p2"]


def test_an_honest_reply_passes_the_same_tamper(tmp_path):
    state = run(grid_of(tamper=spoil("nothing")), plan(rounds=1, quorum=2), tmp_path)
    assert np.allclose(state.weights, STEP)


def test_below_the_quorum_nothing_is_averaged_and_the_work_is_kept(tmp_path):
    run(grid_of(), plan(rounds=1), tmp_path)
    with pytest.raises(
        CipherwardError, match="round 2: fewer than 3 usable replies in 2 attempts"
    ) as error:
        run(grid_of(tamper=spoil("nan")), plan(rounds=3), tmp_path)
    assert "not finite" in error.value.message and "run again" in error.value.hint
    assert State.load(tmp_path / "checkpoint.safetensors").round == 1
    assert [r["aggregated"] for r in journal(tmp_path)] == [True, False, False]


def test_a_lost_reply_ends_with_the_grace_and_is_named(tmp_path):
    grid = grid_of()
    p = plan(rounds=1, quorum=2)
    federation = Federation(grid, p)
    federation.gather()
    grid.lost = {FIRST_NODE + 2}
    state = run_rounds(grid, p, federation, START, tmp_path)
    assert journal(tmp_path)[0]["absent"] == ["p2"]
    assert np.allclose(state.weights, (1 * 10 + 2 * 20) / 30)


def test_waiting_for_a_quorum_is_bounded():
    grid = grid_of()
    grid.offline = {FIRST_NODE}
    with pytest.raises(CipherwardError, match=r"2 of 3 parties came within 0 s"):
        Federation(grid, plan(deadline_s=0.2)).gather()


def test_sets_that_do_not_fit_together_are_refused():
    app = parties({"about": {1: {"classes": ["a", "c"]}}})
    with pytest.raises(CipherwardError, match="p1 and p0 do not fit together: their classes differ"):
        Federation(grid_of(app=app), plan()).gather()


def test_two_parties_of_one_name_are_refused():
    app = parties({"about": {1: {"party": "p0"}}})
    with pytest.raises(CipherwardError, match="two parties have the same name: p0, p0, p2"):
        Federation(grid_of(app=app), plan()).gather()


def test_a_damaged_checkpoint_is_told(tmp_path):
    run(grid_of(), plan(rounds=1), tmp_path)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"\x00" * 40)
    with pytest.raises(CipherwardError, match=r"checkpoint .* cannot be read"):
        run(grid_of(), plan(), tmp_path)


def test_evaluation_names_each_party(tmp_path):
    grid, p = grid_of(), plan()
    federation = Federation(grid, p)
    federation.gather()
    figures = evaluate(strategy_of(p), federation, START + 5, 1, "test")
    assert figures["mean"]["accuracy"] == pytest.approx(0.9)
    assert [r["party"] for r in figures["parties"]] == ["p0", "p1", "p2"]
    assert [r["num-examples"] for r in figures["parties"]] == [10, 20, 30]
    # One in ten of all images is taken for another class, at a confidence of 0.95.
    assert figures["confusion"] == [[54, 6], [0, 0]]
    assert figures["per_class"] == {"recall": [0.9, None], "precision": [1.0, 0.0]}
    assert figures["calibration"]["ece"] == pytest.approx(0.05)
    assert figures["calibration"]["bins"][9]["count"] == 60
    # The second party lacks a class: its AUC is not defined, and takes no part in the mean.
    assert [r["auc"] for r in figures["parties"]] == [0.5, None, 0.7]
    assert figures["mean"]["auc"] == pytest.approx((10 * 0.5 + 30 * 0.7) / 40)


@pytest.mark.parametrize("kind", ["none", "another length", "another number of images"])
def test_a_party_whose_tables_cannot_be_does_not_count(kind):
    def tamper(node: int, reply: Message) -> Message:
        if node == FIRST_NODE and "tables" in reply.content:
            if kind == "none":
                del reply.content["tables"]
            elif kind == "another length":
                reply.content["tables"]["confusion"] = [9, 1]
            else:
                reply.content["tables"]["confusion"] = [9, 2, 0, 0]
        return reply

    federation, figures = judged(tamper)
    assert [r["party"] for r in figures["parties"]] == ["p1", "p2"]
    assert figures["confusion"] == [[45, 5], [0, 0]]
    federation.plan = plan()
    with pytest.raises(CipherwardError, match=r"only 2 of 3 parties evaluated: .*table"):
        evaluate(strategy_of(federation.plan), federation, START, 1, "test")


def judged(tamper) -> tuple[Federation, dict]:
    """A federation that two of three parties are enough for, and its figures on test under tampered replies."""
    federation = Federation(grid_of(tamper=tamper), plan(quorum=2))
    federation.gather()
    return federation, evaluate(strategy_of(federation.plan), federation, START + 5, 1, "test")


LIES = {
    "accuracy": (1e300, 7.0, -3.0, 0.5),
    "auc": (99.0, -0.1),
    "loss": (-1e200,),
    "num-examples": (11, 10.9, 100_000_000),
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in LIES.items() for v in values])
def test_a_party_that_lies_in_its_figures_does_not_count(name, value):
    def tamper(node: int, reply: Message) -> Message:
        if node == FIRST_NODE and "tables" in reply.content:
            reply.content["metrics"][name] = value
        return reply

    _, figures = judged(tamper)
    assert [r["party"] for r in figures["parties"]] == ["p1", "p2"]


def test_a_party_cannot_claim_more_images_than_it_introduced_itself_with(tmp_path):
    def tamper(node: int, reply: Message) -> Message:
        if node == FIRST_NODE and "arrays" in reply.content:
            reply.content["metrics"]["num-examples"] = 10**8
        return reply

    state = run(grid_of(tamper=tamper), plan(quorum=2, rounds=1), tmp_path)
    assert "instead of the 10" in journal(tmp_path)[0]["refused"]["p0"]
    assert np.allclose(state.weights, (2 * 20 + 3 * 30) / 50)


@pytest.mark.parametrize(
    "data", [b"", b"PK\x03\x04 no zip", b"\x93NUMPY\x01\x00v\x00{'descr'", b"\x80pickle"]
)
def test_bytes_that_are_no_array_refuse_one_reply_and_not_the_round(tmp_path, data):
    def tamper(node: int, reply: Message) -> Message:
        if node == FIRST_NODE and "arrays" in reply.content:
            reply.content["arrays"]["model"] = Array("float32", (4,), "numpy.ndarray", data)
        return reply

    run(grid_of(tamper=tamper), plan(quorum=2, rounds=1), tmp_path)
    row = journal(tmp_path)[0]
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
def test_a_party_whose_introduction_cannot_be_so_takes_no_part(about):
    app = parties({"about": {1: about}})
    found = Federation(grid_of(app=app), plan(quorum=2)).gather()
    assert [party.name for party in found] == ["p0", "p2"]
    with pytest.raises(CipherwardError, match="2 of 3 parties are usable: an introduction"):
        Federation(grid_of(app=app), plan()).gather()
