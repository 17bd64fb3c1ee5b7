"""No encryption at all: the positive control of every audit.

An audit that does not report `plain` as broken by the ciphertext itself measures nothing. Key space 1.
"""

from __future__ import annotations

import numpy as np

from crypto.arrays import AnyArray, Images, Int32Array, Parts
from crypto.cipher import TableCipher
from crypto.invariants import channel_histograms
from crypto.kernels.table import Table
from crypto.key import SecretKey
from crypto.spec import SchemeSpec
from crypto.unit_layout import UnitLayout


class Plain:
    """No encryption, with the parameters of a spec."""

    version = 2
    source = "control: no encryption"
    kept = "the histogram"
    carries_stem = True
    is_control = True

    def __init__(self, spec: SchemeSpec) -> None:
        self.spec = spec
        # Key recovery treats it as block and pixel shuffling under the identity: see `parts`.
        self.unit_layout = UnitLayout(
            spec.image_shape,
            spec.block,
            "pixel",
            moves_blocks=True,
            shared=True,
            quarters=spec.block % 2 == 0,
        )

    def parts(self, sub: SecretKey) -> dict[str, AnyArray]:  # noqa: ARG002 - there is no key
        """Return the identity as K1 and K2: what a key recovery must find where nothing was shuffled."""
        return {"K1": np.arange(self.spec.blocks), "K2": np.arange((self.spec.block // 2) ** 2)}

    def cipher(self, parts: Parts) -> TableCipher:  # noqa: ARG002 - there is no key
        """Return the identity, whatever the key."""
        return TableCipher(Table(self.spec.image_shape, self.spec.image_shape[:2]))

    def invariants(self, images: Images) -> Int32Array:
        """Return the histogram of every channel: int32 [n, c·256]."""
        return channel_histograms(images)

    def formula_bits(self) -> float:
        """Return 0."""
        return 0.0
