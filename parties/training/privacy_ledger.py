"""The privacy ledger: what a hospital's trainings may have told of its images, over all studies.

    private/privacy.jsonl       a line for every training that is charged, and one for every reply that is released
    private/privacy-head.json   its head, which tells when lines at the end were cut (parties/sealing/journal_head.py)

A line is on the disk before training begins, so nothing is released that is not accounted for. If it cannot be
written, nothing is trained. Charges add up over all studies, whatever images they were of: the same patient may be in
each. Lines are numbered, and a line that is missing or damaged is an error. The last line may lack its end, because a
kill or a full disk cut it short: its training never began, and it is cut off before the next line is written.

The ledger protects against a coordinator, and not against the hospital itself: who deletes both files, or restores an
old copy of both, forgets.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from crypto.errors import CipherwardError
from crypto.files import append_line, cut_torn_line, hold_file, open_lock, read_every_line
from parties.sealing.journal_head import MARK, JournalHead, note_head
from parties.sealing.place import Place
from parties.training.privacy_accounting import Mechanism, total_epsilon

FILE, HEAD_FILE = "privacy.jsonl", "privacy-head.json"
#: How a hospital gets on whose budget is for patients, where trainings protect images.
STATE_IMAGES = (
    "the hospital alone can state a budget for each image, which is weaker: cipherward-party accept PLAN HOSPITAL "
    "--privacy-budget EPSILON --privacy-unit image; 0 gives the budget up"
)
#: Bounds are compared up to float rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Charge:
    """One round of private training.

    Attributes:
        study: the study's name.
        policy: the digest of the policy that it was accepted under.
        request: names the coordinator's message; the same message is charged once.
        round: the round.
        unit: patient or image.
        images: the digest of the sealed training set.
        noise_multiplier: as in Mechanism.
        sample_rate: as in Mechanism.
        steps: as in Mechanism.
    """

    study: str
    policy: str
    request: str
    round: int
    unit: str
    images: str
    noise_multiplier: float
    sample_rate: float
    steps: int

    @property
    def mechanism(self) -> Mechanism:
        """The steps of this round."""
        return Mechanism(self.noise_multiplier, self.sample_rate, self.steps)


@dataclass(frozen=True)
class Budget:
    """The most that all trainings of a hospital may tell together: its own (epsilon, delta). 0: no budget.

    Attributes:
        epsilon: the bound.
        delta: the probability that it does not hold.
        unit: whom it protects: each patient, or each image. "" without a budget.
    """

    epsilon: float
    delta: float
    unit: Literal["", "patient", "image"] = "image"

    def require_unit(self, units: Iterable[str], what: str) -> None:
        """Raise CipherwardError if the budget protects patients, and a training protects single images alone.

        No bound of a patient follows from one of an image without the number of the patient's images, and charges do
        not say that. A charge for patients counts in a budget for images.

        Args:
            units: the unit of every training that was charged or is asked for.
            what: what is asked for.
        """
        if self.epsilon and self.unit == "patient" and "image" in units:
            raise CipherwardError(
                f"{what}: this hospital's own budget of epsilon {self.epsilon:g} is for each patient, and its ledger "
                "holds trainings that protect single images: no bound of a patient follows from them",
                STATE_IMAGES,
                f"{what}: this hospital's own budget is for patients, and a training protects single images alone",
            )

    def require(self, mechanisms: Sequence[Mechanism], what: str) -> None:
        """Raise CipherwardError if these steps together exceed the budget. what: what is asked for."""
        if not self.epsilon:
            return
        try:
            total = total_epsilon(mechanisms, self.delta, self.epsilon)
        except CipherwardError as error:  # it names the steps of all studies, and the budget
            outside = f"{what}: this hospital cannot compute what it would add to its own privacy budget"
            raise CipherwardError(error.message, error.hint, outside) from None
        if not total <= self.epsilon * (1 + _ROUNDING):  # no number is no bound
            raise CipherwardError(
                f"{what} would bring this hospital to epsilon {total:.3g} at delta {self.delta:g}, and its own "
                f"budget is epsilon {self.epsilon:g}",
                "see what was spent: cipherward-party privacy HOSPITAL. The hospital alone can raise its budget: "
                "cipherward-party accept PLAN HOSPITAL --privacy-budget EPSILON",
                f"{what} would exceed this hospital's own privacy budget",
            )


def _require_bound(mechanisms: Sequence[Mechanism], bound: Budget, what: str) -> None:
    """Raise CipherwardError if these steps of one study exceed what its plan promises. what: what is asked for."""
    total = total_epsilon(mechanisms, bound.delta, bound.epsilon)
    if not total <= bound.epsilon * (1 + _ROUNDING):
        raise CipherwardError(
            f"{what} would bring this study to epsilon {total:.3g} at delta {bound.delta:g}, and its plan promises "
            f"epsilon {bound.epsilon:g} over all rounds",
            "a round was asked for more than once; to go on, the hospitals agree to a plan with a larger epsilon",
            f"{what} would exceed the epsilon that its plan promises over all rounds",
        )


class PrivacyLedger:
    """The ledger of one hospital."""

    def __init__(self, place: Place) -> None:
        self.path: Path = place.private / FILE
        self.head_path: Path = place.private / HEAD_FILE

    @property
    def is_begun(self) -> bool:
        """Whether anything was ever charged. A damaged ledger counts, and so does one that is gone."""
        return self.head_path.exists() or (self.path.exists() and self.path.stat().st_size > 0)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        # Waited for: two studies may charge at once, and neither must be lost.
        lock_path = self.path.with_name(".privacy.lock")
        with open_lock(lock_path) as lock:
            hold_file(lock, self.path.parent)
            yield

    def _read(self) -> list[dict[str, Any]]:
        """Return all entries. Raise CipherwardError if one is missing or damaged."""
        entries: list[dict[str, Any]] = []
        is_open, head = False, JournalHead(self.head_path)
        try:
            for value in read_every_line(self.path):
                is_open = not isinstance(value, dict)
                if isinstance(value, dict):
                    entries.append(value)
        except OSError as error:
            raise self._damaged(type(error).__name__) from None
        # An earlier version ended a line that was cut short. The number of the line after it shows that it was none.
        if is_open:
            raise self._damaged("its last line is damaged")
        if [entry.get("number") for entry in entries] != list(range(len(entries))):
            raise self._damaged("a line is missing or damaged")
        for entry in entries:
            request = (
                entry.get("request") if entry.get("kind") == "release" else self._charge_of(entry).request
            )
            if not isinstance(request, str):
                raise self._damaged(f"line {entry['number']} names no request")
        if loss := head.find_loss(entries):
            raise self._damaged(loss)
        return entries

    def _damaged(self, why: str) -> CipherwardError:
        return CipherwardError(
            f"the privacy ledger {self.path} cannot be believed: {why}",
            f"restore it and {self.head_path.name} from a backup; without them nobody knows what was spent",
            "this hospital's privacy ledger cannot be believed",
        )

    def charges(self) -> list[Charge]:
        """Return every charge in order."""
        return [self._charge_of(entry) for entry in self._read() if entry["kind"] == "charge"]

    def find_noise(self, policy: str, sample_rate: float, steps: int) -> float | None:
        """Return the noise multiplier of an earlier round with such steps, or None.

        Computing it takes seconds, and every message may come to a new process. The policy's digest, the rate and the
        steps fix all that it depends on.

        Args:
            policy: the digest of the policy.
            sample_rate: as in Mechanism.
            steps: as in Mechanism.
        """
        alike = (
            charge.noise_multiplier
            for charge in self.charges()
            if (charge.policy, charge.sample_rate, charge.steps) == (policy, sample_rate, steps)
        )
        return next(alike, None)

    def _charge_of(self, entry: dict[str, Any]) -> Charge:
        try:
            charge = Charge(**entry["charge"])
            is_possible = (
                entry["kind"] == "charge"
                and 0 < charge.noise_multiplier < float("inf")
                and 0 < charge.sample_rate <= 1
                and type(charge.steps) is int
                and charge.steps > 0
            )
        except (KeyError, TypeError):
            is_possible = False
        if not is_possible:
            raise self._damaged(f"line {entry['number']} is no charge")
        return charge

    @staticmethod
    def _open_charges(entries: Sequence[dict[str, Any]], request: str) -> int:
        """Return for how many charges of a message no reply was released."""
        charged = [e for e in entries if e["kind"] == "charge" and e["charge"]["request"] == request]
        released = [e for e in entries if e["kind"] == "release" and e["request"] == request]
        return len(charged) - len(released)

    def charge(self, charge: Charge, budget: Budget, rest_of_run: int, bound: Budget | None = None) -> None:
        """Write a charge before its training begins.

        A charge for the same message whose reply was never released (the training was killed) is used, and no other
        is written: nobody saw anything of it.

        Args:
            charge: the round.
            budget: the hospital's own.
            rest_of_run: steps of the study's later rounds. They count with the first charge of a study, so that a
                training that would exceed the budget does not begin.
            bound: what the plan promises for all rounds of this study together. It holds whatever the budget is: a
                coordinator that asks for a round again and again would otherwise be answered for as long as a larger
                budget lasts, and without end where the hospital has none.

        Raises:
            CipherwardError: if the budget or the bound would be exceeded, or if the ledger cannot be read or written.
        """
        with self._lock():
            entries = self._read()
            if self._open_charges(entries, charge.request) > 0:
                return
            earlier = [self._charge_of(e) for e in entries if e["kind"] == "charge"]
            asked = [charge.mechanism]
            if all(c.policy != charge.policy for c in earlier):
                asked.append(Mechanism(charge.noise_multiplier, charge.sample_rate, rest_of_run))
            what = f"round {charge.round} of the study {charge.study}"
            budget.require_unit([c.unit for c in [*earlier, charge]], what)
            budget.require([c.mechanism for c in earlier] + [m for m in asked if m.steps], what)
            if bound is not None:
                of_study = [c.mechanism for c in earlier if c.policy == charge.policy]
                _require_bound([*of_study, charge.mechanism], bound, what)
            self._append(entries, {"kind": "charge", "charge": asdict(charge)})

    def release(self, request: str) -> None:
        """Write down that a reply is about to leave."""
        with self._lock():
            entries = self._read()
            if self._open_charges(entries, request) > 0:
                self._append(entries, {"kind": "release", "request": request})

    def _append(self, entries: Sequence[dict[str, Any]], entry: dict[str, Any]) -> None:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        cut_torn_line(self.path)
        line = {"number": len(entries), "time": now, **MARK, **entry}
        append_line(self.path, json.dumps(line))
        note_head(self.head_path, [*entries, line])
