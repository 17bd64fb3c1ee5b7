"""Sealing killed by SIGKILL, at random moments and at every write, rename and sync; then resumed.

Nothing may be lost: every file that the hospital then has is byte-identical to those of an uninterrupted run.
The sealing is the real one, in processes forked from a warmed-up one (this file run as a program), so that a
kill costs milliseconds.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import crypto.files
import parties.sealing.seal
from crypto.key import SecretKey
from crypto.keyfile import write_key
from crypto.scheme import describe
from parties.sealing.place import Place
from parties.sealing.seal import disk_needed, sealing

SIDE, A_SHARD, COUNT = 16, 10, 30
SPOILT = (0, 9, 10, 15)  # files that cannot be decoded, at the shards' borders and within one
#: With a keystream of its own for each row: a row that slipped would show. The nonce is fixed for comparison.
SPEC = replace(describe("noise", (SIDE, SIDE, 1), 8), options={"nonce": "00112233445566778899aabbccddeeff"})


# ---- in the killed process ----------------------------------------------------------------------


def seal_train(hospital: Path) -> None:
    """The hospital's own sealing of its train split, in shards of A_SHARD images."""
    place = Place.open(hospital)
    what = sealing(
        place, "train"
    )  # draws a fresh nonce, as every run of `seal` does: a resumed one keeps the first
    if not (place.sealed_folder("train") / "partial.json").exists():
        what = replace(what, spec=SPEC)
    parties.sealing.seal.seal_images = functools.partial(
        crypto.sets.writer.seal_images, shard_bytes=A_SHARD * SIDE * SIDE
    )
    parties.sealing.seal.seal(place, what)


