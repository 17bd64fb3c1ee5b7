"""Test accuracy of the stem modes over seeds, beside central training on plain images, on real images.

    python benchmarks/stem_accuracy.py --data FOLDER [--plan configs/brain_mri_private.yaml] [--seeds 3]
        [--modes private,plain,learn] [--out runs/stem_accuracy] [--json FILE]

FOLDER holds brain_mri/ and vit_tiny_patch16_224.safetensors. Every run is a study up to its training:
hospitals seal, a real `flwr run` trains, the round that was best on val is chosen, test is read once. Central
training is the same model for as many passes over the plain images of all hospitals together, in one process, its
best round chosen likewise. A seed sets the partition among hospitals, the first weights of the head and the order of
the images; each study has a key of its own. Run it again to go on where it stopped; --collect only gathers what is
there.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from coordinator.exchange.plan import FILE, Plan, read_plan
from coordinator.report.build import machine
from coordinator.report.training_section import training_of
from coordinator.study.simulate import party_folder, simulate
from crypto.errors import CipherwardError
from crypto.files import read_json, write_json
from parties.sealing.place import Place
from parties.training.baseline import run_baseline

SCHEMA = "cipherward.stem-accuracy/1"
ROOT = Path(__file__).parents[1]
CENTRAL = "central, plain images"


def plan_of(args: argparse.Namespace, mode: str, seed: int) -> Plan:
    data = args.data.resolve()
    changes = {
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


def central(plan: Plan, study: Path, out: Path, told: Any) -> None:
    """Trains on the plain images of a study's hospitals together; writes what `cipherward-party baseline` writes."""
    places = [Place.open(party_folder(study, i)) for i in range(plan.parties)]
    alone = plan.model_copy(update={"train": "central", "stem": "learn", "baseline": True})
    write_json(out, run_baseline(alone, places, None, told))


def mean_and_spread(values: Sequence[float]) -> str:
    spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):.4f}{spread} ({min(values):.4f}–{max(values):.4f})"


def record(mode: str, seed: int, study: Path) -> dict[str, Any]:
    training = training_of(study)
    assert training is not None
    return {
        "run": f"federated, stem {mode}",
        "seed": seed,
        "test accuracy": training["test"]["rate"],
        "low": training["test"]["low"],
        "high": training["test"]["high"],
        "AUC": training["test_auc"],
        "val by round": ", ".join(f"{r['val_accuracy']:.3f}" for r in training["rounds"]),
    }


def plain_record(seed: int, figures: Mapping[str, Any]) -> dict[str, Any]:
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


def summary(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per kind of run: mean, sample deviation and range over its seeds, and the differences from central by seed."""
    plain = {r["seed"]: r["test accuracy"] for r in records if r["run"] == CENTRAL}
    lines = []
    for run in dict.fromkeys(r["run"] for r in records):
        mine = {r["seed"]: r["test accuracy"] for r in records if r["run"] == run}
        line = {"run": run, "seeds": len(mine), "test accuracy": mean_and_spread(list(mine.values()))}
        both = sorted(mine.keys() & plain.keys())
        if run != CENTRAL and both:
            line["minus central, plain"] = mean_and_spread([mine[s] - plain[s] for s in both])
        lines.append(line)
    for what in ("nearest histogram", "linear on pixels"):
        found = [r[what] for r in records if what in r]
        if found:
            lines.append(
                {"run": f"{what}, plain", "seeds": len(found), "test accuracy": mean_and_spread(found)}
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("CIPHERWARD_DATA"))
    parser.add_argument("--plan", type=Path, default=ROOT / "configs" / "brain_mri_private.yaml")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--modes", default="private,plain,learn")
    parser.add_argument("--out", type=Path, default=Path("runs/stem_accuracy"))
    parser.add_argument("--collect", action="store_true", help="train nothing: gather what is there")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    console = Console(stderr=True)
    if not args.data:
        raise CipherwardError("no data", "name --data, or set CIPHERWARD_DATA")
    args.data = Path(args.data)

    def told(line: str) -> None:
        console.print(f"· {line}")

    modes, records = args.modes.split(","), []
    for seed in range(args.seeds):
        for mode in modes:
            study = args.out / f"mri-{mode}-{seed}"
            plan = plan_of(args, mode, seed)
            if not args.collect:
                told(f"stem {mode}, seed {seed}")
                simulate(plan, study, "train", told)
            elif (study / FILE).exists() and read_plan(study / FILE) != plan:
                raise CipherwardError(f"{study} is of another plan")
            if (study / "cloud" / "training.json").exists():
                records.append(record(mode, seed, study))
        plain, first = args.out / f"mri-central-{seed}.json", args.out / f"mri-{modes[0]}-{seed}"
        if not args.collect and not plain.exists():
            told(f"central on plain images, seed {seed}")
            central(plan_of(args, modes[0], seed), first, plain, told)
        if plain.exists():
            records.append(plain_record(seed, read_json(plain, "baseline")))
    plan = plan_of(args, modes[0], 0)
    result = {
        "schema": SCHEMA,
        "created": datetime.datetime.now(datetime.UTC).isoformat(),
        "machine": machine(),
        "protocol": f"{plan.parties} hospitals, {plan.rounds} rounds of {plan.local_epochs} epoch, "
        f"batch {plan.batch}, {plan.optimizer} {plan.lr:g}, {plan.model}, {plan.scheme}",
        "summary": summary(records),
        "records": sorted(records, key=lambda r: (r["run"], r["seed"])),
    }
    for line in result["summary"]:
        console.print(line)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
