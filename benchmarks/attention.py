"""How fast a ViT trains by torch's fused attention and by the plain product of matrices, on one core.

    python -m benchmarks.attention [--repeats 5] [--json FILE]

Both models of a pair have the same weights and take steps in turns: forward and backward pass of one batch of random
images, without an optimizer. A figure is the least processor time of the repeats. Local training chooses between
the two (coordinator/model/attention.py).
"""

from __future__ import annotations

import argparse
import itertools
import time
from typing import Any

import torch
from torch import nn

from benchmarks.command_line import add_json, make_parser, write_figures
from coordinator.model.torchvision_fix import timm
from coordinator.report.build import machine

SCHEMA = "cipherward.attention/1"
_TINY, _SMALL = "vit_tiny_patch16_224", "vit_small_patch16_224"
#: Model, image side, patch side and batch.
_SHAPES = ((_TINY, 224, 16, 8), (_SMALL, 224, 16, 8), (_TINY, 224, 8, 4), (_TINY, 32, 4, 32))
_PRECISIONS = ("bfloat16", "float32")


def _model(name: str, side: int, patch: int, fused: bool) -> nn.Module:
    """Return a network whose attention is the fused one or not."""
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name, img_size=side, patch_size=patch, num_classes=4)
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused  # type: ignore[assignment]  # torch types a module's attributes as tensors
    return model.train()


def _step_seconds(model: nn.Module, images: torch.Tensor, precision: str) -> float:
    """Return the processor time of one forward and backward pass."""
    started = time.process_time()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        outputs = model(images)
    outputs.float().sum().backward()
    return time.process_time() - started


def measure(name: str, side: int, patch: int, batch: int, precision: str, repeats: int) -> dict[str, Any]:
    """Return milliseconds an image of both attentions, and how many times as fast the plain product is."""
    images = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(0))
    models = {fused: _model(name, side, patch, fused) for fused in (True, False)}
    for model in models.values():
        _step_seconds(model, images, precision)  # the first pass allocates; not measured
    turns = [
        {fused: _step_seconds(m, images, precision) for fused, m in models.items()} for _ in range(repeats)
    ]
    fused, plain = (1000 * min(turn[key] for turn in turns) / batch for key in (True, False))
    return {
        "model": name,
        "side": side,
        "patch": patch,
        "tokens": (side // patch) ** 2 + 1,
        "batch": batch,
        "precision": precision,
        "fused_milliseconds": fused,
        "plain_milliseconds": plain,
        "times_faster": fused / plain,
    }


def run(options: argparse.Namespace) -> None:
    """Measure all shapes in both precisions, and write the figures."""
    torch.set_num_threads(1)
    rows = []
    for precision, shape in itertools.product(_PRECISIONS, _SHAPES):
        rows.append(measure(*shape, precision, options.repeats))
        print(rows[-1], flush=True)
    figures = {"schema": SCHEMA, "machine": machine(), "repeats": options.repeats, "records": rows}
    write_figures(options.json, figures)


def main() -> None:
    """Run the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="steps of each model")
    add_json(parser)
    run(parser.parse_args())


if __name__ == "__main__":
    main()
