"""Weights from timm's hub, without a network: timm's download is replaced."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from coordinator.cli.app import app
from coordinator.model import pretrained_weights
from coordinator.model.torchvision_fix import timm
from coordinator.model.vit import build_model
from crypto.errors import CipherwardError
from tests.support.local_training import plan

NAME = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
SMALL = {"patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2, "img_size": 32}


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, bool]]]:
    """Replace the download by a small model, and yield the list of requests."""
    requests: list[tuple[str, bool]] = []
    create = timm.create_model

    def serve(name: str, pretrained: bool = False) -> Any:
        requests.append((name, pretrained))
        torch.manual_seed(3)
        return create("vit_tiny_patch16_224", num_classes=5, **SMALL)

    monkeypatch.setattr(timm, "create_model", serve)
    monkeypatch.setattr(pretrained_weights, "ENDPOINT", Path(__file__).as_uri())
    yield requests
    monkeypatch.undo()


def test_a_plan_starts_from_the_fetched_weights(
    tmp_path: Path, downloads: list[tuple[str, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "new" / "vit.safetensors"
    done = CliRunner().invoke(app, ["weights", NAME, str(file)])
    assert done.exit_code == 0 and hashlib.sha256(file.read_bytes()).hexdigest() in done.output.replace(
        "\n", ""
    )
    assert downloads == [(NAME, True)]
    monkeypatch.undo()
    model = build_model(plan(weights=str(file)), 2)
    fetched = load_file(str(file))
    assert torch.equal(model.state_dict()["blocks.0.attn.qkv.weight"], fetched["blocks.0.attn.qkv.weight"])


def test_an_existing_file_is_not_overwritten_and_nothing_is_downloaded(
    tmp_path: Path, downloads: list[tuple[str, bool]]
) -> None:
    file = tmp_path / "vit.safetensors"
    file.write_bytes(b"mine")
    with pytest.raises(CipherwardError, match="already exists"):
        pretrained_weights.fetch_weights(NAME, file)
    assert file.read_bytes() == b"mine" and downloads == []


def test_the_error_for_an_unknown_name_lists_similar_names(tmp_path: Path) -> None:
    with pytest.raises(CipherwardError, match="timm knows no model 'vit_tiny_patch16_244'") as error:
        pretrained_weights.fetch_weights("vit_tiny_patch16_244", tmp_path / "f")
    assert "vit_tiny_patch16_224" in error.value.hint
    with pytest.raises(CipherwardError, match="timm has no pretrained weights for"):
        pretrained_weights.fetch_weights("vit_tiny_patch16_224.no_such_tag", tmp_path / "f")


def test_without_a_network_the_error_is_one_line_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[int] = []
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: requests.append(1))
    with socket.socket() as closed:  # bound, but not listening
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(pretrained_weights, "ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(CipherwardError, match=r"cannot fetch .* from timm's hub: URLError: .*refused"):
            pretrained_weights.fetch_weights(NAME, tmp_path / "f")
    assert requests == [] and list(tmp_path.iterdir()) == []
