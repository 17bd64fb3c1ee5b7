"""A MedMNIST file: one .npz of images and labels, split already.

    train_images val_images test_images    uint8 [n, h, w] (gray) or [n, h, w, 3] (RGB)
    train_labels val_labels test_labels    integers [n] or [n, 1], from 0
    classes                                optional: strings [k], the classes' names; else "0", "1", …

Source: Yang et al. 2023, MedMNIST v2, Scientific Data 10:41. Images are brought to one mode and one size, as those
of a folder are. Nothing in the file is unpickled. An array is read in pieces, forwards, because its bytes are usually
compressed: a file larger than memory is sealed, too, and a small one is one piece.
"""

from __future__ import annotations

import functools
import hashlib
import threading
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from crypto.errors import CipherwardError

SPLITS = ("train", "val", "test")
_PIECE = 1 << 25  # bytes read at a time; two pieces are kept
_SHAPES = "images are uint8 [n, h, w] or [n, h, w, 3], labels integers [n] or [n, 1]"
_DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)
_lock = threading.Lock()  # images are read by several threads, and one stream has one place


@dataclass(frozen=True)
class Npz:
    """The images of one split. Raises CipherwardError where the file, an array or its labels cannot be used."""

    path: Path
    size: int
    channels: int
    split: str
    public = False

    def __post_init__(self) -> None:
        _ = self.labels, self._shape

    @property
    def classes(self) -> list[str]:
        return list(self._about[0])

    @property
    def labels(self) -> np.ndarray:
        """int64 [n], index into classes."""
        return self._about[1]

    @property
    def names(self) -> list[str]:
        """The file's name, split and row; these stay in the hospital."""
        return [f"{self.path.name}/{self.split}/{row:06d}" for row in range(len(self))]

    def __len__(self) -> int:
        return len(self.labels)

    @functools.cached_property
    def _about(self) -> tuple[list[str], np.ndarray]:
        if not self.path.is_file():
            raise CipherwardError(
                f"no .npz file at {self.path}", "name a MedMNIST file, such as pneumoniamnist.npz"
            )
        labels = {split: _labels(self.path, split) for split in SPLITS}
        count = 1 + max(int(part.max(initial=0)) for part in labels.values())
        names = _array(self.path, "classes") if "classes" in _members(self.path) else None
        if names is not None and (names.dtype.kind != "U" or names.ndim != 1 or len(names) < count):
            raise CipherwardError(
                f"{self.path}: classes is {names.dtype} {names.shape}, the labels go up to {count - 1}",
                "classes holds one string for each label, or is left out",
            )
        classes = [str(i) for i in range(count)] if names is None else [str(name) for name in names]
        if len(classes) < 2:
            raise CipherwardError(
                f"{self.path} holds one class; at least two are needed", "choose another file"
            )
        return classes, labels[self.split]

    @functools.cached_property
    def _shape(self) -> tuple[int, ...]:
        """[n, h, w] or [n, h, w, 3] of the images, which are as many as the labels."""
        name = f"{self.split}_images"
        try:
            with _open(self.path, name) as stream:
                shape, fortran, dtype = _header(stream)
        except _DAMAGED as error:
            raise _unreadable(self.path, name, error) from None
        if (
            dtype != np.uint8
            or fortran
            or len(shape) not in (3, 4)
            or shape[3:] not in ((), (3,))
            or 0 in shape
        ):
            raise CipherwardError(
                f"{self.path}: {name} is {dtype} {shape}" + (" in Fortran order" if fortran else ""),
                _SHAPES,
            )
        if shape[0] != len(self.labels):
            raise CipherwardError(
                f"{self.path}: {shape[0]} images in {name}, {len(self.labels)} labels in {self.split}_labels",
                "each image needs one label, in the same order",
            )
        return shape

    def read(self, row: int) -> np.ndarray:
        """uint8 [size, size, channels]. Raises CipherwardError where the file is damaged at that row."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        each = int(np.prod(self._shape[1:]))
        rows = max(1, _PIECE // each)
        with _lock:
            try:
                piece = _piece(
                    self.path, f"{self.split}_images", self._shape, row // rows, rows, self.fingerprint()
                )
            except _DAMAGED as error:
                raise _unreadable(self.path, f"{self.split}_images", error) from None
        picture = Image.fromarray(piece[row % rows])
        mode = "L" if self.channels == 1 else "RGB"
        plain = picture if picture.mode == mode else picture.convert(mode)
        if plain.size != (self.size, self.size):
            plain = plain.resize((self.size, self.size), Image.Resampling.BILINEAR)
        return np.asarray(plain, np.uint8).reshape(self.size, self.size, self.channels)

    def fingerprint(self) -> str:
        """How the images are read, and the CRC-32 and length of each array: what a resumed sealing compares."""
        return f"npz {self.size} {self.channels} {self.split} {self._digest}"

    @functools.cached_property
    def _digest(self) -> str:
        with zipfile.ZipFile(self.path) as archive:
            arrays = sorted(f"{i.filename}:{i.CRC:08x}:{i.file_size}" for i in archive.infolist())
        return hashlib.sha256("\0".join(arrays).encode()).hexdigest()


def _members(path: Path) -> list[str]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return list(stored.files)
    except (*_DAMAGED, AttributeError, TypeError) as error:  # a single array is no archive
        raise CipherwardError(
            f"{path} is no .npz file: {type(error).__name__}",
            "name a MedMNIST file, such as pneumoniamnist.npz",
        ) from None


def _array(path: Path, name: str) -> np.ndarray:
    """A small array of the file, whole."""
    if name not in (members := _members(path)):
        raise CipherwardError(
            f"{path} has no array {name}: it holds {', '.join(members) or 'none'}", _SHAPES
        )
    try:
        with np.load(path, allow_pickle=False) as stored:
            return stored[name]
    except _DAMAGED as error:
        raise _unreadable(path, name, error) from None


def _labels(path: Path, split: str) -> np.ndarray:
    """int64 [n], read-only."""
    name = f"{split}_labels"
    labels = _array(path, name)
    if labels.ndim == 2 and labels.shape[1] > 1:
        raise CipherwardError(
            f"{path}: {name} is {labels.shape}: several labels an image",
            "choose a file with one class an image: a multi-label task is none for this model",
        )
    if labels.dtype.kind not in "iu" or labels.ndim not in (1, 2) or labels.min(initial=0) < 0:
        raise CipherwardError(f"{path}: {name} is {labels.dtype} {labels.shape}, or below 0", _SHAPES)
    whole = labels.reshape(-1).astype(np.int64)
    whole.setflags(write=False)
    return whole


def _open(path: Path, name: str) -> IO[bytes]:
    if name not in (members := _members(path)):
        raise CipherwardError(
            f"{path} has no array {name}: it holds {', '.join(members) or 'none'}", _SHAPES
        )
    return zipfile.ZipFile(path).open(f"{name}.npy")


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran order, and dtype of the array that follows; never unpickles."""
    version = np.lib.format.read_magic(stream)
    read: Any = (
        np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    )
    return read(stream)


@functools.lru_cache(maxsize=2)
def _stream(path: Path, name: str, fingerprint: str) -> tuple[IO[bytes], int]:
    """The array's file in the archive, and where its first image begins. A changed file has another fingerprint."""
    stream = _open(path, name)
    _header(stream)
    return stream, stream.tell()


@functools.lru_cache(maxsize=2)
def _piece(
    path: Path, name: str, shape: tuple[int, ...], index: int, rows: int, fingerprint: str
) -> np.ndarray:
    """uint8 [up to rows, *shape[1:]]: the piece of that index."""
    stream, begin = _stream(path, name, fingerprint)
    each = int(np.prod(shape[1:]))
    count = min(rows, shape[0] - index * rows)
    stream.seek(begin + index * rows * each)  # forwards it streams; backwards it starts over
    data = stream.read(count * each)
    if len(data) != count * each:
        raise EOFError("too short")
    return np.frombuffer(data, np.uint8).reshape(count, *shape[1:])


def _unreadable(path: Path, name: str, error: BaseException) -> CipherwardError:
    return CipherwardError(
        f"{path}: {name} cannot be read: {type(error).__name__}: {error}", f"fetch the file anew; {_SHAPES}"
    )
