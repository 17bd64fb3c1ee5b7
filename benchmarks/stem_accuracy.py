"""Measure the test accuracy of the stem modes over seeds, beside central training on plain images, on real images.

    python -m benchmarks.stem_accuracy --data FOLDER [--plan configs/brain_mri_private.yaml] [--seeds 3]
        [--modes private,plain,learn] [--set KEY=VALUE …] [--no-central] [--out runs/stem_accuracy] [--json FILE]

FOLDER holds brain_mri/ and vit_tiny_patch16_224.safetensors. Every run is a study up to its training: hospitals seal,
a real `flwr run` trains, the round with the best val accuracy is chosen, and test is read once. Central training is
the same model for as many passes over the plain images of all hospitals together, in one process. Its best round is
chosen likewise. It has no augmentation: the provider, whom it stands for, cannot alter sealed images.

A seed sets the partition among hospitals, the first weights of the head and the order of the images. Each study has a
key of its own. A run that is stopped continues when it is started again; --collect only gathers what is there.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.command_line import ROOT, add_data, add_json, make_parser, parse_settings, write_figures
from coordinator.exchange.console import Log
from coordinator.exchange.plan import FILE, Plan, read_plan
from coordinator.report.build import machine
from coordinator.report.training_section import training_of
from coordinator.study.simulate import simulate
from coordinator.study.study import party_folder
from crypto.errors import CipherwardError
from crypto.files import read_json, write_json
from parties.sealing.place import Place
from parties.training.baseline import run_baseline

SCHEMA = "cipherward.stem-accuracy/1"
CENTRAL, PLAIN = "central, plain images", "federated, stem plain"


def make_plan(args: argparse.Namespace, mode: str, seed: int) -> Plan:
    """Return the plan of one study."""
    data = args.data.resolve()
    changes = {
        **parse_settings(args.set),
        "study": f"mri-{mode}-{seed}",
        "seed": seed,
        "stem": mode,
        "images": str(data / "brain_mri"),
        "weights": str(data / "vit_tiny_patch16_224.safetensors"),
        "baseline": False,
        "wrong_keys": 2,
        "draws": 1,
    }
    return read_plan(args.plan, changes)


def train_centrally(plan: Plan, study: Path, out: Path, log: Log) -> None:
    """Train on the plain images of all hospitals together; write what `cipherward-party baseline` writes."""
    places = [Place.open(party_folder(study, i)) for i in range(plan.parties)]
    changes = {"train": "central", "stem": "learn", "baseline": True, "augment": "none"}
    central_plan = plan.model_copy(update=changes)
    write_json(out, run_baseline(central_plan, places, None, log))


def mean_and_spread(values: Sequence[float]) -> str:
    """Return mean, sample deviation and range in words."""
    spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):.4f}{spread} ({min(values):.4f}–{max(values):.4f})"


def federated_record(mode: str, seed: int, study: Path) -> dict[str, Any]:
    """Return the figures of a finished study."""
    training = training_of(study)
    assert training is not None
    assert training.test is not None
    return {
        "run": f"federated, stem {mode}",
        "seed": seed,
        "test accuracy": training.test.rate,
        "low": training.test.low,
        "high": training.test.high,
        "AUC": training.test_auc,
        "val by round": ", ".join(f"{r.val_accuracy:.3f}" for r in training.rounds),
    }


def central_record(seed: int, figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of a central training."""
    plain = figures["plain"]
    return {
        "run": CENTRAL,
        "seed": seed,
        "test accuracy": plain["accuracy"]["rate"],
        "low": plain["accuracy"]["low"],
        "high": plain["accuracy"]["high"],
        "val by round": ", ".join(f"{v:.3f}" for v in plain["rounds"]),
        "nearest histogram": figures["histogram_accuracy"],
        "linear on pixels": figures["linear_accuracy"],
    }


def summarise(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the accuracy of every kind of run over its seeds, and its differences from plain training by seed.

    Plain training is central and federated, as far as each was run.
    """
    bases = {
        base: {r["seed"]: r["test accuracy"] for r in records if r["run"] == base}
        for base in (CENTRAL, PLAIN)
    }
    lines = []
    for run in dict.fromkeys(r["run"] for r in records):
        accuracies = {r["seed"]: r["test accuracy"] for r in records if r["run"] == run}
        line = {
            "run": run,
            "seeds": len(accuracies),
            "test accuracy": mean_and_spread(list(accuracies.values())),
        }
        for base, plain in bases.items():
            both = sorted(accuracies.keys() & plain.keys())
            if run not in (base, CENTRAL) and both:
                line[f"minus {base}"] = mean_and_spread([accuracies[s] - plain[s] for s in both])
        lines.append(line)
    for name in ("nearest histogram", "linear on pixels"):
        values = [r[name] for r in records if name in r]
        if values:
            lines.append(
                {"run": f"{name}, plain", "seeds": len(values), "test accuracy": mean_and_spread(values)}
            )
    return lines


def run_or_collect(args: argparse.Namespace, modes: Sequence[str], log: Log) -> list[dict[str, Any]]:
    """Run all studies and central trainings that are missing, unless --collect is given, and return their figures."""
    records = []
    for seed in range(args.seeds):
        for mode in modes:
            study = args.out / f"mri-{mode}-{seed}"
            plan = make_plan(args, mode, seed)
            if not args.collect:
                log(f"stem {mode}, seed {seed}")
                simulate(plan, study, "train", log)
            elif (study / FILE).exists() and read_plan(study / FILE) != plan:
                raise CipherwardError(f"{study} is of another plan")
            if (study / "cloud" / "training.json").exists():
                records.append(federated_record(mode, seed, study))
        path, first = args.out / f"mri-central-{seed}.json", args.out / f"mri-{modes[0]}-{seed}"
        if args.central and not args.collect and not path.exists():
            log(f"central on plain images, seed {seed}")
            train_centrally(make_plan(args, modes[0], seed), first, path, log)
        if path.exists():
            records.append(central_record(seed, read_json(path, "baseline")))
    return records


def main() -> None:
    """Run the command line."""
    parser = make_parser(__doc__)
    add_data(parser)
    parser.add_argument("--plan", type=Path, default=ROOT / "configs" / "brain_mri_private.yaml")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--modes", default="private,plain,learn")
    parser.add_argument(
        "--set", action="append", default=[], help="KEY=VALUE: replaces a setting of the plan"
    )
    parser.add_argument("--central", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--out", type=Path, default=Path("runs/stem_accuracy"))
    parser.add_argument("--collect", action="store_true", help="train nothing: gather what is there")
    add_json(parser)
    args = parser.parse_args()
    console = Console(stderr=True)
    modes = args.modes.split(",")
    records = run_or_collect(args, modes, lambda line: console.print(f"· {line}"))
    plan = make_plan(args, modes[0], 0)
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "created": datetime.datetime.now(datetime.UTC).isoformat(),
        "machine": machine(),
        "protocol": f"{plan.parties} hospitals, {plan.rounds} rounds of {plan.local_epochs} epoch, "
        f"batch {plan.batch}, {plan.optimizer} {plan.lr:g}, augment {plan.augment}, {plan.precision}, "
        f"{plan.model}, {plan.scheme}",
        "summary": summarise(records),
        "records": sorted(records, key=lambda r: (r["run"], r["seed"])),
    }
    for line in result["summary"]:
        console.print(line)
    write_figures(args.json, result)


if __name__ == "__main__":
    main()
