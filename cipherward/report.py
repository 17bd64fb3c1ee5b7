"""The report of an audit of a function: the suite's own rules over its scores, and what only this audit knows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cipherward.attacking import AS_IS, AS_IS_EACH
from cipherward.links import strongest_link
from cipherward.scoring import ScoredDraw
from cipherward.settings import Settings
from coordinator.adversary.recover.unknown_scheme import NOTHING
from coordinator.exchange.audit.rates import LinkableRate
from coordinator.exchange.audit.scores import AttackedBy, DrawScores, Finding
from coordinator.exchange.audit.suite2 import SUITE, broken_by
from coordinator.report.build import machine, versions
from coordinator.report.control_checks import check_controls, missing_positive_controls
from coordinator.report.doubts import doubts_of
from coordinator.report.pictures import Pictures, move_of, shown_finding
from coordinator.report.records import (
    SCHEMA,
    Control,
    Controls,
    Machine,
    PoolFacts,
    Report,
    ReportDraw,
    SchemeFacts,
)
from coordinator.report.verdict import judge
from crypto.arrays import Images
from crypto.plural import counted
from crypto.scheme import MIN_KEY_SPACE_BITS, load, without_nonce
from crypto.spec import SchemeSpec

_RECOVERY = "pooled_key_recovery"
#: Who ran the attacks.
_ATTACKED_BY: AttackedBy = "library"


@dataclass(frozen=True)
class Subject:
    """What was audited.

    Attributes:
        name: The scheme's name in the report.
        source: Where its ciphertexts came from, in words.
        spec: The scheme of the report.
        key_bits: Bits of the keys that were drawn, as far as they do anything; 0 without keys.
        defects: What is wrong with it whatever an attack finds.
        has_decrypt: Whether somebody could open ciphertexts with the true key.
        weakness: A sentence on bytes of the key that do nothing.
    """

    name: str
    source: str
    spec: SchemeSpec
    key_bits: int
    defects: tuple[str, ...]
    has_decrypt: bool
    weakness: str = ""


def make_report(
    subject: Subject, audited: Sequence[ScoredDraw], controls: Sequence[ScoredDraw], settings: Settings
) -> Report:
    """Return report.json of an audit.

    Args:
        subject: What was audited.
        audited: Its draws.
        controls: The control sets.
        settings: Of the audit.
    """
    every, kept = _with_links(audited, settings)
    control_scores = [scored.scores for scored in controls]
    results = _controls(subject, every, control_scores, settings)
    draws, left_out = _without_failures(every, settings), _recoveries_in_words(every, settings)
    findings, verdict = judge(draws, SUITE)
    return Report(
        schema_id=SCHEMA,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        study=subject.source,
        seed=settings.seed,
        suite=SUITE,
        budget_s=settings.budget_s,
        versions=versions(),
        machine=Machine(**machine()),
        scheme=_facts(subject, settings, kept),
        key_ids=tuple("" for _ in draws),
        pool=PoolFacts(images=draws[0].pool_images, shape=subject.spec.image_shape, parties=1),
        scorer="library",
        training=None,
        controls=results,
        valid=all(control.ok for control in results.values()),
        doubts=tuple(_doubts(subject, draws, control_scores, settings, left_out)),
        draws=tuple(
            ReportDraw(**{name: getattr(draw, name) for name in ReportDraw.model_fields}) for draw in draws
        ),
        findings=tuple(findings),
        verdict=verdict,
        attacked_by=_ATTACKED_BY,
        defects=subject.defects,
    )


def _with_links(audited: Sequence[ScoredDraw], settings: Settings) -> tuple[list[DrawScores], str | None]:
    """Return the scores of the draws with their links, and what an unknown scheme leaves unchanged."""
    scores = [scored.scores for scored in audited]
    if settings.family:
        return scores, None
    kept, rates = strongest_link([scored.links for scored in audited])
    return [_linked(score, rate) for score, rate in zip(scores, rates, strict=True)], kept


def _without_failures(draws: Sequence[DrawScores], settings: Settings) -> list[DrawScores]:
    """Return the draws without the single key recoveries that broke none of them.

    An unknown scheme is attacked by all of them. A report of twenty rows that say nothing would hide the others.
    """
    left_out = _failed_recoveries(draws, settings)
    return [
        draw.model_copy(update={"findings": tuple(f for f in draw.findings if f.attack not in left_out)})
        for draw in draws
    ]


def _failed_recoveries(draws: Sequence[DrawScores], settings: Settings) -> dict[str, list[Finding]]:
    """Return the findings of each attack beside those of the settings that broke no draw, by the attack's name."""
    own: dict[str, list[Finding]] = {}
    for finding in (finding for draw in draws for finding in draw.findings):
        if finding.attack not in settings.attacks:
            own.setdefault(finding.attack, []).append(finding)
    # The guess of one that tried nothing is the ciphertext as it is. If that shows its image, as_is says so.
    breaking = {
        name for name, found in own.items() if any(broken_by(f, SUITE) and not f.idle for f in found)
    }
    failed = {name: own[name] for name in sorted(own) if name not in breaking}
    # What is seen without moving each image by itself is told once.
    if AS_IS_EACH in own and _broken_draws(draws, AS_IS_EACH) <= _broken_draws(draws, AS_IS):
        failed[AS_IS_EACH] = own[AS_IS_EACH]
    return failed


