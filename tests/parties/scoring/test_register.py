"""The declared orbits, and the choice of one element: best, worst and random cases, against trying them all."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from crypto.scheme import describe, load
from crypto.symmetry import Move, Orbit
from parties.scoring.measures import nearest, normalised
from parties.scoring.registration import (
    correlate_moves,
    nearest_each,
    reduce_images,
    register,
    register_each,
)
from tests.support.small_pictures import pictures

EVERYTHING = Orbit(turns=True, negatives=True, orders=True, shifts=True)


def all_moves(orbit: Orbit, shape: tuple[int, int, int]) -> list[Move]:
    return [
        dataclasses.replace(orientation, negative=negative, down=down, across=across)
        for orientation in orbit.orientations(shape)
        for negative in ((False, True) if orbit.negatives else (False,))
        for down, across in orbit.shifts_in_reach()
    ]


def test_orbits_have_the_declared_sizes() -> None:
    shape = (32, 32, 3)
    sizes = {
        "block_pixel_shuffle": 49,
        "value_shuffle": 8 * 6 * 49,
        "etc": 8 * 2 * 6 * 49,
        "block_pixel": 8 * 2 * 6 * 49,
        "ele": 8 * 2 * 6 * 49,
        "le": 2 * 6,
        "pe": 2,
        "orthogonal": 2 * 6,
        "plain": 49,
        "noise": 49,
    }
    for name, size in sizes.items():
        orbit = load(describe(name, shape, 8)).orbit
        assert orbit.size(shape) == len(set(all_moves(orbit, shape))) == size, name
    assert load(describe("pe", shape, 8, options={"colour_shuffle": True})).orbit.size(shape) == 12
    assert load(describe("etc", (32, 32, 1), 8)).orbit.size((32, 32, 1)) == 8 * 2 * 49
    # A picture that is not square is turned by halves only.
    assert load(describe("etc", (32, 64, 1), 8)).orbit.size((32, 64, 1)) == 4 * 2 * 49


def test_a_move_by_hand() -> None:
    image = np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1)
    assert Move(turn=1).apply(image, 2)[0, 0, :, 0].tolist() == [3, 7, 11, 15]
    assert Move(turn=4).apply(image, 2)[0, 0, :, 0].tolist() == [3, 2, 1, 0]
    assert Move(negative=True).apply(image, 2)[0, 0, :, 0].tolist() == [255, 254, 253, 252]
    assert Move(down=1).apply(image, 2)[0, :, 0, 0].tolist() == [8, 12, 0, 4]
    colour = np.array([1, 2, 3], np.uint8).reshape(1, 1, 1, 3)
    assert Move(order=5).apply(colour, 1).ravel().tolist() == [3, 2, 1]


def test_fits_are_the_correlations_of_the_reduced_pictures() -> None:
    x, y = pictures(3, 32), pictures(3, 32, seed=4)
    moves, scores = correlate_moves(x, y, 8, EVERYTHING)
    assert set(moves) == set(all_moves(EVERYTHING, (32, 32, 1))) and moves[0] == Move()
    small, side = reduce_images(x, 8)
    target = normalised(reduce_images(y, 8)[0])
    for i in (0, 7, 100, 500, len(moves) - 1):
        move = moves[i]
        moved = dataclasses.replace(move, negative=False).apply(small, side)
        expected = (normalised(255 - moved if move.negative else moved) * target).sum(1)
        assert scores[i] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("turn", [0, 3, 6])
def test_register_undoes_every_kind_of_move(channels: int, turn: int) -> None:
    x = pictures(8, 64, channels=channels)
    applied = Move(turn=turn, negative=True, order=3 if channels == 3 else 0)
    guessed = np.roll(applied.apply(x, 8), (-16, 8), axis=(1, 2))
    undone = register(guessed, x, 8, EVERYTHING)
    assert (undone.apply(guessed, 8) == x).all()


def test_register_prefers_nothing_and_stays_in_the_orbit() -> None:
    x = pictures(8, 64)
    assert register(x, x, 8, EVERYTHING) == Move()
    assert register(255 - x, x, 8, Orbit(shifts=True)).negative is False
    assert register(np.roll(x, -16, 1), x, 8, Orbit()) == Move()


def test_each_image_has_its_own_element_where_each_has_its_own_key() -> None:
    x = pictures(4, 64)
    moved = np.concatenate(
        [Move(turn=i, down=i, negative=bool(i % 2)).apply(x[i : i + 1], 8) for i in range(4)]
    )
    assert (register_each(moved, x, 8, EVERYTHING) == x).all()
    gallery = np.concatenate([x, pictures(30, 64, seed=7)])
    assert nearest_each(moved, gallery, 8, EVERYTHING).tolist() == [0, 1, 2, 3]
    assert nearest_each(np.zeros_like(x[:1]), gallery, 8, EVERYTHING).tolist() == [-1]


def test_moves_that_fit_alike_are_not_chosen_by_rounding() -> None:
    """A plain image that is the same in all eight turns: every turn of a guess fits alike, and the first is taken."""
    guesses, x = pictures(24, 32, seed=9), pictures(24, 32)
    plains = np.mean([Move(turn=t).apply(x, 8).astype(float) for t in range(8)], 0).round().astype(np.uint8)
    moves, _ = correlate_moves(guesses, plains, 8, EVERYTHING)
    moved = register_each(guesses, plains, 8, EVERYTHING)
    unturned = [move.apply(guesses, 8) for move in moves if not move.turn]
    assert all(any((u[i] == moved[i]).all() for u in unturned) for i in range(24))


def test_the_freedom_of_each_image_is_not_an_advantage() -> None:
    """Guesses about nothing name their own image no more often than chance, although each may be moved to suit it."""
    x, gallery = pictures(40, 32, seed=3), pictures(200, 32, seed=5)
    named = nearest_each(x, gallery, 8, EVERYTHING)
    assert (named == np.arange(40)).sum() <= 3
    # Whereas moving each to suit its own image first, and then asking who is nearest, would cheat.
    cheat = nearest(register_each(x, gallery[:40], 8, EVERYTHING), gallery)
    assert (cheat == np.arange(40)).sum() > (named == np.arange(40)).sum()


def test_one_image_does_not_choose_the_move() -> None:
    plain = pictures(24, 32)
    guesses = pictures(24, 32, seed=1)
    orbit = load(describe("block_pixel_shuffle", (32, 32, 1), 8)).orbit
    chosen = set()
    for down, across in itertools.product((-1, 0, 1), (-1, 0, 1)):
        guesses[4] = np.roll(plain[4], (8 * down, 8 * across), (0, 1))
        chosen.add(register(guesses, plain, 8, orbit))
    assert len(chosen) == 1
