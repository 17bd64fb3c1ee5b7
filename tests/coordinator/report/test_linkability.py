"""Linkability: a level apart from the verdict, with its counts, and absent from scores that did not measure it."""

from __future__ import annotations

import pytest

from coordinator.report.page import render
from coordinator.report.report_file import parse_report
from coordinator.report.verdict_text import linkability, summary_lines
from tests.support.verdicts import (
    CONTROLS,
    SIGNS,
    changed_report,
    linkable,
    make_draw,
    make_finding,
    make_report,
    make_scores,
    three_draws,
)


@pytest.mark.parametrize(
    ("hits", "gallery", "is_linkable"),
    [
        ((64, 64, 64), 1000, True),
        ((8, 8, 0), 1000, True),  # lower bound .065, in two of three draws
        ((6, 6, 6), 1000, False),  # .044
        ((64, 0, 0), 1000, False),
        ((8, 8, 8), 100, False),  # 10/G is .1
        ((0, 0, 0), 1000, False),
    ],
)
def test_linkability_is_separate_from_the_verdict(
    hits: tuple[int, int, int], gallery: int, is_linkable: bool
) -> None:
    findings = [make_finding("as_is"), make_finding()]
    draws = [
        make_draw(findings, f"draw-{i}", linkable=linkable(h, gallery=gallery)) for i, h in enumerate(hits)
    ]
    report = make_report(draws, CONTROLS)
    assert report.valid and report.verdict.linkable is is_linkable
    assert not report.verdict.broken
    assert [draw.linkable and draw.linkable.hits for draw in report.draws] == list(hits)
    line = linkability(report)
    counts = f"{sum(hits)} of 192 ciphertexts name their own image among {gallery:,} by the histogram alone"
    assert line.startswith(f"{'Linkable' if is_linkable else 'Not linkable'}: {counts}")
    assert f"  {line}" in summary_lines(report)


def test_galleries_of_several_sizes_are_all_told() -> None:
    """16 ciphertexts of two draws were said to be named among the images of the smaller gallery."""
    findings = [make_finding("as_is", gallery=g) for g in (1000, 300)]
    draws = [
        make_draw([finding], f"draw-{i}", linkable=linkable(64, gallery=g), gallery=g)
        for i, (g, finding) in enumerate(zip((1000, 300), findings, strict=True))
    ]
    report = make_report(draws, CONTROLS)
    assert "128 of 128 ciphertexts name their own image among 300 to 1,000 by" in linkability(report)
    assert "name their own image in a gallery of 300 to 1,000 plain images" in render(report, None)


def test_scores_from_before_linkability_say_that_it_was_not_run() -> None:
    scores = make_scores(three_draws(make_finding("as_is"), make_finding()), [*CONTROLS, SIGNS])
    report = changed_report(scores, lambda draws: [draw.pop("linkable") for draw in draws.values()])
    assert report.valid and report.verdict.linkable is None
    assert linkability(report) == "Linkable: not run."
    value = report.to_json()
    del value["verdict"]["linkable"]  # a report.json of then
    assert linkability(parse_report(value)) == "Linkable: not run."


@pytest.mark.parametrize(
    ("hits", "ambiguous", "words"),
    [
        (0, 64, "The others fit more than one image of the gallery, so that none is named."),
        (2, 50, "150 of the others fit more than one image of the gallery, so that none is named."),
        (0, 0, "(95 % upper bound 0.057)."),
    ],
)
def test_images_that_fit_several_are_counted_apart(hits: int, ambiguous: int, words: str) -> None:
    draws = [
        make_draw([make_finding()], f"draw-{i}", linkable=linkable(hits, ambiguous=ambiguous))
        for i in range(3)
    ]
    line = linkability(make_report(draws))
    assert line.startswith(f"Not linkable: {3 * hits} of 192 ciphertexts name their own image among")
    assert line.endswith(words)


def test_a_link_needs_no_key() -> None:
    report = make_report(three_draws(make_finding("as_is", 1), make_finding(opens=True)))
    assert linkability(report).endswith("This needs no key.")
