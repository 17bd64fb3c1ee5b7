"""The sets of the audited scheme that a cloud attacks without being told which is which.

For an audit that a cloud runs, a hospital seals `set-XXXXXXXX` folders: one under its own key, some under throwaway
keys, and blind controls, which are under throwaway keys too and which the hospital attacks itself. Names are random.
All sets hold equally many training images, drawn at random and in random order; sorting by name is a random order.
So name, size, order, key id and manifest tell nothing. The map of names and roles is private/audit-sets.json.

The order of images comes from a secret in the map, not from the seed in party.yaml: a coordinator knows that seed,
and by the labels in `train` it could compute each set's order of labels.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from coordinator.exchange.audit.control_sets import BLIND_PREFIX
from coordinator.exchange.audit.scores import Role
from coordinator.exchange.audit.suite1 import BLIND_CONTROLS
from crypto.arrays import Rows
from crypto.errors import CipherwardError
from crypto.files import read_json
from crypto.key import KEY_BYTES, SecretKey
from crypto.unlock import create_private
from parties.sealing.place import Place

_NAME = re.compile(rf"{BLIND_PREFIX}[0-9a-f]{{8}}")
FILE = "audit-sets.json"


@dataclass(frozen=True)
class AuditSets:
    """The map of an audit's sets, which only the hospital has.

    Attributes:
        secret: Hex of 32 random bytes, from which the order of images under throwaway keys is drawn.
        roles: What each set is, by its name.
    """

    secret: str
    roles: dict[str, Role]

    @property
    def names(self) -> list[str]:
        """The names of all sets, sorted: a random order."""
        return sorted(self.roles)

    def of_role(self, role: Role) -> list[str]:
        """Return the names of the sets that have a role."""
        return [name for name in self.names if self.roles[name] == role]


def is_audit_set(name: str) -> bool:
    """Return whether a set's name is one that tells nothing."""
    return bool(_NAME.fullmatch(name))


def map_path(place: Place) -> Path:
    """Return the file of the map."""
    return place.private / FILE


def read_map(place: Place) -> AuditSets | None:
    """Return the map of the hospital's audit sets, or None if it has none.

    Raises:
        CipherwardError: If the file is damaged.
    """
    path = map_path(place)
    if not path.exists():
        return None
    value = read_json(path, "map of the audit's sets")
    try:
        sets = AuditSets(str(value["secret"]), dict(value["roles"]))
        bytes.fromhex(sets.secret)
        is_sound = all(is_audit_set(n) and role in get_args(Role) for n, role in sets.roles.items())
    except (KeyError, TypeError, ValueError):
        is_sound = False
    if not is_sound or len(bytes.fromhex(sets.secret)) != KEY_BYTES:
        raise CipherwardError(
            f"{path} is damaged", "restore it from a backup; only it knows which set is which"
        )
    return sets


def ensure_map(place: Place, draws: int, *, own_key: bool = True) -> AuditSets:
    """Return the map of an audit's sets. It is made on first use, with mode 0600.

    Args:
        place: The hospital.
        draws: Draws that the verdict is over. Blind controls are made besides.
        own_key: Whether one of the draws is under the hospital's own key.

    Raises:
        CipherwardError: If there are sets of another number of draws: what is added later would be told by its time.
    """
    sets = read_map(place)
    if sets is None:
        roles: list[Role] = ["own_key" if own_key else "throwaway"]
        roles += ["throwaway" for _ in range(draws - 1)]
        roles += ["blind_control" for _ in range(BLIND_CONTROLS)]
        names: set[str] = set()
        while len(names) < len(roles):
            names.add(BLIND_PREFIX + secrets.token_hex(4))
        # A set of random names has no order of its own; the list is shuffled by the system's generator nevertheless.
        shuffled = secrets.SystemRandom().sample(sorted(names), len(names))
        sets = AuditSets(secrets.token_hex(KEY_BYTES), dict(zip(shuffled, roles, strict=True)))
        text = json.dumps({"secret": sets.secret, "roles": sets.roles}, indent=1, sort_keys=True)
        create_private(map_path(place), text + "\n", "a map of audit sets")
    existing = len(sets.roles) - BLIND_CONTROLS
    if existing != draws:
        raise CipherwardError(
            f"the audit's sets of {place.settings.party} were made for {existing} draws, not {draws}",
            f"name --audit {existing}; or remove {map_path(place)} and sealed/{BLIND_PREFIX}* to make others",
        )
    return sets


def role_of(place: Place, name: str) -> Role:
    """Return what a set is.

    Raises:
        CipherwardError: If the hospital's map does not name it.
    """
    sets = read_map(place)
    if sets is None or name not in sets.roles:
        raise CipherwardError(
            f"{name} is no set of an audit of {place.settings.party}", "make some with: seal --audit 3"
        )
    return sets.roles[name]


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
