"""The words of a report: what attacks are, for readers who meet their names in the verdict."""

from __future__ import annotations

from coordinator.adversary.recover.unknown_scheme import TEXTBOOK
from coordinator.adversary.registry import ATTACKS as REGISTERED
from coordinator.report.glossary import ATTACKS, attack_words
from coordinator.report.page import render
from coordinator.report.records import NO_STUDY
from tests.support.reports import make_report


def test_every_attack_has_words() -> None:
    assert set(REGISTERED) <= set(ATTACKS)
    assert {f"{name}_recovery" for name in TEXTBOOK} <= set(ATTACKS)


def test_recoveries_of_other_schemes_share_one_entry() -> None:
    words = attack_words(["as_is", "etc_recovery/8", "as_is", "le_recovery/4", "unheard_of"])
    assert [name for name, _ in words] == ["as_is", "etc_recovery/8 and the like"]


def test_a_page_says_what_its_attacks_are_and_no_others() -> None:
    page = render(make_report(), None)
    assert "<dt>pooled_key_recovery</dt>" in page and "<dt>sia_gan</dt>" not in page


def test_a_page_is_titled_by_its_scheme_and_its_study_if_there_is_one() -> None:
    """A cloud's report without a study was the "audit of audit"."""
    report = make_report()
    assert f"<title>Audit of {report.scheme.name}, {report.study}</title>" in render(report, None)
    alone = render(report.model_copy(update={"study": NO_STUDY}), None)
    assert (
        f"<title>Audit of {report.scheme.name}</title>" in alone and "audit of audit" not in alone.lower()
    )
