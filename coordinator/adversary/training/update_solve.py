"""Solve for the one image behind a gradient by a single least-squares problem, if the stem's gradient is known (T5).

A Vision Transformer's tokens are z = X·E + b + Epos, with X [N, V] the patches of the image. So with G = dL/dz

    dL/dEpos = Gᵀ for a single image,    dL/dE = Gᵀ·X    (D equations for N unknowns, for each of the V values)

whatever the encoder does behind it. This is exact for one image and one step. In a batch dL/dEpos and dL/dE are sums
over images, and nothing of the kind holds.

One rank is missing. Where every block begins with LayerNorm, as timm's do, the rows of G sum to zero, so its rank
is at most D − 1: 191 for the 196 patches of ViT-Ti, while ViT-S has 383. The range of gray values closes a part of
what the equations leave open: an image with black patches has few neighbours between 0 and 255.

This stands in for APRIL (Lu et al. 2022, arXiv 2112.14087). Its equation dL/dZᵀ·Z = Qᵀ·dQ + Kᵀ·dK + Vᵀ·dV is exact
here too (Wqkvᵀ·dL/dWqkv = dUᵀ·U, with timm's fused qkv), but for U, the *normalised* input of attention, and dU,
its gradient. dL/dEpos is not dU in a block that normalises first, because the residual path adds the gradient of
all that follows. The patch embedding's own equation needs neither, so we use that one, under `learn` for
ciphertexts too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn

from coordinator.model.vit import is_plain_vit
from crypto.arrays import AnyArray, Float64Array

EMBEDDING, POSITIONS = "patch_embed.proj.weight", "pos_embed"
#: Residuals up to this many times what float32 explains are rounding. Set once; how it was chosen is not recorded.
MAX_RESIDUAL = 5.0
#: ADMM: the most rounds, its penalty, and the weight of ‖x‖². Set once; how they were chosen is not recorded.
_ADMM_ROUNDS, _PENALTY, _RIDGE = 1500, 10.0, 1e-3
#: Relative error of gradients that were summed in float32.
_FLOAT32_ERROR = 1e-6


@dataclass(frozen=True)
class Solution:
    """The solved image.

    Attributes:
        image: float64 [h, w, c] as the model reads it.
        rank: of the equations.
        patches: the number of unknowns for each value.
        residual: root mean square of what the equations leave unexplained, in units of the rounding of float32.
    """

    image: Float64Array
    rank: int
    patches: int
    residual: float

    @property
    def explains_gradients(self) -> bool:
        """Whether one image in the range explains the gradients. A right answer needs that, but it is no proof."""
        return self.residual <= MAX_RESIDUAL


def can_solve(model: nn.Module) -> bool:
    """Return whether a model's tokens are its patches, times a matrix, plus learnt positions."""
    embed = getattr(model, "patch_embed", None)
    return (
        is_plain_vit(model)
        and isinstance(getattr(embed, "norm", None), nn.Identity)
        and getattr(model, POSITIONS, None) is not None
    )


def solve(
    model: nn.Module,
    gradients: Mapping[str, AnyArray],
    rounding: Mapping[str, float] | None = None,
    bounded: bool = True,
) -> Solution:
    """Return the image whose patches explain the gradients of EMBEDDING and POSITIONS best.

    Args:
        model: the model that was trained; see `can_solve`.
        gradients: by names of weights in timm's state.
        rounding: the standard deviation of the error of one value of each gradient, beyond that of float32 gradients.
        bounded: True for values between -1 and 1.
    """
    embed: nn.Module = model.patch_embed  # type: ignore[assignment] # timm's patch embedding
    down, across = embed.grid_size  # type: ignore[misc] # timm's patch embedding
    # Class and register tokens come first.
    places = np.asarray(gradients[POSITIONS], np.float64)[0][-down * across :]
    filters = np.asarray(gradients[EMBEDDING], np.float64)
    dimension, channels, height, width = filters.shape
    flat = filters.reshape(dimension, -1)
    noise = _noise(flat, places, rounding or {})
    # Every equation's mean over D is 0 = 0 behind LayerNorm; what is there is rounding.
    a, b = places.T - places.T.mean(0), flat - flat.mean(0)
    x = _least_squares(a / noise, b / noise, bounded)
    strengths = np.linalg.svd(a, compute_uv=False)
    residual = float(np.sqrt(((a @ x - b) ** 2).mean()) / noise)
    grid = x.reshape(down, across, channels, height, width).transpose(0, 3, 1, 4, 2)
    return Solution(
        grid.reshape(down * height, across * width, channels),
        int((strengths > noise).sum()),
        len(places),
        residual,
    )


def _noise(filters: Float64Array, places: Float64Array, rounding: Mapping[str, float]) -> float:
    """Return the standard deviation of the error of one equation."""
    filter_error = rounding.get(EMBEDDING, 0.0) + _FLOAT32_ERROR * np.sqrt((filters**2).mean())
    place_error = rounding.get(POSITIONS, 0.0) + _FLOAT32_ERROR * np.sqrt((places**2).mean())
    # An error in G meets every patch, whose values have a mean square of about one half.
    return np.hypot(filter_error, np.sqrt(len(places) / 2) * place_error)  # type: ignore[no-any-return]


def _least_squares(a: Float64Array, b: Float64Array, bounded: bool) -> Float64Array:
    """Return x, float64 [N, V], with the least ‖a·x − b‖² + _RIDGE·‖x‖², within ±1 if bounded.

    The bounded problem is solved by ADMM (Boyd et al. 2011, §5.2).
    """
    strengths, vectors = np.linalg.eigh(a.T @ a)
    strengths = np.maximum(strengths, 0.0) + _RIDGE
    right: Float64Array = a.T @ b
    if not bounded:
        unbounded: Float64Array = (vectors / strengths) @ (vectors.T @ right)
        return unbounded
    inverse = (vectors / (strengths + _PENALTY)) @ vectors.T
    x, dual = np.zeros_like(right), np.zeros_like(right)
    for _ in range(_ADMM_ROUNDS):
        free = inverse @ (right + _PENALTY * (x - dual))
        last, x = x, np.clip(free + dual, -1.0, 1.0)
        dual += free - x
        if np.abs(x - last).max() < 1e-6 and np.abs(free - x).max() < 1e-4:
            break
    return x
