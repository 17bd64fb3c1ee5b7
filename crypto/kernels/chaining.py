"""Chaining: a cipher that combines every value with the ciphertext before it, as chaotic maps and CBC do.

Whoever holds the ciphertext holds both, and undoes it without any key.
"""

from __future__ import annotations

from dataclasses import dataclass

from crypto.arrays import Images


@dataclass(frozen=True)
class Chaining:
    """How each value of an image, in the order of its bytes, is combined with an earlier one of its ciphertext.

    Attributes:
        is_xor: Whether they are XORed. Else they are added modulo 256.
        step: How many values earlier: 1, or the number of colours, if colours are chained apart.
    """

    is_xor: bool
    step: int

    def undo(self, sealed: Images) -> Images:
        """Return images uint8 [n, h, w, c] before they were chained. The first values of each stay as they are."""
        flat = sealed.reshape(len(sealed), -1)
        opened = flat.copy()
        if self.is_xor:
            opened[:, self.step :] ^= flat[:, : -self.step]
        else:
            opened[:, self.step :] -= flat[:, : -self.step]
        return opened.reshape(sealed.shape)


def chainings(channels: int) -> list[Chaining]:
    """Return the ways in which values of images of so many colours may be chained."""
    return [Chaining(is_xor, step) for is_xor in (True, False) for step in sorted({1, channels})]
