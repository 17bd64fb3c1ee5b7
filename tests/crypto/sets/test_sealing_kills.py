"""Sealing killed by SIGKILL, at random moments and at every write, rename and sync; then resumed.

Nothing may be lost: every file that the hospital has in the end is byte-identical to that of an uninterrupted run.
The sealing is the real one, in processes forked from a warmed-up one (this file run as a program), so that a kill
costs milliseconds.
"""

from __future__ import annotations

import functools
import gc
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from PIL import Image

import crypto.files
import crypto.sets.shard_sealer
import crypto.sets.writer
import parties.sealing.seal
from crypto.key import SecretKey
from crypto.keyfile import write_key
from crypto.scheme import describe, load
from parties.sealing.place import Place
from parties.sealing.seal import disk_needed, plan_sealing

SIDE, SHARD_ROWS, COUNT = 16, 6, 18
#: Files that cannot be decoded, at the shards' borders and within one.
UNREADABLE = (0, 5, 6, 9)
#: With a keystream of its own for each row, a shifted row would show. The nonce is fixed for comparison.
SPEC = replace(describe("noise", (SIDE, SIDE, 1), 8), options={"nonce": "00112233445566778899aabbccddeeff"})


#: run(hospital, moment=…, seconds=…) → (exit code, seconds) of a sealing in a process of its own.
RunSealing = Callable[..., tuple[int, float]]
#: Makes another hospital with the same key over the same images, and returns its folder.
MakeHospital = Callable[[], Path]


# ---- in the killed process ----------------------------------------------------------------------


def seal_train(hospital: Path) -> None:
    """Seal the train split as the hospital does, in shards of SHARD_ROWS images."""
    place = Place.open(hospital)
    # It draws a fresh nonce, as every run of `seal` does. A resumed one keeps the first.
    sealing = plan_sealing(place, "train")
    if not (place.sealed_folder("train") / "partial.json").exists():
        sealing = replace(sealing, spec=SPEC)
    vars(parties.sealing.seal)["seal_images"] = functools.partial(
        crypto.sets.writer.seal_images, shard_bytes=SHARD_ROWS * SIDE * SIDE
    )
    parties.sealing.seal.seal(place, sealing)


