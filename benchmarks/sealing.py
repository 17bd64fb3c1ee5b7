"""What sealing costs compared with decoding and resizing alone, how much memory it needs, and what a kill costs.

    python -m benchmarks.sealing [--images FOLDER] [--json FILE]

Everything is measured on folders of JPEG files that the run makes (smooth textures, edges and noise). The speed is
also measured on --images (train/ val/ test/ with class folders). The code is that of `cipherward-party seal`.

1. speed:  folders of 512×512 and 224×224, sealed at 224×224×3; and, in turns on the same threads, the same images
           only decoded and resized: by Pillow as in its manual (`pillow`), and by our own source (`reading`), which
           takes two thirds of that time if a JPEG has the size already. On the clock and, for a machine with other
           work, in processor time (`cpu`);
2. memory: the peak resident memory of a fresh process that seals 100,000 small images, or fewer large ones;
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

from benchmarks.command_line import add_json, make_parser, write_figures
from coordinator.exchange.image_file import open_image
from coordinator.report.build import machine
from crypto.arrays import Float64Array, UInt8Array
from crypto.cores import cores
from crypto.files import write_json
from crypto.key import SecretKey
from crypto.keyfile import write_key
from crypto.scheme import describe
from crypto.sets.dataset import SealedDataset
from crypto.sets.writer import seal_images
from parties.sealing.place import Place
from parties.sealing.seal import plan_sealing, seal
from parties.sources.folder import Folder

SIDE = 224  # of a sealed image
DISTINCT = 60  # different pictures of a folder; further files are links to them
READ_BATCH = 16  # images that a thread reads at a time when reading alone is measured


def draw_picture(side: int, rng: np.random.Generator) -> Image.Image:
    """Return an RGB picture [side, side] that compresses like a photograph: 1 to 2 bits a pixel at quality 90."""
    coarse = rng.uniform(0, 255, (side // 32 + 2, side // 32 + 2, 3))
    smooth = ndimage.zoom(coarse, (side / len(coarse), side / len(coarse), 1), order=1)
    edges = 40 * (ndimage.gaussian_filter(rng.standard_normal((side, side)), 6) > 0)
    return Image.fromarray(
        (smooth + edges[..., None] + rng.normal(0, 5, (side, side, 3))).clip(0, 255).astype(np.uint8)
    )


def make_folder(folder: Path, side: int, count: int) -> Path:
    """Make a folder of `count` JPEG files in two classes, split already. val and test hold one of each class."""
    rng = np.random.default_rng(side)
    paths: list[Path] = []
    for index in range(min(DISTINCT, count)):
        paths.append(folder / "train" / f"class-{index % 2}" / f"{index:06d}.jpg")
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        draw_picture(side, rng).save(paths[-1], quality=90)
    for index in range(len(paths), count):
        (folder / "train" / f"class-{index % 2}" / f"{index:06d}.jpg").hardlink_to(
            paths[index % len(paths)]
        )
    for split in ("val", "test"):
        for path in paths[:2]:
            (folder / split / path.parent.name).mkdir(parents=True)
            shutil.copy(path, folder / split / path.parent.name)
    return folder


def make_hospital(folder: Path, images: Path, size: int) -> Place:
    """Make a hospital with a fresh key and a folder of images."""
    folder.mkdir()
    write_key(folder / "secret.key", SecretKey.generate())
    settings = {"party": folder.name, "source": "folder", "images": str(images)}
    place = Place.from_settings(folder, {**settings, "image_size": size, "channels": 3, "block": 16})
    place.save()
    return place


def seal_train(place: Place, on_progress: Callable[[int], None] = lambda _: None) -> None:
    """Seal a hospital's training images."""
    seal(place, plan_sealing(place, "train"), on_progress)


def read_by_pillow(path: Path) -> UInt8Array:
    """Return an image decoded and resized as in Pillow's manual, uint8 [SIDE, SIDE, 3]."""
    with open_image(path) as image:
        return np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def read_all(read: Callable[[int], UInt8Array], count: int) -> None:
    """Read every image on all cores, and drop it."""

    def read_batch(start: int) -> None:
        for row in range(start, min(start + READ_BATCH, count)):
            read(row)

    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(read_batch, range(0, count, READ_BATCH)))


