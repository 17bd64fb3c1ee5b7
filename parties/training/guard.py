"""The hospital's gate: no message is answered that goes beyond its policy, and every refusal is written down.

A message can only name what the hospital accepted. Checked, before anything is opened or built: the plan against the
policy, the study manifest that the message names against the one that the hospital agreed to, the plan and the
hospital's own statement against its sealed sets, every further setting of the message, and the number of answers so
far.

    private/answers/STUDY-DIGEST.jsonl   a line for every different request, written before it is answered
    private/refusals.jsonl               time, study, setting, what was stated and what is accepted

A request that is sent again word for word (a retry, or a run that goes on after a kill) tells the coordinator nothing
new, and is not counted again. Requests are compared by their digest, which covers the weights, and the hospital's own
stem that the answer would depend on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from flwr.app import Array, Message

from coordinator.exchange.manifest import StudyManifest
from coordinator.exchange.plan import Plan
from coordinator.exchange.secure_sum import settings_text
from coordinator.exchange.settings import build
from coordinator.exchange.statement import SPLITS
from coordinator.exchange.wire import DTYPES, decode
from crypto.errors import CipherwardError
from crypto.files import (
    append_line,
    cut_torn_line,
    disk_errors,
    hold_file,
    open_lock,
    parse_json,
    read_every_line,
    read_json,
    write_json,
)
from crypto.sets.dataset import SealedDataset
from parties.sealing.place import Place
from parties.training.policy import (
    Difference,
    Policy,
    find_difference,
    find_set_difference,
    find_statement_difference,
    find_step_difference,
)
from parties.training.policy_file import read_policy
from parties.training.stem_file import own_stem_digest
from parties.training.study_file import read_agreed

REFUSALS_FILE = "refusals.jsonl"
#: Refusals beyond this size are not written: a server that repeats itself must not fill the hospital's disk.
_MAX_REFUSALS_BYTES = 1 << 20
#: All settings that a message may have beside the plan, by what it asks for.
_SETTINGS = {
    "train": frozenset({"server-round", "best-round", "base", "proximal-mu", "attempt"}),
    "evaluate": frozenset({"server-round", "split", "base"}),
}
#: What names the study in a message: the plan itself, and the digest of the study manifest.
_NAMES = frozenset({"plan", "manifest"})
_ATTEMPT = re.compile(r"[0-9a-f]{32}")
_MESSAGE = "the coordinator's message"
_COUNT = "restore private/answers from your backup; or remove it, if you know that no line of that journal is gone"
_HINT = "nothing was opened or sent; ask the coordinator, or accept another plan: cipherward-party accept"
_AGAIN = (
    "nothing was opened or sent; the coordinator sends its study.json, and this hospital agrees to it: "
    "cipherward-party agree STUDY.json HOSPITAL"
)
_RESTATE = (
    "the study needs a new manifest: cipherward-party declare HOSPITAL, cipherward-coordinator manifest, and "
    "cipherward-party agree in every hospital"
)


class RefusedError(CipherwardError):
    """A message goes beyond the policy. `field` is the first setting that does; the hospital's log names it."""

    def __init__(self, field: str, message: str, hint: str, outside: str = "") -> None:
        super().__init__(message, hint, outside)
        self.field = field


@dataclass(frozen=True)
class Settings:
    """What a message says beside its plan.

    Attributes:
        split: train, val or test.
        round: the round.
        best_round: the best round so far; 0 in an evaluation.
        proximal: the weight of FedProx's term.
        base: the digest of the coordinator's weights that are not sent, or None.
        attempt: the name of this attempt at a secure sum; "" without secure aggregation.
        text: all settings of the message as one text, the plan's included, but for the name of the attempt.
    """

    split: str
    round: int
    best_round: int
    proximal: float
    base: str | None
    attempt: str = ""
    text: str = ""


