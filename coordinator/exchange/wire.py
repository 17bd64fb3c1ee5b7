"""Weights as they travel between the coordinator and the hospitals: float32, or bfloat16 at half the bytes.

    float32     down: weights                       up: the trained weights
    bfloat16    down: weights, rounded to bfloat16  up: trained − received weights, rounded to bfloat16

Under bfloat16 a hospital sends the difference, and the coordinator adds it to its own float32 weights. The reason is
rounding. With eight bits, a weight of 0.02 changes in steps of 0.0001. The updates of a round are smaller, so weights
that are rounded anew each round would lose every update that is smaller than a step. Eight bits of the difference
lose at most one part in 256 of it. Ties round to even.
"""

from __future__ import annotations

import numpy as np
import torch

from crypto.arrays import AnyArray, Float32Array

#: The dtype of a vector on the wire. NumPy has no bfloat16, so its bits travel as uint16.
DTYPES: dict[str, np.dtype[np.generic]] = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(np.uint16)}


def encode(vector: Float32Array, wire: str) -> AnyArray:
    """Encode a vector for the wire.

    Args:
        vector: float32 [n]. Values that are not finite stay so.
        wire: the plan's `wire`.

    Returns:
        float32 [n], or uint16 [n] that holds bfloat16.
    """
    if wire == "float32":
        return np.ascontiguousarray(vector, np.float32)
    exact = torch.from_numpy(np.array(vector, np.float32))
    words: AnyArray = exact.to(torch.bfloat16).view(torch.uint16).numpy()
    return words


def decode(words: AnyArray, wire: str) -> Float32Array:
    """Return the float32 [n] that `encode` encoded. No further rounding happens."""
    if wire == "float32":
        return words
    # bfloat16 is the upper half of float32.
    return (np.asarray(words, np.uint16).astype(np.uint32) << 16).view(np.float32)


def as_received(weights: Float32Array, wire: str) -> Float32Array:
    """Return what a hospital receives if the coordinator sends these weights, float32 [n]."""
    return decode(encode(weights, wire), wire)


def encode_reply(trained: Float32Array, received: Float32Array, wire: str) -> AnyArray:
    """Return what a hospital sends back after training.

    Args:
        trained: the trained weights, float32 [n].
        received: the weights that it received, float32 [n].
        wire: the plan's `wire`.
    """
    return encode(trained - received if wire == "bfloat16" else trained, wire)


def apply_reply(words: AnyArray, weights: Float32Array, wire: str) -> Float32Array:
    """Return the weights that a reply stands for, float32 [n].

    Args:
        words: the reply, as `encode_reply` returned it.
        weights: the weights that a difference is added to: the coordinator's own, or those that were sent.
        wire: the plan's `wire`.
    """
    if wire == "float32":
        return words
    with np.errstate(over="ignore", invalid="ignore"):
        return weights + decode(words, wire)
