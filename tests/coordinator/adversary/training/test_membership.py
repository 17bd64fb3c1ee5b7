"""Membership inference: high for memorised images, chance for images never trained on, and exact figures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from coordinator.adversary.training.membership import (
    evaluate_scores,
    label_confidence,
    measure_membership,
    membership_scores,
    unpack_weights,
)
from coordinator.adversary.training.observation import Observed, Update
from coordinator.model.shares import in_stem, shared_names
from coordinator.model.training import PlainImages, train_locally
from coordinator.model.vit import build_model, pack
from tests.support.updates import CLASSES, plan

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (160, 32, 32, 1), dtype=np.uint8)
LABELS = np.arange(160) % CLASSES
MEMBERS = np.arange(160) < 40


@pytest.fixture(autouse=True)
def one_core() -> None:
    """Keep torch to one thread, so that runs repeat bit for bit."""
    torch.set_num_threads(1)


def memorise(**changes: object) -> Observed:
    """Train a model until it has memorised 40 random images with random labels."""
    settings: dict[str, object] = {
        "optimizer": "adamw",
        "lr": 2e-3,
        "clip": 1.0,
        "weight_decay": 0.0,
        "batch": 20,
    }
    p = plan(scheme="plain", rounds=1, local_epochs=40, **(settings | changes))
    model = build_model(p, CLASSES)
    names = shared_names(model, p)
    before = pack(model, names)
    train_locally(model, PlainImages(IMAGES[MEMBERS], LABELS[MEMBERS]), p, 1, "hospital-0")
    weights = {n: model.state_dict()[n].numpy().copy() for n in names}
    return Observed(p, CLASSES, weights, (Update(1, "hospital-0", before, pack(model, names), 40),))


@pytest.fixture(scope="module")
def overfitted() -> Observed:
    torch.set_num_threads(1)
    return memorise()


def test_members_of_an_overfitted_model_are_recognised(overfitted: Observed) -> None:
    result = measure_membership(overfitted, IMAGES, LABELS, MEMBERS)
    assert result.auc > 0.8 and result.auc_low > 0.6
    assert result.fpr <= 0.01
    assert (result.members, result.non_members) == (40, 120)


def test_images_never_trained_on_are_at_chance(overfitted: Observed) -> None:
    unseen = measure_membership(overfitted, IMAGES[~MEMBERS], LABELS[~MEMBERS], np.arange(120) < 60)
    assert 0.35 < unseen.auc < 0.65 and unseen.auc_low < 0.5 < unseen.auc_high


def test_an_untrained_model_shows_nothing() -> None:
    p = plan(scheme="plain")
    model = build_model(plan(seed=9), CLASSES)
    other = Observed(p, CLASSES, {n: w.numpy() for n, w in model.state_dict().items()})
    result = measure_membership(other, IMAGES, LABELS, MEMBERS)
    assert result.auc_low < 0.5 < result.auc_high
    same = Observed(p, CLASSES, {n: w.numpy() for n, w in build_model(p, CLASSES).state_dict().items()})
    assert measure_membership(same, IMAGES, LABELS, MEMBERS).auc == 0.5


def test_one_update_can_replace_the_final_weights(overfitted: Observed) -> None:
    [update] = overfitted.updates
    alone = Observed(overfitted.plan, CLASSES, unpack_weights(overfitted, update.after))
    before = unpack_weights(overfitted, update.before)
    result = membership_scores(alone, IMAGES, LABELS, before)
    assert np.array_equal(result, membership_scores(overfitted, IMAGES, LABELS))
    assert (
        np.abs(membership_scores(alone, IMAGES, LABELS, unpack_weights(overfitted, update.after))).max()
        == 0
    )


def test_under_private_candidates_go_through_the_public_stem() -> None:
    observed = memorise(stem="private", stem_frozen=True)
    assert not any(in_stem(n) for n in observed.weights)
    assert measure_membership(observed, IMAGES, LABELS, MEMBERS).auc_low > 0.5


def test_confidence_is_the_logit_of_the_labels_probability() -> None:
    model = build_model(plan(), CLASSES)
    with torch.no_grad():
        bias: torch.Tensor = model.get_parameter("head.bias")
        bias += torch.tensor([0.0, 30.0, -30.0])
    result = label_confidence(model, IMAGES[:6], np.array([0, 1, 2, 0, 1, 2]))
    x = torch.from_numpy(IMAGES[:6].transpose(0, 3, 1, 2).copy()).double() / 127.5 - 1
    p = torch.softmax(model.double().eval()(x), 1)[np.arange(6), [0, 1, 2, 0, 1, 2]]
    assert np.allclose(result[[0, 2]], torch.log(p / (1 - p))[[0, 2]].detach().numpy(), atol=1e-4)
    assert result[1] > 25 and np.isfinite(result).all()  # 1 - p is 0 in float32


def test_figures_follow_their_definitions() -> None:
    is_member = np.array([1, 1, 0, 0], bool)
    assert evaluate_scores(np.array([4.0, 3.0, 2.0, 1.0]), is_member).auc == 1.0
    assert evaluate_scores(np.array([1.0, 2.0, 3.0, 4.0]), is_member).auc == 0.0
    assert evaluate_scores(np.array([4.0, 1.0, 2.0, 2.0]), is_member).auc == 0.5
    assert evaluate_scores(np.zeros(4), is_member).auc == 0.5
    # 200 non-members: one in a hundred may exceed the limit, so it is the third largest of them.
    outside = np.arange(200.0)
    result = evaluate_scores(np.r_[[196.0, 197.5, 250.0, 0.5], outside], np.arange(204) < 4)
    assert result.tpr == 0.5 and result.fpr == 0.01 and result.tpr_low < 0.5 < result.tpr_high
    assert evaluate_scores(np.r_[[5.0], np.arange(6.0)], np.arange(7) < 1).tpr == 0.0  # a tie is not a hit
    assert result.auc_low < result.auc < result.auc_high
    for is_member in (np.zeros(4, bool), np.ones(4, bool)):
        with pytest.raises(ValueError, match="both are needed"):
            evaluate_scores(np.zeros(4), is_member)
