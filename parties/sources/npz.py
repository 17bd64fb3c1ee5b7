"""A MedMNIST file: one .npz of images and labels, split already.

    train_images val_images test_images    uint8 [n, h, w] (gray) or [n, h, w, 3] (RGB)
    train_labels val_labels test_labels    integers [n] or [n, 1], from 0; below 1000 if no class names are given
    classes                                optional: strings [k], the class names; without it "0", "1", …

Source: Yang et al. 2023, MedMNIST v2, Scientific Data 10:41. Images are brought to one mode and one size, like those
of a folder. Nothing in the file is unpickled. Arrays are usually compressed, so they are read forwards, in pieces.
That way a file larger than memory can be sealed, and a small file is one piece. A shape is believed only if the
archive's directory names as many bytes, because a few bytes can claim an array of any size.
"""

from __future__ import annotations

import functools
import hashlib
import math
import threading
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from coordinator.exchange.image_file import UnreadableFormatError, open_regular, require_few_pixels
from crypto.archive import require_bounded_method
from crypto.arrays import AnyArray, Int64Array, UInt8Array
from crypto.errors import CipherwardError
from crypto.plural import counted
from parties.sources.catalog import FileStates, file_state
from parties.sources.class_names import require_usable_names
from parties.sources.picture import read_error

SPLITS = ("train", "val", "test")
#: Bytes of an image array that are read at a time, 32 MiB. Two pieces are kept in memory.
PIECE_BYTES = 1 << 25
# Classes of a file that names none: a larger label is more likely a patient's number.
_MAX_UNNAMED_CLASSES = 1000
#: Bytes that the labels of a split, or the class names, may have: labels of 33 million images.
_MAX_SMALL_BYTES = 1 << 28
_SHAPES = "images are uint8 [n, h, w] or [n, h, w, 3], labels integers [n] or [n, 1]"
# zipfile raises RuntimeError for an encrypted array, and for a compression method that it does not know.
_UNPACKING_ERRORS = (RuntimeError, zipfile.BadZipFile, zlib.error)
_DAMAGE_ERRORS = (OSError, ValueError, KeyError, EOFError, *_UNPACKING_ERRORS)
_lock = threading.Lock()  # several threads read images, and one stream has one position


