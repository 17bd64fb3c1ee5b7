"""The parts of key recovery, each against a naive reference, a search of everything, or a case by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from coordinator.adversary import assemble, distances, exchange, layout, seams
from crypto.blocks import block_pixels


def random_costs(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    across, down = np.random.default_rng(seed).normal(size=(2, count, count))
    return across, down


def naive_total(grid: np.ndarray, across: np.ndarray, down: np.ndarray) -> float:
    height, width = grid.shape
    total = 0.0
    for y in range(height):
        for x in range(width):
            if x + 1 < width:
                total += across[grid[y, x], grid[y, x + 1]]
            if y + 1 < height:
                total += down[grid[y, x], grid[y + 1, x]]
    return total


# ---- distances ------------------------------------------------------------------------------------


def test_position_distances_against_loops():
    parts = np.random.default_rng(1).integers(0, 256, (7, 5, 3), np.uint8)
    expected = np.zeros((5, 5))
    for k, other in itertools.product(range(5), range(5)):
        for m, c in itertools.product(range(7), range(3)):
            d = abs(int(parts[m, k, c]) - int(parts[m, other, c]))
            expected[k, other] += d / (d + 8) / 21
    assert np.allclose(distances.position_distances(parts), expected, atol=1e-6)


def test_position_distances_of_nothing_are_zero():
    assert (distances.position_distances(np.zeros((0, 4, 1), np.uint8)) == 0).all()


def test_saturate_halves_at_eight():
    assert distances.saturate(np.array([0, 8, -8])).tolist() == [0.0, 0.5, 0.5]


def test_textured_takes_the_strong_first_and_never_the_constant():
    parts = np.full((30, 4, 1), 50, np.uint8)
    parts[3:8, 0] = 200  # strong
    parts[10:14, 0] = 53  # weak
    assert set(distances.textured(parts, 5)) == set(range(3, 8))
    assert set(distances.textured(parts, 7)) > set(range(3, 8))
    assert set(distances.textured(parts, 99)) == {*range(3, 8), *range(10, 14)}
    assert (distances.textured(parts, 3) == distances.textured(parts, 3)).all()


# ---- layout ---------------------------------------------------------------------------------------


def grid_distances(height: int, width: int, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances of shuffled grid points, saturating and noisy, and where each truly is."""
    rng = np.random.default_rng(seed)
    where = rng.permutation(height * width)
    row, column = np.divmod(where, width)
    far = np.hypot(row[:, None] - row, column[:, None] - column)
    values = far / (far + 3) + noise * rng.random(far.shape)
    values = (values + values.T) / 2
    np.fill_diagonal(values, 0.0)
    return values, where


@pytest.mark.parametrize("side", [2, 3, 4, 5, 8, 11])
def test_lay_out_finds_a_square_grid(side):
    values, where = grid_distances(side, side, 0.05, side)
    found = layout.lay_out(values, side, side)
    assert any((turn[found] == where).all() for turn in layout.symmetries(side))


def test_lay_out_finds_a_longer_grid():
    values, where = grid_distances(5, 9, 0.05, 3)
    found = layout.lay_out(values, 5, 9).reshape(-1)
    cells = np.arange(45).reshape(5, 9)
    turns = [cells, cells[::-1], cells[:, ::-1], cells[::-1, ::-1]]
    assert any((turn.ravel()[found] == where).all() for turn in turns)


def test_lay_out_reaches_the_best_cost_of_all_orders():
    rng = np.random.default_rng(5)
    for _ in range(5):
        values = rng.random((6, 6))
        values += values.T
        np.fill_diagonal(values, 0.0)
        kernel = layout.grid_kernel(2, 3)
        orders = itertools.permutations(range(6))
        best = min(layout.cost(values, kernel, np.array(order)) for order in orders)
        assert layout.cost(values, kernel, layout.lay_out(values, 2, 3)) == pytest.approx(best)


