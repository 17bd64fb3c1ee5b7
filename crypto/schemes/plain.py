"""No encryption at all: the positive control of every audit.

An audit that does not report `plain` as broken by the ciphertext itself measures nothing. Key space 1.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from crypto.cipher import TableCipher
from crypto.kernels.table import Table
from crypto.key import SecretKey
from crypto.spec import SchemeSpec


class Plain:
    version = 1
    source = "control: no encryption"

    def __init__(self, spec: SchemeSpec) -> None:
        self.spec = spec

    def parts(self, sub: SecretKey) -> dict[str, np.ndarray]:
        """The identity as K1 and K2: what a key recovery must find where nothing was shuffled."""
        return {"K1": np.arange(self.spec.blocks), "K2": np.arange((self.spec.block // 2) ** 2)}

    def cipher(self, parts: Mapping[str, np.ndarray]) -> TableCipher:
        """The identity, whatever the key."""
        return TableCipher(Table(self.spec.image_shape, self.spec.image_shape[:2]))

    def formula_bits(self) -> float:
        return 0.0
