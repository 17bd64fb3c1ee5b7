"""How many numbers a model would hold is known before memory is taken for it."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from coordinator.model import vit
from coordinator.model.model_size import count_parameters
from coordinator.model.query import open_model
from coordinator.model.vit import build_model, save_model
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from parties.training.stem_file import load_final_model
from tests.support.hospitals import CLASSES, plan, seal_hospitals

#: Each within what one argument may be, and nine million million parameters together.
HUGE: dict[str, Any] = {"patch_size": 8, "embed_dim": 16384, "depth": 256, "num_heads": 2, "mlp_ratio": 64}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"share": "lora", "stem": "private"},
        {"positions": "alike"},
        {"model": "resnet18_small", "model_args": {}},
        {"model": "order_free_vit", "model_args": {"patch_size": 8}},
        {"model": "swin_tiny_patch4_window7_224", "model_args": {"patch_size": 8}},
    ],
)
def test_the_count_is_that_of_the_model_that_is_built(changes: dict[str, Any]) -> None:
    p = plan(**changes)
    built = build_model(p, CLASSES)
    assert count_parameters(p, CLASSES) == sum(w.numel() for w in built.parameters())
    # Weights that a stranger names are not looked for.
    assert count_parameters(p.model_copy(update={"weights": "/nowhere"}), CLASSES) == count_parameters(
        p, CLASSES
    )


def test_counting_takes_no_memory_for_the_model() -> None:
    p = plan(model_args={**HUGE, "depth": 4})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert count_parameters(p, CLASSES) > 10**11
    # Kilobytes on Linux, bytes on macOS: far below the 400 GB of the weights in either.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**30


def _with_args(path: Path, to: Path, args: dict[str, Any]) -> Path:
    """Write a model file again whose own words say other arguments."""
    with safe_open(str(path), framework="numpy") as file:
        tensors = {name: np.asarray(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
        metadata = dict(file.metadata())
    metadata["model_args"] = json.dumps(json.loads(metadata["model_args"]) | args)
    save_file(tensors, to, metadata=metadata)
    return to


def test_a_saved_model_stands_for_no_more_than_its_file_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = plan()
    whole = tmp_path / "m.safetensors"
    save_model(build_model(p, 2), p, ["a", "b"], whole, key_ids={"h": SecretKey.generate().id})
    assert open_model(whole).model is not None
    hostile = _with_args(whole, tmp_path / "huge.safetensors", {**HUGE, "depth": 2})
    built: list[bool] = []
    create = vit.create_model

    def noted(*words: Any, **settings: Any) -> Any:
        model = create(*words, **settings)
        built.append(any(not w.is_meta for w in model.parameters()))
        return model

    monkeypatch.setattr("coordinator.model.query.create_model", noted)
    with pytest.raises(CipherwardError, match=r"describes a model of [\d,]{14,} numbers, and holds"):
        open_model(hostile)
    assert built == [False]


def test_a_plan_that_nobody_accepted_stands_for_no_more_than_the_model_file(tmp_path: Path) -> None:
    p = plan(stem="plain")
    [place, _] = seal_hospitals(tmp_path, p)
    path = tmp_path / "m.safetensors"
    save_model(build_model(p, CLASSES), p, place.sealed("test").classes, path, key_ids={})
    assert load_final_model(p, place, CLASSES, path) is not None
    hostile = plan(stem="plain", model_args={**HUGE, "depth": 2})
    with pytest.raises(CipherwardError, match="describes a model of"):
        load_final_model(hostile, place, CLASSES, path)
