"""Key rotation under kills: nothing is lost, no plain image is written, and the same command finishes the work."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import parties.sealing.rotate
from crypto.arrays import UInt8Array
from crypto.errors import CipherwardError
from crypto.keyfile import read_key_id
from parties.sealing.place import Place
from parties.sealing.rotate import move_once, new_key_path, rotate
from parties.sealing.seal import plain_rows
from parties.sources.source import SPLITS
from tests.support import leaks
from tests.support.rotation import check_rotated, decrypt, fresh_key, make_hospital
from tests.support.watched_disk import Killed, Killer, Recorder


@pytest.mark.long
def test_the_same_command_finishes_a_rotation_killed_at_any_point(
    tmp_path: Path, watch: Callable[[Any], None]
) -> None:
    template = make_hospital(tmp_path / "template", audits=("audit-1",), counts=[9, 3, 3])
    old = template.key().id

    def attempt(at: int) -> tuple[Path, Any]:
        folder = tmp_path / f"killed-{at}"
        shutil.copytree(template.folder, folder)
        watcher = Killer(folder, at)
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
    # Every state of the swap, and some states before it: there the sets resume, which has its own tests.
    points = [*range(0, swap - 2, 7), *range(swap - 2, len(watcher.changes))]
    finished = 0
    for at in points:
        folder, _ = attempt(at)
        place = Place.open(folder)
        pending = new_key_path(place)
        # Nothing works on half of each epoch: sets, row lists and the key go together, or are refused.
        if (place.sealed_folder("train") / "manifest.json").exists():
            for name in SPLITS:
                record = json.loads((place.private / f"rows-{name}.json").read_text())
                assert record["digest"] == place.sealed(name).digest, at
        if place.swap_note.exists():
            with pytest.raises(CipherwardError, match=r"a rotation of .* was interrupted"):
                place.key()
        elif (key := place.key()).id == old:
            decrypt(place, "train", key)
        else:
            finished += 1  # killed while it tidied up: the new epoch is in place
            decrypt(place, "train", key)
            shutil.rmtree(folder)
            continue
        first = read_key_id(pending) if pending.exists() and pending.stat().st_size else None
        rotation = rotate(place, fresh_key)
        assert first in (None, rotation.new), at
        assert rotation.aside == ["audit-1"]
        shutil.rmtree(place.rotation, ignore_errors=True)
        check_rotated(folder, old, rotation.new)
        shutil.rmtree(folder)
    assert 0 < finished < 5


def test_an_empty_new_key_file_is_made_again(place: Place) -> None:
    # A power cut between the file's creation and its first byte leaves an empty file.
    new_key_path(place).touch(mode=0o600)
    old = place.key().id
    rotation = rotate(place, fresh_key)
    check_rotated(place.folder, old, rotation.new)


def test_no_plain_image_is_ever_written(
    tmp_path: Path, place: Place, watch: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    twin = tmp_path / "twin"
    shutil.copytree(place.folder, twin)
    old = place.key()
    images = [plain_rows(place, name, np.arange(len(place.sealed(name)))) for name in SPLITS]
    forms = leaks.plain_forms(np.concatenate(images))
    assert len(forms) > 100

    def rotated(folder: Path) -> dict[str, bytes]:
        watcher = Recorder()
        watch(watcher)
        rotate(Place.open(folder), fresh_key)
        watch(None)
        return watcher.all_written(folder)

    written = rotated(place.folder)
    assert sum(".safetensors." in name and ".tmp" in name for name in written) >= 5  # temporaries too
    assert leaks.find(forms, written) == []
    # Only key files hold the keys.
    keys = leaks.key_forms(old, []) | {f"new {k}": v for k, v in leaks.key_forms(place.key(), []).items()}
    # A key file has no name until it is whole, and is linked from its descriptor.
    key_files = (".key", "/proc/self/fd/")
    others = {name: data for name, data in written.items() if not any(part in name for part in key_files)}
    assert leaks.find(keys, others) == [] != leaks.find(keys, written)

    # The check catches a rotation that writes each decrypted image to a file and removes it.
    real_seal_images = vars(parties.sealing.rotate)["seal_images"]  # with the small shards of conftest.py

    def leaky_seal_images(folder: Path, read: Callable[[int], UInt8Array], *rest: Any) -> Any:
        def leaky_read(row: int) -> UInt8Array:
            image = read(row)
            with tempfile.NamedTemporaryFile(dir=tmp_path) as file:
                file.write(image.tobytes())
                file.flush()
            return image

        return real_seal_images(folder, leaky_read, *rest)

    monkeypatch.setattr(parties.sealing.rotate, "seal_images", leaky_seal_images)
    assert len(leaks.find(forms, rotated(twin))) > 20


def test_a_swap_stops_without_loss_if_another_file_takes_the_key_s_place(place: Place) -> None:
    old = place.key().id

    def move_and_intrude(source: Path, target: Path) -> None:
        move_once(source, target)
        if source.name == "secret.key":
            target.with_name("secret.key").write_text("somebody else's")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parties.sealing.rotate, "move_once", move_and_intrude)
        with pytest.raises(CipherwardError, match="cannot take its place"):
            rotate(place, fresh_key)
    assert place.key_path.read_text() == "somebody else's"
    place.key_path.unlink()
    check_rotated(place.folder, old, rotate(place, fresh_key).new)