@dataclass(frozen=True)
class Request:
    """A message that the policy allows.

    Attributes:
        plan: the accepted plan, as the hospital uses it.
        policy: the hospital's policy.
        sealed: the sealed set that is asked for.
        settings: what the message says beside its plan.
        words: the weights, still encoded.
        name: a digest of everything that the answer depends on; the same for a request that comes again.
    """

    plan: Plan
    policy: Policy
    sealed: SealedDataset
    settings: Settings
    words: Array
    name: str = ""


def admit_introduction(place: Place, message: Message) -> tuple[StudyManifest, dict[str, SealedDataset]]:
    """Return the study manifest that a question names, and the sealed sets that the hospital may answer it with.

    Raises:
        CipherwardError: if the hospital accepted no study or agreed to no manifest, if the question names another
            one or says anything else, or if a set is not what the hospital accepted and stated.
    """
    policy = read_policy(place)
    config: dict[str, Any] = dict(message.content.config_records.get("config") or {})
    for name in sorted(config.keys() - {"manifest"}):
        raise refuse(
            place, policy.study, Difference(str(name)[:100], config[name], "no such setting", _MESSAGE)
        )
    manifest = _require_manifest(place, policy, config)
    sets = {split: place.sealed(split) for split in SPLITS}
    for split, sealed in sets.items():
        _require_set(place, policy, sealed, split, manifest)
    return manifest, sets


def admit(place: Place, message: Message, kind: Literal["train", "evaluate"]) -> Request:
    """Check a message against the policy and the sealed sets, and count it.

    Args:
        place: the hospital.
        message: a message that carries a plan, weights and settings.
        kind: what it asks for.

    Raises:
        CipherwardError: naming the first setting that the hospital did not accept. It is written down, too.
    """
    policy = read_policy(place)
    plan = _read_plan(place, policy, message)
    if difference := find_difference(policy, plan):
        raise refuse(place, plan.study, difference)
    config: dict[str, Any] = dict(message.content.config_records["config"])
    manifest = _require_manifest(place, policy, config)
    if kind == "train" and policy.budget_epsilon and not plan.privacy.is_on:
        budget = f"a budget of epsilon {policy.budget_epsilon:g} over all trainings"
        outside = "this hospital answers trainings with differential privacy alone"
        raise refuse(place, plan.study, Difference("privacy", plan.privacy, budget), outside=outside)
    settings = _read_settings(place, policy, plan, message, kind)
    sealed = place.sealed(settings.split)
    _require_set(place, policy, sealed, settings.split, manifest)
    if difference := find_set_difference(sealed, plan.describe(), "the coordinator's plan"):
        raise refuse(place, plan.study, difference)
    if kind == "train" and (difference := find_step_difference(policy, plan, len(sealed))):
        raise refuse(place, plan.study, difference)
    words = message.content.array_records["arrays"]["model"]
    _require_weights(place, plan, words)
    request = Request(policy.adopt(plan), policy, sealed, settings, words)
    return dataclasses.replace(request, name=_charge(place, request))


def _read_plan(place: Place, policy: Policy, message: Message) -> Plan:
    """Return the plan of a message. One that cannot be read is refused, and written down."""
    try:
        values = parse_json(str(message.content.config_records["config"]["plan"]))
        if not isinstance(values, dict):
            raise TypeError
        return build(Plan, values, "the coordinator's plan")
    except (KeyError, TypeError, ValueError, RecursionError):
        stated = "something that is not a plan"
        raise refuse(place, policy.study, Difference("plan", stated, policy.study, _MESSAGE)) from None
    except CipherwardError as error:
        _write_refusal(place, policy.study, Difference("plan", error.message, policy.study))
        raise


