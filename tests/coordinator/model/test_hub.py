"""Weights from timm's hub, without a network: timm's own download is replaced."""

from __future__ import annotations

import hashlib
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from coordinator.cli.app import app
from coordinator.model import hub
from coordinator.model.torchvision_fix import timm
from coordinator.model.vit import build_model
from crypto.errors import CipherwardError
from tests.support.local_training import plan

NAME = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
SMALL = {"patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2, "img_size": 32}


@pytest.fixture
def served(monkeypatch):
    """A small model in place of the download; yields what was asked for."""
    asked, create = [], timm.create_model

    def serve(name, pretrained=False):
        asked.append((name, pretrained))
        torch.manual_seed(3)
        return create("vit_tiny_patch16_224", num_classes=5, **SMALL)

    monkeypatch.setattr(hub.timm, "create_model", serve)
    monkeypatch.setattr(hub, "ENDPOINT", Path(__file__).as_uri())
    yield asked
    monkeypatch.undo()


def test_what_is_fetched_is_what_a_plan_starts_from(tmp_path, served, monkeypatch):
    file = tmp_path / "new" / "vit.safetensors"
    done = CliRunner().invoke(app, ["weights", NAME, str(file)])
    assert done.exit_code == 0 and hashlib.sha256(file.read_bytes()).hexdigest() in done.output.replace(
        "\n", ""
    )
    assert served == [(NAME, True)]
    monkeypatch.undo()
    model = build_model(plan(weights=str(file)), 2)
    fetched = load_file(str(file))
    assert torch.equal(model.state_dict()["blocks.0.attn.qkv.weight"], fetched["blocks.0.attn.qkv.weight"])


def test_a_file_is_not_overwritten_and_nothing_is_asked(tmp_path, served):
    file = tmp_path / "vit.safetensors"
    file.write_bytes(b"mine")
    with pytest.raises(CipherwardError, match="is there already"):
        hub.fetch_weights(NAME, file)
    assert file.read_bytes() == b"mine" and served == []


def test_unknown_names_are_refused_with_near_ones(tmp_path):
    with pytest.raises(CipherwardError, match="timm knows no model 'vit_tiny_patch16_244'") as said:
        hub.fetch_weights("vit_tiny_patch16_244", tmp_path / "f")
    assert "vit_tiny_patch16_224" in said.value.hint
    with pytest.raises(CipherwardError, match="timm has no pretrained weights for"):
        hub.fetch_weights("vit_tiny_patch16_224.no_such_tag", tmp_path / "f")


def test_without_a_network_one_line_says_so_and_nothing_is_written(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(hub.timm, "create_model", lambda *_, **__: asked.append(1))
    with socket.socket() as closed:  # bound, and nobody listens
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(hub, "ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(CipherwardError, match=r"cannot fetch .* from timm's hub: URLError: .*refused"):
            hub.fetch_weights(NAME, tmp_path / "f")
    assert asked == [] and list(tmp_path.iterdir()) == []
