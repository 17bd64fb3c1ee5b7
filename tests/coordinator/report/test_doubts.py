"""The doubts of an audit: where it falls short of what suite/1 asks for."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from coordinator.cli import app as cli
from coordinator.exchange.plan import Plan
from coordinator.report.doubts import doubts_of
from tests.support.verdicts import make_crash, make_draw, make_finding, three_draws


@pytest.mark.parametrize(
    "part",
    [
        "1 draw of key",
        "8 scored rows",
        "gallery of 40",
        "truncated",
        "crashed in draw-0: ValueError",
    ],
)
def test_a_small_audit_has_doubts(part: str) -> None:
    findings = [make_finding(note="truncated"), make_finding(error="ValueError: x")]
    assert part in " | ".join(doubts_of([make_draw(findings, rows=8, gallery=40)], "suite/1"))


def test_required_attacks_that_did_not_finish_are_doubts() -> None:
    single = [make_finding("as_is", 1), make_finding("leading_bit", 1)]
    crashed = doubts_of(three_draws(*single, make_crash(100)), "suite/1")
    assert any("pooled_key_recovery finished at no pool size" in doubt for doubt in crashed)
    left_out = doubts_of(three_draws(make_finding("as_is", 1)), "suite/1")
    assert any("pooled_key_recovery, which suite/1 requires, was not run" in doubt for doubt in left_out)


@pytest.mark.parametrize("fit", ["fit 0.63, below 0.70: attack uncertain (seams)", "fit 0.63, below 0.70"])
def test_an_uncertain_attack_is_called_so_once(fit: str) -> None:
    finding = make_finding().model_copy(update={"uncertain": True, "fit": fit})
    (doubt,) = (line for line in doubts_of(three_draws(finding), "suite/2") if "draw-0" in line)
    assert doubt.count("attack uncertain") == 1 and "fit 0.63, below 0.70" in doubt


def test_a_note_that_an_attack_makes_everywhere_is_one_sentence() -> None:
    """The recovery of `le` notes at each pool size that it chose colours as usual: 21 caveats said one thing."""
    whole = [make_finding(pool=size, note="as usual") for size in (1, 10, 100)]
    draws = three_draws(*whole)[:2] + three_draws(make_finding(pool=5, note="as usual"))[2:]
    assert [line for line in doubts_of(draws, "suite/2") if "as usual" in line] == [
        "pooled_key_recovery at 1, 10 and 100 in draw-0 and draw-1: as usual",
        "pooled_key_recovery at 5 in draw-2: as usual",
    ]


def test_attacks_that_tried_nothing_for_one_reason_are_one_sentence() -> None:
    idle = [make_finding(name, idle=True, note="no way in") for name in ("one", "two", "three")]
    draws = three_draws(
        *idle, make_finding("four", idle=True, note="too late"), make_finding("five", idle=True)
    )
    assert [line for line in doubts_of(draws, "suite/2") if "did not attack" in line] == [
        "one, two and three did not attack, 3 of 3 times each: no way in",
        "four did not attack, 3 of 3 times: too late",
        "five did not attack, 3 of 3 times: it does not say why",
    ]


def test_a_plan_with_few_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="audit_rows"):
        Plan(study="s", counts=(9, 9, 9), audit_rows=15)


def test_an_attack_with_few_rows_is_refused() -> None:
    assert CliRunner().invoke(cli.app, ["attack", "--rows", "15"]).exit_code == 2
