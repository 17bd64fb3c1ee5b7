"""Where an audit falls short of what the suite asks for. The doubts are printed beside the verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from coordinator.exchange.audit.control_sets import PREFIX
from coordinator.exchange.audit.scores import DrawScores, Finding, Scores
from coordinator.exchange.audit.suite1 import ATTACKS, DRAWS, GALLERY, MIN_SCORED_ROWS, ROWS, readable_by
from coordinator.exchange.audit.suite2 import broken_by
from coordinator.report.verdict import finished_sizes
from coordinator.report.wording import listed
from crypto.plural import agreeing, counted
from crypto.scheme import load

#: What a finding is called whose attack says so itself; usually its fit has the words already.
_UNCERTAIN = "attack uncertain"


def doubts_of(draws: Sequence[DrawScores], suite: str) -> list[str]:
    """Return the doubts about an audit, one sentence each.

    Args:
        draws: The audit's draws, without the controls.
        suite: The rule that they are judged by.
    """
    findings = [finding for draw in draws for finding in draw.findings]
    return [
        *_weaknesses(draws),
        *_missing_attacks(draws, suite),
        *_small_numbers(draws),
        *_idle_attacks(findings),
        *_notes(draws),
    ]


def doubts_of_origin(scores: Scores) -> list[str]:
    """Return what is not known of who wrote the scores, and of a cloud's honesty, one sentence each."""
    doubts = []
    if scores.signature is None:
        doubts.append(
            "the scores are unsigned: nothing shows who wrote them, or whether they were changed afterwards"
        )
    blind = [draw for draw in scores.draws if draw.is_blind_control]
    own = [finding for draw in blind for finding in draw.hospital_run]
    if blind and not any(broken_by(finding, scores.suite) or readable_by(finding) for finding in own):
        doubts.append(
            f"the hospital's own run breaks none of the {len(blind)} blind controls, so they held no success that "
            "the cloud could withhold"
        )
    doubts += _unbelieved_by_hospital(scores)
    if blind:
        names = [
            draw.set_name.removeprefix(PREFIX) for draw in scores.draws if draw.set_name.startswith(PREFIX)
        ]
        doubts.append(
            f"a cloud can tell the controls {', '.join(sorted(names))} from the audited draws, by their schemes or "
            "ciphertexts: they show that its attacks ran and what the score makes of noise; what it withheld, only "
            "the blind controls show"
        )
    return doubts


def _unbelieved_by_hospital(scores: Scores) -> list[str]:
    """Return where the hospital's own run says that an attack is uncertain, and the cloud's guesses do not.

    Confidence is the word of whoever ran the attack. That of the blind controls, which are drawn alike, is the
    hospital's own.
    """
    doubts = []
    own = [finding for draw in scores.draws for finding in draw.hospital_run if not finding.error]
    for cell in dict.fromkeys((f.attack, f.pool_size) for f in own):
        mine = [f for f in own if (f.attack, f.pool_size) == cell]
        cloud = [f for draw in scores.audited for f in draw.findings if (f.attack, f.pool_size) == cell]
        believed = [
            f for f in cloud if f.is_complete and not f.uncertain and not broken_by(f, scores.suite)
        ]
        if believed and all((f.uncertain or f.idle) and not broken_by(f, scores.suite) for f in mine):
            words = "did not attack" if all(f.idle for f in mine) else "is uncertain"
            doubts.append(
                f"{mine[0].cell} {words} in the hospital's own run on the blind controls, and the cloud states "
                f"otherwise in {len(believed)} of {counted(len(cloud), 'draw')}: that nothing broke there says "
                "nothing"
            )
    return doubts


def _weaknesses(draws: Sequence[DrawScores]) -> list[str]:
    """Return what is known of the schemes from attacks that no audit runs."""
    specs = {draw.spec.name: draw.spec for draw in draws}
    weaknesses = {name: load(spec).weakness for name, spec in specs.items()}
    return [f"{name}: {words}" for name, words in weaknesses.items() if words]


def _missing_attacks(draws: Sequence[DrawScores], suite: str) -> list[str]:
    doubts = []
    for attack in ATTACKS:
        findings = [finding for draw in draws for finding in draw.of(attack)]
        if not findings:
            doubts.append(f"{attack}, which {suite} requires, was not run")
        elif not finished_sizes(draws, attack) and not all(f.idle for f in findings):
            doubts.append(f"{attack} finished at no pool size in every draw")
    return doubts


def _small_numbers(draws: Sequence[DrawScores]) -> list[str]:
    doubts = []
    if len(draws) < DRAWS:
        doubts.append(f"{counted(len(draws), 'draw')} of key and pool instead of {DRAWS}")
    rows = min((draw.rows for draw in draws), default=0)
    if rows < ROWS:
        doubts.append(f"{counted(rows, 'scored row')} a draw instead of {ROWS}")
    measured = [f.figures for draw in draws for f in draw.findings if f.figures is not None]
    textured = min((figures.visible.n for figures in measured), default=rows)
    if textured < MIN_SCORED_ROWS <= rows:
        doubts.append(
            f"{textured} of the scored rows of a draw {agreeing(textured, 'has', 'have')} texture: K and V do "
            "not count there"
        )
    gallery = min((draw.gallery for draw in draws), default=0)
    if gallery < GALLERY:
        doubts.append(f"a gallery of {gallery} images instead of {GALLERY}")
    return doubts


def _idle_attacks(findings: Sequence[Finding]) -> list[str]:
    """Return which attacks tried nothing, one sentence for all that did so as often and for the same reason."""
    times = Counter((f.attack, f.note) for f in findings if f.idle)
    runs = Counter(f.attack for f in findings)
    alike: dict[tuple[int, int, str], list[str]] = {}
    for (attack, note), n in times.items():
        alike.setdefault((n, runs[attack], note), []).append(attack)
    return [
        f"{listed(attacks)} did not attack, {n} of {counted(of, 'time')}"
        f"{' each' if len(attacks) > 1 else ''}: "
        f"{note or agreeing(len(attacks), 'it does not say why', 'they do not say why')}"
        for (n, of, note), attacks in alike.items()
    ]


def _notes(draws: Sequence[DrawScores]) -> list[str]:
    """Return crashes and uncertain findings, one sentence each, and what else attacks noted, one for all alike."""
    doubts, noted = [], dict[tuple[str, str], dict[str, list[int]]]()
    for draw in draws:
        for finding in draw.findings:
            if finding.idle:
                continue
            if finding.error:
                doubts.append(f"{finding.cell} crashed in {draw.draw}: {finding.error}")
                continue
            if finding.uncertain:
                words = finding.fit if _UNCERTAIN in finding.fit else f"{_UNCERTAIN}: {finding.fit}"
                doubts.append(f"{finding.cell} in {draw.draw}: {words}")
            if finding.note:
                sizes_by_draw = noted.setdefault((finding.attack, finding.note), {})
                sizes_by_draw.setdefault(draw.draw, []).append(finding.pool_size)
    for (attack, note), sizes_by_draw in noted.items():
        alike: dict[tuple[int, ...], list[str]] = {}
        for name, pool_sizes in sizes_by_draw.items():
            alike.setdefault(tuple(pool_sizes), []).append(name)
        doubts += [
            f"{attack} at {listed([str(size) for size in sizes])} in {listed(names)}: {note}"
            for sizes, names in alike.items()
        ]
    return doubts
