"""suite/2: what is readable in the negative, turned or shifted is a break; files of suite/1 keep their own rule."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coordinator.adversary.contract import Fit, Guess
from coordinator.exchange.audit.consistency import ContradictionError
from coordinator.exchange.audit.rates import rate_of
from coordinator.exchange.audit.scores import SCHEMA, DrawScores
from coordinator.exchange.audit.scores_file import read_scores
from coordinator.exchange.audit.suite2 import SUITE
from coordinator.exchange.records import write_record
from coordinator.report.build import build_report
from coordinator.report.comparison import cautions
from coordinator.report.page import render
from coordinator.report.records import Report
from coordinator.report.report_file import read_report
from coordinator.report.rows import rows_of
from coordinator.report.verdict import judge
from coordinator.report.verdict_text import headline, reasons, second_look, summary_lines
from crypto.errors import CipherwardError
from crypto.files import write_json
from tests.support.small_pictures import pictures
from tests.support.verdicts import (
    CONTROLS,
    SIGNS,
    looked_at,
    make_finding,
    make_scores,
    measured,
    with_as_is,
)

#: Written by the last version that judged by suite/1: phantom scans whose guesses are turned negatives.
KEPT = Path(__file__).parents[2] / "vectors" / "suite1"


def three(r: int = 0, v: int = 0, in_draws: int = 3, **changes: Any) -> list[DrawScores]:
    """Return three draws that break nothing under the declared orbit; the second look has hits at 20 images."""
    draws = with_as_is(*[[make_finding(pool=10), make_finding(pool=20, **changes)]] * 3)
    result = []
    for index, draw in enumerate(map(measured, draws)):
        last = looked_at(draw.findings[-1], *((r, v) if index < in_draws else (0, 0)))
        result.append(draw.model_copy(update={"findings": (*draw.findings[:-1], last)}))
    return result


def scores_of(draws: list[DrawScores], suite: str = SUITE) -> Any:
    return make_scores(draws, [measured(c) for c in (*CONTROLS, SIGNS)], schema_id=SCHEMA, suite=suite)


def report_of(draws: list[DrawScores], suite: str = SUITE) -> Report:
    return build_report(scores_of(draws, suite), "s")


@pytest.mark.parametrize("hits", [{"r": 64}, {"v": 64}, {"r": 30, "v": 40}])
def test_readable_pictures_break_a_scheme(hits: dict[str, int]) -> None:
    report = report_of(three(**hits))
    assert report.valid and report.verdict.broken_at == {"pooled_key_recovery": 20}
    letters = tuple(letter for letter in "RV" if letter.lower() in hits)
    assert {f.broken_by for f in report.findings if f.pool_size == 20} == {letters}
    line = headline(report)
    assert line.state == "broken"
    assert line.sentence.startswith(
        "Broken. pooled_key_recovery breaks block_pixel_shuffle with 20 sealed images, with pictures in the "
        "negative, turned or shifted"
    )
    assert "counts it as a break all the same" in second_look(report)
    page = render(report, None)
    assert "Verdict of suite/2" in page and "mirrored and shifted by whole blocks" in page
    share = max(hits.values()) / 64
    assert any(f"{100 * share:.0f}" in line for line in reasons(report, rows_of(report)))


def test_the_same_scores_are_judged_by_the_rule_that_they_name() -> None:
    draws = three(r=64)
    earlier = report_of(draws, "suite/1")
    assert not earlier.verdict.broken and headline(earlier).sentence.startswith("Readable.")
    assert report_of(draws).verdict.broken
    assert any(
        "different rules: suite/1 and suite/2" in line for line in cautions(earlier, report_of(draws))
    )


def test_a_lucky_draw_or_a_few_hits_of_many_looks_break_nothing() -> None:
    for draws in (three(r=64, in_draws=1), three(v=7)):
        report = report_of(draws)
        assert not report.verdict.broken
        assert headline(report).sentence.startswith("Not broken by suite/2")


def test_bounds_of_what_was_not_found_are_over_both_looks() -> None:
    plain, looked = report_of(three(), "suite/1"), report_of(three())
    of = {r.suite: next(line for line in summary(r) if "upper bounds" in line) for r in (plain, looked)}
    assert "turned or shifted as well" in of[SUITE] and "turned" not in of["suite/1"]
    # The bound of no hit of 64: at 95 %, and corrected for 16 looks.
    for suite, looks in (("suite/1", 1), (SUITE, 16)):
        assert f"at most {100 * rate_of(0, 64, looks).high:.1f} %" in of[suite]


def summary(report: Report) -> list[str]:
    return reasons(report, rows_of(report))


def test_noise_that_is_readable_fails_its_control() -> None:
    controls = [measured(c, r=64) if c.spec.name == "noise" else measured(c) for c in (*CONTROLS, SIGNS)]
    report = build_report(make_scores(three(), controls, suite=SUITE), "s")
    assert report.failed_controls == ["noise"]


def test_kept_files_of_suite_1_open_under_their_own_name_and_rule() -> None:
    scores, report = read_scores(KEPT / "scores.json"), read_report(KEPT / "report.json")
    assert scores.suite == report.suite == "suite/1"
    assert not report.verdict.broken and report.verdict.readable_at == {"pooled_key_recovery": 10}
    assert headline(report).sentence.startswith(
        "Readable. pooled_key_recovery shows pictures in the negative"
    )
    again = build_report(scores, report.study)
    assert (again.verdict, again.findings, again.suite) == (report.verdict, report.findings, "suite/1")
    page = render(report, None)
    assert "Verdict of suite/1" in page and "suite/2" not in page
    assert not any("suite/2" in line for line in summary_lines(report))
    # The same figures under the rule of today.
    verdict = judge(scores.audited, SUITE)[1]
    assert verdict.broken_at == {"pooled_key_recovery": 10}


def test_a_rule_that_is_not_known_is_refused(tmp_path: Path) -> None:
    scores = json.loads((KEPT / "scores.json").read_text())
    report = json.loads((KEPT / "report.json").read_text())
    write_json(tmp_path / "scores.json", {**scores, "suite": "suite/9"})
    write_json(tmp_path / "report.json", {**report, "suite": "suite/9"})
    for read in (read_scores, read_report):
        path = tmp_path / ("scores.json" if read is read_scores else "report.json")
        with pytest.raises(CipherwardError, match="does not know") as error:
            read(path)
        assert "suite/1, suite/2" in error.value.message
    with pytest.raises(CipherwardError, match="does not know"):
        build_report(scores_of(three(), "suite/9"), "s")


def test_another_name_does_not_turn_a_verdict(tmp_path: Path) -> None:
    """A report of suite/2 that is renamed contradicts its own findings."""
    write_record(tmp_path / "report.json", report_of(three(r=64)))
    value = json.loads((tmp_path / "report.json").read_text())
    write_json(tmp_path / "report.json", {**value, "suite": "suite/1"})
    with pytest.raises(ContradictionError, match="broken_by"):
        read_report(tmp_path / "report.json")


Change = Callable[[dict[str, Any]], object]


def _without_looks(value: dict[str, Any]) -> None:
    for draw in value["draws"]:
        draw.pop("second_looks")
        for finding in draw["findings"]:
            finding.pop("second_look", None)


def _with_more_looks(value: dict[str, Any]) -> None:
    """State twice as many looks, with bounds that follow from them: a wider bound could hide a break."""
    more = scores_of([measured(draw, looks=32) for draw in three(r=64)]).to_json()
    value["draws"][:3] = json.loads(json.dumps(more["draws"][:3]))


@pytest.mark.parametrize("change", [_without_looks, _with_more_looks])
def test_suite_2_asks_for_the_looks_that_the_orbit_leaves(tmp_path: Path, change: Change) -> None:
    path = tmp_path / "scores.json"
    write_record(path, scores_of(three(r=64)))
    read_scores(path)
    value = json.loads(path.read_text())
    change(value)
    write_json(path, value)
    with pytest.raises(ContradictionError, match="second_looks"):
        read_scores(path)


@pytest.mark.parametrize(
    ("confidence", "uncertain"), [(0.4, False), (0.5, True), (1.5, False), (-0.1, True)]
)
def test_a_confidence_that_contradicts_its_finding_is_refused(
    tmp_path: Path, confidence: float, uncertain: bool
) -> None:
    path = tmp_path / "scores.json"
    write_record(path, scores_of(three(confidence=confidence, uncertain=uncertain)))
    with pytest.raises(ContradictionError, match="confidence"):
        read_scores(path)


def test_a_confidence_is_shown(tmp_path: Path) -> None:
    scores = scores_of(three(confidence=0.87))
    write_record(tmp_path / "scores.json", scores)
    report = build_report(read_scores(tmp_path / "scores.json"), "s")
    assert {f.confidence for f in report.findings} == {0.87, None}
    assert "confidence 0.87" in render(report, None)


def test_a_confidence_means_the_same_for_every_fit() -> None:
    for least in (0.3, 0.5, 0.85, 1.0):
        fits = [Fit(value, least, "x") for value in (-1.0, 0.0, least / 2, least - 1e-6, least, 1.0)]
        values = [fit.confidence for fit in fits]
        assert values == sorted(values) and values[0] == values[1] == 0.0 and values[-1] >= 0.5
        assert all(fit.is_poor == (fit.confidence < 0.5) for fit in fits)
        assert values[2] == pytest.approx(0.25) and Fit(float("nan"), least, "x").confidence == 0.0
    assert Fit(1.0, 0.85, "x").confidence == 1.0
    images = pictures(2)
    assert Guess(images).confidence is None
    both = Guess(images, fits=(Fit(1.0, 0.5, "x"), Fit(0.25, 0.5, "y")))
    assert both.confidence == 0.25 and both.is_uncertain
    assert Guess(images, fits=both.fits, idle=True).confidence is None
