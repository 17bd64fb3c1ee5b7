"""The Flower apps stay cheap to import, because Flower may start a new process for each message."""

from __future__ import annotations

import functools
import json
import subprocess
import sys

import pytest

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


@functools.cache
def loaded_modules(code: str) -> frozenset[str]:
    """Return the modules that a fresh process has after it ran code. The same code runs once."""
    code = f"import json, sys\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return frozenset(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("app", ["parties.training.client_app", "coordinator.federation.server_app"])
def test_importing_an_app_loads_no_heavy_library(app: str) -> None:
    modules = loaded_modules(f"import {app}")
    assert app in modules and "torch" in modules
    assert not HEAVY & modules


def test_the_client_app_loads_nothing_of_the_adversary_or_the_server() -> None:
    modules = loaded_modules("import parties.training.client_app")
    rooms = {".".join(m.split(".")[:2]) for m in modules if m.startswith("coordinator.")}
    assert rooms <= {"coordinator.exchange", "coordinator.model", "coordinator.report"}


def test_accepting_a_plan_loads_no_torch() -> None:
    modules = loaded_modules("import parties.agent.accept")
    assert "parties.agent.budget" in modules and "torch" not in modules


def test_building_a_model_loads_timm() -> None:
    code = "from coordinator.model.vit import create_model\n"
    code += "create_model('vit_tiny_patch16_224', {'depth': 1, 'img_size': 224})"
    assert "timm" in loaded_modules(code)
