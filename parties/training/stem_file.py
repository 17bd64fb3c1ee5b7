"""The stems that a hospital keeps under stem mode `private`, and the final model as a hospital reads it.

The stems are in HOSPITAL/private/stems/STUDY/DIGEST.safetensors, in plain coordinates: those of the last two rounds,
in case a round is asked for again, and that of the best round, for the test. Each was committed
(parties/training/provisional_stem.py): trainings and evaluations start from these alone. DIGEST names the policy that
they were trained under: a second study never replaces or reads the stems of the first. Stems of another policy under
the same study's name are an error, because they would be left out without a word.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from coordinator.exchange.plan import Plan
from coordinator.model.belonging import read_belonging
from coordinator.model.model_size import require_in_file
from coordinator.model.shares import shared_names
from coordinator.model.vit import build_model, load_state
from crypto.arrays import Float32Array
from crypto.errors import CipherwardError
from crypto.files import disk_errors, write_bytes
from crypto.tensor_file import tensor_bytes
from parties.sealing.place import Place
from parties.training.policy import Policy
from parties.training.policy_file import find_policy, require_weights, stem_path
from parties.training.stem import Stem, carry, copy_stem, hospital_coordinates, replace_stem

#: Stems by the round that they were trained in.
_Stems = dict[int, dict[str, Float32Array]]


@functools.lru_cache(maxsize=1)
def _common_stem(plan_json: str, classes: int, sha256: str) -> Stem:
    """Return the stem that all hospitals start from. sha256: the digest of the plan's public weights."""
    plan = Plan.model_validate_json(plan_json)
    require_weights(plan, sha256, "stem private")
    return copy_stem(build_model(plan.model_copy(update={"share": "all"}), classes))


def read_own_stem(
    place: Place, plan: Plan, classes: int, round_: int, policy: Policy | None = None
) -> Stem:
    """Return the hospital's stem after a round, in plain coordinates.

    This is the last stem that was committed up to that round. If none of this study was, it is the common stem, from
    the public weights that the hospital accepted, or from the plan's seed.

    Args:
        place: the hospital.
        plan: a plan that it accepted.
        classes: the number of classes.
        round_: the round.
        policy: what it accepted of that plan; by default it is looked up.

    Raises:
        CipherwardError: if the hospital never accepted the plan, if the common stem is needed and the weights file is
            not here or is another one, and as `stem_path` does.
    """
    policy = find_policy(place, plan) if policy is None else policy
    plan = policy.adopt(plan)
    stems = {} if plan.stem_frozen else _read_own_stems(place, policy)
    rounds = [r for r in stems if r <= round_]
    if rounds:
        return stems[max(rounds)]
    return _common_stem(plan.model_dump_json(), classes, policy.weights_sha256)


def own_stem_digest(place: Place, policy: Policy, round_: int) -> bytes:
    """Return a digest of the stem that a request of this round is answered with; empty for the common stem."""
    if policy.stem != "private" or policy.stem_frozen:
        return b""
    stems = _read_own_stems(place, policy)
    rounds = [r for r in stems if r <= round_]
    if not rounds:
        return b""
    digest = hashlib.sha256()
    for name, value in sorted(stems[max(rounds)].items()):
        digest.update(name.encode() + value.tobytes())
    return digest.digest()


def write_own_stem(
    place: Place, policy: Policy, stem: Stem, round_: int, best: int, keeps_later: bool = False
) -> None:
    """Write a stem as the hospital's own of a round, beside the stems of the previous and of the best round.

    Args:
        place: the hospital.
        policy: what it accepted of the study.
        stem: in plain coordinates.
        round_: the round that it was trained in.
        best: the best round so far.
        keeps_later: whether stems of later rounds stay, because an earlier round is repeated.
    """
    stems = _read_own_stems(place, policy)
    previous = max((r for r in stems if r < round_), default=0)
    best = max((r for r in stems if r <= best), default=0)
    kept: dict[int, Stem] = {r: stems[r] for r in (previous, best) if r in stems}
    if keeps_later:
        kept |= {r: value for r, value in stems.items() if r > round_}
    write_stem_file(stem_path(place, policy), policy, kept | {round_: stem})


