"""A hospital's own privacy budget: whom it protects, and that no lost file gives it up."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from coordinator.exchange.plan import Plan, write_plan
from crypto.errors import CipherwardError
from parties.agent.accept import accept as accept_policy
from parties.agent.accept import explain, propose
from parties.agent.privacy_summary import summarise
from parties.sealing.place import Place
from parties.training.patients import record_patients
from parties.training.policy_file import accepted_policies, read_policy
from parties.training.privacy_ledger import Budget, Charge, PrivacyLedger
from tests.support.command_runs import Here
from tests.support.hospitals import plan, seal_hospitals

CHARGE = Charge("other", "p" * 64, "first", 1, "image", "d" * 64, 50.0, 0.2, 5)


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Return a hospital with sealed sets, which accepted a plan without privacy."""
    return seal_hospitals(tmp_path_factory.mktemp("budget"), plan())[0]


@pytest.fixture
def place(sealed: Place, tmp_path: Path) -> Place:
    """Return a copy of the hospital that accepted nothing yet. Six of its images are of one patient."""
    shutil.copytree(sealed.folder, tmp_path / "h")
    shutil.rmtree(tmp_path / "h" / "private" / "policies")
    (tmp_path / "h" / "policy.yaml").unlink()
    place = Place.open(tmp_path / "h")
    record_patients(place, ["one"] * 6 + [f"p{i}" for i in range(6)])
    return place


def private(unit: str, study: str = "s", epsilon: float = 8.0) -> Plan:
    return plan(study=study, privacy={"epsilon": epsilon, "delta": 1e-3, "unit": unit})


def accept(place: Place, p: Plan, **words: Any) -> Budget:
    """Accept a plan, and return the hospital's budget."""
    accept_policy(place, propose(place, p, **words), lambda rows, before: True)
    return read_policy(place).budget


@pytest.mark.long
def test_a_budget_for_patients_is_not_spent_on_images(place: Place) -> None:
    assert accept(place, private("patient")) == Budget(8.0, 1e-3, "patient")
    table = dict(explain(read_policy(place)))
    assert table["privacy budget"].endswith("over all studies of this hospital, for each patient")
    assert "budget: epsilon 8 at delta 0.001 for each patient" in summarise(place).lines
    before = place.policy_file.read_bytes()
    for words in ({}, {"budget_epsilon": 100.0}):  # a larger epsilon alone makes it no budget for images
        with pytest.raises(
            CipherwardError, match=r"is for each patient, and the plan t2 protects single"
        ) as e:
            accept(place, private("image", "t2"), **words)
        assert "--privacy-unit image" in e.value.hint
    assert place.policy_file.read_bytes() == before
    stated = accept(place, private("image", "t2"), budget_epsilon=20.0, budget_unit="image")
    assert stated == Budget(20.0, 1e-3, "image")


@pytest.mark.long
def test_patients_count_in_a_budget_for_images(place: Place) -> None:
    assert accept(place, private("image")).unit == "image"
    assert accept(place, private("patient", "t2"), budget_epsilon=30.0).unit == "image"


@pytest.mark.long
def test_what_was_spent_on_images_bounds_no_patient(place: Place) -> None:
    ledger = PrivacyLedger(place)
    ledger.charge(CHARGE, Budget(0.0, 0.0), 0)
    with pytest.raises(CipherwardError, match="holds trainings that protect single images"):
        accept(place, private("patient"), budget_epsilon=50.0, budget_unit="patient")
    assert accept(place, private("patient"), budget_epsilon=50.0, budget_unit="image").unit == "image"
    # The ledger itself refuses, too.
    for unit in ("image", "patient"):
        charge = dataclasses.replace(CHARGE, request=unit, unit=unit)
        with pytest.raises(CipherwardError, match="holds trainings that protect single images"):
            ledger.charge(charge, Budget(50.0, 1e-3, "patient"), 0)
    assert len(ledger.charges()) == 1


def test_a_policy_that_was_edited_is_no_way_round(place: Place) -> None:
    accept(place, private("image"))
    values = yaml.safe_load(place.policy_file.read_text())
    for changes, message in (
        ({"budget_unit": "patient"}, "is for each patient"),
        ({"budget_unit": ""}, "a policy says budget_epsilon 8 and budget_unit ''"),
        ({"budget_unit": "hospital"}, "budget_unit: Input should be"),
    ):
        place.policy_file.write_text(yaml.safe_dump(values | changes))
        with pytest.raises(CipherwardError, match=message):
            read_policy(place)


