"""Evenly spaced samples."""

from __future__ import annotations

import numpy as np
import pytest

from coordinator.adversary.sampling import evenly_spaced


@pytest.mark.parametrize(("count", "limit"), [(10, 4), (100, 7), (5, 5), (3, 9), (0, 2), (8, 1)])
def test_a_sample_is_in_order_and_has_both_ends(count: int, limit: int) -> None:
    values = np.arange(count) * 3
    sample = evenly_spaced(values, limit)
    assert len(sample) == min(count, limit) and (np.diff(sample) > 0).all()
    if count and limit > 1:
        assert sample[0] == values[0] and sample[-1] == values[-1]
    if len(sample) > 2:
        assert np.ptp(np.diff(sample)) <= 3  # steps differ by at most one entry


def test_a_sample_is_taken_along_the_first_axis() -> None:
    images = np.arange(24).reshape(6, 2, 2)
    assert (evenly_spaced(images, 2) == images[[0, 5]]).all()
    assert evenly_spaced(images, 6) is images
