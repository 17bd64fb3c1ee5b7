"""Each measure against a textbook version, and in best, worst and random cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import uniform_filter
from skimage.metrics import structural_similarity

from coordinator.exchange.audit.consistency import check_opening
from coordinator.exchange.audit.rates import rate_of
from coordinator.exchange.audit.scores import Grid, KeyShare, Summary
from coordinator.exchange.audit.suite1 import OPENS, SSIM_STEP
from crypto.arrays import UInt8Array
from parties.scoring import measures
from parties.scoring.figures import opening_of
from parties.scoring.measures import (
    coarse_rate,
    histograms,
    is_informative,
    near_duplicates,
    nearest,
    normalised,
    psnr,
    round_down,
    rounded_down,
    ssim,
    ssims,
    summarise,
)
from tests.support.small_pictures import pictures


def textbook_ssim(a: UInt8Array, b: UInt8Array) -> float:
    """Return the SSIM of Wang et al. 2004, one 7×7 window at a time, where b's standard deviation exceeds 2."""
    values = []
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    for y in range(a.shape[0] - 6):
        for x in range(a.shape[1] - 6):
            u = a[y : y + 7, x : x + 7].astype(float).ravel()
            v = b[y : y + 7, x : x + 7].astype(float).ravel()
            if v.std(ddof=1) <= 2:
                continue
            cov = np.cov(u, v)
            top = (2 * u.mean() * v.mean() + c1) * (2 * cov[0, 1] + c2)
            values.append(top / ((u.mean() ** 2 + v.mean() ** 2 + c1) * (cov[0, 0] + cov[1, 1] + c2)))
    return float(np.mean(values))


def test_ssim_is_the_textbook_s() -> None:
    a, b = pictures(2, 20)[..., 0]
    b = b.copy()
    b[:, :9] = 30  # a flat part, whose windows do not count
    assert ssim(a[..., None], b[..., None]) == pytest.approx(textbook_ssim(a, b), abs=1e-9)


def test_ssim_is_scikit_image_s_where_all_is_textured() -> None:
    a, b = pictures(2, channels=3)
    assert ssim(a, b) == pytest.approx(
        structural_similarity(a, b, data_range=255, channel_axis=-1), abs=1e-9
    )


@pytest.mark.parametrize(("height", "width", "channels"), [(7, 7, 1), (7, 20, 3), (33, 8, 1), (40, 41, 3)])
def test_ssim_is_scikit_image_s_to_the_last_bit(height: int, width: int, channels: int) -> None:
    generator = np.random.default_rng(height)
    shape = (height, width, channels)
    for low, high in ((0, 256), (100, 106)):
        a, b = (generator.integers(low, high, shape, np.uint8) for _ in range(2))
        _, values = structural_similarity(a, b, win_size=7, data_range=255, channel_axis=-1, full=True)
        x = b.astype(np.float64)
        mean, squares = (uniform_filter(part, (7, 7, 1)) for part in (x, x * x))
        textured = np.sqrt(np.maximum(squares - mean * mean, 0) * (49 / 48))[3:-3, 3:-3] > 2
        expected = values[3:-3, 3:-3][textured].mean() if textured.any() else math.nan
        assert ssim(a, b) == expected or math.isnan(expected)


def test_images_below_a_window_have_no_ssim() -> None:
    small = np.zeros((6, 9, 1), np.uint8)
    with pytest.raises(ValueError, match="no windows of 7 pixels"):
        ssim(small, small)


def test_ssim_best_worst_random() -> None:
    x = pictures(3)
    assert ssims(x, x).tolist() == [1.0, 1.0, 1.0]
    assert abs(ssims(x, x[[1, 2, 0]]).mean()) < 0.2
    assert ssim(255 - x[0], x[0]) < 0
    flat = np.full_like(x[0], 7)
    assert math.isnan(ssim(x[0], flat)) and ssim(flat, x[0]) < 0.05


def test_psnr() -> None:
    x = pictures(2)
    off = np.clip(x.astype(int) + np.where(x < 128, 10, -10), 0, 255).astype(np.uint8)
    assert psnr(off, x) == pytest.approx([20 * math.log10(255 / 10)] * 2)
    assert psnr(x, x).tolist() == [100.0, 100.0]


def test_nearest_best_worst_random() -> None:
    x = pictures(30)
    assert nearest(x, x).tolist() == list(range(30))
    assert (nearest(255 - x, x) == np.arange(30)).sum() == 0
    assert (nearest(pictures(30, seed=9), x) == np.arange(30)).sum() <= 5
    assert nearest(np.zeros_like(x[:2]), x).tolist() == [-1, -1]


def test_near_duplicates_point_to_the_first() -> None:
    x = pictures(4, 64)
    brighter = np.clip(x[1].astype(int) + 4, 0, 255).astype(np.uint8)
    assert near_duplicates(np.stack([x[0], x[1], x[2], brighter, x[0]])).tolist() == [0, 1, 2, 1, 0]


def test_histograms_count_values_by_channel() -> None:
    image = np.zeros((1, 4, 4, 3), np.uint8)
    image[..., 1] = 255
    image[0, 0, 0, 2] = 4
    table = histograms(image).reshape(3, 64) * 3
    assert table[0, 0] == 1 and table[1, 63] == 1
    assert table[2, 1] == pytest.approx(1 / 16) and table[2, 0] == pytest.approx(15 / 16)


