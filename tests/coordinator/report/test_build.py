"""report.json from scores: what makes it valid, what it takes along, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.adversary.run import cell as cells
from coordinator.cli import audit
from coordinator.exchange.audit.guesses import write_draws
from coordinator.report.build import build_report
from coordinator.report.page import render
from coordinator.report.verdict_text import headline
from crypto.errors import CipherwardError
from crypto.files import write_json
from tests.support.verdicts import (
    make_draw,
    make_finding,
    make_report,
    make_scores,
    parsed,
    three_draws,
)


def test_a_sound_report_is_valid() -> None:
    report = make_report(
        three_draws(make_finding("as_is", 1), make_finding("leading_bit", 1), make_finding(opens=True))
    )
    assert report.valid and report.verdict.broken and report.doubts == ()
    assert round(report.scheme.effective_bits) == min(256, round(report.scheme.formula_bits))
    assert len(report.findings) == 9 and report.training is None


def test_a_break_names_one_core_and_the_budget() -> None:
    audited = three_draws(make_finding("as_is", 1), make_finding(opens=True))
    report = build_report(make_scores(audited, budget_s=90.0), "s")
    assert "on one core" in headline(report).sentence and report.budget_s == 90.0
    assert "90 s per attack" in render(report, None).replace("1 min 30 s", "90 s")


def test_draws_of_two_schemes_get_no_common_verdict() -> None:
    mixed = [
        make_draw([make_finding()]),
        make_draw([make_finding()], "draw-1", scheme="plain", set_name="audit-1"),
    ]
    with pytest.raises(CipherwardError, match="different schemes"):
        make_report(mixed)


def test_controls_alone_are_no_audit() -> None:
    with pytest.raises(CipherwardError, match="controls only"):
        make_report([])


def test_a_report_takes_the_training_that_the_attacks_observed_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audited = three_draws(make_finding("as_is", 1), make_finding(opens=True))
    write_json(tmp_path / "scores.json", parsed(make_scores(audited)))
    write_draws(tmp_path, [], {"study": "a" * 64})
    monkeypatch.setattr(cells, "study_digest", lambda study: "b" * 64)

    def write_report() -> None:
        audit.report(
            tmp_path / "scores.json",
            guesses=tmp_path,
            sealed=tmp_path,
            out=tmp_path / "out",
            study=tmp_path,
        )

    with pytest.raises(CipherwardError, match="observed another training than that in"):
        write_report()
    monkeypatch.setattr(cells, "study_digest", lambda study: "a" * 64)
    with pytest.raises(CipherwardError, match="no plan at"):  # one step further
        write_report()