def die_at(moment: int) -> None:
    """Has this process kill itself at the moment-th of: opening to write, half a write, sync, rename, removal.

    Nothing is synced: what a killed process wrote is the kernel's, and it is quicker so. Moment 0 never comes.
    """
    moments = itertools.count(1)

    def passing() -> None:
        if next(moments) == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, args: tuple) -> None:
        writing = event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR)
        if writing or event in ("os.rename", "os.remove", "os.mkdir"):
            passing()

    class Halved:
        def __init__(self, handle):
            self.handle = handle

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.handle.close()

        def write(self, data):
            data = bytes(data)
            self.handle.write(data[: len(data) // 2])
            self.handle.flush()
            passing()
            self.handle.write(data[len(data) // 2 :])

    def opened(path, mode="r"):
        return Halved(open(path, mode)) if mode == "wb" else open(path, mode)

    def half_put(file, data, place, whole=os.pwrite):
        half = len(data) // 2
        whole(file, data[:half], place)
        passing()
        return half + whole(file, data[half:], place + half)

    sys.addaudithook(hook)
    crypto.files.open = opened
    os.pwrite = half_put
    os.fsync = lambda handle: passing()


def nursery() -> None:
    """For every line {"hospital", "cores", "moment" or null, "seconds" or null}: seals in a fork, which dies at
    that moment or after those seconds; answers with its exit code and how long it took."""
    Image.init()
    warm = np.zeros((1, SIDE, SIDE, 1), np.uint8)
    crypto.scheme.load(SPEC).cipher(SecretKey.generate()).encrypt(warm)
    for line in sys.stdin:
        order = json.loads(line)
        begun = time.monotonic()
        child = os.fork()
        if not child:
            try:
                crypto.sets.writer.cores = lambda cores=order["cores"]: cores
                if order["moment"] is not None:
                    die_at(order["moment"])
                seal_train(Path(order["hospital"]))
                os._exit(0)
            except BaseException as error:
                print(repr(error), file=sys.stderr)
                os._exit(1)
        if order["seconds"] is not None:
            time.sleep(order["seconds"])
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        print(json.dumps([os.waitstatus_to_exitcode(status), time.monotonic() - begun]), flush=True)


# ---- in the test's process ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for split, count in (("train", COUNT), ("val", 2), ("test", 2)):
        for i in range(count):
            path = folder / split / ("a" if i < count // 2 else "b") / f"{i:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            gray = np.random.default_rng(i).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
            Image.fromarray(gray).save(path)
            if split == "train" and i in SPOILT:
                path.write_bytes(path.read_bytes()[:50])
    return folder


@pytest.fixture(scope="module")
def run():
    """run(hospital, moment=…, seconds=…) → (exit code, seconds): a sealing in a process of its own."""
    program = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    many = itertools.cycle([2, 2, 16])  # with 16 cores, three shards are written at a time

    def ask(hospital: Path, moment: int | None = None, seconds: float | None = None) -> tuple[int, float]:
        order = {"hospital": str(hospital), "moment": moment, "seconds": seconds, "cores": next(many)}
        program.stdin.write(json.dumps(order) + "\n")
        program.stdin.flush()
        code, took = json.loads(program.stdout.readline())
        assert code in (0, -signal.SIGKILL), "the sealing failed"
        return code, took

    yield ask
    program.stdin.close()
    program.wait()


@pytest.fixture
def fresh(images, tmp_path):
    """fresh() makes another hospital with the same key over the same images."""
    number = itertools.count()

    def make() -> Path:
        folder = tmp_path / f"{next(number)}" / "hospital"
        folder.mkdir(parents=True)
        write_key(folder / "secret.key", SecretKey(bytes(range(32))))
        settings = {"party": "hospital", "source": "folder", "images": str(images), "scheme": "noise"}
        Place.of(folder, {**settings, "image_size": SIDE, "channels": 1, "block": 8}).keep()
        return folder

    return make


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def expected(run, fresh) -> dict[str, bytes]:
    """Every file of an uninterrupted run, which is checked to be right."""
    folder = fresh()
    assert run(folder)[0] == 0
    place = Place.open(folder)
    sealed, source = place.sealed("train"), place.plain("train")
    sealed.verify(place.key())
    assert sealed.spec == SPEC and len(sealed.manifest["shards"]) == 3
    left = [row for row in range(COUNT) if row not in SPOILT]
    opened = crypto.scheme.load(SPEC).cipher(place.key()).decrypt(sealed.rows(np.arange(len(sealed))))
    assert np.array_equal(opened, np.stack([source.read(row) for row in left]))
    assert np.array_equal(sealed.labels, source.labels[left])
    kept = files(folder)
    assert kept["private/quarantine.txt"].decode().split() == [source.names[row] for row in SPOILT]
    return kept


def test_killed_fifty_times_at_random_nothing_is_lost(run, fresh, expected):
    draw = np.random.default_rng(0)
    folder, length, kills = fresh(), run(fresh())[1], 0
    while kills < 50:
        killed, _ = run(folder, seconds=float(draw.uniform(0, length)))
        kills += killed != 0
        if not killed:
            assert files(folder) == expected
            folder = fresh()
    assert run(folder)[0] == 0 and files(folder) == expected


def test_killed_at_every_write_sync_and_rename_nothing_is_lost(run, fresh, expected):
    for moment in itertools.count(1):
        folder = fresh()
        if not run(folder, moment=moment)[0]:
            break
        if moment % 3 == 0:  # killed once more on its way
            run(folder, moment=1 + moment * 7 % 23)
        assert run(folder, moment=0)[0] == 0
        assert files(folder) == expected, moment
    assert moment > 50


def test_the_disk_told_of_is_what_is_still_to_be_written(run, fresh):
    folder = fresh()
    place = Place.open(folder)
    train = sealing(place, "train")
    whole = disk_needed(place, [train])
    assert whole == train.bytes > COUNT * SIDE * SIDE
    shards: list[Path] = []
    for moment in range(30, 100, 5):
        run(folder, moment=moment)
        if shards := list(place.sealed_folder("train").glob("images-*.safetensors")):
            break
    assert 1 <= len(shards) < 3
    assert disk_needed(place, [train]) == whole - sum(p.stat().st_size for p in shards)
    run(folder)
    assert disk_needed(place, [train]) == 0
    val = sealing(place, "val")
    assert disk_needed(place, [train, val]) == val.bytes


if __name__ == "__main__":
    nursery()
