"""Hospitals whose key is rotated, and what a rotation must have left."""

from __future__ import annotations

import functools
import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest

import parties.sealing.rotate
import parties.sealing.seal
from crypto import keyfile
from crypto.key import SecretKey
from crypto.keyfile import read_key, write_key
from crypto.scheme import load
from crypto.sets.writer import seal_images
from parties.sealing.place import Place
from parties.sealing.seal import plain_rows, seal, sealing
from parties.sources.source import SPLITS

SETTINGS = {
    "party": "a hospital",
    "source": "phantom",
    "counts": [20, 6, 6],
    "image_size": 32,
    "block": 8,
    "channels": 1,
    "seed": 5,
}


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch):
    """Several shards a set, no waiting for the disk, and no identity or passphrase of whoever runs the tests."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # these kills end processes, not the power
    for module in (parties.sealing.seal, parties.sealing.rotate):
        monkeypatch.setattr(module, "seal_images", functools.partial(seal_images, shard_bytes=8 << 10))
    for name in ("PASSPHRASE", "PASSPHRASE_FILE", "IDENTITY"):
        monkeypatch.delenv(f"CIPHERWARD_{name}", raising=False)
    keyfile._unwrapped.cache_clear()


def make_hospital(folder: Path, audits: tuple[str, ...] = (), **settings) -> Place:
    folder.mkdir(parents=True)
    place = Place.of(folder, SETTINGS | settings)
    place.keep()
    write_key(place.key_path, SecretKey.generate())
    for name in (*SPLITS, *audits):
        seal(place, sealing(place, name))
    return place


@pytest.fixture
def place(tmp_path) -> Place:
    return make_hospital(tmp_path / "hospital")


def fresh_key(path: Path) -> SecretKey:
    key = SecretKey.generate()
    write_key(path, key)
    return key


def rows_of(place: Place, name: str) -> list[int]:
    return json.loads((place.private / f"rows-{name}.json").read_text())["rows"]


def opened(place: Place, name: str, key: SecretKey) -> np.ndarray:
    sealed = place.sealed(name)
    sealed.verify(key)
    return load(sealed.spec).cipher(key).decrypt(sealed.images(0, len(sealed)))


def check_rotated(folder: Path, old: str, new: str) -> Place:
    """A whole new epoch is in place and the old one is kept."""
    place = Place.open(folder)
    key = place.key()
    assert key.id == new != old and stat.S_IMODE(place.key_path.stat().st_mode) == 0o600
    before = read_key(folder / f"secret-{old}.key")
    assert before.id == old
    aside = Place(folder / f"sealed-{old}", place.settings)
    for name in SPLITS:
        sealed, images = place.sealed(name), opened(place, name, key)
        assert sealed.key_id == new and len(sealed.manifest["shards"]) > (name == "train")
        assert (plain_rows(place, name, np.arange(len(sealed))) == images).all()
        assert (place.plain(name).labels[rows_of(place, name)] == sealed.labels).all()
        assert sorted(rows_of(place, name)) == list(range(len(sealed)))
        # For `seal` the set is finished: nothing is sealed a second time.
        assert not seal(place, sealing(place, name)).fresh
        was = parties.sealing.rotate.SealedDataset.open(aside.folder / name)
        was.verify(before)
        assert was.digest != sealed.digest
    kept = json.loads((place.private / f"epoch-{old}" / "rows-train.json").read_text())
    assert kept["digest"] == parties.sealing.rotate.SealedDataset.open(aside.folder / "train").digest
    left = {p.name for p in folder.iterdir()}
    whole = {"party.yaml", "private", "sealed", "secret.key", f"sealed-{old}", f"secret-{old}.key", ".lock"}
    assert left == whole and not place.rotation.exists()
    return place
