"""What sealing costs beside decoding and resizing alone, what memory it takes, and what a kill costs.

    python benchmarks/sealing.py [--images FOLDER] [--json FILE]

Everything is measured on folders of JPEG files that the run makes (smooth textures, edges and noise), and the speed
on --images as well (train/ val/ test/ with class folders), by the sealing that `cipherward-party seal` does:

1. speed:  folders of 512×512 and 224×224, sealed at 224×224×3; and the same images decoded and resized alone on the
           same threads, turn about: by Pillow as anybody would (`pillow`), and by our own source (`reading`), which
           takes two thirds of that where a JPEG has the size already; on the clock and, for a machine with other
           work, in processor time (`cpu`);
2. memory: the greatest resident memory of a fresh process that seals 100,000 small images, or fewer large ones;
3. open:   a set of 100,000 images of 224×224×3, opened in a fresh process (its shards are sparse files);
4. kill:   a sealing killed when one shard is done, and the same one resumed.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table
from scipy import ndimage

from coordinator.report.build import machine
from crypto.cores import cores
from crypto.files import write_json
from crypto.key import SecretKey
from crypto.keyfile import write_key
from crypto.scheme import describe
from crypto.sets.dataset import SealedDataset
from crypto.sets.writer import seal_images
from parties.sealing.place import Place
from parties.sealing.seal import seal, sealing
from parties.sources.folder import Folder

SIDE = 224  # of a sealed image
DISTINCT = 60  # pictures made for a folder; further files are links to them
RUN = 16  # images that a thread reads at a time, in the measurement of reading alone


def picture(side: int, rng: np.random.Generator) -> Image.Image:
    """An RGB picture [side, side] that compresses like a photograph: about 1 to 2 bits a pixel at quality 90."""
    coarse = rng.uniform(0, 255, (side // 32 + 2, side // 32 + 2, 3))
    smooth = ndimage.zoom(coarse, (side / len(coarse), side / len(coarse), 1), order=1)
    edges = 40 * (ndimage.gaussian_filter(rng.standard_normal((side, side)), 6) > 0)
    return Image.fromarray(
        (smooth + edges[..., None] + rng.normal(0, 5, (side, side, 3))).clip(0, 255).astype(np.uint8)
    )


def make_folder(folder: Path, side: int, count: int) -> Path:
    """A folder of `count` JPEG files in two classes, split already; the val and test folders hold one a class."""
    rng = np.random.default_rng(side)
    made = []
    for index in range(min(DISTINCT, count)):
        made.append(folder / "train" / f"class-{index % 2}" / f"{index:06d}.jpg")
        made[-1].parent.mkdir(parents=True, exist_ok=True)
        picture(side, rng).save(made[-1], quality=90)
    for index in range(len(made), count):
        (folder / "train" / f"class-{index % 2}" / f"{index:06d}.jpg").hardlink_to(made[index % len(made)])
    for split in ("val", "test"):
        for path in made[:2]:
            (folder / split / path.parent.name).mkdir(parents=True)
            shutil.copy(path, folder / split / path.parent.name)
    return folder


def hospital(folder: Path, images: Path, size: int) -> Place:
    """A hospital of a fresh key over a folder of images."""
    folder.mkdir()
    write_key(folder / "secret.key", SecretKey.generate())
    settings = {"party": folder.name, "source": "folder", "images": str(images)}
    place = Place.of(folder, {**settings, "image_size": size, "channels": 3, "block": 16})
    place.keep()
    return place


def seal_train(place: Place, progress: Callable[[int], None] = lambda rows: None) -> None:
    seal(place, sealing(place, "train"), progress)


def pillow(path: Path) -> np.ndarray:
    """uint8 [SIDE, SIDE, 3]: an image decoded and resized as Pillow's manual has it."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def read_alone(read: Callable[[int], np.ndarray], count: int) -> None:
    """Reads every image on all cores, and drops it."""

    def some(start: int) -> None:
        for row in range(start, min(start + RUN, count)):
            read(row)

    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(some, range(0, count, RUN)))


def timed(work: Callable[[], object]) -> float:
    return both_times(work)[0]