@pytest.mark.parametrize(("hits", "n"), [(0, 64), (64, 64), (10, 64), (1, 3)])
def test_bounds_are_wilson_s(hits: int, n: int) -> None:
    # Wilson 1927, two-sided 95 %.
    z, p = 1.959963984540054, hits / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    rate = rate_of(hits, n)
    assert rate.low == pytest.approx(max(0, middle - reach), abs=1e-9)
    assert rate.high == pytest.approx(min(1, middle + reach), abs=1e-9)
    assert rate.rate == p


def test_no_cases_give_no_knowledge() -> None:
    assert rate_of(0, 0).to_json() == {"hits": 0, "n": 0, "rate": 0.0, "low": 0.0, "high": 1.0}
    nothing = np.array([np.nan])
    assert summarise(nothing) == summarise(nothing, 0.01) == Summary(median=0.0)


def test_a_coarse_median_is_no_single_image_s_figure() -> None:
    values = np.r_[np.full(32, 5.0), 0.0, np.full(31, 15.0)]
    medians = set()
    for own in np.linspace(5, 15, 41):  # would be the median of all
        values[32] = own
        medians.add(summarise(values, 1.0).median)
    assert len(medians) <= 2
    assert summarise(np.arange(101.0), 1.0) == Summary(median=50.0)
    assert summarise(np.full(9, 0.987), 0.01) == Summary(median=0.99)


def test_coarse_shares_decide_alike() -> None:
    assert [coarse_rate(h, 64).rate for h in (0, 1, 2, 32, 64)] == [0, 0, 2 / 64 + 1 / 64, 0.5, 1]
    for hits in range(65):  # what reaches the threshold of a control still does, and nothing else
        exact, coarse = rate_of(hits, 64), coarse_rate(hits, 64, up=True)
        assert (coarse.low >= 0.05) == (exact.low >= 0.05) and coarse.hits >= hits


def test_shares_are_whole_only_where_all_is_right() -> None:
    assert [round_down(share) for share in (4095 / 4096, 1.0, 0.1)] == [0.999, 1.0, 0.1]
    grid = Grid(direct=4095 / 4096, neighbour=1.0, largest=0.1)
    assert rounded_down(grid) == Grid(direct=0.999, neighbour=1.0, largest=0.1)
    key = KeyShare(
        block_order=4095 / 4096,
        block_order_unshifted=0.0,
        shift=(1, 7),
        pixel_order=1.0,
        neighbours=(3, 4),
        identifiable=0.1,
        bits_left=7.12345,
    )
    rounded = {"block_order": 0.999, "bits_left": 7.123}
    assert rounded_down(key) == key.model_copy(update=rounded)  # whole numbers stay as they are


def test_flat_and_repeated_pictures_are_not_informative() -> None:
    x = pictures(6, channels=3)
    assert is_informative(x).all()
    x[0] = 200
    x[1] = (0, 90, 255)  # flat in every channel
    x[3] = x[2]
    assert is_informative(x).tolist() == [False, False, True, True, True, True]
    x[4] = x[2]
    assert is_informative(x).tolist() == [False, False, False, False, False, True]


def test_the_deviation_of_a_picture_of_25_million_pixels_is_no_overflow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts = np.zeros((1, 1, 256), np.int64)
    counts[0, 0, 0], counts[0, 0, 255] = 5000 * 2500, 5000 * 2500
    monkeypatch.setattr(measures, "value_counts", lambda _images: counts)
    assert is_informative(np.broadcast_to(np.uint8(0), (1, 5000, 5000, 1))).tolist() == [True]


def test_large_flat_pictures_name_no_image() -> None:
    flat = np.full((2, 224, 224, 3), 255, np.uint8)
    flat[1] = 77
    assert not normalised(flat).any()
    assert nearest(flat, pictures(5, 224, channels=3)).tolist() == [-1, -1]


@pytest.mark.parametrize("well", range(65))
def test_what_is_told_of_an_opened_key_agrees_with_the_verdict_on_it(well: int) -> None:
    # Half of the images opened well and half badly: the mean of the middle fifth lies elsewhere than the median.
    values = np.array([0.97] * well + [0.885] * (64 - well))
    opening = opening_of(values, SSIM_STEP)
    assert opening.opens == bool(np.median(values) >= OPENS)
    assert opening.median_ssim >= OPENS if opening.opens else opening.median_ssim <= OPENS
    told = summarise(values, SSIM_STEP).median
    if (told >= OPENS) == opening.opens:
        assert opening.median_ssim == told
    assert opening_of(values, 0.0).median_ssim == summarise(values).median


def test_a_key_that_opens_half_of_the_images_leaves_scores_that_can_be_read() -> None:
    values = np.array([0.97] * 31 + [0.885] * 33)
    opening = opening_of(values, SSIM_STEP)
    assert not opening.opens and summarise(values, SSIM_STEP).median > OPENS + SSIM_STEP
    check_opening(opening, 64, "scores.json", "K")
