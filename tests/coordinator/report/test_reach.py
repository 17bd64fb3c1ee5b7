"""No report says "not broken" for an attack that was left out, crashed, ran out of time or is uncertain."""

from __future__ import annotations

import pytest

from coordinator.exchange.audit.scores import Finding
from coordinator.report.advice import actions, meaning
from coordinator.report.comparison import compare
from coordinator.report.records import Report
from coordinator.report.verdict_text import headline, summary_lines
from tests.support.verdicts import make_crash, make_finding, make_report, with_as_is

#: Another attack on a pool, which runs to its end at every size and breaks nothing.
OTHER = make_finding("other", 100)
LATE = make_finding(pool=100, note="truncated: out of time")


def report_of(*findings: Finding) -> Report:
    """Return the report of three draws with these findings each. What its controls say is not looked at here."""
    report = make_report(with_as_is(*[[*findings, OTHER]] * 3))
    return report.model_copy(update={"valid": True, "controls": {}})


def all_words(report: Report) -> str:
    """Return what the terminal, the page and a comparison say of the verdict."""
    facts = {fact.name: fact.first for fact in compare(report, report)}
    words = [*summary_lines(report), *meaning(report), facts["images to break"]]
    return " ".join([*words, *(f"{action.do} {action.gain}" for action in actions(report))])


@pytest.mark.parametrize("findings", [(), (make_crash(100),), (LATE,), (make_crash(50), LATE)])
def test_another_attack_does_not_stand_in_for_key_recovery(findings: tuple[Finding, ...]) -> None:
    report = report_of(*findings)
    assert report.verdict.largest_pool == 100 and report.verdict.pool_attacked
    sentence = headline(report).sentence
    assert sentence.startswith("No verdict by suite/1: pooled_key_recovery did not run to its end")
    words = all_words(report)
    assert "not broken" not in words.lower() and "let at most" not in words
    assert "It is not known whether patients' images can be recovered." in words


def test_the_reach_is_that_of_key_recovery_and_not_of_an_attack_on_larger_pools() -> None:
    report = report_of(make_finding(pool=20), LATE)
    assert headline(report).sentence == "Not broken by suite/1 up to 20 sealed images."
    words = all_words(report)
    assert "let at most 20 images leave" in words and "up to 100" not in words


def test_an_uncertain_attack_is_uncertain_in_the_advice_and_in_a_comparison_too() -> None:
    report = report_of(make_finding(pool=100, uncertain=True, fit="fit 0.40, below 0.70"))
    assert headline(report).sentence.startswith("Attack uncertain")
    words = all_words(report)
    assert "not broken" not in words.lower() and "let at most" not in words
    assert "It is not known whether patients' images can be recovered." in words


def test_an_uncertain_key_recovery_reaches_no_further_by_an_attack_on_larger_pools() -> None:
    """A cloud may name any attack of its own, at any size, and nobody runs that again."""
    report = report_of(make_finding(pool=20, uncertain=True, fit="fit 0.40, below 0.70"))
    assert report.verdict.largest_pool == 100
    assert "No break was found up to 20 sealed images." in headline(report).sentence


def test_an_attack_that_knows_no_way_into_the_scheme_leaves_the_others_their_say() -> None:
    report = report_of(make_finding(pool=100, idle=True))
    assert headline(report).sentence == "Not broken by suite/1 up to 100 sealed images."