def _read_settings(
    place: Place, policy: Policy, plan: Plan, message: Message, kind: Literal["train", "evaluate"]
) -> Settings:
    """Return what a message says beside its plan, with every setting checked."""
    config: dict[str, Any] = dict(message.content.config_records["config"])

    def require(condition: bool, field: str, stated: Any, accepted: Any) -> None:
        if not condition:
            raise refuse(place, plan.study, Difference(field, stated, accepted, _MESSAGE))

    for name in sorted(config.keys() - _SETTINGS[kind] - _NAMES):
        require(False, str(name)[:100], config[name], "no such setting")
    number, best, split = (
        config.get("server-round"),
        config.get("best-round", 0),
        config.get("split", "train"),
    )
    # FedProx sends the plan's, and every other strategy sends none.
    proximal, base = config.get("proximal-mu", 0.0), config.get("base")
    # A test of a training without rounds would be of round 0.
    first, splits = (1, ["train"]) if kind == "train" else (0, ["val", "test"])
    is_round = type(number) is int and first <= number <= policy.rounds
    require(is_round, "server-round", number, f"from {first} to {policy.rounds}")
    require(
        type(best) is int and 0 <= best <= max(0, int(number or 0) - 1),
        "best-round",
        best,
        "an earlier one",
    )
    require(split in splits, "split", split, " or ".join(splits))
    require(kind == "evaluate" or proximal == plan.proximal, "proximal_mu", proximal, plan.proximal)
    require(base is None or isinstance(base, str), "base", base, "a digest")
    attempt = config.get("attempt", "")
    is_name = isinstance(attempt, str) and bool(_ATTEMPT.fullmatch(attempt))
    if kind == "train" and plan.sums_securely:
        require(is_name, "attempt", attempt, "the name of an attempt: updates are summed securely")
    else:
        require(attempt == "", "attempt", attempt, "none: no secure sum")
    arrays = message.content.array_records.get("arrays") or {}
    require(set(arrays) == {"model"}, "arrays", sorted(arrays), "one array of weights")
    text = settings_text(config)
    return Settings(str(split), int(number or 0), int(best), float(proximal), base, str(attempt), text)


def _require_weights(place: Place, plan: Plan, words: Array) -> None:
    """Refuse what can be no weights of the plan's wire, before the message counts or costs any privacy.

    NumPy would cast another type in silence, and a number that is not finite makes all that is trained from it none.
    """
    expected = DTYPES[plan.wire]
    try:
        values = words.numpy()
    except Exception as error:  # a crafted array makes NumPy and Flower raise anything
        stated = f"an array that cannot be read ({type(error).__name__})"
    else:
        if values.dtype != expected or values.ndim != 1:
            stated = f"{values.dtype} of shape {values.shape}"
        elif not np.isfinite(decode(values, plan.wire)).all():
            stated = "values that are not finite"
        else:
            return
    accepted = f"finite weights in one vector of {expected}"
    raise refuse(place, plan.study, Difference("arrays", stated, accepted, _MESSAGE))


def require_length(place: Place, request: Request, weights: int) -> None:
    """Refuse weights that are not as many as the plan's model has.

    Args:
        place: the hospital.
        request: an admitted request.
        weights: how many weights of the model travel.

    Raises:
        CipherwardError: if it has more or fewer. It is written down, too.
    """
    stated = len(request.words.numpy())
    if stated != weights:
        difference = Difference(
            "arrays", f"{stated} weights", f"{weights}, as the plan's model has", _MESSAGE
        )
        raise refuse(place, request.plan.study, difference)


def _require_manifest(place: Place, policy: Policy, config: dict[str, Any]) -> StudyManifest:
    """Return the study manifest that the hospital agreed to, unless a message names another one or none."""
    manifest = read_agreed(place, policy)
    stated = config.get("manifest")
    if stated != manifest.digest:
        raise refuse(place, policy.study, Difference("manifest", stated, manifest.digest, _MESSAGE), _AGAIN)
    return manifest


def _require_set(
    place: Place, policy: Policy, sealed: SealedDataset, split: str, manifest: StudyManifest
) -> None:
    """Refuse to work on a sealed set that is not what the policy says, or not the one that the hospital stated."""
    difference = find_set_difference(sealed, policy.describe(), "this hospital's policy")
    if difference is None and sealed.classes != policy.classes:
        # The names stay here: they may tell of patients.
        who, whose = "this hospital's policy", f"the sealed set {split} has"
        difference = Difference(
            "classes", "in the policy", "with other names or in another order", who, whose
        )
    if difference is not None:
        raise refuse(place, policy.study, difference)
    difference = find_statement_difference(sealed, split, manifest.statements[place.settings.party])
    if difference is not None:
        raise refuse(place, policy.study, difference, _RESTATE)


