"""Read NIfTI volumes slice by slice: axial slices, anterior up, the patient's left on the left of the picture.

The volume is brought to the closest canonical orientation (nibabel: RAS+) first, so that a slice does not depend on
how the scanner stored it. Gray values are those after slope and intercept, and need a stated window unless they are
8-bit. `auto` takes its percentiles from the whole volume. The header's texts, which can hold a name, are never read.
"""

from __future__ import annotations

import functools
import io
import os
import zlib
from typing import Any, BinaryIO

import numpy as np

from coordinator.exchange.image_file import UnreadableFormatError, require_few_pixels
from crypto.arrays import AnyArray, UInt8Array
from parties.sources.catalog import file_state
from parties.sources.reading import (
    AUTO_PERCENTILES,
    NO_NUMBER,
    Reading,
    UnusablePixelsError,
    apply_window,
    aspect_of,
    scale,
)

#: Voxels of a volume, at most: 2 GiB in 32 bits. A whole-body CT has 300 million.
MAX_VOXELS = 1 << 29
#: Bytes of a header, at most: NIfTI-2 has 540, NIfTI-1 348.
_HEADER_BYTES = 540
#: Bytes behind the voxels that may be left by a program that fills up.
_FILLED_BYTES = 4096
_NIFTI_1, _NIFTI_2 = b"n+1\0", b"n+2\0\r\n\x1a\n"


def slice_count(file: BinaryIO) -> tuple[int, int, int]:
    """Return the number of axial slices of a volume, their width and their height.

    Raises:
        UnusablePixelsError: If it is no volume of gray values, or too large a one.
    """
    header = _read_header(file)
    shape = _canonical_shape(header)
    return shape[2], shape[0], shape[1]


def pixel_aspect(file: BinaryIO) -> float:
    """Return the height of the pixels of an axial slice as a share of their width."""
    header = _read_header(file)
    axes = list(_orientation(header)[:, 0].astype(int))
    sizes = np.linalg.norm(np.asarray(header.get_best_affine(), float)[:3, :3], axis=0)  # of a voxel
    return aspect_of(sizes[axes.index(1)], sizes[axes.index(0)])


def read_slice(file: BinaryIO, index: int, reading: Reading) -> UInt8Array:
    """Return an axial slice as gray values, uint8 [h, w].

    Raises:
        UnusablePixelsError: If it is no volume of gray values, needs a window, or ends too early.
    """
    status = os.fstat(file.fileno())
    volume = _read_volume(_File(file), status.st_dev, status.st_ino, *file_state(status))
    if not 0 <= index < volume.shape[2]:
        raise UnusablePixelsError(f"slice {index} of {volume.shape[2]}")
    plane = volume[:, ::-1, index].T  # rows from anterior to posterior
    if volume.dtype == np.uint8:
        return np.ascontiguousarray(plane)
    if reading.window == "auto":
        finite = volume[np.isfinite(volume)]
        if not finite.size:
            raise UnusablePixelsError(NO_NUMBER)
        low, high = np.percentile(finite, AUTO_PERCENTILES)
        return scale(plane, float(low), float(high))
    full = None
    if volume.dtype.kind in "iu" and volume.dtype.itemsize <= 2:
        bounds = np.iinfo(volume.dtype)
        full = (float(bounds.min), float(bounds.max))
    if reading.window and not np.isfinite(plane).any() and np.isfinite(volume).any():
        return np.zeros(plane.shape, np.uint8)  # a slice outside of what was scanned
    return apply_window(plane, reading.window, full)


class _File:
    """A file that is no part of a cache's key: device, inode, size and times stand for it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _File)

    def __hash__(self) -> int:
        return 0


def _read_header(file: BinaryIO) -> Any:
    """Return nibabel's header of a volume. Raises UnusablePixelsError if it is not usable."""
    import nibabel

    file.seek(0)
    start = file.read(1 << 16)
    if start.startswith(b"\x1f\x8b"):
        start = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(start, _HEADER_BYTES)
    if start[344:348] != _NIFTI_1 and start[4:12] != _NIFTI_2:
        raise UnreadableFormatError("a compressed file that holds no NIfTI volume")
    kind: Any = nibabel.Nifti1Header if start[344:348] == _NIFTI_1 else nibabel.Nifti2Header
    try:
        header = kind.from_fileobj(io.BytesIO(start[: kind.sizeof_hdr]), check=False)
        shape = tuple(int(n) for n in header.get_data_shape())
        dtype = header.get_data_dtype()
    except Exception as error:  # nibabel quotes the header in its errors
        raise UnusablePixelsError(f"its NIfTI header is damaged ({type(error).__name__})") from None
    if header["bitpix"] not in (
        0,
        8 * dtype.itemsize,
    ):  # voxels of other bytes would be noise; some write 0
        raise UnusablePixelsError("its NIfTI header is damaged (datatype and bitpix)")
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise UnusablePixelsError("its voxels are no gray values")
    if len(shape) == 4 and shape[3] == 1:
        shape = shape[:3]
    if min(shape, default=0) < 1:
        raise UnusablePixelsError("its NIfTI header is damaged (dimensions)")
    if len(shape) != 3:
        what = "split a series into volumes" if len(shape) > 3 else "save a single slice as a volume of one"
        raise UnusablePixelsError(f"it has {len(shape)} dimensions; a volume has 3: {what}")
    require_few_pixels(shape[0], shape[1])
    if shape[0] * shape[1] * shape[2] > MAX_VOXELS:
        raise UnusablePixelsError(f"more than {MAX_VOXELS:,} voxels")
    return header


