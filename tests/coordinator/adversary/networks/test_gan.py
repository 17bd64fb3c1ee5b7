"""The GAN attack: networks, losses, training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from coordinator.adversary.networks import device, gan, training_loop
from coordinator.adversary.networks.training_loop import TrainingConfig
from coordinator.model.model_input import to_model_input
from crypto.errors import CipherwardError
from crypto.scheme import describe
from tests.support.networks import LE, layers, sealed_and_public, size


def test_the_generator_for_blocks_is_that_of_the_source() -> None:
    generator = gan.build_generator(LE)
    norm = ["bn 48", "ReLU"]
    expected = ["conv 3-48 4/4", *norm, "conv 48-48 1/1", *norm, "conv 48-512 1/1", "bn 512", "ReLU"]
    assert layers(generator) == [*expected, "PixelShuffle", "conv 32-3 1/1", "Tanh"]
    convolutions = (48 * 48 + 48) + (48 * 48 + 48) + (48 * 512 + 512) + (32 * 3 + 3)
    assert size(generator) == convolutions + 2 * (48 + 48 + 512) == 31107
    assert generator(torch.zeros(2, 3, 32, 32)).shape == (2, 3, 32, 32)


def test_the_generator_for_pe_is_that_of_the_source() -> None:
    generator = gan.build_generator(describe("pe", (32, 32, 3), 4))
    expected = ["conv 3-64 1/1", "bn 64", "ReLU", "conv 64-128 1/1", "bn 128", "ReLU"]
    assert layers(generator) == [*expected, "conv 128-256 1/1", "bn 256", "ReLU", "conv 256-3 1/1", "Tanh"]
    assert size(generator) == 256 + 128 + 8320 + 256 + 33024 + 512 + 771


def test_the_generator_grows_with_block_and_channels() -> None:
    generator = gan.build_generator(describe("le", (32, 32, 1), 8))
    assert generator(torch.zeros(2, 1, 32, 32)).shape == (2, 1, 32, 32)
    assert layers(generator)[0] == "conv 1-64 8/8" and "conv 64-2048 1/1" in layers(generator)


def test_the_discriminator_is_that_of_the_source() -> None:
    discriminator = gan.build_discriminator(3)
    expected = ["conv 3-64 4/2", "leaky 0.2", "conv 64-128 4/2", "leaky 0.2", "conv 128-1 4/1"]
    assert layers(discriminator) == [*expected, "MaxPool2d", "Sigmoid"]
    assert size(discriminator) == 16 * (3 * 64 + 64 * 128 + 128)
    assert [hasattr(discriminator[i], "parametrizations") for i in (0, 2, 4)] == [False, True, False]
    with torch.no_grad():
        assert discriminator(torch.zeros(2, 3, 32, 32)).shape == (2, 1, 1, 1)
        assert discriminator(torch.zeros(1, 3, 24, 24)).shape == (1, 1, 1, 1)
        assert discriminator(torch.zeros(1, 3, 224, 224)).shape == (1, 1, 17, 17)


def test_initial_weights_are_narrow() -> None:
    generator = gan.build_generator(LE).apply(gan.init_weights)
    convolution, norm = generator[6], generator[7]
    assert isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    assert abs(float(convolution.weight.detach().std()) - 0.02) < 0.001
    assert abs(float(norm.weight.detach().mean()) - 1) < 0.01
    assert 0.01 < float(norm.weight.detach().std()) < 0.03


def test_cross_entropy_equals_numpy() -> None:
    likelihoods = np.array([0.1, 0.5, 0.9, 1.0])
    value = torch.tensor(likelihoods)
    logs = np.log(likelihoods[:3])
    np.testing.assert_allclose(float(gan.cross_entropy(value, True)), -logs.sum() / 4, rtol=1e-6)
    rest = np.append(np.log(1 - likelihoods[:3]), -100.0)  # log 0 counts as -100
    np.testing.assert_allclose(float(gan.cross_entropy(value, False)), -rest.mean(), rtol=1e-6)


def test_one_step_updates_the_discriminator_then_the_generator() -> None:
    sealed, public, spec = sealed_and_public(8, 24)
    config = TrainingConfig(1, 8, seed=2)
    generator, progress = gan.train(sealed, public, spec, config)
    with device.seeded_torch(2):
        reference, discriminator = gan.build_generator(spec), gan.build_discriminator(3)
        for network in (reference, discriminator):
            device.move_to_device(network.apply(gan.init_weights))
    pairs = training_loop.unpaired_batches(np.random.default_rng([2, 0]), 8, 8, 8)
    inputs, real = (
        to_model_input(torch.tensor(a[r])) for a, r in zip((sealed, public), pairs[0], strict=True)
    )
    adam = [
        torch.optim.Adam(n.parameters(), lr=2e-4, betas=(0.5, 0.999)) for n in (reference, discriminator)
    ]
    generated = reference(inputs)
    loss = -torch.log(discriminator(real)).mean() - torch.log(1 - discriminator(generated.detach())).mean()
    device.take_step(adam[1], loss)
    deception = -torch.log(discriminator(generated)).mean()
    device.take_step(adam[0], deception)
    assert progress.losses == pytest.approx(
        {"discriminator": loss.item(), "generator": deception.item()}, rel=1e-4
    )
    pairs_of_weights = zip(generator.named_parameters(), reference.parameters(), strict=True)
    for (name, weight), expected in pairs_of_weights:
        # The biases before a batch norm have no gradient but rounding, which Adam takes for one.
        if expected.ndim == 4:
            np.testing.assert_allclose(weight.detach(), expected.detach(), atol=5e-5, err_msg=name)


def test_the_discriminator_cannot_mind_contrast() -> None:
    """Why long trainings fade: mid-gray is as likely as not, whatever the weights, and logits scale with contrast."""
    with device.seeded_torch(5):
        discriminator = gan.build_discriminator(3)
        images = torch.rand(4, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        for weight in discriminator.parameters():
            nn.init.normal_(weight)
        discriminator.eval()
        assert torch.equal(discriminator(torch.zeros(1, 3, 32, 32)), torch.full((1, 1, 1, 1), 0.5))
        logits = discriminator[:-1](images)
        for share in (0.5, 0.1):
            torch.testing.assert_close(discriminator[:-1](share * images), share * logits)
    # So a generator whose pictures are found out gains by fading.
    found_out = torch.full((8,), -1.5)
    losses = [float(gan.cross_entropy(torch.sigmoid(share * found_out), True)) for share in (1.0, 0.5, 0.0)]
    assert losses[0] > losses[1] > losses[2] == pytest.approx(np.log(2))


def test_the_attack_hands_over_the_epoch_whose_patches_are_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    sealed, public, spec = sealed_and_public(64, 24)
    monkeypatch.setattr(gan, "PUBLISHED", TrainingConfig(3, 16))
    best = gan.choose_epoch(sealed, public)
    states = []

    def keep(generator: nn.Module, _: training_loop.Progress) -> None:
        states.append({name: value.clone() for name, value in generator.state_dict().items()})

    generator, progress = gan.train(sealed, public, spec, TrainingConfig(3, 16), on_epoch=keep, best=best)
    assert progress.epochs == 3 and set(best.distances) == {1, 2, 3}
    assert best.distances[best.epoch] == min(best.distances.values())
    best.restore(generator)
    for name, value in generator.state_dict().items():
        assert torch.equal(value, states[best.epoch - 1][name])


def test_a_stopped_training_goes_on_with_its_best_epoch(tmp_path: Path) -> None:
    sealed, public, spec = sealed_and_public(32, 24)
    config, checkpoint = TrainingConfig(2, 16), tmp_path / "checkpoint.pt"
    whole = gan.choose_epoch(sealed, public)
    gan.train(sealed, public, spec, config, best=whole)
    first = gan.choose_epoch(sealed, public)
    gan.train(sealed, public, spec, TrainingConfig(1, 16), checkpoint=checkpoint, best=first)
    second = gan.choose_epoch(sealed, public)
    gan.train(sealed, public, spec, config, checkpoint=checkpoint, best=second)
    assert second.distances == whole.distances and second.epoch == whole.epoch
    with pytest.raises(CipherwardError, match="another training"):
        gan.train(sealed, public, spec, config, checkpoint=checkpoint)
