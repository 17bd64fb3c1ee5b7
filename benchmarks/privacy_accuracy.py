"""The part `accuracy` of benchmarks/privacy.py: DP-SGD on real brain MRI under the shares `head` and `lora`.

Three hospitals train with a frozen stem on the public encoder, round by round, without Flower. Every hospital runs
the product's own training, and the weights are averaged after each round. Adapters are in the last block only, after
its attention (`lora_blocks: 1`, `lora_layers`). So nothing before that changes in such a training: it is computed
once, and kept in --out. Only the class token goes on from there to the head. Values are those of plain images, which
carried stems reproduce up to rounding.

Recipes differ in the size of a step, the number of passes, the norm of gradients and the learning rate. Without
privacy the norm is that of a whole step (`clip`), with privacy that of each image (`max_grad_norm`). For each epsilon
the recipe with the best mean on val is taken; every figure that it was chosen by is in the result. Test is read once
for each seed.
"""

from __future__ import annotations

import functools
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import nn

from coordinator.exchange.audit.rates import rate_of
from coordinator.exchange.plan import Plan
from coordinator.model.model_input import to_model_input
from coordinator.model.training import PlainImages, train_locally
from coordinator.model.vit import build_model, pack, unpack
from crypto.arrays import Float32Array
from parties.sources.folder import Folder
from parties.sources.partition import iid
from parties.training.private_training import PrivateRound, plan_round, train_privately

Record = dict[str, Any]
HOSPITALS, DELTA, ROUNDS, CLASSES = 3, 1e-4, 10, 4
#: None: without differential privacy.
EPSILONS: dict[str, tuple[float | None, ...]] = {"head": (None, 8.0, 3.0, 1.0), "lora": (None, 8.0)}
#: Trainings by which a recipe is chosen: with noise, one tells little.
_CHOOSING_SEEDS = {"head": 2, "lora": 1}
#: to_model_input maps this gray level to 0, and so many levels to 1.
_MIDDLE = 127.5
ADAPTERS: Record = {"lora_blocks": 1, "lora_layers": ("attn.proj", "mlp.fc1", "mlp.fc2")}
#: Images of a step on average, passes in a round, norm of gradients, and learning rates. A hospital has 533 or 534
#: images, so 1024 are all of them. Where all gradients are cut to the norm, a step's length is rate · norm; the
#: inputs of the head have a length of 57.
_PRIVATE = (
    (128, 3, 1.0, (0.1, 0.2, 0.4)),
    (1024, 10, 17.0, (0.012, 0.018, 0.025, 0.05)),
    (1024, 20, 17.0, (0.006, 0.012)),
)
_PLAIN = ((128, 3, 1.0, (0.1, 0.3)), (128, 3, 1000.0, (0.01, 0.03)), (1024, 10, 1000.0, (0.01, 0.03)))


@dataclass(frozen=True)
class Recipe:
    """How a training steps.

    Attributes:
        batch: images of a step on average; more than a hospital has: all of them in every step.
        passes: over the images in each round.
        norm: of a gradient at most.
        lr: the learning rate.
    """

    batch: int
    passes: int
    norm: float
    lr: float


def recipes(epsilon: float | None) -> list[Recipe]:
    """Return the recipes that are tried."""
    choices = _PLAIN if epsilon is None else _PRIVATE
    return [Recipe(batch, passes, norm, lr) for batch, passes, norm, rates in choices for lr in rates]


def make_plan(share: str, epsilon: float | None, recipe: Recipe, weights: str, seed: int) -> Plan:
    """Return the plan of a training: SGD with momentum and a frozen stem."""
    privacy: Record = {}
    if epsilon is not None:
        privacy = {"epsilon": epsilon, "delta": DELTA, "unit": "image", "max_grad_norm": recipe.norm}
    settings: Record = {"study": "privacy", "counts": (9, 9, 9), "stem": "private", "stem_frozen": True}
    settings |= {"share": share, "weights": weights, "seed": seed, "privacy": privacy, **ADAPTERS}
    settings |= {"rounds": ROUNDS, "local_epochs": recipe.passes, "batch": recipe.batch, "lr": recipe.lr}
    settings |= {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.0, "warmup_steps": 0}
    return Plan.model_validate(settings | ({"clip": recipe.norm} if epsilon is None else {}))


class _Tail(nn.Module):
    """What follows the attention of a ViT's last block, for the class token alone.

    It reads the token's attended values and the token itself, side by side. For share `head` it reads what the head
    reads.
    """

    def __init__(self, model: Any, share: str) -> None:
        super().__init__()
        block = model.blocks[-1]
        self.share = share
        if share != "head":
            self.proj, self.norm2, self.mlp, self.norm = block.attn.proj, block.norm2, block.mlp, model.norm
        self.head = model.head

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        values = inputs.flatten(1)
        if self.share != "head":
            attended, token = values.chunk(2, 1)
            token = token + self.proj(attended)
            values = self.norm(token + self.mlp(self.norm2(token)))
        logits: torch.Tensor = self.head(values)
        return logits


@torch.inference_mode()
def read_inputs(data: Path, split: str, share: str, out: Path) -> PlainImages:
    """Return what `_Tail` reads of a split's plain images, as images of one row; computed once."""
    kept = out / f"tail-{split}.npz"
    if not kept.exists():
        source = Folder(data / "brain_mri", 224, 1, 0, split)
        weights = str(data / "vit_tiny_patch16_224.safetensors")
        plan = make_plan("head", None, recipes(None)[0], weights, 0)
        model: Any = build_model(plan, len(source.classes)).eval()
        parts = [
            _run_encoder(model, np.stack([source.read(row) for row in range(s, min(s + 32, len(source)))]))
            for s in range(0, len(source), 32)
        ]
        out.mkdir(parents=True, exist_ok=True)
        lora, head = (np.concatenate(values) for values in zip(*parts, strict=True))
        np.savez(kept, lora=lora, head=head, labels=source.labels)
    stored = np.load(kept)
    values: Float32Array = stored[share]
    return PlainImages((values[:, None, :, None] + 1) * np.float32(_MIDDLE), stored["labels"])