def _charge(place: Place, request: Request) -> str:
    """Count a request before it is answered, and return its digest. One that was counted already is free.

    Raises:
        CipherwardError: if the hospital answered as many different requests as it accepted, or if nobody knows how
            many it answered.
    """
    policy, plan, settings = request.policy, request.plan, request.settings
    split, number = settings.split, settings.round
    field, limit = {
        "train": ("trainings", policy.trainings),
        "val": ("evaluations", policy.evaluations),
        "test": ("test_reads", policy.test_reads),
    }[split]
    # The sealed set, because a hospital may seal others and agree anew; in a secure sum the manifest, which gives
    # every hospital its weight.
    about = [split, number, settings.best_round, plan.batch, plan.local_epochs, request.sealed.digest]
    about += [policy.manifest_sha256] if plan.sums_securely else []
    digest = hashlib.sha256(json.dumps(about).encode())
    digest.update(request.words.data)
    # A training starts from the stem of the round before.
    digest.update(own_stem_digest(place, policy, number - int(split == "train")))
    name = digest.hexdigest()
    folder = place.private / "answers"
    with disk_errors(folder):
        folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{policy.study}-{policy.digest[:16]}.jsonl"
    count_path = path.with_suffix(".count")
    # The lock is waited for: a second message must be counted, and not refused.
    with open_lock(folder / ".lock") as lock:
        hold_file(lock, folder)
        cut_torn_line(path)  # it was not answered
        answered, damaged, lines = _answered(path, count_path, split)
        if name in answered:
            return name
        if len(answered) + damaged >= limit:
            difference = Difference(field, len(answered) + damaged + 1, limit, _MESSAGE)
            hint = f"if this hospital agrees to more, raise {field} in its {place.policy_file.name}"
            raise refuse(place, plan.study, difference, hint)
        row = {"time": _now(), "split": split, "round": number, "request": name}
        append_line(path, json.dumps(row))
        write_json(count_path, lines + 1)  # those that are gone stay counted
    return name


def _answered(path: Path, count_path: Path, split: str) -> tuple[set[str], int, int]:
    """Return the answered requests about a split, how many lines are damaged or gone, and how many there were.

    Each of the damaged or gone may have been one more.

    Args:
        path: the journal.
        count_path: says how many lines it had. Those of an earlier version have none beside them.
        split: the split.
    """
    rows = read_every_line(path)
    noted = read_json(count_path, "count of answers", remedy=_COUNT) if count_path.exists() else 0
    if type(noted) is not int:
        raise CipherwardError(f"the count of answers {count_path} is damaged", _COUNT)
    answered, damaged = set(), max(0, noted - len(rows))
    for row in rows:
        match row:
            case {"split": str(stated), "request": str(request)}:
                if stated == split:
                    answered.add(request)
            case _:
                damaged += 1
    return answered, damaged, max(noted, len(rows))


def refuse(
    place: Place, study: str, difference: Difference, hint: str = _HINT, outside: str = ""
) -> CipherwardError:
    """Write a refusal down, and return the error to raise.

    outside: what the coordinator reads instead, where the difference holds a figure that stays in the hospital.
    """
    _write_refusal(place, study, difference)
    return RefusedError(difference.field, str(difference), hint, outside)


def _write_refusal(place: Place, study: str, difference: Difference) -> None:
    path = place.private / REFUSALS_FILE
    if path.exists() and path.stat().st_size > _MAX_REFUSALS_BYTES:
        return
    stated, accepted = (repr(v)[:200] for v in (difference.stated, difference.accepted))
    row = {"time": _now(), "study": study[:100], "field": difference.field}
    append_line(path, json.dumps(row | {"stated": stated, "accepted": accepted}))


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
