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

import numpy as np

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
from crypto.arrays import AnyArray, Int64Array
from crypto.errors import CipherwardError
from crypto.files import blake3_file, disk_errors, read_json, write_bytes, write_json
from crypto.sets.dataset import MANIFEST, SCHEMA, SealedDataset, equal_except_nonce, shard_name
from crypto.sets.shard_sealer import row_bytes
from crypto.sets.writer import SHARD_BYTES
from crypto.spec import SchemeSpec
from crypto.tensor_file import tensor_bytes
from crypto.unlock import create_private
from parties.scoring.key_share import require_well_formed
from parties.sealing.audit_sets import equalise_times
from parties.sealing.place import Place

FOLDER = "blinded"
FILE = "blinded.json"
#: Controls that can be declared as the audited scheme: what nothing opens, and the scheme itself under another key.
_ALIKE = (f"{PREFIX}known", f"{PREFIX}noise", f"{PREFIX}permuted")
_MAC_BYTES = 32


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
    with disk_errors(place.folder / FOLDER):
        for folder, name in folders.items():
            if not (folder / MANIFEST).exists():
                _copy(place.sealed(name), audited, folder)
        equalise_times(list(folders))
    return BlindSets(folders, tuple(place.sealed_folder(name) for name in names if name not in blind))


def _is_alike(sealed: SealedDataset, audited: SealedDataset) -> bool:
    """Return whether a set can be declared as the audited scheme."""
    if not sealed.name.startswith(PREFIX):
        return True
    is_form = sealed.sealed_shape == audited.sealed_shape and sealed.spec.block == audited.spec.block
    # What key recovery must open is under one key: an attack that is told of a key for every image could not.
    as_audited = replace(sealed.spec, key_scope=audited.spec.key_scope)
    is_one_key = audited.spec.key_scope != "image" and equal_except_nonce(as_audited, audited.spec)
    is_scheme = sealed.name != f"{PREFIX}known" or is_one_key
    return sealed.name in _ALIKE and is_form and is_scheme


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


def _copy(sealed: SealedDataset, audited: SealedDataset, folder: Path) -> None:
    """Write a copy of a set that declares the audited scheme. Its MACs are random: no attack has a key."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    is_own = not sealed.name.startswith(PREFIX)
    spec = sealed.spec if is_own else _declared(audited.spec)
    labels = sealed.labels if is_own else _labels_like(audited, len(sealed))
    step, shards = max(1, SHARD_BYTES // row_bytes(spec)), []
    for index, start in enumerate(range(0, len(sealed), step)):
        stop = min(start + step, len(sealed))
        images = _as_ciphertexts(sealed.images(start, stop), audited)
        path = folder / shard_name(index)
        write_bytes(path, tensor_bytes({"labels": labels[start:stop], "images": images}))
        shards.append(
            {
                "file": path.name,
                "rows": stop - start,
                "bytes": path.stat().st_size,
                "blake3": blake3_file(path),
                "mac": secrets.token_hex(_MAC_BYTES),
            }
        )
    manifest = {
        "schema": SCHEMA,
        "spec": spec.to_json(),
        "key_id": sealed.key_id,
        "rows": len(sealed),
        "classes": audited.classes,
        "shards": shards,
        "mac": secrets.token_hex(_MAC_BYTES),
    }
    write_json(folder / MANIFEST, manifest)


def _declared(spec: SchemeSpec) -> SchemeSpec:
    """Return the audited scheme's public description as another set of it would state it."""
    nonce = spec.options.get("nonce")
    if nonce is None:
        return spec
    return replace(spec, options={**spec.options, "nonce": secrets.token_hex(len(nonce) // 2)})


def _labels_like(audited: SealedDataset, count: int) -> Int64Array:
    """Return so many labels with the shares that classes have among the audited images."""
    generator = np.random.default_rng(secrets.randbits(64))
    return generator.choice(audited.labels, count, replace=count > len(audited))


def _as_ciphertexts(images: AnyArray, audited: SealedDataset) -> AnyArray:
    """Return bytes in the dtype of the audited scheme, real numbers with its ciphertexts' mean and deviation."""
    if images.dtype == audited.sealed_dtype:
        return images
    sample = audited.images(0, min(len(audited), 8))
    centred = (images.astype(np.float32) - np.float32(127.5)) / np.float32(np.arange(256).std())
    result: AnyArray = (centred * sample.std() + sample.mean()).astype(audited.sealed_dtype)
    return result


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
    try:
        require_well_formed(guess, images, key, spec, len(draw.rows))
    except CipherwardError:
        if key is None:
            raise
        return replace(guess, sha256=save_guess(folder / guess.file, images, None))
    return guess
