"""Made-up scores for tests of the verdict: findings, draws and controls, each with what a test says of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from coordinator.exchange.audit.rates import (
    LinkableRate,
    in_gallery,
    rate_of,
    searched,
    searched_in_gallery,
)
from coordinator.exchange.audit.scores import (
    ChosenMove,
    DrawScores,
    Figures,
    Finding,
    KeyOpening,
    KeyShare,
    Scores,
    SecondLook,
    Summary,
)
from coordinator.exchange.records import parse_record
from coordinator.report.build import build_report
from coordinator.report.records import Report
from crypto.files import json_text
from crypto.identity import Identity
from crypto.scheme import describe
from parties.scoring.signing import sign_scores

#: A scores.json as parsed, its draws by the name of their set without the prefix of controls.
ParsedDraws = dict[str, dict[str, Any]]

#: Looks of a second look at most schemes.
LOOKS = 16
#: The identity that signs made-up scores.
HOSPITAL = Identity.generate("hospital-0")
IDENTITY = KeyShare(
    block_order=1.0,
    block_order_unshifted=1.0,
    shift=(0, 0),
    pixel_order=1.0,
    neighbours=(112, 112),
    identifiable=1.0,
    bits_left=0.0,
)


def make_finding(
    attack: str = "pooled_key_recovery",
    pool: int = 10,
    *,
    v: int = 0,
    r: int = 0,
    opens: bool | None = None,
    gallery: int = 500,
    key: KeyShare | None = None,
    **changes: Any,
) -> Finding:
    """Return a finding of an attack over 64 rows.

    Args:
        attack: The attack.
        pool: The pool size.
        v: Hits of V.
        r: Hits of R.
        opens: Whether the recovered key opens images; None if no key was recovered.
        gallery: Images in the gallery.
        key: How much of the key is right.
        changes: Fields of the finding that are otherwise.
    """
    opening = None if opens is None else KeyOpening(median_ssim=1.0 if opens else 0.2, n=64, opens=opens)
    fields: dict[str, Any] = {
        "attack": attack,
        "tier": "T1",
        "uses_pool": True,
        "pool_size": pool,
        "seconds": 0.5,
        "note": "",
        "error": "",
        "figures": Figures(
            n=64,
            move=ChosenMove(turn=0, negative=False, order=0, down=0, across=0),
            values_right=None,
            key_opening=opening,
            key=key,
            ssim=Summary(median=0.1),
            psnr=Summary(median=9.0),
            derangement_ssim=Summary(median=0.1),
            visible=rate_of(v, 64),
            reidentified=in_gallery(rate_of(r, 64), gallery),
            reidentified_deranged=in_gallery(rate_of(0, 64), gallery),
        ),
    }
    return Finding(**{**fields, **changes})


def make_crash(pool: int) -> Finding:
    """Return a finding that crashed, with figures all the same, which must not count."""
    return make_finding(pool=pool, error="MemoryError")


def looked_at(finding: Finding, r: int = 0, v: int = 0, wrong: int = 0, looks: int = LOOKS) -> Finding:
    """Return a finding with a second look with so many hits of 64."""
    look = SecondLook(
        visible=searched(v, 64, looks),
        reidentified=searched_in_gallery(r, 64, looks, 500),
        reidentified_deranged=searched_in_gallery(wrong, 64, looks, 500),
        turn=0,
        negative=True,
    )
    assert finding.figures is not None
    return finding.model_copy(update={"figures": finding.figures.model_copy(update={"second_look": look})})


def measured(draw: DrawScores, looks: int | None = None, **hits: int) -> DrawScores:
    """Return a draw whose findings all have a second look."""
    looks = looks or {"plain": 16, "pe": 8, "orthogonal": 8}.get(draw.spec.name, LOOKS)
    findings = tuple(f if f.error else looked_at(f, looks=looks, **hits) for f in draw.findings)
    return draw.model_copy(update={"findings": findings, "second_looks": looks})


def linkable(hits: int, gallery: int = 500, ambiguous: int = 0) -> LinkableRate:
    """Return a linkable rate over 64 rows."""
    return LinkableRate(
        **dict(rate_of(hits, 64)), ambiguous=ambiguous, unmatched=64 - hits - ambiguous, gallery=gallery
    )


def make_draw(
    findings: Sequence[Finding],
    name: str = "draw-0",
    scheme: str = "block_pixel_shuffle",
    set_name: str = "train",
    **changes: Any,
) -> DrawScores:
    """Return one draw with these findings."""
    spec = describe(scheme, (64, 64, 1), 8)
    if scheme in ("noise", "permuted"):
        spec = replace(spec, options={**spec.options, "nonce": "00" * 16})
    fields: dict[str, Any] = {
        "draw": name,
        "set_name": set_name,
        "spec": spec,
        "key_id": "0" * 16,
        "set_digest": "d",
        "pool_images": 200,
        "parties": 3,
        "rows": 64,
        "gallery": 500,
        "pictured": (1,),
        "findings": tuple(findings),
        "true_key_ssim": 1.0,
        "true_key_exact": True,
        "baselines": {"mean": Summary(median=0.2)},
        "linkable": linkable(0 if scheme == "noise" else 64),
    }
    return DrawScores(**{**fields, **changes})


def make_draws(*findings: Sequence[Finding], scheme: str = "block_pixel_shuffle") -> list[DrawScores]:
    """Return one draw for each list of findings."""
    return [make_draw(each, f"draw-{i}", scheme) for i, each in enumerate(findings)]


def three_draws(*findings: Finding, scheme: str = "block_pixel_shuffle") -> list[DrawScores]:
    """Return three draws with the same findings."""
    return make_draws(*[findings] * 3, scheme=scheme)


def with_as_is(*findings: Sequence[Finding]) -> list[DrawScores]:
    """Return one draw for each list of findings, with one of `as_is` before them."""
    return make_draws(*([make_finding("as_is", 1), *each] for each in findings))


def _met(as_is: Finding, recovery: Finding) -> list[Finding]:
    """Return what the attacks of an audit find on a control set."""
    return [as_is, recovery, make_finding("leading_bit", 1), make_finding("moment_matching", 100)]


#: The controls that every attack meets, as they must come out.
CONTROLS = (
    make_draw(
        _met(make_finding("as_is", 1, r=64), make_finding(pool=100, opens=True, key=IDENTITY)),
        "draw-3",
        "plain",
        "control-plain",
    ),
    make_draw(
        _met(make_finding("as_is", 1), make_finding(pool=100, opens=False)),
        "draw-4",
        "noise",
        "control-noise",
    ),
    make_draw(
        _met(make_finding("as_is", 1), make_finding(pool=100, opens=True)),
        "draw-5",
        set_name="control-known",
    ),
    make_draw(
        _met(make_finding("as_is", 1), make_finding(pool=100, opens=False)),
        "draw-6",
        "permuted",
        "control-permuted",
    ),
)
SIGNS = make_draw([make_finding("leading_bit", 1, v=64)], "draw-7", "pe", "control-signs")
ORTHOGONAL = make_draw(
    [make_finding("moment_matching", 50, v=64, r=64)], "draw-8", "orthogonal", "control-orthogonal"
)


def make_scores(
    draws: Sequence[DrawScores], controls: Sequence[DrawScores] = (*CONTROLS, SIGNS), **changes: Any
) -> Scores:
    """Return scores of these draws and controls, signed, as of an audit that the hospital ran."""
    fields: dict[str, Any] = {
        "suite": "suite/1",
        "party": "hospital-0",
        "seed": 0,
        "attacked_by": "hospital",
    }
    return sign_scores(Scores(**{**fields, "draws": (*draws, *controls), **changes}), HOSPITAL)


def make_report(draws: Sequence[DrawScores], controls: Sequence[DrawScores] = (*CONTROLS, SIGNS)) -> Report:
    """Return the report of these draws and controls."""
    return build_report(make_scores(draws, controls), "s")


def parsed(scores: Scores) -> dict[str, Any]:
    """Return what scores.json holds, to be changed."""
    value: dict[str, Any] = json.loads(json_text({"schema": "cipherward.scores/1", **scores.to_json()}))
    return value


def changed_report(scores: Scores, change: Callable[[ParsedDraws], object]) -> Report:
    """Return the report of scores that were changed before they were signed.

    `change` gets the draws by the name of their set without the prefix.
    """
    value = parsed(scores)
    sets = {draw["set"].removeprefix("control-"): draw for draw in value["draws"]}
    change(sets)
    changed = parse_record(Scores, {**value, "draws": list(sets.values())}, "scores.json")
    return build_report(sign_scores(changed, HOSPITAL), "s")
