"""Stems in a key's coordinates: the same logits and the same training steps as on plain images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from coordinator.model.model_input import to_model_input
from coordinator.model.shares import in_stem
from coordinator.model.vit import build_model, pack
from crypto.arrays import AnyArray, Images
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.scheme import SCHEMES, describe, load, stem_carriers
from parties.training.stem import COORDINATES, Coordinates, carry, carry_back, key_coordinates
from tests.support.hospitals import (
    SMALL,
    compute_logits,
    distance,
    one_core,  # noqa: F401 - a fixture for every test here
    perturb,
)
from tests.support.hospitals import stem_plan as plan

SCHEME_OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("block_pixel_shuffle", {}),
    ("value_shuffle", {}),
    ("value_shuffle", {"fixed_blocks": 6, "fixed_values": 20}),
    ("orthogonal", {}),
    ("plain", {}),
]
PERMUTING = [s for s in SCHEME_OPTIONS if s[0] != "orthogonal"]
MODELS: dict[str, dict[str, Any]] = {
    "class token": {},
    "mean of tokens": {"class_token": False, "global_pool": "avg"},
    "registers": {"reg_tokens": 3},
    "class token without a position": {"no_embed_class": True},
    "no positions": {"pos_embed": "none"},
}


class Steps(NamedTuple):
    """Two models after a step: on plain images, and on ciphertexts and then carried back."""

    plain: torch.nn.Module
    carried: torch.nn.Module
    plain_gradients: dict[str, torch.Tensor]
    carried_gradients: dict[str, torch.Tensor]


def random_images(channels: int, n: int = 12) -> Images:
    """Return random images of 32 pixels."""
    return np.random.default_rng(0).integers(0, 256, (n, 32, 32, channels), dtype=np.uint8)


def seal_with(
    scheme: str, options: dict[str, Any], channels: int, key: SecretKey
) -> tuple[AnyArray, Coordinates]:
    """Return sealed random images, and the coordinates of the key."""
    spec = describe(scheme, (32, 32, channels), 8, "party", options)
    return load(spec).cipher(key).encrypt(random_images(channels)), key_coordinates(spec, key)


def test_the_plan_knows_the_schemes_whose_stem_can_be_carried() -> None:
    assert set(stem_carriers()) == set(COORDINATES) <= set(SCHEMES)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("args", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize(("scheme", "options"), SCHEME_OPTIONS)
def test_the_carried_model_reads_ciphertext_as_the_plain_one_reads_images(
    scheme: str, options: dict[str, Any], args: dict[str, Any], channels: int, key: SecretKey
) -> None:
    model = perturb(build_model(plan(channels=channels, model_args={**SMALL, **args}), 3))
    expected = compute_logits(model, random_images(channels))
    sealed, coordinates = seal_with(scheme, options, channels, key)
    if scheme != "plain":
        assert (compute_logits(model, sealed) - expected).abs().max() > 1e-2
    carry(model, coordinates)
    assert (compute_logits(model, sealed) - expected).abs().max() < 1e-4
    other = seal_with(scheme, options, channels, SecretKey(bytes(range(1, 33))))[0]
    assert scheme == "plain" or (compute_logits(model, other) - expected).abs().max() > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
def test_a_pretrained_model_reads_sealed_mri_as_plain_mri(
    real_mri: Path, channels: int, key: SecretKey
) -> None:
    weights = real_mri.parent / "vit_tiny_patch16_224.safetensors"
    if not weights.exists():
        pytest.skip("no pretrained weights beside the real images")
    classes = sorted((real_mri / "test").iterdir())
    files = [sorted(folder.iterdir())[i] for folder in classes for i in (0, 7)]
    mode = {1: "L", 3: "RGB"}[channels]
    images = np.stack([np.asarray(Image.open(f).convert(mode)) for f in files]).reshape(
        -1, 224, 224, channels
    )
    settings: dict[str, Any] = {"image_size": 224, "block": 16, "model_args": {}, "weights": str(weights)}
    for scheme in stem_carriers():
        p = plan(scheme=scheme, channels=channels, **settings)
        model = build_model(p, 1000)
        expected = compute_logits(model, images)
        carry(model, key_coordinates(p.describe(), key))
        sealed = load(p.describe()).cipher(key).encrypt(images)
        assert (compute_logits(model, sealed) - expected).abs().max() < 1e-4


@pytest.mark.parametrize(("scheme", "options"), SCHEME_OPTIONS)
def test_carrying_back_undoes_carrying(scheme: str, options: dict[str, Any], key: SecretKey) -> None:
    model = perturb(build_model(plan(channels=3), 3))
    before = pack(model)
    _, coordinates = seal_with(scheme, options, 3, key)
    carry(model, coordinates)
    assert np.array_equal(pack(model), before) == (scheme == "plain")
    carry_back(model, coordinates)
    assert np.abs(pack(model) - before).max() <= (1e-6 if scheme == "orthogonal" else 0)


def take_step(model: torch.nn.Module, images: AnyArray, optimizer: str) -> dict[str, torch.Tensor]:
    """Take one optimizer step in float64, and return the gradients."""
    kinds: dict[str, Callable[..., torch.optim.Optimizer]]
    kinds = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}
    steps = kinds[optimizer](model.parameters(), 0.01, weight_decay=0.1)
    loss = torch.nn.functional.cross_entropy(
        model(to_model_input(images).double()), torch.arange(len(images)) % 3
    )
    loss.backward()  # type: ignore[no-untyped-call]
    steps.step()
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def step_both(scheme: str, options: dict[str, Any], optimizer: str, key: SecretKey) -> Steps:
    """Take a step on plain images and one on their ciphertexts, from the same weights."""
    images = random_images(3)
    sealed, coordinates = seal_with(scheme, options, 3, key)
    plain, carried = (perturb(build_model(plan(channels=3), 3)).double() for _ in range(2))
    plain_gradients = take_step(plain, images, optimizer)
    carry(carried, coordinates)
    carried_gradients = take_step(carried, sealed, optimizer)
    carry_back(carried, coordinates)
    return Steps(plain, carried, plain_gradients, carried_gradients)


@pytest.mark.parametrize(
    ("scheme", "options", "optimizer"),
    [(*s, "sgd") for s in SCHEME_OPTIONS] + [(*s, "adamw") for s in PERMUTING],
)
def test_a_step_on_ciphertext_is_a_step_on_plain_images(
    scheme: str, options: dict[str, Any], optimizer: str, key: SecretKey
) -> None:
    plain, carried, plain_gradients, carried_gradients = step_both(scheme, options, optimizer, key)
    tolerance = 1e-6 if scheme == "orthogonal" else 1e-9
    assert distance(plain, carried) < tolerance
    assert distance(plain, perturb(build_model(plan(channels=3), 3)).double()) > 1e-4
    # A hospital sends the encoder updates of plain federated learning, and they can be inverted like those.
    for name, gradient in plain_gradients.items():
        if not in_stem(name):
            scale = max(1.0, float(gradient.abs().max()))
            assert float((gradient - carried_gradients[name]).abs().max()) < tolerance * scale, name


def test_adamw_does_not_commute_with_rotations(key: SecretKey) -> None:
    plain, carried, *_ = step_both("orthogonal", {}, "adamw", key)
    assert distance(plain, carried) > 1e-4


def test_coordinates_that_do_not_fit_are_refused(key: SecretKey) -> None:
    model = build_model(plan(image_size=64), 2)
    small = key_coordinates(describe("value_shuffle", (32, 32, 1), 8), key)
    with pytest.raises(CipherwardError, match="the model has 64 patches, the key's coordinates 16"):
        carry(model, small)
    for scheme in ("value_shuffle", "orthogonal"):
        with pytest.raises(CipherwardError, match="the model has 64 values in a patch"):
            carry(model, key_coordinates(describe(scheme, (32, 32, 1), 16), key))
    with pytest.raises(CipherwardError, match="unknown scheme whose stem can be carried 'pe'"):
        key_coordinates(describe("pe", (32, 32, 1), 8), key)
    with pytest.raises(CipherwardError, match="every image has its own key"):
        key_coordinates(describe("value_shuffle", (32, 32, 1), 8, "image"), key)
