"""The Fisher information bound in reports: stated for schemes with noise, beside what was measured."""

from __future__ import annotations

import pytest

from coordinator.report.build import build_report
from coordinator.report.inversion_bound import inversion_bound
from coordinator.report.page import render
from coordinator.report.records import Report
from coordinator.report.rows import rows_of
from coordinator.report.verdict_text import summary_lines
from crypto.scheme import describe
from tests.support.reports import make_report, make_scores


def with_noise(sigma: float, report: Report) -> Report:
    return report.model_copy(update={"scheme": report.scheme.model_copy(update={"noise_sigma": sigma})})


def test_a_scheme_without_noise_has_no_bound() -> None:
    report = make_report()
    assert report.scheme.noise_sigma == 0 and inversion_bound(report, rows_of(report)) == ""
    assert "Fisher" not in render(report, None)


@pytest.mark.parametrize(
    ("reach", "words"), [(1.0, "does not cover attackers who know"), (0.0, "nothing about what")]
)
def test_bound_and_measured_break_stand_side_by_side(reach: float, words: str) -> None:
    report = with_noise(32, make_report(reach))
    best = max(row.psnr for row in rows_of(report) if row.psnr is not None)
    sentence = inversion_bound(report, rows_of(report))
    # PSNR of an error of 32 levels: 20·log10(255 / 32).
    assert "dFIL = 0.00098" in sentence and "18.0 dB" in sentence and f"{best:.1f} dB" in sentence
    assert words in sentence
    assert sentence in render(report, None).replace("&#39;", "'")
    assert f"  {sentence}" in summary_lines(report)


def test_without_scored_guesses_nothing_is_said_to_be_measured() -> None:
    report = with_noise(8, make_report())
    assert inversion_bound(report, []).endswith("Measured: no reconstruction was scored.")


def test_the_report_s_noise_is_the_scheme_s() -> None:
    scores = make_scores()
    spec = describe("noisy_orthogonal", (224, 224, 1), 16, options={"sigma": 64})
    draws = tuple(
        draw if draw.is_control else draw.model_copy(update={"spec": spec}) for draw in scores.draws
    )
    unsigned = scores.model_copy(update={"draws": draws, "identity": None, "signature": None})
    assert build_report(unsigned, "a study").scheme.noise_sigma == 64
