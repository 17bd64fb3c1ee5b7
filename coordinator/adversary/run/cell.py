"""One cell of the suite: one attack, at one pool size, in one draw. It can run in any process.

A cell names sealed sets by path and digest, and says which rows may be seen and which are to be guessed; it holds no
image of its own but public ones. So it can be handed to another process, here or where the same files are.
Public images go to attacks of tier T2 and above, and what was observed of a training to those that ask for it: what
others say cannot depend on them.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from coordinator.adversary.contract import Budget, Guess, Knowledge
from coordinator.adversary.registry import AttackInfo
from coordinator.adversary.training import observation as observed
from coordinator.exchange.guesses import StoredGuess, save_guess
from coordinator.exchange.pool import Pool
from crypto.errors import CipherwardError
from crypto.sets.dataset import SealedDataset

#: What says how many threads a library starts in a process, and is read when the library is loaded.
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)


@dataclass(frozen=True)
class Cell:
    """What one cell needs.

    sets: (absolute folder, digest) of the draw's sealed sets. pool_rows: int64 [n]. rows: int64 [r]. study: None, or a
    folder whose `cloud` holds a training. out: absolute, where `place` is the file of the guess.
    """

    draw: str
    scheme: str
    info: AttackInfo
    sets: tuple[tuple[Path, str], ...]
    pool_rows: np.ndarray
    rows: np.ndarray
    budget_s: float
    public: np.ndarray | None
    study: Path | None
    out: Path
    place: str

    def failed(self, said: str, seconds: float) -> StoredGuess:
        """The finding of a cell that came to no guess."""
        said = " ".join(said.split())[:300]
        return StoredGuess(
            self.info.name,
            self.info.tier.name,
            self.info.uses_pool,
            len(self.pool_rows),
            "",
            "",
            seconds,
            "",
            error=said,
        )


def run_cell(cell: Cell) -> StoredGuess:
    """Attacks and writes the guess; an attack that fails, or hands back no guess, is a finding.

    Raises CipherwardError where the sealed sets or the study cannot be read here, or are not those of the audit.
    """
    pool = _pool(cell.sets)
    seen_of_training = None if cell.study is None else _observed(cell.study)
    started = time.perf_counter()
    try:
        with one_thread():
            # The clocks of the budget and of the seconds start with the attack.
            started = time.perf_counter()
            knowledge = Knowledge(
                pool,
                cell.pool_rows,
                cell.rows,
                Budget(cell.budget_s),
                cell.public,
                labels=pool.labels,
                observed=seen_of_training,
            )
            guess = cell.info.attack(knowledge)
            seconds = time.perf_counter() - started
        _must_be_a_guess(guess, cell, pool)
    except Exception as error:
        return cell.failed(f"{type(error).__name__}: {error}", time.perf_counter() - started)
    digest = save_guess(cell.out / cell.place, guess.images, guess.key)
    return StoredGuess(
        cell.info.name,
        cell.info.tier_used(knowledge).name,
        cell.info.uses_pool,
        len(cell.pool_rows),
        cell.place,
        digest,
        seconds,
        guess.note,
        idle=guess.idle,
    )


def _must_be_a_guess(guess: Guess, cell: Cell, pool: Pool) -> None:
    wanted = (len(cell.rows), *pool.spec.image_shape)
    if guess.images.dtype != np.uint8 or guess.images.shape != wanted:
        raise TypeError(
            f"the guess is {guess.images.dtype} {guess.images.shape}, not uint8 {wanted}: one image a row"
        )


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One thread for BLAS, OpenMP and torch: sums have one order everywhere, and cells run side by side."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)  # for what the attack loads
    torch = sys.modules.get("torch")
    threads = 0 if torch is None else torch.get_num_threads()
    if torch is not None:
        torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if torch is not None:
            torch.set_num_threads(threads)


@functools.lru_cache(maxsize=2)
def _pool(sets: tuple[tuple[Path, str], ...]) -> Pool:
    """The pool of these sets, whose shards the suite has checked; raises CipherwardError for other ones."""
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
def _observed(study: Path) -> observed.Observed:
    return observed.observe(study / "cloud")


def keys_of(study: Path | None) -> frozenset[str]:
    """The ids of the keys that a training was under, as far as it says."""
    return frozenset() if study is None else _observed(study).keys


def study_digest(study: Path | None) -> str:
    """Hex SHA-256 of what was observed of a training, or nothing: part of what makes an audit the same one."""
    if study is None:
        return ""
    seen = _observed(study)
    digest = hashlib.sha256(repr(seen.plan.model_dump(mode="json")).encode())
    for name, weights in sorted(seen.weights.items()):
        digest.update(f"{name} {weights.dtype} {weights.shape}".encode())
        digest.update(np.ascontiguousarray(weights).tobytes())
    for update in seen.updates:
        digest.update(f"{update.round} {update.party} {update.images}".encode())
        digest.update(np.ascontiguousarray(update.before).tobytes())
        digest.update(np.ascontiguousarray(update.after).tobytes())
    return digest.hexdigest()
