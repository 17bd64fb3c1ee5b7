"""How near a guess comes to its picture once the moves that a scheme cannot tell apart are granted."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from crypto.arrays import BoolArray, Float64Array, Images
from crypto.symmetry import Move, Orbit

#: Moves whose block means suit best, which are then compared value by value.
_CLOSE_MOVES = 8


def share_right(
    guess: Images, plain: Images, move: Move, block: int, counted: BoolArray | None = None
) -> float:
    """Return the share of values that are right under an element of the orbit, of those that count.

    Args:
        guess: uint8 [n, h, w, c].
        plain: uint8 [n, h, w, c].
        move: The element of the orbit.
        block: The block side in pixels.
        counted: bool [h, w, c], the values that count; all by default.
    """
    right = move.apply(guess, block) == plain
    return float((right if counted is None else right[:, counted]).mean())


def moves_of(orbit: Orbit, shape: tuple[int, ...]) -> Iterator[Move]:
    """Yield every element of an orbit of images of this shape, (h, w, c), whose shift is in reach."""
    signs = (False, True) if orbit.negatives else (False,)
    for base, is_negative in itertools.product(orbit.orientations(shape), signs):
        for down, across in orbit.shifts_in_reach():
            yield Move(base.turn, is_negative, base.order, down, across)


def best_move(
    guess: Images, plain: Images, orbit: Orbit, block: int, counted: BoolArray | None = None
) -> Move:
    """Return the one element of an orbit that suits best: by block means first, then by values, those nearest.

    Args:
        guess: uint8 [n, h, w, c].
        plain: uint8 [n, h, w, c].
        orbit: The orbit.
        block: The block side in pixels.
        counted: bool [h, w, c], the values that count; all by default. Nobody can know the sign of an empty plane.
    """
    channels = np.ones(plain.shape[3], bool) if counted is None else counted.any((0, 1))

    def means(images: Images) -> Images:
        n, height, width, channels = images.shape
        blocks = images.reshape(n, height // block, block, width // block, block, channels)
        rounded: Images = blocks.mean((2, 4)).round().astype(np.uint8)
        return rounded

    small, plain_small = means(guess), means(plain).astype(np.int16)
    moves: list[tuple[Any, ...]] = []
    for move in moves_of(orbit, plain.shape[1:]):
        apart = np.abs(move.apply(small, 1) - plain_small)[..., channels]
        moves.append((float(apart.mean()), len(moves), move))
    closest: list[Move] = [move for _, _, move in sorted(moves)[:_CLOSE_MOVES]]

    def error_of(move: Move) -> float:
        """Return how far values are apart. A right key leaves none, a rough one few; its exact values tell little."""
        error = np.abs(move.apply(guess, block).astype(np.int16) - plain)
        return float((error if counted is None else error[:, counted]).mean())

    return min(closest, key=error_of)


def share_named(guesses: Images, gallery: Images) -> float:
    """Return the share of guesses that correlate most with their own image: the first of the gallery, in order."""
    nearest = _correlations(guesses, gallery).argmax(1)
    return float((nearest == np.arange(len(guesses))).mean())


def share_named_by_moves(guesses: Images, gallery: Images, orbit: Orbit, block: int) -> float:
    """Return the same share, if each image of the gallery meets each guess under the move that suits the two best."""
    moves = moves_of(orbit, gallery.shape[1:])
    best = np.stack([_correlations(move.apply(guesses, block), gallery) for move in moves]).max(0)
    return float((best.argmax(1) == np.arange(len(guesses))).mean())


def _correlations(guesses: Images, gallery: Images) -> Float64Array:
    """Return the correlation of each guess with each image, float64 [guesses, images]."""

    def scaled(images: Images) -> Float64Array:
        flat = images.reshape(len(images), -1).astype(np.float64)
        flat -= flat.mean(1, keepdims=True)
        unit: Float64Array = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)
        return unit

    products: Float64Array = scaled(guesses) @ scaled(gallery).T
    return products


def put_in_place(
    guess: Images, plain: Images, orbit: Orbit, block: int, counted: BoolArray, alone: bool
) -> Images:
    """Return guesses under the move that suits all images best, or each of them if each has a key of its own."""
    if not alone:
        return best_move(guess, plain, orbit, block, counted).apply(guess, block)
    pairs = zip(np.split(guess, len(guess)), np.split(plain, len(plain)), strict=True)
    return np.concatenate([best_move(g, p, orbit, block, counted).apply(g, block) for g, p in pairs])
