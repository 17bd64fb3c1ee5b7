"""Membership: told where a model learnt its images by heart, chance where it never saw them; exact figures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from coordinator.adversary.training.membership import confidence, judge, membership, scores, weights_of
from coordinator.adversary.training.observation import Observed, Update
from coordinator.model.training import PlainImages, train_locally
from coordinator.model.vit import build_model, in_stem, pack, shared_names
from tests.support.updates import CLASSES, plan

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (160, 32, 32, 1), dtype=np.uint8)
LABELS = np.arange(160) % CLASSES
MEMBERS = np.arange(160) < 40


@pytest.fixture(autouse=True)
def one_core():
    torch.set_num_threads(1)


def learnt(**changes) -> Observed:
    """A model that learnt 40 random images with random labels by heart."""
    changes = {"optimizer": "adamw", "lr": 2e-3, "clip": 1.0, "weight_decay": 0.0, "batch": 20} | changes
    p = plan(scheme="plain", rounds=1, local_epochs=40, **changes)
    model = build_model(p, CLASSES)
    names = shared_names(model, p)
    before = pack(model, names)
    train_locally(model, PlainImages(IMAGES[MEMBERS], LABELS[MEMBERS]), p, 1, "hospital-0")
    weights = {n: model.state_dict()[n].numpy().copy() for n in names}
    return Observed(p, CLASSES, weights, (Update(1, "hospital-0", before, pack(model, names), 40),))


@pytest.fixture(scope="module")
def overfitted() -> Observed:
    torch.set_num_threads(1)
    return learnt()


def test_members_of_an_overfitted_model_are_told(overfitted):
    found = membership(overfitted, IMAGES, LABELS, MEMBERS)
    assert found.auc > 0.8 and found.auc_low > 0.6
    assert found.fpr <= 0.01
    assert (found.members, found.others) == (40, 120)


def test_images_that_it_never_saw_are_at_chance(overfitted):
    unseen = membership(overfitted, IMAGES[~MEMBERS], LABELS[~MEMBERS], np.arange(120) < 60)
    assert 0.35 < unseen.auc < 0.65 and unseen.auc_low < 0.5 < unseen.auc_high


def test_an_untrained_model_tells_nothing():
    p = plan(scheme="plain")
    model = build_model(plan(seed=9), CLASSES)
    other = Observed(p, CLASSES, {n: w.numpy() for n, w in model.state_dict().items()})
    found = membership(other, IMAGES, LABELS, MEMBERS)
    assert found.auc_low < 0.5 < found.auc_high
    same = Observed(p, CLASSES, {n: w.numpy() for n, w in build_model(p, CLASSES).state_dict().items()})
    assert membership(same, IMAGES, LABELS, MEMBERS).auc == 0.5


def test_one_hospital_s_update_stands_in_for_the_final_weights(overfitted):
    [update] = overfitted.updates
    alone = Observed(overfitted.plan, CLASSES, weights_of(overfitted, update.after))
    before = weights_of(overfitted, update.before)
    found = scores(alone, IMAGES, LABELS, before)
    assert np.array_equal(found, scores(overfitted, IMAGES, LABELS))
    assert np.abs(scores(alone, IMAGES, LABELS, weights_of(overfitted, update.after))).max() == 0


def test_under_private_it_reads_through_the_public_stem():
    seen = learnt(stem="private", stem_frozen=True)
    assert not any(in_stem(n) for n in seen.weights)
    assert membership(seen, IMAGES, LABELS, MEMBERS).auc_low > 0.5


def test_confidence_is_the_logit_of_the_label_s_probability():
    model = build_model(plan(), CLASSES)
    with torch.no_grad():
        model.head.bias += torch.tensor([0.0, 30.0, -30.0])
    found = confidence(model, IMAGES[:6], np.array([0, 1, 2, 0, 1, 2]))
    x = torch.from_numpy(IMAGES[:6].transpose(0, 3, 1, 2).copy()).double() / 127.5 - 1
    p = torch.softmax(model.double().eval()(x), 1)[np.arange(6), [0, 1, 2, 0, 1, 2]]
    assert np.allclose(found[[0, 2]], torch.log(p / (1 - p))[[0, 2]].detach().numpy(), atol=1e-4)
    assert found[1] > 25 and np.isfinite(found).all()  # 1 - p is 0 in float32


def test_figures_are_those_of_the_definitions():
    members = np.array([1, 1, 0, 0], bool)
    assert judge(np.array([4.0, 3.0, 2.0, 1.0]), members).auc == 1.0
    assert judge(np.array([1.0, 2.0, 3.0, 4.0]), members).auc == 0.0
    assert judge(np.array([4.0, 1.0, 2.0, 2.0]), members).auc == 0.5
    assert judge(np.zeros(4), members).auc == 0.5
    # 200 others: one in a hundred may exceed the bar, so it is the third largest of them.
    outside = np.arange(200.0)
    found = judge(np.r_[[196.0, 197.5, 250.0, 0.5], outside], np.arange(204) < 4)
    assert found.tpr == 0.5 and found.fpr == 0.01 and found.tpr_low < 0.5 < found.tpr_high
    assert judge(np.r_[[5.0], np.arange(6.0)], np.arange(7) < 1).tpr == 0.0  # a tie is no hit
    assert found.auc_low < found.auc < found.auc_high
    for nobody in (np.zeros(4, bool), np.ones(4, bool)):
        with pytest.raises(ValueError, match="both are needed"):
            judge(np.zeros(4), nobody)
