"""The attacks' Numba functions are compiled once, before any attack starts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from coordinator.adversary.contract import Knowledge
from coordinator.adversary.run import compilation, small_run
from coordinator.adversary.run.compilation import COMPILING, compile_attacks
from crypto.scheme import describe
from crypto.sets.dataset import SealedDataset
from tests.support.audits import MakeSealed, phantoms
from tests.support.paths import ROOT


@pytest.fixture
def sealed(make_sealed: MakeSealed) -> SealedDataset:
    """Return a sealed set of 40 images."""
    return make_sealed("train", *phantoms(40, size=32))


@dataclass(frozen=True)
class Attack:
    """An attack of the registry, as far as a small run needs it."""

    attack: Callable[[Knowledge], object]


class Trial:
    """A process that is not started. `jobs` keeps the trial runs that it was asked for."""

    def __init__(self) -> None:
        self.jobs: list[list[str]] = []

    def __call__(self, _target: Callable[..., None], jobs: list[tuple[str, object]]) -> Trial:
        self.jobs.append([attack for attack, _ in jobs])
        return self

    def join(self) -> None:
        """Return at once."""

    def kill(self) -> None:
        """Do nothing."""


@pytest.fixture
def trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trial:
    """Return the trial process of a test that has a Numba cache of its own."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    trial = Trial()
    monkeypatch.setattr(compilation, "start_process", trial)
    return trial


def test_what_was_compiled_is_not_compiled_again(
    sealed: SealedDataset, trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []
    compile_attacks(["as_is"], [sealed], log.append)
    assert len(log) == 1 and log[0].startswith(COMPILING)
    compile_attacks(["as_is"], [sealed], log.append)
    assert len(log) == 1 and trial.jobs == [["as_is"]]
    # Another attack is compiled alone.
    compile_attacks(["as_is", "leading_bit"], [sealed], log.append)
    assert len(log) == 2 and trial.jobs[1:] == [["leading_bit"]]
    # After a source has changed, everything is compiled again.
    monkeypatch.setattr(compilation, "source_digest", lambda: "other sources")
    compile_attacks(["as_is"], [sealed], log.append)
    assert len(log) == 3 and trial.jobs[2:] == [["as_is"]]


def test_attacks_that_train_networks_or_need_a_study_are_not_tried(
    sealed: SealedDataset, trial: Trial
) -> None:
    log: list[str] = []
    compile_attacks(["gan", "sia_gan", "itn", "learned_stem", "weights"], [sealed], log.append)
    assert not log and not trial.jobs


RECOVERY = """
import sys
from pathlib import Path
import numpy as np
from numba.core import event
from coordinator.adversary.contract import Knowledge
from coordinator.adversary.registry import ATTACKS
from coordinator.exchange.pool import Pool
from crypto.sets.dataset import SealedDataset

with event.install_recorder("numba:compile") as recorder:
    pool = Pool.of([SealedDataset.open(Path(sys.argv[1]))])
    guess = ATTACKS["pooled_key_recovery"].attack(Knowledge(pool, np.arange(8, 40), np.arange(8)))
assert guess.key is not None
print(len(recorder.buffer))
"""


@pytest.mark.slow
def test_key_recovery_compiles_nothing_afterwards(
    make_sealed: MakeSealed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed = make_sealed("train", *phantoms(40))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    compile_attacks(["pooled_key_recovery"], [sealed], lambda line: None)

    def events(cache: str) -> int:
        words = [sys.executable, "-c", RECOVERY, str(sealed.folder)]
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / cache)}
        done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        return int(done.stdout)

    # The same question with an empty cache has another answer, so it is a question.
    assert events("empty") > 0
    assert events("cache") == 0


@pytest.mark.parametrize("options", [{}, {"sub_block": 4}])
def test_functions_are_loaded_with_small_blocks(
    options: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Key recovery for `le` takes 40 s with blocks of 16 in colour, and every process would spend it.
    specs = []
    attacks = {"pooled_key_recovery": lambda knowledge: specs.append(knowledge.pool.spec)}
    monkeypatch.setattr(small_run, "LOADED", set())
    monkeypatch.setattr(small_run, "ATTACKS", {name: Attack(run) for name, run in attacks.items()})
    spec = describe("sub_block_etc" if options else "le", (224, 224, 3), 16, "consortium", options)
    for _ in range(2):
        small_run.load_compiled("pooled_key_recovery", spec)
    [small] = specs
    assert small.name == spec.name and small.block == (16 if options else 8)
