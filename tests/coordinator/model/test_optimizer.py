"""Learning rates by layer, rounds with a frozen encoder, mixed images, and positions that begin alike."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pytest
import torch

from coordinator.exchange.privacy import Privacy
from coordinator.model.model_input import to_model_input
from coordinator.model.optimizer import build_optimizer, rate_scales
from coordinator.model.shares import in_stem
from coordinator.model.training import PlainImages, mix_pairs, train_locally
from coordinator.model.vit import build_model, pack
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.scheme import load
from tests.support.local_training import SMALL, plan, striped_images

DEPTH = 3
DEEP = {**SMALL, "depth": DEPTH}


def layer_of(name: str) -> int:
    """Return how many layers of a DEPTH-block ViT are above a weight's: the last norm belongs to the last block."""
    if name.startswith("blocks."):
        return DEPTH - int(name.split(".")[1])
    if in_stem(name) or name == "cls_token":
        return DEPTH + 1
    return 0 if name.startswith("head.") else 1


def test_all_weights_have_the_same_rate_unless_the_plan_says_otherwise() -> None:
    model = build_model(plan(model_args=DEEP), 2)
    assert set(rate_scales(model, plan(model_args=DEEP), 1).values()) == {1.0}
    assert len(build_optimizer(model, plan(model_args=DEEP)).param_groups) == 1


def test_each_layer_has_less_than_the_one_above_it() -> None:
    p = plan(model_args=DEEP, layer_decay=0.5, stem_lr_scale=10.0, position_lr_scale=5.0)
    scales = rate_scales(build_model(p, 2), p, 1)
    for name, scale in scales.items():
        own = 5.0 if name == "pos_embed" else 10.0 if in_stem(name) else 1.0
        assert scale == pytest.approx(0.5 ** layer_of(name) * own), name
    assert len(set(scales.values())) == DEPTH + 4  # head, blocks, class token, positions, patch embedding


