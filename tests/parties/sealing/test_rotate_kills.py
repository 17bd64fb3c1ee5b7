"""Rotating a key: nothing is lost, nothing plain is written, and a kill at any point is made good."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest

import parties.sealing.rotate
import parties.sealing.seal
from crypto.errors import CipherwardError
from crypto.keyfile import stated_id
from parties.sealing.place import Place
from parties.sealing.rotate import new_key_path, rotate
from parties.sealing.seal import plain_rows
from parties.sources.source import SPLITS
from tests.support import leaks
from tests.support.rotation import check_rotated, fresh_key, make_hospital, opened
from tests.support.rotation import place as place
from tests.support.rotation import small_and_quick as small_and_quick
from tests.support.watched_disk import Killed, all_written, killer, recorder
from tests.support.watched_disk import watch as watch


def test_a_kill_at_any_point_is_made_good_by_the_same_command(tmp_path, watch):
    template = make_hospital(tmp_path / "template", audits=("audit-1",), counts=[9, 3, 3])
    old = template.key().id

    def attempt(at: int):
        folder = tmp_path / f"killed-{at}"
        shutil.copytree(template.folder, folder)
        watcher = killer(folder, at)
        watch(watcher)
        try:
            rotate(Place.open(folder), fresh_key)
        except Killed:
            pass
        finally:
            watch(None)
        return folder, watcher

    folder, watcher = attempt(10**9)
    check_rotated(folder, old, Place.open(folder).key().id)
    shutil.rmtree(folder)
    swap = next(i for i, change in enumerate(watcher.changes) if "swap.json" in change)
    assert swap > 40 and len(watcher.changes) > swap + 12
    # Every state of the swap, and some of the states before it: there the sets resume, which their own tests pin.
    points = [*range(0, swap - 2, 7), *range(swap - 2, len(watcher.changes))]
    finished = 0
    for at in points:
        folder, _ = attempt(at)
        place = Place.open(folder)
        pending = new_key_path(place)
        # Nothing works on half of each epoch: sets, row lists and the key go together, or are refused.
        if (place.sealed_folder("train") / "manifest.json").exists():
            for name in SPLITS:
                noted = json.loads((place.private / f"rows-{name}.json").read_text())
                assert noted["digest"] == place.sealed(name).digest, at
        if place.swap_note.exists():
            with pytest.raises(CipherwardError, match=r"a rotation of .* was interrupted"):
                place.key()
        elif (key := place.key()).id == old:
            opened(place, "train", key)
        else:
            finished += 1  # killed while it tidied up: the new epoch is in place
            opened(place, "train", key)
            shutil.rmtree(folder)
            continue
        first = stated_id(pending) if pending.exists() and pending.stat().st_size else None
        done = rotate(place, fresh_key)
        assert first in (None, done.new), at
        assert done.aside == ["audit-1"]
        shutil.rmtree(place.rotation, ignore_errors=True)
        check_rotated(folder, old, done.new)
        shutil.rmtree(folder)
    assert 0 < finished < 5


def test_an_empty_new_key_file_is_made_again(place):
    # What a power cut leaves between the file's creation and its first byte.
    new_key_path(place).touch(mode=0o600)
    old = place.key().id
    done = rotate(place, fresh_key)
    check_rotated(place.folder, old, done.new)


def test_no_plain_image_is_ever_written(tmp_path, place, watch, monkeypatch):
    twin = tmp_path / "twin"
    shutil.copytree(place.folder, twin)
    old = place.key()
    images = [plain_rows(place, name, np.arange(len(place.sealed(name)))) for name in SPLITS]
    forms = leaks.plain_forms(np.concatenate(images))
    assert len(forms) > 100

    def rotated(folder: Path) -> dict[str, bytes]:
        watcher = recorder()
        watch(watcher)
        rotate(Place.open(folder), fresh_key)
        watch(None)
        return all_written(watcher, folder)

    written = rotated(place.folder)
    assert sum(".safetensors." in name and ".tmp" in name for name in written) >= 5  # temporaries too
    assert leaks.find(forms, written) == []
    # The keys stand in key files alone.
    keys = leaks.key_forms(old, []) | {f"new {k}": v for k, v in leaks.key_forms(place.key(), []).items()}
    others = {name: data for name, data in written.items() if ".key" not in name}
    assert leaks.find(keys, others) == [] != leaks.find(keys, written)

    # A rotation that keeps one opened shard for a moment, in a file that it removes, is caught.
    sealing_again = parties.sealing.rotate.seal_images

    def leaky(folder, read, *rest):
        def reading(row):
            found = read(row)
            with tempfile.NamedTemporaryFile(dir=tmp_path) as file:
                file.write(found.tobytes())
                file.flush()
            return found

        return sealing_again(folder, reading, *rest)

    monkeypatch.setattr(parties.sealing.rotate, "seal_images", leaky)
    assert len(leaks.find(forms, rotated(twin))) > 20


def test_a_swap_that_finds_its_place_taken_says_so_and_loses_nothing(place, watch):
    old = place.key().id
    real = parties.sealing.rotate._move

    def taken(source, target):
        real(source, target)
        if source.name == "secret.key":
            target.with_name("secret.key").write_text("somebody else's")

    parties.sealing.rotate._move = taken
    try:
        with pytest.raises(CipherwardError, match="cannot take its place"):
            rotate(place, fresh_key)
    finally:
        parties.sealing.rotate._move = real
    assert place.key_path.read_text() == "somebody else's"
    place.key_path.unlink()
    check_rotated(place.folder, old, rotate(place, fresh_key).new)
