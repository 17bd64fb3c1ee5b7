"""The inverse transformation network: layers, the adversary's own keys, the range of its outputs, learning."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from torch import nn

from coordinator.adversary.contract import Budget, Knowledge
from coordinator.adversary.networks import device, itn
from coordinator.adversary.networks.training_loop import Progress, TrainingConfig
from coordinator.exchange.pool import MemoryPool
from crypto.arrays import Images
from crypto.errors import CipherwardError
from crypto.scheme import describe
from crypto.spec import SchemeSpec
from tests.support.small_pictures import waves

LE = describe("le", (16, 16, 3), 4)


def test_the_u_net_has_64_to_1024_channels() -> None:
    network = itn.UNet(3)
    convolutions = [
        (m.in_channels, m.out_channels, m.kernel_size[0])
        for m in network.modules()
        if isinstance(m, nn.Conv2d)
    ]
    down = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256)]
    down += [(256, 512), (512, 512), (512, 1024), (1024, 1024)]
    assert convolutions[:10] == [(*pair, 3) for pair in down] and convolutions[-1] == (64, 3, 1)
    assert sorted(convolutions[10:14]) == [(128, 64, 3), (256, 128, 3), (512, 256, 3), (1024, 512, 3)]

    def double(ins: int, outs: int) -> int:
        """Return the weights of two convolutions with bias and two batch norms."""
        return 9 * ins * outs + 9 * outs * outs + 6 * outs

    weights = sum(double(i, o) for i, o in ((3, 64), (64, 128), (128, 256), (256, 512), (512, 1024)))
    weights += sum(18 * o * o + 3 * o + double(2 * o, o) for o in (64, 128, 256, 512)) + 64 * 3 + 3
    assert sum(p.numel() for p in network.parameters()) == weights == 34527171


def test_the_u_net_keeps_sizes_and_stays_within_0_and_1() -> None:
    network = itn.UNet(1, 2).eval()
    with torch.no_grad():
        outputs = network(torch.randn(2, 1, 32, 48) * 100)
    assert outputs.shape == (2, 1, 32, 48) and float(outputs.min()) >= 0 and float(outputs.max()) <= 1


def test_every_skip_connection_changes_the_output() -> None:
    """Without any of the four connections, a change of one pixel would not stay in its place."""
    torch.manual_seed(0)
    network = itn.UNet(1, 4).eval()
    image = torch.randn(1, 1, 32, 32)
    for level in range(4):
        zeroed = itn.UNet(1, 4).eval()
        zeroed.load_state_dict(network.state_dict())
        with torch.no_grad():
            convolution = cast(nn.Sequential, zeroed.up[level])[0]
            assert isinstance(convolution, nn.Conv2d)
            convolution.weight[:, : 4 * 2**level] = 0  # the half that the connection brings
            assert not torch.equal(zeroed(image), network(image)), level


def test_every_image_is_sealed_under_a_key_of_its_own() -> None:
    same = np.repeat(waves(1, 16, 3), 6, axis=0)
    sealed = itn.seal_under_fresh_keys(same, LE, seed=1, epoch=0, first=0)
    assert sealed.shape == same.shape and sealed.dtype == np.uint8
    assert len(np.unique(sealed.reshape(6, -1), axis=0)) == 6
    assert (itn.seal_under_fresh_keys(same, LE, 1, 0, 0) == sealed).all()
    assert (itn.seal_under_fresh_keys(same[2:], LE, 1, 0, 2) == sealed[2:]).all()
    for other in ((2, 0, 0), (1, 1, 0), (1, 0, 6)):
        assert (itn.seal_under_fresh_keys(same, LE, *other) != sealed).any(axis=(1, 2, 3)).all(), other


def test_ciphertexts_in_another_shape_are_pictured() -> None:
    spec = describe("etc", (16, 16, 3), 8, options={"form": "gray"})
    assert itn.seal_under_fresh_keys(waves(2, 16, 3), spec, 0, 0, 0).shape == (2, 16, 16, 3)


def test_the_loss_equals_numpy() -> None:
    plain = waves(4, 16, 3)
    _, progress = itn.train(plain, LE, TrainingConfig(1, 4, 7), width=2)
    with device.seeded_torch(7):
        network = itn.UNet(3, 2)
    order = np.random.default_rng([7, 0]).permutation(4)
    sealed = itn.seal_under_fresh_keys(plain[order], LE, 7, 0, 0)
    with torch.no_grad():
        outputs = network(torch.tensor(sealed.transpose(0, 3, 1, 2) / 127.5 - 1).float()).numpy()
    expected = np.mean((outputs - plain[order].transpose(0, 3, 1, 2) / 255.0) ** 2)
    assert progress.losses["squared_error"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.long
def test_it_learns_64_images_in_their_own_range() -> None:
    """Unsealed, so that one way back fits all: a tenth of the first epoch's loss, and equally bright pictures."""
    spec, plain = describe("plain", (16, 16, 1), 8), waves(64, 16, 1)
    losses: list[float] = []

    def keep_loss(_: nn.Module, progress: Progress) -> None:
        losses.append(progress.losses["squared_error"])

    network, progress = itn.train(plain, spec, TrainingConfig(15, 16), on_epoch=keep_loss, width=6)
    assert progress.steps == 60 and losses[-1] < losses[0] / 10, (losses[0], losses[-1])
    opened = device.decode_images(network, plain, lowest=0.0).astype(int)
    assert abs(opened.mean() - plain.mean()) < 4 and abs(opened.std() - plain.std()) < 6
    assert np.abs(opened - plain).mean() < 12