def _orientation(header: Any) -> AnyArray:
    """Return nibabel's description of the axes that brings the volume to RAS+."""
    import nibabel

    try:
        io_orientation: Any = nibabel.orientations.io_orientation
        found: AnyArray = io_orientation(header.get_best_affine())
    except Exception as error:
        raise UnusablePixelsError(f"its orientation is damaged ({type(error).__name__})") from None
    if np.isnan(found).any():
        raise UnusablePixelsError("its orientation is not known")
    return found


def _canonical_shape(header: Any) -> tuple[int, int, int]:
    shape, axes = header.get_data_shape()[:3], _orientation(header)[:, 0].astype(int)
    width, height, depth = (int(shape[list(axes).index(axis)]) for axis in range(3))
    return width, height, depth


@functools.lru_cache(maxsize=2)  # slices are read in order, by a few threads
def _read_volume(source: _File, *_identity: int) -> AnyArray:
    """Return a volume [x, y, z] in RAS+ orientation; uint8 if the file's values are, and not rescaled."""
    import nibabel

    file = source.file
    header = _read_header(file)
    shape, dtype = header.get_data_shape()[:3], header.get_data_dtype()
    offset, length = header["vox_offset"], int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if not header.sizeof_hdr <= offset <= 1 << 24:  # no number is in no range
        raise UnusablePixelsError("its NIfTI header is damaged (vox_offset)")
    start = int(offset)
    # What is shorter than a slice may be left by a program that fills up.
    rest = max(_FILLED_BYTES, int(shape[0]) * int(shape[1]) * dtype.itemsize)
    file.seek(0)
    is_compressed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    if is_compressed:
        data = _inflate(file, start + length, rest)
    else:
        data = file.read(start + length)
        _require_no_more(os.fstat(file.fileno()).st_size - start - length, rest)
    if len(data) < start + length:
        raise UnusablePixelsError("it is cut off")
    volume: AnyArray = np.frombuffer(data, dtype, offset=start, count=length // dtype.itemsize).reshape(
        shape, order="F"
    )
    slope, intercept = header.get_slope_inter()
    if (slope, intercept) not in ((None, None), (1.0, 0.0)):
        volume = volume.astype(np.float32) * np.float32(slope or 1.0) + np.float32(intercept or 0.0)
    turn: Any = nibabel.orientations.apply_orientation
    return np.asarray(turn(volume, _orientation(header)))


def _inflate(file: BinaryIO, length: int, rest: int) -> bytes:
    """Return the first `length` bytes of a gzip file, and not more. It may have several members.

    The last member is read to its end, where its checksum is: otherwise damaged voxels are taken for good ones.

    Raises:
        UnusablePixelsError: If `rest` bytes or more follow in the last member, or it has no end.
    """
    inflater, parts, missing = zlib.decompressobj(zlib.MAX_WBITS | 16), [], length
    pending = b""
    while missing:
        chunk = pending or file.read(1 << 20)
        if not chunk:
            break
        if inflater.eof:
            inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
        part = inflater.decompress(chunk, missing)
        pending = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
        parts.append(part)
        missing -= len(part)
    more = 0
    while not missing and not inflater.eof:
        if not (chunk := pending or file.read(1 << 20)):
            raise UnusablePixelsError("it is cut off")
        more += len(inflater.decompress(chunk, rest))
        pending = inflater.unconsumed_tail
        _require_no_more(more, rest)
    return b"".join(parts)


def _require_no_more(more: int, rest: int) -> None:
    """Raise UnusablePixelsError if `rest` bytes or more follow the voxels: volumes or slices would be left out."""
    if more >= rest:
        raise UnusablePixelsError("it holds more voxels than its header names")
