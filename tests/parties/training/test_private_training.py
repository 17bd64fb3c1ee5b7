"""DP-SGD in the hospital: gradients by patient, clipping, noise, sampling, and what an adversary proves of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from coordinator.adversary.training.privacy_audit import audit_scores
from coordinator.model.model_input import to_model_input
from coordinator.model.private_layers import require_private_layers, tokens_as_layer
from coordinator.model.training import PlainImages, train_locally
from coordinator.model.vit import build_model, pack
from crypto.arrays import Float64Array
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from parties.training import private_training
from parties.training.privacy_accounting import Mechanism, noise_multiplier, total_epsilon
from parties.training.private_noise import PrivateRandom, round_to_grid
from parties.training.private_optimizer import PrivateOptimizer
from parties.training.private_training import PrivateRound, plan_round, train_privately
from tests.support.hospitals import one_core  # noqa: F401 - a fixture for every test here
from tests.support.local_training import plan, striped_images
from tests.support.privacy import Linear, canary_images, private_plan, release

IMAGES = striped_images(24)
NO_NOISE = 1e-9


def private(units: Any, noise: float = NO_NOISE, rate: float = 1.0, steps: int = 1) -> PrivateRound:
    """Return a round of training on these units."""
    units = np.asarray(units)
    return PrivateRound(Mechanism(noise, rate, steps), units, len(units) * rate)


def single_gradients(model: nn.Module) -> list[Float64Array]:
    """Return each image's gradient over all trained weights, one image at a time."""
    rows = []
    for image, label in zip(IMAGES.images, IMAGES.labels, strict=True):
        model.zero_grad()
        logits = model(to_model_input(image[None]))
        nn.functional.cross_entropy(logits, torch.tensor([label])).backward()  # type: ignore[no-untyped-call]
        grads = [w.grad.double().flatten() for w in model.parameters() if w.grad is not None]
        rows.append(torch.cat(grads).numpy())
    return rows


def _clipped(gradient: Float64Array, clip: float) -> Float64Array:
    return gradient * min(1.0, clip / (float(np.linalg.norm(gradient)) + 1e-6))


def step_of(model: nn.Module, units: Any, clip: float, **settings: Any) -> Float64Array:
    """Train one step without noise; return the step over all trained weights, times the divisor."""
    p = private_plan(
        privacy={"epsilon": 1, "delta": 1e-5, "unit": "image", "max_grad_norm": clip}, **settings
    )
    before = torch.cat([w.detach().double().flatten() for w in model.parameters() if w.requires_grad])
    train_privately(model, IMAGES, p, 1, private(units))
    after = torch.cat([w.detach().double().flatten() for w in model.parameters() if w.requires_grad])
    return np.asarray((before - after).numpy() * len(IMAGES.labels))


