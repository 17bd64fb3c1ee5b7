"""Sections of a small comparison, and runs of it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import table1, table1_protocol
from coordinator.federation.rounds import State

VIT: dict[str, Any] = {
    "image_size": 32,
    "block": 4,
    "model": "vit_tiny_patch16_224",
    "rounds": 3,
    "batch": 8,
    "lr": 0.01,
    "model_args": {"patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2},
    "optimizer": "sgd",
}
CONV: dict[str, Any] = {**VIT, "model": "shake_pyramidnet", "model_args": {"depth": 8, "alpha": 6}}
SECTION: dict[str, Any] = {
    "data": "pneumonia",
    "network": "vit",
    "minutes": 0.1,
    "choose": "auc",
    "plan": VIT,
}
SHORT: dict[str, Any] = {**SECTION, "plan": {**VIT, "rounds": 1}}


def run_table1(data: Path, out: Path, sections: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """Run a protocol of these sections and return what it wrote."""
    path = data / "protocol.yaml"
    path.write_text(yaml.safe_dump({"protocol": "t", "sections": sections}))
    options = {
        "protocol": path,
        "folder": data,
        "out": out,
        "json": out.parent / f"{out.name}.json",
        "hours": 1.0,
        "data": ["pneumonia"],
        "networks": ["vit", "shake_pyramidnet"],
        "minutes": 5.0,
        "seeds": 9,
        "rows": list(table1_protocol.PAIRS),
        **changes,
    }
    table1.run(argparse.Namespace(**options))
    result: dict[str, Any] = json.loads(options["json"].read_text())
    return result


def kill_after(monkeypatch: pytest.MonkeyPatch, *counts: int) -> list[int]:
    """Interrupt a run after each of these numbers of saved epochs. Returns the growing list of saved epochs."""
    saved: list[int] = []
    save = State.save

    def save_and_kill(state: State, path: Path) -> None:
        save(state, path)
        saved.append(state.round)
        if len(saved) in counts:
            raise KeyboardInterrupt

    monkeypatch.setattr(State, "save", save_and_kill)
    return saved
