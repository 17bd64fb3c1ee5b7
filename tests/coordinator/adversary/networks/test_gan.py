"""The GAN attack: networks, losses, training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from coordinator.adversary.networks import gan, training_loop
from coordinator.adversary.networks.training_loop import Course
from crypto.scheme import describe
from tests.support.networks import LE, layers, sealed_and_public, size


def test_the_generator_for_blocks_is_the_source_s():
    generator = gan.generator_of(LE)
    norm = ["bn 48", "ReLU"]
    expected = ["conv 3-48 4/4", *norm, "conv 48-48 1/1", *norm, "conv 48-512 1/1", "bn 512", "ReLU"]
    assert layers(generator) == [*expected, "PixelShuffle", "conv 32-3 1/1", "Tanh"]
    convolutions = (48 * 48 + 48) + (48 * 48 + 48) + (48 * 512 + 512) + (32 * 3 + 3)
    assert size(generator) == convolutions + 2 * (48 + 48 + 512) == 31107
    assert generator(torch.zeros(2, 3, 32, 32)).shape == (2, 3, 32, 32)


def test_the_generator_for_pe_is_the_source_s():
    generator = gan.generator_of(describe("pe", (32, 32, 3), 4))
    expected = ["conv 3-64 1/1", "bn 64", "ReLU", "conv 64-128 1/1", "bn 128", "ReLU"]
    assert layers(generator) == [*expected, "conv 128-256 1/1", "bn 256", "ReLU", "conv 256-3 1/1", "Tanh"]
    assert size(generator) == 256 + 128 + 8320 + 256 + 33024 + 512 + 771


def test_the_generator_grows_with_block_and_channels():
    generator = gan.generator_of(describe("le", (32, 32, 1), 8))
    assert generator(torch.zeros(2, 1, 32, 32)).shape == (2, 1, 32, 32)
    assert layers(generator)[0] == "conv 1-64 8/8" and "conv 64-2048 1/1" in layers(generator)


def test_the_discriminator_is_the_source_s():
    judge = gan.discriminator_of(3)
    expected = ["conv 3-64 4/2", "leaky 0.2", "conv 64-128 4/2", "leaky 0.2", "conv 128-1 4/1"]
    assert layers(judge) == [*expected, "MaxPool2d", "Sigmoid"]
    assert size(judge) == 16 * (3 * 64 + 64 * 128 + 128)
    assert [hasattr(judge[i], "parametrizations") for i in (0, 2, 4)] == [False, True, False]
    with torch.no_grad():
        assert judge(torch.zeros(2, 3, 32, 32)).shape == (2, 1, 1, 1)
        assert judge(torch.zeros(1, 3, 24, 24)).shape == (1, 1, 1, 1)
        assert judge(torch.zeros(1, 3, 224, 224)).shape == (1, 1, 17, 17)


def test_initial_weights_are_narrow():
    generator = gan.generator_of(LE).apply(gan._initial)
    wide = generator[6]
    assert isinstance(wide, nn.Conv2d) and abs(float(wide.weight.detach().std()) - 0.02) < 0.001
    norm = generator[7]
    assert (
        abs(float(norm.weight.detach().mean()) - 1) < 0.01
        and 0.01 < float(norm.weight.detach().std()) < 0.03
    )


def test_cross_entropy_is_that_of_numpy():
    judged = np.array([0.1, 0.5, 0.9, 1.0])
    value = torch.tensor(judged)
    logs = np.log(judged[:3])
    np.testing.assert_allclose(float(gan.cross_entropy(value, True)), -logs.sum() / 4, rtol=1e-6)
    rest = np.append(np.log(1 - judged[:3]), -100.0)  # log 0 counts as -100
    np.testing.assert_allclose(float(gan.cross_entropy(value, False)), -rest.mean(), rtol=1e-6)


def test_one_step_is_discriminator_then_generator():
    sealed, public, spec = sealed_and_public(8, 24)
    course = Course(1, 8, seed=2)
    generator, progress = gan.train(sealed, public, spec, course)
    with training_loop.weights_from(2):
        own, judge = gan.generator_of(spec), gan.discriminator_of(3)
        for network in (own, judge):
            network.apply(gan._initial).to(memory_format=torch.channels_last)
    pairs = training_loop.unpaired(np.random.default_rng([2, 0]), 8, 8, 8)
    inputs, real = (
        training_loop.scaled(torch.tensor(a[r])) for a, r in zip((sealed, public), pairs[0], strict=True)
    )
    adam = [torch.optim.Adam(n.parameters(), lr=2e-4, betas=(0.5, 0.999)) for n in (own, judge)]
    made = own(inputs)
    loss = -torch.log(judge(real)).mean() - torch.log(1 - judge(made.detach())).mean()
    loss.backward()
    adam[1].step()
    fooled = -torch.log(judge(made)).mean()
    own.zero_grad()
    fooled.backward()
    adam[0].step()
    assert progress.losses == pytest.approx(
        {"discriminator": loss.item(), "generator": fooled.item()}, rel=1e-4
    )
    for (name, ours), theirs in zip(generator.named_parameters(), own.parameters(), strict=True):
        # The biases before a batch norm have no gradient but rounding, which Adam takes for one.
        if theirs.ndim == 4:
            np.testing.assert_allclose(ours.detach(), theirs.detach(), atol=5e-5, err_msg=name)
