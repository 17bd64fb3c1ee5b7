"""The images of the comparison: PneumoniaMNIST, CIFAR-10 and brain MRI, split and brought to one size."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from coordinator.exchange.image_file import open_image_bytes
from coordinator.model.training import PlainImages
from crypto.arrays import Rows
from crypto.errors import CipherwardError
from parties.sources.source import Request, open_source

SPLITS = ("train", "val", "test")
CHANNELS = {"pneumonia": 1, "cifar": 3, "mri": 1}
_PLACES = {"pneumonia": "pneumoniamnist.npz", "cifar": "cifar10_jpeg.npz", "mri": "brain_mri"}
_SOURCES = {"pneumonia": "npz", "mri": "folder"}
# Seed of the draw of images if a protocol takes fewer, and of CIFAR-10's val images, which the data set lacks.
_SEED = 20261
_VAL_IMAGES = 5000  # of CIFAR-10's training images


def path_of(folder: Path, name: str) -> Path:
    """Return the path of a data set in the folder of the data."""
    return folder / _PLACES[name]


def read(folder: Path, name: str, size: int, counts: tuple[int, int, int]) -> dict[str, PlainImages]:
    """Return the images of every split, uint8 [n, size, size, c], the same ones at each call.

    Args:
        folder: The folder of the data.
        name: The data set: pneumonia, cifar or mri.
        size: Side of the images in pixels.
        counts: Most images of train, val and test; 0 means all.

    Raises:
        CipherwardError: If the data is not in the folder, or cannot be used.
    """
    splits = {}
    for split, count in zip(SPLITS, counts, strict=True):
        if name == "cifar":
            splits[split] = _cifar(path_of(folder, name), split, size, count)
            continue
        request = Request(str(path_of(folder, name)), size, CHANNELS[name], _SEED, split, (0, 0, 0))
        source = open_source(_SOURCES[name], request)
        rows = _draw_rows(np.arange(len(source)), count)
        images = np.stack([source.read(int(row)) for row in rows])
        splits[split] = PlainImages(images, np.asarray(source.labels)[rows])
    return splits


def _draw_rows(rows: Rows, count: int) -> Rows:
    """Return a fixed draw of rows, int64 [count], rising; all of them if count is 0."""
    order = np.random.default_rng(_SEED).permutation(rows)
    return np.sort(order[: count or len(rows)])


def _cifar(path: Path, split: str, size: int, count: int) -> PlainImages:
    """Return a split of CIFAR-10 from JPEG bytes, enlarged bicubically. Val is a fixed draw of training images."""
    arrays = "the arrays jpeg, offsets, labels and is_test"
    if not path.is_file():
        raise CipherwardError(
            f"no .npz file at {path}", f"put CIFAR-10 there as {arrays}, or leave cifar out of --data"
        )
    try:
        with np.load(path, allow_pickle=False) as stored:
            data, offsets = stored["jpeg"].tobytes(), stored["offsets"]
            labels, is_test = stored["labels"].astype(np.int64), stored["is_test"]
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise CipherwardError(
            f"{path} cannot be read: {type(error).__name__}: {error}",
            f"fetch the file again, with {arrays}",
        ) from None
    training = np.random.default_rng([_SEED, 1]).permutation(np.flatnonzero(~is_test))
    rows = {
        "train": training[_VAL_IMAGES:],
        "val": training[:_VAL_IMAGES],
        "test": np.flatnonzero(is_test),
    }[split]
    rows = _draw_rows(rows, count)
    images = np.empty((len(rows), size, size, 3), np.uint8)
    for i, row in enumerate(rows):
        with open_image_bytes(data[offsets[row] : offsets[row + 1]]) as picture:
            colour = picture.convert("RGB")
            if size != 32:
                colour = colour.resize((size, size), Image.Resampling.BICUBIC)
            images[i] = np.asarray(colour)
    return PlainImages(images, labels[rows])
