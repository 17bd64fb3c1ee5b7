"""Public weights under every known naming load whole; any other file is an error that names what is wrong."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from coordinator.model.load_weights import load_weights
from coordinator.model.torchvision_fix import timm
from coordinator.model.vit import build_model, create_model
from crypto.errors import CipherwardError
from tests.support.local_training import plan

NAME = "vit_tiny_patch16_224"
SIZE = {"img_size": 32, "in_chans": 1, "num_classes": 2}
SHAPE = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
#: patch embedding 2, positions 1, class token 1, two blocks of 12, final normalisation 2
TENSORS = 30
Tensors = dict[str, torch.Tensor]


def make_encoder(seed: int = 5, **settings: object) -> torch.nn.Module:
    torch.manual_seed(seed)
    model: torch.nn.Module = timm.create_model(NAME, **{**SIZE, **SHAPE, **settings})
    for value in model.parameters():
        torch.nn.init.normal_(value)  # no tensor is one that a new model could have by itself
    return model


def write(path: Path, tensors: Tensors) -> Path:
    save_file({name: value.clone().contiguous() for name, value in tensors.items()}, str(path))
    return path


def huggingface(state: Tensors) -> Tensors:
    """Return the weights under the names of transformers' ViTForImageClassification: query, key and value apart."""
    names = {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    result: Tensors = {}
    for name, value in state.items():
        parts = name.split(".")
        if name.startswith("head."):
            result[f"classifier.{parts[-1]}"] = value
        elif "attn.qkv" in name:
            for part, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
                result[f"vit.encoder.layer.{parts[1]}.attention.attention.{part}.{parts[-1]}"] = rows
        elif name.startswith("blocks."):
            result[f"vit.encoder.layer.{parts[1]}.{names['.'.join(parts[2:-1])]}.{parts[-1]}"] = value
        elif name.startswith("norm."):
            result[f"vit.layernorm.{parts[-1]}"] = value
        else:
            new = {"cls_token": "cls_token", "pos_embed": "position_embeddings"}.get(name)
            result[f"vit.embeddings.{new or 'patch_embeddings.projection.' + parts[-1]}"] = value
    result["vit.pooler.dense.weight"] = torch.zeros(32, 32)
    return result


def dino(state: Tensors) -> Tensors:
    """Return the weights as in a full checkpoint of DINO: the teacher's are the encoder, and there are two heads."""
    student = {f"student.module.backbone.{k}": v + 1 for k, v in state.items() if "head" not in k}
    heads = {"teacher.head.mlp.0.weight": torch.ones(3, 3), "dino_loss.center": torch.ones(1, 3)}
    return student | heads | {f"teacher.backbone.{k}": v for k, v in state.items() if "head" not in k}


def mae(state: Tensors) -> Tensors:
    decoder = {"mask_token": torch.ones(1, 1, 16), "decoder_blocks.0.norm1.weight": torch.ones(16)}
    return {k: v for k, v in state.items() if "head" not in k} | decoder


def prefixed(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda state: {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize(
    ("rename", "note"),
    [
        (lambda state: state, "the head is new"),
        (huggingface, "HuggingFace names, prefix vit."),
        (dino, "prefix teacher.backbone."),
        (mae, "left out, of heads and pretraining: 2"),
        *(
            (prefixed(p), f"prefix {p}")
            for p in ("model.", "backbone.", "module.", "encoder.", "net.model.")
        ),
    ],
)
def test_every_known_naming_gives_every_tensor(
    tmp_path: Path, rename: Callable[[Tensors], Tensors], note: str
) -> None:
    state = make_encoder().state_dict()
    path = write(tmp_path / "w.safetensors", rename(state))
    lines: list[str] = []
    model = create_model(NAME, {**SIZE, **SHAPE}, str(path), lines.append)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]) is not name.startswith("head."), name
    [line] = lines
    assert f"{path}: {TENSORS} of {TENSORS} encoder tensors loaded" in line and note in line


def test_torchvision_s_names_give_the_same_features(tmp_path: Path) -> None:
    from torchvision.models import VisionTransformer as TorchvisionViT  # after torchvision_fix

    torch.manual_seed(0)
    theirs = TorchvisionViT(32, 8, 2, 2, 32, 128, num_classes=5).eval()
    path = write(tmp_path / "w.safetensors", theirs.state_dict())
    ours = create_model(NAME, {**SIZE, **SHAPE, "in_chans": 3}, str(path)).eval()
    images = torch.randn(2, 3, 32, 32)
    theirs.heads = torch.nn.Identity()
    assert torch.allclose(ours.forward_features(images)[:, 0], theirs(images), atol=1e-5)  # type: ignore[operator]  # timm has no types


def test_an_encoder_without_class_token_takes_the_rest_and_says_so(tmp_path: Path) -> None:
    state = make_encoder().state_dict()
    path = write(tmp_path / "w.safetensors", huggingface(state))
    model = build_model(
        plan(weights=str(path), model_args={**SHAPE, "class_token": False, "global_pool": "avg"}), 2
    )
    assert torch.equal(model.state_dict()["fc_norm.weight"], state["norm.weight"])
    assert torch.equal(model.state_dict()["pos_embed"], state["pos_embed"][:, 1:])
    notes = load_weights(model, NAME, path).notes
    assert "norm taken as fc_norm" in notes and "class token left out, since the model has none" in notes


def test_other_grids_and_channels_are_adapted_and_the_line_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "w.safetensors", make_encoder(img_size=64, in_chans=3).state_dict())
    lines: list[str] = []
    create_model(NAME, {**SIZE, **SHAPE}, str(path), lines.append)
    assert "position embeddings interpolated from 65 to 17 positions" in lines[0]
    assert "first filters fitted from 3 channels to 1" in lines[0]


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        ({}, {"blocks.1.norm2.weight": None}, "29 of 30 encoder tensors fit vit_tiny_patch16_224: blocks.1.norm2"),
        ({}, {"blocks.1.extra": torch.ones(2)}, "blocks.1.extra is no tensor of the model"),
        ({"embed_dim": 48}, {}, "cls_token is 1×1×48, and the model needs 1×1×32"),
        ({"depth": 3}, {}, "blocks.2.attn.proj.bias is no tensor of the model, and 11 more"),
        ({"depth": 1}, {}, "blocks.1.norm1.weight is missing, and 11 more"),
        ({"in_chans": 2}, {}, "is for images of 2 channels, and these have 1"),
        ({}, {"norm.bias": torch.full((32,), float("nan"))}, "norm.bias holds 32 values that are NaN or infinite"),
        ({}, {"norm.bias": torch.full((32,), float("inf"))}, "norm.bias holds 32 values that are NaN or infinite"),
        ({}, {"norm.bias": torch.ones(32, dtype=torch.int8)}, "norm.bias is of type int8"),
        ({}, {"blocks.0.mlp.fc1.weight": torch.zeros(128, 32)}, "blocks.0.mlp.fc1.weight holds only zeros"),
        ({}, {"norm.bias": torch.ones(32).double() * 1e39}, "norm.bias holds values that are too large"),
        ({}, {"patch_embed.proj.weight": torch.full((32, 3, 8, 8), 2e38)}, "weight holds values that are too large"),
        ({}, {"patch_embed.proj.weight": None}, "0 encoder tensors loaded"),
        ({}, {"a.patch_embed.proj.weight": torch.ones(2)}, "holds several encoders, under the prefixes '', 'a.'"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_an_error_that_names_a_tensor(
    tmp_path: Path, settings: dict[str, int], changes: dict[str, torch.Tensor | None], message: str
) -> None:
    state = {**make_encoder(**settings).state_dict(), **changes}
    path = write(tmp_path / "w.safetensors", {k: v for k, v in state.items() if v is not None})
    with pytest.raises(CipherwardError) as error:
        create_model(NAME, {**SIZE, **SHAPE}, str(path))
    assert message in error.value.message and str(path) in error.value.message


def cut(path: Path) -> None:
    write(path, {"w": torch.ones(1000)})
    path.write_bytes(path.read_bytes()[:-500])


def no_tensors(path: Path) -> None:
    write(path, {})


def a_zip(path: Path) -> None:
    torch.save({"w": torch.ones(2)}, path)


def bad_header(path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))


