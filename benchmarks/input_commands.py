"""Situations of hospitals that are about weights, proxies and the cloud: what the commands of a study say to them.

A case is a folder with a `make.py OUT`; its `plan.yaml`, if it has one, is the study's plan. By the case's name:

- weights-*:  every weights file that the case makes, given to `train` and to `simulate`;
- *-proxy:    `simulate` with every proxy set to an address where nothing listens;
- cloud-*:    `train` of a shipped plan on sealed sets alone: the cloud has no plain images.

Every other case is about images, and is left to input_files.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from benchmarks.command_line import ROOT
from benchmarks.program_run import first_error, run_command
from coordinator.exchange.quiet import PROXY_NAMES

#: Nothing listens there: what goes through such a proxy fails at once.
DEAD_PROXY = "http://127.0.0.1:9"
#: A plan that is shipped without images: it names none, and the cloud has none to name.
SHIPPED = ROOT / "configs" / "brain_mri.yaml"
_LOADED = re.compile(r"\d+ of \d+ encoder tensors loaded")


def measure(case: Path, out: Path) -> list[dict[str, Any]]:
    """Return what the commands of a study say to a case, one row a command; none for a case about images.

    Args:
        case: The case's folder.
        out: What its make.py made.
    """
    if case.name.startswith("weights-"):
        return list(_weights(case, out))
    if case.name.endswith("-proxy"):
        return [_behind_a_proxy(case, out)]
    return [_cloud(case, out)] if case.name.startswith("cloud-") else []


def _weights(case: Path, out: Path) -> Iterator[dict[str, Any]]:
    """Yield a row for each command and weights file."""
    hospital = _seal(out, out / "images")
    plan = yaml.safe_load((case / "plan.yaml").read_text())
    for file in sorted(out.glob("*.safetensors")):
        named = out / f"{file.stem}.yaml"
        named.write_text(yaml.safe_dump({**plan, "weights": str(file), "rounds": 1}))
        words: tuple[object, ...] = (
            "train",
            named,
            hospital / "sealed",
            "--out",
            out / f"{file.stem}-cloud",
        )
        yield _row(case, f"train, weights {file.name}", *words, root=out)
        words = ("simulate", named, "--images", out / "images", "--out", out / f"{file.stem}-study")
        yield _row(case, f"simulate, weights {file.name}", *words, "--until", "train", root=out)


def _behind_a_proxy(case: Path, out: Path) -> dict[str, Any]:
    """Return the row of a study whose machine has proxies that nothing answers at."""
    words = ("simulate", case / "plan.yaml", "--images", out, "--out", out.parent / f"{out.name}-study")
    proxies = dict.fromkeys(PROXY_NAMES, DEAD_PROXY)
    return _row(
        case,
        "simulate, dead proxies",
        *words,
        "--until",
        "train",
        "--set",
        "draws=1",
        root=out,
        changes=proxies,
    )


def _cloud(case: Path, out: Path) -> dict[str, Any]:
    """Return the row of a training in the cloud by a plan that names no images."""
    shipped = yaml.safe_load(SHIPPED.read_text())
    plan = out.parent / f"{out.name}.yaml"
    plan.write_text(yaml.safe_dump({**shipped, "rounds": 1, "local_epochs": 1}))
    size = ("--image-size", str(shipped["image_size"]), "--block", str(shipped["block"]))
    hospital = _seal(out.parent / f"{out.name}-hospital", out, *size)
    words = ("train", plan, hospital / "sealed", "--out", out.parent / f"{out.name}-cloud")
    return _row(case, f"train configs/{SHIPPED.name}, 1 round", *words, root=out)


def _seal(folder: Path, images: Path, *size: str) -> Path:
    """Seal images, and return the hospital's folder."""
    hospital = folder / "H"
    run_command("keygen", hospital)
    status, _, messages, _ = run_command(
        "seal", hospital, "--images", images, *(size or ("--image-size", "32", "--block", "8"))
    )
    if status:
        raise SystemExit(f"{images} cannot be sealed: {messages}")
    return hospital


def _row(
    case: Path, what: str, *words: object, root: Path, changes: dict[str, str] | None = None
) -> dict[str, Any]:
    """Run a command of the coordinator, and return its row: status, what it said, and whether a model is there."""
    out = Path(str(words[words.index("--out") + 1]))
    status, output, messages, seconds = run_command(*words, program="coordinator", changes=changes)
    loaded = _LOADED.search(output + messages)
    models = [path for path in out.rglob("model.safetensors") if path.is_file()]
    said = first_error(messages) or (loaded[0] if loaded else "")
    return {
        "case": case.name,
        "command": what,
        "status": status,
        "trained": bool(models),
        "said": said.replace(f"{root}/", "").replace(str(root), "OUT"),
        "seconds": round(seconds, 1),
    }
