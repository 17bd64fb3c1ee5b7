"""One image out of one gradient, by one least-squares solve, where the stem's gradient is seen (T5).

A Vision Transformer's tokens are z = X·E + b + Epos, X [N, V] the patches of the image, so with G = dL/dz

    dL/dEpos = Gᵀ for a single image,    dL/dE = Gᵀ·X    (D equations for N unknowns, for each of the V values)

whatever the encoder does behind it. Exact for one image and one step. In a batch dL/dEpos and dL/dE are sums
over images, and nothing of the kind holds. A fall short of rank: where every block begins with LayerNorm, as
timm's do, the rows of G sum to zero, so its rank is at most D − 1: 191 for the 196 patches of ViT-Ti, while
ViT-S has 383. What the equations leave open, the range of gray values closes in part: an image with black
patches has few neighbours between 0 and 255.

What of APRIL (Lu et al. 2022, arXiv 2112.14087), which this stands in for: its equation dL/dZᵀ·Z = Qᵀ·dQ +
Kᵀ·dK + Vᵀ·dV is exact here too (Wqkvᵀ·dL/dWqkv = dUᵀ·U, with timm's fused qkv), but for U, the *normalised*
input of attention, and dU, its gradient. dL/dEpos is not dU in a block that normalises first: the residual path
adds the gradient of all that follows. The patch embedding's own equation needs neither, so it is the one used,
under `learn` for ciphertexts too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn

from coordinator.model.vit import PatchEmbed, VisionTransformer

EMBEDDING, POSITIONS = "patch_embed.proj.weight", "pos_embed"
#: Residuals up to this many times what float32 explains are rounding.
FITS = 5.0
_ROUNDS, _PULL, _PRIOR = 1500, 10.0, 1e-3
_FLOAT32 = 1e-6  # relative error of gradients that were summed in float32


@dataclass(frozen=True)
class Solved:
    """image: float64 [h, w, c] as the model reads it. rank: of the equations for `patches` unknowns.

    residual: root mean square of what the equations leave unexplained, in units of the rounding of float32.
    """

    image: np.ndarray
    rank: int
    patches: int
    residual: float

    @property
    def fits(self) -> bool:
        """Whether one image in the range explains the gradients: needed for a right answer, and not enough."""
        return self.residual <= FITS


def can_solve(model: nn.Module) -> bool:
    """Whether a model's tokens are its patches, times a matrix, plus learnt positions."""
    embed = getattr(model, "patch_embed", None)
    return (
        isinstance(model, VisionTransformer)
        and isinstance(embed, PatchEmbed)
        and isinstance(embed.norm, nn.Identity)
        and getattr(model, POSITIONS, None) is not None
    )


def solve(
    model: nn.Module,
    gradients: Mapping[str, np.ndarray],
    rounding: Mapping[str, float] | None = None,
    bounded: bool = True,
) -> Solved:
    """The image whose patches explain the gradients of EMBEDDING and POSITIONS best. bounded: between -1 and 1.

    rounding: the standard deviation of the error of one value of each, beyond that of float32 gradients.
    """
    embed: nn.Module = model.patch_embed  # type: ignore[assignment]
    down, across = embed.grid_size  # type: ignore[misc]
    places = np.asarray(gradients[POSITIONS], np.float64)[0][
        -down * across :
    ]  # class and register tokens are first
    filters = np.asarray(gradients[EMBEDDING], np.float64)
    dimension, channels, height, width = filters.shape
    flat = filters.reshape(dimension, -1)
    said = rounding or {}
    # An error in G meets every patch, whose values have a mean square of about one half.
    noise = np.hypot(
        said.get(EMBEDDING, 0.0) + _FLOAT32 * np.sqrt((flat**2).mean()),
        np.sqrt(len(places) / 2) * (said.get(POSITIONS, 0.0) + _FLOAT32 * np.sqrt((places**2).mean())),
    )
    # Every equation's mean over D is 0 = 0 behind LayerNorm; what is there is rounding.
    a, b = places.T - places.T.mean(0), flat - flat.mean(0)
    x = _bounded(a / noise, b / noise, bounded)
    strengths = np.linalg.svd(a, compute_uv=False)
    residual = float(np.sqrt(((a @ x - b) ** 2).mean()) / noise)
    grid = x.reshape(down, across, channels, height, width).transpose(0, 3, 1, 4, 2)
    return Solved(
        grid.reshape(down * height, across * width, channels),
        int((strengths > noise).sum()),
        len(places),
        residual,
    )


def _bounded(a: np.ndarray, b: np.ndarray, bounded: bool) -> np.ndarray:
    """float64 [N, V]: least ‖a·x − b‖² + _PRIOR·‖x‖², within ±1 where asked, by ADMM (Boyd et al. 2011, §5.2)."""
    strengths, turn = np.linalg.eigh(a.T @ a)
    strengths = np.maximum(strengths, 0.0) + _PRIOR
    right = a.T @ b
    if not bounded:
        return (turn / strengths) @ (turn.T @ right)
    inverse = (turn / (strengths + _PULL)) @ turn.T
    x, over = np.zeros_like(right), np.zeros_like(right)
    for _ in range(_ROUNDS):
        free = inverse @ (right + _PULL * (x - over))
        last, x = x, np.clip(free + over, -1.0, 1.0)
        over += free - x
        if np.abs(x - last).max() < 1e-6 and np.abs(free - x).max() < 1e-4:
            break
    return x