def die_at(moment: int) -> None:
    """Make this process kill itself at a moment: the n-th opening to write, half write, sync, rename or removal.

    Nothing is synced: the kernel has what a killed process wrote, and this is quicker. Moment 0 never comes.
    """
    moments = itertools.count(1)

    def count_moment() -> None:
        if next(moments) == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        is_writing = event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR)
        if is_writing or event in ("os.rename", "os.remove", "os.mkdir"):
            count_moment()

    class HalfWriter:
        def __init__(self, handle: IO[bytes]) -> None:
            self.handle = handle

        def __enter__(self) -> HalfWriter:
            return self

        def __exit__(self, *_: object) -> None:
            self.handle.close()

        def write(self, data: bytes) -> None:
            data = bytes(data)
            self.handle.write(data[: len(data) // 2])
            self.handle.flush()
            count_moment()
            self.handle.write(data[len(data) // 2 :])

    def half_open(path: Path, mode: str = "r", **options: Any) -> Any:
        return HalfWriter(open(path, mode, **options)) if mode == "wb" else open(path, mode, **options)

    real_pwrite = os.pwrite

    def half_pwrite(file: int, data: memoryview, offset: int) -> int:
        half = len(data) // 2
        real_pwrite(file, data[:half], offset)
        count_moment()
        return half + real_pwrite(file, data[half:], offset + half)

    sys.addaudithook(hook)
    vars(crypto.files)["open"] = half_open
    vars(os).update(pwrite=half_pwrite, fsync=lambda handle: count_moment())


def nursery() -> None:
    """Seal in a fork for every line of the standard input, and answer with exit code and seconds.

    A line is {"hospital", "cores", "moment" or null, "seconds" or null}. The fork dies at that moment or after those
    seconds.
    """
    Image.init()
    gc.disable()  # a collection in a fork would copy the parent's memory
    with tempfile.TemporaryDirectory() as scratch:
        # Loads and compiles what a sealing uses, or every fork would do it again.
        images = make_images(Path(scratch) / "images")
        seal_train(make_hospital(Path(scratch) / "hospital", images))
    gc.freeze()
    for line in sys.stdin:
        order = json.loads(line)
        start = time.monotonic()
        child = os.fork()
        if not child:
            try:
                vars(crypto.sets.shard_sealer)["cores"] = lambda cores=order["cores"]: cores
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
        print(json.dumps([os.waitstatus_to_exitcode(status), time.monotonic() - start]), flush=True)


# ---- in the test's process ----------------------------------------------------------------------


def make_images(folder: Path) -> Path:
    """Write the images of a hospital in three splits, some of them unreadable."""
    for split, count in (("train", COUNT), ("val", 2), ("test", 2)):
        for i in range(count):
            path = folder / split / ("a" if i < count // 2 else "b") / f"{i:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            gray = np.random.default_rng(i).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
            Image.fromarray(gray).save(path)
            if split == "train" and i in UNREADABLE:
                path.write_bytes(path.read_bytes()[:50])
    return folder


def make_hospital(folder: Path, images: Path) -> Path:
    """Make a hospital, always with the same key, over these images."""
    folder.mkdir(parents=True)
    write_key(folder / "secret.key", SecretKey(bytes(range(32))))
    settings = {"party": "hospital", "source": "folder", "images": str(images), "scheme": "noise"}
    Place.from_settings(folder, {**settings, "image_size": SIDE, "channels": 1, "block": 8}).save()
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def run() -> Iterator[RunSealing]:
    """Return a function that seals in a process of its own."""
    program = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    core_counts = itertools.cycle([2, 2, 16])  # with 16 cores, three shards are written at a time

    def run_sealing(
        hospital: Path, moment: int | None = None, seconds: float | None = None
    ) -> tuple[int, float]:
        order = {
            "hospital": str(hospital),
            "moment": moment,
            "seconds": seconds,
            "cores": next(core_counts),
        }
        assert program.stdin is not None and program.stdout is not None
        program.stdin.write(json.dumps(order) + "\n")
        program.stdin.flush()
        code, length = json.loads(program.stdout.readline())
        assert code in (0, -signal.SIGKILL), "the sealing failed"
        return code, length

    yield run_sealing
    program.communicate()


@pytest.fixture
def fresh(images: Path, tmp_path: Path) -> MakeHospital:
    """Return a function that makes another hospital with the same key over the same images."""
    number = itertools.count()

    def make() -> Path:
        return make_hospital(tmp_path / f"{next(number)}" / "hospital", images)

    return make


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def expected(run: RunSealing, fresh: MakeHospital) -> dict[str, bytes]:
    """Every file of an uninterrupted run, which is checked to be right."""
    folder = fresh()
    assert run(folder)[0] == 0
    place = Place.open(folder)
    sealed, source = place.sealed("train"), place.plain("train")
    sealed.verify(place.key())
    assert sealed.spec == SPEC and len(sealed.manifest["shards"]) == 3
    readable = [row for row in range(COUNT) if row not in UNREADABLE]
    opened = load(SPEC).cipher(place.key()).decrypt(sealed.rows(np.arange(len(sealed))))
    assert np.array_equal(opened, np.stack([source.read(row) for row in readable]))
    assert np.array_equal(sealed.labels, source.labels[readable])
    contents = files(folder)
    listed = contents["private/quarantine.txt"].decode().splitlines()
    # Each with its reason, which a run that was killed and continued must find again.
    assert [line.partition(": ")[0] for line in listed] == [source.names[row] for row in UNREADABLE]
    assert all(line.partition(": ")[2] for line in listed)
    return contents


@pytest.mark.parametrize("times", [8, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_many_times_at_random_nothing_is_lost(
    run: RunSealing, fresh: MakeHospital, expected: dict[str, bytes], times: int
) -> None:
    draw = np.random.default_rng(0)
    folder, length, kills = fresh(), run(fresh())[1], 0
    while kills < times:
        killed, _ = run(folder, seconds=float(draw.uniform(0, length)))
        kills += killed != 0
        if not killed:
            assert files(folder) == expected
            folder = fresh()
    assert run(folder)[0] == 0 and files(folder) == expected


@pytest.mark.long
def test_killed_at_every_write_sync_and_rename_nothing_is_lost(
    run: RunSealing, fresh: MakeHospital, expected: dict[str, bytes]
) -> None:
    for moment in itertools.count(1):
        folder = fresh()
        if not run(folder, moment=moment)[0]:
            break
        if moment % 3 == 0:  # killed once more on its way
            run(folder, moment=1 + moment * 7 % 23)
        assert run(folder, moment=0)[0] == 0
        assert files(folder) == expected, moment
    assert moment > 50


@pytest.mark.long
def test_the_disk_needed_is_what_is_still_to_be_written(run: RunSealing, fresh: MakeHospital) -> None:
    folder = fresh()
    place = Place.open(folder)
    train = plan_sealing(place, "train")
    needed = disk_needed(place, [train])
    assert needed == train.bytes > COUNT * SIDE * SIDE
    shards: list[Path] = []
    for moment in range(30, 100, 5):
        run(folder, moment=moment)
        if shards := list(place.sealed_folder("train").glob("images-*.safetensors")):
            break
    assert 1 <= len(shards) < 3
    assert disk_needed(place, [train]) == needed - sum(p.stat().st_size for p in shards)
    run(folder)
    assert disk_needed(place, [train]) == 0
    val = plan_sealing(place, "val")
    assert disk_needed(place, [train, val]) == val.bytes


if __name__ == "__main__":
    nursery()
