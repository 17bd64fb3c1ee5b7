"""The hospital's side of secure aggregation: what it keeps between the messages of a round, and what it refuses.

    private/secure_sum/STUDY-DIGEST/member.json    the live attempt, with its secrets; one at a time
                                    update.npz     the encoded update that it masks, and what it answers
                                    attempts.json  the names of all attempts: none is begun twice
                                    masked.json    by manifest and round, which update was masked
                                    summed.json    by round, over whose updates a sum was unmasked

A hospital may be a new process for every message, so its state is on disk, and it is written before an answer leaves.
An attempt that was repeated masks the same stored update with fresh keys: nothing is trained twice.

A masked update may come into a sum, even if this hospital hears no more of it. So a hospital masks one update in a
round, and trains in no round before the last one in which it masked: two sums of a round would differ by what a cloud
changed for one hospital alone. The stem that was trained with the update becomes the hospital's own when it helps to
unmask the sum (parties/training/provisional_stem.py): later rounds start from nothing but what all members signed.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar
from zipfile import BadZipFile

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict

from coordinator.exchange.secure_sum import (
    RECORD,
    SumSettings,
    encode_update,
    model_digest,
    read_bytes_map,
    read_record,
    write_record,
)
from coordinator.exchange.wire import apply_reply, decode
from crypto.arrays import AnyArray, Float32Array, UInt32Array
from crypto.errors import CipherwardError
from crypto.files import disk_errors, drop_temporaries, hold_file, open_lock, read_json, write_atomic
from crypto.identity import Identity
from crypto.secure_sum.member import Member
from crypto.secure_sum.transcript import RoundId, RoundKeys
from parties.agent.identity_file import read_identity
from parties.sealing.place import Place
from parties.training.guard import Request, refuse
from parties.training.policy import Difference, Policy
from parties.training.policy_file import read_policy
from parties.training.provisional_stem import commit_stem
from parties.training.study_file import read_agreed

_HINT = "the coordinator repeats the round"
_MASKED, _SUMMED = "masked.json", "summed.json"
_RESTORE = "restore private/secure_sum from your backup; or give the study another name"
_UNKNOWN = "this hospital does not know any more which updates it masked"
_Answer = TypeVar("_Answer")


class SumStore:
    """The state of a study's secure sums in a hospital. Use it in a `with` statement: one process at a time."""

    def __init__(self, folder: Path, identity: Identity, settings: SumSettings) -> None:
        """Return the state in a folder.

        Args:
            folder: it is made on first use.
            identity: the hospital's.
            settings: what the hospitals agreed on.
        """
        self._folder, self._identity, self._settings = folder, identity, settings
        self._rules = settings.rules

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the state for this process; others wait."""
        with disk_errors(self._folder):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open_lock(self._folder / ".lock") as handle:
            hold_file(handle, self._folder)
            # What a kill left of a file that was being written: it holds the secrets of a round that is over.
            drop_temporaries(self._folder)
            yield

    def stored_steps(self, request: str) -> int | None:
        """Return the optimizer's steps behind the stored update of a request, or None if it is not stored.

        request: the digest of the request that the update answers.
        """
        with self.lock():
            found = self._read_update()
        return found[2] if found is not None and found[0] == request else None

    def store_update(self, request: str, update: Float32Array, loss: float, steps: int) -> int:
        """Encode and keep an update. Return how many of its values were clipped.

        Args:
            request: the digest of the request that it answers.
            update: trained minus received weights, float32 [parameters].
            loss: the mean training loss.
            steps: the optimizer's steps.

        Raises:
            CipherwardError: if a value is not finite, or the disk is full.
        """
        settings = self._settings
        weight = settings.weights[self._identity.public.name]
        vector, clipped = encode_update(update, loss, weight, settings.point)

        def fill(draft: Path) -> None:
            with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as handle:
                np.savez(handle, vector=vector, request=np.array(request), steps=np.array(steps))

        with self.lock():
            write_atomic(self._folder / "update.npz", fill)
        return clipped

    def require_open(self, round_: int, request: str) -> None:
        """Refuse to train for a request of a round that is over, unless its update is the one that was masked.

        Args:
            round_: the round.
            request: the digest of the request.

        Raises:
            CipherwardError: if another update of this round was masked, or one of a later round.
        """
        with self.lock():
            self._require_open(round_, request)

    def _require_open(self, round_: int, request: str) -> None:
        studies = self._read_masked()
        rounds = studies.get(self._settings.study, {})
        masked, last = rounds.get(str(round_)), max(map(int, rounds), default=0)
        if masked is not None and masked["request"] != request:
            raise CipherwardError(
                f"this hospital masked an update of round {round_} that answers another request; two different "
                "updates of a round could give it away",
                "repeat the round as it was; to train anew, give the study another name",
            )
        if masked is None and round_ < last:
            raise CipherwardError(
                f"round {round_} is over: this hospital masked an update of round {last}",
                f"go on with round {last} or later",
            )
        # An earlier version did not note which update it was.
        is_known = any(str(round_) in entry for entry in studies.values())
        if not is_known and str(round_) in self._read_summed():
            raise CipherwardError(f"round {round_} was summed before", f"go on with round {round_ + 1}")

    def _note_masked(self, round_: int, request: str, vector: UInt32Array) -> None:
        """Note the one update of a round that this hospital masks.

        Raises:
            CipherwardError: as `require_open` does, and if the request was trained again with another result.
        """
        self._require_open(round_, request)
        studies, digest = self._read_masked(), hashlib.sha256(vector.tobytes()).hexdigest()
        rounds = studies.setdefault(self._settings.study, {})
        noted = rounds.setdefault(str(round_), {"request": request, "update": digest})
        if noted["update"] != digest:
            raise CipherwardError(
                f"the update of round {round_} was lost and trained again, and it is not the one that was masked",
                "let the other hospitals go on without this one; or give the study another name",
            )
        self._write(_MASKED, json.dumps(studies))

    def begin(self, round_id: RoundId, request: str) -> RoundKeys:
        """Start an attempt with fresh keys, in the place of an earlier one, and return the signed keys.

        Args:
            round_id: the attempt.
            request: the digest of the request whose stored update it will mask.

        Raises:
            CipherwardError: if an attempt of this name was begun before.
        """
        with self.lock():
            names, is_begun = self._read_names()
            if round_id.attempt in names:
                raise CipherwardError("the coordinator repeats the name of an attempt", _HINT)
            if not is_begun:
                self._begin_lists()
            self._write("attempts.json", json.dumps({"names": [*names, round_id.attempt]}))
            member = Member.start(self._identity, round_id)
            keys = member.keys()
            self._write_member(member, request)
        return keys

    def share(self, about: Mapping[str, object]) -> dict[str, bytes]:
        """Return encrypted shares for the other members, whose round keys the coordinator passed on."""

        def answer(member: Member, _: str) -> dict[str, bytes]:
            keys = about["keys"]
            if not isinstance(keys, Mapping):
                raise CipherwardError("the round keys are malformed", _HINT)
            parsed = {str(name): RoundKeys.from_json(value) for name, value in keys.items()}
            return member.share(parsed, self._rules)

        return self._step(about, answer)

    def mask(self, about: Mapping[str, object]) -> tuple[UInt32Array, list[str]]:
        """Return the masked update, and the members whose shares could not be opened."""

        def answer(member: Member, request: str) -> tuple[UInt32Array, list[str]]:
            stored = self._read_update()
            if stored is None or stored[0] != request:
                raise CipherwardError("this hospital keeps no update of this round", _HINT)
            masked = member.mask(read_bytes_map(about["shares"]), stored[1], self._rules)
            self._note_masked(member.round_id.round, request, stored[1])
            return masked

        return self._step(about, answer)

    def confirm(self, about: Mapping[str, object]) -> bytes:
        """Return the signature of whose updates are counted."""

        def answer(member: Member, _: str) -> bytes:
            survivors = about["survivors"]
            if not isinstance(survivors, list) or not all(isinstance(name, str) for name in survivors):
                raise CipherwardError("the list of survivors is malformed", _HINT)
            earlier = self._read_summed().get(str(member.round_id.round))
            return member.confirm(survivors, self._identity, self._rules, earlier)

        return self._step(about, answer)

    def reveal(
        self, about: Mapping[str, object], commit: Callable[[str, bool], None]
    ) -> tuple[Mapping[str, bytes], Mapping[str, bytes]]:
        """Return shares of self masks and of mask keys, by hospital.

        First the trained stem becomes the hospital's own, and it is noted over whom the sum is. A kill between the
        two costs nothing: nothing was revealed, and every sum of this round has the same update.

        Args:
            about: the message.
            commit: gets the request whose update is in the sum, after the signatures were checked, and whether this
                hospital masked an update of a later round before.
        """

        def answer(member: Member, request: str) -> tuple[Mapping[str, bytes], Mapping[str, bytes]]:
            shown = member.reveal(read_bytes_map(about["signatures"], 64), self._rules)
            rounds = self._read_masked().get(self._settings.study, {})
            # A coordinator that lost its checkpoint repeats rounds: that must not take a later stem away.
            commit(request, member.round_id.round < max(map(int, rounds), default=0))
            summed = {**self._read_summed(), str(member.round_id.round): member.survivors}
            self._write(_SUMMED, json.dumps(summed))
            return shown.self_masks, shown.mask_keys

        return self._step(about, answer)

    def _step(self, about: Mapping[str, object], answer: Callable[[Member, str], _Answer]) -> _Answer:
        """Let the live member answer, and write its state before the answer leaves."""
        with self.lock():
            path = self._folder / "member.json"
            if not path.is_file():
                raise CipherwardError("no round of secure aggregation is going on here", _HINT)
            kept = read_json(path, "secure sum")
            match kept:
                case {"member": str(text), "request": str(request)}:
                    member = Member.restore(text)
                case _:
                    raise CipherwardError("the state of this secure sum is damaged", _HINT)
            own = member.round_id
            asked = (about["study"], about["round"], about["attempt"])
            if asked != (own.study, own.round, own.attempt) or own.study != self._settings.study:
                raise CipherwardError(
                    f"the coordinator asks about another attempt than that of round {own.round}", _HINT
                )
            result = answer(member, request)
            self._write_member(member, request)
        return result

    def _write_member(self, member: Member, request: str) -> None:
        self._write("member.json", json.dumps({"member": member.export(), "request": request}))

    def _read_names(self) -> tuple[list[str], bool]:
        """Return the names of all attempts so far, and whether the lists were begun with them.

        An earlier version began a list with its first entry, so that a list that is gone looked like an empty one.
        """
        path = self._folder / "attempts.json"
        if not path.exists():
            return [], False
        match read_json(path, "list of attempts", remedy=_RESTORE):
            case list(names):
                return [str(name) for name in names], False
            case {"names": list(names)}:
                return [str(name) for name in names], True
        raise CipherwardError(f"the list of attempts {path} is damaged", _RESTORE)

    def _begin_lists(self) -> None:
        """Write the lists that are not there yet. From now on, one that is gone is an error."""
        for name in (_MASKED, _SUMMED):
            if not (self._folder / name).exists():
                self._write(name, "{}")

    def _read_list(self, name: str) -> dict[str, Any]:
        """Return what is noted of masked or summed updates; nothing before the first attempt.

        Raises:
            CipherwardError: if it is gone or damaged. Then another update of a round could be masked, and the
                difference of two sums would give one away.
        """
        path = self._folder / name
        if not path.exists():
            if self._read_names()[1]:
                raise CipherwardError(
                    f"{path} is missing: nobody knows what this hospital masked", _RESTORE, _UNKNOWN
                )
            return {}
        noted = read_json(path, "list of secure sums", remedy=_RESTORE)
        if not isinstance(noted, dict):
            raise CipherwardError(f"the list of secure sums {path} is damaged", _RESTORE, _UNKNOWN)
        return noted

    def _read_summed(self) -> dict[str, list[str]]:
        """Return over whose updates a sum was unmasked, by round."""
        return self._read_list(_SUMMED)

    def _read_masked(self) -> dict[str, dict[str, dict[str, str]]]:
        """Return what is noted of masked updates, by manifest and round."""
        return self._read_list(_MASKED)

    def _read_update(self) -> tuple[str, UInt32Array, int] | None:
        """Return the stored update: request, vector and steps; None if there is none that can be read."""
        try:
            with np.load(self._folder / "update.npz", allow_pickle=False) as file:
                return str(file["request"]), file["vector"], int(file["steps"])
        except (OSError, EOFError, KeyError, ValueError, BadZipFile, zlib.error):
            return None

    def _write(self, name: str, text: str) -> None:
        """Write a file of mode 0600 in the place of the old one."""

        def fill(draft: Path) -> None:
            with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as handle:
                handle.write(text)

        write_atomic(self._folder / name, fill)


def open_store(place: Place, policy: Policy) -> SumStore:
    """Return the state of a study's secure sums in a hospital, by the manifest that the hospital agreed to."""
    settings = SumSettings.of(read_agreed(place, policy), policy.privacy)
    folder = place.private / "secure_sum" / f"{policy.study}-{policy.digest[:16]}"
    return SumStore(folder, read_identity(place), settings)


