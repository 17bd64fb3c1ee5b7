"""The rule of suite/1 on made-up scores: what breaks a scheme, at which pool size, and what decides nothing."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from coordinator.exchange.audit.consistency import ContradictionError
from coordinator.exchange.audit.scores import DrawScores, Finding
from coordinator.exchange.audit.suite2 import SUITE, broken_by
from coordinator.exchange.records import write_record
from coordinator.report.page import render
from coordinator.report.records import Verdict
from coordinator.report.report_file import read_report
from coordinator.report.rows import rows_of
from coordinator.report.verdict import judge
from coordinator.report.verdict_text import headline, reasons, summary_lines
from tests.support.verdicts import (
    CONTROLS,
    make_crash,
    make_draw,
    make_draws,
    make_finding,
    make_report,
    three_draws,
    with_as_is,
)


def verdict_of(draws: list[DrawScores]) -> Verdict:
    return judge(draws, SUITE)[1]


@pytest.mark.parametrize(
    ("finding", "letters"),
    [
        (make_finding(), ""),
        (make_finding(opens=True), "K"),
        (make_finding(opens=False, v=64, r=64), "RV"),
        (make_finding(v=6), ""),  # lower bound 0.044
        (make_finding(v=7), "V"),  # 0.054
        (make_finding(r=8, gallery=20), ""),  # 10/G = 0.5
        (make_finding(r=45, gallery=20), "R"),
        (make_finding(opens=True, error="MemoryError"), ""),
        (make_finding(error="MemoryError", figures=None), ""),
    ],
)
def test_a_finding_breaks_by_the_thresholds(finding: Finding, letters: str) -> None:
    assert "".join(broken_by(finding, SUITE)) == letters


def audit(opened: dict[int, int], draws: int = 3) -> Verdict:
    """Return the verdict where key recovery opens at pool n in the first opened[n] draws."""
    return verdict_of(
        make_draws(
            *([make_finding(pool=n, opens=i < hits) for n, hits in opened.items()] for i in range(draws))
        )
    )


def test_a_break_needs_two_of_three_draws_and_the_next_larger_pool() -> None:
    verdict = audit({1: 1, 2: 2, 5: 3, 10: 3})
    assert verdict.broken and verdict.smallest_pool == 2 and verdict.seconds == 0.5
    # Two of three at 2, but not again at 5: a lucky draw is no break.
    assert audit({1: 0, 2: 2, 5: 1, 10: 3}).smallest_pool == 10
    assert not audit({1: 1, 2: 1, 5: 1}).broken
    assert audit({100: 2}).smallest_pool == 100
    assert audit({1: 1}, draws=1).broken


def test_the_time_of_an_even_number_of_draws_is_that_of_the_table(tmp_path: Path) -> None:
    report = make_report(
        make_draws(*([make_finding(opens=True, seconds=seconds)] for seconds in (1.0, 4.0)))
    )
    assert report.verdict.seconds == 2.5 and "in 2.5 s on one core" in headline(report).sentence
    [row] = [row for row in rows_of(report) if row.attack == "pooled_key_recovery"]
    assert row.seconds == 2.5
    for seconds, is_sound in (
        (2.5, True),
        (4.0, True),
        (1.0, False),
    ):  # earlier versions stated the longer one
        path = tmp_path / f"{seconds}.json"
        stated = report.verdict.model_copy(update={"seconds": seconds})
        write_record(path, report.model_copy(update={"verdict": stated}))
        with contextlib.nullcontext() if is_sound else pytest.raises(ContradictionError, match="seconds"):
            read_report(path)


def test_broken_by_lists_the_smallest_pool_first() -> None:
    verdict = verdict_of(
        three_draws(
            make_finding("b", 5, r=64), make_finding("b", 10, r=64), make_finding("a", 10, opens=True)
        )
    )
    assert verdict.broken_by == ("b", "a") and verdict.broken_at == {"b": 5, "a": 10}


def test_a_crash_in_one_draw_erases_no_break() -> None:
    opened = make_finding(pool=50, opens=True)
    verdict = verdict_of(with_as_is([opened], [opened], [make_crash(50)]))
    assert verdict.broken and verdict.broken_at == {"pooled_key_recovery": 50}
    assert verdict.largest_pool == 1  # 50 was not finished in every draw
    # Two crashes of three leave one broken draw: too few.
    assert not verdict_of(with_as_is([opened], [make_crash(50)], [make_crash(50)])).broken


def cut_short(**fields: Any) -> Finding:
    return make_finding(note="truncated: out of time", **fields)


@pytest.mark.parametrize(
    "late",
    [cut_short(pool=100, opens=False), make_crash(100), make_finding(pool=100, opens=False, idle=True)],
)
def test_a_time_out_or_a_crash_at_the_next_larger_pool_refutes_nothing(late: Finding) -> None:
    broken, withstood = make_finding(pool=50, opens=True), make_finding(pool=100, opens=False)
    verdict = verdict_of(with_as_is(*[[broken, late]] * 3))
    assert verdict.smallest_pool == verdict.largest_pool == 50
    # One draw that withstood leaves two that may have been broken.
    verdict = verdict_of(with_as_is([broken, late], [broken, late], [broken, withstood]))
    assert verdict.smallest_pool == 50
    assert not verdict_of(with_as_is([broken, late], [broken, withstood], [broken, withstood])).broken


def test_the_next_pool_size_that_decides_counts() -> None:
    broken = make_finding(pool=50, opens=True)
    late, last = cut_short(pool=100, opens=False), make_finding(pool=200, opens=False)
    assert not verdict_of(with_as_is(*[[broken, late, last]] * 3)).broken
    # A key that opens is no less for being late.
    assert verdict_of(with_as_is(*[[cut_short(pool=50, opens=True)]] * 3)).broken


def test_attacks_on_a_training_are_judged_by_its_own_key() -> None:
    def with_weights(name: str, set_name: str, opens: bool) -> DrawScores:
        weights = make_finding("weights", 20, opens=opens, tier="T5")
        return make_draw([make_finding("as_is", 1), weights], name, set_name=set_name)

    further = [
        make_draw([make_finding("as_is", 1)], "draw-1", set_name="audit-1"),
        with_weights("draw-2", "audit-2", False),  # another key's: it says nothing
    ]
    verdict = verdict_of([with_weights("draw-0", "train", True), *further])
    assert verdict.broken_at == {"weights": 20} and verdict.finished_at["weights"] == (20,)
    assert verdict.of_training == ("weights",) and verdict.draws_needed == 2
    assert not verdict_of([with_weights("draw-0", "train", False), *further]).broken
    # Nothing else is judged by fewer draws.
    as_is = [make_finding("as_is", 1)]
    assert not verdict_of(make_draws([make_finding(opens=True)], as_is, as_is)).broken


def test_the_terminal_says_what_the_page_says_of_draws_that_were_broken_and_of_bounds() -> None:
    broken, withstood = make_finding(pool=50, opens=True), make_finding(pool=50)
    report = make_report(with_as_is([broken], [withstood], [withstood]))
    lines = summary_lines(report)
    early = "Some draws were broken, but too few to count as a break: pooled_key_recovery at 50 images (1 of 3)."
    assert not report.verdict.broken and f"  {early}" in lines and early in reasons(report, rows_of(report))
    assert any(line.startswith("  95 % upper bounds") for line in lines)
    whole = summary_lines(make_report(with_as_is(*[[broken]] * 3)))
    assert not any("too few" in line or "upper bounds, " in line for line in whole)


def test_an_attack_that_did_nothing_withstood_nothing() -> None:
    note = "no recovery from ciphertexts alone for orthogonal"
    lone = make_finding("as_is", 1, uses_pool=False)
    audited = three_draws(lone, make_finding(pool=100, idle=True, note=note), scheme="orthogonal")
    report = make_report(audited, [idle_recovery(control) for control in CONTROLS])
    assert report.valid and report.verdict.largest_pool == 1
    assert not report.verdict.pool_attacked
    assert headline(report).sentence == (
        "Nothing is known about a pool: no attack that can use a pool ran to its end."
    )
    assert not any("not broken" in line.lower() for line in summary_lines(report))
    assert [doubt for doubt in report.doubts if note in doubt] == [
        f"pooled_key_recovery did not attack, 3 of 3 times: {note}"
    ]
    withstood = make_report(with_as_is(*[[make_finding(pool=100)]] * 3))
    assert headline(withstood).sentence == "Not broken by suite/1 up to 100 sealed images."


def uncertain(pool: int, **changes: Any) -> Finding:
    """Return a finding of key recovery whose result fits poorly."""
    return make_finding(pool=pool, uncertain=True, fit="fit 0.40, below 0.70: attack uncertain", **changes)


def test_a_poor_fit_is_uncertain_and_not_withstood() -> None:
    report = make_report(with_as_is(*[[uncertain(100)]] * 3))
    assert report.valid and not report.verdict.broken
    assert report.verdict.uncertain_at == {"pooled_key_recovery": (100,)}
    sentence = headline(report).sentence
    assert sentence.startswith(
        "Attack uncertain: what pooled_key_recovery at 100 images found cannot be believed."
    )
    assert "not broken" not in sentence.lower()
    assert [row.uncertain for row in rows_of(report)] == [0, 3]
    assert sum("attack uncertain" in doubt for doubt in report.doubts) == 3
    assert "3 attack uncertain" in render(report, None)


def test_one_uncertain_draw_of_three_leaves_a_surely_failed_attack() -> None:
    sure = make_finding(pool=100)
    report = make_report(with_as_is([uncertain(100)], [sure], [sure]))
    assert report.verdict.uncertain_at == {}
    assert headline(report).sentence == "Not broken by suite/1 up to 100 sealed images."


def test_an_uncertain_attack_refutes_no_break_and_a_break_is_one_whatever_its_fit() -> None:
    smaller = [make_finding(pool=1, opens=True)]
    assert verdict_of(make_draws(*[[*smaller, uncertain(2)]] * 3)).smallest_pool == 1
    assert not verdict_of(make_draws(*[[*smaller, make_finding(pool=2)]] * 3)).broken
    assert verdict_of(three_draws(uncertain(5, opens=True))).smallest_pool == 5


def test_a_break_by_the_guesses_says_that_the_key_failed() -> None:
    findings = [make_finding(pool=1, r=64, opens=opens) for opens in (False, False, False)]
    report = make_report(with_as_is(*([finding] for finding in findings)))
    lines = " ".join(reasons(report, rows_of(report)))
    assert "name the right image of the gallery (R)" in lines
    assert (
        "K failed in every draw: the recovered key opens other images at median SSIM 0.200, below .90."
        in lines
    )
    mostly = make_report(
        with_as_is(*([make_finding(pool=1, r=64, opens=opens)] for opens in (True, False, False)))
    )
    assert "K mostly failed: in 2 of 3 draws." in " ".join(reasons(mostly, rows_of(mostly)))


def idle_recovery(control: DrawScores) -> DrawScores:
    """Return a control of noise or permutations on which key recovery finds nothing to try."""
    if control.set_name not in ("control-noise", "control-permuted"):
        return control
    findings = [
        make_finding(pool=100, idle=True) if f.attack == "pooled_key_recovery" else f
        for f in control.findings
    ]
    return control.model_copy(update={"findings": tuple(findings)})


def test_pools_that_differ_are_judged_at_the_size_that_all_draws_reached() -> None:
    single = [make_finding("as_is", 1), make_finding("leading_bit", 1)]
    opened = make_finding(pool=50, opens=True)
    uneven = make_draws(
        [*single, opened, make_finding(pool=100, opens=False)], [*single, opened], [*single, opened]
    )
    verdict = verdict_of(uneven)
    assert verdict.broken and verdict.smallest_pool == 50 and verdict.largest_pool == 50
    verdict = verdict_of(three_draws(*single, make_crash(100)))
    assert not verdict.broken and verdict.largest_pool == 1
