"""Random block projection with noise: the RMT form of DisguisedNets (Sharma, Gu, Chen 2022).

Source: "A Comparative Study of Image Disguising Methods for Confidential Outsourced Learning" (arXiv 2301.00252) and
ACM DTRAP 2023 (doi 10.1145/3609506), of which we could read the abstracts; the steps are those of the authors'
program (github.com/datascale/DisguisedNets, `Perturb`), which is for gray images. An image [h, w, c] uint8, blocks of
M×M:

1. every block is a matrix X of M rows of M·c values, its channels side by side (our reading for colour);
2. it is multiplied from the right by a secret matrix of its place, R [M·c, M·c]: X·R. With `matrix: orthogonal`, R is
   uniform by Haar's measure; with `uniform`, its entries are uniform in [0, 1). `matrices: shared` has one R for all
   places;
3. the blocks change places: block i of the result is block K1[i] (`shuffle`);
4. every value gets noise, uniform in [0, `noise`) and drawn for each image.

The authors evaluate blocks of 2 to 28 on images of 28×28, and noise of 0, 25, 50, 100 and 200; 100 is our default.
They draw a uniform R again until it has full rank, we until its smallest singular value is at least .02: otherwise
float32 would not keep the inverse. Where R is uniform, images return to within one gray level.

The authors throw the noise away. Here it is a keystream of the hospital's key, of a sub-key that covers the sealing's
fresh nonce and the row, so that an interrupted sealing goes on with the same bytes and `unseal` can take it off. To
whoever lacks the key it is the same noise. The bound of arXiv 2305.04146 does not cover it: uniform noise has no
Fisher information.

Key space, counted by us: N! orders of the blocks, and 8 bits for each angle of an orthogonal R (V(V-1)/2 of them, and
its sign) or for each entry of a uniform one, V = M·c. The noise is no key.

An orthogonal R leaves the products of the rows of a block, X·Xᵀ, as they are. That is what
coordinator/adversary/recover/row_projections.py begins with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from crypto.arrays import AnyArray, Float32Array, Float64Array, Parts
from crypto.cipher import RowNoiseCipher
from crypto.kernels.blocks import to_blocks
from crypto.key import SecretKey
from crypto.projection_cipher import ProjectionCipher
from crypto.spec import SchemeSpec, log2_factorial
from crypto.symmetry import Orbit

#: Bits that count of an angle, or of an entry: as in `orthogonal`.
_BITS = 8
#: Smallest singular value of a uniform matrix. The rounding of float32 then costs a gray level at most.
_LEAST_SINGULAR = 0.02
#: Standard deviations that a block's squared length may be off by: fewer than one block in 10^8 is further.
_DEVIATIONS = 6.0


class BlockProjection:
    """Random block projection with noise with the parameters of a spec."""

    version = 2
    source = "DisguisedNets RMT, arXiv 2301.00252"
    sealed_dtype = np.dtype(np.float32)
    #: A mirrored picture has mirrored matrices. Black is known, so the negative is.
    orbit = Orbit(turns=True, shifts=True)
    kept = "the blocks' lengths under orthogonal matrices, up to the noise"
    row_noise = True
    options: ClassVar[Mapping[str, Sequence[Any]]] = {
        "matrix": ("orthogonal", "uniform"),
        "matrices": ("place", "shared"),
        "noise": (100, 0, 10, 25, 50, 200),
        "shuffle": (True, False),
    }

    def __init__(self, spec: SchemeSpec) -> None:
        self.spec = spec
        #: Length of a block's row, V.
        self.row = spec.block * spec.image_shape[2]
        #: End of the noise's range in gray levels.
        self.noise = float(spec.options["noise"])
        self.is_orthogonal = spec.options["matrix"] == "orthogonal"
        self.moves_blocks = bool(spec.options["shuffle"])
        self.tolerance = 0.0 if self.is_orthogonal else 1.0
        # Of long blocks the length errs by the noise's deviation σ, of a block of length 0 by the fourth root of the
        # variance of |noise|², below 2σ⁴ a value. Without noise, float32 errs by less than a tenth of a level.
        spread = math.sqrt(_DEVIATIONS * math.sqrt(2 * spec.block * self.row)) + _DEVIATIONS
        self.invariant_tolerance = self.noise_sigma_of_values * spread + 0.1

    @property
    def noise_sigma_of_values(self) -> float:
        """Standard deviation of the noise in gray levels, about its mean of half its range."""
        return self.noise / math.sqrt(12)

    @property
    def count(self) -> int:
        """Number of matrices of a key."""
        return self.spec.blocks if self.spec.options["matrices"] == "place" else 1

    def parts(self, sub: SecretKey) -> dict[str, AnyArray]:
        """Return matrices float64 [N or 1, M·c, M·c] and K1 int64 [N]."""
        draw = self._orthogonal if self.is_orthogonal else self._uniform
        blocks = self.spec.blocks
        return {
            "matrices": np.stack([draw(sub, f"matrix/{place}") for place in range(self.count)]),
            "K1": sub.permutation("K1", blocks) if self.moves_blocks else np.arange(blocks),
        }

    def _orthogonal(self, sub: SecretKey, label: str) -> Float64Array:
        return sub.orthogonal(label, self.row).astype(np.float64)

    def _uniform(self, sub: SecretKey, label: str) -> Float64Array:
        """Return the first draw that can be undone."""
        draw = 0
        while True:
            matrix = sub.uniforms(f"{label}/{draw}", self.row**2).reshape(self.row, self.row)
            if np.linalg.svd(matrix, compute_uv=False)[-1] >= _LEAST_SINGULAR:
                return matrix
            draw += 1

    def row_parts(self, sub: SecretKey) -> dict[str, AnyArray]:
        """Return noise float32 [h, w, c] of one row, in gray levels."""
        shape = self.spec.image_shape
        drawn = sub.uniforms("noise", math.prod(shape)) if self.noise else np.zeros(math.prod(shape))
        return {"noise": (self.noise * drawn).astype(np.float32).reshape(shape)}

    def cipher(self, parts: Parts) -> RowNoiseCipher:
        """Return the cipher of one row, that these parts make."""
        return self.noisy_cipher(parts, lambda _: parts["noise"])

    def noisy_cipher(self, parts: Parts, noise_of_row: Callable[[int], Float32Array]) -> RowNoiseCipher:
        """Return the cipher of all rows, from the shared parts and the noise of each row."""
        projection = ProjectionCipher(
            self.spec.image_shape, self.spec.block, parts["matrices"], parts["K1"]
        )
        return RowNoiseCipher(projection, noise_of_row)

    def invariants(self, images: AnyArray) -> Float64Array:
        """Return the length of every block about black, without the noise's part: float64 [n, N].

        They are sorted where blocks change places. Uniform matrices leave no length: all are then 0.
        """
        blocks = to_blocks(images, self.spec.block).astype(np.float64)
        if not self.is_orthogonal:
            return np.zeros(blocks.shape[:2])
        is_plain = images.dtype == np.uint8
        squares = ((blocks - (0.0 if is_plain else self.noise / 2)) ** 2).sum((2, 3))
        values = self.spec.block * self.row
        noise = 0.0 if is_plain else values * self.noise_sigma_of_values**2
        lengths: Float64Array = np.sqrt(np.maximum(squares - noise, 0.0))
        return np.sort(lengths, axis=1) if self.moves_blocks else lengths

    def formula_bits(self) -> float:
        """Return log2 of N! orders of the blocks, with 8 bits for each angle or entry of a matrix."""
        angles = self.row * (self.row - 1) // 2
        each = _BITS * angles + 1 if self.is_orthogonal else _BITS * self.row**2
        return float(self.count * each) + (log2_factorial(self.spec.blocks) if self.moves_blocks else 0.0)
