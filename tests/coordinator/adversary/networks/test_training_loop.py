"""Training for attacks: batches, the budget, checkpoints, and going on as if nothing had happened."""

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
from coordinator.adversary.networks import training_loop
from coordinator.adversary.networks.training_loop import Course, Progress
from coordinator.exchange.pool import MemoryPool
from crypto.errors import CipherwardError
from crypto.scheme import describe
from tests.support.paths import ROOT

COURSE = Course(epochs=3, batch=4, seed=5)
DATA = torch.randn(16, 8, generator=torch.Generator().manual_seed(1))


class Study:
    """A small regression with Adam and batch norm: what it computes depends on every step before."""

    def __init__(self, course: Course = COURSE, **given):
        self.course, self.given = course, given
        with training_loop.weights_from(course.seed):
            self.network = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Linear(6, 1))
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=0.05)
        self.rates = torch.optim.lr_scheduler.MultiStepLR(self.optimiser, [1], 0.1)
        self.steps, self.stop_after = 0, -1
        self.orders: list[np.ndarray] = []

    def batches(self, draw, epoch):
        order = draw.permutation(16)
        self.orders.append(order)
        return [order[i : i + 4] for i in range(0, 16, 4)]

    def step(self, rows):
        if self.steps == self.stop_after:
            raise KeyboardInterrupt
        loss = (self.network(DATA[rows]) - DATA[rows].sum(1, keepdim=True)).square().mean()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.steps += 1
        return {"loss": loss.item()}

    def run(self, checkpoint: Path | None = None, budget: float = 60.0, **more) -> Progress:
        parts = {"network": self.network, "optimiser": self.optimiser, "rates": self.rates}
        given = {"identity": {"of": "a test"}, "ended": self.rates.step, **self.given, **more}
        return training_loop.train(
            parts,
            self.course,
            self.batches,
            self.step,
            Budget(budget),
            checkpoint=checkpoint,
            **given,
        )

    @property
    def weights(self) -> np.ndarray:
        return torch.cat([w.detach().flatten() for w in self.network.state_dict().values()]).numpy()


def test_a_training_is_its_seed_s():
    first, second, other = Study(), Study(), Study(Course(3, 4, 6))
    before = torch.get_rng_state()
    assert first.run() == second.run()
    other.run()
    assert (first.weights == second.weights).all()
    assert not np.array_equal(first.weights, other.weights)
    assert len({tuple(order) for order in [*first.orders, *other.orders]}) == 6  # every epoch's its own
    Study()
    assert torch.equal(
        before, torch.get_rng_state()
    )  # building networks leaves torch's own generator alone


@pytest.mark.parametrize("stop_after", [2, 4, 7])
def test_a_stopped_training_goes_on_to_the_last_bit(tmp_path, monkeypatch, stop_after):
    whole = Study()
    progress = whole.run()
    monkeypatch.setattr(training_loop, "_KEEP_EVERY", -1.0)  # after every step
    stopped, again = Study(), Study()
    stopped.stop_after = stop_after
    with pytest.raises(KeyboardInterrupt):
        stopped.run(tmp_path / "kept")
    assert again.run(tmp_path / "kept") == progress and again.steps == 12 - stop_after
    assert (again.weights == whole.weights).all()
    # What is finished is not trained again.
    once_more = Study()
    assert once_more.run(tmp_path / "kept") == progress and once_more.steps == 0
    assert (once_more.weights == whole.weights).all()


@pytest.mark.slow
def test_a_killed_process_s_training_goes_on_to_the_last_bit(tmp_path):
    code = (
        "import os, signal\n"
        "import torch; torch.set_num_threads(1)\n"
        "from tests.coordinator.adversary.networks.test_training_loop import Study\n"
        "def told(progress):\n"
        "    if progress.epochs == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"Study().run(__import__('pathlib').Path({str(tmp_path / 'kept')!r}), told=told)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**os.environ}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]
    again, whole = Study(), Study()
    assert again.run(tmp_path / "kept") == whole.run() and again.steps == 4
    assert (again.weights == whole.weights).all()


def test_the_budget_ends_a_training_and_a_later_one_goes_on(tmp_path, monkeypatch):
    left = iter([1.0] * 6 + [0.0] + [1.0] * 99)
    monkeypatch.setattr(Budget, "left", lambda self: next(left))
    stopped = Study()
    progress = stopped.run(tmp_path / "kept")
    assert (progress.epochs, progress.steps, progress.diverged) == (1, 6, False)
    assert progress.note == "truncated: 1 of 3 epochs, 6 steps"
    rest, whole = Study(), Study()
    assert rest.run(tmp_path / "kept").note == "" and rest.steps == 6
    whole.run()
    assert (rest.weights == whole.weights).all()


def test_without_time_nothing_is_trained():
    study = Study()
    before = study.weights
    assert study.run(budget=0.0).note == "truncated: 0 of 3 epochs, 0 steps"
    assert (study.weights == before).all()


