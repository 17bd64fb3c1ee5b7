"""The sets of the audited scheme that a cloud attacks without being told which is which.

For an audit that a cloud runs, a hospital seals `set-XXXXXXXX` folders: one under its own key, some under throwaway
keys, and blind controls, which are under throwaway keys too and which the hospital attacks itself. Names are random.
All sets hold equally many training images, drawn at random and in random order; sorting by name is a random order.
So name, size, order, key id and manifest tell nothing. The map of names and roles is private/audit-sets.json.

Controls whose ciphertexts have the form of the audited scheme's (disguise.py) are among them, as copies that declare
the audited scheme. The controls themselves, with their own schemes, are then in private/controls/ and leave nowhere.

The order of images comes from a secret in the map, not from the seed in party.yaml: a coordinator knows that seed,
and by the labels in `train` it could compute each set's order of labels.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import get_args

from coordinator.exchange.audit.control_sets import BLIND_PREFIX, MAY_BE_HIDDEN
from coordinator.exchange.audit.scores import Role
from coordinator.exchange.audit.suite1 import BLIND_CONTROLS
from crypto.arrays import Rows
from crypto.errors import CipherwardError
from crypto.files import disk_errors, read_json
from crypto.key import KEY_BYTES, SecretKey
from crypto.plural import counted
from crypto.unlock import create_private
from parties.sealing.place import Place

_NAME = re.compile(rf"{BLIND_PREFIX}[0-9a-f]{{8}}")
FILE = "audit-sets.json"


@dataclass(frozen=True)
class AuditSets:
    """The map of an audit's sets, which only the hospital has.

    Attributes:
        secret: Hex of 32 random bytes, from which the order of images under throwaway keys is drawn.
        roles: What each set of the audited scheme is, by its name.
        controls: Which control each declared copy is of, by the copy's name. Empty in maps of earlier versions,
            whose controls all have telling names.
    """

    secret: str
    roles: dict[str, Role]
    controls: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The names of all sets, sorted: a random order."""
        return sorted([*self.roles, *self.controls])

    def of_role(self, role: Role) -> list[str]:
        """Return the names of the sets that have a role."""
        return [name for name in self.names if self.roles[name] == role]


def is_audit_set(name: str) -> bool:
    """Return whether a set's name is one that tells nothing."""
    return bool(_NAME.fullmatch(name))


def map_path(place: Place) -> Path:
    """Return the file of the map."""
    return place.private / FILE


def read_map(place: Place, path: Path | None = None) -> AuditSets | None:
    """Return the map of the hospital's audit sets, or None if it has none.

    Args:
        place: The hospital.
        path: The map's file, if it was moved.

    Raises:
        CipherwardError: If the file is damaged.
    """
    path = path or map_path(place)
    if not path.exists():
        return None
    value = read_json(path, "map of the audit's sets")
    try:
        sets = AuditSets(str(value["secret"]), dict(value["roles"]), dict(value.get("controls", {})))
        bytes.fromhex(sets.secret)
        is_sound = all(is_audit_set(n) and role in get_args(Role) for n, role in sets.roles.items())
        is_sound = is_sound and all(is_audit_set(name) for name in sets.controls)
        is_sound = is_sound and set(sets.controls.values()) <= set(MAY_BE_HIDDEN)
    except (AttributeError, KeyError, TypeError, ValueError):
        is_sound = False
    if not is_sound or len(bytes.fromhex(sets.secret)) != KEY_BYTES:
        raise CipherwardError(
            f"{path} is damaged", "restore it from a backup; only it knows which set is which"
        )
    return sets


