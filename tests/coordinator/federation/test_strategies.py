"""Flower's strategies by name: how each aggregates, what survives a kill, and which plans are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from coordinator.exchange.introduction import sign_introduction
from coordinator.exchange.plan import Plan
from coordinator.federation.rounds import State, run_rounds
from coordinator.model.model_input import to_model_input
from coordinator.model.optimizer import learning_rate
from coordinator.model.training import PlainImages, train_locally
from coordinator.model.vit import build_model, pack
from crypto.arrays import AnyArray, Float32Array
from crypto.errors import CipherwardError
from parties.training.baseline import concatenate, read_plain_images, train_plain
from tests.support.fake_parties import federation_of, introduction
from tests.support.hospitals import CLASSES, federate, seal_hospitals
from tests.support.hospitals import plan as small
from tests.support.local_grid import LocalGrid
from tests.support.manifests import identity_of

STEPS = np.array([[1.0, -1.0, 0.5], [2.0, -0.5, 0.25], [3.0, 4.0, -1.0], [1.5, 0.0, 0.0], [1.0, 0.5, 1.0]])
START = np.zeros(3, np.float32)


class KilledError(Exception):
    """Stands for a kill of the process."""


def _grow(party: int, weights: Float32Array) -> AnyArray:
    """Return a party's row of STEPS, larger where weights are large."""
    moves: AnyArray = STEPS[party] * (1 + np.abs(weights) / 10)
    return moves


def parties(
    wild: int | None = None,
    configs: list[dict[str, Any]] | None = None,
    steps: Callable[[int, Float32Array], AnyArray] = _grow,
) -> ClientApp:
    """Return parties that move the weights by their steps.

    wild: the party that sends 1e6 instead. configs: gets the settings that the parties receive. steps: gets a party
    and the weights.
    """
    app = ClientApp()

    @app.query("hello")  # type: ignore[untyped-decorator]  # flwr is untyped here
    def hello(message: Message, context: Context) -> Message:
        party = int(context.node_config["partition-id"])
        name = f"p{party}"
        about = introduction(plan(), str(message.content["config"]["manifest"]), name, context)
        record = ConfigRecord(sign_introduction(identity_of(name), about))
        return Message(RecordDict({"about": record}), reply_to=message)

    @app.train()  # type: ignore[untyped-decorator]  # flwr is untyped here
    def train(message: Message, context: Context) -> Message:
        party = int(context.node_config["partition-id"])
        if configs is not None:
            configs.append(dict(message.content["config"]))
        weights = message.content["arrays"]["model"].numpy()
        after = weights + steps(party, weights)
        if party == wild:
            after = np.full(3, 1e6)
        figures = {"num-examples": 10 * (party + 1), "loss": 1.0, "steps": 2, "seconds": 0.1}
        content = {
            "arrays": ArrayRecord({"model": Array(after.astype(np.float32))}),
            "metrics": MetricRecord(figures),
        }
        return Message(RecordDict(content), reply_to=message)

    @app.evaluate()  # type: ignore[untyped-decorator]  # flwr is untyped here
    def evaluate(message: Message, context: Context) -> Message:
        n = 10 * (int(context.node_config["partition-id"]) + 1)
        figures = {"num-examples": n, "accuracy": 1.0, "loss": 0.0, "auc": 0.0, "auc-defined": 0}
        tables: dict[str, list[int] | list[float]] = {
            "confusion": [n, 0, 0, 0],
            "bin_counts": [0] * 9 + [n],
        }
        tables |= {"bin_hits": [0] * 9 + [n], "bin_confidence": [0.0] * 9 + [float(n)]}
        content = {"metrics": MetricRecord(figures), "tables": ConfigRecord(tables)}
        return Message(RecordDict(content), reply_to=message)

    return app


def plan(**changes: Any) -> Plan:
    settings: dict[str, Any] = {"study": "t", "scheme": "plain", "counts": (150, 150, 150)}
    settings |= {"image_size": 16, "block": 8}
    return Plan.model_validate(settings | {"parties": 5, "rounds": 1, "deadline_s": 5.0} | changes)


def unbounded(**changes: Any) -> Plan:
    """Return such a plan that does not bound the norms of updates."""
    return plan(max_update_norm=0, **changes)


