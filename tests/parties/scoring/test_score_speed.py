"""What makes scoring fast gives the figures of plain NumPy code, one image and one move at a time."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from coordinator.exchange.audit.suite1 import breaking_measures
from crypto.symmetry import EVERY_MOVE, Move
from parties.scoring.figures import MeasuredPictures, compute_figures, is_degenerate
from parties.scoring.measures import histograms, is_informative, normalised, psnr, ssim, ssims, thumbnails
from parties.scoring.registration import correlate_moves, reduce_images
from parties.scoring.second_look import second_truth
from parties.scoring.truth import baseline_ssims, distinct_rows
from tests.support.small_pictures import pictures
from tests.support.truth import make_truth


@pytest.mark.parametrize("shape", [(7, 7, 1), (8, 33, 3), (40, 21, 1)])
@pytest.mark.parametrize("n", [1, 7, 8, 19])
def test_many_pairs_have_the_ssim_of_each(n: int, shape: tuple[int, int, int]) -> None:
    generator = np.random.default_rng(n)
    for low, high in ((0, 256), (100, 107)):  # flat windows among the others, and around the threshold
        x, y = (generator.integers(low, high, (n, *shape), np.uint8) for _ in range(2))
        y[0] = 9  # no texture at all
        expected = np.array([ssim(a, b) for a, b in zip(x, y, strict=True)])
        assert np.isnan(expected[0])
        np.testing.assert_allclose(ssims(x, y), expected, rtol=0, atol=1e-12)


def test_pairs_that_do_not_fit_are_refused() -> None:
    small = np.zeros((2, 6, 9, 1), np.uint8)
    for guesses, plains in (
        (small, small),
        (np.zeros((2, 8, 8, 1), np.uint8), np.zeros((2, 8, 9, 1), np.uint8)),
    ):
        with pytest.raises(ValueError, match="no windows of 7 pixels"):
            ssims(guesses, plains)


@pytest.mark.parametrize("channels", [1, 3])
def test_sums_in_whole_numbers_are_those_of_numpy(channels: int) -> None:
    x = np.random.default_rng(1).integers(0, 256, (5, 32, 48, channels), np.uint8)
    y = x[::-1] // 2
    error = ((x.astype(float) - y) ** 2).mean(axis=(1, 2, 3))
    assert (psnr(x, y) == 20 * np.log10(255.0) - 10 * np.log10(error)).all()
    bins = [np.bincount(image[..., c].ravel() // 4, minlength=64) for image in x for c in range(channels)]
    expected = np.stack(bins).reshape(5, -1) / (32 * 48 * channels)
    assert (histograms(x) == expected.astype(np.float32)).all()
    means = x.reshape(5, 4, 8, 6, 8, channels).astype(np.float32).mean(axis=(2, 4))
    reduced, side = reduce_images(np.repeat(np.repeat(x, 8, 1), 8, 2), 8)
    assert side == 1 and (reduced == x.astype(np.float32)).all() and means.shape == (5, 4, 6, channels)
    gray = x.mean(axis=3).astype(np.uint8)
    assert (thumbnails(x, 64).shape, thumbnails(gray[..., None], 64).tolist()) == (
        (5, 32 * 32),
        thumbnails(x, 64).tolist(),
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [16, 32, 64])
def test_an_image_of_the_thumbnail_s_size_is_what_pillow_makes_of_it(side: int, channels: int) -> None:
    x = np.random.default_rng(side).integers(0, 256, (5, side, side, channels), np.uint8)
    gray = (x.astype(np.uint16).sum(3) // channels).astype(np.uint8)
    resized = [np.asarray(Image.fromarray(g).resize((side, side), Image.Resampling.BOX)) for g in gray]
    assert (thumbnails(x) == normalised(np.stack(resized)[..., None])).all()


def test_a_deviation_of_just_two_levels_is_flat() -> None:
    flat = np.full((2, 8, 8, 1), 100, np.uint8)
    flat[0, ::2], flat[1, ::2] = 104, 105
    assert flat.std(axis=(1, 2)).ravel().tolist() == [2.0, 2.5]
    assert is_informative(flat).tolist() == [False, True]


@pytest.mark.parametrize("channels", [1, 3])
def test_every_move_has_the_correlation_of_the_moved_picture(channels: int) -> None:
    x, y = pictures(3, 32, channels=channels), pictures(3, 32, seed=4, channels=channels)
    moves, scores = correlate_moves(x, y, 8, EVERY_MOVE)
    small, side = reduce_images(x, 8)
    target = normalised(reduce_images(y, 8)[0])
    for i in range(0, len(moves), 7):
        moved = dataclasses.replace(moves[i], negative=False).apply(small, side)
        expected = (normalised(255 - moved if moves[i].negative else moved) * target).sum(1)
        assert scores[i] == pytest.approx(expected, abs=1e-6)
    assert moves[0] == Move()


@pytest.mark.parametrize("noise", [1, 2])
def test_flat_plain_images_do_not_count_and_hide_no_break(noise: int) -> None:
    """The last slices of a scan are black, or nearly. A perfect guess of them is flat, and was called degenerate."""
    plain = pictures(40)
    blank = np.random.default_rng(0).integers(0, noise, (20, *plain.shape[1:]), np.uint8)
    order = np.random.default_rng(1).permutation(60)
    mixed = np.concatenate([plain, blank])[order]
    pick = distinct_rows(mixed, 60)
    assert sorted(order[pick]) == list(range(40))
    truth = make_truth(mixed[pick], pictures(40, seed=9))
    assert not is_degenerate(truth.plain, truth)
    figures = compute_figures(truth.plain, None, truth, baseline_ssims(truth))
    assert set(breaking_measures(figures)) == {"R", "V"} and figures.reidentified.hits == 20


def test_what_is_not_measured_twice_is_what_would_be() -> None:
    images = pictures(120)
    truth = make_truth(images[:32], images[32:])
    baselines, second = baseline_ssims(truth), second_truth(truth)
    measured = MeasuredPictures()
    for guesses in (truth.plain, 255 - truth.plain, truth.plain, images[40:72]):
        alone = compute_figures(guesses, None, truth, baselines, None, second)
        assert compute_figures(guesses, None, truth, baselines, None, second, measured=measured) == alone


def test_baselines_of_a_larger_orbit_are_those_computed_anew() -> None:
    images = pictures(120)
    truth = make_truth(images[:32], images[32:])
    second = second_truth(truth)
    anew = baseline_ssims(dataclasses.replace(truth, orbit=second.truth.orbit))
    assert {k: v.tolist() for k, v in second.baselines.items()} == {k: v.tolist() for k, v in anew.items()}