def test_swap_down_stops_where_no_swap_helps():
    values, _ = grid_distances(4, 4, 1.0, 2)
    kernel, start = layout.grid_kernel(4, 4), np.arange(16)
    found = layout.swap_down(values, kernel, start)
    reached = layout.cost(values, kernel, found)
    assert reached < layout.cost(values, kernel, start)
    assert start.tolist() == list(range(16))
    for a, b in itertools.combinations(range(16), 2):
        swapped = found.copy()
        swapped[[a, b]] = swapped[[b, a]]
        assert layout.cost(values, kernel, swapped) > reached - 1e-6


def test_path_lengths_of_two_islands_are_none():
    points = np.array([0.0, 1.0, 2.0, 100.0, 101.0, 102.0])
    far = np.abs(points[:, None] - points)
    assert layout.path_lengths(far, 2) is None
    lengths = layout.path_lengths(far[:3, :3], 1)
    assert lengths is not None and lengths[0, 2] == pytest.approx(lengths[0, 1] + lengths[1, 2])


def test_scale_gives_back_flat_distances():
    points = np.random.default_rng(0).random((12, 2))
    far = np.linalg.norm(points[:, None] - points, axis=-1)
    laid = layout.scale(far)
    assert np.allclose(np.linalg.norm(laid[:, None] - laid, axis=-1), far)


def test_lay_out_without_time_still_places_everything():
    values, _ = grid_distances(4, 4, 0.05, 2)
    assert sorted(layout.lay_out(values, 4, 4, more=lambda: False)) == list(range(16))


def test_symmetries_are_eight_and_keep_neighbours():
    turns = layout.symmetries(3)
    assert len({tuple(turn) for turn in turns}) == 8
    kernel = layout.grid_kernel(3, 3)
    for turn in turns:
        assert np.allclose(kernel[np.ix_(turn, turn)], kernel)


# ---- seams ----------------------------------------------------------------------------------------


def test_block_sides_by_hand():
    image = np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1)
    right, left, bottom, top = seams.block_sides(image, block_pixels(4, 4, 2), 2)[0]
    assert right[0].tolist() == [1.5, 5.5] and left[1].tolist() == [1.5, 5.5]
    assert bottom[0].tolist() == [6.0, 7.0] and top[2].tolist() == [6.0, 7.0]


def test_block_sides_of_single_pixels_keep_their_values():
    image = np.arange(6, dtype=np.uint8).reshape(1, 2, 3, 1)
    assert (seams.block_sides(image, block_pixels(2, 3, 1), 1)[0, :, :, 0] == np.arange(6)).all()


def naive_seam_costs(images: np.ndarray) -> np.ndarray:
    """[n, 4, N, F] → [2, N, N], word for word what seams.py says of itself."""
    n, _, count, _ = images.shape
    off = ~np.eye(count, dtype=bool)
    out = np.zeros((2, count, count))

    def fit(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return 1 / (((a[:, None] - b[None]) ** 2).mean(-1) + 4) ** 2 * off

    for direction in (0, 1):
        first, second = images[:, 2 * direction].astype(float), images[:, 2 * direction + 1].astype(float)
        own = [fit(first[t], second[t]) for t in range(n)]
        usual = [[np.sqrt(o.sum(axis) / (count - 1)) for axis in (1, 0)] for o in own]
        for t in range(n):
            out[direction] -= np.log(0.02 + own[t] / usual[t][0][:, None] / usual[t][1])
            if n > 1:
                u = (t + 1) % n
                cross = fit(first[t], second[u]) / usual[t][0][:, None] / usual[u][1]
                out[direction] += 0.5 * np.log(0.02 + cross)
    return out * off


@pytest.mark.parametrize("n", [1, 2, 5])
def test_seam_costs_against_numpy(n):
    images = np.random.default_rng(n).normal(0, 3, (n, 4, 7, 6)).astype(np.float32)
    assert np.allclose(seams.seam_costs(iter(images), 7), naive_seam_costs(images), atol=1e-4)


def test_seam_costs_stop_when_time_is_up():
    images = np.random.default_rng(0).normal(0, 3, (5, 4, 7, 6)).astype(np.float32)
    stopped = seams.seam_costs(iter(images), 7, more=lambda: False)
    assert np.allclose(stopped, seams.seam_costs(iter(images[:1]), 7))


def test_seams_of_what_is_black_in_every_image_say_little():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 32, 32, 1), np.uint8)
    images[:, :, :16] = 0
    sides = seams.block_sides(images, block_pixels(32, 32, 8), 8)
    across, down = seams.seam_costs(iter(sides), 16)
    black = [i for i in range(16) if i % 4 < 2]
    within_black = across[np.ix_(black, black)][~np.eye(8, dtype=bool)]
    assert np.ptp(within_black) < 1e-3  # interchangeable: no order of them is preferred
    ramp = np.add.outer(np.arange(32), np.arange(32)) * 3
    smooth = (ramp[None, :, :, None] + 40 * rng.random((20, 1, 1, 1))).astype(np.uint8)
    smooth[:, :, :16] = 0
    across, down = seams.seam_costs(iter(seams.block_sides(smooth, block_pixels(32, 32, 8), 8)), 16)
    assert down[2, 6] < down[0, 4] and across[2, 3] < across[0, 1]  # a true seam of content tells more