def begin_sum(
    place: Place, request: Request, answer: Callable[[], tuple[AnyArray, Mapping[str, float | int]]]
) -> RecordDict:
    """Return the answer to a training message under secure aggregation: round keys, and no weights.

    Args:
        place: the hospital.
        request: the training message that the policy allows.
        answer: trains, and returns the words that would be sent and their figures. It is not called if the update of
            this request is stored already.

    Raises:
        CipherwardError: if the round is over for this hospital (`SumStore.require_open`). It is written down, too.
    """
    started, plan = time.perf_counter(), request.plan
    store, received = open_store(place, request.policy), request.words.numpy()
    with _refusals_written(place, request.policy, "train"):
        store.require_open(request.settings.round, request.name)
    steps = store.stored_steps(request.name)
    if steps is None:
        words, figures = answer()  # it stores the stem first: whoever finds the update finds its stem
        weights = decode(received, plan.wire)
        update = apply_reply(words, weights, plan.wire) - weights
        steps = int(figures["steps"])
        store.store_update(request.name, update, float(figures.get("loss", 0.0)), steps)
    manifest = request.policy.manifest_sha256
    settings = request.settings
    digest = model_digest(received, settings.text)
    round_id = RoundId(manifest, settings.round, settings.attempt, digest)
    keys = store.begin(round_id, request.name)
    open_figures: dict[str, float | int] = {"num-examples": len(request.sealed), "steps": steps}
    if not plan.privacy.is_on:
        open_figures["seconds"] = time.perf_counter() - started
    return RecordDict(
        {"metrics": MetricRecord(open_figures), RECORD: write_record({"keys": keys.to_json()})}
    )


