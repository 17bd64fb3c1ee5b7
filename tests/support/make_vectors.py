"""Write tests/vectors/schemes/NAME.json from the naive references alone.

Command: python tests/support/make_vectors.py [NAME …]

It imports nothing of `crypto`, so that a vector is an independent answer. A scheme whose bytes change gets a new
version here and new vectors.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support import reference_parts, reference_schemes
from tests.support.paths import VECTORS

FOLDER = VECTORS / "schemes"
KEY = bytes(range(32))
ROW = 5
NONCED = reference_parts.NONCED
NONCE = "00112233445566778899aabbccddeeff"

VERSIONS = dict.fromkeys(reference_schemes.REFERENCES, 2) | {"block_pixel_shuffle": 3, "noise": 3}
# Scheme → image shape, block, key scope, options. Some have the size that their paper uses.
CASES: dict[str, list[tuple[tuple[int, int, int], int, str, dict[str, Any]]]] = {
    "block_pixel_shuffle": [
        ((64, 64, 1), 8, "consortium", {}),
        ((224, 224, 3), 16, "consortium", {}),
        ((24, 16, 3), 4, "party", {}),
        ((24, 16, 3), 4, "image", {}),
    ],
    "value_shuffle": [
        ((16, 24, 1), 4, "consortium", {"fixed_blocks": 0, "fixed_values": 0}),
        ((224, 224, 3), 16, "consortium", {"fixed_blocks": 0, "fixed_values": 0}),
        ((32, 32, 3), 8, "party", {"fixed_blocks": 2, "fixed_values": 20}),
        ((24, 16, 3), 4, "image", {"fixed_blocks": 0, "fixed_values": 0}),
    ],
    "block_pixel": [
        ((16, 24, 1), 4, "consortium", {}),
        ((32, 32, 3), 8, "party", {}),
        ((12, 9, 3), 3, "image", {}),
    ],
    "le": [
        ((32, 32, 3), 4, "consortium", {"mask": "tied"}),
        ((32, 32, 3), 4, "consortium", {"mask": "independent"}),
        ((16, 8, 1), 4, "party", {"mask": "tied"}),
        ((9, 6, 3), 3, "image", {"mask": "independent"}),
    ],
    "ele": [
        ((32, 32, 3), 4, "consortium", {"mask": "tied"}),
        ((16, 16, 3), 4, "party", {"mask": "independent"}),
        ((12, 8, 1), 4, "image", {"mask": "tied"}),
    ],
    "pe": [
        ((32, 32, 3), 4, "consortium", {"colour_shuffle": False}),
        ((32, 32, 3), 4, "consortium", {"colour_shuffle": True}),
        ((16, 8, 1), 8, "party", {"colour_shuffle": False}),
        ((8, 16, 3), 8, "image", {"colour_shuffle": True}),
    ],
    "etc": [
        ((32, 32, 3), 4, "consortium", {"form": "colour"}),
        ((224, 224, 3), 16, "consortium", {"form": "colour"}),
        ((24, 32, 1), 8, "party", {"form": "colour"}),
        ((32, 16, 3), 8, "party", {"form": "gray"}),
        ((15, 10, 3), 5, "image", {"form": "colour"}),
        ((16, 16, 3), 8, "image", {"form": "gray"}),
    ],
    "sub_block_etc": [
        ((32, 32, 3), 16, "consortium", {"sub_block": 8}),
        ((224, 224, 3), 16, "consortium", {"sub_block": 4}),
        ((16, 24, 1), 8, "party", {"sub_block": 2}),
        ((16, 16, 3), 8, "image", {"sub_block": 8}),
        ((16, 32, 1), 16, "image", {"sub_block": 16}),
    ],
    "orthogonal": [
        ((8, 12, 1), 4, "consortium", {}),
        ((8, 8, 3), 4, "party", {}),
        ((4, 6, 3), 2, "image", {}),
    ],
    "noisy_orthogonal": [
        ((8, 12, 1), 4, "consortium", {"sigma": 32}),
        ((8, 8, 3), 4, "party", {"sigma": 1}),
        ((4, 6, 3), 2, "image", {"sigma": 512}),
    ],
    "block_projection": [
        (
            (8, 12, 1),
            4,
            "consortium",
            {"matrix": "orthogonal", "matrices": "place", "noise": 100, "shuffle": True},
        ),
        ((8, 8, 3), 4, "party", {"matrix": "uniform", "matrices": "place", "noise": 0, "shuffle": True}),
        (
            (6, 6, 1),
            3,
            "consortium",
            {"matrix": "uniform", "matrices": "shared", "noise": 25, "shuffle": True},
        ),
        (
            (4, 6, 3),
            2,
            "image",
            {"matrix": "orthogonal", "matrices": "shared", "noise": 200, "shuffle": False},
        ),
    ],
    "neuracrypt": [
        ((8, 12, 1), 4, "consortium", {"depth": 4, "width": 16, "shuffle": True}),
        ((4, 6, 3), 2, "party", {"depth": 0, "width": 16, "shuffle": True}),
        ((6, 6, 1), 3, "image", {"depth": 1, "width": 16, "shuffle": False}),
    ],
    "patch_shuffle": [
        ((64, 64, 1), 8, "consortium", {}),
        ((224, 224, 3), 16, "party", {}),
        ((24, 16, 3), 4, "image", {}),
    ],
    "noise": [
        ((32, 32, 1), 8, "consortium", {}),
        ((8, 8, 3), 8, "party", {}),
        ((8, 8, 1), 4, "image", {}),
    ],
    "permuted": [
        ((16, 24, 1), 8, "consortium", {}),
        ((8, 8, 3), 4, "party", {}),
        ((6, 8, 3), 2, "image", {}),
    ],
    "plain": [((16, 16, 3), 8, "consortium", {}), ((8, 16, 1), 8, "image", {})],
}


def picture(shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return the image of every vector, uint8 [h, w, c]."""
    return (np.arange(math.prod(shape)) * 7 % 251).astype(np.uint8).reshape(shape)


