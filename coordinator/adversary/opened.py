"""From a recovered key to an attack's guess: open the sealed images with it and report it.

A key is either a table, as most schemes have it, or the matrix of the scheme `orthogonal`. Every attack that recovers
a key opens its rows here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from coordinator.adversary.contract import Fit, Guess, Knowledge, Recovered
from crypto.arrays import AnyArray, Float32Array, Images
from crypto.cipher import MatrixCipher
from crypto.kernels.executors import apply
from crypto.scheme import load
from crypto.spec import SchemeSpec

__all__ = ["RecoveredMatrix", "key_arrays", "open_images", "open_rows"]


@dataclass(frozen=True)
class RecoveredMatrix:
    """The key of a scheme that multiplies every block by one matrix.

    Attributes:
        matrix: float32 [V, V], orthogonal on the directions that are known, with sealed block = plain block · matrix.
        fits: how well it explains what was measured.
    """

    matrix: Float32Array
    fits: tuple[Fit, ...] = ()


def open_rows(
    knowledge: Knowledge, key: Recovered | RecoveredMatrix | None, note: str, idle: bool = False
) -> Guess:
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


def open_images(spec: SchemeSpec, sealed: AnyArray, key: Recovered | RecoveredMatrix | None) -> Images:
    """Return sealed images [r, *sealed_shape], opened with a key, as pictures uint8 [r, *image_shape]."""
    if isinstance(key, RecoveredMatrix):
        # A pool of another scheme than `orthogonal` holds bytes.
        return MatrixCipher(spec.image_shape, spec.block, key.matrix).decrypt(
            np.asarray(sealed, np.float32)
        )
    return load(spec).picture(sealed if key is None else apply(key.table, sealed))


def key_arrays(key: Recovered | RecoveredMatrix) -> Mapping[str, AnyArray]:
    """Return a recovered key as `Guess.key` holds it.

    A table is reported as the flat table that opens any image (`gather`, and `mask` if values are inverted) and as
    the scheme's own parts.
    """
    if isinstance(key, RecoveredMatrix):
        return {"matrix": key.matrix}
    gather, mask = key.table.flattened()
    # The flat mask replaces a part of that name, because the flat mask is what opens.
    parts = {name: part for name, part in key.parts.items() if name != "mask"}
    return {**parts, "gather": gather, **({} if mask is None else {"mask": mask})}
