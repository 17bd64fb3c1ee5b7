"""A federation under differential privacy: what is accepted, charged, sent, sent again, and said of it."""

from __future__ import annotations

import errno
import json
import os
import pkgutil
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from PIL import Image
from typer.testing import CliRunner

from coordinator.exchange.plan import Plan, load_plan
from coordinator.exchange.privacy import Privacy
from coordinator.model.shares import shared_names
from coordinator.model.vit import build_model, pack
from coordinator.report.training_section import training_of
from crypto import files
from crypto.arrays import AnyArray, Float32Array
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.keyfile import write_key
from parties.agent.accept import accept as accept_policy
from parties.agent.accept import explain, propose
from parties.cli.app import app as party_app
from parties.sealing.place import Place
from parties.sealing.seal import plan_sealing, seal
from parties.training import privacy_ledger
from parties.training.patients import patients_file, read_units, record_patients
from parties.training.policy_file import read_policy, save_policy
from parties.training.privacy_accounting import noise_multiplier
from parties.training.privacy_ledger import PrivacyLedger
from parties.training.private_noise import PrivateRandom
from parties.training.stem_file import read_own_stem
from tests.support.hospitals import (
    CLASSES,
    accept,
    agree,
    make_grid,
    one_core,  # noqa: F401 - a fixture for every test here
    plan,
    run_study,
    seal_hospitals,
)
from tests.support.local_grid import FIRST_NODE, LocalGrid

PRIVACY = {"epsilon": 8.0, "delta": 1e-3, "unit": "image"}


def private_plan(**changes: Any) -> Plan:
    """Return a plan of two hospitals of 12 training images, with differential privacy for each image."""
    return plan(**{"privacy": PRIVACY} | changes)


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> list[Place]:
    return seal_hospitals(tmp_path_factory.mktemp("private"), plan())


@pytest.fixture
def places(hospitals: list[Place], tmp_path: Path) -> list[Place]:
    """Return copies of the hospitals that a test may change."""
    copies = []
    for place in hospitals:
        shutil.copytree(place.folder, tmp_path / place.folder.name)
        copies.append(Place.open(tmp_path / place.folder.name))
    return copies


def first_weights(p: Plan) -> Float32Array:
    model = build_model(p, CLASSES)
    return pack(model, shared_names(model, p))


def ask_to_train(
    grid: LocalGrid, p: Plan, weights: Float32Array, round_: int = 1
) -> tuple[Message | None, str]:
    """Ask the first hospital for a round. Return its reply, or None and the error's text."""
    place = Place.open(Path(str(grid.contexts[FIRST_NODE].node_config["party-dir"])))
    named = {"plan": p.model_dump_json(), "manifest": read_policy(place).manifest_sha256}
    record = ConfigRecord({**named, "server-round": round_, "best-round": 0})
    content = RecordDict({"config": record, "arrays": ArrayRecord({"model": Array(weights)})})
    [sent] = grid.push_messages([Message(content, FIRST_NODE, "train")])
    [reply] = grid.pull_messages([sent])
    return (None, str(reply.error.reason)) if reply.has_error() else (reply, "")


def words_of(reply: Message | None) -> AnyArray:
    assert reply is not None
    words: AnyArray = reply.content["arrays"]["model"].numpy()
    return words


# ---- the plan ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"privacy": {"epsilon": 0, "delta": 1e-5}}, "epsilon 0 is no bound"),
        ({"privacy": {"epsilon": -1, "delta": 1e-5}}, "epsilon -1 is no bound"),
        ({"privacy": {"epsilon": 3}}, "epsilon needs delta"),
        ({"privacy": {"epsilon": 3, "delta": 0}}, "epsilon needs delta"),
        ({"privacy": {"epsilon": 3, "delta": 1}}, "epsilon needs delta"),
        ({"privacy": {"delta": 1e-5}}, "delta says nothing without epsilon"),
        ({"class_weights": "balanced"}, "private class counts"),
        ({"precision": "bfloat16"}, "precision bfloat16"),
        ({"compile": True}, "does not go with compile"),
        ({"train": "central"}, "no hospital adds noise"),
    ],
)
def test_a_plan_that_could_not_keep_its_bound_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CipherwardError, match=message):
        private_plan(**changes)