def seconds_of(work: Callable[[], object]) -> float:
    """Return the seconds on the clock that a function takes."""
    return both_times(work)[0]


def both_times(work: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds that a function takes: on the clock, and in processor time of all cores."""
    started, started_cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - started, time.process_time() - started_cpu


def quartiles(ratios: Float64Array, name: str) -> dict[str, float]:
    """Return the median and the quartiles of ratios, under three names."""
    low, median, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return {name: float(median), f"{name}_low": float(low), f"{name}_high": float(high)}


def measure_speed(work: Path, images: Path, turns: int) -> dict[str, Any]:
    """Return the seconds of sealing and of reading alone.

    They are measured in turns, so that other work of the machine affects all alike.
    """
    source = Folder(images, SIDE, 3, 0, "train")
    paths, count = [images / name for name in source.names], len(source)
    times = []
    for turn in range(turns + 1):
        place = make_hospital(work / f"{images.name}-{turn}", images, SIDE)
        times.append(
            [
                both_times(partial(read_all, lambda row: read_by_pillow(paths[row]), count)),
                both_times(partial(read_all, source.read, count)),
                both_times(partial(seal_train, place)),
            ]
        )
        shutil.rmtree(place.folder)
    clock, cpu = np.array(times[1:]).transpose(2, 1, 0)  # the first turn compiles and fills caches
    milliseconds = 1e3 * np.median(cpu, 1) / count
    return {
        "folder": images.name,
        "images": count,
        "kilobytes_a_jpeg": sum(path.stat().st_size for path in paths) / count / 1e3,
        "turns": turns,
        "pillow_seconds": float(np.median(clock[0])),
        "reading_seconds": float(np.median(clock[1])),
        "sealing_seconds": float(np.median(clock[2])),
        "pillow_cpu_milliseconds_an_image": float(milliseconds[0]),
        "reading_cpu_milliseconds_an_image": float(milliseconds[1]),
        "sealing_cpu_milliseconds_an_image": float(milliseconds[2]),
        **quartiles(clock[2] / clock[1], "sealing_over_reading"),
        **quartiles(clock[2] / clock[0], "sealing_over_pillow"),
        **quartiles(cpu[2] / cpu[1], "cpu_sealing_over_reading"),
        **quartiles(cpu[2] / cpu[0], "cpu_sealing_over_pillow"),
    }


def measure_memory(work: Path, side: int, count: int) -> dict[str, Any]:
    """Return the peak resident memory and the seconds of a fresh process that seals a folder."""
    images = work / f"jpeg-{side}"
    if not images.exists():
        make_folder(images, side, count)
    place = make_hospital(work / f"memory-{side}", images, side)
    figures = run_fresh("--seal", str(place.folder))
    sealed = place.sealed("train")
    assert len(sealed) == count
    shutil.rmtree(place.folder)
    return {
        "images": count,
        "shape": f"{side}×{side}×3",
        "shards": len(sealed.manifest["shards"]),
        **figures,
    }


def seal_here(folder: Path) -> dict[str, float]:
    """Seal a hospital's training images in this process, and return seconds and peak memory."""
    place = Place.open(folder)
    return {"seconds": seconds_of(partial(seal_train, place)), "peak_megabytes": peak_bytes() / 1e6}


def peak_bytes() -> int:
    """Return the peak resident memory of this process. Linux's getrusage would include that of its parent."""
    status = Path("/proc/self/status")
    if status.exists():
        [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def write_sparse_set(folder: Path, count: int) -> None:
    """Write a sealed set of at least `count` 224×224×3 images whose pixels take no disk."""
    key, spec = SecretKey.generate(), describe("block_pixel_shuffle", (SIDE, SIDE, 3), 16)
    rows = (64 << 20) // (SIDE * SIDE * 3)
    plain = np.zeros((rows, SIDE, SIDE, 3), np.uint8)
    labels = np.arange(rows) % 2
    dataset, _ = seal_images(folder, plain.__getitem__, labels, ["a", "b"], key, spec, "zeros")
    [shard] = dataset.manifest["shards"]
    header = (folder / shard["file"]).read_bytes()[: 8 * rows + 256]
    shards = [{**shard, "file": f"images-{i:05d}.safetensors"} for i in range(-(-count // rows))]
    for entry in shards:
        with open(folder / entry["file"], "wb") as file:
            file.write(header)
            file.truncate(shard["bytes"])
    write_json(folder / "manifest.json", {**dataset.manifest, "shards": shards, "rows": rows * len(shards)})


def measure_opening(folder: Path) -> dict[str, float]:
    """Return the seconds of opening a set and of reading all its labels, the first time in this process."""
    open_seconds = seconds_of(lambda: SealedDataset.open(folder))
    sealed = SealedDataset.open(folder)
    return {
        "open_images": len(sealed),
        "open_shards": len(sealed.manifest["shards"]),
        "open_seconds": open_seconds,
        "labels_seconds": seconds_of(lambda: sealed.labels),
    }


def measure_kill(work: Path, images: Path, after: int) -> dict[str, Any]:
    """Kill a sealing once this many shards are done, resume it in this process, and return the seconds."""
    place = make_hospital(work / "killed", images, SIDE)
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
    started = time.perf_counter()
    progress_seconds: list[float] = []
    seal_train(place, lambda _: progress_seconds.append(time.perf_counter() - started))
    resumed = time.perf_counter() - started
    shards = place.sealed("train").manifest["shards"]
    place.sealed("train").verify(place.key())
    shutil.rmtree(place.folder)
    return {
        "killed_after_shards": done,
        "of_shards": len(shards),
        "resume_check_seconds": progress_seconds[0],
        "resume_seconds": resumed,
    }


def run_fresh(*words: str) -> Any:
    """Run this module in a fresh process, so that measurements share nothing, and return the JSON that it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.sealing", *words], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout)


def show(title: str, records: list[dict[str, Any]]) -> None:
    """Print records, one in each column."""
    table = Table("figure", *[""] * len(records), title=title, show_header=False)
    for name in records[0]:
        values = [f"{r[name]:.3g}" if isinstance(r[name], float) else str(r[name]) for r in records]
        table.add_row(name.replace("_", " "), *values)
    Console().print(table)


def measure_all(images: list[Path], turns: int) -> dict[str, Any]:
    """Run all measurements in a temporary folder, and return the figures."""
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="cipherward-bench-") as temporary:
        work = Path(temporary)
        console.print("· speed")
        folders = [make_folder(work / f"jpeg-{side}", side, n) for side, n in ((512, 1000), (SIDE, 4000))]
        speeds = [measure_speed(work, folder, turns) for folder in [*folders, *images]]
        console.print("· memory")
        memories = [measure_memory(work, side, count) for side, count in ((SIDE, 4000), (32, 100_000))]
        console.print("· kill")
        killed = measure_kill(work, work / "jpeg-512", 1)
        console.print("· open")
        write_sparse_set(work / "sparse", 100_000)
        opened = run_fresh("--open", str(work / "sparse"))
    return {"machine": machine(), **opened, **killed, "speed": speeds, "memory": memories}


def main() -> None:
    """Run the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--turns", type=int, default=5, help="repeats of the speed measurement")
    parser.add_argument(
        "--images", type=Path, action="append", default=[], help="also measure this folder of real images"
    )
    add_json(parser)
    parser.add_argument("--seal", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.seal:
        print(json.dumps(seal_here(args.seal)))
        return
    if args.open:
        print(json.dumps(measure_opening(args.open)))
        return
    figures = measure_all(args.images, args.turns)
    show("sealing", [{k: v for k, v in figures.items() if not isinstance(v, list | dict)}])
    show("speed", figures["speed"])
    show("memory", figures["memory"])
    write_figures(args.json, figures)


if __name__ == "__main__":
    main()
