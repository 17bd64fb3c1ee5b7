"""What a scheme itself cannot fix: the orbit of a recovered picture, declared for every scheme beforehand.

A key recovered from ciphertexts alone is right up to some symmetries: nothing tells a picture from its mirror
image where whole blocks may be turned, nor from its negative where values are inverted by the key. An audit
grants an adversary one element of the orbit for every key, and every baseline and control likewise.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from crypto.schemes.pe import ORDERS
from crypto.spec import SchemeSpec

REACH = 3  # whole blocks: black borders leave the frame of a head scan free


@dataclass(frozen=True)
class Move:
    """One element of an orbit. turn: 0..7, a quarter turn turn mod 4 times, then mirrored left to right where
    turn ≥ 4. negative: 255 - v. order: 0..5, the colours in one of six orders. down, across: whole blocks."""

    turn: int = 0
    negative: bool = False
    order: int = 0
    down: int = 0
    across: int = 0

    def apply(self, images: np.ndarray, block: int) -> np.ndarray:
        """uint8 [n, h, w, c] → uint8 [n, h, w, c], turned, negated, recoloured and shifted, wrapping."""
        moved = np.rot90(images, self.turn % 4, axes=(1, 2))
        if self.turn >= 4:
            moved = moved[:, :, ::-1]
        if self.negative:
            moved = 255 - moved
        if self.order:
            moved = moved[..., ORDERS[self.order]]
        return np.roll(moved, (self.down * block, self.across * block), axis=(1, 2))


@dataclass(frozen=True)
class Orbit:
    """The moves that a scheme leaves open: all combinations of what is set."""

    turns: bool = False
    negatives: bool = False
    orders: bool = False
    shifts: bool = False

    def together(self, other: Orbit) -> Orbit:
        return Orbit(
            self.turns or other.turns,
            self.negatives or other.negatives,
            self.orders or other.orders,
            self.shifts or other.shifts,
        )

    def looks(self, shape: tuple[int, int, int]) -> list[Move]:
        """Every turn and order of colours that images [h, w, c] allow, unshifted and positive; the identity first."""
        square = shape[0] == shape[1]
        turns = [t for t in range(8) if square or t % 2 == 0] if self.turns else [0]
        orders = range(6) if self.orders and shape[2] == 3 else range(1)
        return [Move(turn=t, order=o) for t, o in itertools.product(turns, orders)]

    def spans(self) -> list[tuple[int, int]]:
        """Every shift in whole blocks down and across, the nearest first."""
        span = range(-REACH, REACH + 1) if self.shifts else range(1)
        return sorted(itertools.product(span, span), key=lambda s: abs(s[0]) + abs(s[1]))

    def size(self, shape: tuple[int, int, int]) -> int:
        return len(self.looks(shape)) * (1 + self.negatives) * len(self.spans())


_EVERYTHING = Orbit(turns=True, negatives=True, orders=True, shifts=True)


def orbit_of(spec: SchemeSpec) -> Orbit:
    """The declared orbit of a scheme (docs/suite.md has the table)."""
    orbits = {
        # Sub-blocks stay where they are in a block, which settles the orientation.
        "block_pixel_shuffle": Orbit(shifts=True),
        "value_shuffle": Orbit(turns=True, orders=True, shifts=True),
        "etc": _EVERYTHING,
        "block_pixel": _EVERYTHING,
        "ele": _EVERYTHING,
        "le": Orbit(negatives=True, orders=True),
        "pe": Orbit(negatives=True, orders=bool(spec.options.get("colour_shuffle"))),
        "orthogonal": Orbit(negatives=True, orders=True),
    }
    return orbits.get(spec.name, Orbit(shifts=True))
