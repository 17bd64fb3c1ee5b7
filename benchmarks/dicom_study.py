"""A DICOM study from folder to report, by the real commands in turn, and a search for what of the tags gets out.

    python -m benchmarks.dicom_study [--data FOLDER] [--images 300] [--keep FOLDER] [--json FILE]

dicom_export.py makes a folder as a hospital copies it from its archive, with a table of labels. Then the commands of
a hospital run on it, each in a process of its own:

    check → keygen → seal → verify        the hospital looks at its images, and encrypts them
    audit                                 the hospital audits the encryption itself
    simulate                              three hospitals share the patients, train, and are attacked and reported

The run fails if a command fails, if files are lost between two commands (found = read + ignored + refused, and sealed
= what `check` announced), or if an identifying value of any tag of any file stands in anything that the commands
wrote or printed (identifying_values.py). Seconds by the clock depend on what else the machine does; processor seconds
stand beside them. The accuracy is that of a small network after a few rounds on slices whose patients are made up: it
shows that a training runs on sealed DICOM, and nothing else.
"""

from __future__ import annotations

import json
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.command_line import ROOT, add_data, add_json, make_parser, write_figures
from benchmarks.dicom_export import OTHER, Export, make_export, pydicom_files
from benchmarks.identifying_values import (
    MIN_LENGTH,
    Search,
    contents,
    identifying_values,
    is_short_number,
)
from benchmarks.program_run import run_command
from coordinator.report.build import machine
from crypto.errors import CipherwardError
from crypto.sets.dataset import SealedDataset

SCHEMA = "cipherward.dicom-study/1"
#: What the commands are told of the images. The window is stated, because many real files have none of their own.
STATED = ("--gray", "--window", "auto")
SPLITS = ("train", "val", "test")
#: The training: the demo's small network, from scratch.
TRAINING = {
    "model_args": {
        "patch_size": 16, "embed_dim": 128, "depth": 3, "num_heads": 4,
        "weight_init": "jax", "global_pool": "avg", "class_token": False,
    },
    "rounds": 3, "local_epochs": 1, "batch": 32, "lr": 1.5e-3, "warmup_steps": 8, "window": "auto",
}  # fmt: skip
#: What is kept of what `audit --json` prints; the rest are paths and the hospital's fingerprint.
_KEPT = ("sentence", "valid", "broken", "broken_at", "largest_pool", "attacked_by", "confined", "doubts")
_LAST_LINES = 5


@dataclass
class Run:
    """Runs the commands in turn, and keeps what they took and said.

    Attributes:
        folder: What the commands' paths are relative to.
        steps: A record for each command.
        printed: Everything that the commands printed.
    """

    folder: Path
    steps: list[dict[str, Any]] = field(default_factory=list)
    printed: list[str] = field(default_factory=list)

    def __call__(self, *words: object, program: str = "party") -> str:
        """Run a command, and return its output. Raises CipherwardError if it fails."""
        before = _processor_seconds()
        status, output, messages, seconds = run_command(*words, program=program)
        self.printed += [output, messages]
        times = {"seconds": round(seconds, 1), "cpu_seconds": round(_processor_seconds() - before, 1)}
        command = f"cipherward-{program} {' '.join(map(str, words))}".replace(f"{self.folder}/", "")
        self.steps.append({"command": command, "status": status, **times})
        if status:
            last = "\n".join((output + messages).splitlines()[-_LAST_LINES:])
            raise CipherwardError(f"{command} ended with {status}", last)
        return output


def _processor_seconds() -> float:
    """Return the processor seconds of all processes that were started here and have ended, and of theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measure(
    export: Export, folder: Path, changes: dict[str, Any], audit: Sequence[str] = ()
) -> dict[str, Any]:
    """Run the commands on an export, and return what became of its files.

    Args:
        export: The folder of DICOM files.
        folder: Where the commands write.
        changes: Settings of the study that differ from configs/brain_mri.yaml.
        audit: Further words of the commands that audit, such as --rows.

    Raises:
        CipherwardError: If a command fails, files are lost, or a value of a tag is found.
    """
    run, hospital, study = Run(folder), folder / "hospital", folder / "study"
    images = (export.root, "--labels", export.labels, *STATED)
    began = time.perf_counter()
    seen = json.loads(run("check", *images, "--json"))
    run("keygen", hospital)
    run("seal", hospital, "--images", *images)
    for split in SPLITS:
        run("verify", hospital / "sealed" / split, "--key", hospital / "secret.key")
    verdict = json.loads(run("audit", *images, "--out", folder / "audit", "--json", *audit))
    plan = folder / "study.yaml"
    plan.write_text(yaml.safe_dump(study_plan(export, changes)))
    run("simulate", plan, "--out", study, program="coordinator")
    seconds = time.perf_counter() - began
    report = json.loads((study / "report.json").read_text())
    counts = count(seen, hospital)
    counts["sealed_by_hospitals"] = [
        sum(class_counts(place).values()) for place in sorted((study / "parties").iterdir())
    ]
    require_whole(counts, export)
    return {
        "seconds": round(seconds, 1),
        "made": export.made,
        "real": export.real,
        "stated": " ".join(STATED),
        "steps": run.steps,
        "counts": counts,
        "ignored": seen["ignored"],
        "refused": seen["refused"],
        "warnings": [finding["message"] for finding in seen["warnings"]],
        "audit": {name: verdict[name] for name in _KEPT},
        "study": facts(report),
        "search": search(export, folder, run.printed),
    }


def study_plan(export: Export, changes: dict[str, Any]) -> dict[str, Any]:
    """Return the plan of the three hospitals' study: configs/brain_mri.yaml with a small network and this export."""
    plan: dict[str, Any] = yaml.safe_load((ROOT / "configs" / "brain_mri.yaml").read_text())
    own = {"study": "dicom", "images": str(export.root), "labels": str(export.labels)}
    return {**plan, **TRAINING, **own, **changes}


