"""Models and local training: weights as one vector, schedules, figures, and the torchvision repair."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from coordinator.federation.strategies import averageable
from coordinator.model.torchvision_fix import timm
from coordinator.model.training import PlainImages, as_input, measure, probabilities, rate, train_locally
from coordinator.model.vit import build_model, in_stem, pack, save_model, shared_names, unpack
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.scheme import describe, load
from parties.training.baseline import average, histogram_accuracy, linear_accuracy, train_plain, wrong_keys
from tests.support.local_training import SMALL, data, plan


def test_pack_and_unpack_are_inverse_and_exact():
    a, b = build_model(plan(seed=1), 2), build_model(plan(seed=2), 2)
    flat = pack(a)
    assert flat.dtype == np.float32 and flat.shape == (sum(v.numel() for v in a.state_dict().values()),)
    assert not np.array_equal(flat, pack(b))
    flat.flags.writeable = False  # as Flower hands it out
    unpack(b, flat)
    assert all(
        torch.equal(u, v) for u, v in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )
    with pytest.raises(ValueError, match="weights for a model of"):
        unpack(b, flat[:-1])


def test_a_model_depends_on_the_seed_alone():
    torch.manual_seed(99)
    assert np.array_equal(pack(build_model(plan(seed=1), 2)), pack(build_model(plan(seed=1), 2)))


@pytest.mark.parametrize(("size", "width"), [("tiny", 192), ("small", 384), ("base", 768)])
def test_vits_are_known_by_name_and_take_patch_and_image_size_from_the_plan(size, width):
    settings = {
        "model": f"vit_{size}_patch16_224",
        "model_args": {"depth": 1},
        "image_size": 48,
        "block": 16,
    }
    model = build_model(plan(**settings), 3)
    assert model.embed_dim == width and model.pos_embed.shape == (1, 1 + 9, width)
    finer = build_model(plan(**settings | {"model_args": {"depth": 1, "patch_size": 8}, "block": 8}), 3)
    assert finer.pos_embed.shape == (1, 1 + 36, width) and finer.patch_embed.proj.weight.shape[1:] == (
        1,
        8,
        8,
    )


def test_the_saved_model_is_loaded_by_timm(tmp_path):
    p = plan()
    model = build_model(p, 2)
    save_model(model, p, ["a", "b"], tmp_path / "m.safetensors")
    other = timm.create_model(p.model, num_classes=2, in_chans=1, img_size=32, **SMALL)
    other.load_state_dict(load_file(str(tmp_path / "m.safetensors")))
    x = torch.randn(2, 1, 32, 32)
    assert torch.equal(model.eval()(x), other.eval()(x))
    with safe_open(str(tmp_path / "m.safetensors"), framework="pt") as file:
        assert file.metadata()["classes"] == '["a", "b"]' and file.metadata()["scheme"] == p.scheme


def test_weights_of_another_head_and_channels_are_adapted(tmp_path):
    torch.manual_seed(0)
    rgb = timm.create_model("vit_tiny_patch16_224", num_classes=7, img_size=32, **SMALL)
    from safetensors.torch import save_file

    save_file(rgb.state_dict(), str(tmp_path / "rgb.safetensors"))
    model = build_model(plan(weights=str(tmp_path / "rgb.safetensors")), 2)
    assert model.head.out_features == 2
    # Gray sums the three colours' filters: the same output as the gray image sent as RGB.
    x = torch.randn(2, 1, 32, 32)
    assert torch.allclose(
        model.eval().forward_features(x), rgb.eval().forward_features(x.expand(-1, 3, -1, -1)), atol=1e-5
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "vit_huge_patch99"}, "timm cannot build vit_huge_patch99"),
        ({"model_args": {**SMALL, "patch_size": 4}}, "has patches of 4, the scheme has blocks of 8"),
        ({"model_args": {**SMALL, "no_such": 1}}, "timm cannot build"),
    ],
)
def test_models_that_cannot_be_built(changes, said):
    with pytest.raises(CipherwardError, match=said):
        build_model(plan(**changes), 2)


@pytest.mark.parametrize("mode", ["private", "plain"])
def test_models_whose_stem_cannot_be_carried(mode):
    wide = {**SMALL, "patch_size": 16}
    build_model(plan(model_args=wide), 2)
    with pytest.raises(CipherwardError, match="has patches of 16, the scheme has blocks of 8, and a stem"):
        build_model(plan(model_args=wide, stem=mode), 2)
    other = {"model": "mixer_s32_224", "model_args": {}, "block": 32}
    build_model(plan(**other), 2)
    with pytest.raises(CipherwardError, match="mixer_s32_224 is not a plain Vision Transformer"):
        build_model(plan(**other, stem=mode), 2)


def test_weights_that_travel_are_packed_alone():
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


def test_a_frozen_stem_is_not_trained():
    p = plan(stem="plain", stem_frozen=True)
    model, first = build_model(p, 2), build_model(p, 2)
    train_locally(model, data(), p, 1, "a")
    for name, value in model.state_dict().items():
        if in_stem(name):
            assert torch.equal(value, first.state_dict()[name]), name
    assert not np.array_equal(pack(model), pack(first))


def test_the_schedule_warms_up_and_falls_to_zero():
    p = plan(warmup_steps=4, lr=1.0)
    rates = [rate(p, s, 20) for s in range(21)]
    assert rates[0] == pytest.approx(0.25) and max(rates) == rates[3]
    assert rates[20] == pytest.approx(0.0) and all(a > b for a, b in itertools.pairwise(rates[4:]))


def test_local_training_learns_and_repeats_itself():
    train, test = data(), data(40, seed=1)
    runs = []
    for _ in range(2):
        model = build_model(plan(), 2)
        before = measure(probabilities(model, test), test.labels)["accuracy"]
        for round_ in (1, 2, 3, 4):
            done = train_locally(model, train, plan(rounds=4, local_epochs=3), round_, "a")
        runs.append(pack(model))
        after = measure(probabilities(model, test), test.labels)["accuracy"]
    assert done["steps"] == 18 and done["images"] == 144
    assert before < 0.75 and after > 0.9
    assert np.array_equal(*runs)
    other = build_model(plan(), 2)
    train_locally(other, train, plan(), 1, "b")
    mine = build_model(plan(), 2)
    train_locally(mine, train, plan(), 1, "a")
    assert not np.array_equal(pack(other), pack(mine))


def test_a_training_that_diverged_says_so():
    p = plan(optimizer="sgd", lr=1e12)
    model = build_model(p, 2)
    train_locally(model, data(), p, 1, "a")
    with pytest.raises(CipherwardError, match="training diverged") as said:
        measure(probabilities(model, data()), data().labels)
    assert said.value.hint == "set a lower lr"


@pytest.mark.parametrize("name", ["num_classes", "in_chans", "img_size", "pretrained"])
def test_model_args_cannot_set_what_the_study_sets(name):
    with pytest.raises(CipherwardError, match=f"model_args: {name} is set by the study"):
        plan(model_args={**SMALL, name: 1})


def test_adam_does_not_step_on_statistics():
    for model, args in (("resnet18", {}), ("vit_tiny_patch16_224", SMALL)):
        p = plan(strategy="fedadam", model=model, model_args=args)
        net = build_model(p, 2)
        if model == "resnet18":
            with pytest.raises(CipherwardError, match="resnet18 has batch normalisation"):
                averageable(net, shared_names(net, p), p)
            averageable(net, shared_names(net, p), plan(model=model, model_args=args))
        else:
            averageable(net, shared_names(net, p), p)


def test_input_is_minus_one_to_one():
    x = as_input(np.array([[[[0], [255]]]], np.uint8))
    assert x.shape == (1, 1, 1, 2) and x.flatten().tolist() == [-1.0, 1.0]


def test_figures_best_worst_random():
    labels = np.array([0, 1, 2, 0, 1, 2])
    best = np.eye(3)[labels] * 0.97 + 0.01
    assert measure(best, labels)["accuracy"] == 1 and measure(best, labels)["auc"] == 1
    worst = np.eye(3)[(labels + 1) % 3] * 0.97 + 0.01
    assert measure(worst, labels)["accuracy"] == 0 and measure(worst, labels)["auc"] < 0.5
    flat = np.full((6, 3), 1 / 3)
    assert measure(flat, labels)["auc"] == 0.5 and measure(flat, labels)["loss"] == pytest.approx(np.log(3))
    # Textbook AUC: the share of positive/negative pairs in order.
    p = np.array([0.1, 0.4, 0.35, 0.8])
    two = measure(np.stack([1 - p, p], 1), np.array([0, 0, 1, 1]))
    assert two["auc"] == pytest.approx(0.75)
    assert np.isnan(measure(best[:2], labels[:2])["auc"])  # a class is absent: not defined


def test_average_is_weighted():
    a, b = np.array([1.0, 2.0], np.float32), np.array([4.0, 8.0], np.float32)
    assert average([a, b], [1, 2]).tolist() == [3.0, 6.0]


def test_the_plain_baseline_resumes_and_keeps_its_best_round(tmp_path, monkeypatch):
    p = plan(rounds=3)
    parties = [("a", data(24)), ("b", data(24, seed=2))]
    whole, val, _ = train_plain(p, parties, data(20, seed=3), 2, tmp_path / "whole.safetensors")
    import parties.training.baseline as baseline

    real, calls = baseline.train_locally, []

    def stops(model, images, plan_, round_, name, *more):
        if len(calls) == 4:
            raise KeyboardInterrupt
        calls.append((round_, name))
        return real(model, images, plan_, round_, name, *more)

    monkeypatch.setattr(baseline, "train_locally", stops)
    with pytest.raises(KeyboardInterrupt):
        train_plain(p, parties, data(20, seed=3), 2, tmp_path / "cut.safetensors")
    monkeypatch.undo()
    resumed, val2, _ = train_plain(p, parties, data(20, seed=3), 2, tmp_path / "cut.safetensors")
    assert val == val2 and len(val) == 3 and np.array_equal(pack(whole), pack(resumed))


class Memory(torch.nn.Module):
    """Knows the label of every input that it has seen, and says 0 of all others."""

    def __init__(self, data: PlainImages) -> None:
        super().__init__()
        pairs = zip(as_input(data.images), data.labels, strict=True)
        self.known = {x.numpy().tobytes(): int(label) for x, label in pairs}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        said = torch.tensor([self.known.get(one.numpy().tobytes(), 0) for one in x])
        return torch.nn.functional.one_hot(said, 2).float() * 9


def test_wrong_keys_are_other_keys():
    class FakePlace:
        def sealed(self, split):
            return type("Set", (), {"spec": describe("block_pixel_shuffle", (32, 32, 1), 8)})

    test = data(40, seed=1)
    cipher = load(FakePlace().sealed("test").spec).cipher(SecretKey.generate())
    sealed = PlainImages(cipher.encrypt(test.images), test.labels)
    model = Memory(sealed)
    assert measure(probabilities(model, sealed), test.labels)["accuracy"] == 1.0
    wrong = wrong_keys(model, FakePlace(), test, 4)
    assert wrong == {"mean": 0.5, "low": 0.5, "high": 0.5, "each": [0.5] * 4}


def test_simple_classifiers_see_what_they_should():
    dark, light = np.full((20, 8, 8, 1), 30, np.uint8), np.full((20, 8, 8, 1), 200, np.uint8)
    images = PlainImages(np.concatenate([dark, light]), np.repeat([0, 1], 20))
    assert linear_accuracy(images, images) == histogram_accuracy(images, images) == 1.0


BROKEN = """
import sys, types
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == 'torchvision._meta_registrations':
            raise RuntimeError({message!r})
        return None
sys.meta_path.insert(0, Finder())
for name in [n for n in sys.modules if n.startswith('torchvision')]: del sys.modules[name]
import coordinator.model.torchvision_fix
print('repaired', coordinator.model.torchvision_fix.timm.__version__)
"""


def in_fresh_process(message: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", BROKEN.format(message=message)], capture_output=True, text=True
    )


def test_the_repair_acts_on_its_failure_alone():
    assert in_fresh_process("operator torchvision::nms does not exist").stdout.startswith("repaired")
    other = in_fresh_process("some other failure")
    assert other.returncode == 1 and "some other failure" in other.stderr
