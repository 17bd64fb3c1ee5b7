"""Blind controls: a cloud that withholds successes of the audited scheme makes the report invalid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from coordinator.exchange.audit.scores import AttackedBy, DrawScores, Finding, Role
from coordinator.report.build import build_report
from coordinator.report.comparison import compare
from coordinator.report.records import Report
from coordinator.report.verdict_text import headline, reasons, summary_lines
from tests.support.verdicts import (
    CONTROLS,
    HOSPITAL,
    LOOKS,
    SIGNS,
    looked_at,
    make_draw,
    make_finding,
    make_scores,
)

SINGLE = (make_finding("as_is", 1), make_finding("leading_bit", 1))


def findings(*, breaks: bool) -> list[Finding]:
    """Return what the attacks find in one draw that key recovery breaks, or does not."""
    return [*SINGLE, make_finding(pool=10, opens=breaks), make_finding(pool=100, opens=breaks)]


def draw(index: int, role: Role, found: Sequence[Finding], own: Sequence[Finding] = ()) -> DrawScores:
    name = f"set-{index:08x}"
    return make_draw(found, f"draw-{index}", set_name=name, role=role, hospital_run=tuple(own))


def audit(audited: bool, blind: bool, own: bool, attacked_by: AttackedBy = "cloud") -> Report:
    """Return the report of three audited draws and two blind controls.

    Args:
        audited: Whether the cloud's guesses break the audited draws.
        blind: Whether they break the blind controls.
        own: Whether the hospital's own run breaks the blind controls.
        attacked_by: Who ran the attacks.
    """
    draws = [draw(i, "own_key" if i == 0 else "throwaway", findings(breaks=audited)) for i in range(3)]
    run = findings(breaks=own)
    draws += [draw(i, "blind_control", findings(breaks=blind), run) for i in (3, 4)]
    return build_report(make_scores(draws, (*CONTROLS, SIGNS), attacked_by=attacked_by), "s")


def test_an_honest_cloud_passes() -> None:
    report = audit(audited=True, blind=True, own=True)
    assert report.valid and report.controls["blind"].ok and report.verdict.broken
    assert report.verdict.draws == 3, "blind controls are no draws of the verdict"
    assert "so do the cloud's guesses" in report.controls["blind"].message


def test_noise_on_all_draws_of_the_audited_scheme_fails_the_blind_controls() -> None:
    report = audit(audited=False, blind=False, own=True)
    assert not report.valid and headline(report).sentence == "INVALID: the cloud failed blind controls."
    assert "pooled_key_recovery at 10 in draw-3" in report.controls["blind"].message


def test_noise_on_exactly_the_audited_draws_is_found_too() -> None:
    """The cloud guesses right which draws are the controls; both are drawn alike, so it contradicts itself."""
    report = audit(audited=False, blind=True, own=True)
    assert not report.valid and report.failed_controls == ["blind"]
    assert "which are drawn alike" in report.controls["blind"].message


def readable_audit(audited: int, blind: int, own: int, attacked_by: AttackedBy = "cloud") -> Report:
    """Return the report of an audit that nothing breaks; the second look has so many hits of 64 at 100 images."""

    def look(hits: int) -> list[Finding]:
        *others, last = findings(breaks=False)
        return [*map(looked_at, others), looked_at(last, r=hits)]

    draws = [draw(i, "throwaway", look(audited)) for i in range(3)]
    draws += [draw(i, "blind_control", look(blind), look(own)) for i in (3, 4)]
    draws = [d.model_copy(update={"second_looks": LOOKS}) for d in draws]
    return build_report(make_scores(draws, (*CONTROLS, SIGNS), attacked_by=attacked_by), "s")


@pytest.mark.parametrize(("audited", "blind"), [(0, 0), (0, 64)])
def test_a_cloud_that_withholds_readable_pictures_fails_too(audited: int, blind: int) -> None:
    report = readable_audit(audited, blind, own=64)
    assert report.failed_controls == ["blind"]
    assert headline(report).sentence == "INVALID: the cloud failed blind controls."


@pytest.mark.parametrize("attacked_by", ["hospital", "cloud", "simulation"])
def test_readable_pictures_are_never_called_unbroken_whoever_ran_the_attacks(
    attacked_by: AttackedBy,
) -> None:
    report = readable_audit(64, 64, own=64, attacked_by=attacked_by)
    line = headline(report)
    assert report.valid and line.state == "broken" and line.sentence.startswith("Readable.")
    text = "\n".join([*summary_lines(report), *reasons(report, [])]).lower()
    assert "not broken" not in text and "no break" not in text
    # The second look held a success that could be withheld, so no doubt says otherwise.
    assert not any("held no success" in doubt for doubt in report.doubts)


def test_guesses_that_break_a_draw_show_more_than_readable_pictures() -> None:
    draws = [draw(i, "throwaway", findings(breaks=True)) for i in range(3)]
    own = [looked_at(finding, r=64) for finding in findings(breaks=False)]
    draws += [draw(i, "blind_control", findings(breaks=True), own[2:]) for i in (3, 4)]
    assert build_report(make_scores(draws, attacked_by="cloud"), "s").controls["blind"].ok


def test_readable_pictures_do_not_stand_for_a_break() -> None:
    seen = [looked_at(finding, r=64) for finding in findings(breaks=False)]
    draws = [draw(i, "throwaway", seen) for i in range(3)]
    draws += [draw(i, "blind_control", seen, findings(breaks=True)) for i in (3, 4)]
    assert not build_report(make_scores(draws, attacked_by="cloud"), "s").controls["blind"].ok


@pytest.mark.parametrize("blind", [3, 4])
def test_one_withheld_control_is_enough(blind: int) -> None:
    draws = [draw(i, "throwaway", findings(breaks=True)) for i in range(3)]
    run = findings(breaks=True)
    draws += [draw(i, "blind_control", findings(breaks=i != blind), run) for i in (3, 4)]
    report = build_report(make_scores(draws, attacked_by="cloud"), "s")
    assert report.failed_controls == ["blind"] and f"draw-{blind}" in report.controls["blind"].message


def test_a_cloud_without_blind_controls_has_no_verdict() -> None:
    draws = [draw(i, "throwaway", findings(breaks=False)) for i in range(3)]
    report = build_report(make_scores(draws, attacked_by="cloud"), "s")
    assert not report.valid and report.controls["blind"].message == "not run"


def idle_audit(audited: bool, blind: bool, own: bool) -> Report:
    """Return the report of an audit that nothing breaks, by whose findings say that key recovery tried nothing."""

    def recovery(*, idle: bool) -> list[Finding]:
        return [*SINGLE, make_finding(pool=10, idle=idle)]

    draws = [draw(i, "throwaway", recovery(idle=audited)) for i in range(3)]
    draws += [draw(i, "blind_control", recovery(idle=blind), recovery(idle=own)) for i in (3, 4)]
    return build_report(make_scores(draws, (*CONTROLS, SIGNS), attacked_by="cloud"), "s")


@pytest.mark.parametrize(
    ("audited", "blind", "where"),
    [
        (True, True, "pooled_key_recovery at 10 in draw-3"),
        (False, True, "pooled_key_recovery at 10 in draw-4"),
        (True, False, "pooled_key_recovery at 10 in every audited draw"),
    ],
)
def test_a_cloud_that_did_not_attack_cannot_say_that_there_was_nothing_to_try(
    audited: bool, blind: bool, where: str
) -> None:
    """An attack that tried nothing is not missed, and the cloud's other attacks would say "no break"."""
    report = idle_audit(audited, blind, own=False)
    assert report.failed_controls == ["blind"] and where in report.controls["blind"].message
    assert headline(report).sentence == "INVALID: the cloud failed blind controls."