def test_inner_seams_are_least_for_the_true_turn():
    ramp = (np.arange(16)[:, None] * 7 + np.arange(16) * 3).astype(np.uint8)
    quarters = ramp.reshape(1, 2, 8, 2, 8).transpose(0, 1, 3, 2, 4).reshape(1, 4, 64, 1)
    scores = [seams.inner_seams(quarters[:, :, turn], 8) for turn in layout.symmetries(8)]
    identity = [i for i, turn in enumerate(layout.symmetries(8)) if (turn == np.arange(64)).all()]
    assert int(np.argmin(scores)) == identity[0]
    assert min(scores) == pytest.approx(0.0, abs=1e-6)


# ---- exchange and assemble --------------------------------------------------------------------------


def test_total_cost_against_loops():
    across, down = random_costs(12, 0)
    grid = np.random.default_rng(1).permutation(12).reshape(3, 4)
    assert exchange.total_cost(grid, across, down) == pytest.approx(naive_total(grid, across, down))


def test_cell_costs_against_total_cost():
    across, down = random_costs(12, 3)
    grid = np.random.default_rng(4).permutation(12).reshape(3, 4)
    cells = np.array([0, 5, 11])
    costs = exchange.cell_costs(grid, cells, grid.ravel()[cells], across, down)
    without = np.where(np.isin(np.arange(12), cells), -1, grid.ravel()).reshape(3, 4)
    for which, cell in enumerate(cells):
        y, x = divmod(int(cell), 4)
        expected = 0.0
        for dy, dx, table in ((0, 1, across), (1, 0, down)):
            block = grid[y, x]
            if y + dy < 3 and x + dx < 4:
                expected += table[block, without[y + dy, x + dx]]
            if y - dy >= 0 and x - dx >= 0:
                expected += table[without[y - dy, x - dx], block]
        assert costs[which, which] == pytest.approx(expected)


@pytest.mark.parametrize("shape", [(1, 5), (3, 4), (4, 3), (5, 1)])
def test_best_cut_is_the_best_of_all_shifts(shape):
    for seed in range(5):
        across, down = random_costs(shape[0] * shape[1], seed)
        for costs in (across, down):
            np.fill_diagonal(costs, assemble.NEVER)
        grid = np.random.default_rng(seed).permutation(shape[0] * shape[1]).reshape(shape)
        shifts = itertools.product(range(shape[0]), range(shape[1]))
        best = min(naive_total(np.roll(grid, shift, (0, 1)), across, down) for shift in shifts)
        found = exchange.best_cut(grid, across, down)
        assert naive_total(found, across, down) == pytest.approx(best)


@pytest.mark.parametrize("step", [exchange.swap_pairs, exchange.shift_bands])
def test_steps_lower_the_cost_and_lose_no_block(step):
    across, down = random_costs(30, 7)
    grid = np.random.default_rng(8).permutation(30).reshape(5, 6)
    before = naive_total(grid, across, down)
    assert step(grid, across, down) > 0
    assert naive_total(grid, across, down) < before
    assert sorted(grid.ravel()) == list(range(30))