def _run_encoder(model: Any, images: Any) -> tuple[Float32Array, Float32Array]:
    """Return the class token's inputs of a ViT's last projection, beside the token, and those of its head."""
    inputs: list[torch.Tensor] = []
    block = model.blocks[-1]
    hooks = [
        part.register_forward_pre_hook(lambda _, args: inputs.append(args[0][:, 0]))
        for part in (block, block.attn.proj)
    ]
    try:
        features = model.forward_features(to_model_input(images))
    finally:
        for hook in hooks:
            hook.remove()
    token, attended = inputs
    head = model.forward_head(features, pre_logits=True)
    return torch.cat([attended, token], 1).numpy(), head.numpy()


@functools.lru_cache(maxsize=8)
def start_model(share: str, weights: str, seed: int) -> tuple[nn.Module, Float32Array]:
    """Return the model that trainings of a share begin with, and its weights.

    The head begins at zero, as it does in the product under privacy; here it does without privacy too.
    """
    plan = make_plan(share, None, recipes(None)[0], weights, seed)
    model = _Tail(build_model(plan, CLASSES), share)
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    return model, pack(model)


@functools.lru_cache(maxsize=512)
def _plan_private(plan_json: str, images: int) -> PrivateRound:
    """Return the noise of a plan in a hospital with so many images. To compute it takes seconds."""
    return plan_round(Plan.model_validate_json(plan_json), np.arange(images))


def train(train_set: PlainImages, plan: Plan) -> nn.Module:
    """Train in all hospitals, round by round, and return the average of the last round."""
    shares = iid(train_set.labels, HOSPITALS, plan.seed)
    hospitals = [PlainImages(train_set.images[rows], train_set.labels[rows]) for rows in shares]
    model, average = start_model(plan.share, plan.weights, plan.seed)
    # What noise depends on alone, so that it is computed once for all learning rates.
    noise_plan = plan.model_copy(update={"lr": 1.0, "seed": 0}).model_dump_json()
    for round_ in range(1, plan.rounds + 1):
        updates = []
        for index, data in enumerate(hospitals):
            unpack(model, average)
            if plan.privacy.is_on:
                train_privately(model, data, plan, round_, _plan_private(noise_plan, len(data.labels)))
            else:
                train_locally(model, data, plan, round_, f"hospital-{index}")
            updates.append(pack(model) * (len(data.labels) / len(train_set.labels)))
        average = np.sum(updates, axis=0, dtype=np.float32)
    unpack(model, average)
    return model


@torch.inference_mode()
def count_hits(model: nn.Module, data: PlainImages) -> int:
    """Return how many images a model classifies rightly."""
    predicted = model.eval()(to_model_input(data.images)).argmax(1).numpy()
    return int((predicted == data.labels).sum())


class _Kept:
    """Figures by name in a file of lines, so that a run that was stopped goes on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self._hits: dict[str, int] = dict(json.loads(line) for line in lines)

    def hits(self, name: str, work: Any) -> int:
        """Return the hits of a training from the file, or train and write them."""
        if name not in self._hits:
            self._hits[name] = int(work())
            with self._path.open("a") as file:
                file.write(json.dumps([name, self._hits[name]]) + "\n")
        return self._hits[name]


def measure(data: Path, out: Path, seeds: int, shares: Sequence[str], console: Console) -> Record:
    """Return test accuracy by share and epsilon with the recipe that is best on val, and all that was tried."""
    accuracy, tried = [], []
    out.mkdir(parents=True, exist_ok=True)
    weights, kept = str(data / "vit_tiny_patch16_224.safetensors"), _Kept(out / "accuracy.jsonl")
    for share in shares:
        splits = {split: read_inputs(data, split, share, out) for split in ("train", "val", "test")}

        def hits(
            split: str,
            epsilon: float | None,
            recipe: Recipe,
            seed: int,
            share: str = share,
            splits: Any = splits,
        ) -> int:
            plan = make_plan(share, epsilon, recipe, weights, seed)
            name = f"{share} {split} {epsilon} {recipe} {seed}"
            return kept.hits(name, lambda: count_hits(train(splits["train"], plan), splits[split]))

        for epsilon in EPSILONS[share]:
            rates: dict[Recipe, float] = {}
            for recipe in recipes(epsilon):
                counts = [hits("val", epsilon, recipe, seed) for seed in range(_CHOOSING_SEEDS[share])]
                rates[recipe] = statistics.mean(counts) / len(splits["val"].labels)
                about: Record = {"share": share, "epsilon": epsilon, **asdict(recipe)}
                tried.append(about | {"val": rates[recipe], "trainings": len(counts)})
                console.print(tried[-1])
            best = max(rates, key=lambda recipe: rates[recipe])
            for seed in range(seeds):
                rate = rate_of(hits("test", epsilon, best, seed), len(splits["test"].labels))
                accuracy.append({"share": share, "epsilon": epsilon, "seed": seed, **asdict(best)})
                accuracy[-1]["test"] = rate.to_json()
                console.print(accuracy[-1])
    return {"accuracy": accuracy, "tried": tried}
