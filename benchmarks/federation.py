"""What federating costs: training by Flower's apps, compared with the same work without Flower and with bare timm.

    python -m benchmarks.federation [--plan configs/demo.yaml] [--set key=value …] [--engine ray] [--json FILE]

Three measurements, on the same threads and the same sealed images:

1. rates: local training on a sealed set, and bare steps of timm's model (forward, backward, clip and step on
   a batch in memory), in turns in one process;
2. loop:  the same local epochs, averages and evaluations as the study's, in one process that does not import Flower;
3. flwr:  the study's own training, one hospital at a time; the engine's start is measured separately.

Run it on a quiet machine, and read the ratios, not the seconds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.command_line import (
    add_json,
    add_plan,
    make_parser,
    parse_settings,
    plan_paths,
    write_figures,
)
from coordinator.exchange.plan import FILE, Plan, read_plan
from coordinator.model.metrics import measure
from coordinator.model.model_input import to_model_input
from coordinator.model.optimizer import build_optimizer
from coordinator.model.training import predict_probabilities, train_locally, use_all_cores
from coordinator.model.vit import build_model, pack, unpack
from coordinator.report.build import machine
from coordinator.study.simulate import simulate
from coordinator.study.study import ENGINES, Engine, party_folder
from crypto.arrays import AnyArray, Int64Array, Rows
from crypto.sets.dataset import SealedDataset
from parties.sealing.place import Place
from parties.training.baseline import average


@dataclass(frozen=True)
class FirstRows:
    """The first `count` rows of a sealed set."""

    dataset: SealedDataset
    count: int

    @property
    def labels(self) -> Int64Array:
        """The class of each image, int64 [count]."""
        return np.asarray(self.dataset.labels[: self.count])

    def rows(self, rows: Rows) -> AnyArray:
        """Return the sealed images of these rows."""
        return self.dataset.rows(rows)


def time_bare_steps(plan: Plan, model: nn.Module, classes: int, steps: int) -> float:
    """Return the seconds of plain training steps on a batch that is in memory."""
    optimizer = build_optimizer(model.train(), plan)
    shape = (plan.batch, plan.image_size, plan.image_size, plan.channels)
    batch = to_model_input(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    labels = torch.arange(plan.batch) % classes
    started = time.perf_counter()
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(batch), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        nn.utils.clip_grad_norm_(model.parameters(), plan.clip)
        optimizer.step()
    return time.perf_counter() - started


def measure_rates(study: Path, turns: int = 11, seconds: float = 10.0) -> dict[str, float]:
    """Return images per second of bare steps and of local training.

    Both are measured in turns, so that other work of the machine affects both alike.
    """
    use_all_cores()
    plan = read_plan(study / FILE).model_copy(update={"local_epochs": 1})
    data = Place.open(party_folder(study, 0)).sealed("train")
    classes = len(data.classes)
    model = build_model(plan, classes)
    time_bare_steps(plan, model, classes, 3)  # the first steps allocate
    steps = max(
        1, min(round(3 * seconds / time_bare_steps(plan, model, classes, 3)), len(data) // plan.batch)
    )
    part = FirstRows(data, steps * plan.batch)
    times = []
    for turn in range(turns):
        begun = time.perf_counter()
        train_locally(model, part, plan, turn + 1, "bench")
        local = time.perf_counter() - begun
        times.append((time_bare_steps(plan, model, classes, steps), local))
    pairs = np.array(times)
    speeds = steps * plan.batch / np.median(pairs, 0)
    return {
        "bare_images_per_second": float(speeds[0]),
        "loop_images_per_second": float(speeds[1]),
        "loop_over_bare": float(np.median(pairs[:, 0] / pairs[:, 1])),
        "loop_over_bare_low": float(np.quantile(pairs[:, 0] / pairs[:, 1], 0.25)),
        "loop_over_bare_high": float(np.quantile(pairs[:, 0] / pairs[:, 1], 0.75)),
        "turns": float(turns),
    }


def time_loop(study: Path) -> float:
    """Return the seconds of the study's training and evaluations without Flower."""
    use_all_cores()
    plan = read_plan(study / FILE)
    places = [Place.open(party_folder(study, i)) for i in range(plan.parties)]
    sets = {s: [p.sealed(s) for p in places] for s in ("train", "val", "test")}
    model = build_model(plan, len(sets["train"][0].classes))
    weights = best = pack(model)
    best_val = -1.0
    started = time.perf_counter()
    for round_ in range(1, plan.rounds + 1):
        updates = []
        for place, data in zip(places, sets["train"], strict=True):
            unpack(model, weights)
            train_locally(model, data, plan, round_, place.settings.party)
            updates.append(pack(model))
        weights = average(updates, [len(s) for s in sets["train"]])
        unpack(model, weights)
        val = np.mean(
            [
                measure(predict_probabilities(model, s), np.asarray(s.labels))["accuracy"]
                for s in sets["val"]
            ]
        )
        if val >= best_val:
            best, best_val = weights, float(val)
    unpack(model, best)
    for s in sets["test"]:
        measure(predict_probabilities(model, s), np.asarray(s.labels))
    seconds = time.perf_counter() - started
    assert "flwr" not in sys.modules, "this loop must not import Flower"
    return seconds