def test_a_diverging_training_says_so(tmp_path):
    study = Study()
    study.step = lambda rows: {"loss": float("nan")}
    progress = study.run(tmp_path / "kept")
    assert progress.diverged and progress.note == "the training diverged after 1 steps"
    assert not (tmp_path / "kept").exists()


def test_another_training_s_checkpoint_is_refused(tmp_path):
    Study().run(tmp_path / "kept")
    with pytest.raises(CipherwardError, match="is of another training"):
        Study(identity={"of": "something else"}).run(tmp_path / "kept")
    with pytest.raises(CipherwardError, match="is of another training"):
        Study(Course(3, 4, 6)).run(tmp_path / "kept")
    (tmp_path / "kept").write_bytes((tmp_path / "kept").read_bytes()[:200])
    with pytest.raises(CipherwardError, match="cannot be read"):
        Study().run(tmp_path / "kept")
    (tmp_path / "kept").write_bytes(b"")
    with pytest.raises(CipherwardError, match="cannot be read"):
        Study().run(tmp_path / "kept")


def test_what_was_told_after_every_epoch():
    told: list[Progress] = []
    study = Study()
    last = study.run(told=told.append)
    assert [(p.epochs, p.steps) for p in told] == [(1, 4), (2, 8), (3, 12)] and told[-1] == last
    assert told[-1].losses["loss"] < told[0].losses["loss"]


def test_unpaired_batches_hold_every_ciphertext_once_and_no_pair_of_indices():
    batches = training_loop.unpaired(np.random.default_rng(0), 25, 10, 4)
    sealed, plain = (np.concatenate([b[side] for b in batches]) for side in (0, 1))
    assert [len(b[0]) for b in batches] == [4] * 6 and len(set(sealed)) == 24
    # Ten plain images for 25 ciphertexts: each comes two or three times.
    assert set(np.bincount(plain, minlength=10)) <= {2, 3}
    same = training_loop.unpaired(np.random.default_rng(0), 1000, 1000, 10)
    assert np.mean([a == b for x, y in same for a, b in zip(x, y, strict=True)]) < 0.01
    other = training_loop.unpaired(np.random.default_rng(1), 25, 10, 4)
    assert any((a[0] != b[0]).any() for a, b in zip(batches, other, strict=True))


def test_pictures_come_back_as_they_went_in():
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    assert (training_loop.pictures(nn.Identity(), images) == images).all()
    colours = np.random.default_rng(0).integers(0, 256, (130, 5, 7, 3), dtype=np.uint8)  # two chunks
    assert (training_loop.pictures(nn.Identity(), colours) == colours).all()
    # A network of range 0…1 puts black at 0, not at mid-gray.
    half = nn.Sigmoid()
    levels = training_loop.pictures(
        half, np.array([0.0, 127.5, 255.0], np.float32).reshape(1, 1, 3, 1), 0.0
    )
    expected = [round(255 / (1 + np.exp(-x))) for x in (-1.0, 0.0, 1.0)]
    assert levels.ravel().tolist() == expected


def test_values_are_scaled_about_mid_gray():
    values = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 1, 3, 1)
    np.testing.assert_allclose(training_loop.scaled(values).ravel(), [-1.0, -0.6, 1.0], atol=1e-6)
    rows = training_loop.chosen(torch.arange(6).reshape(3, 1, 1, 2), np.array([2, 0]))
    np.testing.assert_allclose(rows.flatten(1) * 127.5 + 127.5, [[4, 5], [0, 1]], atol=1e-4)


def test_ciphertexts_of_another_shape_are_pictured():
    spec = describe("etc", (16, 16, 3), 8, options={"form": "gray"})
    sealed = np.random.default_rng(0).integers(0, 256, (2, 16, 48, 1), dtype=np.uint8)
    assert training_loop.as_input(spec, sealed).shape == (2, 16, 16, 3)
    plain = np.zeros((2, 16, 16, 3), np.float32)
    assert training_loop.as_input(describe("orthogonal", (16, 16, 3), 8), plain) is plain


def test_what_a_knowledge_lacks():
    spec = describe("le", (32, 32, 3), 4)
    pool = MemoryPool(spec, np.zeros((5, 32, 32, 3), np.uint8))
    public = np.zeros((4, 32, 32, 3), np.uint8)
    rows = np.arange(2)
    given = Knowledge(pool, np.arange(3), rows, public=public)
    assert training_loop.lacking(given, 3, 4) == ""
    assert training_loop.lacking(given, 4, 4) == "needs 4 ciphertexts, has 3"
    assert training_loop.lacking(given, 3, 5) == "needs 5 public images, has 4"
    assert training_loop.lacking(Knowledge(pool, rows, rows), 1, 1) == "needs 1 public images, has 0"
    with pytest.raises(CipherwardError, match="cannot be learnt beside"):
        training_loop.lacking(Knowledge(pool, rows, rows, public=public[:, :16]), 1, 1)