def test_a_budget_of_an_earlier_version_is_taken_for_patients(place: Place) -> None:
    accept(place, private("image"))
    values = yaml.safe_load(place.policy_file.read_text())
    del values["budget_unit"]
    place.policy_file.write_text(yaml.safe_dump(values))
    with pytest.raises(CipherwardError, match="'budget_unit' is missing"):
        read_policy(place)
    with pytest.raises(CipherwardError, match="is for each patient"):
        propose(place, private("image"))
    with pytest.raises(CipherwardError, match="is for each patient"):
        propose(place, private("image"), budget_epsilon=9.0)
    assert propose(place, private("patient", "t2")).budget == Budget(8.0, 1e-3, "patient")
    assert accept(place, private("image"), budget_epsilon=20.0, budget_unit="image").unit == "image"


@pytest.mark.parametrize("traces", ["policies", "privacy.jsonl", "an unreadable policy"])
def test_a_missing_policy_does_not_give_the_budget_up(place: Place, traces: str) -> None:
    accept(place, private("image"))
    PrivacyLedger(place).charge(CHARGE, Budget(0.0, 0.0), 0)
    place.policy_file.unlink()
    policies, ledger = place.private / "policies", place.private / "privacy.jsonl"
    if traces != "privacy.jsonl":
        ledger.unlink()
        (place.private / "privacy-head.json").unlink()
    if traces != "policies":
        shutil.rmtree(policies)
    if traces == "an unreadable policy":
        policies.mkdir()
        (policies / "t-0.yaml").write_text("budget_epsilon: [")
    for p in (plan(), private("image", "second", 200.0)):
        with pytest.raises(CipherwardError, match=r"policy\.yaml, which holds it, is gone") as error:
            propose(place, p)
        assert "put that file back from a backup; or state it anew: --privacy-budget" in error.value.hint
    assert propose(place, plan(), budget_epsilon=0.0).budget == Budget(0.0, 0.0, "")
    # Of a budget that is lost nobody knows whom it protected.
    with pytest.raises(CipherwardError, match="for each patient"):
        propose(place, private("image"), budget_epsilon=20.0)
    assert accept(place, private("image"), budget_epsilon=20.0, budget_unit="image").epsilon == 20.0


def test_a_hospital_that_never_had_a_budget_is_asked_for_none(place: Place) -> None:
    accept(place, plan())
    place.policy_file.unlink()
    assert accept(place, private("image")) == Budget(8.0, 1e-3, "image")


def test_a_delta_or_a_unit_needs_an_epsilon(place: Place) -> None:
    for words in ({"budget_unit": "image"}, {"budget_unit": "patient", "budget_epsilon": 0.0}):
        with pytest.raises(CipherwardError, match="a unit bounds nothing without an epsilon"):
            propose(place, private("image"), **words)


@pytest.mark.parametrize("epsilon", [1e-9, 0.09, float("inf"), float("nan"), -1.0])
def test_a_budget_that_cannot_be_computed_is_refused_at_once(place: Place, epsilon: float) -> None:
    with pytest.raises(CipherwardError, match=r"cannot be kept: the least is 0\.1"):
        propose(place, private("image"), budget_epsilon=epsilon)


def test_a_policy_of_another_user_is_not_obeyed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    accept(place, private("image"))
    own = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: own + 1)
    with pytest.raises(CipherwardError, match=rf"belongs to another user \(uid {own}\)"):
        read_policy(place)
    assert accepted_policies(place) == []
    with pytest.raises(CipherwardError, match="budget cannot be read"):
        propose(place, private("image", "second"))
    monkeypatch.undo()
    place.policy_file.unlink()
    os.mkfifo(place.policy_file, 0o600)
    with pytest.raises(CipherwardError, match="is not a regular file"):
        read_policy(place)


def test_the_command_shows_the_unit_and_takes_it(place: Place, tmp_path: Path, here: Here) -> None:
    (tmp_path / "p").mkdir()
    words = ("accept", write_plan(private("patient"), tmp_path / "p"), place.folder, "--yes")
    done = here(
        "cipherward-party",
        *words,
        "--privacy-budget",
        40,
        "--privacy-delta",
        1e-3,
        "--privacy-unit",
        "image",
    )
    assert done.returncode == 0, done.stderr
    assert "over all studies of this hospital, for each image" in " ".join(
        done.stderr.replace("│", "").split()
    )
    assert read_policy(place).budget == Budget(40.0, 1e-3, "image")
