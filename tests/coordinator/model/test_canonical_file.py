"""A model's digest says whether two runs gave the same model, so equal models must be equal files."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
from safetensors.numpy import load, save

from coordinator.model.canonical_file import sort_metadata
from tests.support.paths import ROOT

PROGRAM = """
import hashlib, numpy as np
from safetensors.numpy import save
from coordinator.model.canonical_file import sort_metadata
tensors = {"b": np.arange(3.0), "a": np.zeros((2, 2), np.float32)}
data = save(tensors, metadata={f"name-{i}": "ü" * i for i in range(12)})
print(hashlib.sha256(sort_metadata(data)).hexdigest())
"""


def test_equal_content_gives_equal_bytes_in_every_process() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM], cwd=ROOT, text=True, capture_output=True, check=True
        ).stdout
        for _ in range(4)
    }
    assert len(digests) == 1


def test_tensors_and_metadata_stay() -> None:
    tensors = {"b": np.arange(3.0), "a": np.zeros((2, 2), np.float32), "c": np.ones(5, np.uint8)}
    data = sort_metadata(save(tensors, metadata={"z": "1", "a": "\U0001f9e0"}))
    assert all(np.array_equal(tensors[name], value) for name, value in load(data).items())
    assert data.index(b'"a":') < data.index(b'"z":')
    length = int.from_bytes(data[:8], "little")
    assert length % 8 == 0
    without = save(tensors)
    assert load(sort_metadata(without)).keys() == tensors.keys()
    assert hashlib.sha256(sort_metadata(data)).digest() == hashlib.sha256(data).digest()
