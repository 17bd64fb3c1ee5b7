"""Sealed sets as the attacks of a hospital's own audit get them: not told which of them are controls.

    HOSPITAL/audits/…/blinded/set-XXXXXXXX    copies that the attacks read, until they are done
    HOSPITAL/audits/…/private/blinded.json    which set each copy is of, mode 0600

The audited draws, and those controls whose ciphertexts have the form of the audited scheme's, are copied under random
names. All copies declare the audited scheme, the same classes, labels drawn alike, and times of one second. So an
attack on the noise of a control is the attack on the audited scheme: it cannot behave otherwise by what it is told.
Draws are numbered by the random names. When the attacks are done, the guesses get the names of the real sets back.

The ciphertexts themselves still tell: noise is noise, and controls are phantom scans. `plain` and the controls of
single attacks stay under their names: they are of other schemes, which their attacks must know to open them.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from coordinator.exchange.audit.control_sets import BLIND_PREFIX, PREFIX
from coordinator.exchange.audit.guesses import FILE as GUESSES
from coordinator.exchange.audit.guesses import (
    Draw,
    StoredGuess,
    load_guess,
    most_guess_bytes,
    read_draws,
    save_guess,
    write_draws,
)
from crypto.errors import CipherwardError
from crypto.files import disk_errors, read_json
from crypto.sets.dataset import MANIFEST, SealedDataset
from crypto.spec import SchemeSpec
from crypto.unlock import create_private
from parties.scoring.key_share import key_of_form
from parties.sealing.audit_sets import equalise_times
from parties.sealing.disguise import can_be_declared, write_declared_copy
from parties.sealing.place import Place

FOLDER = "blinded"
FILE = "blinded.json"


@dataclass(frozen=True)
class BlindSets:
    """The copies, and the sets that stay under their names.

    Attributes:
        copies: The folder of each copy, in the order of their random names, and the name of the set that it is of.
        open_sets: Folders of the sets that are not copied.
    """

    copies: dict[Path, str]
    open_sets: tuple[Path, ...]

    @property
    def folders(self) -> list[Path]:
        """All folders that the attacks read, the copies first."""
        return [*self.copies, *self.open_sets]


def prepare_blind_sets(place: Place, names: Sequence[str]) -> BlindSets:
    """Copy the sets of an audit for its attacks; go on with what an interrupted call left.

    Args:
        place: The audit's place.
        names: Names of its sealed sets, the audited draws first.

    Raises:
        CipherwardError: If the disk is full, or the map is damaged.
    """
    audited = place.sealed(names[0])
    blind = [name for name in names if _is_alike(place.sealed(name), audited)]
    folders = {
        place.folder / FOLDER / alias: name for alias, name in sorted(_aliases(place, blind).items())
    }
    labels = place.plain("train").labels
    with disk_errors(place.folder / FOLDER):
        for folder, name in folders.items():
            if not (folder / MANIFEST).exists():
                write_declared_copy(place.sealed(name), audited, folder, labels)
        equalise_times(list(folders))
    return BlindSets(folders, tuple(place.sealed_folder(name) for name in names if name not in blind))


def _is_alike(sealed: SealedDataset, audited: SealedDataset) -> bool:
    """Return whether a set can be declared as the audited scheme."""
    return not sealed.name.startswith(PREFIX) or can_be_declared(sealed.name, sealed.spec, audited.spec)


def _aliases(place: Place, names: Sequence[str]) -> dict[str, str]:
    """Return the name of each set by its random name; made on first use."""
    path = place.private / FILE
    if not path.exists():
        aliases = {f"{BLIND_PREFIX}{secrets.token_hex(4)}": name for name in names}
        create_private(path, json.dumps(aliases, indent=1, sort_keys=True) + "\n", "a map of blind sets")
    aliases = read_json(path, "map of the audit's blind sets")
    if not isinstance(aliases, dict) or sorted(aliases.values()) != sorted(names):
        raise CipherwardError(f"{path} is damaged", "remove the audit's folder, and audit again")
    return aliases


def are_named(place: Place, guesses: Path) -> bool:
    """Return whether guesses are there, and are about sets under their own names."""
    if not (guesses / GUESSES).exists():
        return False
    draws, _ = read_draws(guesses)
    own = {
        SealedDataset.open(f).digest for f in (place.folder / "sealed").iterdir() if (f / MANIFEST).exists()
    }
    return all(draw.digests[0] in own for draw in draws)


def name_guesses(place: Place, guesses: Path, sets: BlindSets) -> None:
    """Let frozen guesses name the real sets, and remove the copies.

    A recovered key that cannot be one of a control's own scheme is left out: it opens nothing there.
    """
    real = {SealedDataset.open(folder).digest: place.sealed(name) for folder, name in sets.copies.items()}
    draws, about = read_draws(guesses)
    named = [_named(guesses, draw, real.get(draw.digests[0])) for draw in draws]
    fields: Mapping[str, Any] = {name: value for name, value in about.items() if name != "schema"}
    write_draws(guesses, named, fields)
    shutil.rmtree(place.folder / FOLDER, ignore_errors=True)


def _named(guesses: Path, draw: Draw, sealed: SealedDataset | None) -> Draw:
    """Return a draw about the real set; one about a set that was not copied stays as it is."""
    if sealed is None:
        return draw
    stored = [_without_alien_key(guesses, guess, draw, sealed.spec) for guess in draw.guesses]
    return replace(draw, digests=[sealed.digest], spec=sealed.spec, guesses=stored)


def _without_alien_key(folder: Path, guess: StoredGuess, draw: Draw, spec: SchemeSpec) -> StoredGuess:
    """Return a guess about a set of this scheme; its key is removed from the file if it is of another form."""
    if guess.error:
        return guess
    images, key = load_guess(folder, guess, most_guess_bytes(draw.spec, len(draw.rows)))
    if key is None or key_of_form(guess, images, key, spec, len(draw.rows)) is not None:
        return guess
    return replace(guess, sha256=save_guess(folder / guess.file, images, None))
