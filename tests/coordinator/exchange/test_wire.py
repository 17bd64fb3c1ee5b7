"""bfloat16 on the wire: half the bytes, small updates that add up, and malformed replies that are refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message
from safetensors.torch import load_file

from coordinator.exchange.wire import apply_reply, as_received, decode, encode, encode_reply
from coordinator.federation.recording import read_updates
from coordinator.model.shares import shared_names
from coordinator.model.vit import build_model, pack
from crypto.errors import CipherwardError
from parties.sealing.place import Place
from tests.support.hospitals import CLASSES, federate, plan, read_journal, run_study, seal_hospitals
from tests.support.local_grid import FIRST_NODE

RANDOM = np.random.default_rng(0).normal(0, 0.02, 4096).astype(np.float32)


def test_bfloat16_is_half_as_long_and_rounds_to_the_nearest_even() -> None:
    words = encode(RANDOM, "bfloat16")
    assert words.dtype == np.uint16 and 2 * words.nbytes == RANDOM.nbytes
    assert np.abs(decode(words, "bfloat16") / RANDOM - 1).max() <= 2**-8
    assert np.array_equal(encode(decode(words, "bfloat16"), "bfloat16"), words)
    ties = np.array([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8], np.float32)
    assert decode(encode(ties, "bfloat16"), "bfloat16").tolist() == [1.0, 1 + 2**-6, -1.0]
    odd = np.array([math.nan, math.inf, -math.inf], np.float32)
    assert not np.isfinite(decode(encode(odd, "bfloat16"), "bfloat16")).any()


def test_float32_travels_as_it_is() -> None:
    vector = RANDOM.copy()
    vector.flags.writeable = False  # as Flower gives it out
    assert encode(vector, "float32").dtype == np.float32
    for same in (
        encode(vector, "float32"),
        decode(vector, "float32"),
        encode_reply(vector, vector, "float32"),
    ):
        assert np.array_equal(same, vector)
    assert as_received(vector, "bfloat16").dtype == np.float32


def test_updates_far_below_the_rounding_of_a_weight_add_up() -> None:
    master = RANDOM.copy()
    for _ in range(50):
        start = as_received(master, "bfloat16")
        master = apply_reply(encode_reply(start + np.float32(1e-6), start, "bfloat16"), master, "bfloat16")
    assert np.abs(master - RANDOM - 5e-5).max() < 5e-6
    # Weights that are rounded anew each round stay where they were.
    rounded = first = as_received(RANDOM, "bfloat16")
    for _ in range(50):
        rounded = as_received(rounded + np.float32(1e-6), "bfloat16")
    large = np.abs(RANDOM) > 1e-3
    assert large.mean() > 0.9 and np.array_equal(rounded[large], first[large])


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> list[Place]:
    return seal_hospitals(tmp_path_factory.mktemp("wire"), plan())


@pytest.mark.parametrize("stem", ["learn", "private"])
def test_a_federation_halves_its_bytes_and_learns_the_same(
    tmp_path: Path, places: list[Place], stem: str
) -> None:
    states, rows = {}, {}
    for wire in ("float32", "bfloat16"):
        p = plan(study=f"t-{wire}", stem=stem, wire=wire, rounds=3)
        states[wire], _ = federate(places, p, tmp_path / wire)
        rows[wire] = read_journal(tmp_path / wire)
    start = pack(model := build_model(plan(stem=stem), CLASSES), shared_names(model, plan(stem=stem)))
    for row, half in zip(rows["float32"], rows["bfloat16"], strict=True):
        for way in ("bytes_up", "bytes_down"):
            assert row[way] - half[way] == pytest.approx(2 * 2 * len(start), abs=200)
        assert half["val"]["accuracy"] == pytest.approx(row["val"]["accuracy"], abs=0.13)  # of 8 images
        assert half["val"]["loss"] == pytest.approx(row["val"]["loss"], abs=0.02)
    moved = states["float32"].weights - start
    away = states["bfloat16"].weights - states["float32"].weights
    assert states["bfloat16"].weights.dtype == np.float32
    assert 0 < np.linalg.norm(away) < 0.05 * np.linalg.norm(moved)


def test_what_was_tested_is_what_is_saved(tmp_path: Path, places: list[Place]) -> None:
    p = plan(wire="bfloat16", stem="learn", rounds=1)
    run_study(tmp_path / "study", places, p)
    tensors = load_file(str(tmp_path / "study" / "cloud" / "model.safetensors"))
    flat = np.concatenate([v.numpy().ravel() for v in tensors.values()])
    assert np.array_equal(as_received(flat, "bfloat16"), flat)


def test_the_record_holds_what_was_sent_and_answered(tmp_path: Path, places: list[Place]) -> None:
    p = plan(wire="bfloat16", rounds=1, keep_updates=1, stem="plain")
    came: dict[str, np.ndarray] = {}

    def note(node: int, answer: Message) -> Message:
        if "arrays" in answer.content:
            came[answer.content["about"]["party"]] = answer.content["arrays"]["model"].numpy().copy()
        return answer

    state, grid = federate(places, p, tmp_path, note)
    [(_, before, replies)] = read_updates(tmp_path)
    down = (
        next(m for m in grid.sent if m.metadata.message_type == "train").content["arrays"]["model"].numpy()
    )
    assert down.dtype == np.uint16 and np.array_equal(decode(down, "bfloat16"), before)
    for party, (after, _) in replies.items():
        assert np.array_equal(after, before + decode(came[party], "bfloat16"))
    # The coordinator's own weights are not those that it sent.
    model = build_model(p, CLASSES)
    mean = np.mean([decode(words, "bfloat16") for words in came.values()], axis=0)
    assert np.abs(pack(model) + mean - state.weights).max() < 1e-6
    assert np.abs(before + mean - state.weights).max() > 1e-5


@pytest.mark.parametrize("kind", ["nan", "inf", "shape", "float32"])
def test_a_malformed_reply_is_refused(tmp_path: Path, places: list[Place], kind: str) -> None:
    def tamper(node: int, answer: Message) -> Message:
        if node != FIRST_NODE or "arrays" not in answer.content:
            return answer
        words = answer.content["arrays"]["model"].numpy().copy()
        assert words.dtype == np.uint16
        if kind == "nan":
            words[3] = 0x7FC0
        elif kind == "inf":
            words[3] = 0xFF80
        elif kind == "shape":
            words = words[:-1]
        elif kind == "float32":
            words = decode(words, "bfloat16")
        answer.content["arrays"] = ArrayRecord({"model": Array(words)})
        return answer

    federate(places, plan(wire="bfloat16", rounds=1, quorum=1, grace_s=5.0), tmp_path, tamper)
    [row] = read_journal(tmp_path)
    assert row["parties"] == ["hospital-1"] and list(row["refused"]) == ["hospital-0"]
    wanted = "not finite" if kind in ("nan", "inf") else "instead of uint16"
    assert wanted in row["refused"]["hospital-0"]


def test_all_replies_malformed_ends_the_run(tmp_path: Path, places: list[Place]) -> None:
    def float32(node: int, answer: Message) -> Message:
        if "arrays" in answer.content:
            words = answer.content["arrays"]["model"].numpy()
            answer.content["arrays"] = ArrayRecord({"model": Array(words.astype(np.float32))})
        return answer

    with pytest.raises(CipherwardError, match="instead of uint16"):
        federate(places, plan(wire="bfloat16", retries=0), tmp_path, float32)
    assert json.loads((tmp_path / "rounds.jsonl").read_text())["aggregated"] is False
