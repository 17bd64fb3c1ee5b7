"""Values of laid-out blocks assigned to their cells by what surrounds each cell."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from coordinator.adversary.values import surroundings
from coordinator.adversary.values.surroundings import assign_by_surroundings
from coordinator.adversary.values.value_distances import LOG_DIFFERENCES, mean_distances
from crypto.arrays import Int64Array, UInt8Array
from crypto.kernels.blocks import from_blocks, to_blocks
from tests.support.pictures import fields


def picture_of(n: int, side: int) -> UInt8Array:
    """Return n smooth gray pictures as uint8 [side, side, n]."""
    return np.ascontiguousarray(fields(n, side, side, seed=4)[..., 0].transpose(1, 2, 0))


def moved_inside(picture: UInt8Array, block: int, places: Int64Array) -> UInt8Array:
    """Return the picture with the values of cell k of each block in cell places[N, k]."""
    blocks = to_blocks(picture[None], block)[0]
    out = np.empty_like(blocks)
    np.put_along_axis(out, np.broadcast_to(places[..., None], blocks.shape), blocks, 1)
    moved: UInt8Array = from_blocks(out[None], *picture.shape[:2])[0]
    return moved


def rough(block: int, count: int, reach: float, seed: int) -> Int64Array:
    """Return permutations of the cells of blocks that move them by about `reach` pixels, int64 [N, block²]."""
    rng = np.random.default_rng(seed)
    row, column = np.divmod(np.arange(block * block), block)
    out = []
    for _ in range(count):
        down = row + rng.normal(0, reach, len(row))
        across = column + rng.normal(0, reach, len(row))
        by_rows = np.argsort(down, kind="stable").reshape(block, block)
        out.append(np.argsort(np.concatenate([line[np.argsort(across[line])] for line in by_rows])))
    return np.array(out)


def test_rough_layouts_become_sharp() -> None:
    picture, places = picture_of(80, 32), rough(8, 16, 0.5, seed=0)
    assert (places == np.arange(64)).mean() < 0.5
    found = assign_by_surroundings(moved_inside(picture, 8, places), 8)
    back = np.take_along_axis(found, places, 1)
    assert (np.sort(found, axis=1) == np.arange(64)).all()
    assert (back == np.arange(64)).mean() > 0.9


def test_right_layouts_stay() -> None:
    found = assign_by_surroundings(picture_of(80, 32), 8)
    assert (found == np.arange(64)).mean() > 0.99


def test_values_across_the_seams_decide_the_turn_of_a_block() -> None:
    picture = picture_of(80, 24)
    turned = np.tile(np.arange(64), (9, 1))
    turned[4] = np.arange(64).reshape(8, 8).T.ravel()
    back = np.take_along_axis(assign_by_surroundings(moved_inside(picture, 8, turned), 8), turned, 1)
    assert (back[4] == np.arange(64)).mean() > 0.9


def test_one_pass_minimises_the_sum_of_its_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A naive search over all assignments of a block of four cells finds none that costs less."""
    monkeypatch.setattr(surroundings, "_PASSES", ((1.0, 1, 9),))
    picture = np.random.default_rng(2).integers(0, 256, (4, 2, 9), dtype=np.uint8)
    found = assign_by_surroundings(picture, 2)[0]  # the upper block, which is assigned first

    def cost(value: tuple[int, int], cell: tuple[int, int]) -> float:
        total = weight = 0.0
        for row, column in itertools.product(range(3), range(2)):
            away = (row - cell[0]) ** 2 + (column - cell[1]) ** 2
            if away and (row, column) != value:
                own = math.exp(-away / 2)
                steps = [
                    abs(int(a) - int(b)) for a, b in zip(picture[value], picture[row, column], strict=True)
                ]
                total += own * sum(math.log1p(step) for step in steps) / 9
                weight += own
        return total / weight

    cells = list(itertools.product(range(2), range(2)))
    totals = {
        order: sum(cost(cells[value], cells[cell]) for value, cell in enumerate(order))
        for order in itertools.permutations(range(4))
    }
    assert totals[tuple(found)] == pytest.approx(min(totals.values()))


def test_flat_blocks_and_time_that_is_over_move_nothing() -> None:
    flat = np.full((8, 8, 5), 7, np.uint8)
    assert (assign_by_surroundings(flat, 4) == np.arange(16)).all()
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 5), dtype=np.uint8)
    assert (assign_by_surroundings(noise, 4, lambda: False) == np.arange(16)).all()


@pytest.mark.parametrize(("height", "width", "block"), [(8, 8, 8), (6, 9, 3), (4, 4, 1), (2, 6, 2)])
def test_any_shape_gives_permutations(height: int, width: int, block: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 5), dtype=np.uint8)
    found = assign_by_surroundings(noise, block)
    assert found.shape == (height * width // block**2, block**2)
    assert (np.sort(found, axis=1) == np.arange(block**2)).all()


def test_mean_distances_are_those_of_a_loop() -> None:
    first, second = np.random.default_rng(5).integers(0, 256, (2, 4, 7), dtype=np.uint8)
    found = mean_distances(first, second, LOG_DIFFERENCES)
    for k, other in itertools.product(range(4), range(4)):
        steps = abs(first[k].astype(float) - second[other])
        assert found[k, other] == pytest.approx(np.log1p(steps).mean(), rel=1e-5)