def both_times(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the clock and of all cores together."""
    begun, spent = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - begun, time.process_time() - spent


def spread(ratios: np.ndarray, name: str) -> dict[str, float]:
    low, median, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return {name: float(median), f"{name}_low": float(low), f"{name}_high": float(high)}


def speed(work: Path, images: Path, turns: int) -> dict[str, Any]:
    """Seconds of sealing and of reading alone, turn about: a machine's moods hit all alike."""
    source = Folder(images, SIDE, 3, 0, "train")
    paths, count = [images / name for name in source.names], len(source)
    took = []
    for turn in range(turns + 1):
        place = hospital(work / f"{images.name}-{turn}", images, SIDE)
        took.append(
            [
                both_times(partial(read_alone, lambda row: pillow(paths[row]), count)),
                both_times(partial(read_alone, source.read, count)),
                both_times(partial(seal_train, place)),
            ]
        )
        shutil.rmtree(place.folder)
    clock, cpu = np.array(took[1:]).transpose(2, 1, 0)  # the first turn compiles and fills caches
    each = 1e3 * np.median(cpu, 1) / count
    return {
        "folder": images.name,
        "images": count,
        "kilobytes_a_jpeg": sum(path.stat().st_size for path in paths) / count / 1e3,
        "turns": turns,
        "pillow_seconds": float(np.median(clock[0])),
        "reading_seconds": float(np.median(clock[1])),
        "sealing_seconds": float(np.median(clock[2])),
        "pillow_cpu_milliseconds_an_image": float(each[0]),
        "reading_cpu_milliseconds_an_image": float(each[1]),
        "sealing_cpu_milliseconds_an_image": float(each[2]),
        **spread(clock[2] / clock[1], "sealing_over_reading"),
        **spread(clock[2] / clock[0], "sealing_over_pillow"),
        **spread(cpu[2] / cpu[1], "cpu_sealing_over_reading"),
        **spread(cpu[2] / cpu[0], "cpu_sealing_over_pillow"),
    }


def memory(work: Path, side: int, count: int) -> dict[str, Any]:
    """Greatest resident memory and seconds of a fresh process that seals a folder."""
    images = work / f"jpeg-{side}"
    if not images.exists():
        make_folder(images, side, count)
    place = hospital(work / f"memory-{side}", images, side)
    told = in_process("--seal", str(place.folder))
    sealed = place.sealed("train")
    assert len(sealed) == count
    shutil.rmtree(place.folder)
    return {"images": count, "shape": f"{side}×{side}×3", "shards": len(sealed.manifest["shards"]), **told}


def seal_here(folder: Path) -> dict[str, float]:
    place = Place.open(folder)
    return {"seconds": timed(partial(seal_train, place)), "peak_megabytes": peak_bytes() / 1e6}


def peak_bytes() -> int:
    """Greatest resident memory of this process. Linux's getrusage would count in the process that started it."""
    status = Path("/proc/self/status")
    if status.exists():
        [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def sparse_set(folder: Path, count: int) -> None:
    """A sealed set of that many 224×224×3 images or a few more, whose pixels take no disk."""
    key, spec = SecretKey.generate(), describe("block_pixel_shuffle", (SIDE, SIDE, 3), 16)
    rows = (64 << 20) // (SIDE * SIDE * 3)
    plain = np.zeros((rows, SIDE, SIDE, 3), np.uint8)
    labels = np.arange(rows) % 2
    whole, _ = seal_images(folder, plain.__getitem__, labels, ["a", "b"], key, spec, "zeros")
    [shard] = whole.manifest["shards"]
    begin = (folder / shard["file"]).read_bytes()[: 8 * rows + 256]
    shards = [{**shard, "file": f"images-{i:05d}.safetensors"} for i in range(-(-count // rows))]
    for entry in shards:
        with open(folder / entry["file"], "wb") as file:
            file.write(begin)
            file.truncate(shard["bytes"])
    write_json(folder / "manifest.json", {**whole.manifest, "shards": shards, "rows": rows * len(shards)})


def opening(folder: Path) -> dict[str, float]:
    """Seconds of opening a set and of reading all its labels, the first time in this process."""
    opened = timed(lambda: SealedDataset.open(folder))
    sealed = SealedDataset.open(folder)
    return {
        "open_images": len(sealed),
        "open_shards": len(sealed.manifest["shards"]),
        "open_seconds": opened,
        "labels_seconds": timed(lambda: sealed.labels),
    }


def kill(work: Path, images: Path, after: int) -> dict[str, Any]:
    """Kills a sealing once so many shards are done, and resumes it here."""
    place = hospital(work / "killed", images, SIDE)
    note = place.sealed_folder("train") / "partial.json"
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.sealing", "--seal", str(place.folder)], stdout=subprocess.DEVNULL
    )
    while not note.exists() or len(json.loads(note.read_text())["shards"]) < after:
        assert child.poll() is None, "the sealing ended before it could be killed"
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    done = len(json.loads(note.read_text())["shards"])
    begun = time.perf_counter()
    checked: list[float] = []
    seal_train(place, lambda rows: checked.append(time.perf_counter() - begun))
    resumed = time.perf_counter() - begun
    shards = place.sealed("train").manifest["shards"]
    place.sealed("train").verify(place.key())
    shutil.rmtree(place.folder)
    return {
        "killed_after_shards": done,
        "of_shards": len(shards),
        "resume_check_seconds": checked[0],
        "resume_seconds": resumed,
    }


def in_process(*words: str) -> Any:
    """Runs this file in a fresh process, so that measurements share nothing; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.sealing", *words], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout)


def show(title: str, records: list[dict[str, Any]]) -> None:
    """Prints records, one a column."""
    table = Table("what", *[""] * len(records), title=title, show_header=False)
    for name in records[0]:
        values = [f"{r[name]:.3g}" if isinstance(r[name], float) else str(r[name]) for r in records]
        table.add_row(name.replace("_", " "), *values)
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument(
        "--images", type=Path, action="append", default=[], help="a folder of real images, too"
    )
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--seal", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.seal:
        print(json.dumps(seal_here(args.seal)))
        return
    if args.open:
        print(json.dumps(opening(args.open)))
        return
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="cipherward-bench-") as temporary:
        work = Path(temporary)
        console.print("· speed")
        made = [make_folder(work / f"jpeg-{side}", side, n) for side, n in ((512, 1000), (SIDE, 4000))]
        speeds = [speed(work, images, args.turns) for images in [*made, *args.images]]
        console.print("· memory")
        memories = [memory(work, side, count) for side, count in ((SIDE, 4000), (32, 100_000))]
        console.print("· kill")
        killed = kill(work, work / "jpeg-512", 1)
        console.print("· open")
        sparse_set(work / "sparse", 100_000)
        opened = in_process("--open", str(work / "sparse"))
    figures = {
        "machine": machine(),
        **opened,
        **killed,
        "speed": speeds,
        "memory": memories,
    }
    show("sealing", [{k: v for k, v in figures.items() if not isinstance(v, list | dict)}])
    show("speed", speeds)
    show("memory", memories)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
