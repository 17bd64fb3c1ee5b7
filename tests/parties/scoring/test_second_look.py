"""Perfect pictures in the negative, turned or mirrored are found for every scheme, and noise is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from coordinator.exchange.audit import suite2
from coordinator.exchange.audit.rates import rate_of, searched
from coordinator.exchange.audit.scores import Figures, Finding
from coordinator.exchange.audit.suite1 import breaking_measures, readable_by
from crypto.arrays import Images
from crypto.schemes.etc import Etc
from crypto.symmetry import Move, Orbit
from parties.scoring.figures import compute_figures, degenerate_figures
from parties.scoring.second_look import second_truth
from parties.scoring.truth import Truth, baseline_ssims
from tests.support.small_pictures import pictures
from tests.support.truth import make_truth

IMAGES = pictures(200)


def truth_of(name: str = "block_pixel_shuffle", **options: Any) -> Truth:
    return make_truth(IMAGES[:48], IMAGES[48:], name, **options)


def figures_of(guesses: Images, truth: Truth) -> Figures:
    return compute_figures(guesses, None, truth, baseline_ssims(truth), None, second_truth(truth))


def letters_of(figures: Figures) -> tuple[str, ...]:
    """Return by which measures the second look counts."""
    fields: dict[str, Any] = {
        "attack": "a",
        "tier": "T1",
        "uses_pool": True,
        "pool_size": 1,
        "seconds": 0.0,
    }
    return readable_by(Finding(**fields, note="", error="", figures=figures))


@pytest.mark.parametrize("scope", ["consortium", "image"])
@pytest.mark.parametrize(
    "move",
    [Move(negative=True), Move(turn=3), Move(turn=4), Move(turn=6, negative=True, down=1, across=-2)],
    ids=str,
)
def test_a_picture_in_the_negative_or_turned_is_readable(move: Move, scope: str) -> None:
    truth = truth_of(scope=scope)
    figures = figures_of(move.apply(truth.plain, truth.block), truth)
    # What suite/1 sees of it: what a shift of a smooth picture has in common with its mirror image.
    assert max(figures.reidentified.rate, figures.visible.rate) < 0.3
    look = figures.second_look
    assert look is not None and look.reidentified.rate == 1.0 and look.visible.rate == 1.0
    assert letters_of(figures) == ("R", "V") and look.reidentified_deranged.hits == 0
    if scope == "consortium":
        # What undoes a turn is another turn, but the negative is its own inverse.
        assert look.negative == move.negative and look.turn is not None


@pytest.mark.parametrize("name", ["block_pixel_shuffle", "value_shuffle", "le"])
def test_noise_and_other_images_are_not_readable(name: str) -> None:
    truth = truth_of(name, block=8)
    noise = np.random.default_rng(3).integers(0, 256, truth.plain.shape, np.uint8)
    for guesses in (noise, np.roll(truth.plain, 5, axis=0), 255 - np.roll(truth.plain, 5, axis=0)):
        figures = figures_of(guesses, truth)
        assert letters_of(figures) == () and figures.second_look is not None
        assert figures.second_look.visible.hits <= 2


def test_a_shifted_picture_breaks_a_scheme_that_moves_no_blocks() -> None:
    """Its orbit has no shifts: suite/1 saw nothing in what anybody sees."""
    truth = truth_of("pe", block=8)
    figures = figures_of(Move(down=2, across=-1).apply(truth.plain, 8), truth)
    assert breaking_measures(figures) == () and suite2.breaking_measures(figures, "suite/1") == ()
    assert suite2.breaking_measures(figures, "suite/2") == ("R", "V")
    look = figures.second_look
    assert look is not None and look.visible.looks == 392
    assert (look.down, look.across) == (-2, 1) and look.move is not None


def test_guesses_about_other_images_get_a_search_of_their_own() -> None:
    """Guesses that are right about the next row's image, in the negative, are found there and nowhere else."""
    truth = truth_of(block=8)
    about_next = np.empty_like(truth.plain)
    for rows in (truth.even, truth.odd):
        about_next[rows] = 255 - np.roll(truth.plain[rows], -1, axis=0)
    look = figures_of(about_next, truth).second_look
    assert look is not None and look.reidentified_deranged.rate == 1.0
    assert look.reidentified.hits == 0 and look.visible.hits == 0


def test_a_scheme_whose_orbit_holds_them_all_is_not_counted_twice() -> None:
    assert Etc.orbit.second_looks((48, 48, 1)) == 1
    truth = truth_of("etc", block=8)
    assert second_truth(truth).looks == 1 and second_truth(truth).baselines == {}
    assert figures_of(255 - truth.plain, truth).second_look is None
    assert breaking_measures(figures_of(255 - truth.plain, truth)) == ("R", "V")


def test_looks_are_counted_beyond_the_orbit() -> None:
    square, wide = (48, 48, 1), (48, 64, 1)
    assert Orbit(shifts=True).second_looks(square) == 16
    assert Orbit(shifts=True).second_looks(wide) == 8
    assert Orbit(turns=True, orders=True, shifts=True).second_looks((48, 48, 3)) == 2
    assert Orbit(negatives=True).second_looks(square) == 8 * 49
    assert Orbit(negatives=True, orders=True).second_looks((48, 48, 3)) == 8 * 49


def test_the_bounds_are_corrected_for_the_search() -> None:
    """Six hits of 64 count at one look, and not as the best of sixteen."""
    assert rate_of(7, 64).low >= 0.05 > searched(7, 64, 16).low
    assert searched(7, 64, 1).low == rate_of(7, 64).low
    assert searched(64, 64, 16).low > 0.85


def test_the_first_look_is_what_it_was() -> None:
    """The second look changes no figure of the first."""
    truth = truth_of()
    guesses = np.roll(truth.plain, 8, axis=1)
    with_second = figures_of(guesses, truth)
    without = compute_figures(guesses, None, truth, baseline_ssims(truth))
    assert with_second.model_copy(update={"second_look": None}) == without
    assert without.second_look is None


def test_degenerate_guesses_have_no_hits() -> None:
    truth = truth_of()
    look = degenerate_figures(truth, second_truth(truth)).second_look
    assert look is not None and look.visible.hits == look.reidentified.hits == 0


def test_baselines_get_the_same_search() -> None:
    """A ciphertext that is the negative itself beats no baseline, but it names its image."""
    truth = truth_of("plain")
    negative = Move(negative=True)
    turned = truth.__class__(**{**truth.__dict__, "sealed": negative.apply(truth.sealed, 8)})
    figures = figures_of(turned.sealed, turned)
    assert figures.second_look is not None and letters_of(figures) == ("R",)
