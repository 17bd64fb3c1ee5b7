"""Refuse TIFF files that lack a strip or a tile, have more, or whose codes do not fit the size of one.

Libtiff and Pillow read other bytes of the file, or black, for a strip that is missing. They unfold codes up to the
size of a strip, and look at no checksum.

Source: TIFF 6.0, sections 3, 9 and 15 (strips, PackBits, tiles), and Technical Note 2 (JPEG).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from parties.sources.reading import UnusablePixelsError
from parties.sources.whole_pictures import CUT_OFF, DAMAGED, MORE, PIECE, require_whole_jpeg, unfold

# Tags of TIFF 6.0 and values of its Compression.
_WIDTH, _HEIGHT, _COMPRESSION, _SAMPLES, _PLANES, _JPEG_TABLES = 256, 257, 259, 277, 284, 347
_BIT_ORDER, _LOWEST_FIRST = 266, 2
_ROWS_A_STRIP, _TILE_WIDTH, _TILE_HEIGHT = 278, 322, 323
_STRIPS, _TILES = (273, 279), (324, 325)  # offsets and byte counts
_UNCOMPRESSED, _JPEG, _DEFLATE, _PACK_BITS = 1, 7, (8, 32946), 32773
_BITS, _PHOTOMETRIC, _YCBCR, _A_PLANE_EACH = 258, 262, 6, 2


def require_whole_tiff(file: BinaryIO, tags: Any) -> None:
    """Check that a TIFF file holds each strip or tile that it names, and that their checksums fit.

    Args:
        file: The file.
        tags: Its tags by their numbers, as Pillow reads them.

    Raises:
        UnusablePixelsError: If one is missing or damaged, or there are more.
    """
    places, counts = (_numbers(tags, tag) for tag in (_TILES if _TILES[0] in tags else _STRIPS))
    named = _parts_of_tiff(tags)
    if not places or not named:
        return
    if len(places) != named:
        raise UnusablePixelsError(CUT_OFF if len(places) < named else MORE)
    # A file of one strip may lack its length.
    if 0 in places or (named > 1 and (0 in counts or 0 < len(counts) < named)):
        raise UnusablePixelsError(CUT_OFF)
    compression = (*_numbers(tags, _COMPRESSION), _UNCOMPRESSED)[0]
    is_rare = compression != _JPEG and (
        _LOWEST_FIRST in _numbers(tags, _BIT_ORDER) or _YCBCR in _numbers(tags, _PHOTOMETRIC)
    )
    if len(counts) != named or compression not in (_JPEG, _PACK_BITS, *_DEFLATE) or is_rare:
        return
    tables = bytes(tags.get(_JPEG_TABLES, b""))
    for place, count, length in zip(places, counts, _lengths_of_parts(tags, named), strict=True):
        file.seek(place)
        if compression == _JPEG:
            require_whole_jpeg(_with_tables(file.read(count), tables))
        elif compression == _PACK_BITS:
            _require_runs(file.read(count), length)
        else:
            _require_checksum(file, count)


def _lengths_of_parts(tags: Any, parts: int) -> Iterator[int]:
    """Yield how many bytes each strip or tile of a TIFF file has, unfolded."""
    height, planes = ((*_numbers(tags, tag), 1)[0] for tag in (_HEIGHT, _PLANES))
    bits = (*_numbers(tags, _BITS), 1)
    pixel = bits[0] if planes == _A_PLANE_EACH else sum(bits[:-1]) or 1
    across, down = _size_of_parts(tags)
    row = -(-across * pixel // 8)
    strips = -(-height // down)
    for part in range(parts):
        is_last = _TILES[0] not in tags and part % strips == strips - 1
        yield row * (height - (strips - 1) * down if is_last else down)


def _size_of_parts(tags: Any) -> tuple[int, int]:
    """Return width and height of a TIFF file's strips or tiles; 0 where its tags do not say it."""
    width, height = ((*_numbers(tags, tag), 0)[0] for tag in (_WIDTH, _HEIGHT))
    if _TILES[0] in tags:
        return (*_numbers(tags, _TILE_WIDTH), 0)[0], (*_numbers(tags, _TILE_HEIGHT), 0)[0]
    return width, min((*_numbers(tags, _ROWS_A_STRIP), height)[0], height)


def _parts_of_tiff(tags: Any) -> int:
    """Return how many strips or tiles a TIFF file has by its size; 0 if its tags do not say it."""
    width, height, samples, planes = (
        (*_numbers(tags, tag), 1)[0] for tag in (_WIDTH, _HEIGHT, _SAMPLES, _PLANES)
    )
    across, down = _size_of_parts(tags)
    if across < 1 or down < 1:
        return 0
    return -(-width // across) * -(-height // down) * (samples if planes == _A_PLANE_EACH else 1)


def _numbers(tags: Any, tag: int) -> tuple[int, ...]:
    """Return a tag's whole numbers; none if it is missing."""
    value = tags.get(tag, ())
    return tuple(map(int, value)) if isinstance(value, tuple) else (int(value),)


def _with_tables(code: bytes, tables: bytes) -> bytes:
    """Return the code of a strip or tile with the tables that all of them share."""
    return b"\xff\xd8" + tables[2:].removesuffix(b"\xff\xd9") + code[2:] if tables else code


def _require_checksum(file: BinaryIO, count: int) -> None:
    """Raise UnusablePixelsError if the next bytes of a file are no zlib stream with an end and its checksum."""
    pieces = (file.read(min(PIECE, count - at)) for at in range(0, count, PIECE))
    try:
        _, has_end = unfold(pieces, None)
    except zlib.error:
        has_end = False
    if not has_end:
        raise UnusablePixelsError(DAMAGED)


def _require_runs(code: bytes, length: int) -> None:
    """Raise UnusablePixelsError if a PackBits code does not unfold to a number of bytes: libtiff cuts it off."""
    at = unfolded = 0
    while at < len(code) and unfolded < length:
        first = code[at]
        at += 2 + first if first < 128 else 2 if first > 128 else 1
        unfolded += 1 + first if first < 128 else 257 - first if first > 128 else 0
    if unfolded != length or at > len(code) or code[at:].strip(b"\0\x80"):
        raise UnusablePixelsError(DAMAGED)
