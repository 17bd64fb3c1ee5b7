"""The policies in a hospital's folder, and the files that a policy stands for: public weights, and kept stems.

HOSPITAL/policy.yaml is the policy that the client obeys. Every accepted policy is also kept in
HOSPITAL/private/policies, so that the model of an earlier study finds the policy, and with it the stem, that it was
trained under.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import stat
from pathlib import Path
from typing import Any

from coordinator.exchange.plan import Plan
from coordinator.exchange.settings import build, dump_yaml, mark_whole, read_yaml
from crypto.errors import CipherwardError
from crypto.files import disk_errors, sha256_file, write_atomic
from parties.sealing.place import Place
from parties.training.policy import Policy, find_difference

#: Where an earlier version kept the stem of one study, without saying which.
_EARLIER_STEM = "stem.safetensors"


def read_policy(place: Place) -> Policy:
    """Read the hospital's policy.

    Raises:
        CipherwardError: if there is none, if it is wrong, and if other users of the machine own it or can write it.
    """
    path = place.policy_file
    if not path.exists():
        raise CipherwardError(
            f"{place.settings.party} accepted no study: there is no {path.name} in its folder",
            "read the plan and accept it: cipherward-party accept PLAN HOSPITAL",
        )
    return _read(path)


def _read(path: Path) -> Policy:
    try:
        return build(Policy, read_policy_values(path), str(path))
    except CipherwardError as error:
        # The hint quotes the wrong value, which may be the hospital's budget.
        raise CipherwardError(error.message, error.hint, error.outside or error.message) from None


def read_policy_values(path: Path) -> dict[str, Any]:
    """Return the settings in a policy's file, which may be of an earlier version.

    Raises:
        CipherwardError: if it cannot be read, or another user owns it or can write it.
    """

    def require_own(status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise CipherwardError(f"the policy {path} is not a regular file", "accept the plan again")
        if status.st_uid != os.geteuid():
            raise CipherwardError(
                f"the policy {path} belongs to another user (uid {status.st_uid}), who can change it",
                f"check it, and copy it in place: install -m 600 {path} COPY, mv COPY {path}",
            )
        if status.st_mode & 0o022:
            raise CipherwardError(
                f"other users of this machine can change {path}", f"check it, then: chmod 600 {path}"
            )

    return read_yaml(path, "policy", require_own)


def save_policy(place: Place, policy: Policy) -> None:
    """Write the policy as the one that the client obeys, and keep a copy; both atomically and with mode 0600."""
    text = mark_whole(dump_yaml(policy.model_dump(mode="json"), allow_unicode=True))

    def fill(draft: Path) -> None:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as handle:
            handle.write(text)

    folder = place.private / "policies"
    with disk_errors(folder):
        folder.mkdir(mode=0o700, exist_ok=True)
    write_atomic(folder / f"{policy.study}-{policy.digest[:16]}.yaml", fill)
    write_atomic(place.policy_file, fill)


def accepted_policies(place: Place) -> list[Policy]:
    """Return every policy that the hospital ever accepted. Those of an earlier version are left out."""
    policies = []
    for path in sorted((place.private / "policies").glob("*.yaml")):
        with contextlib.suppress(CipherwardError):
            policies.append(_read(path))
    return policies


def find_policy(place: Place, plan: Plan) -> Policy:
    """Return the policy, the present or an earlier one, by which the hospital accepted a plan.

    Raises:
        CipherwardError: if the hospital never accepted this plan. The message names the first difference from the
            present policy.
    """
    current = read_policy(place)
    difference = find_difference(current, plan)
    if difference is None:
        return current
    # One of an earlier version must not hide one that fits.
    for policy in accepted_policies(place):
        if find_difference(policy, plan) is None:
            return policy
    raise CipherwardError(
        str(dataclasses.replace(difference, who="this plan")),
        "name the plan that this hospital accepted, or accept this one: cipherward-party accept PLAN HOSPITAL",
    )


@functools.lru_cache(maxsize=8)
def _digest(path: str, _size: int, _modified_ns: int) -> str:
    """Return a file's hex SHA-256, once for each state of the file."""
    return sha256_file(Path(path))


def require_weights(plan: Plan, sha256: str, what: str) -> None:
    """Check that the public weights that `what` starts from are here, and are those that the hospital accepted.

    Args:
        plan: its `weights` is the hospital's own file. "": there is nothing to check.
        sha256: the digest in the policy.
        what: what needs them, for the message.

    Raises:
        CipherwardError: if the file is missing or another one.
    """
    if not plan.weights:
        return
    path = Path(plan.weights)
    if not path.is_file():
        raise CipherwardError(
            f"{what} starts from the plan's public weights, and {path} is not here",
            "copy that file to the same path in this hospital",
        )
    status = path.stat()
    if _digest(str(path), status.st_size, status.st_mtime_ns) != sha256:
        raise CipherwardError(
            f"{what} starts from public weights, and {path} is not the file that this hospital accepted",
            "put the accepted file back, or accept the plan again: cipherward-party accept PLAN HOSPITAL",
        )


def stem_path(place: Place, policy: Policy) -> Path:
    """Return the file of the stems of a study.

    Raises:
        CipherwardError: if the hospital keeps stems of an earlier version, or of another study with the same name.
    """
    earlier = place.private / _EARLIER_STEM
    if earlier.exists():
        raise CipherwardError(
            f"{earlier} was kept by an earlier version, and does not say which study it belongs to",
            "move it out of the hospital's folder; the study starts from the common stem",
        )
    folder = place.private / "stems" / policy.study
    path = folder / f"{policy.digest[:16]}.safetensors"
    others = [p for p in sorted(folder.glob("*.safetensors")) if p != path]
    if others and not path.exists():
        raise CipherwardError(
            f"this hospital keeps stems of the study {policy.study} that were trained under another plan: "
            f"{others[0].relative_to(place.folder)}",
            "give the new study a name of its own; or move those stems away if their model is no longer used",
        )
    return path
