"""The Flower apps stay cheap to import, because Flower may start a new process for each message."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from coordinator.model.vit import create_model
from coordinator.study.processes.nursery import PRELOADED
from parties.agent import warm_process

#: Libraries that load when a model is built, trained or compared, and not before.
HEAVY = {
    "matplotlib",
    "numba",
    "opacus",
    "peft",
    "pytorchcv",
    "scipy.stats",
    "skimage",
    "sklearn",
    "timm",
    "torch._dynamo",
    "torchvision",
}


#: What one fresh process imports, in this order. What the first loads, the later ones have, too.
IMPORTS = ("parties.agent.accept", "parties.training.client_app", "coordinator.federation.server_app")


@pytest.fixture(scope="module")
def loaded() -> dict[str, set[str]]:
    """Return the modules that the process has after each of its imports."""
    lines = [f"import {name}\nprint(json.dumps(sorted(sys.modules)))" for name in IMPORTS]
    code = "\n".join(["import json, sys", *lines])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    printed = done.stdout.splitlines()[-len(IMPORTS) :]
    return {name: set(json.loads(line)) for name, line in zip(IMPORTS, printed, strict=True)}


@pytest.mark.parametrize("app", IMPORTS[1:])
def test_importing_an_app_loads_no_heavy_library(app: str, loaded: dict[str, set[str]]) -> None:
    modules = loaded[app]
    assert app in modules and "torch" in modules
    assert not HEAVY & modules


def test_the_client_app_loads_nothing_of_the_adversary_or_the_server(loaded: dict[str, set[str]]) -> None:
    modules = loaded["parties.training.client_app"]
    rooms = {".".join(m.split(".")[:2]) for m in modules if m.startswith("coordinator.")}
    assert rooms <= {"coordinator.exchange", "coordinator.model", "coordinator.report"}


def test_accepting_a_plan_loads_no_torch(loaded: dict[str, set[str]]) -> None:
    modules = loaded["parties.agent.accept"]
    assert "parties.agent.budget" in modules and "torch" not in modules


def test_parents_of_clients_preload_nothing_that_no_message_needs() -> None:
    preloaded = {name.partition(".")[0] for name in (*PRELOADED, *warm_process._PRELOAD)}
    assert preloaded.isdisjoint({"matplotlib", "pytorchcv", "skimage", "sklearn"})


def test_building_a_model_loads_timm() -> None:
    """The libraries have these names: a misspelt one would be missed in no process."""
    create_model("vit_tiny_patch16_224", {"depth": 1, "img_size": 224})
    assert {"timm", "torch._dynamo", "torchvision"} <= HEAVY & sys.modules.keys()
