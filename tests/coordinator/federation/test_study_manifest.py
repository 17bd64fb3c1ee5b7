"""The server's side of the study manifest: it is required, it is the plan's, and a training stays with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coordinator.exchange.manifest import FILE, write_manifest
from coordinator.exchange.plan import Plan, write_plan
from coordinator.federation import server_app
from coordinator.federation.rounds import State, run_rounds
from crypto.errors import CipherwardError
from tests.support.fake_parties import START, federation_of, make_grid, plan
from tests.support.manifests import manifest_of


def prepare(folder: Path, p: Plan, agreed: Plan | None) -> Path:
    """Write a study's plan, and the manifest of the plan that the hospitals agreed to."""
    (folder / "cloud").mkdir()
    write_plan(p, folder)
    if agreed is not None:
        write_manifest(folder / FILE, manifest_of(agreed))
    return folder


def test_without_a_manifest_nobody_is_asked_anything(tmp_path: Path) -> None:
    grid = make_grid()
    with pytest.raises(CipherwardError, match=r"no study manifest at .*: no hospital agreed") as error:
        server_app.run_federation(grid, prepare(tmp_path, plan(), None))
    assert "cipherward-coordinator manifest" in error.value.hint and grid.sent == []


@pytest.mark.parametrize(
    "changes", [{"rounds": 9}, {"quorum": 2}, {"max_update_norm": 0.0}, {"keep_updates": 1}, {"study": "u"}]
)
def test_a_plan_that_the_hospitals_did_not_agree_to_is_refused_by_its_setting(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    grid = make_grid()
    [name] = changes
    with pytest.raises(CipherwardError, match=f"the hospitals agreed to {name} .*plan.yaml says"):
        server_app.run_federation(grid, prepare(tmp_path, plan(**changes), plan()))
    assert grid.sent == []


def test_the_same_plan_on_another_machine_is_the_same(tmp_path: Path) -> None:
    p = plan(images="/elsewhere")
    study = prepare(tmp_path, p, plan())
    assert server_app.read_study_manifest(study, p).digest == manifest_of(plan()).digest


def test_a_training_does_not_go_on_under_another_manifest(tmp_path: Path) -> None:
    run_rounds(federation_of(make_grid(), plan(rounds=1), plan()), START, tmp_path)
    checkpoint = tmp_path / "checkpoint.safetensors"
    assert State.load(checkpoint).data_digest == manifest_of(plan()).digest
    grid = make_grid()
    with pytest.raises(CipherwardError, match="were trained under another study manifest"):
        run_rounds(federation_of(grid, plan(), plan(quorum=2)), START, tmp_path)
    assert grid.sent == [] and State.load(checkpoint).round == 1
    # One of an earlier version, which does not say.
    State(1, START, START, 1, 0.5).save(checkpoint)
    with pytest.raises(CipherwardError, match="were trained under another study manifest"):
        run_rounds(federation_of(grid, plan()), START, tmp_path)
