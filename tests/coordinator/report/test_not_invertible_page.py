"""Reports of schemes that no key opens: the control of the true key, and a sentence on the page."""

from __future__ import annotations

import pytest

from coordinator.exchange.audit.consistency import ContradictionError, check_scores
from coordinator.exchange.audit.scores import DrawScores
from coordinator.exchange.audit.suite2 import SUITE
from coordinator.report.build import build_report
from coordinator.report.control_checks import check_controls
from coordinator.report.page import render
from crypto.scheme import describe
from tests.support.reports import make_report, make_scores

SPEC = describe("neuracrypt", (224, 224, 1), 16, options={"width": 16})


def resealed(draw: DrawScores, *, exact: bool = True) -> DrawScores:
    """Return a draw as one of a scheme that no key opens."""
    return draw.model_copy(update={"spec": SPEC, "true_key_ssim": None, "true_key_exact": exact})


@pytest.mark.parametrize("exact", [True, False])
def test_the_true_key_seals_again_or_fails_its_control(exact: bool) -> None:
    draws = [d if d.is_control else resealed(d, exact=exact) for d in make_scores().draws]
    control = check_controls(draws, SUITE)["true_key"]
    assert control.ok == exact and "no key opens neuracrypt" in control.message
    assert "least median SSIM" in control.message  # of the controls, which are opened


def test_scores_that_open_what_no_key_opens_contradict_themselves() -> None:
    scores = make_scores()
    good = [d if d.is_control else resealed(d) for d in scores.draws]
    check_scores(scores.model_copy(update={"draws": tuple(good)}), "scores.json")
    for wrong in (
        [d if d.is_control else d.model_copy(update={"spec": SPEC}) for d in scores.draws],
        [d.model_copy(update={"true_key_ssim": None}) for d in scores.draws],
    ):
        with pytest.raises(ContradictionError, match="true_key_ssim"):
            check_scores(scores.model_copy(update={"draws": tuple(wrong)}), "scores.json")


def test_the_page_says_that_no_key_opens_them() -> None:
    scores = make_scores()
    draws = tuple(d if d.is_control else resealed(d) for d in scores.draws)
    unsigned = {"draws": draws, "identity": None, "signature": None}
    report = build_report(scores.model_copy(update=unsigned), "a study")
    assert not report.scheme.is_invertible
    assert any("name their images to whoever holds these" in doubt for doubt in report.doubts)
    assert not any("name their images" in doubt for doubt in make_report().doubts)
    assert "No key opens the ciphertexts of neuracrypt" in render(report, None)
    assert "No key opens the ciphertexts" not in render(make_report(), None)
