"""What secure aggregation costs in a whole study: accuracy, seconds and bytes a round, with it and without.

    python -m benchmarks.secure_rounds --data FOLDER [--seeds 3] [--images 40] [--out FOLDER] [--json FILE]

FOLDER holds brain_mri/ and vit_tiny_patch16_224.safetensors. Every study runs by `cipherward-coordinator simulate`
up to its training, once with privacy.secure_aggregation and once without, all else equal. A study whose training is
there already is not run again, so a killed benchmark goes on where it stopped.

demo       configs/demo.yaml with stem private, by seed.
brain_mri  ViT-Ti/16 from public weights (5.5 million parameters), share all, stem private, 3 hospitals, on --images
           slices a class for training, and on the whole test set. Each way runs twice, in turns.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.command_line import ROOT, add_data, add_json, make_parser, write_figures
from coordinator.report.build import machine

SCHEMA = "cipherward.secure-rounds/1"
#: Slices a class for validation.
_VAL_IMAGES = 8
_TURNS = 2
_COMMON = {"stem": "private", "baseline": "false", "draws": "1", "pools": "[1]"}
_MRI = {
    "rounds": "3",
    "local_epochs": "1",
    "batch": "16",
    "optimizer": "adamw",
    "lr": "3.0e-4",
    "warmup_steps": "4",
    "share": "all",
}


def link_images(data: Path, images: int, folder: Path) -> Path:
    """Return a folder of links to the first images of each class of brain_mri's train and val, and to all of test."""
    for split, count in (("train", images), ("val", _VAL_IMAGES), ("test", None)):
        for class_folder in sorted((data / "brain_mri" / split).iterdir()):
            target = folder / split / class_folder.name
            target.mkdir(parents=True, exist_ok=True)
            for path in sorted(class_folder.iterdir())[:count]:
                if not (target / path.name).exists():
                    (target / path.name).symlink_to(path.resolve())
    return folder


def run_study(plan: Path, out: Path, settings: dict[str, str], paths: list[str], sums: bool) -> None:
    """Simulate a study up to its training, if its result is not there."""
    if (out / "cloud" / "training.json").exists():
        return
    words = ["simulate", str(plan), "--out", str(out), "--until", "train", "--workers", "1", *paths]
    for key, value in {**settings, "privacy.secure_aggregation": str(sums).lower()}.items():
        words += ["--set", f"{key}={value}"]
    subprocess.run([sys.executable, "-m", "coordinator.cli.app", *words], check=True, cwd=ROOT)


def read_study(out: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of a trained study."""
    training = json.loads((out / "cloud" / "training.json").read_text())
    rounds = [json.loads(line) for line in (out / "cloud" / "rounds.jsonl").read_text().splitlines()]
    done = [row for row in rounds if row["aggregated"]]
    parties = training["test"]["parties"]
    images = sum(party["num-examples"] for party in parties)
    hits = sum(party["num-examples"] * party["accuracy"] for party in parties)
    return {
        **about,
        "sums": all(row.get("summed") is not None for row in done),
        "test images": int(images),
        "accuracy": hits / images,
        "rounds": len(done),
        "seconds": [row["seconds"] for row in done],
        "bytes": [row["bytes_down"] + row["bytes_up"] for row in done],
        "clipped share": [row["summed"]["clipped_share"] for row in done if row.get("summed")],
    }


def measure(data: Path, seeds: int, images: int, out: Path, console: Console) -> list[dict[str, Any]]:
    """Run what is missing, and return a record of each study."""
    records = []

    def run(
        name: str, plan: str, settings: dict[str, str], paths: list[str], about: dict[str, Any]
    ) -> None:
        for sums in (False, True):
            folder = out / f"{name}-{'sums' if sums else 'plain'}"
            run_study(ROOT / "configs" / plan, folder, {**_COMMON, **settings}, paths, sums)
            records.append(read_study(folder, about))
            assert records[-1]["sums"] == sums, folder
            console.print(records[-1])

    for seed in range(seeds):
        run(f"demo-{seed}", "demo.yaml", {"seed": str(seed)}, [], {"study": "demo", "seed": seed})
    linked = link_images(data, images, out / "images")
    paths = ["--images", str(linked), "--weights", str(data / "vit_tiny_patch16_224.safetensors")]
    for turn in range(_TURNS):
        about = {"study": "brain_mri", "seed": 0, "turn": turn}
        run(f"brain_mri-{turn}", "brain_mri_private.yaml", _MRI, paths, about)
    return records


def compare(records: list[dict[str, Any]], study: str) -> dict[str, Any]:
    """Return a study's figures with secure aggregation beside those without: means, medians and their ratios."""
    plain, summed = ([r for r in records if r["study"] == study and r["sums"] == s] for s in (False, True))
    sides = {"without": plain, "with": summed}
    accuracy = {side: statistics.mean(r["accuracy"] for r in rows) for side, rows in sides.items()}
    # The first round of a study also starts processes and opens files.
    seconds = {
        side: statistics.median(s for r in rows for s in r["seconds"][1:]) for side, rows in sides.items()
    }
    traffic = {side: statistics.median(b for r in rows for b in r["bytes"]) for side, rows in sides.items()}
    return {
        "study": study,
        "runs": len(plain),
        "test images": plain[0]["test images"],
        "accuracy": accuracy,
        "points": 100 * (accuracy["with"] - accuracy["without"]),
        "largest points of a run": max(
            100 * abs(a["accuracy"] - b["accuracy"]) for a, b in zip(plain, summed, strict=True)
        ),
        "round seconds": seconds,
        "round seconds ratio": seconds["with"] / seconds["without"],
        "round bytes": traffic,
        "round bytes ratio": traffic["with"] / traffic["without"],
        "clipped share": max(share for r in summed for share in r["clipped share"]),
    }


def main() -> None:
    """Run the command line."""
    parser = make_parser(__doc__)
    add_data(parser)
    parser.add_argument("--seeds", type=int, default=3, help="seeds of the demo, from 0")
    parser.add_argument("--images", type=int, default=40, help="training slices a class of brain_mri")
    parser.add_argument("--out", type=Path, default=Path("runs/secure_rounds"), help="the studies' folder")
    add_json(parser)
    args = parser.parse_args()
    console = Console(stderr=True)
    out = args.out.resolve()
    records = measure(args.data, args.seeds, args.images, out, console)
    studies = [compare(records, name) for name in ("demo", "brain_mri")]
    for study in studies:
        console.print(study)
    write_figures(
        args.json,
        {"schema": SCHEMA, "machine": machine(), "studies": studies, "runs": records},
    )


if __name__ == "__main__":
    main()
