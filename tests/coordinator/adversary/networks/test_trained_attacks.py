"""The attacks by trained networks as they are run."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from coordinator.adversary.contract import Budget, Knowledge
from coordinator.adversary.networks import gan, sia_gan, training_loop
from coordinator.adversary.networks.training_loop import Course
from coordinator.exchange.pool import MemoryPool
from crypto.errors import CipherwardError
from crypto.scheme import describe, load
from tests.support.networks import KEY, LE, sealed_and_public
from tests.support.small_pictures import waves


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
        assert note in guess.note and guess.key is None
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
    from coordinator.adversary.run import suite
    from coordinator.cli import app as cli

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
    from benchmarks import gan as benchmark

    drawn, plain = benchmark.read(folder, False, 9600, 0), benchmark.read(folder, True, 100, 0)
    cipher = load(LE).cipher(KEY)
    generator, progress = gan.train(cipher.encrypt(drawn[:4800]), drawn[4800:], LE, Course(2, 64))
    opened = benchmark.medians(training_loop.pictures(generator, cipher.encrypt(plain)), plain)
    mean = np.repeat(drawn[4800:].mean(0, keepdims=True).round().astype(np.uint8), 100, axis=0)
    assert progress.steps == 150 and opened["ssim"] > benchmark.medians(mean, plain)["ssim"] + 0.2
