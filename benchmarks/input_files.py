"""What `check` and `seal` make of real files that others collected because they are odd.

    python -m benchmarks.input_files [--pillow FOLDER] [--dicom FOLDER] [--cases FOLDER] [--json FILE]

Each collection is laid out as two class folders beside good pictures, and read by the real commands:
`cipherward-party check --json`, and `cipherward-party seal`. A file is *read*, *refused* or *ignored*, the last two
with a reason. The run fails if a command ends with a traceback or not at all, if a file is in none of the three, or
if `seal` seals other images than `check` announced.

1. pillow:  PNG and JPEG files of Pillow's own tests: --pillow names Tests/images of its source;
2. pydicom: the test files that pydicom is installed with, of every kind, DICOMDIRs too;
3. nibabel: nibabel's test files;
4. dicom:   a folder of DICOM files, file by file: --dicom, or the folder dicom of CIPHERWARD_DATA;
5. cases:   folders that each hold a `make.py OUT`, which makes one situation of hospitals: --cases. Those of
            weights and servers are run by other commands (input_commands.py).

What is not named is left out, and the figures say so. The files themselves are kept nowhere.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import input_commands
from benchmarks.command_line import add_json, make_parser, write_figures
from benchmarks.program_run import first_error, run_command
from coordinator.report.build import machine
from parties.sources.phantom import Phantom

SCHEMA = "cipherward.input-files/1"
#: Good pictures beside a collection, so that every split and class has images whatever the collection holds.
GOOD = 40
#: Seconds that a case may take to be made.
TIMEOUT = 600
#: Runs a case's script. Those that make weights import timm from where the project had it before.
_MAKE = """
import runpy, sys
script = sys.argv.pop(1)
if "torchvision_fix" in open(script, encoding="utf-8").read():
    from coordinator.model import torchvision_fix
    sys.modules["coordinator.torchvision_fix"] = torchvision_fix
runpy.run_path(script, run_name="__main__")
"""
_SEAL = ("--image-size", "32", "--block", "8")
#: States what odd files need: a window, a background, and that colour and names in pixels are known.
STATED = ("--window", "auto", "--background", "0", "--rgb", "--groups", "none", "--allow-burned-in")


def lay_out(files: Sequence[tuple[Path, str]], root: Path) -> Path:
    """Make class folders a and b of the files, in turn, beside good pictures. Names keep folders and endings."""
    from PIL import Image

    phantom = Phantom(32, 3, 2 * GOOD, 0, "train")
    for i in range(2 * GOOD):
        path = root / "ab"[i % 2] / f"good-{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(phantom.read(i)).save(path)
    for i, (file, name) in enumerate(files):
        path = root / place_of(i, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, path)
    return root


def place_of(number: int, name: str) -> str:
    """Return where a file lies: under its number, so that `x_mask.png` is not taken for the mask of `x.png`."""
    return f"{'ab'[number % 2]}/odd/{number:04d}/{name}"


def measure(name: str, files: Sequence[tuple[Path, str]], work: Path) -> dict[str, Any]:
    """Check and seal a collection, and return what became of its files."""
    root, hospital = lay_out(files, work / name / "images"), work / name / "hospital"
    status, out, err, check_s = run_command("check", root, *STATED, "--json")
    if not out:
        raise SystemExit(f"{name}: {err}")
    report = json.loads(out)
    outcomes = sort_out(report, [place_of(i, file) for i, (_, file) in enumerate(files)])
    run_command("keygen", hospital)
    seal_status, _, seal_err, seal_s = run_command("seal", hospital, "--images", root, *STATED, *_SEAL)
    sealed = sealed_images(hospital)
    unusable = sum(name.split("#")[0] not in report["ignored_names"] for name in report["refused_names"])
    in_images = unusable - (report["found"] - report["files"] - len(report["ignored_names"]))
    if seal_status == 0 and sealed != report["images"] - in_images:
        raise SystemExit(f"{name}: {sealed} sealed, {report['images']} - {in_images} announced\n{seal_err}")
    if err and "Error" in err:
        raise SystemExit(err)
    return {
        "name": name,
        "files": len(files),
        "images": report["images"] - 2 * GOOD,
        "outcomes": outcomes,
        "check": {"status": status, "seconds": round(check_s, 1)},
        "seal": {
            "status": seal_status,
            "seconds": round(seal_s, 1),
            "images": sealed - 2 * GOOD if seal_status == 0 else 0,
            "error": first_error(seal_err),
        },
        "errors": [finding["message"] for finding in report["errors"]],
    }


def sort_out(report: dict[str, Any], names: Iterable[str]) -> list[list[str]]:
    """Return [name, outcome, reason] of every file; a volume of which some slices are refused is *in part*."""
    refused: dict[str, list[str]] = {}
    for name, reason in report["refused_names"].items():
        refused.setdefault(name.split("#")[0] if name not in names else name, []).append(reason)
    result = []
    for name in names:
        file = name.split("/", 3)[3]
        if name in report["ignored_names"]:
            result.append([file, "ignored", report["ignored_names"][name]])
        elif name in refused:
            result.append([file, "refused", Counter(refused[name]).most_common(1)[0][0]])
        else:
            result.append([file, "read", ""])
    unread = sum(outcome != "read" for _, outcome, _ in result)
    if report["found"] != len(result) + 2 * GOOD:
        raise SystemExit(f"{report['found']} files are counted, and there are {len(result) + 2 * GOOD}")
    if unread != len(report["ignored_names"]) + len(refused):
        raise SystemExit("files are refused or ignored that are not of the collection")
    return result


def sealed_images(hospital: Path) -> int:
    """Return the images in a hospital's sealed sets."""
    return sum(_class_counts(hospital).values())


