"""Fixtures of the benchmarks' tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a folder with an artificial PneumoniaMNIST of 32×32 pixels."""
    random = np.random.default_rng(0)
    arrays = {}
    for split, n in (("train", 40), ("val", 12), ("test", 16)):
        labels = np.arange(n) % 2
        images = random.integers(0, 150, (n, 32, 32)) + 60 * labels[:, None, None]
        arrays[f"{split}_labels"] = labels[:, None]
        arrays[f"{split}_images"] = images.astype(np.uint8)
    np.savez(tmp_path / "pneumoniamnist.npz", **arrays)  # type: ignore[arg-type]  # numpy types only allow_pickle
    return tmp_path
