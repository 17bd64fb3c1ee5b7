"""What differential privacy costs on real brain MRI: accuracy by epsilon, seconds a step, and what an audit proves.

    python -m benchmarks.privacy --data FOLDER [--seeds 3] [--parts accuracy,cost,audit,noise] [--out runs/privacy]
        [--json FILE]

FOLDER holds brain_mri/ and vit_tiny_patch16_224.safetensors.

accuracy   shares `head` and `lora` with a frozen stem (benchmarks/privacy_accuracy.py). The recipe is chosen on
           val, with privacy and without alike; that choice is not part of epsilon. Test is read once for each seed.
cost       seconds a step of ViT-Ti/16 on 224×224 images, by share: with privacy and without, in turns.
audit      one-run audits of the product's DP-SGD with canaries whose gradients the adversary knows.
noise      the noise multiplier beside that of Google's dp_accounting (PLD), which must be installed.
"""

from __future__ import annotations

import datetime
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import nn

from benchmarks import privacy_accuracy
from benchmarks.command_line import add_data, add_json, make_parser, split_list, write_figures
from coordinator.adversary.training.privacy_audit import audit_scores
from coordinator.exchange.plan import Plan
from coordinator.model.training import PlainImages, train_locally
from coordinator.model.vit import build_model
from coordinator.report.build import machine
from crypto.arrays import AnyArray, BoolArray, Float64Array, Int64Array
from parties.sources.folder import Folder
from parties.training.privacy_accounting import Mechanism, noise_multiplier
from parties.training.private_noise import PrivateRandom
from parties.training.private_training import PrivateRound, train_privately

SCHEMA = "cipherward.privacy/1"
PARTS = ("noise", "audit", "accuracy", "cost")
HOSPITALS, DELTA, ROUNDS = privacy_accuracy.HOSPITALS, privacy_accuracy.DELTA, privacy_accuracy.ROUNDS
EPOCHS, BATCH = 3, 128
#: to_model_input maps this gray level to 0, and so many levels to 1.
_MIDDLE = 127.5


def make_plan(epsilon: float | None, **changes: Any) -> Plan:
    """Return the plan of a training: SGD with momentum, large batches, gradients of norm 1."""
    privacy = {} if epsilon is None else {"epsilon": epsilon, "delta": DELTA, "unit": "image"}
    settings: dict[str, Any] = {
        "study": "privacy",
        "counts": (9, 9, 9),
        "stem": "private",
        "stem_frozen": True,
    }
    settings |= {
        "share": "head",
        "rounds": ROUNDS,
        "local_epochs": EPOCHS,
        "batch": BATCH,
        "warmup_steps": 0,
    }
    settings |= {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.0, "privacy": privacy}
    return Plan.model_validate(settings | changes)


# ---- cost ----------------------------------------------------------------------------------------


def measure_cost(data: Path, console: Console, batch: int = 16, turns: int = 3) -> list[dict[str, Any]]:
    """Return seconds a step by share, with privacy and without, measured in turns."""
    source = Folder(data / "brain_mri", 224, 1, 0, "val")
    images = PlainImages(np.stack([source.read(row) for row in range(batch)]), source.labels[:batch])
    weights = str(data / "vit_tiny_patch16_224.safetensors")
    records = []
    for share in ("head", "lora", "all"):
        common: dict[str, Any] = {
            "share": share,
            "rounds": 1,
            "local_epochs": 1,
            "batch": batch,
            "weights": weights,
        }
        common |= {"lr": 1e-4, "stem_frozen": share != "all"}
        seconds: dict[str, list[float]] = {"plain": [], "private": []}
        model = build_model(make_plan(None, **common), len(source.classes))
        for turn in range(turns + 1):
            for name, plan in (("plain", make_plan(None, **common)), ("private", make_plan(8.0, **common))):
                private = PrivateRound(Mechanism(1.0, 1.0, 1), np.arange(batch), batch)
                start = time.perf_counter()
                if name == "private":
                    train_privately(model, images, plan, 1, private)
                else:
                    train_locally(model, images, plan, 1, "hospital-0")
                if turn:  # the first turn loads libraries
                    seconds[name].append(time.perf_counter() - start)
        trained = sum(w.numel() for w in model.parameters() if w.requires_grad)
        plain, private_s = (statistics.median(seconds[name]) for name in ("plain", "private"))
        record: dict[str, Any] = {"share": share, "trained weights": trained, "batch": batch}
        record |= {"seconds a step": plain, "seconds a private step": private_s, "ratio": private_s / plain}
        records.append(record)
        console.print(records[-1])
    return records


# ---- audit ---------------------------------------------------------------------------------------