#: What each later message of a round says, beside which attempt it is about.
_STEPS = {"shares": "keys", "masked": "shares", "confirm": "survivors", "reveal": "signatures"}


def answer_step(place: Place, message: Message, step: str) -> RecordDict:
    """Return the answer to a later message of a round: shares, masked, confirm or reveal.

    Raises:
        CipherwardError: if the hospital demands what the message does not give. It is written down, too.
    """
    policy = read_policy(place)
    with _refusals_written(place, policy, step):
        about = read_record(message.content, frozenset({"study", "round", "attempt", _STEPS[step]}))
        commit = functools.partial(commit_stem, place, policy)
        return _answer_step(open_store(place, policy), about, step, commit)


@contextlib.contextmanager
def _refusals_written(place: Place, policy: Policy, step: str) -> Iterator[None]:
    """Write an error down as a refusal of a step, and raise it again."""
    try:
        yield
    except CipherwardError as error:
        difference = Difference("secure_aggregation", error.message, step, "a message", "asked for was")
        refuse(place, policy.study, difference)
        raise


def _answer_step(
    store: SumStore, about: Mapping[str, object], step: str, commit: Callable[[str, bool], None]
) -> RecordDict:
    if step == "shares":
        return RecordDict({RECORD: write_record({"shares": store.share(about)})})
    if step == "masked":
        vector, complaints = store.mask(about)
        arrays = ArrayRecord({"model": Array(vector)})
        return RecordDict({"arrays": arrays, RECORD: write_record({"unopened": complaints})})
    if step == "confirm":
        return RecordDict({RECORD: write_record({"signature": store.confirm(about)})})
    self_masks, mask_keys = store.reveal(about, commit)
    shown = {"self_masks": dict(self_masks), "mask_keys": dict(mask_keys)}
    return RecordDict({RECORD: write_record(shown)})