def data(content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(content)

    return write


@pytest.mark.parametrize(
    ("make", "message", "hint"),
    [
        (data(b"version https://git-lfs.github.com/spec/v1\noid sha256:0"), "is a Git LFS pointer", "git lfs pull"),
        (data(b""), "is empty: 0 bytes", "fetch"),
        (data(b"<!DOCTYPE html><html><head>"), "is a web page", "log in"),
        (data(b"\xef\xbb\xbf\n<html><head>"), "is a web page", "log in"),
        (data(b'{"error": "Repository not found"}'), "is a JSON text", "fetch"),
        (data(pickle.dumps({"a": 1})), "is a pickle, which can run code", "save_file"),
        (a_zip, "is a zip archive", "save_file"),
        (cut, "is damaged: it was cut after 3,500 of 4,000 bytes of tensors", "fetch"),
        (data(struct.pack("<Q", 5000) + b'{"w": '), "is damaged: it ends within its header", "fetch"),
        (data(struct.pack("<Q", 2**63) + b'{"w": '), "is damaged: it ends within its header", "fetch"),
        (bad_header, "is damaged", "fetch"),
        (no_tensors, "holds no tensors", "fetch"),
        (data(b"hello, this is a text"), "is not a safetensors file", "fetch"),
        (data(b"\x1f\x8b\x08\x00" + bytes(40)), "is a compressed file", "decompress"),
        (os.mkfifo, "is not a regular file", "copy it into a file"),
        (Path.mkdir, "is not a regular file", "copy it into a file"),
    ],
)  # fmt: skip
def test_a_file_that_holds_no_weights_has_a_line_of_its_own(
    tmp_path: Path, make: Callable[[Path], None], message: str, hint: str
) -> None:
    path = tmp_path / "w.safetensors"
    make(path)
    with pytest.raises(CipherwardError) as error:
        build_model(plan(weights=str(path)), 2)
    assert message in error.value.message and str(path) in error.value.message and hint in error.value.hint


def test_a_network_without_public_weights_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "w.safetensors", make_encoder().state_dict())
    with pytest.raises(CipherwardError, match="no public weights for a_net"):
        load_weights(torch.nn.Sequential(torch.nn.Linear(2, 2)), "a_net", path)


def test_weights_reach_the_network_behind_an_adaptation(tmp_path: Path) -> None:
    public = timm.create_model("resnet18", in_chans=3)
    state = {k: v for k, v in public.state_dict().items() if not k.endswith("num_batches_tracked")}
    path = write(tmp_path / "w.safetensors", state)
    model = create_model("resnet18", {**SIZE, "in_chans": 3, "adapt": "pixel"}, str(path))
    assert any(torch.equal(value, state["layer4.1.conv2.weight"]) for value in model.state_dict().values())
