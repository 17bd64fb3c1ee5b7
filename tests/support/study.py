"""A small study for all tests that look at its files. It uses the real commands."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PLAN = """
study: small
seed: 3
parties: 2
source: phantom
counts: [220, 24, 24]
image_size: 64
channels: 1
scheme: block_pixel_shuffle
block: 8
model_args: {patch_size: 8, embed_dim: 32, depth: 1, num_heads: 2}
rounds: 1
batch: 32
lr: 1.0e-3
wrong_keys: 2
pools: [1, 5, 20]
draws: 2
audit_rows: 32
gallery: 64
"""


@dataclass(frozen=True)
class Study:
    """A finished study: its folder, its plan file, and what `simulate` printed."""

    folder: Path
    plan: Path
    output: str

    def party(self, index: int) -> Path:
        """Return a hospital's folder."""
        return self.folder / "parties" / f"hospital-{index}"


def command(program: str, *words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run one of our commands as a user would, and capture standard output and error as text."""
    path = Path(sys.executable).parent / program
    return subprocess.run(
        [str(path), *map(str, words)],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ},
        check=False,  # tests look at the status
        **options,
    )


def run_small_study(folder: Path) -> Study:
    """Run the small study to its report."""
    plan = folder / "small.yaml"
    plan.write_text(PLAN)
    done = command("cipherward-coordinator", "simulate", plan, "--out", folder / "run")
    assert done.returncode == 0, done.stdout + done.stderr
    return Study(folder / "run", plan, done.stdout + done.stderr)
