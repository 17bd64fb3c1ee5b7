"""One reply for one charge: what a privately trained round sends is stored before it leaves, and sent again as it is.

    private/released/STUDY-DIGEST/ROUND-REQUEST.npy   the words of a reply, those of the last two rounds

A message that comes again gets the stored reply. If a kill came before the reply was stored, nothing left, and the
round is trained anew under the same charge. If a stored reply was lost after it left, the round is charged again.
A private stem that was trained with the reply becomes the hospital's own only after all of this
(parties/training/provisional_stem.py): before, no evaluation answers with it.
"""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from crypto.arrays import AnyArray
from crypto.errors import CipherwardError
from crypto.files import disk_errors, hold_file, open_lock, write_bytes
from parties.sealing.place import Place
from parties.training.guard import Request, refuse
from parties.training.patients import read_units
from parties.training.policy import Difference
from parties.training.privacy_ledger import Budget, Charge, PrivacyLedger
from parties.training.private_training import PrivateRound, plan_round

#: Rounds whose replies are kept: one that is asked for again is the last or the one before.
_KEPT_ROUNDS = 2


def release_once(place: Place, request: Request, train: Callable[[PrivateRound], AnyArray]) -> AnyArray:
    """Return the words of a private round's reply: the stored ones, or new ones that are charged first.

    Args:
        place: the hospital.
        request: an admitted request to train; its plan's `privacy` is on.
        train: trains the round and returns the words to send. A stem that stays here is stored as provisional.

    Raises:
        CipherwardError: if the hospital's budget would be exceeded, if the bound cannot be kept here, or if the
            ledger or the reply cannot be written. Then nothing is released.
    """
    policy, round_ = request.policy, request.settings.round
    folder = place.private / "released" / f"{policy.study}-{policy.digest[:16]}"
    with disk_errors(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{round_:05d}-{request.name[:32]}.npy"
    ledger, name = PrivacyLedger(place), f"{policy.digest[:16]}-{request.name}"
    # Waited for: a second run that asks the same gets the same reply, and not a second one under the same charge.
    with open_lock(folder / ".lock") as lock:
        hold_file(lock, folder)
        words = _read_words(path)
        if words is None:
            with _refusals_written(place, request):
                units = read_units(place, request.sealed, policy.privacy.unit)
                known_noise = functools.partial(ledger.find_noise, policy.digest)
                private = plan_round(request.plan, units, known_noise)
                _charge(request, private, ledger, name)
            words = train(private)
            _write_words(path, words)
            _forget_earlier(folder, round_)
        with _refusals_written(place, request):
            ledger.release(name)
    return words


@contextlib.contextmanager
def _refusals_written(place: Place, request: Request) -> Iterator[None]:
    """Write an error down like every other refusal, and raise it again. The coordinator gets no figure of it."""
    policy = request.policy
    try:
        yield
    except CipherwardError as error:
        accepted = f"epsilon {policy.budget_epsilon:g} at delta {policy.budget_delta:g}"
        refuse(place, policy.study, Difference("privacy_budget", error.message, accepted))
        raise


def _charge(request: Request, private: PrivateRound, ledger: PrivacyLedger, name: str) -> None:
    """Charge a round to the hospital's ledger."""
    policy, mechanism = request.policy, private.mechanism
    charge = Charge(
        study=policy.study,
        policy=policy.digest,
        request=name,
        round=request.settings.round,
        unit=policy.privacy.unit,
        images=request.sealed.digest,
        noise_multiplier=mechanism.noise_multiplier,
        sample_rate=mechanism.sample_rate,
        steps=mechanism.steps,
    )
    bound = Budget(*policy.privacy.bound, policy.privacy.unit)
    ledger.charge(charge, policy.budget, (policy.rounds - 1) * mechanism.steps, bound)


def _read_words(path: Path) -> AnyArray | None:
    """Return the words of a stored reply, or None if there is none that can be read."""
    try:
        words: AnyArray = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return words


def _write_words(path: Path, words: AnyArray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, words, allow_pickle=False)
    write_bytes(path, buffer.getvalue())


def _forget_earlier(folder: Path, round_: int) -> None:
    """Remove the replies of rounds that nobody asks for any more."""
    for path in folder.glob("*.npy"):
        number = path.name.partition("-")[0]
        if number.isdigit() and int(number) <= round_ - _KEPT_ROUNDS:
            path.unlink(missing_ok=True)
