"""Models and local training: weights as one vector, schedules, figures, and the torchvision fix."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from coordinator.exchange.plan import Plan
from coordinator.federation.strategies import require_aggregatable
from coordinator.model.metrics import measure
from coordinator.model.model_input import to_model_input
from coordinator.model.optimizer import learning_rate
from coordinator.model.shares import in_stem, shared_names
from coordinator.model.torchvision_fix import timm
from coordinator.model.training import PlainImages, predict_probabilities, train_locally
from coordinator.model.vit import build_model, pack, save_model, unpack
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.scheme import describe, load
from parties.sealing.place import Place
from parties.training import baseline
from parties.training.baseline import (
    average,
    histogram_accuracy,
    linear_accuracy,
    measure_wrong_keys,
    train_plain,
)
from tests.support.local_training import SMALL, plan, striped_images


def test_pack_and_unpack_are_inverse_and_exact() -> None:
    a, b = build_model(plan(seed=1), 2), build_model(plan(seed=2), 2)
    flat = pack(a)
    assert flat.dtype == np.float32 and flat.shape == (sum(v.numel() for v in a.state_dict().values()),)
    assert not np.array_equal(flat, pack(b))
    flat.flags.writeable = False  # as Flower returns it
    unpack(b, flat)
    assert all(
        torch.equal(u, v) for u, v in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )
    with pytest.raises(ValueError, match="weights for a model of"):
        unpack(b, flat[:-1])


def test_a_model_depends_on_the_seed_only() -> None:
    torch.manual_seed(99)
    assert np.array_equal(pack(build_model(plan(seed=1), 2)), pack(build_model(plan(seed=1), 2)))


@pytest.mark.parametrize(("size", "width"), [("tiny", 192), ("small", 384), ("base", 768)])
def test_vits_take_patch_and_image_size_from_the_plan(size: str, width: int) -> None:
    settings: dict[str, Any] = {
        "model": f"vit_{size}_patch16_224",
        "model_args": {"depth": 1},
        "image_size": 48,
        "block": 16,
    }
    model: Any = build_model(plan(**settings), 3)
    assert model.embed_dim == width and model.pos_embed.shape == (1, 1 + 9, width)
    args = {"depth": 1, "patch_size": 8}
    finer: Any = build_model(plan(**settings | {"model_args": args, "block": 8}), 3)
    assert finer.pos_embed.shape == (1, 1 + 36, width)
    assert finer.patch_embed.proj.weight.shape[1:] == (1, 8, 8)


def test_timm_loads_the_saved_model(tmp_path: Path) -> None:
    p = plan()
    model = build_model(p, 2)
    save_model(model, p, ["a", "b"], tmp_path / "m.safetensors", key_ids={})
    other = timm.create_model(p.model, num_classes=2, in_chans=1, img_size=32, **SMALL)
    other.load_state_dict(load_file(str(tmp_path / "m.safetensors")))
    x = torch.randn(2, 1, 32, 32)
    assert torch.equal(model.eval()(x), other.eval()(x))
    with safe_open(str(tmp_path / "m.safetensors"), framework="pt") as file:
        assert file.metadata()["classes"] == '["a", "b"]' and file.metadata()["scheme"] == p.scheme


def test_equal_weights_have_one_digest_whichever_hospital_answered_first(tmp_path: Path) -> None:
    p, path = plan(), tmp_path / "m.safetensors"
    model = build_model(p, 2)
    turned = p.model_copy(update={"model_args": dict(reversed(p.model_args.items()))})
    digests = {
        save_model(model, q, ["a", "b"], path, key_ids=dict(ids))
        for q in (p, turned)
        for ids in ([("x", "1"), ("y", "2")], [("y", "2"), ("x", "1")])
        for _ in range(4)
    }
    assert len(digests) == 1


def test_weights_of_another_head_and_channels_are_adapted(tmp_path: Path) -> None:
    torch.manual_seed(0)
    rgb = timm.create_model("vit_tiny_patch16_224", num_classes=7, img_size=32, **SMALL)
    save_file(rgb.state_dict(), str(tmp_path / "rgb.safetensors"))
    model: Any = build_model(plan(weights=str(tmp_path / "rgb.safetensors")), 2)
    assert model.head.out_features == 2
    # Filters for gray are the sum over the colours: the output is that of the gray image as RGB.
    x = torch.randn(2, 1, 32, 32)
    assert torch.allclose(
        model.eval().forward_features(x), rgb.eval().forward_features(x.expand(-1, 3, -1, -1)), atol=1e-5
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "vit_huge_patch99"}, "there is no network vit_huge_patch99 in timm .*similar names: "),
        ({"model_args": {**SMALL, "patch_size": 4}}, "has patches of 4, the scheme has blocks of 8"),
        ({"model_args": {**SMALL, "no_such": 1}}, "model_args: 'no_such' is not an argument"),
        ({"model_args": {**SMALL, "stem_stride": 2}}, "timm cannot build"),
    ],
)
def test_impossible_models_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CipherwardError, match=message):
        build_model(plan(**changes), 2)


@pytest.mark.parametrize("mode", ["private", "plain"])
def test_models_whose_stem_cannot_be_carried_are_refused(mode: str) -> None:
    wide = {**SMALL, "patch_size": 16}
    build_model(plan(model_args=wide), 2)
    with pytest.raises(CipherwardError, match="has patches of 16, the scheme has blocks of 8, and a stem"):
        build_model(plan(model_args=wide, stem=mode), 2)
    other: dict[str, Any] = {"model": "mixer_s32_224", "model_args": {}, "block": 32}
    build_model(plan(**other), 2)
    with pytest.raises(CipherwardError, match="mixer_s32_224 is not a plain Vision Transformer"):
        build_model(plan(**other, stem=mode), 2)


def test_only_the_shared_weights_are_packed() -> None:
    private, whole = plan(stem="private"), build_model(plan(), 2)
    names = shared_names(whole, private)
    assert shared_names(whole, plan()) == list(whole.state_dict())
    assert {n for n in whole.state_dict() if n not in names} == {
        *("pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias")
    }
    other = build_model(plan(seed=5), 2)
    before = {k: v.clone() for k, v in other.state_dict().items()}
    unpack(other, pack(whole, names), names)
    for name, value in other.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name] if name in names else before[name]), name
    with pytest.raises(ValueError, match="weights for a model of"):
        unpack(other, pack(whole), names)


def test_a_frozen_stem_is_not_trained() -> None:
    p = plan(stem="plain", stem_frozen=True)
    model, first = build_model(p, 2), build_model(p, 2)
    train_locally(model, striped_images(), p, 1, "a")
    for name, value in model.state_dict().items():
        if in_stem(name):
            assert torch.equal(value, first.state_dict()[name]), name
    assert not np.array_equal(pack(model), pack(first))


def test_the_schedule_warms_up_and_falls_to_zero() -> None:
    p = plan(warmup_steps=4, lr=1.0)
    rates = [learning_rate(p, s, 20) for s in range(21)]
    assert rates[0] == pytest.approx(0.25) and max(rates) == rates[3]
    assert rates[20] == pytest.approx(0.0) and all(a > b for a, b in itertools.pairwise(rates[4:]))


def test_local_training_learns_and_is_repeatable() -> None:
    train, test = striped_images(), striped_images(40, seed=1)
    runs = []
    for _ in range(2):
        model = build_model(plan(), 2)
        before = measure(predict_probabilities(model, test), test.labels)["accuracy"]
        for round_ in (1, 2, 3, 4):
            result = train_locally(model, train, plan(rounds=4, local_epochs=3), round_, "a")
        runs.append(pack(model))
        after = measure(predict_probabilities(model, test), test.labels)["accuracy"]
    assert result["steps"] == 18 and result["images"] == 144
    assert before < 0.75 and after > 0.9
    assert np.array_equal(runs[0], runs[1])
    other = build_model(plan(), 2)
    train_locally(other, train, plan(), 1, "b")
    first = build_model(plan(), 2)
    train_locally(first, train, plan(), 1, "a")
    assert not np.array_equal(pack(other), pack(first))


def test_a_diverged_training_is_an_error() -> None:
    p = plan(optimizer="sgd", lr=1e12)
    model = build_model(p, 2)
    train_locally(model, striped_images(), p, 1, "a")
    with pytest.raises(CipherwardError, match="training diverged") as error:
        measure(predict_probabilities(model, striped_images()), striped_images().labels)
    assert error.value.hint == "set a lower lr"


@pytest.mark.parametrize(
    "name",
    [
        *("num_classes", "in_chans", "img_size", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay"),
        *("checkpoint_path", "cache_dir", "features_only"),
    ],
)
def test_model_args_cannot_set_what_the_study_sets(name: str) -> None:
    with pytest.raises(CipherwardError, match=f"model_args: {name} is set by the study"):
        plan(model_args={**SMALL, name: 1})


def test_fedadam_refuses_models_with_batch_normalisation() -> None:
    for model, args in (("resnet18", {}), ("vit_tiny_patch16_224", SMALL)):
        p = plan(strategy="fedadam", model=model, model_args=args)
        net = build_model(p, 2)
        if model == "resnet18":
            with pytest.raises(CipherwardError, match="resnet18 has batch normalisation"):
                require_aggregatable(net, shared_names(net, p), p)
            require_aggregatable(net, shared_names(net, p), plan(model=model, model_args=args))
        else:
            require_aggregatable(net, shared_names(net, p), p)


def test_the_model_input_is_in_minus_one_to_one() -> None:
    x = to_model_input(np.array([[[[0], [255]]]], np.uint8))
    assert x.shape == (1, 1, 1, 2) and x.flatten().tolist() == [-1.0, 1.0]


def test_figures_of_best_worst_and_random_scores() -> None:
    labels = np.array([0, 1, 2, 0, 1, 2])
    best = np.eye(3)[labels] * 0.97 + 0.01
    assert measure(best, labels)["accuracy"] == 1 and measure(best, labels)["auc"] == 1
    worst = np.eye(3)[(labels + 1) % 3] * 0.97 + 0.01
    assert measure(worst, labels)["accuracy"] == 0 and measure(worst, labels)["auc"] < 0.5
    flat = np.full((6, 3), 1 / 3)
    assert measure(flat, labels)["auc"] == 0.5 and measure(flat, labels)["loss"] == pytest.approx(np.log(3))
    # The definition of AUC: the share of positive/negative pairs in order.
    p = np.array([0.1, 0.4, 0.35, 0.8])
    two = measure(np.stack([1 - p, p], 1), np.array([0, 0, 1, 1]))
    assert two["auc"] == pytest.approx(0.75)
    assert np.isnan(measure(best[:2], labels[:2])["auc"])  # not defined, because a class is absent


def test_average_is_weighted() -> None:
    a, b = np.array([1.0, 2.0], np.float32), np.array([4.0, 8.0], np.float32)
    assert average([a, b], [1, 2]).tolist() == [3.0, 6.0]


def test_the_plain_baseline_resumes_and_keeps_its_best_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = plan(rounds=3)
    parties = [("a", striped_images(24)), ("b", striped_images(24, seed=2))]
    uninterrupted, val, _ = train_plain(
        p, parties, striped_images(20, seed=3), 2, tmp_path / "uninterrupted.safetensors"
    )
    calls: list[tuple[int, str]] = []

    def stop_at_fifth_call(
        model: torch.nn.Module, images: PlainImages, plan_: Plan, round_: int, name: str, mu: float
    ) -> dict[str, float]:
        if len(calls) == 4:
            raise KeyboardInterrupt
        calls.append((round_, name))
        return train_locally(model, images, plan_, round_, name, mu)

    monkeypatch.setattr(baseline, "train_locally", stop_at_fifth_call)
    with pytest.raises(KeyboardInterrupt):
        train_plain(p, parties, striped_images(20, seed=3), 2, tmp_path / "cut.safetensors")
    monkeypatch.undo()
    resumed, resumed_val, _ = train_plain(
        p, parties, striped_images(20, seed=3), 2, tmp_path / "cut.safetensors"
    )
    assert val == resumed_val and len(val) == 3 and np.array_equal(pack(uninterrupted), pack(resumed))


def test_a_plain_baseline_of_other_images_or_hospitals_is_trained_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    p, path, calls = plan(rounds=1), tmp_path / "baseline.safetensors", 0

    def count(*words: Any) -> dict[str, float]:
        nonlocal calls
        calls += 1
        return train_locally(*words)

    monkeypatch.setattr(baseline, "train_locally", count)
    first, other, val = striped_images(24), striped_images(24, seed=2), striped_images(20, seed=3)
    relabelled = PlainImages(first.images, 1 - first.labels)
    for parties, trainings in (
        ([("a", first)], 1),
        ([("a", first)], 0),
        ([("b", first)], 1),
        ([("b", other)], 1),
        ([("b", relabelled)], 1),
        ([("b", relabelled), ("c", other)], 2),
    ):
        calls = 0
        train_plain(p, parties, val, 2, path)
        assert calls == trainings
    calls = 0
    train_plain(p, parties, striped_images(20, seed=4), 2, path)
    assert calls == 2


class Memory(torch.nn.Module):
    """A model that knows the labels of these images, and answers class 0 for all others."""

    def __init__(self, data: PlainImages) -> None:
        super().__init__()
        pairs = zip(to_model_input(data.images), data.labels, strict=True)
        self.known = {x.numpy().tobytes(): int(label) for x, label in pairs}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        labels = torch.tensor([self.known.get(one.numpy().tobytes(), 0) for one in x])
        return torch.nn.functional.one_hot(labels, 2).float() * 9


def test_wrong_keys_differ_from_the_training_key() -> None:
    class FakeSet:
        spec = describe("block_pixel_shuffle", (32, 32, 1), 8)

    class FakePlace:
        def sealed(self, split: str) -> FakeSet:
            return FakeSet()

    test = striped_images(40, seed=1)
    cipher = load(FakeSet.spec).cipher(SecretKey.generate())
    sealed = PlainImages(cipher.encrypt(test.images), test.labels)
    model = Memory(sealed)
    assert measure(predict_probabilities(model, sealed), test.labels)["accuracy"] == 1.0
    wrong = measure_wrong_keys(model, cast(Place, FakePlace()), test, 4)
    assert wrong == {"mean": 0.5, "low": 0.5, "high": 0.5, "each": [0.5] * 4}


def test_the_simple_classifiers_separate_dark_from_light() -> None:
    dark, light = np.full((20, 8, 8, 1), 30, np.uint8), np.full((20, 8, 8, 1), 200, np.uint8)
    images = PlainImages(np.concatenate([dark, light]), np.repeat([0, 1], 20))
    assert linear_accuracy(images, images) == histogram_accuracy(images, images) == 1.0


BROKEN = """
import sys, types
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == 'torchvision._meta_registrations':
            raise RuntimeError(message)
        return None
sys.meta_path.insert(0, Finder())
for message in ('some other failure', 'operator torchvision::nms does not exist'):
    loaded = ('torchvision', 'timm', 'coordinator.model.torchvision_fix')
    for name in [n for n in sys.modules if n.startswith(loaded)]: del sys.modules[name]
    try:
        from coordinator.model.torchvision_fix import timm
        print('repaired', timm.__version__)
    except RuntimeError as error:
        print('failed:', error)
"""


@pytest.mark.long
def test_the_torchvision_fix_acts_on_its_own_failure_only() -> None:
    done = subprocess.run([sys.executable, "-c", BROKEN], check=True, capture_output=True, text=True)
    other, own = done.stdout.splitlines()
    assert other == "failed: some other failure" and own.startswith("repaired ")
