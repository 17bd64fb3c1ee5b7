"""The agreement of pictures across the borders of their blocks, and the least fit that is believed."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.projection_fit import judge, least_fit
from coordinator.adversary.recover.border_agreement import border_agreement
from coordinator.adversary.recover.row_projections import LEAST_FIT
from crypto.kernels.blocks import from_blocks, to_blocks
from tests.support.paths import ROOT
from tests.support.pictures import smooth

SIDE, BLOCK = 48, 8


def test_real_pictures_agree_and_blocks_of_others_do_not() -> None:
    images = smooth(60, SIDE, SIDE, seed=1)
    assert border_agreement(images, BLOCK) > 0.8
    blocks = to_blocks(images, BLOCK)
    rng = np.random.default_rng(0)
    # Each block is smooth, and from another image than its neighbours.
    others = np.stack([blocks[rng.permutation(len(blocks)), place] for place in range(36)], axis=1)
    assert abs(border_agreement(from_blocks(others, SIDE, SIDE), BLOCK)) < 0.15
    # Half of the blocks in the negative: every second border agrees the wrong way round.
    negative = (np.indices((6, 6)).sum(0) % 2 == 1).ravel()[None, :, None, None]
    assert border_agreement(from_blocks(np.where(negative, 255 - blocks, blocks), SIDE, SIDE), BLOCK) < -0.8


def test_the_noise_s_part_is_taken_off() -> None:
    images = smooth(200, SIDE, SIDE, seed=2).astype(float)
    noisy = images + np.random.default_rng(0).normal(0, 40, images.shape)
    alike = border_agreement(images, BLOCK)
    assert border_agreement(noisy, BLOCK) < alike - 0.2
    assert border_agreement(noisy, BLOCK, 40.0**2) == pytest.approx(alike, abs=0.05)
    per_value = np.full(images.shape[1:], 40.0**2)
    assert border_agreement(noisy, BLOCK, per_value) == border_agreement(noisy, BLOCK, 40.0**2)


def test_nothing_that_varies_agrees_with_nothing() -> None:
    assert border_agreement(np.full((5, SIDE, SIDE, 1), 7, np.uint8), BLOCK) == 0.0
    assert border_agreement(smooth(5, SIDE, SIDE, seed=3), SIDE) == 0.0


def test_the_least_fit_is_the_one_that_was_measured() -> None:
    kept = json.loads((ROOT / "docs" / "results" / "50-projection-fit.json").read_text())["result"]
    cells = [cell for cell in kept["by_cell"] if cell["fit"] is not None]
    assert least_fit(cells) == kept["chosen"]["least"] == LEAST_FIT
    wrong = judge(cells, LEAST_FIT)["wrong_believed"]
    assert wrong["n"] > 90 and wrong["hits"] <= 0.05 * wrong["n"]


def test_a_least_fit_that_no_wrong_key_may_reach() -> None:
    cells = [{"fit": fit, "ssim": 0.1, "true_key": 1.0} for fit in (0.1, 0.2, 0.30)]
    cells += [{"fit": 0.9, "ssim": 0.9, "true_key": 1.0}]
    assert least_fit(cells) == 0.31
    assert (
        judge(cells, 0.31)["right_doubted"]["hits"] == 0
        and judge(cells, 0.2)["wrong_believed"]["hits"] == 2
    )