def write_stem_file(
    path: Path, policy: Policy, stems: Mapping[int, Stem], about: Mapping[str, str] | None = None
) -> None:
    """Write stems by their round to a file that names the policy they were trained under.

    Args:
        path: the file. Its folder is made if it is missing.
        policy: what the hospital accepted of the study.
        stems: in plain coordinates.
        about: what else the file says.
    """
    tensors = {f"{r}/{name}": value for r, stem in stems.items() for name, value in stem.items()}
    with disk_errors(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    names = {"study": policy.study, "policy": policy.digest}
    write_bytes(path, tensor_bytes(tensors, {**(about or {}), **names}))


def _read_own_stems(place: Place, policy: Policy) -> _Stems:
    """Return the hospital's own stems by round, empty if there is no file."""
    path = stem_path(place, policy)
    return read_stem_file(path, policy)[0] if path.exists() else {}


def read_stem_file(path: Path, policy: Policy) -> tuple[_Stems, dict[str, str]]:
    """Return the stems of a file by round, and what it says of them.

    Raises:
        CipherwardError: if it cannot be read, or is of another policy.
    """
    stems: _Stems = {}
    try:
        with safe_open(str(path), framework="numpy") as file:
            about = dict(file.metadata() or {})
            for key in file.keys():  # noqa: SIM118 - not a dict
                round_, name = key.split("/", 1)
                stems.setdefault(int(round_), {})[name] = file.get_tensor(key)
    except (SafetensorError, OSError, ValueError) as error:
        raise CipherwardError(
            f"the hospital's stem {path} cannot be read: {type(error).__name__}",
            "remove it to start from the common stem again",
        ) from None
    if (about.get("study"), about.get("policy")) != (policy.study, policy.digest):
        raise CipherwardError(
            f"the stems in {path} were trained under another policy than {policy.study}'s",
            "put the study's own stems back, or remove the file to start from the common stem again",
        )
    return stems, about


def load_final_model(plan: Plan, place: Place, classes: int, path: Path) -> nn.Module:
    """Load the federation's final model so that it reads this hospital's sealed images, with this hospital's stem.

    Under stem modes `private` and `plain` this opens the hospital's key.

    Args:
        plan: the study's plan.
        place: the hospital.
        classes: the number of classes.
        path: the study's cloud/model.safetensors.

    Raises:
        CipherwardError: if the model belongs to another study, scheme, key or other classes, and, under stem mode
            `private`, if the hospital never accepted the plan.
    """
    belonging, sealed = read_belonging(path), place.sealed("test")
    if (belonging.study, belonging.stem) != (plan.study, plan.stem):
        raise CipherwardError(
            f"{path} is a model of the study {belonging.study}, stem {belonging.stem}; the plan is that of "
            f"{plan.study}, stem {plan.stem}",
            "name the plan that the model was trained by",
        )
    belonging.require_match(sealed.spec, sealed.key_id, sealed.classes)
    # The file has its adapters merged, and lacks nothing except private stems.
    merged_plan = plan.model_copy(update={"weights": "", "share": "all"})
    # The plan may never have been accepted here: it must not stand for more than the file holds.
    require_in_file(
        lambda: build_model(merged_plan, classes), path, lambda model: shared_names(model, merged_plan)
    )
    model = build_model(merged_plan, classes)
    load_state(model, load_file(str(path)), path, shared_names(model, merged_plan))
    if plan.stem == "private":
        replace_stem(model, read_own_stem(place, plan, classes, belonging.round))
    if plan.stem != "learn":
        carry(model, hospital_coordinates(place, sealed))
    return model
