"""A plan that names no images: the cloud has none, and trains all the same; so do a hospital's own commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from coordinator.cli import app as coordinator
from coordinator.exchange.plan import Plan
from coordinator.federation import central
from parties.cli import app as parties
from parties.training import baseline
from tests.support.paths import ROOT

SHIPPED = ROOT / "configs" / "brain_mri.yaml"


def test_the_cloud_trains_by_a_shipped_plan_without_plain_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[Plan] = []

    def train(plan: Plan, *_rest: Any) -> dict[str, Any]:
        plans.append(plan)
        return {"test": {"mean": {"accuracy": 0.5}}, "best_round": 1}

    monkeypatch.setattr(central, "train_centrally", train)
    words = ["train", str(SHIPPED), str(tmp_path), "--out", str(tmp_path / "cloud")]
    done = CliRunner().invoke(coordinator.app, words)
    assert done.exit_code == 0, done.exception
    assert plans[0].images == "" and plans[0].train == "central"


def test_a_hospital_measures_a_baseline_by_a_plan_without_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[Plan] = []

    def run(plan: Plan, *_rest: Any) -> dict[str, Any]:
        plans.append(plan)
        return {}

    monkeypatch.setattr(baseline, "run_baseline", run)
    (tmp_path / "party.yaml").write_text("party: h\n")
    words = ["baseline", str(tmp_path), "--plan", str(SHIPPED), "--out", str(tmp_path / "figures.json")]
    done = CliRunner().invoke(parties.app, words)
    assert done.exit_code == 0, done.exception
    assert plans[0].images == ""
