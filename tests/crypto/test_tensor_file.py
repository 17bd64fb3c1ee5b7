"""Equal tensors and metadata have equal bytes, whatever the process and the order in which they were given."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load, save

from crypto.arrays import AnyArray
from crypto.tensor_file import tensor_bytes, torch_tensor_bytes

METADATA = {f"name-{i}": f"Zoë {i}" for i in range(12)}
TENSORS: dict[str, AnyArray] = {
    "b": np.arange(3, dtype=np.uint8),
    "a": np.ones((2, 2), np.float32),
    "c": np.zeros(5, np.uint8),
}
ROOT = Path(__file__).resolve().parents[2]

_IN_A_PROCESS = """
import hashlib, sys
from tests.crypto.test_tensor_file import METADATA, TENSORS
from crypto.tensor_file import tensor_bytes
turn = -1 if sys.argv[1] == "backwards" else 1
tensors, metadata = (dict(list(d.items())[::turn]) for d in (TENSORS, METADATA))
print(hashlib.sha256(tensor_bytes(tensors, metadata)).hexdigest())
"""


def test_processes_with_other_hash_seeds_and_orders_write_the_same_bytes() -> None:
    digests = set()
    for seed, order in (("1", "forwards"), ("2", "backwards"), ("3", "forwards")):
        command = [sys.executable, "-c", _IN_A_PROCESS, order]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            command, check=True, capture_output=True, text=True, env=environment, cwd=ROOT
        )
        digests.add(done.stdout.strip())
    assert len(digests) == 1


def test_the_librarys_own_writer_does_not() -> None:
    # If this fails, the library sorts metadata, and crypto/tensor_file.py is no longer needed.
    assert len({save(TENSORS, metadata=METADATA) for _ in range(40)}) > 1


def test_the_file_is_read_back_whole(tmp_path: Path) -> None:
    data = tensor_bytes({**TENSORS, "turned": np.arange(6).reshape(2, 3).T}, METADATA)
    (tmp_path / "a.safetensors").write_bytes(data)
    read = load(data)
    assert all((read[name] == value).all() for name, value in TENSORS.items())
    assert (read["turned"] == np.arange(6).reshape(2, 3).T).all()
    with safe_open(str(tmp_path / "a.safetensors"), framework="numpy") as file:
        assert file.metadata() == METADATA


def test_torch_tensors_make_the_same_file_as_arrays() -> None:
    import torch

    tensors = {name: torch.from_numpy(value) for name, value in TENSORS.items()}
    assert torch_tensor_bytes(tensors, METADATA) == tensor_bytes(TENSORS, METADATA)


def test_no_other_module_writes_safetensors_files_with_the_librarys_writer() -> None:
    users = []
    for package in ("crypto", "coordinator", "parties", "cipherward", "benchmarks"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("safetensors"):
                    users += [
                        str(path.relative_to(ROOT)) for name in node.names if name.name.startswith("save")
                    ]
    assert sorted(set(users)) == ["crypto/tensor_file.py"]
