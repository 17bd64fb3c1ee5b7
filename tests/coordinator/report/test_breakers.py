"""Which attack a verdict names: the one that explains the break, not one that only meets the rule."""

from __future__ import annotations

import pytest

from coordinator.exchange.audit.consistency import ContradictionError
from coordinator.exchange.audit.scores import Finding, Summary
from coordinator.report.consistency import check_report
from coordinator.report.records import Report
from coordinator.report.rows import rows_of
from coordinator.report.verdict import judge
from coordinator.report.verdict_text import headline, reasons, summary_lines
from tests.support.verdicts import CONTROLS, ORTHOGONAL, SIGNS, make_finding, make_report, three_draws

AS_IS = make_finding("as_is", 1, r=20)
FOLDED = make_finding("leading_bit", 1, r=30, seconds=0.01)
#: Key recovery knows no way into the scheme: it returns the ciphertext's picture.
IDLE = make_finding(pool=1, r=20, idle=True)


def report_of(*findings: Finding) -> Report:
    draws = three_draws(*findings, scheme="orthogonal")
    report = make_report(draws, [*CONTROLS, SIGNS, ORTHOGONAL])
    assert report.valid and report.verdict.smallest_pool == 1
    return report


def test_the_attack_that_shows_pictures_is_named_before_those_that_only_name_them() -> None:
    shown = make_finding("moment_matching", 1, v=64, r=64, seconds=3.0)
    report = report_of(AS_IS, FOLDED, IDLE, shown)
    assert headline(report).sentence == (
        "Broken. moment_matching breaks orthogonal with 1 sealed image, in 3.0 s on one core."
    )
    lines = "\n".join(summary_lines(report))
    assert "At the same pool size, as_is and leading_bit break it by R alone" in lines
    assert "pooled_key_recovery tried nothing" in lines
    # Nothing is left out of the reasons.
    told = "\n".join(reasons(report, rows_of(report)))
    assert all(name in told for name in ("as_is, 3 of 3", "leading_bit, 3 of 3", "moment_matching, 3 of 3"))


def test_a_break_by_names_alone_says_so_and_what_shows_pictures_later() -> None:
    later = make_finding("moment_matching", 10, v=64, r=64)
    report = report_of(FOLDED, IDLE, later)
    assert headline(report).sentence == (
        "Broken. leading_bit breaks orthogonal with 1 sealed image, in 0.01 s on one core, by R alone: its "
        "guesses name the right images among others, and do not show them. Pictures or keys are recovered by "
        "moment_matching from 10 sealed images."
    )
    assert not any("Also broken" in line for line in summary_lines(report))


def test_a_ciphertext_that_is_the_picture_is_not_said_to_hide_it() -> None:
    draws = [
        draw.model_copy(
            update={"baselines": {"mean": Summary(median=0.2), "ciphertext": Summary(median=0.84)}}
        )
        for draw in three_draws(AS_IS, scheme="orthogonal")
    ]
    report = make_report(draws, [*CONTROLS, SIGNS, ORTHOGONAL])
    words = headline(report).sentence
    assert "The ciphertext itself shows the picture: its median SSIM is 0.84" in words
    assert "at most 0.20" in words and "do not show" not in words


def test_a_report_names_no_attack_that_tried_nothing_as_breaking_the_scheme() -> None:
    shown = make_finding("moment_matching", 1, v=64, r=64, seconds=3.0)
    report = report_of(AS_IS, IDLE, shown)
    assert report.verdict.broken_by == ("as_is", "moment_matching")
    assert "pooled_key_recovery" not in report.verdict.broken_at
    [idle] = [row for row in rows_of(report) if row.is_untried]
    assert idle.attack == "pooled_key_recovery" and idle.broken == 3 and not idle.counts
    told = "\n".join(reasons(report, rows_of(report)))
    assert "Some draws were broken, but too few" not in told and "pooled_key_recovery tried nothing" in told
    # Where it tries something with more images, and opens them, it is named with that size.
    opened = make_finding(pool=10, r=64)
    assert report_of(AS_IS, IDLE, opened).verdict.broken_at == {"as_is": 1, "pooled_key_recovery": 10}


def test_what_was_returned_untried_is_no_less_a_break() -> None:
    """No attack of the audit shows as early what the ciphertext alone does: the smallest pool stays."""
    verdict = report_of(IDLE, make_finding("moment_matching", 10, v=64)).verdict
    assert verdict.smallest_pool == 1
    assert verdict.broken_at == {"moment_matching": 10, "pooled_key_recovery": 1}


def test_reports_of_earlier_versions_that_name_it_are_sound() -> None:
    shown = make_finding("moment_matching", 1, v=64, r=64, seconds=3.0)
    draws = three_draws(AS_IS, IDLE, shown, scheme="orthogonal")
    report = make_report(draws, [*CONTROLS, SIGNS, ORTHOGONAL])
    earlier = judge(draws, report.suite, name_untried=True)[1]
    assert earlier.broken_by == ("as_is", "moment_matching", "pooled_key_recovery")
    check_report(report.model_copy(update={"verdict": earlier}), "report.json")
    for name, value in {"broken_by": ("as_is",), "smallest_pool": 10}.items():
        forged = report.model_copy(update={"verdict": earlier.model_copy(update={name: value})})
        with pytest.raises(ContradictionError, match="verdict"):
            check_report(forged, "report.json")


def test_a_break_by_names_alone_is_no_less_a_break() -> None:
    report = report_of(IDLE)
    assert headline(report).state == "broken"
    assert headline(report).sentence.startswith(
        "Broken. pooled_key_recovery breaks orthogonal with 1 sealed image"
    )
