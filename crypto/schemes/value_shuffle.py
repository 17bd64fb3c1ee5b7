"""Block shuffling with a permutation of all values of a block, and its restricted form.

Source: the 768-value block permutation of Kiya's school, after Qi et al. 2022; restricted permutations:
Horio et al. 2024, arXiv 2408.08529. We could read only abstracts. The steps are those of Qi with step 5 over
all M·M·c values of a block, colours mixed:

1. cut into N blocks of M×M;
2. K1, a permutation of N: block i of the result is block K1[i];
3. flatten every block to M·M·c values, in (row, column, channel) order;
4. K2, a permutation of those: v'(k) = v(K2[k]), the same K2 for every block of every image;
5. put the blocks back.

Options fixed_blocks and fixed_values (restricted permutations): that many entries of K1 and of K2 are
drawn to stay in place; the rest is permuted uniformly among itself, so that a few more may stay by chance.
Third-party settings: 120 of 196 blocks, 500 of 768 values.

Key space: N!·(M²c)!, that is 2^7474 at 224×224×3 with M = 16; restricted, N!/f!·(M²c)!/g!, counting which
entries stay. At most 2^256 with a 32-byte key. A gray image sent as RGB would repeat every value three
times and shrink 768! to 256!: gray images are sealed as one channel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from crypto.arrays import AnyArray, Images, Int32Array, Int64Array, Parts
from crypto.cipher import TableCipher
from crypto.errors import CipherwardError
from crypto.invariants import value_histograms
from crypto.kernels.table import Table
from crypto.key import SecretKey
from crypto.spec import SchemeSpec, log2_factorial
from crypto.symmetry import Orbit
from crypto.unit_layout import UnitLayout

#: Terms of a series in 1/k!: what follows is below the rounding of float64.
_TERMS = 30


class ValueShuffle:
    """Block and value shuffling with the parameters of a spec."""

    version = 2
    source = "after Qi 2022; restricted: Horio 2024, 2408.08529"
    orbit = Orbit(turns=True, orders=True, shifts=True)
    kept = "the histogram of all values"
    carries_stem = True
    moves_blocks = True
    options: ClassVar[Mapping[str, Sequence[Any]]] = {
        "fixed_blocks": range(1 << 20),
        "fixed_values": range(1 << 20),
    }

    def __init__(self, spec: SchemeSpec) -> None:
        self.spec = spec
        self.unit_layout = UnitLayout(spec.image_shape, spec.block, moves_blocks=True, shared=True)
        self._values = spec.block**2 * spec.image_shape[2]
        for option, most in (("fixed_blocks", spec.blocks), ("fixed_values", self._values)):
            if self._fixed(option) > most:
                raise CipherwardError(
                    f"value_shuffle: {option} is {self._fixed(option)}, and there are {most}",
                    f"choose {option} between 0 and {most}",
                )

    def _fixed(self, option: str) -> int:
        return int(self.spec.options[option])

    def parts(self, sub: SecretKey) -> dict[str, AnyArray]:
        """Return K1 int64 [N] and K2 int64 [M²c]."""
        return {
            "K1": _restricted(sub, "K1", self.spec.blocks, self._fixed("fixed_blocks")),
            "K2": _restricted(sub, "K2", self._values, self._fixed("fixed_values")),
        }

    def table(self, parts: Parts) -> Table:
        """Return steps 1 to 5 as one table over values."""
        block = self.spec.block
        return Table(self.spec.image_shape, (block, block), parts["K1"], parts["K2"][None])

    def cipher(self, parts: Parts) -> TableCipher:
        """Return the cipher that these parts make."""
        return TableCipher(self.table(parts))

    def invariants(self, images: Images) -> Int32Array:
        """Return the histogram of all values: int32 [n, 256]."""
        return value_histograms(images)

    def formula_bits(self) -> float:
        """Return log2 of N!/f!·(M²c)!/g!."""
        blocks, values = self._fixed("fixed_blocks"), self._fixed("fixed_values")
        bits = log2_factorial(self.spec.blocks) - log2_factorial(blocks)
        return bits + log2_factorial(self._values) - log2_factorial(values)

    def distinct_bits(self) -> float:
        """Return log2 of the number of keys that differ in what they do.

        The formula counts a permutation once for each choice of the entries that stay. One that leaves more of them
        in their places than it must was drawn in several ways.
        """
        return _log2_restricted(self.spec.blocks, self._fixed("fixed_blocks")) + _log2_restricted(
            self._values, self._fixed("fixed_values")
        )


def _log2_restricted(n: int, fixed: int) -> float:
    """Return log2 of the number of permutations of n things that leave at least `fixed` of them in their places.

    There are n!/k!·d(n - k) with exactly k, where d(m) = 1 - 1 + 1/2! - 1/3! … ± 1/m! (de Montmort 1708).
    """
    if not fixed:
        return log2_factorial(n)
    total, weight = 0.0, 1.0  # weight: fixed!/k!
    for k in range(fixed, n + 1):
        total += weight * sum((-1) ** i / math.factorial(i) for i in range(min(n - k, _TERMS) + 1))
        weight /= k + 1
        if k - fixed > _TERMS:
            break
    return log2_factorial(n) - log2_factorial(fixed) + math.log2(total)


def _restricted(sub: SecretKey, label: str, n: int, fixed: int) -> Int64Array:
    """Return a permutation int64 [n] of which `fixed` drawn entries stay in place."""
    if not fixed:
        return sub.permutation(label, n)
    moving = np.sort(sub.permutation(f"{label}/moving", n)[fixed:])
    permutation = np.arange(n)
    permutation[moving] = moving[sub.permutation(label, n - fixed)]
    return permutation
