"""What a setting of the federation costs in accuracy and saves on the wire: one plan, changed a setting at a time.

    python benchmarks/options.py [--plan configs/demo.yaml] [--images FOLDER] [--weights FILE] [--seeds 1]
        --change "" --change wire=bfloat16 --change share=lora,lr=1.0e-3 [--out runs/options] [--json FILE]

Each change is a study of its own up to its training: hospitals seal, a real `flwr run` trains, the round that was
best on val is chosen, test is read once. The empty change is the plan as it is. Studies that are there are not run
again.
"""

from __future__ import annotations

import argparse
import datetime
import json
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from coordinator.exchange.plan import read_plan
from coordinator.report.build import machine
from coordinator.report.training_section import training_of
from coordinator.study.simulate import simulate

SCHEMA = "cipherward.options/1"


def record(change: str, seed: int, study: Path) -> dict[str, Any]:
    training = training_of(study)
    assert training is not None
    first = training["rounds"][0]
    return {
        "change": change or "none",
        "seed": seed,
        "test accuracy": training["test"]["rate"],
        "low": training["test"]["low"],
        "high": training["test"]["high"],
        "AUC": training["test_auc"],
        "MB a round": (first["bytes_down"] + first["bytes_up"]) / 1e6,
        "val by round": ", ".join(f"{r['val_accuracy']:.3f}" for r in training["rounds"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plan", type=Path, default=Path(__file__).parents[1] / "configs" / "demo.yaml")
    parser.add_argument("--images", type=Path, help="image folder, in place of the plan's")
    parser.add_argument("--weights", type=Path, help="weights file, in place of the plan's")
    parser.add_argument("--change", action="append", default=[], metavar="KEY=VALUE,…")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/options"))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    console = Console(stderr=True)
    paths = {k: str(v) for k, v in (("images", args.images), ("weights", args.weights)) if v}
    records = []
    for change in args.change or [""]:
        settings = {k: yaml.safe_load(v) for k, _, v in (c.partition("=") for c in change.split(",") if c)}
        for seed in range(args.seeds):
            plan = read_plan(args.plan, {**paths, "seed": seed, **settings})
            said = change.replace("=", "-").replace(",", "-") or "as-it-is"
            study = args.out / f"{plan.study}-{said}-{seed}"
            console.print(f"· {study.name}")
            simulate(plan, study, "train", lambda line: console.print(f"  {line}"))
            records.append(record(change, seed, study))
            console.print(records[-1])
    result = {
        "schema": SCHEMA,
        "created": datetime.datetime.now(datetime.UTC).isoformat(),
        "machine": machine(),
        "plan": args.plan.name,
        "records": records,
    }
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
