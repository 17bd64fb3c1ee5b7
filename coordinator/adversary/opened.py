"""From a recovered key to an attack's guess: open the sealed images with it and report it.

A key is a table, as most schemes have it, the matrix of `orthogonal`, places and matrices, a keystream, a
substitution of levels, an order of bits, or one of these over which values were chained. Every attack that recovers
a key opens its rows here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from coordinator.adversary.contract import Fit, Guess, Knowledge, Recovered
from crypto.arrays import AnyArray, BoolArray, Float32Array, Images, Int64Array, UInt8Array
from crypto.cipher import MatrixCipher
from crypto.kernels.chaining import Chaining
from crypto.kernels.executors import apply
from crypto.projection_cipher import ProjectionCipher
from crypto.scheme import load
from crypto.spec import SchemeSpec

__all__ = [
    "Key",
    "RecoveredBits",
    "RecoveredChained",
    "RecoveredLevels",
    "RecoveredMatrix",
    "RecoveredProjection",
    "RecoveredStream",
    "key_arrays",
    "open_bits",
    "open_images",
    "open_levels",
    "open_rows",
    "open_stream",
    "put_in_order",
]


@dataclass(frozen=True)
class RecoveredMatrix:
    """The key of a scheme that multiplies every block by one matrix.

    Attributes:
        matrix: float32 [V, V], orthogonal on the directions that are known, with sealed block = plain block · matrix.
        fits: how well it explains what was measured.
    """

    matrix: Float32Array
    fits: tuple[Fit, ...] = ()


@dataclass(frozen=True)
class RecoveredProjection:
    """The key of a scheme that multiplies the rows of every block by a matrix of its place, and moves blocks.

    Attributes:
        matrices: float32 [N, W, W], by place of the plain image, with sealed row = plain row · matrix.
        order: int64 [N]: block i of the sealed image is block order[i] of the plain one.
        offset: Mean of the noise, in gray levels.
        fits: how well it explains what was measured.
    """

    matrices: Float32Array
    order: Int64Array
    offset: float
    fits: tuple[Fit, ...] = ()


@dataclass(frozen=True)
class RecoveredStream:
    """A keystream that was added to every image modulo 256, once its pixels were moved. A XORed one is a table.

    Attributes:
        stream: uint8 [h, w, c], in the order of the plain image.
        fits: how well it explains what was measured.
        order: int64 [P]: pixel i of the plain image is pixel order[i] of the sealed one. None keeps them.
    """

    stream: UInt8Array
    fits: tuple[Fit, ...] = ()
    order: Int64Array | None = None


@dataclass(frozen=True)
class RecoveredLevels:
    """A substitution of gray levels that sealed every image, whose pixels may have been moved.

    Attributes:
        levels: uint8 [c, 256], the plain level of each sealed one, by colour.
        fits: how well it explains what was measured.
        order: int64 [P]: pixel i of the plain image is pixel order[i] of the sealed one. None keeps them.
    """

    levels: UInt8Array
    fits: tuple[Fit, ...] = ()
    order: Int64Array | None = None


@dataclass(frozen=True)
class RecoveredBits:
    """An order of all bits of an image, some of which may be flipped.

    Bit k of value v is bit 8 v + k: values in the order of the array, the lowest bit first.

    Attributes:
        order: int64 [V, 8]: bit k of value v of the plain image is bit order[v, k] of the sealed one; -1 where that
            is not known.
        fits: how well it explains what was measured.
        flips: bool [V, 8], the bits of the plain image that are flipped. None flips nothing.
    """

    order: Int64Array
    fits: tuple[Fit, ...] = ()
    flips: BoolArray | None = None


@dataclass(frozen=True)
class RecoveredChained:
    """A key over which every value was chained to the ciphertext before it.

    Attributes:
        chaining: how; it is undone first.
        key: the key of what was chained.
    """

    chaining: Chaining
    key: Recovered | RecoveredStream | RecoveredLevels

    @property
    def fits(self) -> tuple[Fit, ...]:
        """Return how well the key explains what was measured."""
        return self.key.fits


#: A key in any of the forms that open images.
Key = (
    Recovered
    | RecoveredMatrix
    | RecoveredProjection
    | RecoveredStream
    | RecoveredLevels
    | RecoveredBits
    | RecoveredChained
)


def open_rows(knowledge: Knowledge, key: Key | None, note: str, idle: bool = False) -> Guess:
    """Return the guess of an attack that recovered this key, or none.

    Args:
        knowledge: What the attack was given; its `rows` are opened.
        key: The recovered key. With None, the guess is the ciphertext's picture.
        note: What a reader must know.
        idle: Whether the attack tried nothing (see `Guess.idle`).
    """
    pool = knowledge.pool
    images = open_images(pool.spec, pool.images(np.asarray(knowledge.rows, np.int64)), key)
    fits = key.fits if key is not None else ()
    return Guess(images, None if key is None else key_arrays(key), note, idle, fits)


def open_images(spec: SchemeSpec, sealed: AnyArray, key: Key | None) -> Images:
    """Return sealed images [r, *sealed_shape], opened with a key, as pictures uint8 [r, *image_shape]."""
    if isinstance(key, RecoveredChained):
        return open_images(spec, key.chaining.undo(np.asarray(sealed, np.uint8)), key.key)
    if isinstance(key, RecoveredMatrix):
        # A pool of another scheme than `orthogonal` holds bytes.
        return MatrixCipher(spec.image_shape, spec.block, key.matrix).decrypt(
            np.asarray(sealed, np.float32)
        )
    if isinstance(key, RecoveredProjection):
        cipher = ProjectionCipher(spec.image_shape, spec.block, key.matrices.astype(np.float64), key.order)
        return cipher.decrypt(np.asarray(sealed, np.float32) - np.float32(key.offset))
    if isinstance(key, RecoveredStream):
        return load(spec).picture(open_stream(np.asarray(sealed, np.uint8), key.stream, key.order))
    if isinstance(key, RecoveredLevels):
        return load(spec).picture(open_levels(np.asarray(sealed, np.uint8), key.levels, key.order))
    if isinstance(key, RecoveredBits):
        return load(spec).picture(open_bits(np.asarray(sealed, np.uint8), key.order, key.flips))
    return load(spec).picture(sealed if key is None else apply(key.table, sealed))


def open_stream(sealed: Images, stream: UInt8Array, order: Int64Array | None = None) -> Images:
    """Return sealed images uint8 [r, h, w, c] whose pixels are moved back, and a stream subtracted."""
    return put_in_order(sealed, order) - stream


def open_levels(sealed: Images, levels: UInt8Array, order: Int64Array | None = None) -> Images:
    """Return sealed images uint8 [r, h, w, c] whose pixels are moved back, with every level replaced.

    Args:
        sealed: uint8 [r, h, w, c].
        levels: uint8 [c, 256], by colour.
        order: See `RecoveredLevels`.
    """
    opened: Images = levels[np.arange(len(levels)), put_in_order(sealed, order)]
    return opened


def open_bits(sealed: Images, order: Int64Array, flips: BoolArray | None = None) -> Images:
    """Return sealed images uint8 [r, h, w, c] with all bits moved back.

    What the bits that are not known can add to a value is taken in its middle.

    Args:
        sealed: uint8 [r, h, w, c].
        order: See `RecoveredBits`.
        flips: See `RecoveredBits`.
    """
    known = order >= 0
    middles = (np.packbits(~known, axis=1, bitorder="little")[:, 0] // 2).astype(np.uint8)
    opened = np.empty((len(sealed), len(order)), np.uint8)
    for i, image in enumerate(sealed):  # one by one, because bits take eight times the memory
        bits = np.unpackbits(image.ravel(), bitorder="little")[np.where(known, order, 0)]
        if flips is not None:
            bits = bits ^ flips
        opened[i] = np.packbits(bits & known, axis=1, bitorder="little")[:, 0] + middles
    return opened.reshape(sealed.shape)


def put_in_order(images: Images, order: Int64Array | None) -> Images:
    """Return images uint8 [n, h, w, c] whose pixel i is pixel order[i] of the given ones; None keeps them."""
    if order is None:
        return images
    return images.reshape(len(images), len(order), -1)[:, order].reshape(images.shape)


def key_arrays(key: Key) -> Mapping[str, AnyArray]:
    """Return a recovered key as `Guess.key` holds it.

    A table is reported as the flat table that opens any image (`gather`, and `mask` if values are inverted) and as
    the scheme's own parts.
    """
    if isinstance(key, RecoveredChained):
        chain = np.array([key.chaining.is_xor, key.chaining.step], np.int64)
        return {**key_arrays(key.key), "chain": chain}
    if isinstance(key, RecoveredMatrix):
        return {"matrix": key.matrix}
    if isinstance(key, RecoveredProjection):
        return {"matrices": key.matrices, "places": key.order, "offset": np.array([key.offset], np.float32)}
    if isinstance(key, RecoveredStream):
        return {"stream": key.stream, **({} if key.order is None else {"gather": key.order})}
    if isinstance(key, RecoveredLevels):
        return {"levels": key.levels, **({} if key.order is None else {"gather": key.order})}
    if isinstance(key, RecoveredBits):
        return {"bits": key.order, **({} if key.flips is None else {"flips": key.flips})}
    gather, mask = key.table.flattened()
    # The flat mask replaces a part of that name, because the flat mask is what opens.
    parts = {name: part for name, part in key.parts.items() if name != "mask"}
    return {**parts, "gather": gather, **({} if mask is None else {"mask": mask})}
