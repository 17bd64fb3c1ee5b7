"""The images of the comparison: PneumoniaMNIST, CIFAR-10 and brain MRI, split and brought to one size."""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from coordinator.model.training import PlainImages
from crypto.errors import CipherwardError
from parties.sources.source import Request, open_source

SPLITS = ("train", "val", "test")
CHANNELS = {"pneumonia": 1, "cifar": 3, "mri": 1}
_PLACES = {"pneumonia": "pneumoniamnist.npz", "cifar": "cifar10_jpeg.npz", "mri": "brain_mri"}
_SOURCES = {"pneumonia": "npz", "mri": "folder"}
_DRAW = (
    20261  # of which images a protocol of fewer takes; and of CIFAR-10's val images, which it has none of
)
_VAL = 5000


def path_of(folder: Path, name: str) -> Path:
    """Where a data set lies in the folder of the data."""
    return folder / _PLACES[name]


def read(folder: Path, name: str, size: int, counts: tuple[int, int, int]) -> dict[str, PlainImages]:
    """Images uint8 [n, size, size, c] of every split, at most counts of it (0: all), the same ones at each call.

    Raises CipherwardError where the data is not in the folder, or not what it should be.
    """
    held = {}
    for split, count in zip(SPLITS, counts, strict=True):
        if name == "cifar":
            held[split] = _cifar(path_of(folder, name), split, size, count)
            continue
        request = Request(str(path_of(folder, name)), size, CHANNELS[name], _DRAW, split, (0, 0, 0))
        source = open_source(_SOURCES[name], request)
        rows = _some(np.arange(len(source)), count)
        images = np.stack([source.read(int(row)) for row in rows])
        held[split] = PlainImages(images, np.asarray(source.labels)[rows])
    return held


def _some(rows: np.ndarray, count: int) -> np.ndarray:
    """int64 [count]: a fixed draw of rows, in order; all of them where count is 0."""
    order = np.random.default_rng(_DRAW).permutation(rows)
    return np.sort(order[: count or len(rows)])


def _cifar(path: Path, split: str, size: int, count: int) -> PlainImages:
    """CIFAR-10 from JPEG bytes; val is a fixed draw of the training images. Enlarged bicubically."""
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
            f"{path} cannot be read: {type(error).__name__}: {error}", f"fetch the file anew, with {arrays}"
        ) from None
    training = np.random.default_rng([_DRAW, 1]).permutation(np.flatnonzero(~is_test))
    rows = {"train": training[_VAL:], "val": training[:_VAL], "test": np.flatnonzero(is_test)}[split]
    rows = _some(rows, count)
    images = np.empty((len(rows), size, size, 3), np.uint8)
    for i, row in enumerate(rows):
        with Image.open(io.BytesIO(data[offsets[row] : offsets[row + 1]])) as picture:
            colour = picture.convert("RGB")
            if size != 32:
                colour = colour.resize((size, size), Image.Resampling.BICUBIC)
            images[i] = np.asarray(colour)
    return PlainImages(images, labels[rows])
