"""Training for attacks: batches, the time budget, checkpoints, and resumed trainings that equal unbroken ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from coordinator.adversary.contract import Budget, Knowledge
from coordinator.adversary.networks import device, training_loop
from coordinator.adversary.networks.training_loop import Progress, TrainingConfig
from coordinator.exchange.pool import MemoryPool
from coordinator.model.model_input import to_model_input
from crypto.errors import CipherwardError
from crypto.scheme import describe
from tests.support.networks import SmallTraining
from tests.support.paths import ROOT

CONFIG = SmallTraining.CONFIG


def test_a_training_depends_on_its_seed_alone() -> None:
    first, second, other = SmallTraining(), SmallTraining(), SmallTraining(TrainingConfig(3, 4, 6))
    before = torch.get_rng_state()
    assert first.run() == second.run()
    other.run()
    assert (first.weights == second.weights).all()
    assert not np.array_equal(first.weights, other.weights)
    assert len({tuple(order) for order in [*first.orders, *other.orders]}) == 6  # every epoch has its own
    SmallTraining()
    # Building networks leaves torch's own generator alone.
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("stop_after", [2, 4, 7])
def test_a_resumed_training_equals_an_unbroken_one_to_the_last_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    unbroken = SmallTraining()
    progress = unbroken.run()
    monkeypatch.setattr(training_loop, "CHECKPOINT_SECONDS", -1.0)  # after every step
    stopped, resumed = SmallTraining(), SmallTraining()
    stopped.stop_after = stop_after
    with pytest.raises(KeyboardInterrupt):
        stopped.run(tmp_path / "kept")
    assert resumed.run(tmp_path / "kept") == progress and resumed.steps == 12 - stop_after
    assert (resumed.weights == unbroken.weights).all()
    # A finished training takes no further step.
    once_more = SmallTraining()
    assert once_more.run(tmp_path / "kept") == progress and once_more.steps == 0
    assert (once_more.weights == unbroken.weights).all()


@pytest.mark.slow
def test_the_training_of_a_killed_process_resumes_to_the_last_bit(tmp_path: Path) -> None:
    code = (
        "import os, signal\n"
        "import torch; torch.set_num_threads(1)\n"
        "from tests.support.networks import SmallTraining\n"
        "def on_epoch(progress):\n"
        "    if progress.epochs == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"SmallTraining().run(__import__('pathlib').Path({str(tmp_path / 'kept')!r}), on_epoch=on_epoch)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**os.environ}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]
    resumed, unbroken = SmallTraining(), SmallTraining()
    assert resumed.run(tmp_path / "kept") == unbroken.run() and resumed.steps == 4
    assert (resumed.weights == unbroken.weights).all()


def test_the_budget_ends_a_training_and_a_later_one_resumes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter([1.0] * 6 + [0.0] + [1.0] * 99)
    monkeypatch.setattr(Budget, "left", lambda self: next(left))
    stopped = SmallTraining()
    progress = stopped.run(tmp_path / "kept")
    assert (progress.epochs, progress.steps, progress.diverged) == (1, 6, False)
    assert progress.note == "truncated: 1 of 3 epochs, 6 steps"
    rest, unbroken = SmallTraining(), SmallTraining()
    assert rest.run(tmp_path / "kept").note == "" and rest.steps == 6
    unbroken.run()
    assert (rest.weights == unbroken.weights).all()


def test_without_time_nothing_is_trained() -> None:
    training = SmallTraining()
    before = training.weights
    assert training.run(budget=0.0).note == "truncated: 0 of 3 epochs, 0 steps"
    assert (training.weights == before).all()


def test_a_diverging_training_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = SmallTraining()
    monkeypatch.setattr(training, "step", lambda rows: {"loss": float("nan")})
    progress = training.run(tmp_path / "kept")
    assert progress.diverged and progress.note == "the training diverged after 1 step"
    assert not (tmp_path / "kept").exists()


def test_the_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    SmallTraining().run(tmp_path / "kept")
    with pytest.raises(CipherwardError, match="is of another training"):
        SmallTraining(identity={"of": "something else"}).run(tmp_path / "kept")
    with pytest.raises(CipherwardError, match="is of another training"):
        SmallTraining(TrainingConfig(3, 4, 6)).run(tmp_path / "kept")
    (tmp_path / "kept").write_bytes((tmp_path / "kept").read_bytes()[:200])
    with pytest.raises(CipherwardError, match="cannot be read"):
        SmallTraining().run(tmp_path / "kept")
    (tmp_path / "kept").write_bytes(b"")
    with pytest.raises(CipherwardError, match="cannot be read"):
        SmallTraining().run(tmp_path / "kept")


def test_progress_is_reported_after_every_epoch() -> None:
    reports: list[Progress] = []
    training = SmallTraining()
    last = training.run(on_epoch=reports.append)
    assert [(p.epochs, p.steps) for p in reports] == [(1, 4), (2, 8), (3, 12)] and reports[-1] == last
    assert reports[-1].losses["loss"] < reports[0].losses["loss"]


def test_unpaired_batches_hold_every_ciphertext_once_beside_independent_plain_images() -> None:
    batches = training_loop.unpaired_batches(np.random.default_rng(0), 25, 10, 4)
    sealed, plain = (np.concatenate([b[side] for b in batches]) for side in (0, 1))
    assert [len(b[0]) for b in batches] == [4] * 6 and len(set(sealed)) == 24
    # Ten plain images for 25 ciphertexts: each comes two or three times.
    assert set(np.bincount(plain, minlength=10)) <= {2, 3}
    same = training_loop.unpaired_batches(np.random.default_rng(0), 1000, 1000, 10)
    assert np.mean([a == b for x, y in same for a, b in zip(x, y, strict=True)]) < 0.01
    other = training_loop.unpaired_batches(np.random.default_rng(1), 25, 10, 4)
    assert any((a[0] != b[0]).any() for a, b in zip(batches, other, strict=True))


def test_an_identity_network_decodes_images_unchanged() -> None:
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    assert (device.decode_images(nn.Identity(), images) == images).all()
    colours = np.random.default_rng(0).integers(0, 256, (130, 5, 7, 3), dtype=np.uint8)  # two chunks
    assert (device.decode_images(nn.Identity(), colours) == colours).all()
    # A network of range 0…1 puts black at 0, not at mid-gray.
    sigmoid = nn.Sigmoid()
    levels = device.decode_images(
        sigmoid, np.array([0.0, 127.5, 255.0], np.float32).reshape(1, 1, 3, 1), 0.0
    )
    expected = [round(255 / (1 + np.exp(-x))) for x in (-1.0, 0.0, 1.0)]
    assert levels.ravel().tolist() == expected


def test_values_are_scaled_about_mid_gray() -> None:
    values = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 1, 3, 1)
    np.testing.assert_allclose(to_model_input(values).ravel(), [-1.0, -0.6, 1.0], atol=1e-6)
    batch = device.take_batch(torch.arange(6).reshape(3, 1, 1, 2), np.array([2, 0]))
    np.testing.assert_allclose(batch.flatten(1) * 127.5 + 127.5, [[4, 5], [0, 1]], atol=1e-4)


def test_ciphertexts_of_another_shape_are_pictured() -> None:
    spec = describe("etc", (16, 16, 3), 8, options={"form": "gray"})
    sealed = np.random.default_rng(0).integers(0, 256, (2, 16, 48, 1), dtype=np.uint8)
    assert training_loop.to_plain_shape(spec, sealed).shape == (2, 16, 16, 3)
    plain = np.zeros((2, 16, 16, 3), np.float32)
    assert training_loop.to_plain_shape(describe("orthogonal", (16, 16, 3), 8), plain) is plain


def test_missing_data_is_named() -> None:
    spec = describe("le", (32, 32, 3), 4)
    pool = MemoryPool(spec, np.zeros((5, 32, 32, 3), np.uint8))
    public = np.zeros((4, 32, 32, 3), np.uint8)
    rows = np.arange(2)
    knowledge = Knowledge(pool, np.arange(3), rows, public=public)
    assert training_loop.missing_data(knowledge, 3, 4) == ""
    assert training_loop.missing_data(knowledge, 4, 4) == "needs 4 ciphertexts, has 3"
    assert training_loop.missing_data(knowledge, 3, 5) == "needs 5 public images, has 4"
    assert training_loop.missing_data(Knowledge(pool, rows, rows), 1, 1) == "needs 1 public images, has 0"
    with pytest.raises(CipherwardError, match="do not match plain ones"):
        training_loop.missing_data(Knowledge(pool, rows, rows, public=public[:, :16]), 1, 1)
