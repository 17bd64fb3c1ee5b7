"""Rotating a key: everything sealed again in another order, and what cannot be rotated is left alone."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

import parties.sealing.rotate
import parties.sealing.seal
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.keyfile import is_wrapped, read_key, stated_id, write_key
from crypto.unlock import write_identity
from parties.sealing.place import Place
from parties.sealing.rotate import new_key_path, rotate
from parties.sealing.seal import plain_rows, seal, sealing
from parties.sources.phantom import Phantom
from parties.sources.source import SPLITS
from tests.support import leaks
from tests.support.rotation import check_rotated, fresh_key, make_hospital, opened, rows_of
from tests.support.rotation import place as place
from tests.support.rotation import small_and_quick as small_and_quick
from tests.support.watched_disk import watch as watch


@pytest.mark.parametrize(
    "settings", [{}, {"scheme": "noise"}, {"channels": 3}], ids=["shuffled", "a key a row", "colour"]
)
def test_every_image_is_sealed_again_in_another_order(tmp_path, settings):
    place = make_hospital(tmp_path / "hospital", **settings)
    old, specs = place.key(), {name: place.sealed(name).spec for name in SPLITS}
    done = rotate(place, fresh_key)
    assert (done.old, done.rows, done.aside) == (old.id, {"train": 20, "val": 6, "test": 6}, [])
    place = check_rotated(place.folder, old.id, done.new)
    assert rows_of(place, "train") != sorted(rows_of(place, "train"))  # by chance once in 20! keys
    for name in SPLITS:
        now = place.sealed(name).spec
        assert (now == specs[name]) == ("nonce" not in now.options)
        with pytest.raises(CipherwardError, match="did not seal"):
            place.sealed(name).verify(old)
    # And once more: epochs line up side by side.
    again = rotate(place, fresh_key)
    check_rotated_names = {p.name for p in place.folder.glob("sealed-*")}
    assert check_rotated_names == {f"sealed-{done.old}", f"sealed-{done.new}"} and again.old == done.new


def test_rows_of_a_folder_follow_its_files(tmp_path):
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
    key = rotate(place, fresh_key)
    place = Place.open(place.folder)
    assert place.key().id == key.new
    for name in SPLITS:
        now = rows_of(place, name)
        assert sorted(now) == sorted(old[name])
        images = opened(place, name, place.key())
        assert (images == plain_rows(place, name, np.arange(len(now)))).all()
        assert (images == before[name][[old[name].index(row) for row in now]]).all()


def test_the_order_is_drawn_from_the_new_key(tmp_path, place):
    shutil.copytree(place.folder, tmp_path / "twin")
    shutil.copytree(place.folder, tmp_path / "third")
    key = SecretKey.generate()
    for folder in (place.folder, tmp_path / "twin"):
        rotate(Place.open(folder), lambda path: write_key(path, key) or key)
    rotate(Place.open(tmp_path / "third"), fresh_key)
    first, twin, third = (
        rows_of(Place.open(f), "train") for f in (place.folder, tmp_path / "twin", tmp_path / "third")
    )
    assert first == twin != third


def test_sets_under_throwaway_keys_are_set_aside_and_drawn_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(parties.sealing.seal, "CONTROL_IMAGES", 8)
    place = make_hospital(tmp_path / "hospital", audits=("audit-1", "control-noise"))
    old, digests = place.key().id, {n: place.sealed(n).digest for n in ("audit-1", "control-noise")}
    throwaway = read_key(place.private / "audit-1.key").id
    done = rotate(place, fresh_key)
    assert done.aside == ["audit-1", "control-noise"]
    kept = place.private / f"epoch-{old}"
    assert {"audit-1.key", "control-noise.key", "rows-audit-1.json"} <= {p.name for p in kept.iterdir()}
    assert read_key(kept / "audit-1.key").id == throwaway
    assert sorted(p.name for p in (place.folder / "sealed").iterdir()) == sorted(SPLITS)
    place = Place.open(place.folder)
    for name, digest in digests.items():
        assert seal(place, sealing(place, name)).dataset.digest != digest
    assert read_key(place.private / "audit-1.key").id != throwaway


def test_what_cannot_be_rotated_is_told_and_left_alone(tmp_path, place):
    old = place.key()
    before = leaks.files(place.folder)

    def refused(said: str, given: SecretKey | None = None, **how) -> None:
        make = fresh_key if given is None else lambda path: write_key(path, given) or given
        with pytest.raises(CipherwardError) as error:
            rotate(place, make, given.id if given else None, **how)
        assert said in error.value.message and error.value.hint, error.value

    def unchanged() -> bool:
        now = leaks.files(place.folder)
        return all(now.get(name) == data for name, data in before.items()) and place.key() == old

    refused(f"{old.id} is the key in use", old)
    earlier = SecretKey.generate()
    write_key(place.folder / f"secret-{earlier.id}.key", earlier)
    refused(f"key {earlier.id} was this hospital's before", earlier)
    (place.folder / f"sealed-{old.id}").mkdir()
    refused("is there already")
    (place.folder / f"sealed-{old.id}").rmdir()
    assert unchanged() and not new_key_path(place).exists()
    # An unfinished set, a foreign one, another's row list, an altered shard.
    partial = place.sealed_folder("val") / "manifest.json"
    partial.rename(partial.with_name("partial.json"))
    refused("is unfinished")
    partial.with_name("partial.json").rename(partial)
    rows = place.private / "rows-val.json"
    text = rows.read_text()
    rows.write_text((place.private / "rows-test.json").read_text())
    refused("is not the row list of")
    rows.write_text(text)
    shard = place.sealed_folder("train") / "images-00001.safetensors"
    data = shard.read_bytes()
    shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    refused("is altered")
    shard.write_bytes(data)
    assert unchanged()
    # The key that was made is the one that a further attempt goes on with, and no other.
    pending = stated_id(new_key_path(place))
    refused(f"a rotation of {place.folder} to key {pending} was interrupted", SecretKey.generate())
    # What an earlier attempt sealed of other images does not slip in.
    done = place.folder / "sealed-new" / "val"
    shutil.copytree(place.sealed_folder("val"), done)
    refused("did not seal")
    shutil.rmtree(place.folder / "sealed-new")
    assert rotate(place, fresh_key).new == pending
    check = Place.open(place.folder)
    assert check.key().id == pending and unchanged_images(check)


def unchanged_images(place: Place) -> bool:
    sealed = place.sealed("train")
    return bool(
        (opened(place, "train", place.key()) == plain_rows(place, "train", np.arange(len(sealed)))).all()
    )


def test_two_hospitals_of_a_consortium_rotate_to_one_key(tmp_path, party):
    a = make_hospital(tmp_path / "a", audits=("audit-1",))
    b = tmp_path / "b"
    shutil.copytree(a.folder, b)
    old = a.key()
    status, new, told = party("rotate", a.folder)
    assert status == 0 and new != old.id, told
    for said in (
        f"stays readable with key {old.id}",
        "a rotation does not call it back",
        "train: 20 images sealed again",
        "set aside with them: audit-1.",
        f"hospitals that keep key {old.id} cannot train together",
        "share-key",
        "--key FOR_THEM.key",
        "train again",
    ):
        assert said in told, (said, told)
    recipient = write_identity(b / "identity.txt")
    shared = tmp_path / "for-b.key"
    assert party("share-key", a.folder / "secret.key", shared, "--recipient", recipient)[1] == new
    assert "in one way" in party("rotate", b, "--key", shared, "--unprotected")[2]
    assert party("rotate", b, "--key", shared)[:2] == (0, new)
    assert is_wrapped(b / "secret.key") and read_key(b / "secret.key") == a.key()
    assert Place.open(b).sealed("train").key_id == a.sealed("train").key_id == new
    # A protected key is not followed by one that lies open without being asked for.
    status, out, told = party("rotate", b)
    assert (status, out) == (1, "") and "say how the new key shall be" in told
    assert not (b / "secret-new.key").exists() and not (b / "sealed-new").exists()
    assert "in one way" in party("rotate", b, "--passphrase", "--unprotected")[2]
    status, third, told = party("rotate", b, "--recipient", recipient)
    assert status == 0 and third not in (old.id, new) and is_wrapped(b / "secret.key"), told
    assert Place.open(b).key().id == third and unchanged_images(Place.open(b))
    # The program's words hold no key.
    forms = leaks.key_forms(a.key(), []) | {
        f"b {k}": v for k, v in leaks.key_forms(read_key(b / "secret.key"), []).items()
    }
    assert leaks.find(forms, {"said": f"{out}{told}{new}{third}".encode()}) == []
