"""The hospital's policy: what a received plan is compared with, setting by setting, and what a message may ask."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from coordinator.exchange.introduction import is_signed
from coordinator.exchange.manifest import read_manifest
from coordinator.exchange.plan import Plan
from coordinator.exchange.privacy import Privacy
from coordinator.exchange.statement import SPLITS
from coordinator.exchange.wire import encode
from coordinator.model.shares import shared_names
from coordinator.model.vit import build_model, pack
from crypto.arrays import Float32Array
from crypto.errors import CipherwardError
from crypto.spec import spec_without_nonce
from parties.agent.identity_file import ensure_identity, identity_path, public_identity_path
from parties.sealing.place import Place
from parties.training import guard
from parties.training.policy import (
    COORDINATOR_ONLY,
    IGNORED,
    Policy,
    find_difference,
    find_step_difference,
    make_policy,
)
from parties.training.policy_file import find_policy, read_policy, save_policy
from tests.support.command_runs import Here
from tests.support.hospitals import (
    CLASSES,
    accept,
    make_grid,
    one_core,  # noqa: F401 - a fixture for every test here
    plan,
    run_study,
    seal_hospitals,
)
from tests.support.local_grid import FIRST_NODE, LocalGrid

#: Another value of every setting that concerns a hospital. The plans that they make need not be possible ones.
OTHER: dict[str, Any] = {
    "study": "u",
    "seed": 1,
    "parties": 3,
    "image_size": 64,
    "channels": 3,
    "scheme": "value_shuffle",
    "block": 16,
    "key_scope": "consortium",
    "scheme_options": {"fixed_blocks": 1},
    "model": "vit_small_patch16_224",
    "model_args": {"depth": 1},
    "weights": "/elsewhere/w.safetensors",
    "stem": "plain",
    "stem_frozen": True,
    "positions": "alike",
    "share": "head",
    "lora_rank": 5,
    "lora_alpha": 9.0,
    "lora_blocks": 1,
    "lora_layers": ("mlp.fc1",),
    "train": "central",
    "strategy": "fedprox",
    "proximal_mu": 0.02,
    "wire": "bfloat16",
    "rounds": 3,
    "local_epochs": 2,
    "batch": 7,
    "optimizer": "adamw",
    "lr": 0.06,
    "momentum": 0.8,
    "weight_decay": 0.02,
    "warmup_steps": 1,
    "layer_decay": 0.7,
    "stem_lr_scale": 3.0,
    "position_lr_scale": 2.0,
    "frozen_rounds": 1,
    "clip": 2.0,
    "label_smoothing": 0.1,
    "class_weights": "balanced",
    "precision": "bfloat16",
    "compile": True,
    "augment": "flip_shift",
    "mixup": 0.2,
    "privacy": Privacy(epsilon=1.0, delta=1e-5),
}


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> list[Place]:
    """Return two hospitals that accepted the plan of the tests."""
    return seal_hospitals(tmp_path_factory.mktemp("policy"), plan())


@pytest.fixture
def places(hospitals: list[Place], tmp_path: Path) -> list[Place]:
    """Return copies of the hospitals that a test may change."""
    copies = []
    for place in hospitals:
        shutil.copytree(place.folder, tmp_path / place.folder.name)
        copies.append(Place.open(tmp_path / place.folder.name))
    return copies


def manifest_of_node(grid: LocalGrid) -> str:
    """Return the digest of the study manifest that the first hospital agreed to, "" without a policy."""
    place = Place.open(Path(str(grid.contexts[FIRST_NODE].node_config["party-dir"])))
    return read_policy(place).manifest_sha256 if place.policy_file.exists() else ""


def ask(
    grid: LocalGrid, kind: str, plan_json: str, weights: Float32Array, **config: Any
) -> tuple[Message | None, str]:
    """Send a message to the first hospital. Return its reply, or None and the error's text."""
    agreed = {"manifest": manifest_of_node(grid)} | config
    record = ConfigRecord({"plan": plan_json, **{k: v for k, v in agreed.items() if v is not None}})
    array = weights if isinstance(weights, Array) else Array(weights)
    content = RecordDict({"config": record, "arrays": ArrayRecord({"model": array})})
    [sent] = grid.push_messages([Message(content, FIRST_NODE, kind)])
    [reply] = grid.pull_messages([sent])
    return (None, str(reply.error.reason)) if reply.has_error() else (reply, "")


