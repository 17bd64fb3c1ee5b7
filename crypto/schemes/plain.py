"""No encryption at all: the positive control of every audit.

An audit that does not report `plain` as broken by the ciphertext itself measures nothing. Key space 1.
"""

from __future__ import annotations

import numpy as np

from crypto.apply import Table, TableCipher
from crypto.key import SecretKey
from crypto.spec import SchemeSpec


class Plain:
    version = 1
    tolerance = 0.0

    def __init__(self, spec: SchemeSpec) -> None:
        self.spec = spec
        self.sealed_shape = spec.image_shape
        self.sealed_dtype = np.dtype(np.uint8)

    def cipher(self, key: SecretKey) -> TableCipher:
        """The identity, whatever the key."""
        return TableCipher(Table(None, None, self.spec.image_shape[2]))

    def parts(self, key: SecretKey) -> dict[str, np.ndarray]:
        """The identity as K1 and K2: what a key recovery must find where nothing was shuffled."""
        return {"K1": np.arange(self.spec.blocks), "K2": np.arange((self.spec.block // 2) ** 2)}

    def formula_bits(self) -> float:
        return 0.0