def test_where_the_hospitals_own_run_tries_nothing_either_the_cloud_is_honest() -> None:
    assert idle_audit(audited=True, blind=True, own=True).valid
    assert idle_audit(audited=False, blind=False, own=False).valid


def test_one_audited_draw_may_hold_nothing_to_begin_with() -> None:
    draws = [draw(i, "throwaway", [make_finding(pool=10, idle=i == 0)]) for i in range(3)]
    draws += [draw(i, "blind_control", [make_finding(pool=10)], [make_finding(pool=10)]) for i in (3, 4)]
    assert build_report(make_scores(draws, attacked_by="cloud"), "s").controls["blind"].ok


def test_who_ran_the_attacks_decides_what_no_break_is_called() -> None:
    cloud = audit(audited=False, blind=False, own=False)
    assert (
        cloud.valid and headline(cloud).sentence == "The cloud reported no break, up to 100 sealed images."
    )
    text = "\n".join([*summary_lines(cloud), *reasons(cloud, [])]).lower()
    assert "not broken by" not in text and "a cloud can withhold a success" in text
    # Controls without a success say little, and the report says so.
    assert any("held no success" in doubt for doubt in cloud.doubts)
    draws = [make_draw(findings(breaks=False), f"draw-{i}") for i in range(3)]
    own = build_report(make_scores(draws, attacked_by="hospital"), "s")
    assert headline(own).sentence == "Not broken by suite/1 up to 100 sealed images."
    pair = next(fact for fact in compare(cloud, own) if fact.name == "images to break")
    assert (
        pair.first == "no break reported up to 100 images" and pair.second == "not broken up to 100 images"
    )
    assert reasons(own, [])[0] == "The attacks were run by the hospital itself."
    simulated = build_report(make_scores(draws, attacked_by="simulation"), "s")
    assert headline(simulated).sentence.startswith("The cloud reported no break")
    unrecorded = build_report(make_scores(draws, attacked_by=None), "s")
    assert headline(unrecorded).sentence == "No break was reported, up to 100 sealed images."
    assert simulated.signer is not None and simulated.signer.identity == HOSPITAL.public.line


@pytest.mark.parametrize(
    ("changes", "words"), [({"uncertain": True}, "is uncertain"), ({"idle": True}, "did not attack")]
)
def test_a_cloud_s_confidence_is_held_against_the_hospital_s_own_run(
    changes: dict[str, Any], words: str
) -> None:
    own = [*SINGLE, make_finding(pool=10), make_finding(pool=100, **changes)]
    draws = [draw(i, "throwaway", findings(breaks=False)) for i in range(3)]
    draws += [draw(i, "blind_control", findings(breaks=False), own) for i in (3, 4)]
    report = build_report(make_scores(draws, attacked_by="cloud"), "s")
    doubts = [doubt for doubt in report.doubts if "the cloud states otherwise" in doubt]
    assert len(doubts) == 1 and doubts[0].startswith(f"pooled_key_recovery at 100 {words}")
    assert not any("the cloud states otherwise" in d for d in audit(False, False, False).doubts)


def test_an_attack_on_a_training_is_judged_on_the_hospital_s_own_key_alone() -> None:
    weights = make_finding("weights", 1, tier="T5", v=64, uses_pool=False)
    blank = make_finding("weights", 1, tier="T5", uses_pool=False)
    roles: list[Role] = ["throwaway", "own_key", "throwaway"]
    draws = [
        draw(i, role, [*SINGLE, weights if role == "own_key" else blank]) for i, role in enumerate(roles)
    ]
    report = build_report(make_scores(draws, attacked_by="hospital"), "s")
    assert report.verdict.broken_at == {"weights": 1}
