"""A small PneumoniaMNIST, and runs of the comparison on it."""

from __future__ import annotations

import argparse
import json

import numpy as np
import pytest
import yaml

from benchmarks import table1, table1_protocol

VIT = {"image_size": 8, "block": 4, "model": "vit_tiny_patch16_224", "rounds": 3, "batch": 8, "lr": 0.01}


VIT |= {"model_args": {"patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}, "optimizer": "sgd"}


CONV = {**VIT, "model": "shake_pyramidnet", "model_args": {"depth": 8, "alpha": 6}}


SECTION = {"data": "pneumonia", "network": "vit", "minutes": 0.1, "choose": "auc", "plan": VIT}


@pytest.fixture
def data(tmp_path):
    """A made PneumoniaMNIST of 8×8 pixels."""
    random, held = np.random.default_rng(0), {}
    for split, n in (("train", 40), ("val", 12), ("test", 16)):
        labels = np.arange(n) % 2
        held[f"{split}_labels"] = labels[:, None]
        held[f"{split}_images"] = (random.integers(0, 150, (n, 8, 8)) + 60 * labels[:, None, None]).astype(
            np.uint8
        )
    np.savez(tmp_path / "pneumoniamnist.npz", **held)
    return tmp_path


def ran(data, out, sections, **changes):
    """What a run of a protocol writes."""
    path = data / "protocol.yaml"
    path.write_text(yaml.safe_dump({"protocol": "t", "sections": sections}))
    options = {
        "protocol": path,
        "folder": data,
        "out": out,
        "json": out.parent / f"{out.name}.json",
        "hours": 1.0,
    }
    options |= {"data": ["pneumonia"], "networks": ["vit", "shake_pyramidnet"], "minutes": 5.0, "seeds": 9}
    options |= {"rows": list(table1_protocol.PAIRS), **changes}
    table1.run(argparse.Namespace(**options))
    return json.loads(options["json"].read_text())


def kill_after(monkeypatch, *epochs):
    """Ends a run, as far as a test can, at each of these counts of epochs kept; gives the list of all kept."""
    kept, real = [], table1.State.save

    def save(state, path):
        real(state, path)
        kept.append(state.round)
        if len(kept) in epochs:
            raise KeyboardInterrupt

    monkeypatch.setattr(table1.State, "save", save)
    return kept


SHORT = {**SECTION, "plan": {**VIT, "rounds": 1}}
