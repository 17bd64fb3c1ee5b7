"""Two sealed hospitals of the phantom, and a federation of them inside the test's process: the real apps, no Ray."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import parties.training.client_app
from coordinator.exchange.plan import Plan, write_plan
from coordinator.federation import server_app
from coordinator.federation.rounds import Federation, State, run_rounds
from coordinator.model.training import as_input
from coordinator.model.vit import build_model, pack, shared_names
from crypto.key import SecretKey
from crypto.keyfile import write_key
from parties.sealing.place import Place
from parties.sealing.seal import seal, sealing
from tests.support.local_grid import LocalGrid

CLASSES = 4
SMALL = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}


def plan(**changes) -> Plan:
    settings = {"study": "t", "parties": 2, "counts": (24, 8, 12), "image_size": 32, "block": 8}
    settings |= {"model_args": SMALL, "batch": 8, "rounds": 2, "warmup_steps": 0, "key_scope": "party"}
    settings |= {"optimizer": "sgd", "lr": 0.05, "weight_decay": 0.01, "deadline_s": 60.0}
    return Plan.model_validate(settings | changes)


def stem_plan(**changes) -> Plan:
    """A plan of the same whose stem is carried, with images enough to train on."""
    return plan(**{"counts": (40, 12, 16), "stem": "plain"} | changes)


@pytest.fixture(autouse=True)
def one_core(monkeypatch):
    """Models this small are slower on several cores than on one. A test file that imports this runs so."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


def hospitals(folder: Path, p: Plan) -> list[Place]:
    """The places of a plan's hospitals, sealed, each under its own key."""
    places = []
    for index in range(p.parties):
        settings = {k: getattr(p, k) for k in ("source", "counts", "image_size", "channels", "seed")}
        settings |= {k: getattr(p, k) for k in ("scheme", "block", "key_scope", "scheme_options")}
        name = f"hospital-{index}"
        place = Place.of(folder / name, settings | {"party": name, "share": (index, p.parties)})
        place.keep()
        write_key(place.key_path, SecretKey(bytes(range(index, index + 32))))
        for split in ("train", "val", "test"):
            seal(place, sealing(place, split))
        places.append(place)
    return places


def grid_of(places: list[Place], tamper=lambda node, reply: reply) -> LocalGrid:
    return LocalGrid(
        parties.training.client_app.app, [{"party-dir": str(p.folder)} for p in places], tamper=tamper
    )


def federate(
    places: list[Place], p: Plan, cloud: Path, tamper=lambda node, reply: reply
) -> tuple[State, LocalGrid]:
    """(final state, the grid with all messages) of the rounds alone."""
    cloud.mkdir(exist_ok=True)
    grid = grid_of(places, tamper)
    model = build_model(p, CLASSES)
    start = pack(model, shared_names(model, p))
    return run_rounds(grid, p, Federation(grid, p), start, cloud), grid


def finished(folder: Path, places: list[Place], p: Plan, tamper=lambda node, reply: reply) -> dict:
    """What training.json holds after a whole federation, by the server's own program, in a study's folder."""
    (folder / "cloud").mkdir(parents=True)
    write_plan(p, folder)
    server_app._federate(grid_of(places, tamper), folder)
    return json.loads((folder / "cloud" / "training.json").read_text())


def journal(cloud: Path) -> list[dict]:
    return [json.loads(line) for line in (cloud / "rounds.jsonl").read_text().splitlines()]


def busy(model: torch.nn.Module) -> torch.nn.Module:
    """Every weight moved, so that no part of the model is idle at its first values."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)
    return model


def logits(model: torch.nn.Module, images: np.ndarray) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(as_input(images))


def distance(a: torch.nn.Module, b: torch.nn.Module) -> float:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return max(float((u - v).abs().max()) for u, v in pairs)