class _Pixels(nn.Module):
    """A linear layer on pixels, from zero, without bias: a bright pixel's gradient is in its own column."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.head = nn.Linear(pixels, 2, bias=False)
        nn.init.zeros_(self.head.weight)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.flatten(images))
        return logits


def release_canaries(included: BoolArray, mechanism: Mechanism, plan: Plan) -> Float64Array:
    """Train on the included canaries; return how far each canary's weights moved its way, float64 [canaries]."""
    pixels = len(included)
    images: AnyArray = np.full((pixels, 1, pixels, 1), _MIDDLE, np.float32)
    images[np.arange(pixels), 0, np.arange(pixels), 0] += 100 * _MIDDLE
    labels: Int64Array = np.zeros(pixels, np.int64)
    model = _Pixels(pixels)
    private = PrivateRound(mechanism, np.arange(int(included.sum())), pixels * mechanism.sample_rate)
    train_privately(model, PlainImages(images[included], labels[included]), plan, 1, private)
    weight = model.head.weight.detach().double().numpy()
    return np.asarray(weight[0] - weight[1])


def measure_audit(
    console: Console, canaries: int = 2000, guesses: int = 400, steps: int = 10
) -> list[dict[str, Any]]:
    """Return what a one-run audit proves at several promises: steps that take every canary, and one in five."""
    records = []
    for epsilon in (8.0, 3.0, 1.0):
        for rate in (1.0, 0.2):
            plan = make_plan(epsilon, lr=1e-3, momentum=0.0, batch=canaries, rounds=1000)
            mechanism = Mechanism(noise_multiplier(epsilon, 1e-5, rate, steps), rate, steps)
            included = np.asarray(PrivateRandom().sample(canaries, 0.5))
            result = audit_scores(release_canaries(included, mechanism, plan), included, guesses, 1e-5)
            record = {"promised": epsilon, "sampling rate": rate, "steps": steps, "canaries": canaries}
            record |= {"guesses": result.guesses, "correct": result.correct, "proved": result.epsilon_low}
            records.append(record | {"error rate": result.error_rate})
            console.print(records[-1])
    return records


# ---- noise ---------------------------------------------------------------------------------------

#: epsilon, delta, sampling rate, steps. The second line is the accuracy part's own.
_SETTINGS = (
    (8.0, 1e-4, 0.06, 100),
    (8.0, 1e-4, 0.2, 150),
    (3.0, 1e-5, 0.06, 500),
    (1.0, 1e-5, 1.0, 10),
    (0.3, 1e-5, 0.02, 500),
)


def measure_noise(console: Console) -> list[dict[str, Any]]:
    """Return the noise multiplier beside that of dp_accounting's PLD accountant."""
    from dp_accounting import (
        GaussianDpEvent,
        PoissonSampledDpEvent,
        SelfComposedDpEvent,
        calibrate_dp_mechanism,
    )
    from dp_accounting.pld import PLDAccountant

    records = []
    for epsilon, delta, rate, steps in _SETTINGS:

        def training(noise: float, rate: float = rate, steps: int = steps) -> object:
            step = GaussianDpEvent(noise)
            return SelfComposedDpEvent(step if rate == 1 else PoissonSampledDpEvent(rate, step), steps)

        ours = noise_multiplier(epsilon, delta, rate, steps)
        theirs = float(calibrate_dp_mechanism(PLDAccountant, training, epsilon, delta, tol=1e-4))
        record = {"epsilon": epsilon, "delta": delta, "sampling rate": rate, "steps": steps}
        records.append(record | {"PRV": ours, "PLD": theirs, "ratio": ours / theirs})
        console.print(records[-1])
    return records


def measure(
    parts: Sequence[str], data: Path, out: Path, seeds: int, shares: Sequence[str], console: Console
) -> dict[str, Any]:
    """Return the figures of the chosen parts."""
    result: dict[str, Any] = {}
    if "noise" in parts:
        result["noise"] = measure_noise(console)
    if "audit" in parts:
        result["audit"] = measure_audit(console)
    if "accuracy" in parts:
        result |= privacy_accuracy.measure(data, out, seeds, shares, console)
    if "cost" in parts:
        result["cost"] = measure_cost(data, console)
    return result


def main() -> None:
    """Run the command line."""
    parser = make_parser(__doc__)
    add_data(parser)
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each accuracy, from 0")
    parser.add_argument("--parts", default=",".join(PARTS), help="what to measure")
    parser.add_argument("--shares", default="head,lora", help="shares of the part accuracy")
    parser.add_argument("--out", type=Path, default=Path("runs/privacy"), help="where outputs are kept")
    add_json(parser)
    args = parser.parse_args()
    parts = split_list(args.parts)
    shares, console = split_list(args.shares), Console(stderr=True)
    figures = measure(parts, args.data, args.out, args.seeds, shares, console)
    result = {
        "schema": SCHEMA,
        "created": datetime.datetime.now(datetime.UTC).isoformat(),
        "machine": machine(),
        "settings": {
            "hospitals": HOSPITALS,
            "delta": DELTA,
            "rounds": ROUNDS,
            "adapters": privacy_accuracy.ADAPTERS,
        },
        **figures,
    }
    write_figures(args.json, result)


if __name__ == "__main__":
    main()
