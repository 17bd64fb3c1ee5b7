"""Options of local training: class weights, precision, compilation, and augmentation before images are sealed."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
import torch

from coordinator.model.augmentation import flip_shift
from coordinator.model.training import (
    PlainImages,
    image_weights,
    predict_probabilities,
    train_locally,
)
from coordinator.model.vit import build_model, pack
from crypto.arrays import AnyArray, Int64Array, Rows
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.scheme import load
from crypto.sets.dataset import SealedDataset
from parties.training.views import Views
from tests.support.local_training import plan, striped_images


def test_balanced_classes_count_the_same_and_images_one_on_average() -> None:
    labels = torch.tensor([0, 0, 0, 0, 0, 3, 3, 1])
    weights = image_weights(plan(class_weights="balanced"), labels)
    sums = [float(weights[labels == c].sum()) for c in (0, 1, 3)]
    assert sums == pytest.approx([8 / 3] * 3) and float(weights.mean()) == pytest.approx(1.0)
    assert torch.equal(image_weights(plan(), labels), torch.ones(8))


def test_class_weights_help_a_rare_class() -> None:
    both = striped_images(96)
    keep = np.flatnonzero((both.labels == 0) | (np.arange(96) % 16 == 1))  # 48 against 6
    skewed, test = PlainImages(both.images[keep], both.labels[keep]), striped_images(40, seed=1)
    probabilities = {}
    for weights in ("none", "balanced"):
        p = plan(class_weights=weights, rounds=1, local_epochs=3)
        model = build_model(p, 2)
        train_locally(model, skewed, p, 1, "a")
        probabilities[weights] = predict_probabilities(model, test)[test.labels == 1, 1].mean()
    assert probabilities["balanced"] > probabilities["none"] + 0.1


def test_balanced_weights_change_nothing_if_classes_have_equal_sizes() -> None:
    """The steps are the same up to rounding."""
    ends = []
    for weights in ("none", "balanced"):
        model = build_model(plan(), 2)
        train_locally(model, striped_images(), plan(class_weights=weights), 1, "a")
        ends.append(pack(model))
    assert np.allclose(ends[0], ends[1], atol=1e-6)


def test_bfloat16_trains_in_half_precision_and_keeps_float32_weights() -> None:
    dtypes: list[torch.dtype] = []
    p = plan(precision="bfloat16")
    model = build_model(p, 2)
    model.get_submodule("head").register_forward_hook(lambda module, inputs, out: dtypes.append(out.dtype))
    train_locally(model, striped_images(), p, 1, "a")
    assert set(dtypes) == {torch.bfloat16} and pack(model).dtype == np.float32
    assert {v.dtype for v in model.state_dict().values()} == {torch.float32}
    exact = build_model(plan(), 2)
    train_locally(exact, striped_images(), plan(), 1, "a")
    assert 0 < np.abs(pack(model) - pack(exact)).max() < 0.1


def test_training_runs_the_compiled_model(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[torch.nn.Module] = []

    def record(model: torch.nn.Module) -> torch.nn.Module:
        compiled.append(model)
        return model

    monkeypatch.setattr(torch, "compile", record)
    model = build_model(plan(), 2)
    train_locally(model, striped_images(), plan(), 1, "a")
    assert compiled == []
    train_locally(model, striped_images(), plan(compile=True), 1, "a")
    assert compiled == [model]


def test_a_machine_without_a_compiler_gives_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(images: torch.Tensor) -> torch.Tensor:
        raise torch._dynamo.exc.TorchDynamoException("no C++ compiler\nand a long trace")

    monkeypatch.setattr(torch, "compile", lambda model: fails)
    with pytest.raises(
        CipherwardError, match=r"torch.compile does not work here: .*no C.. compiler"
    ) as error:
        train_locally(build_model(plan(), 2), striped_images(), plan(compile=True), 1, "a")
    assert error.value.hint == "set compile to false" and "long trace" not in str(error.value)


@pytest.mark.slow
def test_a_compiled_model_trains_alike() -> None:
    ends = []
    for compiled in (False, True):
        p = plan(compile=compiled)
        model = build_model(p, 2)
        train_locally(model, striped_images(), p, 1, "a")
        ends.append(pack(model))
    assert np.allclose(ends[0], ends[1], atol=1e-3) and not np.allclose(
        ends[0], pack(build_model(plan(), 2)), atol=1e-3
    )


@pytest.mark.parametrize("augment", ["flip_shift", "flip_affine"])
@pytest.mark.parametrize("scheme", ["block_pixel_shuffle", "orthogonal", "value_shuffle"])
def test_views_of_sealed_images_are_sealed_views(scheme: str, augment: str) -> None:
    class FakeSealedSet:
        """The parts of a sealed set that Views uses."""

        labels = np.arange(4)

        def rows(self, rows: Rows) -> AnyArray:
            return sealed[rows]

    cipher = load(plan(scheme=scheme).describe()).cipher(SecretKey.generate())
    plain = striped_images(4)
    sealed = cipher.encrypt(plain.images)
    views = Views(cast(SealedDataset, FakeSealedSet()), cipher)
    rows = np.array([2, 0, 3])
    result = views.views(rows, augment, np.random.default_rng(5))
    expected = cipher.encrypt(plain.views(rows, augment, np.random.default_rng(5)))
    assert np.array_equal(result, expected) and not np.array_equal(result, sealed[rows])
    assert np.array_equal(views.rows(rows), sealed[rows])


@pytest.mark.parametrize("scheme", ["noisy_orthogonal", "block_projection"])
def test_views_of_images_with_noise_of_their_own_are_made_of_the_plain_images(scheme: str) -> None:
    class FakeSealedSet:
        """The parts of a sealed set that Views uses."""

        labels = np.arange(6)

        def rows(self, rows: Rows) -> AnyArray:
            return sealed[rows]

    loaded = load(plan(scheme=scheme).describe())
    cipher, plain = loaded.cipher(SecretKey(bytes(32))), striped_images(6)
    sealed = np.asarray(cipher.encrypt(plain.images))
    views = Views(cast(SealedDataset, FakeSealedSet()), cipher, loaded.has_row_noise)
    rows = np.array([4, 1, 5])
    made, again = (views.views(rows, "flip_shift", np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(made, again)  # a training can be repeated
    random = np.random.default_rng(5)
    opened = np.asarray(cipher.decrypt(sealed[4:5], 4))  # block_projection loses a part of an image
    altered = flip_shift(
        np.concatenate([opened, *(cipher.decrypt(sealed[r : r + 1], r) for r in (1, 5))]), random
    )
    first = int(random.integers(1 << 40, 1 << 60))
    assert np.array_equal(made, cipher.encrypt(altered, first))
    assert np.abs(opened.astype(int) - plain.images[4:5]).mean() < 8
    # The next view of an image has other noise.
    later = views.views(rows, "flip_shift", np.random.default_rng(6))
    assert np.abs(later - made).mean() > 1


class RecordingImages:
    """Images that record which rows were requested."""

    def __init__(self, images: PlainImages) -> None:
        self.images = images
        self.requested: list[Rows] = []

    @property
    def labels(self) -> Int64Array:
        return self.images.labels

    def rows(self, rows: Rows) -> AnyArray:
        self.requested.append(rows)
        return self.images.rows(rows)

    def views(self, rows: Rows, augment: str, random: np.random.Generator) -> AnyArray:
        self.requested.append(rows)
        return self.images.views(rows, augment, random)


def test_augmentation_does_not_change_the_order_of_the_images() -> None:
    orders = {}
    for augment in ("none", "flip_shift", "flip_affine"):
        images = RecordingImages(striped_images())
        model = build_model(plan(), 2)
        p = plan(stem="private", augment=augment)
        train_locally(model, images, p, 1, "a")
        orders[augment] = np.concatenate(images.requested), pack(model)
    for augment in ("flip_shift", "flip_affine"):
        assert np.array_equal(orders["none"][0], orders[augment][0])
        assert not np.array_equal(orders["none"][1], orders[augment][1])


def test_a_plan_refuses_augmentation_whose_views_the_cloud_could_pair() -> None:
    with pytest.raises(CipherwardError, match="augment goes with federated training"):
        plan(augment="flip_shift", train="central")
    for changes in (
        {"stem": "private"},
        {"stem": "plain"},
        {"stem": "learn"},
        {"scheme": "le", "block": 4},
    ):
        assert plan(augment="flip_shift", **changes).augment == "flip_shift"


@pytest.mark.parametrize("changes", [{"key_scope": "image"}, {"scheme": "neuracrypt"}])
def test_a_plan_refuses_augmentation_where_a_batch_cannot_be_opened_and_sealed_again(
    changes: dict[str, str],
) -> None:
    with pytest.raises(CipherwardError, match=r"a key that is the same for every image|no key opens"):
        plan(augment="flip_shift", **changes)