@pytest.mark.slow
def test_it_learns_what_all_keys_leave_unchanged() -> None:
    """A shuffle within blocks leaves their mean: far below the error of the mean image, under keys it never saw."""
    spec, plain, others = (
        describe("value_shuffle", (16, 16, 1), 4),
        waves(64, 16, 1),
        waves(16, 16, 1, seed=1),
    )
    network, _ = itn.train(plain, spec, TrainingConfig(12, 16), width=6)
    sealed = itn.seal_under_fresh_keys(others, spec, seed=99, epoch=0, first=0)
    opened = device.decode_images(network, sealed, lowest=0.0).astype(float)
    error, floor = ((guess - others) ** 2 for guess in (opened, plain.mean(0)))
    assert error.mean() < 0.6 * floor.mean(), (error.mean(), floor.mean())


def test_learning_rates_fall_and_a_resumed_training_equals_an_unbroken_one(tmp_path: Path) -> None:
    plain, config = waves(2, 16, 1), TrainingConfig(3, 2)
    spec = describe("plain", (16, 16, 1), 8)
    unbroken, _ = itn.train(plain, spec, config, width=1)

    def stop(network: nn.Module, progress: Progress) -> None:
        if progress.epochs == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        itn.train(plain, spec, config, checkpoint=tmp_path / "kept", on_epoch=stop, width=1)
    resumed, _ = itn.train(plain, spec, config, checkpoint=tmp_path / "kept", width=1)
    for name, value in unbroken.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    stored = torch.load(tmp_path / "kept", weights_only=True)["parts"]
    rates, group = stored["rates"], stored["optimiser"]["param_groups"][0]
    assert (sorted(rates["milestones"]), rates["gamma"], rates["last_epoch"]) == ([60, 120, 160], 0.2, 3)
    assert (group["momentum"], group["weight_decay"], group["initial_lr"]) == (0.9, 5e-4, 0.1)


def make_knowledge(public: Images | None, side: int = 16, seconds: float = 60.0) -> Knowledge:
    spec = describe("le", (side, side, 3), 4)
    sealed = itn.seal_under_fresh_keys(waves(3, side, seed=9), spec, 5, 5, 5)
    return Knowledge(MemoryPool(spec, sealed), np.arange(1), np.arange(3), Budget(seconds), public)


def test_without_images_or_time_the_guess_is_the_picture_with_a_note() -> None:
    public = waves(128, 16, 3)
    for knowledge, note in (
        (make_knowledge(None), "needs 128 public images, has 0"),
        (make_knowledge(public[:127]), "needs 128 public images, has 127"),
        (make_knowledge(public, seconds=0.0), "truncated: 0 of 200 epochs"),
    ):
        guess = itn.attack(knowledge)
        assert guess.note.startswith(note) and guess.key is None
        assert (guess.images == knowledge.pool.images(knowledge.rows)).all()


def test_sizes_that_the_u_net_cannot_take_are_refused() -> None:
    with pytest.raises(CipherwardError, match=r"cannot take pictures of 20×20.*multiples of 16"):
        itn.attack(make_knowledge(waves(128, 20, 3), 20))
    with pytest.raises(CipherwardError, match="make no batch of 128"):
        itn.train(waves(3, 16, 3), LE)


def test_the_attack_guesses_by_the_trained_network(monkeypatch: pytest.MonkeyPatch) -> None:
    train = itn.train

    def train_small(public: Images, spec: SchemeSpec, budget: Budget) -> tuple[itn.UNet, Progress]:
        return train(public, spec, TrainingConfig(2, 64), budget, width=4)

    monkeypatch.setattr(itn, "train", train_small)
    knowledge = make_knowledge(waves(128, 16, 3))
    guess = itn.attack(knowledge)
    assert guess.note == "" and guess.images.shape == (3, 16, 16, 3) and guess.images.dtype == np.uint8
    assert (guess.images != knowledge.pool.images(knowledge.rows)).any()
    assert (itn.attack(knowledge).images == guess.images).all()
    assert knowledge.public is not None
    assert abs(guess.images.mean() - knowledge.public.mean()) < 30  # not the upper half of the range
