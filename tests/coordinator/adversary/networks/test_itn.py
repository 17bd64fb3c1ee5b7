"""The inverse transformation network: layers, the adversary's own keys, the range of its pictures, that it learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from coordinator.adversary.contract import Budget, Knowledge
from coordinator.adversary.networks import itn, training_loop
from coordinator.adversary.networks.training_loop import Course
from coordinator.exchange.pool import MemoryPool
from crypto.errors import CipherwardError
from crypto.scheme import describe
from tests.support.small_pictures import waves

LE = describe("le", (16, 16, 3), 4)


def test_the_u_net_is_that_of_64_to_1024_channels():
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
    twice = lambda i, o: 9 * i * o + 9 * o * o + 6 * o  # noqa: E731 - two convolutions with bias, two batch norms
    weights = sum(twice(i, o) for i, o in ((3, 64), (64, 128), (128, 256), (256, 512), (512, 1024)))
    weights += sum(18 * o * o + 3 * o + twice(2 * o, o) for o in (64, 128, 256, 512)) + 64 * 3 + 3
    assert sum(p.numel() for p in network.parameters()) == weights == 34527171


def test_the_u_net_keeps_sizes_and_stays_within_0_and_1():
    network = itn.UNet(1, 2).eval()
    with torch.no_grad():
        made = network(torch.randn(2, 1, 32, 48) * 100)
    assert made.shape == (2, 1, 32, 48) and float(made.min()) >= 0 and float(made.max()) <= 1


def test_what_goes_down_meets_what_comes_up():
    """Without any of the four connections, a change of one pixel would not stay in its place."""
    torch.manual_seed(0)
    network = itn.UNet(1, 4).eval()
    given = torch.randn(1, 1, 32, 32)
    for level in range(4):
        zeroed = itn.UNet(1, 4).eval()
        zeroed.load_state_dict(network.state_dict())
        with torch.no_grad():
            zeroed.up[level][0].weight[:, : 4 * 2**level] = 0  # the half that was passed across
            assert not torch.equal(zeroed(given), network(given)), level


def test_every_image_is_sealed_under_a_key_of_its_own():
    same = np.repeat(waves(1, 16, 3), 6, axis=0)
    sealed = itn.seal_each(same, LE, seed=1, epoch=0, first=0)
    assert sealed.shape == same.shape and sealed.dtype == np.uint8
    assert len(np.unique(sealed.reshape(6, -1), axis=0)) == 6
    assert (itn.seal_each(same, LE, 1, 0, 0) == sealed).all()
    assert (itn.seal_each(same[2:], LE, 1, 0, 2) == sealed[2:]).all()
    for other in ((2, 0, 0), (1, 1, 0), (1, 0, 6)):
        assert (itn.seal_each(same, LE, *other) != sealed).any(axis=(1, 2, 3)).all(), other


def test_ciphertexts_in_another_shape_are_pictured():
    spec = describe("etc", (16, 16, 3), 8, options={"form": "gray"})
    assert itn.seal_each(waves(2, 16, 3), spec, 0, 0, 0).shape == (2, 16, 16, 3)


def test_the_loss_is_that_of_numpy(tmp_path):
    plain = waves(4, 16, 3)
    _, progress = itn.train(plain, LE, Course(1, 4, 7), width=2)
    with training_loop.weights_from(7):
        network = itn.UNet(3, 2)
    order = np.random.default_rng([7, 0]).permutation(4)
    sealed = itn.seal_each(plain[order], LE, 7, 0, 0)
    with torch.no_grad():
        made = network(torch.tensor(sealed.transpose(0, 3, 1, 2) / 127.5 - 1).float()).numpy()
    expected = np.mean((made - plain[order].transpose(0, 3, 1, 2) / 255.0) ** 2)
    assert progress.losses["squared_error"] == pytest.approx(expected, rel=1e-5)


def test_it_learns_64_images_in_their_own_range():
    """Unsealed, so that one way back fits all: a tenth of the first epoch's loss, and pictures as bright."""
    spec, plain = describe("plain", (16, 16, 1), 8), waves(64, 16, 1)
    losses: list[float] = []
    tell = lambda network, progress: losses.append(progress.losses["squared_error"])  # noqa: E731
    network, progress = itn.train(plain, spec, Course(15, 16), told=tell, width=6)
    assert progress.steps == 60 and losses[-1] < losses[0] / 10, (losses[0], losses[-1])
    opened = training_loop.pictures(network, plain, lowest=0.0).astype(int)
    assert abs(opened.mean() - plain.mean()) < 4 and abs(opened.std() - plain.std()) < 6
    assert np.abs(opened - plain).mean() < 12