def test_swap_pairs_ends_where_no_distant_swap_helps():
    across, down = random_costs(20, 9)
    grid = np.arange(20).reshape(4, 5).copy()
    while exchange.swap_pairs(grid, across, down):
        pass
    reached = naive_total(grid, across, down)
    for a, b in itertools.combinations(range(20), 2):
        if abs(a // 5 - b // 5) + abs(a % 5 - b % 5) > 1:
            swapped = grid.ravel().copy()
            swapped[[a, b]] = swapped[[b, a]]
            assert naive_total(swapped.reshape(4, 5), across, down) > reached - 1e-5


def planted(shape: tuple[int, int], noise: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A true grid of blocks, and costs under which its seams are mostly, not always, the best."""
    rng = np.random.default_rng(seed)
    count = shape[0] * shape[1]
    truth = rng.permutation(count).reshape(shape)
    across, down = noise * rng.normal(size=(2, count, count))
    across[truth[:, :-1], truth[:, 1:]] -= 3.0
    down[truth[:-1], truth[1:]] -= 3.0
    return truth, across, down


def test_shift_bands_puts_a_shifted_band_back():
    truth, across, down = planted((6, 7), 0.1, 1)
    grid = truth.copy()
    grid[2:4] = np.roll(grid[2:4], 3, 1)
    exchange.shift_bands(grid, across, down)
    assert (grid == truth).all()


def test_redeal_puts_untouching_cells_back():
    truth, across, down = planted((6, 7), 0.1, 2)
    cells = np.array([0, 2, 9, 18, 30, 41])
    grid = truth.copy()
    grid.ravel()[cells] = np.roll(grid.ravel()[cells], 1)
    assert (exchange.redeal(grid, cells, across, down) == truth).all()


def test_joins_come_surest_first_and_say_which_way():
    _, across, down = planted((3, 3), 0.2, 0)
    for costs in (across, down):
        np.fill_diagonal(costs, assemble.NEVER)
    edges, margins = assemble.joins(across, down)
    for (i, j, direction), margin in zip(edges, margins, strict=True):
        costs = down if direction else across
        others = np.concatenate([np.delete(costs[i], [i, j]), np.delete(costs[:, j], [i, j])])
        assert margin == pytest.approx(costs[i, j] - others.min())


def test_grow_refuses_overlaps_and_what_leaves_the_frame():
    right = [0, 1, 0]
    cluster, row, column = assemble.grow(np.array([right, [1, 2, 0], [2, 3, 0]]), 4, 2, 3)
    assert cluster[0] == cluster[1] == cluster[2] != cluster[3]  # a fourth in a row does not fit in three
    assert (np.diff(column[:3]) == 1).all() and (np.diff(row[:3]) == 0).all()
    cluster, _, _ = assemble.grow(np.array([right, [0, 2, 0]]), 3, 3, 3)
    assert cluster[0] == cluster[1] != cluster[2]  # two blocks right of block 0
    edges = np.array([right, [2, 3, 0], [0, 2, 1], [1, 3, 1]])
    cluster, row, column = assemble.grow(edges, 4, 2, 2)
    assert len(set(cluster)) == 1
    assert [(int(y - row[0]), int(x - column[0])) for y, x in zip(row, column, strict=True)] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
    ]


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (2, 2), (1, 9), (6, 9), (12, 12)])
def test_assemble_finds_the_planted_picture(shape):
    truth, across, down = planted(shape, 0.5, shape[0])
    assert (assemble.assemble(across, down, shape) == truth).all()


def test_assemble_reaches_the_cheapest_of_all_orders():
    for seed in range(4):
        across, down = random_costs(6, seed)
        found = exchange.total_cost(assemble.assemble(across, down, (2, 3)), across, down)
        orders = (np.array(order).reshape(2, 3) for order in itertools.permutations(range(6)))
        every = sorted(naive_total(order, across, down) for order in orders)
        assert found < every[10]  # of 720, under costs that are noise alone


def test_assemble_of_equal_costs_and_without_time_is_a_permutation():
    flat = np.zeros((12, 12))
    assert sorted(assemble.assemble(flat, flat, (3, 4)).ravel()) == list(range(12))
    across, down = random_costs(12, 1)
    found = assemble.assemble(across, down, (3, 4), more=lambda: False)
    assert sorted(found.ravel()) == list(range(12))
