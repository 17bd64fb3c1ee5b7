"""Keyed orthogonal blocks with Gaussian noise on every image: a random projection with a bound on its inversion.

Source: the orthogonal blocks of `orthogonal` (orthogonal.py), and the noise of K. Maeng, C. Guo, S. Kariyappa and
G. E. Suh, "Bounding the Invertibility of Privacy-preserving Instance Encoding using Fisher Information" (NeurIPS
2023, arXiv 2305.04146): an encoder f of inputs x followed by noise, z = f(x) + N(0, σ²). To put the two together is
our own. An image [h, w, c] uint8:

1. the steps of `orthogonal`: y, float32 in units of gray levels, with one keyed matrix Q for every block;
2. every value of y gets independent Gaussian noise of standard deviation `sigma` gray levels, drawn for each row.

The paper's bound: the diagonal Fisher information leakage is dFIL = Tr(JᵀJ) / (σ²·d) with f's Jacobian J and d
values. Here J is orthogonal, so dFIL = 1/σ² in gray levels. No *unbiased* reconstruction has a mean squared error
below 1/dFIL = σ², even with Q known. The bound says nothing about Q itself, nothing about attackers who know what
images look like (their estimates are biased, and may err by less; the paper's bound for those needs the prior's own
Fisher information), and nothing about what can still be seen or linked at that error. What is measured:
docs/results/audit.md.

The noise is a keystream of the hospital's key: of a sub-key that covers the sealing's fresh nonce and the row. So a
sealing that was interrupted goes on with the same bytes, and `unseal` takes the noise off and returns every gray
level. Without the 32 bytes of the key it cannot be told from Gaussian noise as long as ChaCha20 holds; Q alone does
not give it. Each further sealing of the same image under the same key has noise of its own: n of them, averaged,
leave σ²/n.

Key space: that of `orthogonal`. The noise is no key.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from crypto.arrays import AnyArray, Float32Array, Float64Array, Parts
from crypto.cipher import MatrixCipher, RowNoiseCipher
from crypto.invariants import block_lengths
from crypto.key import SecretKey
from crypto.schemes.orthogonal import Orthogonal
from crypto.spec import SchemeSpec
from crypto.symmetry import Orbit

#: Standard deviations that a block's squared length may be off by: fewer than one block in 10^8 is further.
_DEVIATIONS = 6.0


class NoisyOrthogonal:
    """Keyed orthogonal blocks with noise, with the parameters of a spec."""

    version = 2
    source = "Kiya's school with noise after arXiv 2305.04146"
    sealed_dtype = np.dtype(np.float32)
    orbit = Orbit(negatives=True, orders=True)
    kept = "the blocks' lengths, up to the noise"
    row_noise = True
    options: ClassVar[Mapping[str, Sequence[Any]]] = {"sigma": (32, 1, 2, 4, 8, 16, 64, 128, 256, 512)}

    def __init__(self, spec: SchemeSpec) -> None:
        self.spec = spec
        self._matrices = Orthogonal(spec)
        #: Standard deviation of the noise in gray levels.
        self.noise_sigma = float(spec.options["sigma"])
        values = spec.block**2 * spec.image_shape[2]
        # The length of a block after the noise's part is taken off: of long blocks it errs by σ, of a block of length
        # 0 by the fourth root of the variance of |noise|², which is 2V·σ⁴.
        spread = math.sqrt(_DEVIATIONS * math.sqrt(2 * values)) + _DEVIATIONS
        self.invariant_tolerance = self.noise_sigma * spread

    def parts(self, sub: SecretKey) -> dict[str, AnyArray]:
        """Return matrix float32 [M²c, M²c]."""
        return self._matrices.parts(sub)

    def row_parts(self, sub: SecretKey) -> dict[str, AnyArray]:
        """Return noise float32 [h, w, c] of one row, in gray levels."""
        shape = self.spec.image_shape
        normals = sub.normals("noise", math.prod(shape))
        return {"noise": (self.noise_sigma * normals).astype(np.float32).reshape(shape)}

    def cipher(self, parts: Parts) -> RowNoiseCipher:
        """Return the cipher of one row, that these parts make."""
        return self.noisy_cipher(parts, lambda _: parts["noise"])

    def noisy_cipher(self, parts: Parts, noise_of_row: Callable[[int], Float32Array]) -> RowNoiseCipher:
        """Return the cipher of all rows, from the matrix and the noise of each."""
        matrix = MatrixCipher(self.spec.image_shape, self.spec.block, parts["matrix"])
        return RowNoiseCipher(matrix, noise_of_row)

    def invariants(self, images: AnyArray) -> Float64Array:
        """Return the length of every block about mid-gray, without the noise's part: float64 [n, N]."""
        lengths = block_lengths(images, self.spec.block)
        if images.dtype == np.uint8:
            return lengths
        values = self.spec.block**2 * self.spec.image_shape[2]
        without: Float64Array = np.sqrt(np.maximum(lengths**2 - values * self.noise_sigma**2, 0.0))
        return without

    def formula_bits(self) -> float:
        """Return what `orthogonal` counts: 8 bits for each angle of the matrix, at most the key's 256."""
        return self._matrices.formula_bits()