def run(p: Plan, folder: Path, app: ClientApp | None = None) -> State:
    folder.mkdir(exist_ok=True)
    grid = LocalGrid(app or parties(), [{"partition-id": i} for i in range(p.parties)])
    return run_rounds(federation_of(grid, p), START, folder)


def test_one_wild_reply_moves_the_mean_but_neither_median_nor_krum(tmp_path: Path) -> None:
    weights = {
        name: run(unbounded(strategy=name, malicious=1), tmp_path / name, parties(wild=2)).weights
        for name in ("fedavg", "fedmedian", "krum")
    }
    assert np.abs(weights["fedavg"]).min() > 1e5
    assert np.allclose(weights["fedmedian"], [1.5, 0.0, 0.5])
    honest = np.delete(STEPS, 2, 0)
    assert any(np.array_equal(weights["krum"], step) for step in honest.astype(np.float32))
    # Two nearest neighbours of five replies, one of them malicious: the smallest sum of squared distances.
    rows = np.vstack([honest, np.full(3, 1e6)])
    squares = ((rows[:, None] - rows[None]) ** 2).sum(-1)
    assert np.allclose(weights["krum"], rows[np.sort(squares, 1)[:, 1:3].sum(1).argmin()])


def test_krum_tells_small_updates_of_large_weights_apart(tmp_path: Path) -> None:
    # In float32, the squares of the weights would differ by more than the updates do.
    start = np.array([4096, 2048, 1024], np.float32)
    honest = {0: [0.5, 0, 0], 1: [0.5, 0.25, 0], 2: [0.25, 0.5, 0], 4: [0, 0.25, 0.5]}
    steps = np.array([honest.get(party, [-1.0, -1.0, -1.0]) for party in range(5)])
    app = parties(steps=lambda party, _: steps[party])
    grid = LocalGrid(app, [{"partition-id": i} for i in range(5)])
    weights = run_rounds(
        federation_of(grid, unbounded(strategy="krum", malicious=1)), start, tmp_path
    ).weights
    squares = ((steps[:, None] - steps[None]) ** 2).sum(-1)
    nearest = np.sort(squares, 1)[:, 1:3].sum(1).argmin()
    assert np.array_equal(weights, start + steps[nearest].astype(np.float32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"malicious": 2},
            "krum with 2 malicious parties needs 7 replies a round, and a round of this plan waits for 5",
        ),
        ({"malicious": 1, "quorum": 4}, "needs 5 replies a round, and a round of this plan waits for 4"),
        ({"parties": 2, "quorum": 2, "counts": (150, 150, 150)}, "needs 3 replies"),
    ],
)
def test_krum_is_refused_if_a_round_may_have_too_few_replies(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CipherwardError, match=message):
        plan(strategy="krum", **changes)
    plan(strategy="fedavg", **changes)


def test_a_round_with_too_few_replies_for_krum_fails(tmp_path: Path) -> None:
    def spoil(node: int, reply: Message) -> Message:
        if node == 100 and "arrays" in reply.content:
            reply.content["arrays"] = ArrayRecord({"model": Array(np.full(3, np.nan, np.float32))})
        return reply

    p = plan(strategy="krum", malicious=1, retries=0)
    grid = LocalGrid(parties(), [{"partition-id": i} for i in range(5)], tamper=spoil)
    with pytest.raises(CipherwardError, match="fewer than 5 usable replies"):
        run_rounds(federation_of(grid, p), START, tmp_path)


def test_fedadam_takes_the_step_of_adam(tmp_path: Path) -> None:
    state = run(plan(strategy="fedadam", server_lr=0.05), tmp_path)
    sizes = np.arange(1, 6) / 15
    mean = sizes @ STEPS
    first, second = 0.1 * mean, 0.01 * mean**2
    eta = 0.05 * np.sqrt(1 - 0.99**2) / (1 - 0.9**2)
    assert np.allclose(state.weights, eta * first / (np.sqrt(second) + 1e-3), rtol=1e-5)
    assert np.allclose(state.moments["m_t"], first) and np.allclose(state.moments["v_t"], second)