def _broken_draws(draws: Sequence[DrawScores], attack: str) -> set[str]:
    """Return the names of the draws that an attack breaks."""
    return {draw.draw for draw in draws if any(broken_by(f, SUITE) for f in draw.of(attack))}


def _recoveries_in_words(draws: Sequence[DrawScores], settings: Settings) -> list[str]:
    """Return what became of the key recoveries that have no row of their own, one sentence a fate."""
    fates: dict[str, list[str]] = {
        "crashed, which says nothing about the scheme": [],
        "ran out of time": [],
        "were not tried, because another was sound": [],
        "found nothing in the pools to begin with": [],
        "ran to the end and broke no draw": [],
    }
    crashed, late, untried, empty, failed = fates.values()
    for name, findings in _failed_recoveries(draws, settings).items():
        if name == AS_IS_EACH:
            continue  # no key recovery
        if errors := [finding.error for finding in findings if finding.error]:
            crashed.append(f"{name} ({errors[0]})")
        elif any("truncated" in finding.note for finding in findings):
            late.append(name)
        else:
            is_idle = all(finding.idle for finding in findings)
            has_nothing = any(NOTHING in finding.note for finding in findings)
            ((empty if has_nothing else untried) if is_idle else failed).append(name)
    return [f"key recoveries that {fate}: {', '.join(names)}" for fate, names in fates.items() if names]


def _linked(score: DrawScores, rate: LinkableRate) -> DrawScores:
    return score.model_copy(update={"linkable": rate})


def _facts(subject: Subject, settings: Settings, kept: str | None) -> SchemeFacts:
    """Return the facts of the scheme. A key space is the caller's claim, or the bits of the keys that were drawn."""
    spec, bits = subject.spec, float(subject.key_bits)
    claimed = settings.claimed_bits
    if settings.family:
        scheme = load(spec)
        formula, effective = scheme.formula_bits(), scheme.effective_bits()
    else:
        formula = bits if claimed is None else claimed
        effective = min(formula, bits) if bits else formula
    facts = SchemeFacts(
        name=subject.name,
        version=spec.version if settings.family else 0,
        image_shape=spec.image_shape,
        block=spec.block,
        key_scope=spec.key_scope,
        formula_bits=formula,
        effective_bits=effective,
    )
    if settings.family:
        facts = facts.model_copy(update={"options": dict(without_nonce(spec).options)})
    return facts if kept is None else facts.model_copy(update={"kept": kept})


def _controls(
    subject: Subject, draws: Sequence[DrawScores], controls: Sequence[DrawScores], settings: Settings
) -> Controls:
    """Return the controls of the suite, as far as they can be checked without the scheme's own key."""
    results = dict(check_controls([*draws, *controls], SUITE, _ATTACKED_BY))
    if not subject.has_decrypt:
        results["true_key"] = check_controls(controls, SUITE, _ATTACKED_BY)["true_key"]
    plain = next((draw for draw in controls if draw.set_name == "control-plain"), None)
    if not settings.family and plain is not None and plain.of(_RECOVERY):
        results["plain"] = _check_plain(plain)
    return results


