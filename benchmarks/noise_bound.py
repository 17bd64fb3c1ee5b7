"""How much noise orthogonal blocks need: the Fisher information bound beside what moment matching reaches.

    python -m benchmarks.noise_bound --data FOLDER [--draws 3] [--hours 1] [--json FILE]

FOLDER holds brain_mri/{train,test}/CLASS/*.jpg. The scheme is noisy_orthogonal on gray MRI of 224×224 with blocks of
16. A cell is one attack at one sigma and one pool size in one draw of key, pool and audit images, scored with the
product's own measures of suite/1. Finished cells are kept in --out, so that a stopped run continues.

Beside them stands what the noise costs: the accuracy of a linear model (ridge regression on all pixels) trained and
tested on images with the same noise. A ridge model sees no difference between images and their orthogonal blocks.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import RidgeClassifier

from benchmarks.audit_table import Row, cells_of, read_mri, summarise_row
from benchmarks.command_line import add_data, add_json, make_parser, write_figures
from coordinator.report.build import machine
from crypto.arrays import Float32Array, Images
from crypto.files import append_line, read_lines

SCHEMA = "cipherward.noise-bound/1"
SIGMAS = (8, 16, 32, 64, 128, 256, 512)
POOLS = (10, 100)
#: Strength of the ridge: of the order of the Gram matrix's larger eigenvalues, in squared gray levels.
_RIDGE = 1e7


def rows_of(draws: int) -> list[Row]:
    """Return the rows of audit_table that are measured: the attack and the control of every sigma."""
    rows = []
    for sigma in SIGMAS:
        options = {"sigma": sigma}
        rows.append(
            Row(
                "noisy_orthogonal",
                "mri",
                attack="moment_matching",
                pools=POOLS,
                draws=draws,
                options=options,
            )
        )
        rows.append(
            Row("noisy_orthogonal", "mri", attack="as_is", pools=(1,), draws=draws, options=options)
        )
    return rows


def run(args: argparse.Namespace) -> None:
    """Measure the missing cells until the time is over."""
    args.out.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + 3600 * args.hours
    for draw in range(args.draws):
        for row in rows_of(args.draws):
            done = {(c["row"], c["draw"], c["pool"]) for c in read_lines(args.out)}
            for cell in cells_of(row, draw, args.data, done):
                append_line(args.out, json.dumps(cell))
                print(cell["row"], draw, cell["pool"], cell["broken_by"], cell["ssim"], flush=True)
            if time.monotonic() > until:
                return


def linear_accuracies(folder: Path) -> dict[str, float]:
    """Return the test accuracy of a linear model by sigma, 0 for images without noise."""
    (train, labels), (test, truth) = read_mri(folder, "train"), read_mri(folder, "test")
    rng = np.random.default_rng(0)
    accuracies = {}
    for sigma in (0, *SIGMAS):
        seen, unseen = _noisy(train, sigma, rng), _noisy(test, sigma, rng)
        model = RidgeClassifier(alpha=_RIDGE).fit(seen, labels)
        accuracies[str(sigma)] = float((model.predict(unseen) == truth).mean())
    return accuracies


def _noisy(images: Images, sigma: float, rng: np.random.Generator) -> Float32Array:
    """Return images with Gaussian noise, as rows float32 [n, h·w]."""
    flat = images.reshape(len(images), -1).astype(np.float32) - np.float32(127.5)
    return flat + sigma * rng.standard_normal(flat.shape, dtype=np.float32)


def summarise(cells: Sequence[dict[str, Any]], draws: int, spread: float) -> list[dict[str, Any]]:
    """Return one line a sigma: bound, signal-to-noise ratio, and what the attack and the control reached.

    Args:
        cells: The finished cells.
        draws: How many draws were asked for.
        spread: Standard deviation of the plain images' pixels in gray levels.
    """
    lines = []
    rows = rows_of(draws)
    for sigma, attack, control in zip(SIGMAS, rows[::2], rows[1::2], strict=True):
        matching = summarise_row(attack, cells)
        for pool in matching["pools"]:
            mine = [c["psnr"] for c in cells if c["row"] == attack.name and c["pool"] == pool["pool"]]
            pool["psnr"] = float(np.median(mine)) if mine else None
        lines.append(
            {
                "sigma": sigma,
                "dfil": sigma**-2,
                "bound_psnr": 20 * math.log10(255 / sigma),
                "snr_db": 20 * math.log10(spread / sigma),
                "baseline": matching["baseline"],
                "pools": matching["pools"],
                "smallest_pool": matching["smallest_pool"],
                "as_is": summarise_row(control, cells)["pools"][0],
            }
        )
    return lines


def main() -> None:
    """Run the command line."""
    parser = make_parser(__doc__)
    add_data(parser)
    parser.add_argument("--draws", type=int, default=3, help="draws of key, pool and audit images")
    parser.add_argument("--hours", type=float, default=1.0, help="time for the missing cells")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/noise_bound/cells.jsonl"), help="the journal of cells"
    )
    add_json(parser)
    args = parser.parse_args()
    run(args)
    spread = float(read_mri(args.data, "train")[0].std())
    lines = summarise(read_lines(args.out), args.draws, spread)
    accuracies = linear_accuracies(args.data)
    table = Table("sigma", "SNR dB", "bound dB", "PSNR dB at 100", "R", "V", "linear accuracy")
    for line in lines:
        last = line["pools"][-1]
        if last["draws"]:
            figures = (line["snr_db"], line["bound_psnr"], last["psnr"], last["R"], last["V"])
            words = [f"{value:.2f}" for value in (*figures, accuracies[str(line["sigma"])])]
            table.add_row(str(line["sigma"]), *words)
    Console().print(table)
    result = {"pixel_deviation": spread, "linear_accuracy": accuracies, "rows": lines}
    write_figures(args.json, {"schema": SCHEMA, "machine": machine(), **result})


if __name__ == "__main__":
    main()
