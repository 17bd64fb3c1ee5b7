"""What the federation costs: a simulated `flwr run` beside the same work without Flower, beside bare timm.

    python benchmarks/federation.py [--plan configs/demo.yaml] [--set key=value …] [--json FILE]

Three measurements, one after the other, on the same threads and the same sealed images:

1. bare:  timm's model, AdamW and a batch in memory: forward, backward, clip, step;
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
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from rich.console import Console
from rich.table import Table
from torch import nn

from coordinator.models import build_model, pack, unpack
from coordinator.plan import FILE, Plan, read_plan
from coordinator.report.audit import machine
from coordinator.simulate import party_folder, simulate
from parties.baseline import average
from parties.place import Place
from parties.train import as_input, measure, optimizer_of, probabilities, train_locally, use_all_cores


def bare(plan: Plan, classes: int, steps: int = 60) -> float:
    """Images a second of a plain training step on a batch that is in memory."""
    use_all_cores()
    model = build_model(plan, classes).train()
    optimizer = optimizer_of(model, plan)
    shape = (plan.batch, plan.image_size, plan.image_size, plan.channels)
    batch = as_input(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    labels = torch.arange(plan.batch) % classes
    started = 0.0
    for step in range(steps + 3):
        if step == 3:  # the first steps allocate
            started = time.perf_counter()
        loss = nn.functional.cross_entropy(model(batch), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), plan.clip)
        optimizer.step()
    return steps * plan.batch / (time.perf_counter() - started)


def loop(study: Path) -> dict[str, float]:
    """Seconds of the study's training and evaluations without Flower, and images a second of its steps."""
    use_all_cores()
    plan = read_plan(study / FILE)
    places = [Place.open(party_folder(study, i)) for i in range(plan.parties)]
    sets = {s: [p.sealed(s) for p in places] for s in ("train", "val", "test")}
    model = build_model(plan, len(sets["train"][0].classes))
    weights = best = pack(model)
    best_val, images, training = -1.0, 0, 0.0
    started = time.perf_counter()
    for round_ in range(1, plan.rounds + 1):
        updates = []
        for place, data in zip(places, sets["train"], strict=True):
            unpack(model, weights)
            begun = time.perf_counter()
            done = train_locally(model, data, plan, round_, place.settings.party)
            training += time.perf_counter() - begun
            images += int(done["images"])
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
    return {"seconds": seconds, "images_per_second": images / training}


def in_process(*words: str) -> Any:
    """Runs this file in a fresh process, so that measurements share nothing; returns what it printed."""
    done = subprocess.run([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True, check=True)
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
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--loop", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.bare:
        plan = read_plan(args.bare / FILE)
        classes = len(Place.open(party_folder(args.bare, 0)).sealed("train").classes)
        print(json.dumps(bare(plan, classes)))
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
        rate = in_process("--bare", str(study))
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
        "bare_images_per_second": rate,
        "loop_images_per_second": without["images_per_second"],
        "loop_over_bare": without["images_per_second"] / rate,
        "loop_seconds": without["seconds"],
        "flwr_seconds": training["seconds"],
        "flwr_over_loop": training["seconds"] / without["seconds"],
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
