"""Rotating a key: nothing is lost, nothing plain is written, and a kill at any point is made good."""

from __future__ import annotations

import functools
import json
import os
import shutil
import stat
import sys
import tempfile
import threading
from pathlib import Path

import leaks
import numpy as np
import pytest
from PIL import Image

import parties.rotate
import parties.seal
from crypto import keyfile
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.keyfile import is_wrapped, read_key, stated_id, write_key
from crypto.scheme import load
from crypto.sealing import seal_images
from crypto.unlock import write_identity
from parties import cli
from parties.place import Place
from parties.rotate import new_key_path, rotate
from parties.seal import plain_rows, seal, sealing
from parties.sources.phantom import Phantom
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


# ---- watching the disk: Python tells an audit hook of every change before it is made ---------------

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_watcher = None  # called with (event, paths) while a test watches
_inside = threading.local()


def _hook(event, args):
    if _watcher is None or getattr(_inside, "busy", False):
        return
    if event == "open":
        if isinstance(args[0], int) or not isinstance(args[2], int) or not args[2] & _WRITING:
            return
        paths = args[:1]
    elif event in ("os.rename", "os.link", "os.symlink"):
        paths = args[:2]
    elif event in ("os.remove", "os.mkdir", "os.rmdir", "os.truncate"):
        paths = args[:1]
    else:
        return
    _inside.busy = True
    try:
        _watcher(event, [Path(os.fsdecode(p)) for p in paths if not isinstance(p, int)])
    finally:
        _inside.busy = False


sys.addaudithook(_hook)


@pytest.fixture
def watch(monkeypatch):
    """watch(watcher) hands every change of the disk to watcher until watch(None), or the test's end."""
    module = sys.modules[__name__]
    yield lambda watcher: setattr(module, "_watcher", watcher)
    module._watcher = None


class Killed(BaseException):
    """What a kill is to the process: nothing that it does afterwards reaches the disk."""


def killer(folder: Path, at: int):
    """A watcher that lets `at` changes below the folder happen and no more; its `changes` lists them."""

    def watcher(event, paths):
        if any(p.is_relative_to(folder) and p.name != ".lock" for p in paths):
            watcher.changes.append(f"{event} {paths[-1].name}")
            if len(watcher.changes) > at:
                raise Killed

    watcher.changes = []
    return watcher


# ---- hospitals ---------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch):
    """Several shards a set, no waiting for the disk, and no identity or passphrase of whoever runs the tests."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # these kills end processes, not the power
    for module in (parties.seal, parties.rotate):
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
        was = parties.rotate.SealedDataset.open(aside.folder / name)
        was.verify(before)
        assert was.digest != sealed.digest
    kept = json.loads((place.private / f"epoch-{old}" / "rows-train.json").read_text())
    assert kept["digest"] == parties.rotate.SealedDataset.open(aside.folder / "train").digest
    left = {p.name for p in folder.iterdir()}
    whole = {"party.yaml", "private", "sealed", "secret.key", f"sealed-{old}", f"secret-{old}.key", ".lock"}
    assert left == whole and not place.rotation.exists()
    return place


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


def recorder():
    """A watcher that keeps the content of every file before it is renamed, removed or rewritten."""

    def watcher(event, paths):
        for path in paths:
            watcher.touched.add(path)
            if path.is_file():
                watcher.seen[f"{path} before {event} {len(watcher.seen)}"] = path.read_bytes()

    watcher.touched, watcher.seen = set(), {}
    return watcher


def all_written(watcher, folder: Path) -> dict[str, bytes]:
    last = {str(p): p.read_bytes() for p in watcher.touched if p.is_file()}
    return watcher.seen | last | leaks.files(folder)


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
    sealing_again = parties.rotate.seal_images

    def leaky(folder, read, *rest):
        def reading(row):
            found = read(row)
            with tempfile.NamedTemporaryFile(dir=tmp_path) as file:
                file.write(found.tobytes())
                file.flush()
            return found

        return sealing_again(folder, reading, *rest)

    monkeypatch.setattr(parties.rotate, "seal_images", leaky)
    assert len(leaks.find(forms, rotated(twin))) > 20


def test_sets_under_throwaway_keys_are_set_aside_and_drawn_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(parties.seal, "CONTROL_IMAGES", 8)
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


def test_a_swap_that_finds_its_place_taken_says_so_and_loses_nothing(place, watch):
    old = place.key().id
    real = parties.rotate._move

    def taken(source, target):
        real(source, target)
        if source.name == "secret.key":
            target.with_name("secret.key").write_text("somebody else's")

    parties.rotate._move = taken
    try:
        with pytest.raises(CipherwardError, match="cannot take its place"):
            rotate(place, fresh_key)
    finally:
        parties.rotate._move = real
    assert place.key_path.read_text() == "somebody else's"
    place.key_path.unlink()
    check_rotated(place.folder, old, rotate(place, fresh_key).new)


@pytest.fixture
def party(monkeypatch, capsys):
    """party(*words) runs cipherward-party in this process: (status, standard output, standard error)."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["cipherward-party", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        return end.value.code, said.out.strip(), " ".join(said.err.split())

    return run


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
