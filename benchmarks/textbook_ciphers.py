"""The ciphers of textbooks that benchmarks/textbook.py measures: how each seals images, and the attack on it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import numpy as np

from crypto.arrays import Images, Int64Array


def stream(seed: bytes, shape: tuple[int, ...]) -> Images:
    """Return uniform bytes that a seed decides."""
    size = int(np.prod(shape))
    return np.frombuffer(hashlib.shake_256(seed).digest(size), np.uint8).reshape(shape)


def _order(seed: bytes, count: int) -> Int64Array:
    """Return a uniform order that a seed decides."""
    return np.argsort(np.frombuffer(hashlib.shake_256(seed).digest(8 * count), np.uint64), kind="stable")


def xor(images: Images, key: bytes) -> Images:
    """XOR one keystream to all images uint8 [n, h, w, c]."""
    sealed: Images = images ^ stream(key, images.shape[1:])
    return sealed


def add(images: Images, key: bytes) -> Images:
    """Add one keystream to all images, modulo 256."""
    sealed: Images = images + stream(key, images.shape[1:])
    return sealed


def table(images: Images, key: bytes) -> Images:
    """Replace every value by that of one table."""
    sealed: Images = _order(key, 256).astype(np.uint8)[images]
    return sealed


def tables(images: Images, key: bytes) -> Images:
    """Replace every value by that of a table of its colour."""
    own = np.stack([_order(key + bytes([c]), 256) for c in range(images.shape[3])]).astype(np.uint8)
    sealed: Images = own[np.arange(len(own)), images]
    return sealed


def lines(images: Images, key: bytes) -> Images:
    """Put the rows of all images in one order, and the columns in another."""
    rows, columns = _order(key + b"r", images.shape[1]), _order(key + b"c", images.shape[2])
    return images[:, rows][:, :, columns]


def pixels(images: Images, key: bytes) -> Images:
    """Put the pixels of all images in one order."""
    n, height, width, channels = images.shape
    return images.reshape(n, -1, channels)[:, _order(key, height * width)].reshape(images.shape)


def pixels_xor(images: Images, key: bytes) -> Images:
    """Put the pixels of all images in one order, and XOR one keystream."""
    return xor(pixels(images, key + b"o"), key)


def pixels_add(images: Images, key: bytes) -> Images:
    """Put the pixels of all images in one order, and add one keystream, modulo 256."""
    return add(pixels(images, key + b"o"), key)


def chained(images: Images, key: bytes) -> Images:
    """Put the pixels in one order, XOR one keystream, and XOR every value to the ciphertext before it."""
    values = pixels_xor(images, key).reshape(len(images), -1)
    return np.bitwise_xor.accumulate(values, axis=1).reshape(images.shape)


def chained_add(images: Images, key: bytes) -> Images:
    """Put the pixels in one order, add one keystream, and add to every value that of the ciphertext before it."""
    values = pixels_add(images, key).reshape(len(images), -1)
    return np.add.accumulate(values, axis=1, dtype=np.uint8).reshape(images.shape)


def pixels_table(images: Images, key: bytes) -> Images:
    """Put the pixels of all images in one order, and replace every value by that of one table."""
    return table(pixels(images, key + b"o"), key)


def pixels_tables(images: Images, key: bytes) -> Images:
    """Put the pixels of all images in one order, and replace every value by that of a table of its colour."""
    return tables(pixels(images, key + b"o"), key)


def chained_table(images: Images, key: bytes) -> Images:
    """Put the pixels in one order, replace values by one table, and XOR to each the ciphertext before it."""
    values = pixels_table(images, key).reshape(len(images), -1)
    return np.bitwise_xor.accumulate(values, axis=1).reshape(images.shape)


def planes(images: Images, key: bytes) -> Images:
    """Put the bits of every plane of all images in an order of the plane."""
    flat = images.reshape(len(images), -1, images.shape[3])
    sealed = np.zeros_like(flat)
    for plane in range(8):
        order = _order(key + bytes([plane]), flat.shape[1])
        sealed |= flat[:, order] & np.uint8(1 << plane)
    return sealed.reshape(images.shape)


def bits(images: Images, key: bytes) -> Images:
    """Put all bits of an image in one order, the same for all images."""
    unpacked = np.unpackbits(images.reshape(len(images), -1), axis=1)
    return np.packbits(unpacked[:, _order(key, unpacked.shape[1])], axis=1).reshape(images.shape)


def bits_xor(images: Images, key: bytes) -> Images:
    """Put all bits of an image in one order, and XOR one keystream."""
    return xor(bits(images, key + b"o"), key)


#: The ciphers: what it is, how it seals, and the attack on it.
CIPHERS: Mapping[str, tuple[str, Callable[[Images, bytes], Images], str]] = {
    "xor": ("one keystream, XORed", xor, "keystream"),
    "add": ("one keystream, added modulo 256", add, "keystream"),
    "table": ("one substitution of gray levels", table, "substitution"),
    "tables": ("a substitution of levels for each colour", tables, "substitution"),
    "lines": ("one order of rows, one of columns", lines, "line_order"),
    "pixels": ("one order of all pixels", pixels, "pixel_order"),
    "planes": ("one order of the pixels for each bit plane", planes, "plane_orders"),
    "bits": ("one order of all bits", bits, "bit_order"),
    "bits_xor": ("one order of all bits, one keystream, XORed", bits_xor, "bit_order"),
    "pixels_table": (
        "one order of all pixels, one substitution of gray levels",
        pixels_table,
        "order_and_table",
    ),
    "pixels_tables": (
        "one order of all pixels, a substitution of levels for each colour",
        pixels_tables,
        "order_and_table",
    ),
    "pixels_xor": ("one order of all pixels, one keystream, XORed", pixels_xor, "order_and_keystream"),
    "pixels_add": ("one order of all pixels, one keystream, added", pixels_add, "order_and_keystream"),
    "chained": ("the same, XORed, and values XORed to the ciphertext before them", chained, "chained"),
    "chained_add": (
        "the same, added, and values added to the ciphertext before them",
        chained_add,
        "chained",
    ),
    "chained_table": (
        "one order of all pixels, one substitution, and values XORed to the ciphertext before them",
        chained_table,
        "chained",
    ),
}