@pytest.mark.parametrize("stops", [1, 3])
def test_fedadam_gives_the_same_result_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stops: int
) -> None:
    p = plan(strategy="fedadam", rounds=5)
    uninterrupted = run(p, tmp_path / "uninterrupted")

    save = State.save

    def save_and_die(state: State, path: Path) -> None:
        save(state, path)
        if state.round == stops:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(State, "save", save_and_die)
        with pytest.raises(KilledError):
            run(p, tmp_path / "cut")
    assert State.load(tmp_path / "cut" / "checkpoint.safetensors").round == stops
    resumed = run(p, tmp_path / "cut")
    assert resumed.round == uninterrupted.round == 5
    assert resumed.weights.tobytes() == uninterrupted.weights.tobytes()
    for name in ("m_t", "v_t"):
        assert resumed.moments[name].tobytes() == uninterrupted.moments[name].tobytes()
    # Without the moments the result would differ.
    saved = State.load(tmp_path / "uninterrupted" / "checkpoint.safetensors")
    assert set(saved.moments) == {"m_t", "v_t"} and np.abs(saved.moments["m_t"]).min() > 0


def test_a_strategy_without_moments_keeps_none(tmp_path: Path) -> None:
    assert run(plan(), tmp_path).moments == {}
    assert State.load(tmp_path / "checkpoint.safetensors").moments == {}


def test_hospitals_receive_the_proximal_term(tmp_path: Path) -> None:
    configs: list[dict[str, Any]] = []
    run(plan(strategy="fedprox", proximal_mu=0.25), tmp_path / "a", parties(configs=configs))
    assert {c["proximal-mu"] for c in configs} == {0.25}
    configs.clear()
    run(plan(proximal_mu=0.25), tmp_path / "b", parties(configs=configs))
    assert configs and all("proximal-mu" not in c for c in configs)
    assert plan(strategy="fedprox", proximal_mu=0.25).proximal == 0.25
    assert plan(proximal_mu=0.25).proximal == 0.0
    assert plan(strategy="fedprox", train="central").proximal == 0.0


def test_the_proximal_term_is_that_of_the_paper() -> None:
    """Compare with three full-batch steps of SGD, whose gradient is the loss's plus mu · (w − w_received)."""
    p = small(batch=64, local_epochs=3, momentum=0.0, weight_decay=0.0, clip=1e9, rounds=1, lr=0.2)
    random, mu = np.random.default_rng(0), 2.0
    images = random.integers(0, 256, (12, 32, 32, 1), dtype=np.uint8)
    labels = np.arange(12) % CLASSES
    model, expected = build_model(p, CLASSES), build_model(p, CLASSES)
    result = train_locally(model, PlainImages(images, labels), p, 1, "a", mu)
    first = [w.detach().clone() for w in expected.parameters()]
    expected.train()
    for step in range(3):
        loss = torch.nn.functional.cross_entropy(expected(to_model_input(images)), torch.from_numpy(labels))
        slopes = torch.autograd.grad(loss, list(expected.parameters()))
        with torch.no_grad():
            for w, slope, f in zip(expected.parameters(), slopes, first, strict=True):
                w.sub_(learning_rate(p, step, 3) * (slope + mu * (w - f)))
    assert np.abs(pack(model) - pack(expected)).max() < 1e-5
    free = build_model(p, CLASSES)
    free_result = train_locally(free, PlainImages(images, labels), p, 1, "a")
    start = pack(build_model(p, CLASSES))
    assert np.linalg.norm(pack(model) - start) < 0.9 * np.linalg.norm(pack(free) - start)
    assert result["loss"] != free_result["loss"]


def test_fedprox_in_hospitals_is_fedprox_on_plain_images(tmp_path: Path) -> None:
    p = small(strategy="fedprox", proximal_mu=10.0, stem="plain", rounds=1, local_epochs=3, momentum=0.0)
    places = seal_hospitals(tmp_path, p)
    state, _ = federate(places, p, tmp_path / "cloud")
    parts = [(place.settings.party, read_plain_images(place, "train")) for place in places]
    val = concatenate([read_plain_images(place, "val") for place in places])
    weights = {}
    for name in ("fedprox", "fedavg"):
        variant = p.model_copy(update={"strategy": name})
        weights[name] = pack(train_plain(variant, parts, val, CLASSES, tmp_path / f"{name}.safetensors")[0])
    assert np.abs(state.weights - weights["fedprox"]).max() < 1e-4
    assert np.abs(weights["fedprox"] - weights["fedavg"]).max() > 1e-3
