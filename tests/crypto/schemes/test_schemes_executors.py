"""The executors against a table applied by hand: one block, one unit at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.arrays import UInt8Array
from crypto.cipher import TableCipher
from crypto.kernels.executors import apply, apply_torch, prepare, run
from crypto.kernels.table import Table, Unit
from tests.support.scheme_checks import PROFILE


def by_hand(table: Table, image: UInt8Array) -> UInt8Array:
    """Apply a table to an image by the docstring of Table."""
    height, width, channels = table.shape
    rows, columns = table.block
    corners = [(r, c) for r in range(0, height, rows) for c in range(0, width, columns)]
    out = np.zeros_like(image)
    for i, (top, left) in enumerate(corners):
        from_top, from_left = corners[i if table.order is None else int(table.order[i])]
        read = image[from_top : from_top + rows, from_left : from_left + columns].reshape(-1).tolist()
        size = len(read)
        if table.unit == "pixel":
            units = [read[k : k + channels] for k in range(0, size, channels)]
        elif table.unit == "value":
            units = [[v] for v in read]
        else:
            units = [[v % 16] for v in read] + [[v // 16] for v in read]
        if table.inner is not None:
            inner = table.inner[i % len(table.inner)]
            units = [units[int(inner[u])] for u in range(len(units))]
        flat = [v for unit in units for v in unit]
        if table.unit == "nibble":
            flat = [flat[k] + 16 * flat[k + size] for k in range(size)]
        if table.mask is not None:
            flat = [flat[k] ^ int(table.mask[i % len(table.mask)][k]) for k in range(size)]
        out[top : top + rows, left : left + columns] = np.array(flat, np.uint8).reshape(
            rows, columns, channels
        )
    return out


def random_table(
    seed: int,
    grid: tuple[int, int],
    block: tuple[int, int],
    channels: int,
    unit: Unit,
    ordered: bool,
    inners: int,
    masks: int,
) -> Table:
    """Return a random table. inners, masks: 0 for none, 1 for one that serves all blocks, 2 for one a block."""
    generator = np.random.default_rng(seed)
    n, size = grid[0] * grid[1], block[0] * block[1] * channels
    units = {"pixel": size // channels, "value": size, "nibble": 2 * size}[unit]
    count = (0, 1, n)
    inner = [generator.permutation(units) for _ in range(count[inners])]
    return Table(
        (grid[0] * block[0], grid[1] * block[1], channels),
        block,
        generator.permutation(n) if ordered else None,
        np.stack(inner) if inner else None,
        generator.integers(0, 256, (count[masks], size), dtype=np.uint8) if masks else None,
        unit,
    )


tables = st.builds(
    random_table,
    st.integers(0, 9999),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.sampled_from([1, 3]),
    st.sampled_from(["pixel", "value", "nibble"]),
    st.booleans(),
    st.integers(0, 2),
    st.integers(0, 2),
)


@settings(PROFILE, max_examples=120)
@given(table=tables, n=st.integers(0, 3))
def test_executors_do_what_a_table_says(table: Table, n: int) -> None:
    images = np.random.default_rng(7).integers(0, 256, (n, *table.shape), dtype=np.uint8)
    before = images.copy()
    expected = np.array([by_hand(table, image) for image in images], np.uint8).reshape(images.shape)
    assert np.array_equal(apply(table, images), expected)
    assert np.array_equal(apply_torch(table, torch.from_numpy(images)).numpy(), expected)
    assert np.array_equal(images, before)
    assert np.array_equal(apply(table.inverse(), expected), images)
    cipher = TableCipher(table)
    assert np.array_equal(cipher.encrypt(images), expected)
    assert np.array_equal(cipher.decrypt(expected), images)


@pytest.mark.parametrize("channels", [1, 3])
def test_flat_tables_gather_a_whole_image(channels: int) -> None:
    generator = np.random.default_rng(3)
    images = generator.integers(0, 256, (2, 6, 4, channels), dtype=np.uint8)
    pixels = generator.permutation(24)
    expected = images.reshape(2, 24, channels)[:, pixels].reshape(images.shape)
    assert np.array_equal(apply(Table.flat((6, 4, channels), pixels), images), expected)
    values = generator.permutation(24 * channels)
    mask = generator.integers(0, 256, 24 * channels, dtype=np.uint8)
    expected = (images.reshape(2, -1)[:, values] ^ mask).reshape(images.shape)
    assert np.array_equal(apply(Table.flat((6, 4, channels), values, mask), images), expected)


def test_many_threads_do_what_one_does() -> None:
    table = random_table(1, (16, 16), (32, 32), 3, "value", True, 1, 2)
    images = np.random.default_rng(2).integers(0, 256, (7, *table.shape), dtype=np.uint8)
    at_once = apply(table, images)  # 5 MB: more than one thread's worth
    assert np.array_equal(at_once, np.concatenate([apply(table, image[None]) for image in images]))


def test_a_result_goes_into_the_array_that_is_passed() -> None:
    table = random_table(5, (2, 3), (4, 4), 3, "pixel", True, 2, 1)
    images = np.random.default_rng(6).integers(0, 256, (3, 8, 12, 3), dtype=np.uint8)
    target = np.zeros((5, 8, 12, 3), np.uint8)
    assert run(table, prepare(table), images, target[1:4]).base is not None
    np.testing.assert_array_equal(target[1:4], apply(table, images))
    assert (
        not target[0].any() and not target[4].any()
    )  # pixels are written four bytes at a time, and none too far
    with pytest.raises(ValueError, match="not contiguous"):
        run(table, prepare(table), images, np.zeros((3, 8, 12, 6), np.uint8)[..., ::2])
