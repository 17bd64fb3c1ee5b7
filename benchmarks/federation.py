"""What the federation costs: a simulated `flwr run` beside the same work without Flower, beside bare timm.

    python benchmarks/federation.py [--plan configs/demo.yaml] [--set key=value …] [--json FILE]

Three measurements, on the same threads and the same sealed images:

1. rates: local training on a sealed set, and bare steps of timm's model (forward, backward, clip and step on
   a batch in memory), turn about in one process;
2. loop:  the same local epochs, averages and evaluations as the study's, in one process that imports no Flower;
3. flwr:  the study's own `flwr run`; Flower's and Ray's start-up is told apart.

Run it on a quiet machine. Ratios, not seconds, are what to read.
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
import yaml
from rich.console import Console
from rich.table import Table
from torch import nn

from coordinator.exchange.plan import FILE, Plan, read_plan
from coordinator.model.training import (
    as_input,
    measure,
    optimizer_of,
    probabilities,
    train_locally,
    use_all_cores,
)
from coordinator.model.vit import build_model, pack, unpack
from coordinator.report.build import machine
from coordinator.study.simulate import party_folder, simulate
from crypto.sets.dataset import SealedDataset
from parties.sealing.place import Place
from parties.training.baseline import average


@dataclass(frozen=True)
class Part:
    """The first `count` rows of a sealed set."""

    whole: SealedDataset
    count: int

    @property
    def labels(self) -> np.ndarray:
        return np.asarray(self.whole.labels[: self.count])

    def rows(self, rows: np.ndarray) -> np.ndarray:
        return self.whole.rows(rows)


def bare(plan: Plan, model: nn.Module, classes: int, steps: int) -> float:
    """Seconds of plain training steps on a batch that is in memory."""
    optimizer = optimizer_of(model.train(), plan)
    shape = (plan.batch, plan.image_size, plan.image_size, plan.channels)
    batch = as_input(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    labels = torch.arange(plan.batch) % classes
    started = time.perf_counter()
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(batch), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), plan.clip)
        optimizer.step()
    return time.perf_counter() - started


def rates(study: Path, turns: int = 11, seconds: float = 10.0) -> dict[str, float]:
    """Images a second of bare steps and of local training, turn about: a machine's moods hit both alike."""
    use_all_cores()
    plan = read_plan(study / FILE).model_copy(update={"local_epochs": 1})
    data = Place.open(party_folder(study, 0)).sealed("train")
    classes = len(data.classes)
    model = build_model(plan, classes)
    bare(plan, model, classes, 3)  # the first steps allocate
    steps = max(1, min(round(3 * seconds / bare(plan, model, classes, 3)), len(data) // plan.batch))
    part = Part(data, steps * plan.batch)
    times = []
    for turn in range(turns):
        begun = time.perf_counter()
        train_locally(model, part, plan, turn + 1, "bench")
        local = time.perf_counter() - begun
        times.append((bare(plan, model, classes, steps), local))
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


def loop(study: Path) -> float:
    """Seconds of the study's training and evaluations without Flower."""
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
            [measure(probabilities(model, s), np.asarray(s.labels))["accuracy"] for s in sets["val"]]
        )
        if val >= best_val:
            best, best_val = weights, float(val)
    unpack(model, best)
    for s in sets["test"]:
        measure(probabilities(model, s), np.asarray(s.labels))
    seconds = time.perf_counter() - started
    assert "flwr" not in sys.modules, "this loop must not import Flower"
    return seconds


def in_process(*words: str) -> Any:
    """Runs this file in a fresh process, so that measurements share nothing; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.federation", *words],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plan", type=Path, default=Path(__file__).parents[1] / "configs" / "demo.yaml")
    parser.add_argument("--images", type=Path, help="image folder, in place of the plan's")
    parser.add_argument("--weights", type=Path, help="weights file, in place of the plan's")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the plan")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--no-rates", action="store_true", help="leave out the first measurement")
    parser.add_argument("--rates", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--loop", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rates:
        print(json.dumps(rates(args.rates)))
        return
    if args.loop:
        print(json.dumps(loop(args.loop)))
        return
    overrides = {k: str(v) for k, v in (("images", args.images), ("weights", args.weights)) if v}
    overrides |= {k: yaml.safe_load(v) for k, _, v in (s.partition("=") for s in args.set)}
    plan = read_plan(args.plan, overrides)
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="cipherward-bench-") as temporary:
        study = Path(temporary) / "study"
        simulate(plan, study, "seal", lambda line: console.print(f"· {line}"))
        speeds = {} if args.no_rates else in_process("--rates", str(study))
        without = in_process("--loop", str(study))
        started = time.monotonic()
        simulate(plan, study, "train", lambda line: console.print(f"· {line}"))
        whole = time.monotonic() - started
        training = json.loads((study / "cloud" / "training.json").read_text())
        rounds = [json.loads(line) for line in (study / "cloud" / "rounds.jsonl").read_text().splitlines()]
    figures = {
        "plan": plan.study,
        "model": f"{plan.model}, {plan.image_size}×{plan.image_size}, batch {plan.batch}",
        "machine": machine(),
        **speeds,
        "loop_seconds": without,
        "flwr_seconds": training["seconds"],
        "flwr_over_loop": training["seconds"] / without,
        "flwr_start_and_stop_seconds": whole - training["seconds"],
        "megabytes_a_round": (rounds[0]["bytes_down"] + rounds[0]["bytes_up"]) / 1e6,
    }
    table = Table("what", "figure", title=f"the cost of federating {plan.study}")
    for name, value in figures.items():
        table.add_row(name.replace("_", " "), f"{value:.3g}" if isinstance(value, float) else str(value))
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