@pytest.mark.slow
def test_it_learns_what_all_keys_leave():
    """A shuffle within blocks leaves their mean: well below the error of the mean image, under keys it never saw."""
    spec, plain, others = (
        describe("value_shuffle", (16, 16, 1), 4),
        waves(64, 16, 1),
        waves(16, 16, 1, seed=1),
    )
    network, _ = itn.train(plain, spec, Course(12, 16), width=6)
    sealed = itn.seal_each(others, spec, seed=99, epoch=0, first=0)
    opened = training_loop.pictures(network, sealed, lowest=0.0).astype(float)
    error, floor = ((guess - others) ** 2 for guess in (opened, plain.mean(0)))
    assert error.mean() < 0.6 * floor.mean(), (error.mean(), floor.mean())


def test_it_slows_down_and_goes_on(tmp_path):
    plain, course = waves(2, 16, 1), Course(3, 2)
    spec = describe("plain", (16, 16, 1), 8)
    whole, _ = itn.train(plain, spec, course, width=1)

    def stop(network: nn.Module, progress: training_loop.Progress) -> None:
        if progress.epochs == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        itn.train(plain, spec, course, checkpoint=tmp_path / "kept", told=stop, width=1)
    again, _ = itn.train(plain, spec, course, checkpoint=tmp_path / "kept", width=1)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    kept = torch.load(tmp_path / "kept", weights_only=True)["parts"]
    rates, group = kept["rates"], kept["optimiser"]["param_groups"][0]
    assert (sorted(rates["milestones"]), rates["gamma"], rates["last_epoch"]) == ([60, 120, 160], 0.2, 3)
    assert (group["momentum"], group["weight_decay"], group["initial_lr"]) == (0.9, 5e-4, 0.1)


def knowledge(public: np.ndarray | None, side: int = 16, seconds: float = 60.0) -> Knowledge:
    spec = describe("le", (side, side, 3), 4)
    sealed = itn.seal_each(waves(3, side, seed=9), spec, 5, 5, 5)
    return Knowledge(MemoryPool(spec, sealed), np.arange(1), np.arange(3), Budget(seconds), public)


def test_too_few_images_and_no_time_give_the_picture_and_a_note():
    public = waves(128, 16, 3)
    for given, note in (
        (knowledge(None), "needs 128 public images, has 0"),
        (knowledge(public[:127]), "needs 128 public images, has 127"),
        (knowledge(public, seconds=0.0), "truncated: 0 of 200 epochs"),
    ):
        guess = itn.attack(given)
        assert guess.note.startswith(note) and guess.key is None
        assert (guess.images == given.pool.images(given.rows)).all()


def test_sizes_that_the_u_net_cannot_take_are_refused():
    with pytest.raises(CipherwardError, match=r"cannot take pictures of 20×20.*multiples of 16"):
        itn.attack(knowledge(waves(128, 20, 3), 20))
    with pytest.raises(CipherwardError, match="make no batch of 128"):
        itn.train(waves(3, 16, 3), LE)


def test_the_attack_guesses_by_what_was_trained(monkeypatch):
    train = itn.train
    small = lambda *given, **more: train(*given, **more, course=Course(2, 64), width=4)  # noqa: E731
    monkeypatch.setattr(itn, "train", small)
    given = knowledge(waves(128, 16, 3))
    guess = itn.attack(given)
    assert guess.note == "" and guess.images.shape == (3, 16, 16, 3) and guess.images.dtype == np.uint8
    assert (guess.images != given.pool.images(given.rows)).any()
    assert (itn.attack(given).images == guess.images).all()
    assert abs(guess.images.mean() - given.public.mean()) < 30  # not the upper half of the range
