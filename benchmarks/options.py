"""What a setting of the federation costs in accuracy and saves in traffic: one plan, one change at a time.

    python -m benchmarks.options [--plan configs/demo.yaml] [--images FOLDER] [--weights FILE] [--seeds 1]
        --change "" --change wire=bfloat16 --change share=lora,lr=1.0e-3 [--out runs/options] [--json FILE]

Each change is a separate study up to its training: hospitals seal, a real `flwr run` trains, the round that is best
on val is chosen, test is read once. The empty change is the unchanged plan. Studies that exist are not run again.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.command_line import (
    add_json,
    add_plan,
    make_parser,
    parse_settings,
    plan_paths,
    write_figures,
)
from coordinator.exchange.plan import read_plan
from coordinator.report.build import machine
from coordinator.report.training_section import training_of
from coordinator.study.simulate import simulate

SCHEMA = "cipherward.options/1"


def describe_study(change: str, seed: int, study: Path) -> dict[str, Any]:
    """Return the accuracy and traffic of a trained study."""
    training = training_of(study)
    assert training is not None
    assert training.test is not None
    first = training.rounds[0]
    return {
        "change": change or "none",
        "seed": seed,
        "test accuracy": training.test.rate,
        "low": training.test.low,
        "high": training.test.high,
        "AUC": training.test_auc,
        "MB a round": ((first.bytes_down or 0) + (first.bytes_up or 0)) / 1e6,
        "val by round": ", ".join(f"{r.val_accuracy:.3f}" for r in training.rounds),
    }


def main() -> None:
    """Run the command line."""
    parser = make_parser(__doc__)
    add_plan(parser)
    parser.add_argument(
        "--change", action="append", default=[], metavar="KEY=VALUE,…", help="settings to change together"
    )
    parser.add_argument("--seeds", type=int, default=1, help="seeds of each change, from 0")
    parser.add_argument("--out", type=Path, default=Path("runs/options"), help="folder of the studies")
    add_json(parser)
    args = parser.parse_args()
    console = Console(stderr=True)
    records = []
    for change in args.change or [""]:
        settings = parse_settings([word for word in change.split(",") if word])
        for seed in range(args.seeds):
            plan = read_plan(args.plan, {**plan_paths(args), "seed": seed, **settings})
            name = change.replace("=", "-").replace(",", "-") or "as-it-is"
            study = args.out / f"{plan.study}-{name}-{seed}"
            console.print(f"· {study.name}")
            simulate(plan, study, "train", lambda line: console.print(f"  {line}"))
            records.append(describe_study(change, seed, study))
            console.print(records[-1])
    result = {
        "schema": SCHEMA,
        "created": datetime.datetime.now(datetime.UTC).isoformat(),
        "machine": machine(),
        "plan": args.plan.name,
        "records": records,
    }
    write_figures(args.json, result)


if __name__ == "__main__":
    main()
