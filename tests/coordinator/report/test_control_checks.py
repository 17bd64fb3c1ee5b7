"""The controls of a report: each can make it invalid, and only the attacks of the audit need theirs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from coordinator.exchange.audit.rates import in_gallery, rate_of
from coordinator.exchange.audit.scores import Scores
from coordinator.report.control_checks import check_controls, missing_positive_controls
from coordinator.report.verdict_text import require_valid
from crypto.errors import CipherwardError
from crypto.scheme import describe
from tests.support.verdicts import (
    CONTROLS,
    ORTHOGONAL,
    SIGNS,
    ParsedDraws,
    changed_report,
    linkable,
    make_draw,
    make_finding,
    make_report,
    make_scores,
    three_draws,
)

ATTACKS = ("as_is", "leading_bit", "pooled_key_recovery", "moment_matching")
ALL_CONTROLS = {*("true_key", "plain", "known", "noise", "permuted", "signs", "orthogonal", "derangement")}


def sound_scores() -> Scores:
    """Return an audit of four attacks with every control."""
    names = ("train", "audit-1", "audit-2")
    findings = [make_finding(attack) for attack in ATTACKS]
    draws = [make_draw(findings, f"draw-{i}", set_name=name) for i, name in enumerate(names)]
    return make_scores(draws, [*CONTROLS, SIGNS, ORTHOGONAL])


def named(hits: int) -> dict[str, Any]:
    return in_gallery(rate_of(hits, 64), 500).to_json()


def visible(hits: int) -> dict[str, Any]:
    return rate_of(hits, 64).to_json()


def without_derangement(draws: ParsedDraws) -> None:
    for draw in draws.values():
        for finding in draw["findings"]:
            del finding["R_deranged"]


def add_crash(draws: ParsedDraws) -> None:
    draws["known"]["findings"].append(make_finding(pool=50, error="MemoryError").to_json())


@pytest.mark.parametrize(
    ("control", "change"),
    [
        ("true_key", lambda d: d["train"].update(true_key_exact=False)),
        ("true_key", lambda d: d["train"].update(true_key_ssim=0.5)),
        ("true_key", lambda d: d["permuted"].update(true_key_exact=False)),
        ("plain", lambda d: d["plain"]["findings"].pop(0)),  # as_is
        ("plain", lambda d: d["plain"]["findings"][0].update(R=named(0))),
        ("plain", lambda d: d["plain"]["findings"][1]["key"].update(block_order=0.5)),  # the identity
        ("plain", lambda d: d["plain"]["findings"][1]["key"].update(pixel_order=0.99)),
        ("plain", lambda d: d["plain"]["findings"][1].update(key=None)),
        ("plain", lambda d: d["plain"].update(linkable=linkable(0).to_json())),
        ("plain", lambda d: d.pop("plain")),
        ("plain", lambda d: d["plain"]["findings"].pop(1)),
        ("plain", lambda d: d["plain"]["findings"].pop(2)),
        ("known", lambda d: d["known"]["findings"].pop(1)),
        ("known", add_crash),
        ("noise", lambda d: d["noise"]["findings"].pop(1)),
        ("permuted", lambda d: d["permuted"]["findings"].pop(3)),
        ("orthogonal", lambda d: d["orthogonal"]["findings"][0].update(idle=True)),
        ("derangement", lambda d: d["audit-2"]["findings"][0].pop("R_deranged")),
        ("known", lambda d: d["known"]["findings"][1]["K"].update(opens=False)),
        ("known", lambda d: d["known"]["findings"][1].update(error="MemoryError")),
        ("known", lambda d: d.pop("known")),
        ("noise", lambda d: d["noise"]["findings"][1].update(V=visible(64))),
        ("noise", lambda d: d["noise"]["findings"][0].update(R=named(30))),
        ("noise", lambda d: d["noise"]["findings"].clear()),
        ("noise", lambda d: d["noise"]["findings"][1].update(error="MemoryError")),
        ("noise", lambda d: d["noise"].update(linkable=linkable(64).to_json())),
        ("noise", lambda d: d["noise"]["spec"].update(name="permuted")),
        ("noise", lambda d: d.pop("noise")),
        ("permuted", lambda d: d["permuted"]["findings"][1].update(V=visible(64))),
        ("permuted", lambda d: d["permuted"]["findings"][0].update(R=named(30))),
        ("permuted", lambda d: d["permuted"]["findings"][1]["K"].update(opens=True)),
        ("permuted", lambda d: d["permuted"]["findings"][0].update(error="MemoryError")),
        ("permuted", lambda d: d.pop("permuted")),
        ("signs", lambda d: d["signs"]["findings"][0].update(V=visible(3))),
        ("signs", lambda d: d["signs"]["findings"].clear()),
        ("signs", lambda d: d["signs"]["findings"][0].update(error="MemoryError")),
        ("signs", lambda d: d.pop("signs")),
        ("orthogonal", lambda d: d["orthogonal"]["findings"][0].update(V=visible(0))),  # R alone
        ("orthogonal", lambda d: d.pop("orthogonal")),
        ("derangement", lambda d: d["train"]["findings"][2].update(R_deranged=named(64))),
        ("derangement", lambda d: d["permuted"]["findings"][0].update(R_deranged=named(10))),
        ("derangement", without_derangement),
    ],
)
def test_each_control_can_make_a_report_invalid(
    control: str, change: Callable[[ParsedDraws], object]
) -> None:
    sound = changed_report(sound_scores(), lambda draws: None)
    assert sound.valid and set(sound.controls) == ALL_CONTROLS
    require_valid(sound)
    report = changed_report(sound_scores(), change)
    assert not report.valid
    assert report.failed_controls == [control]
    with pytest.raises(CipherwardError, match=f"the report is invalid: {control}"):
        require_valid(report)


def test_controls_of_attacks_that_are_not_run_are_not_required() -> None:
    report = make_report(three_draws(make_finding("as_is"), make_finding()), CONTROLS)
    assert report.valid and not {"signs", "orthogonal"} & set(report.controls)


def test_attacks_without_a_positive_control_are_named() -> None:
    attacks = [*ATTACKS[:3], "brute_force", "unheard_of"]
    draws = three_draws(*(make_finding(attack) for attack in attacks))
    doubts = [f"no positive control was run for {attack}" for attack in ("brute_force", "unheard_of")]
    assert missing_positive_controls([*draws, *CONTROLS]) == doubts
    assert [doubt for doubt in make_report(draws).doubts if "control" in doubt] == doubts
    # The key recovery of another scheme than the control's is another file.
    others = three_draws(make_finding(), scheme="le")
    assert missing_positive_controls([*others, *CONTROLS]) == [
        "key recovery's positive control is block_pixel_shuffle: none was run for its part on le"
    ]


def test_an_attack_that_tried_nothing_needs_no_control() -> None:
    idle = three_draws(make_finding(idle=True), scheme="noisy_orthogonal")
    assert missing_positive_controls([*idle, *CONTROLS]) == []
    # One that is never controlled is no exception: a library's audit has many recoveries that tried nothing.
    unheard_of = three_draws(make_finding("unheard_of", idle=True))
    assert missing_positive_controls([*unheard_of, *CONTROLS]) == []
    half = [
        *three_draws(make_finding("unheard_of", idle=True))[:2],
        *three_draws(make_finding("unheard_of"))[2:],
    ]
    assert missing_positive_controls([*half, *CONTROLS]) == ["no positive control was run for unheard_of"]


@pytest.mark.parametrize(("controlled", "is_doubted"), [(None, True), (32, False), (64, True)])
def test_moment_matching_through_noise_needs_a_control_with_that_noise(
    controlled: int | None, is_doubted: bool
) -> None:
    noisy = describe("noisy_orthogonal", (64, 64, 1), 8, options={"sigma": 32})
    draws = [make_draw([make_finding("moment_matching")], f"draw-{i}", spec=noisy) for i in range(3)]
    scheme = "orthogonal" if controlled is None else "noisy_orthogonal"
    options = {} if controlled is None else {"sigma": controlled}
    spec = describe(scheme, ORTHOGONAL.spec.image_shape, ORTHOGONAL.spec.block, options=options)
    control = ORTHOGONAL.model_copy(update={"spec": spec})
    doubts = missing_positive_controls([*draws, *CONTROLS, control])
    noise = f"moment matching's positive control is {scheme}: none was run with noise of 32 gray levels"
    assert doubts == ([noise] if is_doubted else [])


@pytest.mark.parametrize("scheme", ["orthogonal", "block_projection", "neuracrypt"])
def test_moment_matching_by_another_program_than_its_control_is_doubted(scheme: str) -> None:
    spec = describe(scheme, (64, 64, 1), 8)
    draws = [make_draw([make_finding("moment_matching")], f"draw-{i}", spec=spec) for i in range(3)]
    part = f"moment matching's positive control is orthogonal: none was run for its part on {scheme}"
    doubts = missing_positive_controls([*draws, *CONTROLS, ORTHOGONAL])
    assert doubts == ([] if scheme == "orthogonal" else [part])


def test_a_real_set_under_plain_is_no_control() -> None:
    draw = make_draw([make_finding("as_is", 1, r=64)], scheme="plain")
    assert not check_controls([draw], "suite/2")["plain"].ok


def test_an_audit_of_one_attack_needs_no_control_of_another() -> None:
    controls = [
        control.model_copy(update={"findings": tuple(control.of("leading_bit"))})
        for control in (*CONTROLS, SIGNS)
    ]
    assert make_report(three_draws(make_finding("leading_bit", 1)), controls).valid
