"""Settings of local training: class weights, precision, compilation, and views of images before they are sealed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from coordinator.model.training import PlainImages, flip_shift, image_weights, probabilities, train_locally
from coordinator.model.vit import build_model, pack
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.scheme import load
from parties.training.views import Views
from tests.support.local_training import data, plan


def test_balanced_classes_weigh_the_same_and_images_one_on_average():
    labels = torch.tensor([0, 0, 0, 0, 0, 3, 3, 1])
    weights = image_weights(plan(class_weights="balanced"), labels)
    sums = [float(weights[labels == c].sum()) for c in (0, 1, 3)]
    assert sums == pytest.approx([8 / 3] * 3) and float(weights.mean()) == pytest.approx(1.0)
    assert torch.equal(image_weights(plan(), labels), torch.ones(8))


def test_class_weights_help_the_class_that_is_rare():
    both = data(96)
    keep = np.flatnonzero((both.labels == 0) | (np.arange(96) % 16 == 1))  # 48 against 6
    skewed, test = PlainImages(both.images[keep], both.labels[keep]), data(40, seed=1)
    found = {}
    for weights in ("none", "balanced"):
        p = plan(class_weights=weights, rounds=1, local_epochs=3)
        model = build_model(p, 2)
        train_locally(model, skewed, p, 1, "a")
        found[weights] = probabilities(model, test)[test.labels == 1, 1].mean()
    assert found["balanced"] > found["none"] + 0.1


def test_weights_of_one_leave_training_as_it_is():
    """Balanced classes of equal size: the same steps, to rounding, as without weights."""
    ends = []
    for weights in ("none", "balanced"):
        model = build_model(plan(), 2)
        train_locally(model, data(), plan(class_weights=weights), 1, "a")
        ends.append(pack(model))
    assert np.allclose(*ends, atol=1e-6)


def test_bfloat16_trains_in_half_precision_and_keeps_float32_weights():
    seen = []
    p = plan(precision="bfloat16")
    model = build_model(p, 2)
    model.head.register_forward_hook(lambda module, given, out: seen.append(out.dtype))
    train_locally(model, data(), p, 1, "a")
    assert set(seen) == {torch.bfloat16} and pack(model).dtype == np.float32
    assert {v.dtype for v in model.state_dict().values()} == {torch.float32}
    exact = build_model(plan(), 2)
    train_locally(exact, data(), plan(), 1, "a")
    assert 0 < np.abs(pack(model) - pack(exact)).max() < 0.1


def test_what_torch_compiles_is_what_trains(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(model) or model)
    model = build_model(plan(), 2)
    train_locally(model, data(), plan(), 1, "a")
    assert compiled == []
    train_locally(model, data(), plan(compile=True), 1, "a")
    assert compiled == [model]


def test_a_machine_without_a_compiler_says_so(monkeypatch):
    def fails(images):
        raise torch._dynamo.exc.TorchDynamoException("no C++ compiler\nand a long trace")

    monkeypatch.setattr(torch, "compile", lambda model: fails)
    with pytest.raises(
        CipherwardError, match=r"torch.compile does not work here: .*no C.. compiler"
    ) as said:
        train_locally(build_model(plan(), 2), data(), plan(compile=True), 1, "a")
    assert said.value.hint == "set compile to false" and "long trace" not in str(said.value)


@pytest.mark.slow
def test_a_compiled_model_trains_alike():
    ends = []
    for compiled in (False, True):
        p = plan(compile=compiled)
        model = build_model(p, 2)
        train_locally(model, data(), p, 1, "a")
        ends.append(pack(model))
    assert np.allclose(*ends, atol=1e-3) and not np.allclose(
        ends[0], pack(build_model(plan(), 2)), atol=1e-3
    )


def test_views_are_mirrored_and_moved_and_repeat_the_edge():
    image = np.arange(16 * 16, dtype=np.uint8).reshape(1, 16, 16, 1)
    images = np.repeat(image, 600, 0)
    views = flip_shift(images, np.random.default_rng(0))
    assert views.shape == images.shape and views.dtype == np.uint8 and np.array_equal(images[:1], image)
    found = set()
    for view in views[..., 0]:
        for mirrored in (False, True):
            for down in range(-2, 3):
                for right in range(-2, 3):
                    rows = np.clip(np.arange(16) - down, 0, 15)
                    columns = np.clip(np.arange(16) - right, 0, 15)
                    made = image[0, :, :, 0][rows[:, None], columns[::-1] if mirrored else columns]
                    if np.array_equal(view, made):
                        found.add((mirrored, down, right))
    assert len(found) == 50  # every mirror and move occurs, and nothing else does
    assert len(np.unique(views, axis=0)) == 50


@pytest.mark.parametrize("scheme", ["block_pixel_shuffle", "orthogonal", "value_shuffle"])
def test_views_of_sealed_images_are_sealed_views(scheme):
    class Sealed:
        """The three things that Views asks of a sealed set."""

        labels = np.arange(4)

        def rows(self, rows):
            return sealed[rows]

    cipher = load(plan(scheme=scheme).describe()).cipher(SecretKey.generate())
    plain = data(4)
    sealed = cipher.encrypt(plain.images)
    views = Views(Sealed(), cipher)
    rows = np.array([2, 0, 3])
    found = views.views(rows, np.random.default_rng(5))
    wanted = cipher.encrypt(plain.views(rows, np.random.default_rng(5)))
    assert np.array_equal(found, wanted) and not np.array_equal(found, sealed[rows])
    assert np.array_equal(views.rows(rows), sealed[rows])


def test_views_are_trained_on_in_an_order_that_they_do_not_change():
    orders = {}
    for augment in ("none", "flip_shift"):
        seen: list[np.ndarray] = []

        class Watched(PlainImages):
            def rows(self, rows, seen=seen):
                seen.append(rows)
                return super().rows(rows)

            def views(self, rows, random, seen=seen):
                seen.append(rows)
                return super().views(rows, random)

        model, both = build_model(plan(), 2), data()
        p = plan(stem="private", augment=augment)
        train_locally(model, Watched(both.images, both.labels), p, 1, "a")
        orders[augment] = np.concatenate(seen), pack(model)
    assert np.array_equal(orders["none"][0], orders["flip_shift"][0])
    assert not np.array_equal(orders["none"][1], orders["flip_shift"][1])


def test_a_plan_refuses_views_that_the_cloud_could_pair():
    for changes in ({}, {"train": "central"}, {"scheme": "le", "block": 4}):
        with pytest.raises(CipherwardError, match="augment goes with stem private or plain"):
            plan(augment="flip_shift", **changes)
    for changes in ({"stem": "private"}, {"stem": "plain"}):
        assert plan(augment="flip_shift", **changes).augment == "flip_shift"
