"""Forty small images, sealed in five shards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from crypto.arrays import Images, Rows, UInt8Array
from crypto.key import SecretKey
from crypto.scheme import describe
from crypto.sets.dataset import SealedDataset
from crypto.sets.shard_sealer import ReadImage
from crypto.sets.writer import seal_images
from crypto.spec import SchemeSpec

SHAPE = (16, 16, 1)
COUNT = 40
IMAGES: Images = np.random.default_rng(3).integers(0, 256, (COUNT, *SHAPE), dtype=np.uint8)
LABELS = np.arange(COUNT) % 3


def read_image(row: int) -> UInt8Array:
    """Return one of the images."""
    image: UInt8Array = IMAGES[row]
    return image


def seal(
    folder: Path,
    key: SecretKey,
    read: ReadImage = read_image,
    spec: SchemeSpec | None = None,
    name: str = "a source",
    on_progress: Callable[[int], None] = lambda done: None,
) -> tuple[SealedDataset, Rows]:
    """Seal the images, eight a shard: the set, and the source image of each of its rows."""
    spec = spec or describe("block_pixel_shuffle", SHAPE, 8)
    return seal_images(
        folder, read, LABELS, ["x", "y", "z"], key, spec, name, on_progress, shard_bytes=8 * 256
    )


def contents(folder: Path) -> dict[str, bytes]:
    """Return the contents of a folder's files by name."""
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def flip_bit(data: bytes, position: int, bit: int) -> bytes:
    """Return data with one bit of the byte at a position flipped."""
    return data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :]
