"""Two sealed hospitals of the phantom, and a federation of them in the test's process: the real apps, without Ray."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message

import parties.training.client_app
from coordinator.exchange.manifest import FILE as MANIFEST_FILE
from coordinator.exchange.manifest import StudyManifest, assemble, write_manifest
from coordinator.exchange.plan import Plan, write_plan
from coordinator.federation import server_app
from coordinator.federation.participants import Federation
from coordinator.federation.rounds import State, run_rounds
from coordinator.model.model_input import to_model_input
from coordinator.model.shares import shared_names
from coordinator.model.vit import build_model, pack
from crypto.arrays import AnyArray
from crypto.key import SecretKey
from crypto.keyfile import write_key
from parties.agent.accept import accept as accept_policy
from parties.agent.accept import propose
from parties.agent.agree import agree as agree_to
from parties.agent.declare import make_statement
from parties.agent.identity_file import ensure_identity, identity_path, public_identity_path
from parties.sealing.place import Place
from parties.sealing.seal import plan_sealing, seal
from parties.training.policy_file import read_policy
from tests.support.local_grid import LocalGrid

CLASSES = 4
SMALL = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}

#: Changes the reply of a node before the coordinator gets it.
Tamper = Callable[[int, Message], Message]


def _no_tamper(node: int, reply: Message) -> Message:
    return reply


def plan(**changes: Any) -> Plan:
    """Return a plan of two hospitals with a small model, with these changes."""
    settings: dict[str, Any] = {"study": "t", "parties": 2, "counts": (24, 8, 12), "image_size": 32}
    settings |= {"block": 8, "model_args": SMALL, "batch": 8, "rounds": 2, "warmup_steps": 0}
    settings |= {"key_scope": "party", "optimizer": "sgd", "lr": 0.05, "weight_decay": 0.01}
    return Plan.model_validate(settings | {"deadline_s": 60.0} | changes)


def stem_plan(**changes: Any) -> Plan:
    """Return such a plan with a carried stem, and with enough images to train on."""
    return plan(**{"counts": (40, 12, 16), "stem": "plain"} | changes)


@pytest.fixture(autouse=True)
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test of a file that imports this on one core. Models this small are slower on several."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


def accept(places: list[Place], p: Plan) -> None:
    """Let every hospital accept a plan, as `cipherward-party accept --yes` does."""
    for place in places:
        weights = Path(p.weights) if p.weights else None
        accept_policy(place, propose(place, p, weights), lambda rows, before: True)


def agree(places: list[Place], p: Plan) -> StudyManifest:
    """Let the hospitals of a plan accept it, state their sets, and agree to the manifest. Return the manifest."""
    accept(places, p)
    manifest = assemble(
        p, [make_statement(place, read_policy(place), ensure_identity(place)) for place in places]
    )
    for place in places:
        agree_to(place, read_policy(place), manifest, ensure_identity(place), lambda members: True)
    return manifest


def seal_hospitals(folder: Path, p: Plan) -> list[Place]:
    """Seal the images of a plan's hospitals under keys as its key scope says; let them agree, and return them."""
    places = []
    for index in range(p.parties):
        settings = {k: getattr(p, k) for k in ("source", "counts", "image_size", "channels", "seed")}
        settings |= {k: getattr(p, k) for k in ("scheme", "block", "key_scope", "scheme_options")}
        name = f"hospital-{index}"
        place = Place.from_settings(folder / name, settings | {"party": name, "share": (index, p.parties)})
        place.save()
        first = 0 if p.key_scope == "consortium" else index
        write_key(place.key_path, SecretKey(bytes(range(first, first + 32))))
        for split in ("train", "val", "test"):
            seal(place, plan_sealing(place, split))
        places.append(place)
    agree(places, p)
    return places


def make_grid(places: list[Place], tamper: Tamper = _no_tamper) -> LocalGrid:
    """Return a grid with a node for each hospital."""
    return LocalGrid(
        parties.training.client_app.app, [{"party-dir": str(p.folder)} for p in places], tamper=tamper
    )


def federate(
    places: list[Place], p: Plan, cloud: Path, tamper: Tamper = _no_tamper
) -> tuple[State, LocalGrid]:
    """Let the hospitals agree on the plan, and run the rounds only. Return the final state, and the grid."""
    cloud.mkdir(exist_ok=True)
    manifest = agree(places, p)
    grid = make_grid(places, tamper)
    model = build_model(p, CLASSES)
    start = pack(model, shared_names(model, p))
    return run_rounds(Federation(grid, p, manifest), start, cloud), grid


def run_study(folder: Path, places: list[Place], p: Plan, tamper: Tamper = _no_tamper) -> dict[str, Any]:
    """Let the hospitals agree on the plan, and run a whole federation by the server's own code in a study's folder.

    Returns:
        The content of training.json.
    """
    manifest = agree(places, p)
    (folder / "cloud").mkdir(parents=True)
    write_plan(p, folder)
    write_manifest(folder / MANIFEST_FILE, manifest)
    server_app.run_federation(make_grid(places, tamper), folder)
    training: dict[str, Any] = json.loads((folder / "cloud" / "training.json").read_text())
    return training


def prepare_study(folder: Path, p: Plan) -> list[Place]:
    """Make a study's folder that can be trained: sealed hospitals, plan, study manifest. Return the hospitals."""
    places = seal_hospitals(folder / "parties", p)
    (folder / "cloud").mkdir()
    write_plan(p, folder)
    write_manifest(folder / MANIFEST_FILE, agree(places, p))
    return places


def read_journal(cloud: Path) -> list[dict[str, Any]]:
    """Return the rows of rounds.jsonl."""
    return [json.loads(line) for line in (cloud / "rounds.jsonl").read_text().splitlines()]


def perturb(model: torch.nn.Module) -> torch.nn.Module:
    """Move every weight, so that no part of the model keeps its initial values, and return the model."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)
    return model


def compute_logits(model: torch.nn.Module, images: AnyArray) -> torch.Tensor:
    """Return the model's outputs for images [n, h, w, c]."""
    with torch.inference_mode():
        outputs: torch.Tensor = model.eval()(to_model_input(images))
    return outputs


def distance(a: torch.nn.Module, b: torch.nn.Module) -> float:
    """Return the largest difference of a weight between two models."""
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return max(float((u - v).abs().max()) for u, v in pairs)


def drop_identity(place: Place) -> None:
    """Take a hospital's identity away, both halves: the next one that is needed is another."""
    identity_path(place).unlink()
    public_identity_path(place).unlink()
