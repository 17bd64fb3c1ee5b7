"""Fixtures of the rotation tests: a sealed hospital, small shards, a watched disk."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import pytest

import parties.sealing.rotate
import parties.sealing.seal
from crypto import keyfile
from crypto.sets.writer import seal_images
from parties.sealing.place import Place
from tests.support.rotation import make_hospital
from tests.support.watched_disk import watch

__all__ = ["watch"]


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use several shards a set, do not wait for the disk, and ignore the developer's identity and passphrase."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # these kills end processes, not the power
    for module in (parties.sealing.seal, parties.sealing.rotate):
        monkeypatch.setattr(module, "seal_images", functools.partial(seal_images, shard_bytes=8 << 10))
    for name in ("PASSPHRASE", "PASSPHRASE_FILE", "IDENTITY"):
        monkeypatch.delenv(f"CIPHERWARD_{name}", raising=False)
    keyfile.forget_unwrapped_keys()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Return a hospital whose three splits are sealed."""
    return make_hospital(tmp_path / "hospital")
