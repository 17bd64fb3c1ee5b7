"""What tests of a hospital's agent share: a folder without images, and a kit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from coordinator.exchange.kit import Kit
from coordinator.exchange.plan import Plan
from parties.agent.approval import approve
from parties.agent.bundle import parse_bundle
from parties.agent.enrol import enrol
from parties.sealing.place import Place
from parties.training.policy import make_policy
from parties.training.policy_file import save_policy
from tests.support.superlink import make_kit

ADDRESS = "127.0.0.1:9"


def make_place(folder: Path, name: str = "hospital-0") -> Place:
    """Return a hospital with settings and no images."""
    place = Place.from_settings(folder / name, {"party": name})
    place.save()
    return place


def plan_text(plan: Plan) -> str:
    """Return a plan as it stands in a file."""
    return yaml.safe_dump(plan.model_dump(mode="json"))


def ready_place(folder: Path, plan: Plan, bundle: bytes, name: str = "hospital-0") -> Place:
    """Return a hospital that enrolled, accepted a plan and approved a bundle; it has no images."""
    place = make_place(folder, name)
    enrol(place)
    save_policy(place, make_policy(plan, ["a", "b"], 24))
    approve(place, parse_bundle(bundle, "the stub"), 30)
    return place


def kit_for(folder: Path, plan: Plan, sha256: str, **changes: Any) -> Kit:
    """Return a kit for hospital-0, whose coordinator nobody runs."""
    path = folder / "hospital-0.kit"
    return make_kit(path, "hospital-0", plan_text(plan), sha256, ADDRESS, b"no certificate", **changes)
