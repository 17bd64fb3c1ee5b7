"""Weights as they travel: float32, or bfloat16 at half the bytes.

    float32     down: weights                       up: the trained weights
    bfloat16    down: weights, rounded to bfloat16  up: trained − received weights, rounded to bfloat16

In bfloat16 the difference goes up, and the coordinator adds it to float32 weights of its own. Eight bits of
a weight of 0.02 step by 0.0001: weights that were rounded anew each round would lose every smaller update, and
those of a round are smaller. Eight bits of the difference lose at most a part in 256 of it. Ties round to even.
"""

from __future__ import annotations

import numpy as np
import torch

#: What a vector is made of on the wire: NumPy has no bfloat16, so its bits travel as uint16.
DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(np.uint16)}


def encode(vector: np.ndarray, wire: str) -> np.ndarray:
    """float32 [n] → float32 [n], or uint16 [n] that holds bfloat16. What is not finite stays so."""
    if wire == "float32":
        return np.ascontiguousarray(vector, np.float32)
    exact = torch.from_numpy(np.array(vector, np.float32))
    return exact.to(torch.bfloat16).view(torch.uint16).numpy()


def decode(words: np.ndarray, wire: str) -> np.ndarray:
    """What `encode` made, as float32 [n]: exact."""
    if wire == "float32":
        return words
    # bfloat16 is the upper half of float32.
    return (np.asarray(words, np.uint16).astype(np.uint32) << 16).view(np.float32)


def received(weights: np.ndarray, wire: str) -> np.ndarray:
    """float32 [n]: what a hospital gets of these weights."""
    return decode(encode(weights, wire), wire)


def reply(trained: np.ndarray, start: np.ndarray, wire: str) -> np.ndarray:
    """What a hospital sends of its trained weights. start: those that it received. All float32 [n]."""
    return encode(trained - start if wire == "bfloat16" else trained, wire)


def answered(words: np.ndarray, weights: np.ndarray, wire: str) -> np.ndarray:
    """float32 [n]: the weights that a reply stands for. weights: the coordinator's own, or those received."""
    if wire == "float32":
        return words
    with np.errstate(over="ignore", invalid="ignore"):
        return weights + decode(words, wire)