# ---- gradients -----------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("share", ["all", "head", "lora"])
@pytest.mark.parametrize("images_a_pass", [1000, 5])
def test_the_step_is_the_sum_of_each_patient_s_clipped_gradient(share: str, images_a_pass: int) -> None:
    """Against gradients taken one image at a time; tokens, stem and adapters included, and patients over passes."""
    p = plan(
        share=share,
        model_args={"patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2, "reg_tokens": 1},
    )
    model = build_model(p, 2)
    names = list(model.state_dict())
    units = np.arange(24) * 5 // 24  # neighbours: patients of four or five images, which end within a pass
    units = units[np.random.default_rng(1).permutation(24)]
    gradients = single_gradients(model)
    totals = [
        np.sum([g for g, u in zip(gradients, units, strict=True) if u == k], axis=0) for k in range(5)
    ]
    clip = float(np.median([np.linalg.norm(t) for t in totals]))  # some are clipped, and some are not
    expected = np.sum([_clipped(t, clip) for t in totals], axis=0)
    step = step_of(model, units, clip, share=share, batch=images_a_pass)
    np.testing.assert_allclose(step, expected, atol=2e-4 * np.abs(expected).max())
    assert list(model.state_dict()) == names
    # Patients are summed up before they are clipped: images alone would give another step.
    alone = np.sum([_clipped(g, clip) for g in gradients], axis=0)
    assert np.abs(alone - expected).max() > 0.05 * np.abs(expected).max()


def test_opacus_does_not_take_the_whole_vit_as_one_layer() -> None:
    from opacus import GradSampleModule

    model = build_model(plan(), 2)
    assert hasattr(GradSampleModule(build_model(plan(), 2))._module, "ft_compute_sample_grad")  # the trap
    with tokens_as_layer(model):
        wrapped = GradSampleModule(model)
        # By the general way: the tokens, and timm's norms until they are registered. Both are small.
        slow = {name for name, part in model.named_modules() if hasattr(part, "ft_compute_sample_grad")}
        wrapped.to_standard_module()
    assert "_tokens" in slow and all(name == "_tokens" or "norm" in name for name in slow)
    assert not hasattr(model, "_tokens") and "pos_embed" in dict(model.named_parameters(recurse=False))


def test_an_image_moves_the_sum_by_no_more_than_the_clip_even_under_augmentation() -> None:
    p = private_plan(
        stem="plain",
        augment="flip_shift",
        model_args={"patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2},
    )
    model = build_model(p, 2)
    start = pack(model)
    train_privately(model, IMAGES, p, 1, private(np.arange(24)))
    assert np.linalg.norm(pack(model) - start) <= 1.0 + 1e-3  # lr 1, 24 gradients of norm 1, divided by 24


def test_a_gradient_that_is_not_a_number_reaches_nothing() -> None:
    images = canary_images(6)
    images[2] = np.nan

    model = Linear(6)
    train_privately(
        model, PlainImages(images, np.zeros(6, np.int64)), private_plan(), 1, private(np.arange(6))
    )
    weight = model.head.weight.detach().numpy()
    assert np.isfinite(weight).all() and weight[0, 2] < 0.01 < weight[0, 3]


def test_fedprox_s_term_is_added_after_the_noise() -> None:
    p = private_plan(lr=0.5)
    model = Linear(6)
    nn.init.ones_(model.head.weight)
    images = canary_images(6)

    data = PlainImages(images, np.zeros(6, np.int64))
    two = private(np.arange(6), steps=2)
    train_privately(model, data, p, 1, two, proximal=0.0)
    plain = model.head.weight.detach().clone()
    nn.init.ones_(model.head.weight)
    train_privately(model, data, p, 1, two, proximal=0.5)
    # The second step is pulled back a quarter of the first one (0.5 lr · 0.5 mu), whose gradients are clipped to 1.
    assert float((model.head.weight.detach() - 1).abs().sum()) < 0.99 * float((plain - 1).abs().sum())


# ---- noise and sampling --------------------------------------------------------------------------


def test_noise_has_its_deviation_and_four_summands_keep_it_gaussian() -> None:
    numbers = PrivateRandom().normal(200_000)
    assert abs(numbers.std() - 1) < 0.01 and abs(numbers.mean()) < 0.01
    assert abs((numbers**4).mean() - 3) < 0.1
    assert PrivateRandom().normal(0).shape == (0,)


def test_noise_is_finite_whatever_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = []
    for word in (0, 2**64 - 1):
        monkeypatch.setattr(PrivateRandom, "_words", lambda self, n, word=word: np.full(n, word, np.uint64))
        ends.append(PrivateRandom().normal(2))
    # The ends are as likely as each other, and as far from 0.
    assert np.isfinite(ends).all() and np.allclose(ends[0], -ends[1], rtol=1e-3)


def test_a_step_s_noise_has_the_deviation_that_was_accounted_for() -> None:
    p = private_plan(privacy={"epsilon": 1, "delta": 1e-5, "unit": "image", "max_grad_norm": 0.25})
    model = Linear(20_000)
    data = canary_images(1)

    data = np.full((4, 1, 20_000, 1), 127.5, np.float32)  # no image has a gradient
    train_privately(model, PlainImages(data, np.zeros(4, np.int64)), p, 1, private(np.arange(4), noise=3.0))
    noise = model.head.weight.detach().numpy() * 4  # lr 1, divisor 4
    assert abs(noise.std() / (3.0 * 0.25) - 1) < 0.02


def test_a_step_that_samples_nobody_is_noise_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PrivateRandom, "sample", lambda self, n, rate: np.zeros(n, bool))
    model = build_model(private_plan(), 2)
    start = pack(model)
    train_privately(model, IMAGES, private_plan(), 1, private(np.arange(24), noise=1.0, rate=0.1, steps=2))
    assert np.abs(pack(model) - start).max() > 0


def test_sampling_takes_each_unit_with_the_rate() -> None:
    random = PrivateRandom()
    taken = np.stack([random.sample(1000, 0.2) for _ in range(200)])
    assert abs(taken.mean() - 0.2) < 0.01
    assert (
        abs(taken.sum(1).std() / math.sqrt(1000 * 0.2 * 0.8) - 1) < 0.25
    )  # Poisson: the batch's size varies
    assert random.sample(5, 1.0).all()


def test_the_noised_sum_lies_on_a_grid_that_does_not_depend_on_the_data() -> None:
    values = np.random.default_rng(0).normal(size=1000)
    rounded = round_to_grid(values, 0.3)
    steps = rounded / 2.0**-22  # the largest power of two below 0.3 is 2^-2
    assert np.array_equal(steps, np.round(steps)) and np.abs(rounded - values).max() <= 2.0**-23


def test_the_plan_s_seed_gives_nothing_away() -> None:
    """The cloud knows the plan. Two trainings of it differ, and noise drawn from its seed is not that of either."""
    p = private_plan(seed=7)
    updates = []
    for _ in range(2):
        model = Linear(3000)
        torch.manual_seed(p.seed)
        np.random.seed(p.seed)
        data = PlainImages(np.full((4, 1, 3000, 1), 127.5, np.float32), np.zeros(4, np.int64))
        train_privately(model, data, p, 1, private(np.arange(4), noise=1.0))
        updates.append(model.head.weight.detach().double().numpy().ravel())
    first, second = updates
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.1
    for round_ in (
        0,
        1,
    ):  # torch's generator, as Opacus would use it, from every seed that the training sets
        for seed in (p.seed, int(np.random.default_rng([p.seed, 1, 0]).integers(2**31))):
            guess = torch.randn(first.size, generator=torch.Generator().manual_seed(seed)).numpy()
            assert abs(np.corrcoef(first, guess)[0, 1]) < 0.1, (round_, seed)
    # The control: a training without privacy is repeated to the bit by whoever knows the seed.
    twins = [build_model(plan(seed=7), 2) for _ in range(2)]
    for twin in twins:
        train_locally(twin, IMAGES, plan(seed=7), 1, "hospital-0")
    assert np.array_equal(pack(twins[0]), pack(twins[1]))


def test_noise_comes_from_the_system_and_from_no_other_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[SecretKey] = []
    generate = SecretKey.generate

    def count() -> SecretKey:
        keys.append(generate())
        return keys[-1]

    monkeypatch.setattr(SecretKey, "generate", count)

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("noise from torch")

    monkeypatch.setattr(torch, "normal", refuse)
    monkeypatch.setattr(torch, "randn", refuse)
    train_privately(Linear(1024), striped_images(4), private_plan(), 1, private(np.arange(4), noise=1.0))
    assert len(keys) == 1


# ---- accounting ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epsilon", "delta", "rate", "steps"),
    [
        (8, 1e-4, 0.06, 100),
        (1, 1e-5, 1.0, 10),
        pytest.param(0.3, 1e-5, 0.02, 500, marks=pytest.mark.slow),
    ],
)
@pytest.mark.long
def test_the_noise_is_that_of_an_independent_accountant(
    epsilon: float, delta: float, rate: float, steps: int
) -> None:
    """Opacus' PRV against Google's PLD: both compose privacy loss distributions."""
    accounting = pytest.importorskip("dp_accounting", reason="dp-accounting is not installed")
    from dp_accounting.pld import PLDAccountant

    noise = noise_multiplier(epsilon, delta, rate, steps)

    def spent(multiplier: float) -> float:
        step = accounting.GaussianDpEvent(multiplier)
        sampled = step if rate == 1 else accounting.PoissonSampledDpEvent(rate, step)
        return float(PLDAccountant().compose(sampled, steps).get_epsilon(delta))

    assert spent(noise * 1.01) < epsilon < spent(noise * 0.99)
    assert spent(noise) <= epsilon * 1.0001
    assert total_epsilon([Mechanism(noise, rate, steps)], delta, epsilon) <= epsilon


