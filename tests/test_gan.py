"""The GAN attack and SIA-GAN: layers, losses, steps, what stops them, and that their generators learn."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_pictures import waves
from torch import nn
from typer.testing import CliRunner

from coordinator.adversary import gan, sia_gan, training_loop
from coordinator.adversary.knowledge import Budget, Knowledge
from coordinator.adversary.sia_networks import BlockNetworks, Discriminator, Places, SelfAttention
from coordinator.adversary.training_loop import Course
from coordinator.pool import MemoryPool
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.scheme import describe, load

LE = describe("le", (32, 32, 3), 4)
KEY = SecretKey(bytes([3]) * 32)


def layers(network: nn.Module) -> list[str]:
    """Each layer without parts: its kind, channels in and out, kernel, stride."""
    found = []
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            found.append(
                f"conv {layer.in_channels}-{layer.out_channels} {layer.kernel_size[0]}/{layer.stride[0]}"
            )
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            found.append(f"bn {layer.num_features}")
        elif isinstance(layer, nn.LeakyReLU):
            found.append(f"leaky {layer.negative_slope}")
        elif isinstance(layer, nn.ReLU | nn.PixelShuffle | nn.Tanh | nn.Sigmoid | nn.MaxPool2d):
            found.append(type(layer).__name__)
    return found


def size(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def sealed_and_public(n: int, side: int, scheme: str = "le") -> tuple[np.ndarray, np.ndarray, object]:
    plain = waves(2 * n, side, seed=4)
    spec = describe(scheme, plain.shape[1:], 4)
    return load(spec).cipher(KEY).encrypt(plain[:n]), plain[n:], spec


# ---- the GAN attack: networks ---------------------------------------------------------------------------


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


# ---- SIA-GAN: networks ----------------------------------------------------------------------------------


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


# ---- the attacks ----------------------------------------------------------------------------------------


def knowledge(n: int, public: int, side: int = 24, seconds: float = 60.0, **more) -> Knowledge:
    sealed, plain, spec = sealed_and_public(max(n, public, 3), side)
    return Knowledge(
        MemoryPool(spec, sealed), np.arange(n), np.arange(3), Budget(seconds), plain[:public], **more
    )


@pytest.mark.parametrize("attack", [gan.attack, sia_gan.attack])
def test_too_few_images_and_no_time_give_the_picture_and_a_note(attack):
    for given, note in (
        (knowledge(63, 64), "needs 64 ciphertexts, has 63"),
        (knowledge(64, 63), "needs 64 public images, has 63"),
        (knowledge(64, 64, seconds=0.0), "truncated: 0 of"),
    ):
        guess = attack(given)
        assert note in guess.note and guess.tier == "T2" and guess.key is None
        assert (guess.images == given.pool.images(given.rows)).all()


def test_pictures_that_a_discriminator_cannot_take_are_refused():
    with pytest.raises(CipherwardError, match=r"GAN attack cannot take pictures of 20×20.*at least 24"):
        gan.attack(knowledge(64, 64, 20))
    small = describe("le", (4, 4, 3), 4)
    with pytest.raises(CipherwardError, match="SIA-GAN cannot take pictures of 4×4"):
        sia_gan.attack(
            Knowledge(MemoryPool(small, np.zeros((3, 4, 4, 3), np.uint8)), np.arange(3), np.arange(3))
        )
    sealed, plain, spec = sealed_and_public(4, 24)
    with pytest.raises(CipherwardError, match="make no batch of 64"):
        gan.train(sealed, plain, spec)


def test_the_attacks_guess_by_what_was_trained(monkeypatch):
    monkeypatch.setattr(gan, "PUBLISHED", Course(1, 64))
    monkeypatch.setattr(sia_gan, "PUBLISHED", Course(1, 64))
    train, used = sia_gan.train, {}
    monkeypatch.setattr(gan.train, "__defaults__", (Course(1, 64), *gan.train.__defaults__[1:]))
    guess = gan.attack(knowledge(64, 64, 24))
    assert guess.note == "" and guess.images.shape == (3, 24, 24, 3) and guess.images.dtype == np.uint8
    again = gan.attack(knowledge(64, 64, 24))
    assert (again.images == guess.images).all()

    def small(*given, **more):
        used["labels"] = given[2]
        return train(*given, **more, course=Course(1, 64), width=16)

    monkeypatch.setattr(sia_gan, "train", small)
    labels = np.arange(70) % 5
    guess = sia_gan.attack(knowledge(70, 64, 8, labels=labels))
    assert guess.note == "" and guess.images.shape == (3, 8, 8, 3)
    assert (used["labels"] == labels).all()
    assert "no labels: the adversarial loss alone" in sia_gan.attack(knowledge(64, 64, 8)).note


def test_faded_guesses_get_the_tones_of_public_images():
    plain = waves(40, 16).astype(np.float64)
    faded = (0.3 * plain + np.array([90.0, 60.0, 30.0])).round().astype(np.uint8)
    public = waves(40, 16)
    back = gan.toned(faded[:5], faded, public)
    assert back.dtype == np.uint8 and back.shape == (5, 16, 16, 3)
    assert (
        np.abs(back.astype(int) - public[:5]).max() <= 3 < np.abs(faded[:5].astype(int) - public[:5]).max()
    )
    # A generator that makes one gray of everything is told by nothing, and divides by nothing.
    assert (
        np.ptp(
            gan.toned(np.full((2, 16, 16, 3), 7, np.uint8), np.full((4, 16, 16, 3), 7, np.uint8), public)[
                ..., 0
            ]
        )
        == 0
    )


def test_long_trainings_run_by_name_only(make_sealed, tmp_path, monkeypatch):
    from coordinator import cli
    from coordinator.adversary import suite

    ran: list[list[str]] = []
    monkeypatch.setattr(
        suite, "run_suite", lambda sets, out, settings, *_, **__: ran.append(settings.attacks) or []
    )
    sealed = make_sealed("train", waves(8, 16), np.zeros(8, np.int64))
    (tmp_path / "public").mkdir()
    Image.fromarray(waves(1, 16)[0]).save(tmp_path / "public" / "a.png")
    given = ["attack", str(sealed.folder), "--public", str(tmp_path / "public")]
    for more in ([], ["--attacks", "gan,sia_gan,itn"]):
        done = CliRunner().invoke(cli.app, [*given, *more])
        assert done.exit_code == 0, (done.output, done.exception)
    by_default, named = ran
    assert "moment_matching" in by_default and not {"gan", "sia_gan", "itn"} & set(by_default)
    assert named == ["gan", "sia_gan", "itn"]


@pytest.mark.slow
def test_the_gan_attack_opens_real_ciphertexts_of_le():
    """CIFAR-10, 150 steps: well above the mean image, where the ciphertext is far below it."""
    folder = Path(os.environ.get("CIPHERWARD_DATA", ""))
    if not os.environ.get("CIPHERWARD_DATA") or not (folder / "cifar10_jpeg.npz").exists():
        pytest.skip("no real images: set CIPHERWARD_DATA to a folder that holds cifar10_jpeg.npz")
    import importlib.util

    place = Path(__file__).parents[1] / "benchmarks" / "gan.py"
    described = importlib.util.spec_from_file_location("gan_benchmark", place)
    benchmark = importlib.util.module_from_spec(described)
    described.loader.exec_module(benchmark)
    drawn, plain = benchmark.read(folder, False, 9600, 0), benchmark.read(folder, True, 100, 0)
    cipher = load(LE).cipher(KEY)
    generator, progress = gan.train(cipher.encrypt(drawn[:4800]), drawn[4800:], LE, Course(2, 64))
    opened = benchmark.medians(training_loop.pictures(generator, cipher.encrypt(plain)), plain)
    mean = np.repeat(drawn[4800:].mean(0, keepdims=True).round().astype(np.uint8), 100, axis=0)
    assert progress.steps == 150 and opened["ssim"] > benchmark.medians(mean, plain)["ssim"] + 0.2