def train(grid: LocalGrid, p: Plan, weights: Float32Array, round_: int = 1, /, **config: Any) -> str:
    """Ask for a round of training; return why it was refused, or ""."""
    settings = {"server-round": round_, "best-round": 0} | config
    return ask(grid, "train", p.model_dump_json(), weights, **settings)[1]


def evaluate(grid: LocalGrid, p: Plan, weights: Float32Array, split: str, **config: Any) -> str:
    """Ask for an evaluation; return why it was refused, or ""."""
    settings = {"server-round": 1, "split": split} | config
    return ask(grid, "evaluate", p.model_dump_json(), weights, **settings)[1]


def first_weights(p: Plan) -> Float32Array:
    """Return the weights that a federation starts from."""
    model = build_model(p, CLASSES)
    return pack(model, shared_names(model, p))


def refusals(place: Place) -> list[dict[str, str]]:
    """Return what the hospital wrote down about refusals."""
    path = place.private / guard.REFUSALS_FILE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


# ---- the comparison ------------------------------------------------------------------------------


def test_every_setting_of_a_plan_is_compared_or_named_as_the_coordinator_s() -> None:
    assert set(OTHER) == set(Plan.model_fields) - COORDINATOR_ONLY - IGNORED
    assert not COORDINATOR_ONLY & IGNORED
    assert set(Plan.model_fields) >= COORDINATOR_ONLY | IGNORED


@pytest.mark.parametrize("field", sorted(OTHER))
def test_a_difference_in_any_setting_is_named(field: str) -> None:
    p = plan()
    policy = make_policy(p, ["a", "b"], 12)
    assert find_difference(policy, p) is None
    # Not validated: the comparison must not depend on what a plan may be.
    difference = find_difference(policy, p.model_copy(update={field: OTHER[field]}))
    assert difference is not None and difference.field == field
    assert f"the coordinator's plan says {field} " in str(difference)


@pytest.mark.parametrize("field", sorted(COORDINATOR_ONLY | IGNORED))
def test_what_concerns_the_coordinator_alone_may_differ(field: str) -> None:
    p = plan()
    assert find_difference(make_policy(p, ["a"], 12), p.model_copy(update={field: "anything"})) is None


def test_a_setting_that_a_later_version_adds_is_refused_by_default() -> None:
    class LaterPlan(Plan):
        send_gradients: bool = False

    p = LaterPlan.model_validate(plan().model_dump())
    difference = find_difference(make_policy(plan(), ["a"], 12), p)
    assert difference is not None and difference.field == "send_gradients"
    with pytest.raises(CipherwardError, match="a policy cannot hold the plan's send_gradients"):
        make_policy(p, ["a"], 12)


def test_a_value_of_another_type_is_another_value() -> None:
    p = plan()
    policy = make_policy(p, ["a"], 12)
    assert find_difference(policy, p.model_copy(update={"stem_frozen": 0})) is not None


def test_batches_and_passes_are_bounded_on_both_sides() -> None:
    p = plan(batch=8, local_epochs=2)
    policy = make_policy(p, ["a"], 20)
    assert (policy.least_batch, policy.least_local_steps, policy.most_local_steps) == (8, 6, 6)
    larger = p.model_copy(update={"batch": 1000})
    assert find_difference(policy, larger) is None  # the batch itself protects more
    few = find_step_difference(policy, larger, 20)  # but a round of 2 steps shows more than one of 6
    assert few is not None and few.field == "local_steps" and few.stated == 2
    assert find_step_difference(policy, p, 20) is None
    looser = policy.model_copy(update={"least_local_steps": 2, "most_local_epochs": 4})
    assert find_step_difference(looser, larger, 20) is None
    assert find_difference(looser, p.model_copy(update={"local_epochs": 4})) is None
    assert find_difference(looser, p.model_copy(update={"local_epochs": 5})) is not None