def _check_plain(draw: DrawScores) -> Control:
    """Check images that are not encrypted: as_is must break them, and the recovery that was chosen must open them.

    The suite asks key recovery for the identity. Where every recovery is tried, several schemes can hold the
    identity, each with parts of its own, so the key is asked to open instead.
    """
    last = max(draw.of(_RECOVERY), key=lambda finding: finding.pool_size)
    as_is = draw.of("as_is")
    breaks, opens = any(broken_by(finding, SUITE) for finding in as_is), "K" in broken_by(last, SUITE)
    message = f"key recovery at {last.pool_size} {'opens' if opens else 'does not open'} it"
    if as_is:
        message = f"as_is {'breaks' if breaks else 'does not break'} it; {message}"
    return Control(ok=opens and (breaks or not as_is), message=message)


def _doubts(
    subject: Subject,
    draws: Sequence[DrawScores],
    controls: Sequence[DrawScores],
    settings: Settings,
    left_out: Sequence[str],
) -> list[str]:
    """Return where the audit falls short, one sentence each."""
    doubts = []
    if not settings.family:
        recovered = any(not f.idle for draw in draws for f in draw.of(_RECOVERY))
        tried = (
            "key recoveries of other schemes and of ciphers of textbooks were tried"
            if recovered
            else "no key recovery was tried either"
        )
        doubts.append(
            f"no attack was written for {subject.name}: {tried}. A scheme of another form withstands them for want "
            "of an attack, not by its strength"
        )
        doubts.append(
            "key recoveries assume that one key sealed all images: a scheme that gives every image a key of its own "
            "was not attacked image by image"
        )
    doubts += left_out
    if subject.weakness and subject.weakness not in subject.defects:
        doubts.append(subject.weakness)
    if settings.claimed_bits is not None and settings.claimed_bits < MIN_KEY_SPACE_BITS:
        doubts.append(
            f"the claimed key space is 2^{settings.claimed_bits:.4g}: all keys can be tried, and that was not done"
        )
    if not subject.has_decrypt:
        doubts.append("without decrypt, nothing shows that the true key opens the ciphertexts")
    doubts += _uncertain(draws)
    certain = [_without_uncertainty(draw) for draw in draws]
    named = [draw.model_copy(update={"spec": replace_name(draw.spec, subject.name)}) for draw in draws]
    positive = missing_positive_controls([*named, *controls])
    return [*doubts, *doubts_of(certain, SUITE), *positive]


def _uncertain(draws: Sequence[DrawScores]) -> list[str]:
    """Return where attacks are uncertain, one sentence an attack: with many recoveries, one a cell is a page."""
    sentences = []
    for attack in dict.fromkeys(f.attack for draw in draws for f in draw.findings):
        sizes = [f.pool_size for draw in draws for f in draw.of(attack) if f.uncertain]
        if sizes:
            where = [
                f"{size} in {sizes.count(size)} of {counted(len(draws), 'draw')}"
                for size in sorted(set(sizes))
            ]
            sentences.append(
                f"{attack} is uncertain, what it found fits poorly or is not these images: at {', '.join(where)}"
            )
    return sentences


def _without_uncertainty(draw: DrawScores) -> DrawScores:
    findings = tuple(f.model_copy(update={"uncertain": False}) for f in draw.findings)
    return draw.model_copy(update={"findings": findings})


def replace_name(spec: SchemeSpec, name: str) -> SchemeSpec:
    """Return a spec under another name, for sentences only: no scheme of that name can be loaded."""
    return replace(spec, name=name)


def pictures_of(report: Report, first: ScoredDraw) -> Pictures:
    """Return the pictures of a report: plain images, ciphertexts and guesses of a few rows of the first draw."""
    draw, rows = first.draw, first.draw.rows[list(first.scores.pictured)]
    columns: dict[str, Images] = {
        "plain": draw.plain[rows],
        "sealed": load(draw.spec).picture(draw.sealed[rows]),
    }
    findings = [finding for finding in report.findings if finding.draw == draw.name]
    for attack in dict.fromkeys(finding.attack for finding in findings):
        shown = shown_finding(findings, report.verdict, attack)
        pictured = None if shown is None else first.pictures.get((attack, shown.pool_size))
        if shown is not None and pictured is not None:
            images, block = pictured
            caption = f"{attack}, {shown.pool_size} sealed" if shown.uses_pool else attack
            columns[caption] = move_of(shown).apply(images, block)
    return Pictures(columns)
