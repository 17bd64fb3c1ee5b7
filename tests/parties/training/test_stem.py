"""Stems carried into a key's coordinates: the same logits and steps as on plain images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from coordinator.exchange.plan import CARRIED
from coordinator.model.training import as_input
from coordinator.model.vit import build_model, in_stem, pack
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.scheme import SCHEMES, describe, load
from parties.training.stem import CARRIES, Coordinates, carry, carry_back, coordinates
from tests.support.hospitals import SMALL, busy, distance, logits
from tests.support.hospitals import one_core as one_core  # a fixture for every test here
from tests.support.hospitals import stem_plan as plan

SCHEME_OPTIONS = [
    ("block_pixel_shuffle", {}),
    ("value_shuffle", {}),
    ("value_shuffle", {"fixed_blocks": 6, "fixed_values": 20}),
    ("orthogonal", {}),
    ("plain", {}),
]
PERMUTING = [s for s in SCHEME_OPTIONS if s[0] != "orthogonal"]
MODELS = {
    "class token": {},
    "mean of tokens": {"class_token": False, "global_pool": "avg"},
    "registers": {"reg_tokens": 3},
    "class token without a place": {"no_embed_class": True},
    "no positions": {"pos_embed": "none"},
}


def pictures(channels: int, n: int = 12) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 32, 32, channels), dtype=np.uint8)


def sealed_with(
    scheme: str, options: dict, channels: int, key: SecretKey
) -> tuple[np.ndarray, Coordinates]:
    spec = describe(scheme, (32, 32, channels), 8, "party", options)
    return load(spec).cipher(key).encrypt(pictures(channels)), coordinates(spec, key)


def test_the_plan_knows_the_schemes_that_can():
    assert set(CARRIED) == set(CARRIES) <= set(SCHEMES)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("args", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize(("scheme", "options"), SCHEME_OPTIONS)
def test_the_carried_model_reads_ciphertext_as_the_plain_one_reads_images(
    scheme, options, args, channels, key
):
    model = busy(build_model(plan(channels=channels, model_args={**SMALL, **args}), 3))
    wanted = logits(model, pictures(channels))
    sealed, where = sealed_with(scheme, options, channels, key)
    if scheme != "plain":
        assert (logits(model, sealed) - wanted).abs().max() > 1e-2
    carry(model, where)
    assert (logits(model, sealed) - wanted).abs().max() < 1e-4
    other = sealed_with(scheme, options, channels, SecretKey(bytes(range(1, 33))))[0]
    assert scheme == "plain" or (logits(model, other) - wanted).abs().max() > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
def test_a_pretrained_model_reads_sealed_mri_as_it_reads_mri(real_mri, channels, key):
    weights = real_mri.parent / "vit_tiny_patch16_224.safetensors"
    if not weights.exists():
        pytest.skip("no pretrained weights beside the real images")
    classes = sorted((real_mri / "test").iterdir())
    files = [sorted(folder.iterdir())[i] for folder in classes for i in (0, 7)]
    mode = {1: "L", 3: "RGB"}[channels]
    images = np.stack([np.asarray(Image.open(f).convert(mode)) for f in files]).reshape(
        -1, 224, 224, channels
    )
    real = {"image_size": 224, "block": 16, "model_args": {}, "weights": str(weights)}
    for scheme in CARRIED:
        p = plan(scheme=scheme, channels=channels, **real)
        model = build_model(p, 1000)
        wanted = logits(model, images)
        carry(model, coordinates(p.describe(), key))
        sealed = load(p.describe()).cipher(key).encrypt(images)
        assert (logits(model, sealed) - wanted).abs().max() < 1e-4


@pytest.mark.parametrize(("scheme", "options"), SCHEME_OPTIONS)
def test_carrying_back_undoes_carrying(scheme, options, key):
    model = busy(build_model(plan(channels=3), 3))
    before = pack(model)
    _, where = sealed_with(scheme, options, 3, key)
    carry(model, where)
    assert np.array_equal(pack(model), before) == (scheme == "plain")
    carry_back(model, where)
    assert np.abs(pack(model) - before).max() <= (1e-6 if scheme == "orthogonal" else 0)


def stepped(model, images, optimizer: str) -> dict[str, torch.Tensor]:
    """One optimiser step in float64; returns the gradients."""
    kinds = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}
    steps = kinds[optimizer](model.parameters(), 0.01, weight_decay=0.1)
    loss = torch.nn.functional.cross_entropy(
        model(as_input(images).double()), torch.arange(len(images)) % 3
    )
    loss.backward()
    steps.step()
    return {name: weight.grad for name, weight in model.named_parameters()}


def both_stepped(scheme, options, optimizer, key):
    """(plain model, carried model carried back, their gradients) after a step from the same weights."""
    images = pictures(3)
    sealed, where = sealed_with(scheme, options, 3, key)
    plain, carried = (busy(build_model(plan(channels=3), 3)).double() for _ in range(2))
    ours = stepped(plain, images, optimizer)
    carry(carried, where)
    theirs = stepped(carried, sealed, optimizer)
    carry_back(carried, where)
    return plain, carried, ours, theirs


@pytest.mark.parametrize(
    ("scheme", "options", "optimizer"),
    [(*s, "sgd") for s in SCHEME_OPTIONS] + [(*s, "adamw") for s in PERMUTING],
)
def test_a_step_on_ciphertext_is_a_step_on_plain_images(scheme, options, optimizer, key):
    plain, carried, ours, theirs = both_stepped(scheme, options, optimizer, key)
    near = 1e-6 if scheme == "orthogonal" else 1e-9
    assert distance(plain, carried) < near
    assert distance(plain, busy(build_model(plan(channels=3), 3)).double()) > 1e-4
    # What a hospital sends of the encoder is what plain federated learning sends, and inverts like it.
    for name, gradient in ours.items():
        if not in_stem(name):
            assert (gradient - theirs[name]).abs().max() < near * max(1, gradient.abs().max()), name


def test_adamw_does_not_commute_with_rotations(key):
    plain, carried, *_ = both_stepped("orthogonal", {}, "adamw", key)
    assert distance(plain, carried) > 1e-4


def test_coordinates_that_do_not_fit_are_refused(key):
    model = build_model(plan(image_size=64), 2)
    small = coordinates(describe("value_shuffle", (32, 32, 1), 8), key)
    with pytest.raises(CipherwardError, match="the model has 64 patches, the key's coordinates 16"):
        carry(model, small)
    for scheme in ("value_shuffle", "orthogonal"):
        with pytest.raises(CipherwardError, match="the model has 64 values in a patch"):
            carry(model, coordinates(describe(scheme, (32, 32, 1), 16), key))
    with pytest.raises(CipherwardError, match="unknown scheme whose stem can be carried 'pe'"):
        coordinates(describe("pe", (32, 32, 1), 8), key)
    with pytest.raises(CipherwardError, match="every image has a key of its own"):
        coordinates(describe("value_shuffle", (32, 32, 1), 8, "image"), key)