def ensure_map(
    place: Place, draws: int, *, own_key: bool = True, disguised: Sequence[str] = ()
) -> AuditSets:
    """Return the map of an audit's sets. It is made on first use, with mode 0600.

    Args:
        place: The hospital.
        draws: Draws that the verdict is over. Blind controls are made besides.
        own_key: Whether one of the draws is under the hospital's own key.
        disguised: Controls that a new map hides behind copies that declare the audited scheme.

    Raises:
        CipherwardError: If there are sets of another number of draws: what is added later would be told by its time.
            If there are sets and no map of them. If the controls of an earlier audit lie in the open: their
            ciphertexts would tell what the copies are.
    """
    sets = read_map(place)
    if sets is None:
        if left := sorted(
            path.name for path in (place.folder / "sealed").glob("*") if is_audit_set(path.name)
        ):
            raise _lost_map(place, left[0])
        _drop_earlier_controls(place, disguised)
        roles: list[Role] = ["own_key" if own_key else "throwaway"]
        roles += ["throwaway" for _ in range(draws - 1)]
        roles += ["blind_control" for _ in range(BLIND_CONTROLS)]
        names: set[str] = set()
        while len(names) < len(roles) + len(disguised):
            names.add(BLIND_PREFIX + secrets.token_hex(4))
        # A set of random names has no order of its own; the list is shuffled by the system's generator nevertheless.
        shuffled = secrets.SystemRandom().sample(sorted(names), len(names))
        controls = dict(zip(shuffled[len(roles) :], disguised, strict=True))
        sets = AuditSets(secrets.token_hex(KEY_BYTES), dict(zip(shuffled, roles, strict=False)), controls)
        text = json.dumps(asdict(sets), indent=1, sort_keys=True)
        create_private(map_path(place), text + "\n", "a map of audit sets")
    existing = len(sets.roles) - BLIND_CONTROLS
    if existing != draws:
        raise CipherwardError(
            f"the audit's sets of {place.settings.party} were made for {counted(existing, 'draw')}, not {draws}",
            f"name --audit {existing}; or remove {map_path(place)} and sealed/{BLIND_PREFIX}* to make others",
        )
    for control in sets.controls.values():  # from now on they are sealed there, and nowhere else
        with disk_errors(place.hidden_controls):
            (place.hidden_controls / control).mkdir(parents=True, exist_ok=True)
    return sets


def is_disguised(place: Place, name: str) -> bool:
    """Return whether a control stands behind a copy that declares the audited scheme."""
    sets = read_map(place)
    return sets is not None and name in sets.controls.values()


def show_controls(place: Place) -> None:
    """Let the controls be sealed under their own names again, for an audit in which names may tell.

    Raises:
        CipherwardError: If an audit that a cloud runs hides them.
    """
    if (sets := read_map(place)) is not None and sets.controls:
        raise CipherwardError(
            f"the controls of {place.settings.party} are hidden from the cloud that audits it",
            f"leave out --named; or remove {map_path(place)} and sealed/{BLIND_PREFIX}* to seal others",
        )
    _drop_earlier_controls(place, ())


def _drop_earlier_controls(place: Place, disguised: Sequence[str]) -> None:
    """Remove controls that an earlier audit hid, with their keys: a cloud knows their ciphertexts again.

    Raises:
        CipherwardError: If one of these controls lies in the open.
    """
    shown = [name for name in disguised if (place.folder / "sealed" / name).exists()]
    if shown:
        raise CipherwardError(
            f"controls of an earlier audit of {place.settings.party} have names that tell: {', '.join(shown)}",
            f"remove them from {place.folder / 'sealed'}; others are sealed in their place",
        )
    if place.hidden_controls.exists():
        for folder in place.hidden_controls.iterdir():
            for path in (place.private / f"{folder.name}.key", place.rows_file(folder.name)):
                path.unlink(missing_ok=True)
        shutil.rmtree(place.hidden_controls)


def role_of(place: Place, name: str) -> Role:
    """Return what a set is.

    Raises:
        CipherwardError: If the hospital's map does not name it.
    """
    sets = read_map(place)
    if sets is None and (place.folder / "sealed" / name).exists():
        raise _lost_map(place, name)
    if sets is None or name not in sets.roles:
        raise CipherwardError(
            f"{name} is no set of an audit of {place.settings.party}", "make some with: seal --audit 3"
        )
    return sets.roles[name]


def _lost_map(place: Place, name: str) -> CipherwardError:
    """Return the error for an audit's set of which nobody knows any more what it is."""
    return CipherwardError(
        f"{map_path(place)} is missing, and nothing else says what sealed/{name} is",
        f"restore it from your backup; or remove sealed/{BLIND_PREFIX}* and seal others: seal --audit",
    )


def order_of_images(place: Place, name: str, count: int) -> Rows:
    """Return the order of training images in a set, a permutation int64 [count], of which the set takes the first.

    Under the hospital's own key it is the same in every audit: a scorer answers about these images once.
    """
    if role_of(place, name) == "own_key":
        return place.key().derive("audit-sets").permutation("order", count)
    sets = read_map(place)
    assert sets is not None
    return SecretKey(bytes.fromhex(sets.secret)).permutation(f"order/{name}", count)


def equalise_times(folders: Sequence[Path]) -> None:
    """Give all files of these sets, and the folders, one time: when each was sealed could tell which it is."""
    now = int(time.time())
    for folder in folders:
        for path in [*sorted(folder.iterdir()), folder]:
            os.utime(path, (now, now))