@pytest.mark.long
def test_rounds_add_up_to_the_training_and_trainings_to_more() -> None:
    noise = noise_multiplier(2.0, 1e-5, 0.1, 40)
    rounds = [Mechanism(noise, 0.1, 10)] * 4
    assert total_epsilon(rounds, 1e-5, 2.0) <= 2.0
    assert total_epsilon(rounds, 1e-5, 2.0) == total_epsilon([Mechanism(noise, 0.1, 40)], 1e-5, 2.0)
    other = Mechanism(noise * 1.5, 0.05, 30)
    assert 2.0 < total_epsilon([*rounds, other], 1e-5, 2.0) < 4.0
    assert total_epsilon([], 1e-5, 2.0) == 0.0


@pytest.mark.long
def test_a_round_s_noise_is_for_the_whole_training_and_follows_from_public_counts() -> None:
    p = private_plan(rounds=5, batch=8, local_epochs=2)
    by_image = plan_round(p, np.arange(24))
    assert by_image.mechanism.steps == 6 and by_image.mechanism.sample_rate == pytest.approx(1 / 3)
    assert by_image.mechanism.noise_multiplier == noise_multiplier(1.0, 1e-5, 1 / 3, 30)
    by_patient = plan_round(p, np.arange(24) // 3)
    # Neither noise nor scale tells how many patients there are.
    assert by_patient.mechanism == by_image.mechanism and by_patient.divisor == by_image.divisor


def test_a_delta_that_would_allow_one_patient_to_be_sent_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        private_training, "noise_multiplier", lambda *_: 1.0
    )  # it is not what is asked here
    p = private_plan(privacy={"epsilon": 8, "delta": 1 / 8, "unit": "patient"}, rounds=1)
    with pytest.raises(CipherwardError, match=r"delta 0\.125 is not below 1 / 8, the number of patients"):
        plan_round(p, np.arange(24) // 3)
    assert plan_round(p, np.arange(24) % 7).mechanism.steps == 3  # seven patients


@pytest.mark.parametrize(
    ("model", "args", "message"),
    [
        ("resnet18", {}, "batch normalisation mixes the images"),
        ("beitv2_base_patch16_224", {"depth": 1}, "it keeps weights outside its layers"),
        ("order_free_vit", {"depth": 1}, "attention gives no gradients of single images"),
    ],
)
def test_models_whose_gradients_are_nobody_s_are_refused(
    model: str, args: dict[str, Any], message: str
) -> None:
    p = private_plan(model=model, model_args=args)
    with pytest.raises(CipherwardError, match=message):
        require_private_layers(build_model(p, 2), p)
    public = p.model_copy(update={"privacy": plan().privacy})
    require_private_layers(build_model(public, 2), public)


# ---- the audit catches broken implementations ----------------------------------------------------

#: Epsilon 1 over ten steps that take every canary: a noise of 11.8.
CANARIES, GUESSES, STEPS, DELTA = 1000, 200, 10, 1e-5


def run_audit(promised: float = 1.0) -> float:
    """Train on canaries that a coin put in; return the epsilon that an adversary with the weights proves."""
    privacy = {"epsilon": promised, "delta": DELTA, "unit": "image"}
    # Small steps: the network never fits a canary, whose gradient stays as large in every step.
    p = private_plan(lr=1e-3, batch=CANARIES, privacy=privacy)
    mechanism = Mechanism(noise_multiplier(promised, DELTA, 1.0, STEPS), 1.0, STEPS)
    included = np.asarray(PrivateRandom().sample(CANARIES, 0.5))
    return audit_scores(release(included, mechanism, p), included, GUESSES, DELTA).epsilon_low


def test_an_audit_of_the_true_implementation_stays_below_its_promise() -> None:
    assert run_audit() < 1.0
    # It does see members where the promise allows it: the next test has the power that it needs.
    assert 0.5 < run_audit(promised=8.0) < 8.0


def _no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PrivateRandom, "normal", lambda self, n: np.zeros(n))


def _a_tenth_of_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    normal = PrivateRandom.normal
    monkeypatch.setattr(PrivateRandom, "normal", lambda self, n: normal(self, n) / 10)


def _clip_after_averaging(monkeypatch: pytest.MonkeyPatch) -> None:
    def clip_and_accumulate(self: Any) -> None:
        sums = [g.sum(0) for g in self.grad_samples]
        images = len(self.grad_samples[0])
        norm = torch.stack([(g / images).norm() for g in sums]).norm()
        for weight, g in zip(self.params, sums, strict=True):
            # The mean is clipped. As a sum, which the noise is added to, it has so many times its norm.
            weight.summed_grad = g * min(1.0, self.max_grad_norm / float(norm))

    monkeypatch.setattr(PrivateOptimizer, "clip_and_accumulate", clip_and_accumulate)


@pytest.mark.parametrize("fault", [_no_noise, _a_tenth_of_the_noise, _clip_after_averaging])
def test_the_audit_catches_broken_implementations(fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fault(monkeypatch)
    assert run_audit() > 1.0
