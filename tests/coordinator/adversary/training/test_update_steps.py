"""Updates as gradients: one step of SGD is exact, AdamW shows signs, and a replay gives the same update."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from coordinator.adversary.training.update_solve import EMBEDDING
from coordinator.adversary.training.update_steps import (
    CONFIRMED_DISTANCE,
    labels_to_try,
    replay_distance,
)
from coordinator.model.model_input import to_model_input
from coordinator.model.vit import build_model
from tests.support.updates import (
    CLASSES,
    LABELS,
    PICTURES,
    attack_updates,
    gradients_of,
    plan,
    trained,
    view_of,
)


@pytest.fixture(autouse=True)
def one_core() -> None:
    """Keep torch to one thread, so that runs repeat bit for bit."""
    torch.set_num_threads(1)


@pytest.mark.parametrize("changes", [{}, {"momentum": 0.0, "weight_decay": 0.0}, {"stem": "private"}])
def test_one_step_of_sgd_is_the_gradient_up_to_the_scale_of_clipping(changes: dict[str, Any]) -> None:
    p = plan(**changes)
    gradients = view_of(trained(p, PICTURES[:2], LABELS[:2])).gradients
    true = gradients_of(build_model(p, CLASSES), PICTURES[:2], LABELS[:2])
    length = np.sqrt(sum((g**2).sum() for g in true.values()))
    assert length > p.clip and gradients.steps == 1 and not gradients.signs_only
    for name, value in gradients.values.items():
        scale = p.clip / length
        assert np.abs(value - scale * true[name]).max() < 1e-5 * max(1.0, np.abs(value).max()), name
    assert (set(gradients.values) == set(true)) == (p.stem == "plain")


def test_the_first_step_of_adamw_shows_signs_and_says_so() -> None:
    p = plan(optimizer="adamw", lr=3e-3)
    gradients = view_of(trained(p, PICTURES[:1], LABELS[:1])).gradients
    true = gradients_of(build_model(p, CLASSES), PICTURES[:1], LABELS[:1])[EMBEDDING]
    large = np.abs(true) > 1e-5
    assert gradients.signs_only and large.mean() > 0.5
    assert np.abs(gradients.values[EMBEDDING] - np.sign(true))[large].max() < 0.05
    guess = attack_updates(trained(p, PICTURES[:1], LABELS[:1]))
    assert len(guess.images) == 0 and "signs of gradients alone" in guess.note


def test_the_note_names_what_a_replay_does_not_follow() -> None:
    settings: dict[str, Any] = {"optimizer": "adamw", "lr": 3e-3}
    p = plan(
        **settings,
        augment="flip_shift",
        mixup=0.2,
        class_weights="balanced",
        precision="bfloat16",
    )
    note = attack_updates(trained(p, PICTURES[:1], LABELS[:1])).note
    plain_note = attack_updates(trained(plan(**settings), PICTURES[:1], LABELS[:1])).note
    for limit in (
        "altered views",
        "mixed images",
        "how the hospital weighted its images",
        "precision bfloat16",
    ):
        assert limit in note and limit not in plain_note


@pytest.mark.parametrize(
    "changes", [{"layer_decay": 0.5}, {"stem_lr_scale": 10.0}, {"layer_decay": 0.8, "stem_lr_scale": 3.0}]
)
def test_rates_by_layer_are_public_and_taken_out(changes: dict[str, Any]) -> None:
    gradients = view_of(trained(plan(**changes), PICTURES[:2], LABELS[:2])).gradients
    at_one_rate = view_of(trained(plan(), PICTURES[:2], LABELS[:2])).gradients
    for name, value in gradients.values.items():
        largest = np.abs(at_one_rate.values[name]).max()
        assert np.abs(value - at_one_rate.values[name]).max() < 1e-4 * max(1.0, largest), name


def test_a_frozen_encoder_sends_no_gradients() -> None:
    view = view_of(trained(plan(frozen_rounds=1), PICTURES[:2], LABELS[:2]))
    assert {name.split(".")[0] for name in view.gradients.values} == {"pos_embed", "patch_embed", "head"}


def test_training_on_the_same_images_gives_the_same_update() -> None:
    variants: list[dict[str, Any]] = [
        {},
        {"optimizer": "adamw", "lr": 1e-3},
        {"local_epochs": 3},
        {"label_smoothing": 0.1},
        {"layer_decay": 0.6, "stem_lr_scale": 4.0},
        {"frozen_rounds": 2},
    ]
    for changes in variants:
        view = view_of(trained(plan(stem="learn", scheme="plain", **changes), PICTURES[:1], [2], 2))
        assert replay_distance(view, to_model_input(PICTURES[:1]), [2]) < 1e-3
        assert replay_distance(view, to_model_input(PICTURES[1:2]), [2]) > CONFIRMED_DISTANCE
        assert replay_distance(view, to_model_input(PICTURES[:1]), [1]) > CONFIRMED_DISTANCE
    assert labels_to_try(view.gradients, CLASSES) == [2]