# ---- the file ------------------------------------------------------------------------------------


def test_the_policy_is_private_and_its_keys_are_closed(places: list[Place]) -> None:
    place = places[0]
    path = place.policy_file
    assert path.stat().st_mode & 0o777 == 0o600
    accepted = make_policy(plan(), place.sealed("train").classes, 12)
    [manifest] = (place.private / "studies").iterdir()
    assert read_policy(place) == accepted.model_copy(
        update={"manifest_sha256": read_manifest(manifest).digest}
    )
    text = path.read_text()
    path.write_text(text + "later: 1\n")
    with pytest.raises(CipherwardError, match="unknown key 'later'"):
        read_policy(place)
    for name in Policy.model_fields:
        line = next(row for row in text.splitlines(keepends=True) if row.startswith(f"{name}:"))
        if line.rstrip().endswith(":"):
            continue  # a list or mapping, over several lines
        path.write_text(text.replace(line, ""))
        with pytest.raises(CipherwardError, match=f"key '{name}' is missing"):
            read_policy(place)
    path.write_text(text)
    path.chmod(0o622)
    with pytest.raises(CipherwardError, match="other users of this machine can change"):
        read_policy(place)


def test_an_earlier_study_s_policy_is_still_found(places: list[Place]) -> None:
    first, second = plan(), plan(study="second", lr=0.01)
    accept(places, second)
    assert read_policy(places[0]).study == "second"
    assert find_policy(places[0], first).study == "t"
    (places[0].private / "policies" / "a-0000.yaml").write_text(
        "study: t\n"
    )  # as an earlier version wrote it
    assert find_policy(places[0], first).study == "t"
    with pytest.raises(CipherwardError, match=r"this plan says study third; .* accepted study second"):
        find_policy(places[0], plan(study="third"))
    # But the client obeys the present one only.
    assert "says study t; this hospital accepted study second" in train(
        make_grid(places), first, first_weights(first)
    )


# ---- the client ----------------------------------------------------------------------------------


def test_a_hospital_that_accepted_nothing_says_nothing(places: list[Place]) -> None:
    places[0].policy_file.unlink()
    grid, weights = make_grid(places), first_weights(plan())
    hello = Message(RecordDict({"config": ConfigRecord({})}), FIRST_NODE, "query.hello")
    [sent] = grid.push_messages([hello])
    [reply] = grid.pull_messages([sent])
    for error in (reply.error.reason, train(grid, plan(), weights), evaluate(grid, plan(), weights, "val")):
        assert "hospital-0 accepted no study" in error and "cipherward-party accept PLAN HOSPITAL" in error