def test_public_class_counts_may_weigh_the_loss_and_infinite_bounds_are_none() -> None:
    assert private_plan(class_weights="balanced", privacy={**PRIVACY, "public_class_counts": True})
    for bad in (float("inf"), float("nan")):
        with pytest.raises(ValueError, match="finite"):
            private_plan(privacy={**PRIVACY, "epsilon": bad})


def test_a_block_is_set_as_a_whole_or_by_its_parts(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text("study: t\ncounts: [9, 9, 9]\nprivacy: {epsilon: 8, delta: 1.0e-4}\n")
    read = load_plan(path, {"privacy.epsilon": 3, "privacy.unit": "image"}).privacy
    assert read == Privacy(epsilon=3, delta=1e-4, unit="image")
    with pytest.raises(CipherwardError, match="unknown key"):
        load_plan(path, {"privacy.sigma": 3})


# ---- accepting -----------------------------------------------------------------------------------


@pytest.mark.long
def test_accepting_shows_the_bound_and_the_budget_and_keeps_both(places: list[Place]) -> None:
    accept(places, private_plan())
    policy = read_policy(places[0])
    assert policy.privacy == Privacy.model_validate(PRIVACY) and (
        policy.budget_epsilon,
        policy.budget_delta,
    ) == (
        8.0,
        1e-3,
    )
    table = dict(explain(policy))
    assert table["privacy"] == "epsilon 8, delta 0.001 for each image, gradients of norm 1 at most"
    assert table["privacy budget"].startswith("epsilon 8 at delta 0.001 over all studies")


@pytest.mark.long
def test_the_client_obeys_no_weaker_bound(places: list[Place]) -> None:
    agree(places, private_plan())
    weights = first_weights(plan())
    for lie in (
        plan(),
        *(private_plan(privacy={**PRIVACY, **c}) for c in ({"epsilon": 9.0}, {"max_grad_norm": 2.0})),
    ):
        reply, error = ask_to_train(make_grid(places), lie, weights)
        assert (
            reply is None
            and "says privacy " in error
            and "this hospital accepted privacy epsilon 8" in error
        )


@pytest.mark.long
def test_a_budget_outlives_a_study_and_only_the_hospital_raises_it(places: list[Place]) -> None:
    place = places[0]
    agree(places, private_plan())
    grid = make_grid([place])
    for round_ in (1, 2):
        ask_to_train(grid, private_plan(), first_weights(plan()) * round_, round_)
    other = private_plan(study="second")
    with pytest.raises(CipherwardError, match="the study second would bring this hospital to epsilon"):
        propose(place, other)
    with pytest.raises(CipherwardError, match="trains without differential privacy"):
        propose(place, plan(study="third"))
    raised = propose(place, other, budget_epsilon=30.0)
    assert (raised.budget_epsilon, raised.budget_delta) == (30.0, 1e-3)
    assert propose(place, plan(study="third"), budget_epsilon=0.0).budget_epsilon == 0.0


@pytest.mark.long
def test_a_budget_can_be_raised_within_a_study_and_keeps_the_other_limits(places: list[Place]) -> None:
    place = places[0]
    manifest = agree(places, private_plan())
    save_policy(place, read_policy(place).model_copy(update={"test_reads": 5}))
    assert accept_policy(
        place, propose(place, private_plan(), budget_epsilon=20.0), lambda rows, before: True
    )
    assert (read_policy(place).budget_epsilon, read_policy(place).test_reads) == (20.0, 5)
    assert read_policy(place).manifest_sha256 == manifest.digest


def test_without_opacus_there_is_one_clear_line(
    places: list[Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opacus", None)
    with pytest.raises(CipherwardError, match="needs Opacus, which is not installed") as caught:
        propose(places[0], private_plan(rounds=7))
    assert "pip install" in caught.value.hint


# ---- patients ------------------------------------------------------------------------------------


@pytest.mark.long
def test_the_patient_is_the_unit_only_if_the_hospital_says_who_is_who(places: list[Place]) -> None:
    place, p = places[0], private_plan(privacy={**PRIVACY, "unit": "patient"})
    with pytest.raises(CipherwardError, match="did not say which images are of one patient"):
        propose(place, p)
    assert record_patients(place, [f"patient-{i // 3}" for i in range(12)]) == 4
    assert read_units(place, place.sealed("train"), "patient").tolist() == [i // 3 for i in range(12)]
    assert "patient-" not in patients_file(place).read_text()
    record_patients(places[1], [f"patient-{i}" for i in range(12)])
    agree(places, p)
    reply, error = ask_to_train(make_grid([place]), p, first_weights(p))
    assert reply is not None, error
    [charge] = PrivacyLedger(place).charges()
    assert charge.unit == "patient"
    patients_file(place).write_text(json.dumps({"digest": "of another set", "patients": [0] * 12}))
    with pytest.raises(CipherwardError, match="is not of the present sealed set"):
        read_units(place, place.sealed("train"), "patient")


def test_the_patients_command_reads_the_hospital_s_own_table(places: list[Place], tmp_path: Path) -> None:
    place, table = places[0], tmp_path / "patients.csv"
    names = place.plain("train").names
    table.write_text("image,patient,age\n" + "".join(f"{n},p{i % 5},40\n" for i, n in enumerate(names)))
    result = CliRunner().invoke(party_app, ["patients", str(place.folder), str(table)])
    assert result.exit_code == 0 and "12 training images of 5 patients" in result.output.replace("\n", " ")
    table.write_text(f"image,patient\n{names[0]},p1\n")
    with pytest.raises(CipherwardError, match=r"does not say whose the image .* 11 of 12 are missing"):
        CliRunner().invoke(party_app, ["patients", str(place.folder), str(table)], catch_exceptions=False)
    # A file's name says whose an image is only where no other image has it.
    by_file = "".join(f"{Path(n).name},p{i % 5}\n" for i, n in enumerate(names))
    table.write_text(f"image,patient\n{by_file}")
    result = CliRunner().invoke(party_app, ["patients", str(place.folder), str(table)])
    assert result.exit_code == 0 and "12 training images of 5 patients" in result.output.replace("\n", " ")
    table.write_text(f"image,patient\n{names[0]},p1\n{names[0]},p2\n")
    with pytest.raises(CipherwardError, match="of two patients"):
        CliRunner().invoke(party_app, ["patients", str(place.folder), str(table)], catch_exceptions=False)


# ---- what a refusal tells the coordinator --------------------------------------------------------


def refused(place: Place, p: Plan, round_: int = 1) -> str:
    """Ask for a round that is refused; return the error that leaves, without the names of Flower and of the study."""
    reply, error = ask_to_train(make_grid([place]), p, first_weights(p), round_)
    assert reply is None
    return error.partition(":")[2].replace(f"round {round_} of the study {p.study}", "")


def last_refusal(place: Place) -> str:
    return (place.private / "refusals.jsonl").read_text().splitlines()[-1]


@pytest.mark.long
def test_the_number_of_patients_does_not_leave_in_a_refusal(places: list[Place]) -> None:
    place, p = places[0], private_plan(privacy={"epsilon": 8.0, "delta": 0.1, "unit": "patient"})
    record_patients(place, ["a"] * 9 + ["b"] * 3)
    record_patients(places[1], ["a"] * 12)
    agree(places, p)
    record_patients(place, [f"p{i}" for i in range(11)] + ["p10"])
    error = refused(place, p)
    assert "privacy.delta 0.1 is too large" in error
    assert not re.search(r"\d", error.replace("privacy.delta 0.1", ""))
    assert "1 / 11" in last_refusal(place)


def test_neither_a_budget_nor_what_was_spent_leaves_in_a_refusal(places: list[Place]) -> None:
    place, p = places[0], private_plan()
    agree(places, p)
    assert ask_to_train(make_grid([place]), p, first_weights(p))[0] is not None
    save_policy(place, read_policy(place).model_copy(update={"budget_epsilon": 7.25, "budget_delta": 3e-4}))
    error = refused(place, p, 2)
    assert "this hospital's own privacy budget" in error and not re.search(r"\d", error)
    assert "7.25" in last_refusal(place) and "0.0003" in last_refusal(place)
    # The plan's own bound: the same round again and again, where the hospital's budget is larger.
    save_policy(place, read_policy(place).model_copy(update={"budget_epsilon": 70.0}))
    for scale in (2, 3):
        error = ask_to_train(make_grid([place]), p, first_weights(p) * scale)[1]
    assert "would exceed the epsilon that its plan promises" in error and "bring this study" not in error
    # A ledger that cannot be believed: how many lines it has stays here, too.
    PrivacyLedger(place).path.write_text("{}\n")
    assert not re.search(r"\d", refused(place, p, 2))
    assert "privacy.jsonl" in last_refusal(place)


def test_a_budget_does_not_leave_where_a_plan_has_no_privacy_or_the_policy_is_damaged(
    places: list[Place],
) -> None:
    place, p = places[0], plan()
    agree(places, p)
    stated = {"budget_epsilon": 7.25, "budget_unit": "patient"}
    save_policy(place, read_policy(place).model_copy(update=stated))
    assert not re.search(r"\d", refused(place, p)) and "7.25" in last_refusal(place)
    digest, text = read_policy(place).manifest_sha256, place.policy_file.read_text()
    for damaged in (text.replace("7.25", "-7.25"), text.replace("budget_unit: patient", "budget_unit: ''")):
        assert damaged != text
        place.policy_file.write_text(damaged)
        config = ConfigRecord({"plan": p.model_dump_json(), "manifest": digest, "server-round": 1})
        content = RecordDict({"config": config, "arrays": ArrayRecord({"model": Array(first_weights(p))})})
        [reply] = make_grid([place]).send_and_receive([Message(content, FIRST_NODE, "train")])
        assert "budget_epsilon" in reply.error.reason and "7.25" not in reply.error.reason


# ---- releases ------------------------------------------------------------------------------------


def test_a_reply_tells_nothing_that_the_noise_does_not_cover(places: list[Place]) -> None:
    agree(places, private_plan())
    reply, error = ask_to_train(make_grid(places), private_plan(), first_weights(plan()))
    assert reply is not None, error
    [metrics] = reply.content.metric_records.values()
    assert dict(metrics) == {
        "num-examples": 12,
        "steps": 2,
    }  # no loss, no seconds, no number of drawn images


def test_a_message_that_comes_again_gets_the_stored_reply_and_costs_nothing(places: list[Place]) -> None:
    agree(places, private_plan())
    grid, weights, place = make_grid(places), first_weights(plan()), places[0]
    first = words_of(ask_to_train(grid, private_plan(), weights)[0])
    assert np.array_equal(words_of(ask_to_train(grid, private_plan(), weights)[0]), first)
    assert len(PrivacyLedger(place).charges()) == 1
    # What cannot be trained from costs nothing either.
    for bad in (weights[:-1], np.append(weights, weights[:1]), weights * np.float32(np.nan)):
        assert "arrays" in ask_to_train(grid, private_plan(), bad)[1]
    assert len(PrivacyLedger(place).charges()) == 1
    # The same round with other weights is another release.
    other = words_of(ask_to_train(grid, private_plan(), weights + 1e-3)[0])
    assert not np.array_equal(other, first) and len(PrivacyLedger(place).charges()) == 2
    # A lost reply is charged again, and the budget does not allow it.
    for path in (place.private / "released").rglob("*.npy"):
        path.unlink()
    reply, error = ask_to_train(grid, private_plan(), weights)
    assert (
        reply is None and "round 1 of the study t would exceed this hospital's own privacy budget" in error
    )
    assert "its own budget is epsilon 8" in (place.private / "refusals.jsonl").read_text()


def test_later_rounds_take_the_noise_that_was_charged_first(
    places: list[Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each message comes to a new process, and computing the noise takes it seconds."""
    agree(places, private_plan())
    grid, weights, place = make_grid(places), first_weights(plan()), places[0]
    asked = 0

    def count(*args: Any) -> float:
        nonlocal asked
        asked += 1
        return noise_multiplier(*args)

    monkeypatch.setattr("parties.training.private_training.noise_multiplier", count)
    for round_ in (1, 2):
        assert ask_to_train(grid, private_plan(), weights + round_, round_)[0] is not None
    first, second = PrivacyLedger(place).charges()
    assert asked == 1 and first.mechanism == second.mechanism
    # What another policy, rate or number of steps was charged with says nothing.
    find = PrivacyLedger(place).find_noise
    assert find(first.policy, first.sample_rate, first.steps) == first.noise_multiplier
    for other in (
        ("p" * 64, 0.25, 7),
        (first.policy, 0.25, first.steps),
        (first.policy, first.sample_rate, 7),
    ):
        assert find(*other) is None


def test_a_training_that_was_killed_goes_on_under_its_charge(
    places: list[Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    agree(places, private_plan())
    grid, weights, place = make_grid(places), first_weights(plan()), places[0]
    with monkeypatch.context() as patch:
        patch.setattr("parties.training.client_app.train_privately", _die)
        assert ask_to_train(grid, private_plan(), weights)[0] is None
    assert len(PrivacyLedger(place).charges()) == 1
    assert ask_to_train(grid, private_plan(), weights)[0] is not None
    assert len(PrivacyLedger(place).charges()) == 1


def _die(*args: object, **kwargs: object) -> None:
    raise RuntimeError("killed")


def val_loss(grid: LocalGrid, p: Plan, weights: Float32Array) -> float:
    """Return the loss on val after round 1 that the first hospital's evaluation shows the coordinator."""
    place = Place.open(Path(str(grid.contexts[FIRST_NODE].node_config["party-dir"])))
    named = {"plan": p.model_dump_json(), "manifest": read_policy(place).manifest_sha256}
    record = ConfigRecord({**named, "server-round": 1, "split": "val"})
    content = RecordDict({"config": record, "arrays": ArrayRecord({"model": Array(weights)})})
    [sent] = grid.push_messages([Message(content, FIRST_NODE, "evaluate")])
    [reply] = grid.pull_messages([sent])
    assert not reply.has_error(), reply.error.reason
    return float(reply.content["metrics"]["loss"])


#: What a training under privacy does after its last step, in order. Until the words are stored it did not happen.
STORED = [
    "parties.training.client_app.keep_provisional_stem",
    "parties.training.private_release.write_bytes",
    "parties.training.privacy_ledger.PrivacyLedger.release",
    "parties.training.provisional_stem.write_own_stem",
    "parties.training.client_app.commit_stem",
]


@pytest.mark.parametrize("is_done", [False, True])
@pytest.mark.parametrize("step", STORED)
def test_a_charge_has_one_result_wherever_a_training_is_killed(
    places: list[Place], step: str, is_done: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stem of a training is seen in evaluations: it must not be there without the reply."""
    p = private_plan(stem="private")
    agree(places, p)
    grid, weights, place = make_grid(places), first_weights(p), places[0]
    before = val_loss(grid, p, weights)
    module, _, name = step.rpartition(".")
    owner = pkgutil.resolve_name(module)
    do = getattr(owner, name)

    def killed(*args: Any) -> None:
        if is_done:
            do(*args)
        raise RuntimeError("killed")

    replies: set[bytes] = set()
    shown: list[float] = []
    for attempt in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, killed)
            assert ask_to_train(grid, p, weights)[0] is None or attempt  # what is stored is not done again
        replies |= {path.read_bytes() for path in (place.private / "released").rglob("*.npy")}
        shown.append(val_loss(grid, p, weights))
    reply = words_of(ask_to_train(grid, p, weights)[0])
    after = val_loss(grid, p, weights)
    assert after != before and set(shown) <= {before, after} and len(replies) <= 1
    is_committed = is_done and STORED.index(step) >= 3
    assert shown[0] == (after if is_committed else before)
    assert np.array_equal(words_of(ask_to_train(grid, p, weights)[0]), reply)
    assert val_loss(grid, p, weights) == after
    assert len(PrivacyLedger(place).charges()) == 1


def test_a_process_that_dies_with_the_stem_stored_and_no_words_shows_nothing(
    places: list[Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel ends it: no line of ours runs afterwards."""
    p = private_plan(stem="private")
    agree(places, p)
    grid, weights, place = make_grid(places), first_weights(p), places[0]
    before = val_loss(grid, p, weights)
    for _ in range(2):
        child = os.fork()
        if not child:
            try:
                monkeypatch.setattr("parties.training.private_release.write_bytes", _end_by_signal)
                ask_to_train(grid, p, weights)
            finally:
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        assert list(place.private.glob("stems/*/*/*.safetensors"))
        assert val_loss(grid, p, weights) == before
    assert ask_to_train(grid, p, weights)[0] is not None and val_loss(grid, p, weights) != before
    assert len(PrivacyLedger(place).charges()) == 1


def _end_by_signal(*args: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("where", ["ledger", "reply"])
def test_on_a_full_disk_training_stops_and_nothing_leaves(
    places: list[Place], where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    agree(places, private_plan())
    grid, weights = make_grid(places), first_weights(plan())
    trained: list[bool] = []

    def full(path: Path, *args: object) -> None:
        with files.disk_errors(path):
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        if where == "ledger":
            patch.setattr(privacy_ledger, "append_line", full)
            patch.setattr("parties.training.client_app.train_privately", lambda *a: trained.append(True))
        else:
            patch.setattr("parties.training.private_release.write_bytes", full)
        reply, error = ask_to_train(grid, private_plan(), weights)
    assert reply is None and "the disk is full" in error and not trained
    assert ask_to_train(grid, private_plan(), weights)[0] is not None
    assert len(PrivacyLedger(places[0]).charges()) == 1


def test_a_private_stem_is_clipped_together_with_what_is_sent(
    places: list[Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step without noise: the stem that stays and the weights that leave move by the clip together."""
    p = private_plan(stem="private", rounds=1, batch=12, lr=1.0, momentum=0.0, weight_decay=0.0)
    place, weights = places[0], first_weights(p)
    agree(places, p)
    monkeypatch.setattr(PrivateRandom, "normal", lambda self, n: np.zeros(n))
    sent = words_of(ask_to_train(make_grid([place]), p, weights)[0]) - weights
    before, after = (read_own_stem(place, p, CLASSES, round_) for round_ in (0, 1))
    stem = np.concatenate([(after[name] - before[name]).ravel() for name in before])
    length = np.hypot(np.linalg.norm(sent), np.linalg.norm(stem))
    assert np.linalg.norm(stem) > 0.05 and np.linalg.norm(sent) > 0.05
    assert length <= p.privacy.max_grad_norm * (1 + 1e-4)


@pytest.mark.parametrize(
    "changes", [{"stem": "plain"}, {"share": "head", "strategy": "fedprox"}, {"wire": "bfloat16"}]
)
def test_a_study_trains_and_its_report_names_the_promise(
    places: list[Place], tmp_path: Path, changes: dict[str, Any]
) -> None:
    p = private_plan(**changes)
    run_study(tmp_path / "study", places, p)
    section = training_of(tmp_path / "study")
    assert section is not None and section.privacy is not None
    assert (section.privacy.epsilon, section.privacy.delta, section.privacy.unit) == (8.0, 1e-3, "image")
    assert section.privacy.accountant == "PRV"
    assert any("evaluations" in text for text in section.privacy.outside)
    assert [row.train_loss for row in section.rounds] == [None, None]
    for place in places:
        assert [c.round for c in PrivacyLedger(place).charges()] == [1, 2]
    result = CliRunner().invoke(party_app, ["privacy", str(places[0].folder)])
    assert (result.exit_code == 0 and "epsilon 7.9" in result.output) or "epsilon 8 " in result.output


def test_a_second_run_of_the_same_study_differs(places: list[Place]) -> None:
    """Runs under differential privacy need no equal digests: equal ones would mean that the noise is known."""
    p = private_plan()
    agree(places, p)
    twin = places[1]
    shutil.rmtree(twin.folder)
    shutil.copytree(places[0].folder, twin.folder)
    weights = first_weights(p)
    first, second = (
        words_of(ask_to_train(make_grid([place]), p, weights)[0])
        for place in (places[0], Place.open(twin.folder))
    )
    assert not np.array_equal(first, second)


def seal_folder(folder: Path, name_of: Callable[[int], str]) -> Place:
    """Return a hospital that sealed 18 training images of two classes, with these names below their class folders."""
    for number in range(30):
        split = ("train", "train", "train", "val", "test")[number // 6]
        path = folder / "images" / split / "ab"[number % 2] / name_of(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (32, 32), np.uint8)
        Image.fromarray(pixels).save(path)
    settings = {"party": "north", "images": str(folder / "images"), "image_size": 32, "block": 8}
    place = Place.from_settings(folder / "north", settings)
    place.save()
    write_key(place.key_path, SecretKey.generate())
    seal(place, plan_sealing(place, "train"))
    return place


def test_a_table_names_images_by_their_path_where_two_have_one_file_name(tmp_path: Path) -> None:
    """Each class folder has a 0.png: a line for 0.png alone would give both to one patient."""
    place = seal_folder(tmp_path, lambda number: f"{number // 2}.png")
    names, table = place.plain("train").names, tmp_path / "patients.csv"
    table.write_text("image,patient\n" + "".join(f"{Path(n).name},p{Path(n).stem}\n" for n in names))
    words = ["patients", str(place.folder), str(table)]
    with pytest.raises(CipherwardError, match="18 of 18 are missing") as refused:
        CliRunner().invoke(party_app, words, catch_exceptions=False)
    assert "2 images have the file name" in refused.value.hint
    table.write_text("image,patient\n" + "".join(f"{n},p{n}\n" for n in names))
    result = CliRunner().invoke(party_app, words)
    assert "18 training images of 18 patients" in result.output.replace("\n", " ")


def test_patients_come_from_the_folders_of_the_images_themselves(
    places: list[Place], tmp_path: Path
) -> None:
    """A patient's folders below two classes are one patient; the phantom says nothing of patients."""
    place = seal_folder(tmp_path, lambda number: f"p{number // 6}/{number}.png")
    result = CliRunner().invoke(party_app, ["patients", str(place.folder)])
    assert result.exit_code == 0, result.output
    assert "18 training images of 3 patients" in result.output.replace("\n", " ")
    with pytest.raises(CipherwardError, match="do not say which are of one patient"):
        CliRunner().invoke(party_app, ["patients", str(places[0].folder)], catch_exceptions=False)


def test_an_image_without_a_patient_is_no_patient_of_its_own(tmp_path: Path) -> None:
    """Two images of one patient would be protected as two patients."""
    place = seal_folder(
        tmp_path, lambda number: f"{number}.png" if number % 5 == 0 else f"p{number // 6}/{number}.png"
    )
    with pytest.raises(
        CipherwardError, match=r"\d of 18 training images of north name no patient"
    ) as refused:
        CliRunner().invoke(party_app, ["patients", str(place.folder)], catch_exceptions=False)
    assert "TABLE.csv" in refused.value.hint and not patients_file(place).exists()
