"""Which attack a verdict names: the one that explains the break, not one that only meets the rule."""

from __future__ import annotations

from coordinator.exchange.audit.scores import Finding
from coordinator.report.records import Report
from coordinator.report.rows import rows_of
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


def test_a_break_by_names_alone_is_no_less_a_break() -> None:
    report = report_of(IDLE)
    assert headline(report).state == "broken"
    assert headline(report).sentence.startswith(
        "Broken. pooled_key_recovery breaks orthogonal with 1 sealed image"
    )