def run_fresh(*words: str) -> Any:
    """Run this module in a fresh process, so that measurements share nothing, and return the JSON that it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.federation", *words],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def measure_study(plan: Plan, with_rates: bool, engine: Engine) -> dict[str, Any]:
    """Seal and train a study in a temporary folder, with and without Flower, and return the figures."""
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="cipherward-bench-") as temporary:
        study = Path(temporary) / "study"
        simulate(plan, study, "seal", lambda line: console.print(f"· {line}"))
        speeds = run_fresh("--rates", str(study)) if with_rates else {}
        loop_seconds = run_fresh("--loop", str(study))
        started = time.monotonic()
        simulate(plan, study, "train", lambda line: console.print(f"· {line}"), engine=engine)
        run_seconds = time.monotonic() - started
        training = json.loads((study / "cloud" / "training.json").read_text())
        rounds = [json.loads(line) for line in (study / "cloud" / "rounds.jsonl").read_text().splitlines()]
    return {
        "plan": plan.study,
        "model": f"{plan.model}, {plan.image_size}×{plan.image_size}, batch {plan.batch}",
        "machine": machine(),
        "engine": training["engine"],
        **speeds,
        "loop_seconds": loop_seconds,
        "flwr_seconds": training["seconds"],
        "flwr_over_loop": training["seconds"] / loop_seconds,
        "flwr_start_and_stop_seconds": run_seconds - training["seconds"],
        "megabytes_a_round": (rounds[0]["bytes_down"] + rounds[0]["bytes_up"]) / 1e6,
    }


def main() -> None:
    """Run the command line."""
    parser = make_parser(__doc__)
    add_plan(parser)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting of the plan"
    )
    add_json(parser)
    parser.add_argument("--engine", choices=ENGINES, default=ENGINES[0], help="what runs the hospitals")
    parser.add_argument("--no-rates", action="store_true", help="skip the first measurement")
    parser.add_argument("--rates", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--loop", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rates:
        print(json.dumps(measure_rates(args.rates)))
        return
    if args.loop:
        print(json.dumps(time_loop(args.loop)))
        return
    plan = read_plan(args.plan, {**plan_paths(args), **parse_settings(args.set)})
    # One hospital at a time, on all cores, as under Ray: only then the seconds can be compared.
    engine = Engine(args.engine, 1 if args.engine == "processes" else 0)
    figures = measure_study(plan, not args.no_rates, engine)
    table = Table("figure", "value", title=f"the cost of federating {plan.study}")
    for name, value in figures.items():
        table.add_row(name.replace("_", " "), f"{value:.3g}" if isinstance(value, float) else str(value))
    Console().print(table)
    write_figures(args.json, figures)


if __name__ == "__main__":
    main()
