"""One cell of the suite: one attack, at one pool size, in one draw. A cell can run in any process.

A cell names sealed sets by path and digest, and says which rows the attack may use and which rows it guesses. It
holds no images except public ones. So it can be sent to another process, here or on a machine with the same files.
Only attacks of tier T2 and above get public images, and only attacks that ask for it get what was observed of a
training. The guesses of all other attacks cannot depend on either.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import sys
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from coordinator.adversary.contract import Budget, Guess, Knowledge
from coordinator.adversary.recover.unknown_scheme import SLOW
from coordinator.adversary.registry import AttackInfo
from coordinator.adversary.run.small_run import load_compiled
from coordinator.adversary.stopwatch import Stopwatch
from coordinator.adversary.training import observation
from coordinator.exchange.audit.guesses import StoredGuess, save_guess
from coordinator.exchange.audit.suite1 import ON_POOLS
from coordinator.exchange.pool import Pool
from crypto.arrays import Images, Rows
from crypto.errors import CipherwardError
from crypto.sets.dataset import SealedDataset
from crypto.without_folders import without_folders

#: Environment variables that set a numeric library's number of threads. A library reads them when it is loaded.
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)
#: Characters of an error that guesses.json keeps: enough for a line of a report.
_ERROR_CHARACTERS = 300


@dataclass(frozen=True)
class Cell:
    """What one cell needs.

    Attributes:
        draw: the draw's name.
        scheme: the scheme's name.
        info: the attack.
        sets: absolute folder and digest of each of the draw's sealed sets.
        pool_rows: int64 [n], the rows of the pool that the attack may use.
        rows: int64 [r], the rows of the pool to guess.
        budget_s: the time that the attack may take, in seconds.
        public: None, or public plain images uint8 [m, *image_shape].
        study: None, or an absolute folder whose `cloud` folder holds a training.
        out: the absolute folder of the guesses.
        file: the guess's file below `out`. It identifies the cell.
    """

    draw: str
    scheme: str
    info: AttackInfo
    sets: tuple[tuple[Path, str], ...]
    pool_rows: Rows
    rows: Rows
    budget_s: float
    public: Images | None
    study: Path | None
    out: Path
    file: str

    def failure(self, message: str, seconds: float) -> StoredGuess:
        """Return the finding for a cell that gave no guess: its message leaves with the scores, without folders."""
        return StoredGuess(
            self.info.name,
            self.info.tier.name,
            self.info.uses_pool,
            len(self.pool_rows),
            "",
            "",
            seconds,
            "",
            error=without_folders(" ".join(message.split()))[:_ERROR_CHARACTERS],
        )


def run_cell(cell: Cell) -> StoredGuess:
    """Run the attack and write its guess. An attack that fails, or returns something else than a guess, is a finding.

    Raises:
        CipherwardError: if the sealed sets or the study cannot be read here, or are not those of the audit.
    """
    pool = _open_pool(cell.sets)
    observed = None if cell.study is None else observe_study(cell.study)
    if cell.info.name in ON_POOLS and pool.spec.name not in SLOW:
        with one_thread():
            load_compiled(cell.info.name, pool.spec)
    stopwatch = Stopwatch()
    try:
        # The clocks of the budget and of the seconds start with the attack.
        with one_thread(), stopwatch:
            knowledge = Knowledge(
                pool,
                cell.pool_rows,
                cell.rows,
                Budget(cell.budget_s),
                cell.public,
                labels=pool.labels,
                observed=observed,
            )
            guess = cell.info.attack(knowledge)
        _check_guess(guess, cell, pool)
    except Exception as error:
        return cell.failure(f"{type(error).__name__}: {error}", stopwatch.seconds)
    digest = save_guess(cell.out / cell.file, guess.images, guess.key)
    return StoredGuess(
        cell.info.name,
        cell.info.tier_used(knowledge).name,
        cell.info.uses_pool,
        len(cell.pool_rows),
        cell.file,
        digest,
        stopwatch.seconds,
        guess.note,
        idle=guess.idle,
        fit="; ".join(map(str, guess.fits)),
        uncertain=guess.is_uncertain,
        confidence=guess.confidence,
    )


#: Cells with their guesses, as they finish.
Finished = Generator[tuple[Cell, StoredGuess], None, None]


@dataclass(frozen=True)
class Refused:
    """A CipherwardError on its way from another process: the audit itself cannot continue there."""

    message: str
    hint: str


def answer(cell: Cell) -> StoredGuess | Refused:
    """Run a cell in another process: `run_cell`, with a result that can be sent."""
    try:
        return run_cell(cell)
    except CipherwardError as error:
        return Refused(error.message, error.hint)


def accept(answer: StoredGuess | Refused) -> StoredGuess:
    """Return the guess of an answer, or raise the CipherwardError that it carries."""
    if isinstance(answer, Refused):
        raise CipherwardError(answer.message, answer.hint)
    return answer


def _check_guess(guess: Guess, cell: Cell, pool: Pool) -> None:
    """Raise TypeError unless the guess holds one image for each row."""
    expected = (len(cell.rows), *pool.spec.image_shape)
    if guess.images.dtype != np.uint8 or guess.images.shape != expected:
        raise TypeError(
            f"the guess is {guess.images.dtype} {guess.images.shape}, not uint8 {expected}: one image a row"
        )


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Limit BLAS, OpenMP and torch to one thread.

    Sums then have the same order on every machine, and several cells can run side by side.
    """
    torch = sys.modules.get("torch")
    threads = 0 if torch is None else torch.get_num_threads()
    if torch is not None:
        torch.set_num_threads(1)
    try:
        # The variables are for the libraries that the attack loads.
        with environment(ONE_THREAD), threadpool_limits(1):
            yield
    finally:
        if torch is not None:
            torch.set_num_threads(threads)


@contextlib.contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables, and give them back their earlier values at the end."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@functools.lru_cache(maxsize=2)
def _open_pool(sets: tuple[tuple[Path, str], ...]) -> Pool:
    """Open the pool of these sets, whose shards the suite has checked; raise CipherwardError for another set."""
    parts = []
    for folder, digest in sets:
        part = SealedDataset.open(folder)
        if part.digest != digest:
            raise CipherwardError(
                f"{folder} is not the sealed set that this audit began with", "start the audit again"
            )
        parts.append(part)
    return Pool(parts)


@functools.lru_cache(maxsize=1)
def observe_study(study: Path) -> observation.Observed:
    """Return what the cloud saw of the training in a study's folder."""
    return observation.observe(study / "cloud")


def training_key_ids(study: Path | None) -> frozenset[str]:
    """Return the ids of the keys that a training was under, as far as it says."""
    return frozenset() if study is None else observe_study(study).keys


def study_digest(study: Path | None) -> str:
    """Return the hex SHA-256 of what was observed of a training; empty without one.

    It is part of what identifies an audit.
    """
    if study is None:
        return ""
    observed = observe_study(study)
    digest = hashlib.sha256(repr(observed.plan.model_dump(mode="json")).encode())
    for name, weights in sorted(observed.weights.items()):
        digest.update(f"{name} {weights.dtype} {weights.shape}".encode())
        digest.update(np.ascontiguousarray(weights).tobytes())
    for update in observed.updates:
        digest.update(f"{update.round} {update.party} {update.images}".encode())
        digest.update(np.ascontiguousarray(update.before).tobytes())
        digest.update(np.ascontiguousarray(update.after).tobytes())
    return digest.hexdigest()