def answer(sealed: NDArray[Any]) -> dict[str, Any]:
    """Return what a vector keeps of a sealed image: the digest of its bytes, or the rounded values of floats."""
    if sealed.dtype == np.uint8:
        return {
            "sha256": hashlib.sha256(sealed.tobytes()).hexdigest(),
            "first": sealed.ravel()[:8].tolist(),
        }
    return {"values": [round(float(value), 4) for value in sealed.ravel()]}


def vector(spec: Mapping[str, Any], key: bytes = KEY, row: int = ROW) -> dict[str, Any]:
    """Return the naive answer for `picture` under a spec (as JSON)."""
    shape = (spec["image_shape"][0], spec["image_shape"][1], spec["image_shape"][2])
    parts = reference_parts.parts(key, spec, row)
    sealed = reference_schemes.encrypt(spec["name"], picture(shape), spec["block"], parts, spec["options"])
    return {"spec": spec, "key": key.hex(), "row": row, "shape": list(sealed.shape), **answer(sealed)}


def specs(name: str) -> list[dict[str, Any]]:
    """Return the specs, as JSON, of a scheme's vectors."""
    result = []
    for shape, block, scope, options in CASES[name]:
        nonce = {"nonce": NONCE} if scope == "image" or name in NONCED else {}
        result.append(
            {
                "name": name,
                "version": VERSIONS[name],
                "image_shape": list(shape),
                "block": block,
                "key_scope": scope,
                "options": options | nonce,
            }
        )
    return result


def write(path: Path, vectors: list[dict[str, Any]]) -> None:
    """Write vectors to a file, one a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[\n" + ",\n".join(json.dumps(vector) for vector in vectors) + "\n]\n")


if __name__ == "__main__":
    for name in sys.argv[1:] or CASES:
        write(FOLDER / f"{name}.json", [vector(spec) for spec in specs(name)])
