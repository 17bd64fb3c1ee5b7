"""Schemes that nobody published, as Python functions: what the audit as a library is tried on."""

from __future__ import annotations

import hmac

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from crypto.arrays import Images
from crypto.key import SecretKey

#: Side of the blocks of `mosaic`, in pixels.
BLOCK = 8


def mosaic(images: Images, key: bytes) -> Images:
    """Shuffle the blocks of every image, and the values in all of them alike: one key for all images."""
    secret = SecretKey(key)
    n, height, width, channels = images.shape
    down, across = height // BLOCK, width // BLOCK
    blocks = images.reshape(n, down, BLOCK, across, BLOCK, channels).transpose(0, 1, 3, 2, 4, 5)
    flat = blocks.reshape(n, down * across, -1)
    flat = flat[:, secret.permutation("blocks", down * across)][
        :, :, secret.permutation("values", flat.shape[2])
    ]
    tiles = flat.reshape(n, down, across, BLOCK, BLOCK, channels).transpose(0, 1, 3, 2, 4, 5)
    return np.ascontiguousarray(tiles.reshape(images.shape))


def moved(images: Images, secret: SecretKey) -> Images:
    """Shuffle the blocks of every image alike, and leave their values as they are."""
    n, height, width, channels = images.shape
    down, across = height // BLOCK, width // BLOCK
    blocks = images.reshape(n, down, BLOCK, across, BLOCK, channels).transpose(0, 1, 3, 2, 4, 5)
    flat = blocks.reshape(n, down * across, BLOCK, BLOCK, channels)
    flat = flat[:, secret.permutation("blocks", down * across)]
    grid = flat.reshape(n, down, across, BLOCK, BLOCK, channels).transpose(0, 1, 3, 2, 4, 5)
    return np.ascontiguousarray(grid).reshape(images.shape)


def stream(images: Images, key: bytes) -> Images:
    """Encrypt every image by AES-CTR under a nonce that is a MAC of it: nothing but its repetition shows."""
    return np.stack([_stream(image, key) for image in images])


def unstream(images: Images, key: bytes, plain: Images) -> Images:
    """Undo `stream`, whose nonces are told by the plain images."""
    return np.stack([_stream(sealed, key, image) for sealed, image in zip(images, plain, strict=True)])


def _stream(image: Images, key: bytes, nonce_of: Images | None = None) -> Images:
    nonce = hmac.digest(key, (image if nonce_of is None else nonce_of).tobytes(), "sha256")[:16]
    cipher = Cipher(algorithms.AES(key), modes.CTR(nonce)).encryptor()
    return np.frombuffer(cipher.update(image.tobytes()), np.uint8).reshape(image.shape)


def identity(images: Images, key: bytes) -> Images:
    """Encrypt nothing."""
    return images.copy()


def keyless(images: Images, key: bytes) -> Images:
    """Encrypt as `stream` does, whatever the key."""
    return stream(images, bytes(32))


def one_bit(images: Images, key: bytes) -> Images:
    """Encrypt as `stream` does, under one of two keys."""
    return stream(images, bytes([key[0] & 1]) * 32)
