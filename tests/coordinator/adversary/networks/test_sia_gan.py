"""SIA-GAN: networks, losses, training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from coordinator.adversary.networks import sia_gan, training_loop
from coordinator.adversary.networks.sia_networks import BlockNetworks, Discriminator, Places, SelfAttention
from coordinator.adversary.networks.training_loop import Course
from crypto.scheme import describe, load
from tests.support.networks import KEY, LE, layers, sealed_and_public, size


def test_the_generator_of_sia_gan_is_the_source_s():
    generator = sia_gan.generator_of(LE)
    unit = ["conv 64-64 3/1", "bn 64"]
    expected = ["bn 16384", "PixelShuffle", "conv 16-64 3/1", "bn 64"]
    expected += 3 * [*unit, "leaky 0.1", *unit] + [*unit, "conv 64-3 3/1"]
    assert layers(generator) == expected
    blocks = 64 * 256 * 48 + 2 * 64 * 256
    decoder = 9 * (16 * 64 + 7 * 64 * 64 + 64 * 3) + 8 * 128
    assert size(generator) == blocks + decoder == 1089216
    assert generator(torch.zeros(2, 3, 32, 32)).shape == (2, 3, 32, 32)
    assert isinstance(generator.places, nn.Identity)


def test_the_generator_of_sia_gan_for_other_schemes():
    pe = sia_gan.generator_of(describe("pe", (16, 16, 3), 4))
    assert pe.blocks.weight.shape == (256, 16, 3)  # a network for every pixel
    big = sia_gan.generator_of(describe("block_pixel_shuffle", (224, 224, 1), 16))
    assert not big.own and big.blocks.weight.shape == (1, 4096, 256)
    assert isinstance(big.places, Places) and big.places.logits.shape == (196, 196)
    assert not sia_gan.moves_blocks(describe("ele", (32, 32, 3), 4))
    assert not sia_gan.moves_blocks(describe("value_shuffle", (32, 32, 3), 8))


@pytest.mark.parametrize("own", [True, False])
def test_the_blocks_networks_are_convolutions_each_with_its_own_norms(own):
    torch.manual_seed(0)
    networks = BlockNetworks(2, 4, (2, 3), own)
    images = torch.randn(5, 2, 8, 12)
    before = [np.asarray(part.clone()) for part in (networks.left,)]
    with torch.no_grad():
        found = networks(images)
    for i in range(6):
        y, x = divmod(i, 3)
        weight = networks.weight.detach()[i if own else 0].numpy().astype(np.float64)
        left = before[0][i if own else 0].astype(np.float64)
        right = weight.T @ left
        right /= np.linalg.norm(right)
        left = weight @ right
        left /= np.linalg.norm(left)
        kernel = torch.tensor(weight / (left.T @ weight @ right)).reshape(256, 2, 4, 4).float()
        piece = nn.functional.conv2d(images[:, :, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4], kernel)[:, :, 0, 0]
        if own:
            piece = (piece - piece.mean(0)) / torch.sqrt(piece.var(0, unbiased=False) + 1e-5)
            piece = torch.where(piece > 0, piece, 0.1 * piece)
            np.testing.assert_allclose(found[:, :, y, x], piece, atol=2e-4)
        else:
            flat = found[:, :, y, x]
            flat = torch.where(flat > 0, flat, 10 * flat)
            # A norm over all blocks: a linear function of what the convolution gives, the same for all of them.
            slope = torch.cov(torch.stack([flat[:, 0], piece[:, 0]]))
            assert float(slope[0, 1] ** 2 / (slope[0, 0] * slope[1, 1])) > 0.9999


def test_weights_are_divided_by_their_largest_singular_value():
    networks = BlockNetworks(3, 2, (1, 2), True)
    with torch.no_grad():
        for _ in range(200):
            maps = networks.maps()
        np.testing.assert_allclose(torch.linalg.matrix_norm(maps, 2), [1.0, 1.0], atol=1e-3)
        networks.eval()
        kept = networks.left.clone()
        networks.maps()
        assert torch.equal(kept, networks.left)


def test_places_are_doubly_stochastic_and_move_cells():
    torch.manual_seed(0)
    places = Places(12)
    matrix = places.matrix().detach()
    np.testing.assert_allclose(matrix.sum(0), np.ones(12), atol=1e-3)
    np.testing.assert_allclose(matrix.sum(1), np.ones(12), atol=1e-3)
    order = torch.randperm(12)
    with torch.no_grad():
        places.logits.copy_(30.0 * nn.functional.one_hot(order, 12))
    cells = torch.arange(12.0).reshape(1, 1, 3, 4)
    moved = places(cells).detach().flatten()
    np.testing.assert_allclose(moved[order], np.arange(12.0), atol=1e-3)  # cell i stands at order[i]


def test_places_learn_where_blocks_belong():
    torch.manual_seed(1)
    places, order = Places(9), torch.randperm(9)
    cells = torch.randn(64, 4, 3, 3)
    wanted = cells.flatten(2)[:, :, order].reshape(cells.shape)
    optimiser = torch.optim.Adam(places.parameters(), lr=0.3)
    for _ in range(60):
        optimiser.zero_grad()
        (places(cells) - wanted).square().mean().backward()
        optimiser.step()
    assert (places.matrix().argmax(0) == order).all()


def test_the_discriminator_of_sia_gan_is_the_source_s():
    judge = Discriminator((32, 32, 3))
    expected = []
    for ins, outs in ((3, 128), (128, 256), (256, 512)):
        expected += [f"conv {ins}-{outs} 3/1", "leaky 0.1", f"conv {outs}-{outs} 4/2", "leaky 0.1"]
    expected += ["conv 512-64 1/1", "conv 512-64 1/1", "conv 512-512 1/1", "conv 512-1024 3/1"]
    assert layers(judge) == [*expected, "conv 1024-128 1/1", "conv 1024-128 1/1", "conv 1024-1024 1/1"]
    stages = sum(9 * i * o + o + 16 * o * o + o for i, o in ((3, 128), (128, 256), (256, 512)))
    attention = sum(2 * (f * f // 8 + f // 8) + f * f + f + 1 for f in (512, 1024))
    assert size(judge) == stages + attention + (9 * 512 * 1024 + 1024) + (16 * 1024 + 1) == 13361155
    with torch.no_grad():
        assert judge(torch.zeros(2, 3, 32, 32)).shape == (2,)
        assert Discriminator((24, 40, 1), 16)(torch.zeros(2, 1, 24, 40)).shape == (2,)


def test_self_attention_is_that_of_numpy():
    torch.manual_seed(0)
    attention = SelfAttention(16)
    features = torch.randn(2, 16, 3, 4)
    with torch.no_grad():
        assert torch.equal(attention(features), features)  # its share is 0 at first
        attention.share.fill_(0.5)
        found = attention(features).numpy()

    def by(layer: nn.Conv2d, x: np.ndarray) -> np.ndarray:
        return layer.weight.detach().numpy()[:, :, 0, 0] @ x + layer.bias.detach().numpy()[:, None]

    for given, got in zip(features.numpy().reshape(2, 16, 12), found.reshape(2, 16, 12), strict=True):
        scores = by(attention.query, given).T @ by(attention.key, given)
        weights = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        np.testing.assert_allclose(got, given + 0.5 * by(attention.value, given) @ weights.T, atol=1e-5)


def test_the_hinge_loss_is_that_of_numpy():
    plain, made = np.array([-2.0, 0.5, 3.0]), np.array([-3.0, 0.0, 2.0])
    expected = np.maximum(0, 1 - plain).mean() + np.maximum(0, 1 + made).mean()
    assert float(sia_gan.hinge(torch.tensor(plain), torch.tensor(made))) == pytest.approx(expected)


def test_the_generator_of_sia_gan_learns_64_images():
    """Paired, by mean squared error: a fifth of what it begins with, in 20 steps."""
    sealed, plain, spec = sealed_and_public(64, 8)
    sealed = load(spec).cipher(KEY).encrypt(plain)
    with training_loop.weights_from(0):
        generator = sia_gan.generator_of(spec)
    optimiser = torch.optim.Adam(generator.parameters(), lr=0.01)
    inputs, wanted = (training_loop.scaled(torch.from_numpy(a)).contiguous() for a in (sealed, plain))
    losses = []
    for _ in range(20):
        loss = (generator(inputs) - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 5, (losses[0], losses[-1])


def test_sia_gan_trains_with_and_without_labels_and_goes_on(tmp_path):
    sealed, plain, spec = sealed_and_public(16, 8)
    labels = np.arange(16) % 3
    given = {"spec": spec, "course": Course(2, 8), "width": 16}
    whole, progress = sia_gan.train(sealed, plain, labels, **given)
    assert set(progress.losses) == {"discriminator", "generator", "classifier"} and progress.steps == 4

    def stop(generator: nn.Module, progress: training_loop.Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sia_gan.train(sealed, plain, labels, **given, checkpoint=tmp_path / "kept", told=stop)
    again, _ = sia_gan.train(sealed, plain, labels, **given, checkpoint=tmp_path / "kept")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    bare, progress = sia_gan.train(sealed, plain, None, **given)
    assert set(progress.losses) == {"discriminator", "generator"}
    # The classifier's loss is no ornament: it changes the generator.
    assert not torch.equal(bare.last.weight, whole.last.weight)
