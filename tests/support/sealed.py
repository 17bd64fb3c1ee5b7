"""Forty small images, sealed in five shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from crypto.scheme import describe
from crypto.sets.writer import seal_images

SHAPE = (16, 16, 1)


N = 40


IMAGES = np.random.default_rng(3).integers(0, 256, (N, *SHAPE), dtype=np.uint8)


LABELS = np.arange(N) % 3


def source(row):
    return IMAGES[row]


def seal(folder: Path, key, read=source, spec=None, name="a source", progress=lambda n: None):
    spec = spec or describe("block_pixel_shuffle", SHAPE, 8)
    # 8 images a shard: five shards.
    return seal_images(
        folder, read, LABELS, ["x", "y", "z"], key, spec, name, progress, shard_bytes=8 * 256
    )


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def spoilt(data: bytes, at: int, bit: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
