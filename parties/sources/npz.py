"""A MedMNIST file: one .npz of images and labels, split already.

    train_images val_images test_images    uint8 [n, h, w] (gray) or [n, h, w, 3] (RGB)
    train_labels val_labels test_labels    integers [n] or [n, 1], from 0; without classes below 1000
    classes                                optional: strings [k], the classes' names; else "0", "1", …

Source: Yang et al. 2023, MedMNIST v2, Scientific Data 10:41. Images are brought to one mode and one size, as those
of a folder are. Nothing in the file is unpickled. An array is read in pieces, forwards, because its bytes are usually
compressed: a file larger than memory is sealed, too, and a small one is one piece.
"""

from __future__ import annotations

import functools
import hashlib
import lzma
import threading
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from crypto.errors import CipherwardError

SPLITS = ("train", "val", "test")
_PIECE = 1 << 25  # bytes read at a time; two pieces are kept
_MOST = 1000  # classes of a file that names none: a label above is more likely a patient's number
_SHAPES = "images are uint8 [n, h, w] or [n, h, w, 3], labels integers [n] or [n, 1]"
# RuntimeError is what zipfile raises at an encrypted array, and at a compression that it does not know.
_UNPACKING = (RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)
_DAMAGED = (OSError, ValueError, KeyError, EOFError, *_UNPACKING)
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
        named = "classes" in _members(self.path)
        if not named and count > _MOST:
            raise CipherwardError(
                f"{self.path}: the labels go up to {count - 1}, and no classes are named",
                f"labels are the numbers of classes, below {_MOST}; more need names, in the array classes",
            )
        classes = _names(self.path, count) if named else [str(i) for i in range(count)]
        if len(classes) < 2:
            raise CipherwardError(
                f"{self.path} holds one class; at least two are needed", "choose another file"
            )
        own = labels[self.split].astype(np.int64)  # only now: 2^63 and more would come out below 0
        own.setflags(write=False)
        return classes, own

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

    @functools.cached_property
    def _damage(self) -> CipherwardError | None:
        """What is wrong with the images' bytes: an archive tells at their end, when the first are long in use."""
        name = f"{self.split}_images"
        try:
            with _open(self.path, name) as stream:
                while stream.read(_PIECE):
                    pass
        except _DAMAGED as error:
            return _unreadable(self.path, name, error)
        return None

    def read(self, row: int) -> np.ndarray:
        """uint8 [size, size, channels]. Raises CipherwardError where the split's images are damaged anywhere."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        each = int(np.prod(self._shape[1:]))
        rows = max(1, _PIECE // each)
        with _lock:
            if self._damage:
                raise self._damage
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


def _names(path: Path, count: int) -> list[str]:
    """The names of at least `count` classes, each of which a manifest takes."""
    names = _array(path, "classes")
    if names.dtype.kind != "U" or names.ndim != 1 or len(names) < count:
        raise CipherwardError(
            f"{path}: classes is {names.dtype} {names.shape}, the labels go up to {count - 1}",
            "classes holds one string for each label, or is left out",
        )
    try:
        classes = [str(name) for name in names]
    except (SystemError, ValueError) as error:  # code points that are none
        raise _unreadable(path, "classes", error) from None
    for name, times in Counter(classes).items():
        # They become folders when a set is unsealed: what crypto/sets/dataset.py refuses in a manifest, and no two in one.
        if not name or name.startswith(".") or "/" in name or "\\" in name or "\0" in name:
            raise CipherwardError(
                f"{path}: class name {name!r} cannot be a folder's",
                "a name is not empty, begins with no dot and holds neither slash nor backslash",
            )
        if times > 1:
            raise CipherwardError(
                f"{path}: {times} classes are named {name!r}", "each class needs its own name"
            )
    return classes


def _labels(path: Path, split: str) -> np.ndarray:
    """integers [n], of the file's dtype."""
    name = f"{split}_labels"
    labels = _array(path, name)
    if labels.ndim == 2 and labels.shape[1] > 1:
        raise CipherwardError(
            f"{path}: {name} is {labels.shape}: several labels an image",
            "choose a file with one class an image: a multi-label task is none for this model",
        )
    if labels.dtype.kind not in "iu" or labels.ndim not in (1, 2) or labels.min(initial=0) < 0:
        raise CipherwardError(f"{path}: {name} is {labels.dtype} {labels.shape}, or below 0", _SHAPES)
    return labels.reshape(-1)


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
