"""A verdict is about a scheme with its options: the report names them wherever it names the scheme."""

from __future__ import annotations

from typing import Any

from coordinator.exchange.audit.suite1 import AUDIT_ROWS, GALLERY_IMAGES
from coordinator.report.build import build_report
from coordinator.report.comparison import compare
from coordinator.report.page import render
from coordinator.report.records import Report
from coordinator.report.repeat import repeat_commands
from coordinator.report.verdict_text import summary_lines
from crypto.scheme import describe
from tests.support.html_page import Page
from tests.support.verdicts import make_draw, make_finding, make_scores


def report_of(scheme: str, **options: Any) -> Report:
    """Return the report of an audit of a scheme with these options, which key recovery breaks."""
    spec = describe(scheme, (64, 64, 1), 8, options=options)
    found = [make_finding("as_is", 1), make_finding("leading_bit", 1), make_finding(pool=10, opens=True)]
    draws = [make_draw(found, f"draw-{i}", scheme, spec=spec) for i in range(3)]
    return build_report(make_scores(draws), "s")


def test_a_report_names_the_options_of_the_scheme() -> None:
    report = report_of("le", mask="independent")
    assert report.scheme.options == {"mask": "independent"}
    assert "options: mask=independent" in Page(render(report, None)).text
    assert "  This is about le with mask=independent." in summary_lines(report)
    assert "--option mask=independent" in repeat_commands(report)[0]


def test_reports_of_other_options_are_of_other_schemes() -> None:
    facts = {fact.name: fact for fact in compare(report_of("le"), report_of("le", mask="independent"))}
    assert facts["scheme"].differs and facts["scheme"].second.endswith("mask=independent")


def test_a_nonce_is_no_option() -> None:
    assert report_of("noisy_orthogonal", sigma=64).scheme.options == {"sigma": 64}


def test_a_report_that_does_not_know_the_options_says_so() -> None:
    report = report_of("le")
    facts = report.scheme.model_copy(update={"options": None})
    page = Page(render(report.model_copy(update={"scheme": facts}), None)).text
    assert "its options are not recorded" in page and "are not in this report" in page
    assert "options are not recorded" not in Page(render(report_of("block_pixel_shuffle"), None)).text


def test_the_commands_that_repeat_an_audit_have_its_rows_and_its_gallery() -> None:
    """A default is left out; what scores of earlier versions do not say is not made up."""
    report = report_of("le").model_copy(update={"attacked_by": "hospital"})
    asked = report.model_copy(update={"rows_asked": 96, "gallery_asked": 300})
    default = report.model_copy(update={"rows_asked": AUDIT_ROWS, "gallery_asked": GALLERY_IMAGES})

    assert " --rows 96 --gallery 300 " in repeat_commands(asked)[0]
    assert "--gallery" not in repeat_commands(report)[0]
    assert not {"--rows", "--gallery"} & set(repeat_commands(default)[0].split())
    attack, score, _ = repeat_commands(asked.model_copy(update={"attacked_by": "cloud"}))
    assert " --rows 96 " in attack and "--gallery" not in attack
    assert score.endswith(" --rows 96 --gallery 300")


def test_the_command_that_repeats_an_audit_asks_for_public_images_if_an_attack_had_some() -> None:
    found = make_finding("sia_gan", 10).model_copy(update={"tier": "T2"})
    for finding, is_named in ((found, True), (found.model_copy(update={"idle": True}), False)):
        draws = [make_draw([make_finding("as_is", 1), finding], f"draw-{i}", "le") for i in range(3)]
        report = build_report(make_scores(draws), "s").model_copy(update={"attacked_by": "hospital"})

        assert ("--public PUBLIC" in repeat_commands(report)[0]) is is_named
