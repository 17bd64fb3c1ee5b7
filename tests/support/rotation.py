"""Hospitals whose key is rotated, and a check of the files that a rotation must leave."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import numpy as np

from crypto.arrays import AnyArray
from crypto.key import SecretKey
from crypto.keyfile import read_key, write_key
from crypto.scheme import load
from crypto.sets.dataset import SealedDataset
from parties.sealing.place import Place
from parties.sealing.seal import plain_rows, plan_sealing, seal
from parties.sources.source import SPLITS

SETTINGS: dict[str, Any] = {
    "party": "a hospital",
    "source": "phantom",
    "counts": [20, 6, 6],
    "image_size": 32,
    "block": 8,
    "channels": 1,
    "seed": 5,
}


def make_hospital(folder: Path, audits: tuple[str, ...] = (), **settings: Any) -> Place:
    """Make a hospital with a new key and seal its splits, and the named audit sets."""
    folder.mkdir(parents=True)
    place = Place.from_settings(folder, SETTINGS | settings)
    place.save()
    write_key(place.key_path, SecretKey.generate())
    for name in (*SPLITS, *audits):
        seal(place, plan_sealing(place, name))
    return place


def fresh_key(path: Path) -> SecretKey:
    """Write a new key file and return the key."""
    return write_given_key(path, SecretKey.generate())


def write_given_key(path: Path, key: SecretKey) -> SecretKey:
    """Write this key to a new file and return it."""
    write_key(path, key)
    return key


def rows_of(place: Place, name: str) -> list[int]:
    """Return a sealed set's row list."""
    rows: list[int] = json.loads((place.private / f"rows-{name}.json").read_text())["rows"]
    return rows


def decrypt(place: Place, name: str, key: SecretKey) -> AnyArray:
    """Verify a sealed set and return all its images, decrypted."""
    sealed = place.sealed(name)
    sealed.verify(key)
    return load(sealed.spec).cipher(key).decrypt(sealed.images(0, len(sealed)))


def check_rotated(folder: Path, old: str, new: str) -> Place:
    """Check that a complete new epoch is in place and the old one is archived. Return the place."""
    place = Place.open(folder)
    key = place.key()
    assert key.id == new != old and stat.S_IMODE(place.key_path.stat().st_mode) == 0o600
    old_key = read_key(folder / f"secret-{old}.key")
    assert old_key.id == old
    archive = folder / f"sealed-{old}"
    for name in SPLITS:
        sealed, images = place.sealed(name), decrypt(place, name, key)
        assert sealed.key_id == new and len(sealed.manifest["shards"]) > (name == "train")
        assert (plain_rows(place, name, np.arange(len(sealed))) == images).all()
        assert (place.plain(name).labels[rows_of(place, name)] == sealed.labels).all()
        assert sorted(rows_of(place, name)) == list(range(len(sealed)))
        # For `seal` the set is finished: nothing is sealed a second time.
        assert not seal(place, plan_sealing(place, name)).fresh
        archived = SealedDataset.open(archive / name)
        archived.verify(old_key)
        assert archived.digest != sealed.digest
    record = json.loads((place.private / f"epoch-{old}" / "rows-train.json").read_text())
    assert record["digest"] == SealedDataset.open(archive / "train").digest
    names = {p.name for p in folder.iterdir()}
    expected = {
        "party.yaml",
        "private",
        "sealed",
        "secret.key",
        f"sealed-{old}",
        f"secret-{old}.key",
        ".lock",
    }
    assert names == expected and not place.rotation.exists()
    return place
