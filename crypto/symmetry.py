"""The symmetries of a picture: eight turns, six colour orders, and the orbit of moves that a scheme leaves open.

Schemes turn blocks and reorder colours by a key, attacks look for these turns and orders, and scores allow for them.
All of them number turns and orders as this module does.

An attack that recovers a key from ciphertexts alone recovers it up to some symmetries. Where a scheme turns whole
blocks, nothing tells a picture from its mirror image. Where the key inverts values, nothing tells a picture from its
negative. Every scheme declares these symmetries beforehand, as its orbit. An audit grants the adversary one element
of the orbit for every key, and grants the same to every baseline and control.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from crypto.arrays import AnyArray, Int64Array

#: Output component j is input component COLOUR_ORDERS[order, j]: RGB, RBG, GRB, GBR, BRG, BGR.
COLOUR_ORDERS: Int64Array = np.array(
    [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]], np.int64
)
TURNS = 8
#: Largest shift of an orbit, in whole blocks: black borders leave the frame of a head scan free.
REACH = 3


def colour_orders(channels: int) -> Int64Array:
    """Return the orders that components can be put in, int64 [6, 3]; for gray images the one order [1, 1]."""
    return COLOUR_ORDERS if channels == 3 else np.zeros((1, 1), np.int64)


def turned(images: AnyArray, turn: int, axes: tuple[int, int] = (1, 2)) -> AnyArray:
    """Return a view of images in one of eight states.

    Args:
        images: Images [n, h, w, ...], or an array whose rows and columns are `axes`.
        turn: 0 to 7. `turn % 4` quarter turns counter-clockwise, then mirrored from left to right where `turn >= 4`.
        axes: The axes of rows and columns.
    """
    rotated = np.rot90(images, turn % 4, axes)
    return np.flip(rotated, axes[1]) if turn >= 4 else rotated


def turned_pixels(block: int) -> Int64Array:
    """Return int64 [8, M²]: which pixel of a block, row-major, each pixel of its eight states is."""
    cells = np.arange(block * block).reshape(block, block)
    return np.stack([turned(cells, turn, (0, 1)).ravel() for turn in range(TURNS)])


def rotations_and_transposes(grid: AnyArray) -> list[AnyArray]:
    """Return the eight states of a grid [rows, columns]: its four rotations, then those of its transpose.

    These are the states of `turned` in another order. Searches that try all of them keep the first of equally good
    ones, and were measured with this order.
    """
    return [np.rot90(face, k) for face in (grid, grid.T) for k in range(4)]


def _products(elements: Int64Array) -> Int64Array:
    """Return int64 [k, k]: at [a, b] the number of elements[a][elements[b]], for permutations [k, n]."""
    number = {tuple(element): k for k, element in enumerate(elements.tolist())}
    return np.array([[number[tuple(a[b].tolist())] for b in elements] for a in elements], np.int64)


#: TURN_PRODUCTS[a, b]: turn a, then turn b, as one turn. TURN_INVERSES[t]: the turn that undoes t.
TURN_PRODUCTS = _products(turned_pixels(3))
TURN_INVERSES: Int64Array = np.argmin(TURN_PRODUCTS, axis=1)
#: ORDER_PRODUCTS[a, b]: the order whose component j is component COLOUR_ORDERS[b, j] of order a.
#: ORDER_INVERSES[o]: the order that undoes o.
ORDER_PRODUCTS = _products(COLOUR_ORDERS)
ORDER_INVERSES: Int64Array = np.argmin(ORDER_PRODUCTS, axis=1)


@dataclass(frozen=True)
class Move:
    """One element of an orbit.

    Attributes:
        turn: 0 to 7, as in `turned`.
        negative: Whether every value v becomes 255 - v.
        order: 0 to 5, a row of COLOUR_ORDERS.
        down: Shift downwards, in whole blocks.
        across: Shift to the right, in whole blocks.
    """

    turn: int = 0
    negative: bool = False
    order: int = 0
    down: int = 0
    across: int = 0

    def apply(self, images: AnyArray, block: int) -> AnyArray:
        """Return images [n, h, w, c] turned, negated, recoloured and shifted with wrap-around; same dtype."""
        moved = turned(images, self.turn)
        if self.negative:
            moved = 255 - moved
        if self.order:
            moved = moved[..., COLOUR_ORDERS[self.order]]
        return np.roll(moved, (self.down * block, self.across * block), axis=(1, 2))


@dataclass(frozen=True)
class Orbit:
    """The moves that a scheme leaves open: all combinations of what is set.

    Attributes:
        turns: The eight turns.
        negatives: The negative.
        orders: The six colour orders.
        shifts: Shifts by up to REACH whole blocks down and across.
    """

    turns: bool = False
    negatives: bool = False
    orders: bool = False
    shifts: bool = False

    def union(self, other: Orbit) -> Orbit:
        """Return the orbit that leaves open what either of the two does."""
        return Orbit(
            self.turns or other.turns,
            self.negatives or other.negatives,
            self.orders or other.orders,
            self.shifts or other.shifts,
        )

    def second_looks(self, shape: tuple[int, ...]) -> int:
        """Return how many looks at images [h, w, c] negative, turns and shifts add to each move of this orbit.

        It is 1 if the orbit holds them all.
        """
        return self.union(SECOND_LOOK).size(shape) // self.size(shape)

    def orientations(self, shape: tuple[int, ...]) -> list[Move]:
        """Return every turn and colour order that images [h, w, c] allow, unshifted and positive; identity first."""
        is_square = shape[0] == shape[1]
        turns = [t for t in range(TURNS) if is_square or t % 2 == 0] if self.turns else [0]
        orders = range(len(COLOUR_ORDERS)) if self.orders and shape[2] == 3 else range(1)
        return [Move(turn=t, order=o) for t, o in itertools.product(turns, orders)]

    def shifts_in_reach(self) -> list[tuple[int, int]]:
        """Return every shift (down, across) in whole blocks, the shortest first."""
        span = range(-REACH, REACH + 1) if self.shifts else range(1)
        return sorted(itertools.product(span, span), key=lambda s: abs(s[0]) + abs(s[1]))

    def size(self, shape: tuple[int, ...]) -> int:
        """Return the number of moves for images [h, w, c]."""
        return len(self.orientations(shape)) * (1 + self.negatives) * len(self.shifts_in_reach())


#: What every picture may be looked at as, whatever the scheme leaves open: in the negative, turned, mirrored, and
#: shifted by whole blocks. Colours in another order are granted to the schemes that permute them.
SECOND_LOOK = Orbit(turns=True, negatives=True, shifts=True)
#: All moves: what is left open by a scheme that turns, inverts, recolours and moves whole blocks.
EVERY_MOVE = Orbit(turns=True, negatives=True, orders=True, shifts=True)
