"""The SIA-GAN attack: networks, losses, training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from coordinator.adversary.networks import device, sia_gan
from coordinator.adversary.networks.sia_networks import (
    BlockNetworks,
    Discriminator,
    SelfAttention,
    SoftPermutation,
)
from coordinator.adversary.networks.training_loop import Progress, TrainingConfig
from coordinator.model.model_input import to_model_input
from crypto.arrays import Float32Array
from crypto.key import SecretKey
from crypto.scheme import describe, load
from tests.support.networks import LE, layers, sealed_and_public, size


def test_the_generator_is_that_of_the_source() -> None:
    generator = sia_gan.build_generator(LE)
    unit = ["conv 64-64 3/1", "bn 64"]
    expected = ["bn 16384", "PixelShuffle", "conv 16-64 3/1", "bn 64"]
    expected += 3 * [*unit, "leaky 0.1", *unit] + [*unit, "conv 64-3 3/1"]
    assert layers(generator) == expected
    blocks = 64 * 256 * 48 + 2 * 64 * 256
    decoder = 9 * (16 * 64 + 7 * 64 * 64 + 64 * 3) + 8 * 128
    assert size(generator) == blocks + decoder == 1089216
    assert generator(torch.zeros(2, 3, 32, 32)).shape == (2, 3, 32, 32)
    assert isinstance(generator.places, nn.Identity)


def test_the_generator_for_other_schemes() -> None:
    pe = sia_gan.build_generator(describe("pe", (16, 16, 3), 4))
    assert pe.blocks.weight.shape == (256, 16, 3)  # a network for every pixel
    big = sia_gan.build_generator(describe("block_pixel_shuffle", (224, 224, 1), 16))
    assert not big.per_block and big.blocks.weight.shape == (1, 4096, 256)
    assert isinstance(big.places, SoftPermutation) and big.places.logits.shape == (196, 196)
    assert not sia_gan.moves_blocks(describe("ele", (32, 32, 3), 4))
    assert not sia_gan.moves_blocks(describe("value_shuffle", (32, 32, 3), 8))


@pytest.mark.parametrize("per_block", [True, False])
def test_block_networks_are_convolutions_with_their_norms(per_block: bool) -> None:
    torch.manual_seed(0)
    networks = BlockNetworks(2, 4, (2, 3), per_block)
    images = torch.randn(5, 2, 8, 12)
    estimates = networks.left.clone().numpy().astype(np.float64)
    with torch.no_grad():
        outputs = networks(images)
    for i in range(6):
        y, x = divmod(i, 3)
        weight = networks.weight.detach()[i if per_block else 0].numpy().astype(np.float64)
        left = estimates[i if per_block else 0]
        right = weight.T @ left
        right /= np.linalg.norm(right)
        left = weight @ right
        left /= np.linalg.norm(left)
        kernel = torch.tensor(weight / (left.T @ weight @ right)).reshape(256, 2, 4, 4).float()
        piece = nn.functional.conv2d(images[:, :, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4], kernel)[:, :, 0, 0]
        if per_block:
            piece = (piece - piece.mean(0)) / torch.sqrt(piece.var(0, unbiased=False) + 1e-5)
            piece = torch.where(piece > 0, piece, 0.1 * piece)
            np.testing.assert_allclose(outputs[:, :, y, x], piece, atol=2e-4)
        else:
            flat = outputs[:, :, y, x]
            flat = torch.where(flat > 0, flat, 10 * flat)
            # A norm over all blocks: the same linear function of the convolution for all of them.
            slope = torch.cov(torch.stack([flat[:, 0], piece[:, 0]]))
            assert float(slope[0, 1] ** 2 / (slope[0, 0] * slope[1, 1])) > 0.9999


def test_weights_are_divided_by_their_largest_singular_value() -> None:
    networks = BlockNetworks(3, 2, (1, 2), True)
    with torch.no_grad():
        for _ in range(200):
            maps = networks.normalised_weights()
        np.testing.assert_allclose(torch.linalg.matrix_norm(maps, 2), [1.0, 1.0], atol=1e-3)
        networks.eval()
        estimate = networks.left.clone()
        networks.normalised_weights()
        assert torch.equal(estimate, networks.left)


def test_a_soft_permutation_is_doubly_stochastic_and_moves_cells() -> None:
    torch.manual_seed(0)
    places = SoftPermutation(12)
    matrix = places.matrix().detach()
    np.testing.assert_allclose(matrix.sum(0), np.ones(12), atol=1e-3)
    np.testing.assert_allclose(matrix.sum(1), np.ones(12), atol=1e-3)
    order = torch.randperm(12)
    with torch.no_grad():
        places.logits.copy_(30.0 * nn.functional.one_hot(order, 12))
    cells = torch.arange(12.0).reshape(1, 1, 3, 4)
    moved = places(cells).detach().flatten()
    np.testing.assert_allclose(moved[order], np.arange(12.0), atol=1e-3)  # cell i stands at order[i]


def test_a_soft_permutation_learns_where_blocks_belong() -> None:
    torch.manual_seed(1)
    places, order = SoftPermutation(9), torch.randperm(9)
    cells = torch.randn(64, 4, 3, 3)
    targets = cells.flatten(2)[:, :, order].reshape(cells.shape)
    optimiser = torch.optim.Adam(places.parameters(), lr=0.3)
    for _ in range(60):
        optimiser.zero_grad()
        (places(cells) - targets).square().mean().backward()
        optimiser.step()
    assert (places.matrix().argmax(0) == order).all()


def test_the_discriminator_is_that_of_the_source() -> None:
    discriminator = Discriminator((32, 32, 3))
    expected = []
    for ins, outs in ((3, 128), (128, 256), (256, 512)):
        expected += [f"conv {ins}-{outs} 3/1", "leaky 0.1", f"conv {outs}-{outs} 4/2", "leaky 0.1"]
    expected += ["conv 512-64 1/1", "conv 512-64 1/1", "conv 512-512 1/1", "conv 512-1024 3/1"]
    assert layers(discriminator) == [
        *expected,
        "conv 1024-128 1/1",
        "conv 1024-128 1/1",
        "conv 1024-1024 1/1",
    ]
    stages = sum(9 * i * o + o + 16 * o * o + o for i, o in ((3, 128), (128, 256), (256, 512)))
    attention = sum(2 * (f * f // 8 + f // 8) + f * f + f + 1 for f in (512, 1024))
    assert size(discriminator) == stages + attention + (9 * 512 * 1024 + 1024) + (16 * 1024 + 1) == 13361155
    with torch.no_grad():
        assert discriminator(torch.zeros(2, 3, 32, 32)).shape == (2,)
        assert Discriminator((24, 40, 1), 16)(torch.zeros(2, 1, 24, 40)).shape == (2,)


def test_self_attention_equals_numpy() -> None:
    torch.manual_seed(0)
    attention = SelfAttention(16)
    features = torch.randn(2, 16, 3, 4)
    with torch.no_grad():
        assert torch.equal(attention(features), features)  # its share is 0 at first
        attention.share.fill_(0.5)
        outputs = attention(features).numpy()

    def apply_layer(layer: nn.Conv2d, x: Float32Array) -> Float32Array:
        assert layer.bias is not None
        result: Float32Array = (
            layer.weight.detach().numpy()[:, :, 0, 0] @ x + layer.bias.detach().numpy()[:, None]
        )
        return result

    pairs = zip(features.numpy().reshape(2, 16, 12), outputs.reshape(2, 16, 12), strict=True)
    for x, output in pairs:
        scores = apply_layer(attention.query, x).T @ apply_layer(attention.key, x)
        weights = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        expected = x + 0.5 * apply_layer(attention.value, x) @ weights.T
        np.testing.assert_allclose(output, expected, atol=1e-5)


def test_the_hinge_loss_equals_numpy() -> None:
    plain, generated = np.array([-2.0, 0.5, 3.0]), np.array([-3.0, 0.0, 2.0])
    expected = np.maximum(0, 1 - plain).mean() + np.maximum(0, 1 + generated).mean()
    assert float(sia_gan.hinge_loss(torch.tensor(plain), torch.tensor(generated))) == pytest.approx(
        expected
    )


@pytest.mark.long
def test_the_generator_learns_64_images() -> None:
    """Trained on pairs, by mean squared error: a fifth of the first loss after 20 steps."""
    sealed, plain, spec = sealed_and_public(64, 8)
    # How fast it learns depends on the key; 20 steps are enough for this one.
    sealed = load(spec).cipher(SecretKey(bytes(range(1, 33)))).encrypt(plain)
    with device.seeded_torch(0):
        generator = sia_gan.build_generator(spec)
    optimiser = torch.optim.Adam(generator.parameters(), lr=0.01)
    inputs, targets = (to_model_input(torch.from_numpy(a)).contiguous() for a in (sealed, plain))
    losses = []
    for _ in range(20):
        loss = (generator(inputs) - targets).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 5, (losses[0], losses[-1])


def test_it_trains_with_and_without_labels_and_resumes(tmp_path: Path) -> None:
    sealed, plain, spec = sealed_and_public(16, 8)
    labels = np.arange(16) % 3
    options: dict[str, Any] = {"spec": spec, "config": TrainingConfig(2, 8), "width": 16}
    unbroken, progress = sia_gan.train(sealed, plain, labels, **options)
    assert set(progress.losses) == {"discriminator", "generator", "classifier"} and progress.steps == 4

    def stop(generator: nn.Module, progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sia_gan.train(sealed, plain, labels, **options, checkpoint=tmp_path / "kept", on_epoch=stop)
    resumed, _ = sia_gan.train(sealed, plain, labels, **options, checkpoint=tmp_path / "kept")
    for name, value in unbroken.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    unlabelled, progress = sia_gan.train(sealed, plain, None, **options)
    assert set(progress.losses) == {"discriminator", "generator"}
    # The classifier's loss changes the generator.
    name = "last.parametrizations.weight.original"
    assert not torch.equal(unlabelled.state_dict()[name], unbroken.state_dict()[name])