@dataclass(frozen=True)
class Npz:
    """The images of one split of a file. Raises CipherwardError if the file, an array or its labels are unusable."""

    path: Path
    size: int
    channels: int
    split: str
    public = False

    def __post_init__(self) -> None:
        _ = self.labels, self._shape

    @property
    def classes(self) -> list[str]:
        """The class names, by label."""
        return list(self._classes_and_labels[0])

    @property
    def labels(self) -> Int64Array:
        """int64 [n], index into classes."""
        return self._classes_and_labels[1]

    @property
    def names(self) -> list[str]:
        """The file's name, split and row. They stay in the hospital."""
        return [f"{self.path.name}/{self.split}/{row:06d}" for row in range(len(self))]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    @functools.cached_property
    def _classes_and_labels(self) -> tuple[list[str], Int64Array]:
        if not self.path.is_file():
            raise CipherwardError(
                f"no .npz file at {self.path}", "name a MedMNIST file, such as pneumoniamnist.npz"
            )
        labels = {split: _read_labels(self.path, split) for split in SPLITS}
        count = 1 + max(int(part.max(initial=0)) for part in labels.values())
        has_names = "classes" in _array_names(self.path)
        if not has_names and count > _MAX_UNNAMED_CLASSES:
            raise CipherwardError(
                f"{self.path}: the labels go up to {count - 1}, and no classes are named",
                f"labels are class numbers below {_MAX_UNNAMED_CLASSES}; to use more, add names in the array classes",
            )
        classes = _read_class_names(self.path, count) if has_names else [str(i) for i in range(count)]
        if len(classes) < 2:
            raise CipherwardError(
                f"{self.path} holds one class; at least two are needed", "choose another file"
            )
        split_labels = labels[self.split].astype(
            np.int64
        )  # converted after the check: 2^63 would become negative
        split_labels.setflags(write=False)
        return classes, split_labels

    @property
    def names_classes(self) -> bool:
        """Whether the file names its classes, so that one may have no image here."""
        return "classes" in _array_names(self.path)

    @property
    def _array(self) -> str:
        """The name of the split's image array."""
        return f"{self.split}_images"

    @property
    def is_rgb(self) -> bool:
        """Whether the file's images have three channels."""
        return len(self._shape) == 4

    @property
    def size_text(self) -> str:
        """Width and height of the file's images, such as 28×28."""
        return f"{self._shape[2]}×{self._shape[1]}"

    @property
    def side(self) -> int:
        """The longer side of the file's images, in pixels."""
        return max(self._shape[1:3])

    @functools.cached_property
    def _shape(self) -> tuple[int, ...]:
        """[n, h, w] or [n, h, w, 3] of the images. There are as many as labels."""
        try:
            shape, is_fortran, dtype = _checked_header(self.path, self._array)
        except _DAMAGE_ERRORS as error:
            raise _damaged_error(self.path, self._array, error) from None
        is_image_shape = len(shape) in (3, 4) and shape[3:] in ((), (3,)) and 0 not in shape
        if dtype != np.uint8 or is_fortran or not is_image_shape:
            order = " in Fortran order" if is_fortran else ""
            raise CipherwardError(f"{self.path}: {self._array} is {dtype} {shape}{order}", _SHAPES)
        if shape[0] != len(self.labels):
            raise CipherwardError(
                f"{self.path}: {counted(shape[0], 'image')} in {self._array}, "
                f"{counted(len(self.labels), 'label')} in {self.split}_labels",
                "each image needs one label, in the same order",
            )
        try:
            require_few_pixels(shape[2], shape[1])
        except UnreadableFormatError as error:
            raise CipherwardError(f"{self.path}: {self._array}: {error}", _SHAPES) from None
        return shape

    @functools.cached_property
    def _damage(self) -> CipherwardError | None:
        """The error if the images' bytes are damaged. The archive's checksum is known only after the last byte."""
        try:
            with open_array(self.path, self._array) as stream:
                while stream.read(PIECE_BYTES):
                    pass
        except _DAMAGE_ERRORS as error:
            return _damaged_error(self.path, self._array, error)
        return None

    def read(self, row: int) -> UInt8Array:
        """Return an image as uint8 [size, size, channels].

        Raises:
            CipherwardError: If the split's images are damaged anywhere.
            IndexError: If there is no such row.
        """
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        image_bytes = int(np.prod(self._shape[1:]))
        piece_rows = max(1, PIECE_BYTES // image_bytes)
        with _lock:
            if self._damage:
                raise self._damage
            try:
                piece = read_piece(
                    self.path, self._array, self._shape, row // piece_rows, piece_rows, self.fingerprint()
                )
            except _DAMAGE_ERRORS as error:
                raise _damaged_error(self.path, self._array, error) from None
        picture = Image.fromarray(piece[row % piece_rows])
        mode = "L" if self.channels == 1 else "RGB"
        plain = picture if picture.mode == mode else picture.convert(mode)
        if plain.size != (self.size, self.size):
            plain = plain.resize((self.size, self.size), Image.Resampling.BILINEAR)
        return np.asarray(plain, np.uint8).reshape(self.size, self.size, self.channels)

    def fingerprint(self) -> str:
        """Return a text that a resumed sealing compares: how images are read, CRC-32 and length of each array."""
        return f"npz {self.size} {self.channels} {self.split} {self._digest}"

    def states(self) -> FileStates:
        """Return the state of the file."""
        try:
            return {self.path.name: file_state(self.path.stat())}
        except OSError as error:
            raise read_error(self.path, error) from None

    def content(self) -> str:
        """Return nothing: the fingerprint holds a checksum of every array."""
        return ""

    @functools.cached_property
    def _digest(self) -> str:
        with zipfile.ZipFile(self.path) as archive:
            arrays = sorted(f"{i.filename}:{i.CRC:08x}:{i.file_size}" for i in archive.infolist())
        return hashlib.sha256("\0".join(arrays).encode()).hexdigest()


def open_array(path: Path, name: str) -> IO[bytes]:
    """Open an array's file inside the archive, at its header. Raises CipherwardError if there is no such array."""
    _require_array(path, name)
    archive = zipfile.ZipFile(path)
    require_bounded_method(archive.getinfo(f"{name}.npy"))
    return archive.open(f"{name}.npy")


@functools.lru_cache(maxsize=2)
def image_stream(path: Path, name: str, fingerprint: str) -> tuple[IO[bytes], int]:  # noqa: ARG001 - part of the key
    """Return an array's file inside the archive, and the position of its first image.

    The stream stays open for further calls. A changed file has another fingerprint, and is opened anew.
    """
    stream = open_array(path, name)
    _read_header(stream)
    return stream, stream.tell()


@functools.lru_cache(maxsize=2)
def read_piece(
    path: Path, name: str, shape: tuple[int, ...], index: int, rows: int, fingerprint: str
) -> UInt8Array:
    """Return piece `index` of an image array, uint8 [up to rows, *shape[1:]]. The last two pieces are kept."""
    stream, begin = image_stream(path, name, fingerprint)
    image_bytes = int(np.prod(shape[1:]))
    count = min(rows, shape[0] - index * rows)
    stream.seek(
        begin + index * rows * image_bytes
    )  # seeking forwards streams; seeking backwards starts over
    data = stream.read(count * image_bytes)
    if len(data) != count * image_bytes:
        raise EOFError("too short")
    return np.frombuffer(data, np.uint8).reshape(count, *shape[1:])


def _array_names(path: Path) -> list[str]:
    """Return the names of a file's arrays. Only the archive's directory is read, no array."""
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except (*_DAMAGE_ERRORS, NotImplementedError) as error:
        raise CipherwardError(
            f"{path} is no .npz file: {type(error).__name__}",
            "name a MedMNIST file, such as pneumoniamnist.npz",
        ) from None


def _require_array(path: Path, name: str) -> None:
    if name not in (names := _array_names(path)):
        raise CipherwardError(f"{path} has no array {name}: it holds {', '.join(names) or 'none'}", _SHAPES)


def _checked_header(path: Path, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return an array's shape, whether it is in Fortran order, and its dtype.

    Raises:
        ValueError: If the array holds other than its shape says: NumPy would allocate what the shape says first.
    """
    with open_array(path, name) as stream:
        shape, is_fortran, dtype = _read_header(stream)
        begin = stream.tell()
    if dtype.hasobject:
        return shape, is_fortran, dtype
    with zipfile.ZipFile(path) as archive:
        stored = archive.getinfo(f"{name}.npy").file_size - begin
    if math.prod(shape) * dtype.itemsize != stored:
        raise ValueError(f"{dtype} {shape} does not fit {stored} bytes")
    return shape, is_fortran, dtype


def _read_array(path: Path, name: str) -> AnyArray:
    """Return a small array of the file as a whole. Nothing is allocated before its size is checked."""
    _require_array(path, name)
    try:
        shape, _, dtype = _checked_header(path, name)
        if dtype.hasobject:
            raise ValueError("it holds pickled objects, which are never opened")
        if math.prod(shape) * dtype.itemsize > _MAX_SMALL_BYTES:
            raise ValueError(f"{dtype} {shape} is larger than {_MAX_SMALL_BYTES >> 20} MiB")
        with open_array(path, name) as stream:
            array: AnyArray = np.lib.format.read_array(stream, allow_pickle=False)
    except _DAMAGE_ERRORS as error:
        raise _damaged_error(path, name, error) from None
    return array


def _read_class_names(path: Path, count: int) -> list[str]:
    """Return the names of at least `count` classes. Each is a name that a manifest accepts."""
    names = _read_array(path, "classes")
    if names.dtype.kind != "U" or names.ndim != 1 or len(names) < count:
        raise CipherwardError(
            f"{path}: classes is {names.dtype} {names.shape}, the labels go up to {count - 1}",
            "classes holds one string for each label, or is left out",
        )
    try:
        classes = [str(name) for name in names]
    except (SystemError, ValueError) as error:  # invalid code points
        raise _damaged_error(path, "classes", error) from None
    require_usable_names(classes, str(path))
    return classes


def _read_labels(path: Path, split: str) -> AnyArray:
    """Return a split's labels, integers [n] of the file's dtype, none below 0."""
    name = f"{split}_labels"
    labels = _read_array(path, name)
    if labels.ndim == 2 and labels.shape[1] > 1:
        raise CipherwardError(
            f"{path}: {name} is {labels.shape}: several labels an image",
            "choose a file with one class an image: this model does not support multi-label tasks",
        )
    if labels.dtype.kind not in "iu" or labels.ndim not in (1, 2):
        raise CipherwardError(f"{path}: {name} is {labels.dtype} {labels.shape}", _SHAPES)
    if (lowest := labels.min(initial=0)) < 0:
        raise CipherwardError(f"{path}: {name} holds the label {lowest}", _SHAPES)
    return labels.reshape(-1)


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, whether in Fortran order, and dtype of the array that follows. Never unpickles."""
    version = np.lib.format.read_magic(stream)
    read: Any = (
        np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    )
    header: tuple[tuple[int, ...], bool, np.dtype[Any]] = read(stream)
    return header


def _damaged_error(path: Path, name: str, error: BaseException) -> CipherwardError:
    return CipherwardError(
        f"{path}: {name} cannot be read: {type(error).__name__}: {error}",
        f"fetch the file again; {_SHAPES}",
    )