def pillow_files(folder: Path) -> list[tuple[Path, str]]:
    """Return the PNG and JPEG files of Pillow's tests."""
    endings = (".png", ".jpg", ".jpeg")
    return _below(folder, [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in endings])


def installed_files(package: str, *parts: str) -> list[tuple[Path, str]]:
    """Return all files in a folder of an installed package."""
    import importlib.util

    spec = importlib.util.find_spec(package)
    folder = Path(str(spec and spec.origin)).parent.joinpath(*parts)
    return _below(folder, sorted(folder.rglob("*")))


def _below(folder: Path, paths: Iterable[Path]) -> list[tuple[Path, str]]:
    hidden = ("__pycache__", "__init__.py")
    return [
        (path, str(path.relative_to(folder)))
        for path in paths
        if path.is_file() and not set(hidden) & set(path.parts)
    ]


def make_case(case: Path, work: Path) -> Path:
    """Make a case, and return its folder."""
    out = work / case.name
    words = [sys.executable, "-c", _MAKE, str(case / "make.py"), str(out)]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=TIMEOUT)
    if done.returncode:
        raise SystemExit(f"{case} is not made:\n{done.stderr[-2000:]}")
    return out


def measure_case(case: Path, out: Path, work: Path) -> list[dict[str, Any]]:
    """Return what `check` and `seal` say of each folder of images in a case that was made in `out`."""
    roots = [out] if not (out / "one").is_dir() else [out / "one", out / "two"]
    result = []
    for root in roots:
        label = case.name if root == out else f"{case.name}/{root.name}"
        for stated in ((), ("--classes", "benign,malignant,normal"))[: 1 if root == out else 2]:
            home = work / "hospitals" / f"{label}{len(stated)}".replace("/", "-")
            home.parent.mkdir(exist_ok=True)
            run_command("keygen", home)
            status, shown, err, _ = run_command("check", root, *stated)
            seal_status, _, seal_err, _ = run_command("seal", home, "--images", root, *stated, *_SEAL)
            counts = _class_counts(home) if seal_status == 0 else {}
            findings = [line for line in shown.splitlines() if line.startswith(("warning: ", "refused: "))]
            result.append(
                {
                    "case": label,
                    "stated": " ".join(stated),
                    "check": status,
                    "seal": seal_status,
                    "sealed": counts,
                    "said": (first_error(seal_err) or first_error(err) or "; ".join(findings)).replace(
                        str(root), "IMAGES"
                    ),
                }
            )
    return result


def _class_counts(hospital: Path) -> dict[str, int]:
    from crypto.sets.dataset import SealedDataset

    counts: Counter[str] = Counter()
    for path in sorted((hospital / "sealed").glob("*/manifest.json")):
        dataset = SealedDataset.open(path.parent)
        for label, name in enumerate(dataset.classes):
            counts[name] += int((dataset.labels == label).sum())
    return dict(counts)


def collections(args: argparse.Namespace) -> dict[str, list[tuple[Path, str]]]:
    """Return the files of every collection that there is."""
    result = {}
    if args.pillow:
        result["pillow"] = pillow_files(args.pillow)
    result["pydicom"] = installed_files("pydicom", "data", "test_files")
    result["nibabel"] = installed_files("nibabel", "tests", "data")
    if args.dicom:
        result["dicom"] = _below(args.dicom, sorted(args.dicom.rglob("*")))
    return result


def main() -> None:
    """Run the command line."""
    data = os.environ.get("CIPHERWARD_DATA")
    parser = make_parser(__doc__)
    parser.add_argument("--pillow", type=Path, help="Tests/images of Pillow's source")
    parser.add_argument("--dicom", type=Path, default=Path(data) / "dicom" if data else None)
    parser.add_argument("--cases", type=Path, help="folder of cases, each with a make.py that makes images")
    parser.add_argument("--only", default="", help="names of cases or collections, separated by commas")
    add_json(parser)
    args = parser.parse_args()
    only = set(filter(None, args.only.split(",")))
    figures: dict[str, Any] = {"schema": SCHEMA, "machine": machine(), "stated": " ".join(STATED)}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        figures["collections"] = [
            measure(name, files, work)
            for name, files in collections(args).items()
            if not only or name in only
        ]
        cases = sorted(path.parent for path in args.cases.glob("*/make.py")) if args.cases else []
        cases = [case for case in cases if not only or case.name in only]
        (work / "cases").mkdir()
        made = {case: make_case(case, work / "cases") for case in cases}
        figures["cases"] = [
            row
            for case, out in made.items()
            if not (case / "plan.yaml").exists()  # such a case is about commands
            for row in measure_case(case, out, work / "cases")
        ]
        figures["commands"] = [row for case in cases for row in input_commands.measure(case, made[case])]
    show(figures)
    write_figures(args.json, figures)


def show(figures: dict[str, Any]) -> None:
    """Print the figures."""
    console = Console()
    for collection in figures["collections"]:
        table = Table(
            "outcome", "reason", "files", title=f"{collection['name']}: {collection['files']} files"
        )
        counts = Counter((outcome, reason) for _, outcome, reason in collection["outcomes"])
        for (outcome, reason), count in sorted(counts.items()):
            table.add_row(outcome, reason, str(count))
        console.print(table)
        console.print(collection["check"], collection["seal"], collection["errors"])
    for row in (*figures["cases"], *figures["commands"]):
        console.print(row)


if __name__ == "__main__":
    main()