def test_a_lying_message_moves_weights_only_if_the_policy_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attack of a server on the key of `orthogonal`: stem plain under AdamW, and a scheme that allows it."""
    p = plan(scheme="orthogonal", optimizer="adamw")
    [place, *_] = seal_hospitals(tmp_path, p)
    lie = plan(scheme="value_shuffle", stem="plain", optimizer="adamw")
    grid, weights = make_grid([place]), first_weights(lie)
    opened: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(Place, "key", lambda self: opened.append("key"))
        error = train(grid, lie, weights)
    assert "says scheme value_shuffle; this hospital accepted scheme orthogonal" in error and not opened
    [row] = refusals(place)
    assert row.keys() == {"time", "study", "field", "stated", "accepted"}
    assert (row["study"], row["field"]) == ("t", "scheme")
    assert (row["stated"], row["accepted"]) == ("'value_shuffle'", "'orthogonal'")
    # The sealed sets are a second guard of the scheme.
    monkeypatch.setattr(guard, "find_difference", lambda policy, plan: None)
    assert "says scheme value_shuffle; the sealed set train has scheme orthogonal" in train(
        grid, lie, weights
    )
    assert len(refusals(place)) == 2
    # Without both guards the attack gets what it wants: a stem that stepped by signs, carried back.
    monkeypatch.setattr(guard, "find_set_difference", lambda sealed, spec, who: None)
    reply, error = ask(
        grid, "train", lie.model_dump_json(), weights, **{"server-round": 1, "best-round": 0}
    )
    assert reply is not None, error
    moved = reply.content["arrays"]["model"].numpy() - weights
    model: Any = build_model(lie, CLASSES)
    start = list(model.state_dict()).index("patch_embed.proj.weight")
    sizes = [v.numel() for v in model.state_dict().values()]
    stem = slice(sum(sizes[:start]), sum(sizes[: start + 1]))
    assert np.abs(moved[stem]).min() > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"stem": "plain"},
        {"optimizer": "adamw"},
        {"batch": 4},
        {"local_epochs": 2},
        {"rounds": 9},
        {"share": "head"},
        {"wire": "bfloat16"},
        {"strategy": "fedprox", "proximal_mu": 5.0},
        {"model_args": {**plan().model_args, "depth": 1}},
        {"weights": "w.safetensors"},
    ],
    ids="-".join,
)
def test_the_client_refuses_a_plan_that_differs_and_names_the_setting(
    places: list[Place], changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    lie, weights = plan(**changes), first_weights(plan())
    monkeypatch.setattr(Place, "sealed", lambda *_: pytest.fail("a set was opened"))
    grid = make_grid(places)
    for error in (train(grid, lie, weights), evaluate(grid, lie, weights, "val")):
        assert any(f"says {name} " in error and "this hospital accepted" in error for name in changes)
    assert {row["field"] for row in refusals(places[0])} <= set(changes) and len(refusals(places[0])) == 2


def test_a_plan_that_is_none_and_a_setting_that_is_unknown_are_refused(places: list[Place]) -> None:
    grid, weights = make_grid(places), first_weights(plan())
    config = {"server-round": 1, "best-round": 0}
    values = json.loads(plan().model_dump_json())
    for text in ("", "[1]", '{"study": "t"', json.dumps(values | {"send_key": True}), "[" * 100_000):
        reply, error = ask(grid, "train", text, weights, **config)
        assert reply is None and error
    assert {row["field"] for row in refusals(places[0])} == {"plan"}
    assert "the coordinator's message says debug 1" in train(grid, plan(), weights, debug=1)
    assert "says proximal_mu 3.0" in train(grid, plan(), weights, 1, **{"proximal-mu": 3.0})
    assert "says split train" in evaluate(grid, plan(), weights, "train")


@pytest.mark.parametrize("round_", [0, -1, 3, 10**6])
def test_rounds_outside_the_accepted_ones_are_refused(places: list[Place], round_: int) -> None:
    grid, weights = make_grid(places), first_weights(plan())
    assert "says server-round" in train(grid, plan(), weights, round_)
    assert "says best-round" in train(grid, plan(), weights, 1, **{"best-round": 1})
    assert "says best-round" in train(grid, plan(), weights, 2, **{"best-round": -1})
    if round_:
        assert "says server-round" in evaluate(grid, plan(), weights, "val", **{"server-round": round_})


@pytest.mark.parametrize("wire", ["float32", "bfloat16"])
def test_what_is_no_weights_of_the_plan_is_refused_and_not_counted(tmp_path: Path, wire: str) -> None:
    """NumPy casts another type in silence, and a NaN makes all that is trained from it one."""
    p = plan(wire=wire)
    places = seal_hospitals(tmp_path, p)
    weights = first_weights(p)
    words = encode(weights, wire)
    damaged = np.where(np.arange(len(weights)) == 7, np.float32(np.inf), weights)
    crafted = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        crafted, {"descr": "<f4", "fortran_order": False, "shape": (2**38,)}
    )
    bad: list[Any] = [
        *(encode(np.full_like(weights, value), wire) for value in (np.nan, np.inf, -np.inf)),
        encode(damaged, wire),
        *(words.astype(kind) for kind in (np.float64, np.float16, np.int32, np.complex64, ">f4", bool)),
        *(words.reshape(1, -1), np.array(words[0])),
        encode(weights, "bfloat16" if wire == "float32" else "float32"),
        *(Array("float32", (4,), kind, data) for kind, data in {"numpy.ndarray": b"x", "y": b""}.items()),
        Array("float32", (2**38,), "numpy.ndarray", crafted.getvalue()),
    ]
    for array in bad:
        for error in (
            train(make_grid(places), p, array),
            evaluate(make_grid(places), p, array, "test"),
        ):
            assert "the coordinator's message says arrays" in error, array
            assert "finite weights in one vector of" in error
    assert not list((places[0].private / "answers").glob("*.jsonl"))
    for array in (words[:-1], np.append(words, words[:1])):
        assert (
            "arrays" in train(make_grid(places), p, array)
            and "as the plan's model has" in refusals(places[0])[-1]["accepted"]
        )
    assert train(make_grid(places), p, words) == ""


def test_a_hospital_answers_as_often_as_it_accepted_and_not_more(places: list[Place]) -> None:
    p = plan()
    weights = first_weights(p)
    other = [weights + np.float32(i / 1000) for i in range(1, 9)]
    # Every message comes from a fresh process: what was answered is on disk.
    assert evaluate(make_grid(places), p, weights, "test") == ""
    assert evaluate(make_grid(places), p, weights, "test") == ""  # resent word for word: nothing new
    error = evaluate(make_grid(places), p, other[0], "test")
    assert "says test_reads 2; this hospital accepted test_reads 1" in error
    assert "accepted test_reads 1" in evaluate(make_grid(places), p, weights, "test", **{"server-round": 2})
    # Another plan that only the coordinator's work depends on does not give a second reading.
    assert "accepted test_reads 1" in evaluate(make_grid(places), plan(quorum=1), other[0], "test")
    for kind, limit in (("evaluations", 4), ("trainings", 4)):
        for i in range(6):
            grid = make_grid(places)
            error = (
                evaluate(grid, p, other[i], "val") if kind == "evaluations" else train(grid, p, other[i])
            )
            assert (f"accepted {kind} {limit}" in error) == (i >= limit), (kind, i, error)
    # Accepting the same plan again does not start the count anew; a higher limit of the hospital's own goes on.
    accept(places, p)
    assert "accepted test_reads 1" in evaluate(make_grid(places), p, other[0], "test")
    save_policy(places[0], read_policy(places[0]).model_copy(update={"test_reads": 2}))
    assert evaluate(make_grid(places), p, other[0], "test") == ""
    assert "accepted test_reads 2" in evaluate(make_grid(places), p, other[1], "test")


def test_a_run_that_is_repeated_or_goes_on_after_a_kill_is_not_counted_twice(
    places: list[Place], tmp_path: Path
) -> None:
    p = plan(stem="private", study="resumed")
    for i in range(3):
        run_study(tmp_path / f"run-{i}", places, p)
        for place in places:
            [path] = (place.private / "answers").glob("resumed-*.jsonl")
            splits = [json.loads(line)["split"] for line in path.read_text().splitlines()]
            assert sorted(splits) == ["test", "train", "train", "val", "val"]
    # Other weights are a new request.
    weights = first_weights(p)
    assert train(make_grid(places), p, weights, 2) == ""
    [path] = (places[0].private / "answers").glob("resumed-*.jsonl")
    assert len(path.read_text().splitlines()) == 6


def test_a_torn_line_of_the_count_does_not_stop_or_free_the_hospital(places: list[Place]) -> None:
    p, weights = plan(), first_weights(plan())
    assert evaluate(make_grid(places), p, weights, "test") == ""
    [path] = (places[0].private / "answers").glob("t-*.jsonl")
    path.write_text(path.read_text() + '{"time": "2026')
    assert evaluate(make_grid(places), p, weights, "test") == ""
    assert "accepted test_reads 1" in evaluate(make_grid(places), p, weights + np.float32(1), "test")


def test_a_line_of_the_count_that_was_cut_off_frees_no_answer(places: list[Place]) -> None:
    p, weights = plan(), first_weights(plan())
    assert evaluate(make_grid(places), p, weights, "test") == ""
    [path] = (places[0].private / "answers").glob("t-*.jsonl")
    path.write_text("")
    assert "accepted test_reads 1" in evaluate(make_grid(places), p, weights + np.float32(1), "test")
    path.unlink()
    assert "accepted test_reads 1" in evaluate(make_grid(places), p, weights + np.float32(1), "test")
    path.with_suffix(".count").write_text("{")
    assert "count of answers" in evaluate(make_grid(places), p, weights + np.float32(1), "test")
    # An earlier version kept no count.
    path.with_suffix(".count").unlink()
    assert evaluate(make_grid(places), p, weights + np.float32(1), "test") == ""


def test_lines_of_the_count_that_were_cut_off_stay_counted_after_the_next_answer(
    places: list[Place],
) -> None:
    p = plan()
    other = [first_weights(p) + np.float32(i / 1000) for i in range(5)]
    for weights in other[:2]:
        assert evaluate(make_grid(places), p, weights, "val") == ""
    [path] = (places[0].private / "answers").glob("t-*.jsonl")
    path.write_text("")
    for weights in other[2:4]:
        assert evaluate(make_grid(places), p, weights, "val") == ""
    assert "accepted evaluations 4" in evaluate(make_grid(places), p, other[4], "val")


def test_a_damaged_line_of_the_count_frees_no_answer(places: list[Place]) -> None:
    p, weights = plan(), first_weights(plan())
    assert evaluate(make_grid(places), p, weights, "test") == ""
    [path] = (places[0].private / "answers").glob("t-*.jsonl")
    for damaged in (path.read_text().replace('"split"', '"spl\x00t"'), path.read_text()[2:], "[]\n", "\n"):
        path.write_text(damaged)
        assert "accepted test_reads 1" in evaluate(make_grid(places), p, weights + np.float32(1), "test")


def test_a_set_that_was_sealed_anew_with_other_settings_is_refused(
    places: list[Place], tmp_path: Path
) -> None:
    elsewhere = seal_hospitals(tmp_path / "other", plan(scheme="value_shuffle"))
    shutil.rmtree(places[0].folder / "sealed")
    shutil.copytree(elsewhere[0].folder / "sealed", places[0].folder / "sealed")
    grid, weights = make_grid(places), first_weights(plan())
    assert (
        "this hospital's policy says scheme block_pixel_shuffle; the sealed set train has scheme value_"
        in (train(grid, plan(), weights))
    )
    with pytest.raises(CipherwardError, match="was sealed with scheme value_shuffle"):
        accept([places[0]], plan())


def test_neither_images_nor_weights_of_a_message_are_opened(
    places: list[Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    lie = plan(source="folder", images="/etc", counts=(99, 99, 99))
    opened: list[str] = []
    monkeypatch.setattr(Place, "plain", lambda self, split: opened.append(split))
    assert train(make_grid(places), lie, first_weights(plan())) == "" and not opened
    # The weights of a message are a name; the file is the one that the hospital recorded.
    for path in ("/proc/self/environ", "w.safetensors"):
        lie = plan(weights=path)
        assert "says weights" in train(make_grid(places), lie, first_weights(plan()))
    policy = read_policy(places[0]).model_copy(update={"weights": "w", "weights_file": "/own/w"})
    assert policy.adopt(plan(weights="/the/coordinator/s/w")).weights == "/own/w"


def ask_hello(grid: LocalGrid, **config: Any) -> tuple[Message | None, str]:
    """Ask the first hospital who it is. Return its reply, or None and the error's text."""
    [sent] = grid.push_messages(
        [Message(RecordDict({"config": ConfigRecord(config)}), FIRST_NODE, "query.hello")]
    )
    [reply] = grid.pull_messages([sent])
    return (None, str(reply.error.reason)) if reply.has_error() else (reply, "")


