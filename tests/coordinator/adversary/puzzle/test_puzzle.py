"""The puzzle of turned, negated and recoloured blocks: each part against loops or by hand, then whole pictures."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from coordinator.adversary.puzzle import block_refinement as restate
from coordinator.adversary.puzzle import block_symmetry as states
from coordinator.adversary.puzzle import side_matching as fits
from coordinator.adversary.puzzle.seams import block_sides
from coordinator.adversary.puzzle.solver import Solved, solve
from coordinator.adversary.puzzle.spanning_tree import Clusters, alone, join, tie
from coordinator.adversary.values import ycbcr_planes as planes
from crypto.kernels.blocks import block_pixels, from_blocks, to_blocks
from crypto.schemes.etc import to_planes, turned_pixels
from crypto.schemes.pe import ORDERS
from tests.support.pictures import smooth


def set_upright(
    blocks: np.ndarray, turn: np.ndarray, negative: np.ndarray, order: np.ndarray
) -> np.ndarray:
    """uint8 [n, N, M², c] blocks brought into these states, one by one."""
    out = np.empty_like(blocks)
    pixels = turned_pixels(round(blocks.shape[2] ** 0.5))
    for i in range(blocks.shape[1]):
        piece = blocks[:, i][:, pixels[turn[i]]]
        piece = 255 - piece if negative[i] else piece
        out[:, i] = piece[..., ORDERS[order[i]]] if blocks.shape[3] == 3 else piece
    return out


def random_states(count: int, channels: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    order = rng.integers(0, 6, count) if channels == 3 else np.zeros(count, np.int64)
    return rng.integers(0, 8, count), rng.random(count) < 0.5, order


def sides_of(images: np.ndarray, block: int) -> np.ndarray:
    return block_sides(images, block_pixels(*images.shape[1:3], block), block)


def walks_of(images: np.ndarray, block: int) -> np.ndarray:
    return states.walks(sides_of(images, block), images.shape[3])


def disorder(plain: np.ndarray, block: int, seed: int) -> np.ndarray:
    """The blocks of [n, h, w, c] moved and put into random states."""
    blocks = to_blocks(plain, block)
    count = blocks.shape[1]
    moved = blocks[:, np.random.default_rng(seed).permutation(count)]
    return from_blocks(set_upright(moved, *random_states(count, plain.shape[3], seed)), *plain.shape[1:3])


def put_together(images: np.ndarray, block: int, solved: Solved) -> np.ndarray:
    upright = set_upright(to_blocks(images, block), solved.turn, solved.negative, solved.order)
    return from_blocks(upright[:, solved.grid.ravel()], *images.shape[1:3])


def symmetric(guess: np.ndarray, plain: np.ndarray) -> bool:
    """Whether some turn, sign and colour order of the whole makes them equal."""
    for turn in range(8):
        turned = np.rot90(guess, turn % 4, (1, 2))
        turned = turned[:, :, ::-1] if turn >= 4 else turned
        for order in itertools.permutations(range(plain.shape[3])):
            if turned.shape == plain.shape:
                same = turned[..., order]
                if (same == plain).all() or (255 - same == plain).all():
                    return True
    return False


# ---- states ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_walks_of_upright_blocks_are_upright_walks(channels):
    images = np.random.default_rng(0).integers(0, 256, (2, 12, 8, channels), np.uint8)
    chosen = random_states(6, channels, 3)
    upright = from_blocks(set_upright(to_blocks(images, 4), *chosen), 12, 8)
    assert np.allclose(states.upright_walks(walks_of(images, 4), *chosen), walks_of(upright, 4))


def test_a_walk_is_read_clockwise_and_as_sides_undoes_it():
    image = np.arange(9, dtype=np.uint8).reshape(1, 3, 3, 1)
    sides = np.stack([image[0, :, 2, 0], image[0, :, 0, 0], image[0, 2, :, 0], image[0, 0, :, 0]])
    sides = sides.astype(np.float32)[None, :, None]  # right, left, bottom, top
    walked = states.walks(sides, 1)
    expected = [[0, 1, 2], [2, 5, 8], [8, 7, 6], [6, 3, 0]]
    assert (walked[0, 0, :, :, 0] + states.MIDDLE).tolist() == expected
    assert np.allclose(states.as_sides(walked) + states.MIDDLE, sides)


def test_tables_of_turns_and_orders():
    cells = np.arange(16)
    pixels = turned_pixels(4)
    for a, b in itertools.product(range(8), range(8)):
        assert (cells[pixels[a]][pixels[b]] == cells[pixels[states.THEN[a, b]]]).all()
    assert (states.THEN[np.arange(8), states.UNDONE] == 0).all()
    for a, b in itertools.product(range(6), range(6)):
        assert (ORDERS[a][ORDERS[b]] == ORDERS[states.MIXED[a, b]]).all()
    assert (states.MIXED[np.arange(6), states.UNMIXED] == 0).all()
    # A quarter turn counter-clockwise takes a step right to a step up.
    assert (states.MOVES[1] @ [0, 1]).tolist() == [-1, 0]
    for turn, direction, back in itertools.product(range(8), range(4), range(2)):
        shown = states.TURN_OF[states.SHOWN[turn, direction], back, direction]
        assert (shown == turn) == (back == states.BACKWARD[turn, direction])


# ---- fits -----------------------------------------------------------------------------------------


def naive_gap(one: np.ndarray, other: np.ndarray, alike: int, sign: int, order: np.ndarray) -> float:
    other = other if alike else other[:, ::-1]
    return float(((one - sign * other[..., order]) ** 2).mean())


@pytest.mark.parametrize("channels", [1, 3])
def test_best_pairs_against_a_search_of_all_states(channels, monkeypatch):
    monkeypatch.setattr(fits, "_PARTNERS", 3)
    monkeypatch.setattr(fits, "_STRIP", 16 * channels**2 * 5)  # strips of five sides
    walked = walks_of(np.random.default_rng(5).integers(0, 256, (2, 8, 8, channels), np.uint8), 4)
    orders = [list(p) for p in ORDERS] if channels == 3 else [[0]]
    flat = walked.reshape(2, 16, 4, channels)
    best = {}
    for p, q, alike in itertools.product(range(16), range(16), range(2)):
        if p // 4 != q // 4:
            best[p, q, alike] = min(
                (naive_gap(flat[:, p], flat[:, q], alike, s, np.array(o)), s, k)
                for s in (1, -1)
                for k, o in enumerate(orders)
            )
    found = fits.best_pairs(walked)
    assert (found[:, 0] < found[:, 2]).all()
    listed = set()
    for i, a, j, b, alike, sign, order in found.tolist():
        p, q = 4 * i + a, 4 * j + b
        gap = naive_gap(flat[:, p], flat[:, q], alike, sign, np.array(orders[order]))
        assert gap == pytest.approx(best[p, q, alike][0], rel=1e-3, abs=0.1)
        listed |= {(p, q, alike), (q, p, alike)}
    for p in range(16):
        nearest = min((v[0], key) for key, v in best.items() if key[0] == p)
        assert nearest[1] in listed


def test_weigh_and_usual_against_loops():
    walked = walks_of(smooth(2, 8, 8, 3, seed=6), 4)
    usual = fits.usual_fits(walked)
    assert usual.shape == (2, 4, 4) and (usual > 0).all()
    pair = np.array([[0, 1, 3, 2, 1, -1, 4]])
    expected = 0.0
    for k in range(2):
        for o, weight in ((k, -1.0), (1 - k, 0.5)):
            gap = naive_gap(walked[k, 0, 1], walked[o, 3, 2][:, None][:, 0], 1, -1, ORDERS[4])
            fit = 1 / ((gap + 4) ** 2 * usual[k, 0, 1] * usual[o, 3, 2])
            expected += weight * np.log(fit + 0.02)
    assert fits.weigh(walked, usual, pair)[0] == pytest.approx(expected, rel=1e-4)


def test_margins_set_a_pair_against_its_rivals():
    pairs = np.array([[0, 0, 1, 0, 0, 1, 0], [0, 0, 2, 0, 0, 1, 0], [1, 1, 2, 1, 0, 1, 0]])
    margins = fits.pair_margins(pairs, np.array([-5.0, -2.0, -1.0]), 3)
    assert margins.tolist() == [-3.0, 3.0, -1.0]


# ---- tree -----------------------------------------------------------------------------------------


def true_pairs(shape: tuple[int, int]) -> np.ndarray:
    """Pairs of an upright picture: right sides beside left ones, bottoms above tops."""
    cells = np.arange(shape[0] * shape[1]).reshape(shape)
    across = [
        [i, 1, j, 3, 0, 1, 0] for i, j in zip(cells[:, :-1].ravel(), cells[:, 1:].ravel(), strict=True)
    ]
    down = [[i, 2, j, 0, 0, 1, 0] for i, j in zip(cells[:-1].ravel(), cells[1:].ravel(), strict=True)]
    return np.array(across + down)


def test_join_puts_an_upright_picture_together():
    made = join(true_pairs((3, 4)), alone(12), (3, 4))
    assert len(set(made.name)) == 1 and (made.turn == made.turn[0]).all()
    steps = made.place - made.place[0]
    back = states.MOVES[states.UNDONE[made.turn[0]]]
    assert [tuple(back @ s) for s in steps] == [(k // 4, k % 4) for k in range(12)]


def test_join_refuses_what_overlaps_or_leaves_the_frame():
    row = true_pairs((1, 3))
    assert len(set(join(row, alone(3), (2, 2)).name)) == 2
    twice = np.array([[0, 1, 1, 3, 0, 1, 0], [0, 1, 2, 3, 0, 1, 0]])
    kept = join(twice, alone(3), (3, 3))
    assert kept.name[0] == kept.name[1] != kept.name[2]
    tied = tie(twice, kept)
    assert len(set(tied.name)) == 1 and kept.name[2] == 2


def test_join_carries_turn_sign_and_order():
    walked = walks_of(disorder(smooth(3, 16, 16, 3, seed=1), 8, 4), 8)
    pairs = fits.best_pairs(walked)
    margins = fits.pair_margins(pairs, fits.weigh(walked, fits.usual_fits(walked), pairs), 4)
    made = join(pairs[np.argsort(margins)], alone(4), (2, 2))
    assert isinstance(made, Clusters) and len(set(made.name)) == 1
    expected = set()
    turn, negative, order = random_states(4, 3, 4)
    for whole, sign, colours in itertools.product(range(8), (1, -1), range(6)):
        upright = states.THEN[states.UNDONE[turn], whole]
        orders = states.MIXED[states.UNMIXED[order], colours]
        expected.add((*upright, *np.where(negative, -sign, sign), *orders))
    assert (*made.turn, *made.sign, *made.order) in expected


# ---- states tried anew ------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_state_costs_against_setting_each_state(channels):
    walked = walks_of(smooth(2, 8, 12, channels, seed=2), 4)
    usual, grid = fits.usual_fits(walked), np.random.default_rng(0).permutation(6).reshape(2, 3)
    turn, negative, order = random_states(6, channels, 8)
    costs = restate.state_costs(walked, usual, grid, turn, negative, order)
    p = int(grid[0, 1])
    for t, s, o in ((0, 0, 0), (5, 1, costs.shape[3] - 1), (3, 1, 0)):
        expected = 0.0
        new = turn.copy(), negative.copy(), order.copy()
        new[0][p], new[1][p], new[2][p] = t, s, o
        stood = states.upright_walks(walked, *new)
        for d, q in ((1, grid[0, 2]), (2, grid[1, 1]), (3, grid[0, 0])):
            scale_p = usual[:, p, states.SHOWN[t, d]]
            scale_q = usual[:, q, states.SHOWN[new[0][q], (d + 2) % 4]]
            for k in range(2):
                for other, weight in ((k, -1.0), (1 - k, 0.5)):
                    gap = naive_gap(
                        stood[k, p, d][None], stood[other, q, (d + 2) % 4][None], 0, 1, np.arange(channels)
                    )
                    fit = 1 / ((gap + 4) ** 2 * scale_p[k] * scale_q[other])
                    expected += weight * np.log(fit + 0.02)
        assert costs[p, t, s, o] == pytest.approx(expected, rel=1e-3, abs=1e-2)


def test_improve_sets_single_blocks_right():
    plain = smooth(4, 64, 64, 3, seed=3)
    walked = walks_of(plain, 8)
    turn, negative, order = np.zeros(64, np.int64), np.zeros(64, bool), np.zeros(64, np.int64)
    turn[[9, 30, 63]], negative[[9, 41]], order[[30, 2]] = (3, 6, 1), True, (2, 5)
    found = restate.improve(
        walked, fits.usual_fits(walked), np.arange(64).reshape(8, 8), turn, negative, order
    )
    assert not any(values.any() for values in found)
    assert turn[9] == 3  # what was handed in is left alone


# ---- whole pictures ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "height", "width", "channels", "block"),
    [
        (3, 64, 64, 1, 8),
        (1, 64, 64, 3, 8),
        (3, 48, 80, 1, 8),
        (2, 48, 32, 3, 8),
        (20, 24, 24, 3, 4),
        (2, 96, 96, 3, 16),
    ],
)
def test_the_picture_is_put_together_exactly(n, height, width, channels, block):
    plain = smooth(n, height, width, channels, seed=1)
    mixed = disorder(plain, block, 9)
    solved = solve(sides_of(mixed, block), channels, (height // block, width // block))
    assert symmetric(put_together(mixed, block, solved), plain)
    assert solved.size == solved.grid.size
    again = solve(sides_of(mixed, block), channels, (height // block, width // block))
    assert all(
        np.array_equal(a, b) for a, b in zip(vars(solved).values(), vars(again).values(), strict=True)
    )


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (1, 5)])
def test_pictures_of_few_blocks(shape):
    images = smooth(2, 8 * shape[0], 8 * shape[1], 1)
    solved = solve(sides_of(images, 8), 1, shape)
    assert sorted(solved.grid.ravel()) == list(range(shape[0] * shape[1]))
    assert put_together(images, 8, solved).mean() < 127.5  # the darker sign


def test_without_time_every_block_still_has_a_place():
    mixed = disorder(smooth(2, 32, 32, 3), 8, 1)
    solved = solve(sides_of(mixed, 8), 3, (4, 4), lambda: False)
    assert sorted(solved.grid.ravel()) == list(range(16))


def test_noise_ties_little_together():
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 1), np.uint8)
    solved = solve(sides_of(images, 8), 1, (8, 8))
    assert sorted(solved.grid.ravel()) == list(range(64)) and solved.size < 32


# ---- planes -----------------------------------------------------------------------------------------


def saturated(n: int) -> np.ndarray:
    """uint8 [n, 32, 32, 3]: flat patches of strong colours, as only a right sign can make them."""
    rng = np.random.default_rng(2)
    colours = rng.choice(np.array([0, 40, 230], np.uint8), (n, 8, 8, 3))
    return colours.repeat(4, 1).repeat(4, 2)


@pytest.mark.parametrize("seed", range(4))
def test_planes_are_told_apart_and_signed(seed):
    rng = np.random.default_rng(seed)
    plain = to_planes(saturated(12))[..., 0]
    stack = plain.reshape(12, 32, 3, 32).transpose(0, 2, 1, 3)
    order, turn, negative = rng.permutation(3), rng.integers(0, 8, 3), rng.random(3) < 0.5
    mixed = stack[:, order].copy()
    for p in range(3):
        mixed[:, p] = planes.turn_pictures(mixed[:, p], turn[p])
        mixed[:, p] = 255 - mixed[:, p] if negative[p] else mixed[:, p]
    found = planes.settle(mixed)
    assert found.told and order[list(found.which)].tolist() == [0, 1, 2]
    made = []
    for which, state, less in zip(found.which, found.turn, found.negative, strict=True):
        picture = planes.turn_pictures(mixed[:, which], state)
        made.append(255 - picture if less else picture)
    whole = states.UNDONE[turn[found.which[0]]]
    flipped = found.negative[0] != negative[found.which[0]]
    for p in range(3):
        picture = planes.turn_pictures(made[p], whole)
        assert ((255 - picture if flipped else picture) == stack[:, p]).all()


def test_gray_pictures_tell_nothing_of_chroma():
    gray = np.repeat(smooth(3, 32, 32, 1), 3, 3)
    assert not planes.settle(to_planes(gray)[..., 0].reshape(3, 32, 3, 32).transpose(0, 2, 1, 3)).told


def test_outside_counts_what_leaves_rgb():
    luma, zero = np.full((1, 1, 1), 255.0), np.zeros((1, 1, 1))
    assert planes.outside(luma, zero, zero) == 0
    assert planes.outside(luma, zero, zero + 10) == pytest.approx(14.02)