def class_counts(hospital: Path) -> dict[str, int]:
    """Return the images of each class in a hospital's sealed sets train, val and test."""
    counts: Counter[str] = Counter()
    for split in SPLITS:
        dataset = SealedDataset.open(hospital / "sealed" / split)
        for label, name in enumerate(dataset.classes):
            counts[name] += int((dataset.labels == label).sum())
    return dict(counts)


def count(seen: dict[str, Any], hospital: Path) -> dict[str, Any]:
    """Return how many files and images there are at each step.

    Args:
        seen: What `check --json` printed.
        hospital: The hospital's folder, with its sealed sets.
    """
    ignored = len(seen["ignored_names"])
    unread = seen["found"] - seen["files"] - ignored
    in_files = len(seen["refused_names"]) - unread
    return {
        "files": seen["found"],
        "files_of_images": seen["files"],
        "files_ignored": ignored,
        "files_refused": unread,
        "images": seen["images"],
        "images_refused": in_files,
        "patients": sum(seen["patients"].values()),
        "sealed": class_counts(hospital),
    }


def require_whole(counts: dict[str, Any], export: Export) -> None:
    """Raise CipherwardError if a file or an image is lost on the way."""
    sealed = sum(counts["sealed"].values())
    made = sealed - counts["sealed"].get(OTHER, 0)
    sums = {
        "files in the folder and files counted": (export.files, counts["files"]),
        "images announced and sealed": (counts["images"] - counts["images_refused"], sealed),
        "slices written as DICOM and sealed": (export.made["images"], made),
        "images sealed by one hospital and by three": (sealed, sum(counts["sealed_by_hospitals"])),
    }
    for what, (left, right) in sums.items():
        if left != right:
            raise CipherwardError(
                f"{what} differ: {left} and {right}", "look at what `check --json` prints"
            )


def facts(report: dict[str, Any]) -> dict[str, Any]:
    """Return of a study's report what the result keeps."""
    training = report["training"]
    return {
        "valid": report["valid"],
        "verdict": report["verdict"],
        "pool": report["pool"],
        "rounds": len(training["rounds"]),
        "hospitals": training["rounds"][-1]["parties"],
        "test": training["test"],
        "plain": training["plain"]["accuracy"] if training["plain"] else None,
    }


def search(export: Export, folder: Path, printed: Sequence[str]) -> dict[str, Any]:
    """Search all that the commands wrote and printed for the values of the export's tags.

    Raises:
        CipherwardError: If one is found. The message names the file, and not the value.
    """
    sources = [path for path in sorted(export.root.rglob("*")) if path.is_file()]
    values = identifying_values(sources)
    finder = Search(values)
    planted = next(path for path in sources if path.name == "IM000001")
    if not finder.find(planted.read_bytes()):
        raise CipherwardError(
            "the search does not find the values in a DICOM file itself", "mend the search"
        )
    written = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_relative_to(export.root) and path != export.labels
    ]
    size, leaving = 0, 0
    for path in written:
        size, leaving = size + path.stat().st_size, leaving + may_leave(path.relative_to(folder))
        for content in (str(path.relative_to(folder)).encode(), *contents(path)):
            if found := found_in(finder, path, content):
                raise CipherwardError(
                    f"{len(found)} values of tags stand in {path.relative_to(folder)}", "this is a leak"
                )
    if found := finder.find("\n".join(printed).encode()):
        raise CipherwardError(f"{len(found)} values of tags were printed", "this is a leak")
    return {
        "values": len(values),
        "shortest": MIN_LENGTH,
        "files": len(written),
        "files_that_may_leave": leaving,
        "bytes": size,
        "found": 0,
    }


def found_in(finder: Search, path: Path, content: bytes) -> set[str]:
    """Return the values in a file's content; of short numbers, in a shard of sealed images, those in its header."""
    found = finder.find(content)
    if not found or not path.match("images-*.safetensors"):
        return found
    header = content[: 8 + int.from_bytes(content[:8], "little")]
    return {value for value in found if not is_short_number(value)} | finder.find(header)


def may_leave(path: Path) -> bool:
    """Return whether a file of the run may leave its hospital: all of the cloud's, and sealed sets.

    Args:
        path: Relative to the folder of the run.
    """
    inside = path.parts[0] in ("hospital", "audit") or path.parts[:2] == ("study", "parties")
    return not inside or ("sealed" in path.parts and "private" not in path.parts)


def main() -> None:
    """Run the command line."""
    parser = make_parser(__doc__)
    add_data(parser)
    parser.add_argument("--images", type=int, default=300, help="brain MRI slices a class")
    parser.add_argument("--keep", type=Path, help="a new folder that keeps the files and the reports")
    add_json(parser)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = args.keep or Path(name)
        folder.mkdir(exist_ok=True)
        export = make_export(
            folder / "export", args.data / "brain_mri", [args.data / "dicom", pydicom_files()], args.images
        )
        figures = {"schema": SCHEMA, "machine": machine(), **measure(export, folder, {})}
    print(json.dumps(figures, indent=1))
    write_figures(args.json, figures)


if __name__ == "__main__":
    main()