def test_a_step_moves_each_weight_at_its_rate() -> None:
    changes: dict[str, Any] = {"model_args": DEEP, "optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0}
    changes |= {"batch": 48, "rounds": 1, "clip": 1e9, "lr": 1e-2}
    moves = {}
    for name, extra in (("one rate", {}), ("rates", {"layer_decay": 0.5, "stem_lr_scale": 3.0})):
        p = plan(**changes, **extra)
        model = build_model(p, 2)
        before = {n: w.detach().clone() for n, w in model.named_parameters()}
        train_locally(model, striped_images(), p, 1, "a")
        moves[name] = {n: (w.detach() - before[n]) for n, w in model.named_parameters()}
    scales = rate_scales(build_model(p, 2), p, 1)
    for name, move in moves["rates"].items():
        expected = moves["one rate"][name] * scales[name]
        assert torch.allclose(move, expected, rtol=1e-3, atol=1e-7), name


def test_a_frozen_encoder_waits_for_its_round() -> None:
    p = plan(model_args=DEEP, frozen_rounds=1)
    model = build_model(p, 2)
    for round_, encoder_moves in ((1, False), (2, True)):
        before = {n: w.detach().clone() for n, w in model.named_parameters()}
        train_locally(model, striped_images(), p, round_, "a")
        for name, weight in model.named_parameters():
            moved = not torch.equal(weight, before[name])
            waits = name == "cls_token" or name.startswith(("blocks.", "norm."))
            assert moved == (encoder_moves or not waits), (round_, name)
            assert weight.requires_grad


def test_a_network_without_layers_refuses_rates_by_layer() -> None:
    p = plan(model="resnet18_small", model_args={}, layer_decay=0.5)
    with pytest.raises(CipherwardError, match="layer_decay: this model does not say"):
        train_locally(build_model(p, 2), striped_images(8), p, 1, "a")


def test_mixtures_are_of_pairs_and_their_labels() -> None:
    images = torch.rand(6, 1, 4, 4)
    mixed, mix = mix_pairs(images, 0.4, np.random.default_rng(0))
    assert mix is not None and sorted(mix.partners) == list(range(6)) and 0 < mix.share < 1
    for i, partner in enumerate(mix.partners):
        assert torch.allclose(mixed[i], mix.share * images[i] + (1 - mix.share) * images[partner])
    same, none = mix_pairs(images, 0.0, np.random.default_rng(0))
    assert same is images and none is None


def test_a_mixture_of_ciphertexts_is_the_ciphertext_of_the_mixture() -> None:
    cipher = load(plan().describe()).cipher(SecretKey.generate())
    plain = 2 * (striped_images(2).images // 2)  # so that means are whole numbers
    halves = (plain[:1] // 2 + plain[1:] // 2).astype(np.uint8)
    sealed = cipher.encrypt(plain)
    assert np.array_equal(cipher.encrypt(halves), (sealed[:1] // 2 + sealed[1:] // 2).astype(np.uint8))


def test_mixed_training_learns_what_unmixed_training_learns() -> None:
    ends = {}
    for alpha in (0.0, 0.2):
        p = plan(mixup=alpha, rounds=6)
        model = build_model(p, 2)
        losses = [train_locally(model, striped_images(), p, r, "a")["loss"] for r in range(1, 7)]
        ends[alpha] = pack(model)
        assert losses[-1] < 0.8 * losses[0]
    assert not np.array_equal(ends[0.0], ends[0.2])


def test_blocks_with_one_position_are_read_in_any_order() -> None:
    images = striped_images(6).images
    blocks = images.reshape(6, 4, 8, 4, 8, 1).transpose(0, 1, 3, 2, 4, 5).reshape(6, 16, 8, 8, 1)
    moved = blocks[:, np.random.default_rng(0).permutation(16)].reshape(6, 4, 4, 8, 8, 1)
    shuffled = moved.transpose(0, 1, 3, 2, 4, 5).reshape(images.shape)
    apart = {}
    for positions in ("weights", "alike"):
        model = build_model(plan(positions=positions), 2).eval()
        with torch.no_grad():
            apart[positions] = (model(to_model_input(images)) - model(to_model_input(shuffled))).abs().max()
    assert apart["alike"] < 1e-5 and apart["weights"] > 1e-4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"privacy": Privacy(epsilon=1.0, delta=1e-5), "layer_decay": 0.9}, "do not go with privacy"),
        ({"privacy": Privacy(epsilon=1.0, delta=1e-5), "stem_lr_scale": 2.0}, "do not go with privacy"),
        ({"privacy": Privacy(epsilon=1.0, delta=1e-5), "frozen_rounds": 1}, "do not go with privacy"),
        ({"privacy": Privacy(epsilon=1.0, delta=1e-5), "mixup": 0.2}, "holds two images"),
        ({"share": "head", "frozen_rounds": 1}, "goes with share all"),
        ({"stem": "private", "positions": "alike"}, "goes with stem learn"),
        ({"stem_lr_scale": float("inf")}, "stem_lr_scale"),
        ({"layer_decay": 0.0}, "layer_decay"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises((CipherwardError, ValueError), match=words):
        plan(**changes)


def test_one_position_needs_positions() -> None:
    with pytest.raises(CipherwardError, match="has no position embedding"):
        build_model(plan(model="resnet18_small", model_args={}, positions="alike"), 2)


def test_the_loss_of_mixed_images_weighs_both_labels_and_classes() -> None:
    images = PlainImages(striped_images(12).images, np.array([0] * 9 + [1] * 3))
    p = plan(mixup=0.5, class_weights="balanced", batch=12, rounds=1)
    stream = [p.seed, 1, zlib.crc32(b"a")]
    order = np.random.default_rng(stream)
    order.integers(2**31)  # the seed of dropout
    rows = order.permutation(12)
    mixed, mix = mix_pairs(to_model_input(images.images[rows]), 0.5, np.random.default_rng([*stream, 2]))
    assert mix is not None
    with torch.no_grad():
        scores = torch.log_softmax(build_model(p, 2)(mixed), 1).numpy()
    expected = 0.0
    for i, partner in enumerate(mix.partners):
        for share, row in ((mix.share, rows[i]), (1 - mix.share, rows[partner])):
            label = images.labels[row]
            expected -= share * (12 / (2 * (9, 3)[label])) * scores[i, label] / 12
    assert train_locally(build_model(p, 2), images, p, 1, "a")["loss"] == pytest.approx(expected, rel=1e-4)
