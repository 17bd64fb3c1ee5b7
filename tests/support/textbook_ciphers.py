"""Ciphers of textbooks that are no schemes of this program, and how near an opened picture is."""

from __future__ import annotations

import numpy as np

from coordinator.exchange.pool import MemoryPool
from crypto.arrays import Images
from crypto.scheme import describe
from crypto.symmetry import TURNS, turned


def xored(images: Images, seed: int) -> Images:
    """Return images XORed with one keystream."""
    sealed: Images = images ^ np.random.default_rng(seed).integers(0, 256, images.shape[1:], np.uint8)
    return sealed


def added(images: Images, seed: int) -> Images:
    """Return images with one keystream added, modulo 256."""
    sealed: Images = images + np.random.default_rng(seed).integers(0, 256, images.shape[1:], np.uint8)
    return sealed


def substituted(images: Images, seed: int, *, is_own: bool = False) -> Images:
    """Return images with every value replaced by that of one table; with `is_own`, of a table of its colour."""
    rng, channels = np.random.default_rng(seed), images.shape[3]
    tables = np.stack([rng.permutation(256).astype(np.uint8) for _ in range(channels if is_own else 1)])
    sealed: Images = np.repeat(tables, channels // len(tables), 0)[np.arange(channels), images]
    return sealed


def lines_moved(images: Images, seed: int) -> Images:
    """Return images with their rows in another order, and their columns in another."""
    rng = np.random.default_rng(seed)
    rows, columns = rng.permutation(images.shape[1]), rng.permutation(images.shape[2])
    return images[:, rows][:, :, columns]


def pixels_moved(images: Images, seed: int) -> Images:
    """Return images with all pixels in another order."""
    n, height, width, channels = images.shape
    order = np.random.default_rng(seed).permutation(height * width)
    return images.reshape(n, -1, channels)[:, order].reshape(images.shape)


def planes_moved(images: Images, seed: int) -> Images:
    """Return images with the bits of each plane in an order of the plane, the same for all colours."""
    n, height, width, channels = images.shape
    flat = images.reshape(n, -1, channels)
    sealed = np.zeros_like(flat)
    for plane, order in enumerate(
        np.random.default_rng(seed).permuted([np.arange(height * width)] * 8, axis=1)
    ):
        sealed |= flat[:, order] & np.uint8(1 << plane)
    return sealed.reshape(images.shape)


def bits_moved(images: Images, seed: int) -> Images:
    """Return images with all bits of an image in another order."""
    bits = np.unpackbits(images.reshape(len(images), -1), axis=1)
    order = np.random.default_rng(seed).permutation(bits.shape[1])
    return np.packbits(bits[:, order], axis=1).reshape(images.shape)


def bits_moved_and_xored(images: Images, seed: int) -> Images:
    """Return images with all bits in another order, XORed with one keystream."""
    return xored(bits_moved(images, seed), seed + 1)


def moved_and_xored(images: Images, seed: int) -> Images:
    """Return images with all pixels in another order, XORed with one keystream."""
    return xored(pixels_moved(images, seed), seed + 1)


def moved_and_added(images: Images, seed: int) -> Images:
    """Return images with all pixels in another order, and one keystream added."""
    return added(pixels_moved(images, seed), seed + 1)


def moved_and_substituted(images: Images, seed: int, *, is_own: bool = False) -> Images:
    """Return images with all pixels in another order, and every level replaced."""
    return substituted(pixels_moved(images, seed), seed + 1, is_own=is_own)


def chained(images: Images, *, is_xor: bool = True, step: int = 1) -> Images:
    """Return images whose values are combined with the ciphertext `step` values before, one after the other."""
    sealed = images.reshape(len(images), -1).copy()
    for i in range(step, sealed.shape[1]):
        before = sealed[:, i - step]
        sealed[:, i] = sealed[:, i] ^ before if is_xor else sealed[:, i] + before
    return sealed.reshape(images.shape)


def noise(shape: tuple[int, ...], seed: int = 0) -> Images:
    """Return images in which nothing is to be found."""
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def pool_of(sealed: Images) -> MemoryPool:
    """Return ciphertexts of no scheme as a pool. The blocks are of one pixel, and mean nothing."""
    return MemoryPool(describe("plain", sealed.shape[1:], 1), sealed)


def likeness(opened: Images, plain: Images) -> float:
    """Return the median correlation of opened colour planes with their own, in the best turn and sign of all."""
    best = -1.0
    for turn in range(TURNS):
        state = turned(opened, turn)
        if state.shape == plain.shape:
            planes = [np.moveaxis(x, 3, 1).reshape(len(x) * x.shape[3], -1) for x in (state, plain)]
            one, other = (x.astype(float) for x in planes)
            one, other = one - one.mean(1, keepdims=True), other - other.mean(1, keepdims=True)
            spread = np.sqrt((one**2).sum(1) * (other**2).sum(1))
            best = max(best, abs(float(np.median((one * other).sum(1) / np.maximum(spread, 1e-9)))))
    return best
