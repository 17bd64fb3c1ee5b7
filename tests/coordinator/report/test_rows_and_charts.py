"""What a page shows of findings and of a training: rows over draws, curves, and figures with their units."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from coordinator.exchange.records import parse_record
from coordinator.model.metrics import pool_tables, tabulate
from coordinator.report import charts
from coordinator.report.page import render
from coordinator.report.records import Training
from coordinator.report.rows import rows_of
from tests.support.html_page import Page
from tests.support.reports import TRAINED, make_report


def test_rows_combine_draws() -> None:
    report = make_report()
    row = next(row for row in rows_of(report) if row.counts)
    same = [f.figures for f in report.findings if (f.attack, f.pool_size) == (row.attack, row.size)]
    figures = [each for each in same if each is not None and each.ssim is not None]
    assert (row.draws, row.broken, len(figures)) == (3, 3, 3)
    assert row.ssim == sorted(each.ssim.median for each in figures if each.ssim)[1]
    rate = row.reidentified
    assert rate is not None
    assert (rate.hits, rate.n) == (sum(each.reidentified.hits for each in figures), 192)
    assert rate.low == min(each.reidentified.low for each in figures)
    assert rate.high == max(each.reidentified.high for each in figures)
    assert row.baseline == 0.31


def test_curves_are_bare_svg_whose_text_is_text() -> None:
    report = make_report()
    unkeyed = [f for f in report.findings if f.figures is not None and f.figures.key is None]
    assert unkeyed and charts.key_curve(unkeyed) == ""
    svg = charts.ssim_curve(report.findings, report.draws)
    assert svg.startswith('<svg class="chart" viewBox="0 0 ')
    assert "<metadata" not in svg
    assert "pooled_key_recovery" in svg
    assert "best baseline" in svg
    renamed = [
        f.model_copy(update={"attack": "$a_{1}$ <b>" if f.attack == "as_is" else f.attack})
        for f in report.findings
    ]
    assert "$a_{1}$ &lt;b&gt;" in charts.ssim_curve(renamed, report.draws)


@pytest.fixture
def without_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the charts, which take most of a page's time, in tests of its words."""
    for name in ("ssim_curve", "key_curve", "learning_curve"):
        monkeypatch.setattr(f"coordinator.report.page.{name}", lambda *_: "")


def page_text(training: Training) -> str:
    return Page(render(make_report(training=training), None)).text


@pytest.mark.usefixtures("without_charts")
def test_training_figures_have_their_units() -> None:
    text = page_text(TRAINED)
    percentages = ("85.3 %", "96.0 %", "26.2 %", "70.1 %", "82.9 %")
    for shown in (*percentages, "66.3 MB", "3 min 32 s", "absent: hospital-2"):
        assert shown in text
    assert "refused hospital-1: weights that are not finite" in text
    assert "Expected calibration error" not in text  # an earlier version kept no tables


@pytest.mark.usefixtures("without_charts")
def test_the_tables_of_a_test_are_shown() -> None:
    scores = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7], [0.45, 0.55]])
    tables: dict[str, Any] = pool_tables([tabulate(scores, np.array([0, 1, 1, 1, 0]))])
    tables |= {"classes": ["glioma", "<b>"], "share": "lora"}
    text = page_text(parse_record(Training, {**TRAINED.to_json(), **tables}, "tables"))
    assert "glioma1150.0 %" in text and "<b>1266.7 %" in text  # cells side by side
    assert "Expected calibration error 0.350" in text and "only low-rank adapters are trained" in text


@pytest.mark.usefixtures("without_charts")
def test_what_updates_reveal_depends_on_the_stem() -> None:
    carried = page_text(TRAINED.model_copy(update={"stem": "private"}))
    assert "Gradient inversion of one gives plain images" in carried
    assert "Gradient inversion of one gives sealed images" in page_text(TRAINED)
