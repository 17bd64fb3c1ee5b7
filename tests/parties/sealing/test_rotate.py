"""Key rotation: everything is sealed again in another order, and a rotation that is refused changes nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import parties.sealing.seal
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.keyfile import is_wrapped, read_key, read_key_id, write_key
from crypto.unlock import write_identity
from parties.sealing.place import Place
from parties.sealing.rotate import new_key_path, rotate
from parties.sealing.seal import plain_rows, plan_sealing, seal
from parties.sources.phantom import Phantom
from parties.sources.source import SPLITS
from tests.support import leaks
from tests.support.command_runs import Party
from tests.support.rotation import (
    check_rotated,
    decrypt,
    fresh_key,
    make_hospital,
    rows_of,
    write_given_key,
)


@pytest.mark.parametrize(
    "settings", [{}, {"scheme": "noise"}, {"channels": 3}], ids=["shuffled", "a key a row", "colour"]
)
def test_every_image_is_sealed_again_in_another_order(tmp_path: Path, settings: dict[str, Any]) -> None:
    place = make_hospital(tmp_path / "hospital", **settings)
    old, specs = place.key(), {name: place.sealed(name).spec for name in SPLITS}
    first = rotate(place, fresh_key)
    assert (first.old, first.rows, first.aside) == (old.id, {"train": 20, "val": 6, "test": 6}, [])
    place = check_rotated(place.folder, old.id, first.new)
    assert rows_of(place, "train") != sorted(rows_of(place, "train"))  # by chance once in 20! keys
    for name in SPLITS:
        now = place.sealed(name).spec
        assert (now == specs[name]) == ("nonce" not in now.options)
        with pytest.raises(CipherwardError, match="did not seal"):
            place.sealed(name).verify(old)
    # A second rotation archives the second epoch beside the first.
    second = rotate(place, fresh_key)
    archives = {p.name for p in place.folder.glob("sealed-*")}
    assert archives == {f"sealed-{first.old}", f"sealed-{first.new}"} and second.old == first.new


def test_rows_of_a_folder_follow_its_files(tmp_path: Path) -> None:
    source = Phantom(40, 1, 40, 0, "train")
    for row in range(len(source)):
        path = tmp_path / "images" / source.classes[source.labels[row]] / f"patient-{row:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(source.read(row)[..., 0]).save(path)
    path.write_bytes(b"not a picture")  # left out of the sealed set: rows and files differ
    place = make_hospital(tmp_path / "hospital", source="folder", images=str(tmp_path / "images"))
    old = {name: rows_of(place, name) for name in SPLITS}
    assert sum(map(len, old.values())) == 39
    before = {name: plain_rows(place, name, np.arange(len(old[name]))) for name in SPLITS}
    rotation = rotate(place, fresh_key)
    place = Place.open(place.folder)
    assert place.key().id == rotation.new
    for name in SPLITS:
        now = rows_of(place, name)
        assert sorted(now) == sorted(old[name])
        images = decrypt(place, name, place.key())
        assert (images == plain_rows(place, name, np.arange(len(now)))).all()
        assert (images == before[name][[old[name].index(row) for row in now]]).all()


def test_the_order_is_drawn_from_the_new_key(tmp_path: Path, place: Place) -> None:
    shutil.copytree(place.folder, tmp_path / "twin")
    shutil.copytree(place.folder, tmp_path / "third")
    key = SecretKey.generate()
    for folder in (place.folder, tmp_path / "twin"):
        rotate(Place.open(folder), lambda path: write_given_key(path, key))
    rotate(Place.open(tmp_path / "third"), fresh_key)
    first, twin, third = (
        rows_of(Place.open(f), "train") for f in (place.folder, tmp_path / "twin", tmp_path / "third")
    )
    assert first == twin != third


def test_sets_under_throwaway_keys_are_archived_and_drawn_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parties.sealing.seal, "CONTROL_IMAGES", 8)
    place = make_hospital(tmp_path / "hospital", audits=("audit-1", "control-noise"))
    old, digests = place.key().id, {n: place.sealed(n).digest for n in ("audit-1", "control-noise")}
    throwaway = read_key(place.private / "audit-1.key").id
    rotation = rotate(place, fresh_key)
    assert rotation.aside == ["audit-1", "control-noise"]
    archive = place.private / f"epoch-{old}"
    assert {"audit-1.key", "control-noise.key", "rows-audit-1.json"} <= {p.name for p in archive.iterdir()}
    assert read_key(archive / "audit-1.key").id == throwaway
    assert sorted(p.name for p in (place.folder / "sealed").iterdir()) == sorted(SPLITS)
    place = Place.open(place.folder)
    for name, digest in digests.items():
        assert seal(place, plan_sealing(place, name)).dataset.digest != digest
    assert read_key(place.private / "audit-1.key").id != throwaway


def test_a_refused_rotation_says_why_and_changes_nothing(tmp_path: Path, place: Place) -> None:
    old = place.key()
    before = leaks.files(place.folder)

    def check_refused(message: str, key: SecretKey | None = None) -> None:
        make_key = fresh_key if key is None else lambda path: write_given_key(path, key)
        with pytest.raises(CipherwardError) as error:
            rotate(place, make_key, key.id if key else None)
        assert message in error.value.message and error.value.hint, error.value

    def is_unchanged() -> bool:
        now = leaks.files(place.folder)
        return all(now.get(name) == data for name, data in before.items()) and place.key() == old

    check_refused(f"{old.id} is the key in use", old)
    throwaway = SecretKey.generate()
    write_key(place.private / "audit-1.key", throwaway)
    check_refused(f"{throwaway.id} is a throwaway key of an audit", throwaway)
    (place.private / "audit-1.key").unlink()
    earlier = SecretKey.generate()
    write_key(place.folder / f"secret-{earlier.id}.key", earlier)
    check_refused(f"key {earlier.id} was this hospital's before", earlier)
    (place.folder / f"sealed-{old.id}").mkdir()
    check_refused("exists already")
    (place.folder / f"sealed-{old.id}").rmdir()
    assert is_unchanged() and not new_key_path(place).exists()
    # An unfinished set, a foreign one, another's row list, an altered shard.
    partial = place.sealed_folder("val") / "manifest.json"
    partial.rename(partial.with_name("partial.json"))
    check_refused("is unfinished")
    partial.with_name("partial.json").rename(partial)
    rows = place.private / "rows-val.json"
    text = rows.read_text()
    rows.write_text((place.private / "rows-test.json").read_text())
    check_refused("is not the row list of")
    rows.write_text(text)
    shard = place.sealed_folder("train") / "images-00001.safetensors"
    data = shard.read_bytes()
    shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    check_refused("is altered")
    shard.write_bytes(data)
    assert is_unchanged()
    # The next attempt continues with the key that was made, and with no other.
    pending = read_key_id(new_key_path(place))
    check_refused(f"a rotation of {place.folder} to key {pending} was interrupted", SecretKey.generate())
    # A set that an earlier attempt made from other images is refused.
    foreign = place.folder / "sealed-new" / "val"
    shutil.copytree(place.sealed_folder("val"), foreign)
    check_refused("did not seal")
    shutil.rmtree(place.folder / "sealed-new")
    assert rotate(place, fresh_key).new == pending
    rotated = Place.open(place.folder)
    assert rotated.key().id == pending and has_same_images(rotated)


def has_same_images(place: Place) -> bool:
    sealed = place.sealed("train")
    return bool(
        (decrypt(place, "train", place.key()) == plain_rows(place, "train", np.arange(len(sealed)))).all()
    )


def test_two_hospitals_of_a_consortium_rotate_to_one_key(tmp_path: Path, party: Party) -> None:
    a = make_hospital(tmp_path / "a", audits=("audit-1",))
    b = tmp_path / "b"
    shutil.copytree(a.folder, b)
    old = a.key()
    status, new, log = party("rotate", a.folder)
    assert status == 0 and new != old.id, log
    for message in (
        f"stay readable with key {old.id}",
        "a rotation does not call them back",
        "train: 20 images sealed again",
        "set aside with them: audit-1.",
        f"hospitals that keep key {old.id} can no longer train together",
        "share-key",
        "--key FOR_THEM.key",
        "train again",
    ):
        assert message in log, (message, log)
    recipient = write_identity(b / "identity.txt")
    shared = tmp_path / "for-b.key"
    assert party("share-key", a.folder / "secret.key", shared, "--recipient", recipient)[1] == new
    assert "only one way" in party("rotate", b, "--key", shared, "--unprotected")[2]
    assert party("rotate", b, "--key", shared)[:2] == (0, new)
    assert is_wrapped(b / "secret.key") and read_key(b / "secret.key") == a.key()
    assert Place.open(b).sealed("train").key_id == a.sealed("train").key_id == new
    # A protected key is never replaced by an unprotected one unless the user asks for it.
    status, out, log = party("rotate", b)
    assert (status, out) == (1, "") and "choose how to protect the new key" in log
    assert not (b / "secret-new.key").exists() and not (b / "sealed-new").exists()
    assert "only one way" in party("rotate", b, "--passphrase", "--unprotected")[2]
    status, third, log = party("rotate", b, "--recipient", recipient)
    assert status == 0 and third not in (old.id, new) and is_wrapped(b / "secret.key"), log
    assert Place.open(b).key().id == third and has_same_images(Place.open(b))
    # The program's output holds no key.
    forms = leaks.key_forms(a.key(), []) | {
        f"b {k}": v for k, v in leaks.key_forms(read_key(b / "secret.key"), []).items()
    }
    assert leaks.find(forms, {"output": f"{out}{log}{new}{third}".encode()}) == []