@pytest.mark.parametrize("stated", ["0" * 64, "", None, "prefix", 7])
def test_a_message_that_names_another_manifest_is_refused(
    places: list[Place], stated: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, weights = make_grid(places), first_weights(plan())
    if stated == "prefix":
        stated = manifest_of_node(grid)[:16]
    monkeypatch.setattr(Place, "sealed", lambda *_: pytest.fail("a set was opened"))
    hello = ask_hello(grid, **({} if stated is None else {"manifest": stated}))[1]
    for error in (
        hello,
        train(grid, plan(), weights, manifest=stated),
        evaluate(grid, plan(), weights, "val", manifest=stated),
    ):
        assert "the coordinator's message says manifest" in error and "nothing was opened or sent" in error
    assert [row["field"] for row in refusals(places[0])] == ["manifest"] * 3


def test_a_hospital_that_agreed_to_nothing_answers_nothing(places: list[Place]) -> None:
    grid, weights = make_grid(places), first_weights(plan())
    digest = manifest_of_node(grid)
    save_policy(places[0], read_policy(places[0]).model_copy(update={"manifest_sha256": ""}))
    errors = [train(grid, plan(), weights, manifest=stated) for stated in (digest, "", None)]
    for error in (*errors, ask_hello(grid, manifest=digest)[1]):
        assert "has not agreed to the study manifest yet" in error and "agree STUDY.json" in error


def test_a_question_says_nothing_but_the_manifest(places: list[Place]) -> None:
    grid = make_grid(places)
    digest = manifest_of_node(grid)
    assert (
        "says debug 1; this hospital accepted debug no such" in ask_hello(grid, manifest=digest, debug=1)[1]
    )
    reply, _ = ask_hello(grid, manifest=digest)
    assert reply is not None
    about = json.loads(reply.content["about"]["json"])
    [manifest] = (places[0].private / "studies").iterdir()
    statement = read_manifest(manifest).statements["hospital-0"]
    assert about["spec"] == spec_without_nonce(plan().describe()) and about["classes"] == list(
        statement.classes
    )
    assert about["splits"] == {
        split: {
            "rows": statement.sets.of(split).images,
            "digest": statement.sets.of(split).digest,
            "key_id": statement.key_id,
        }
        for split in SPLITS
    }
    assert (about["run"], about["node"], about["manifest"]) == (1, FIRST_NODE, digest)
    signature = str(reply.content["about"]["signature"])
    assert is_signed(statement.public, reply.content["about"]["json"], signature)
    assert not is_signed(statement.public, reply.content["about"]["json"] + " ", signature)


def test_a_set_sealed_anew_under_the_same_plan_is_not_the_stated_one(
    places: list[Place], here: Here
) -> None:
    assert here("cipherward-party", "rotate", places[0].folder, "--unprotected").returncode == 0
    grid, weights = make_grid(places), first_weights(plan())
    for error in (train(grid, plan(), weights), evaluate(grid, plan(), weights, "test")):
        assert "this hospital's statement says key_id " in error and "cipherward-party declare" in error
    assert "says key_id" in ask_hello(grid, manifest=manifest_of_node(grid))[1]
    assert {row["field"] for row in refusals(places[0])} == {"key_id"}


def test_a_hospital_whose_identity_was_lost_says_so_itself(places: list[Place]) -> None:
    grid = make_grid(places)
    digest = manifest_of_node(grid)
    identity_path(places[0]).unlink()
    assert "no identity at" in ask_hello(grid, manifest=digest)[1]
    public_identity_path(places[0]).unlink()
    ensure_identity(places[0])
    error = ask_hello(grid, manifest=digest)[1]
    assert "the identity of hospital-0 is not the one that it stated" in error


def test_a_stolen_policy_does_not_make_one_hospital_another(places: list[Place]) -> None:
    grid = make_grid(places)
    digest = manifest_of_node(grid)
    text = (places[0].folder / "party.yaml").read_text()
    (places[0].folder / "party.yaml").write_text(text.replace("party: hospital-0", "party: hospital-1"))
    assert "this hospital's statement says key_id" in ask_hello(grid, manifest=digest)[1]
    (places[0].folder / "party.yaml").write_text(text.replace("party: hospital-0", "party: north"))
    assert "agreed to has no north" in ask_hello(grid, manifest=digest)[1]


def test_the_list_of_refusals_does_not_fill_the_disk(places: list[Place]) -> None:
    path = places[0].private / guard.REFUSALS_FILE
    path.write_bytes(b"x" * ((1 << 20) + 1))
    assert train(make_grid(places), plan(stem="plain"), first_weights(plan()))
    assert path.stat().st_size == (1 << 20) + 1
