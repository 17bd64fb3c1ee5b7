"""Which attacks explain a break, and which only count as one: the headline names the former.

By the rule of the suite, an attack breaks a scheme by K (the key opens images), V (a guess shows more than any
baseline) or R (a guess names its own image among others). R alone can be what the scheme leaves of an image in its
ciphertext: then `as_is` and `leading_bit` break it, though they undo nothing and show nothing. An attack that tried
nothing returns the ciphertext's picture, and its R is that of `as_is`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from coordinator.exchange.audit.suite1 import MARGIN, draws_needed
from coordinator.report.records import JudgedFinding, Report
from coordinator.report.rows import Row, rows_of
from coordinator.report.wording import images, listed, seconds

#: What the second look of suite/2 looks at, besides guesses as they are.
ANY_LOOK = "in the negative, turned or shifted"


@dataclass(frozen=True)
class Breakers:
    """The attacks that break a scheme, each list in the order of the report.

    Attributes:
        named: The attacks that the headline names, all at the smallest pool size: those that open keys or show
            pictures. If there is none, those that name images.
        by_name_only: Whether these only name images.
        others: Further attacks at the smallest pool size: they name images only, or tried nothing.
        later: Attacks that open keys or show pictures at larger pools, if those named do not.
    """

    named: tuple[str, ...]
    by_name_only: bool
    others: tuple[str, ...]
    later: tuple[str, ...]


def breakers_of(report: Report) -> Breakers:
    """Return which attacks explain the break of a report that has one."""
    verdict = report.verdict
    first = [attack for attack in verdict.broken_by if verdict.broken_at[attack] == verdict.smallest_pool]
    showing = [attack for attack in verdict.broken_by if _shows(report, attack)]
    tried = [attack for attack in first if not all(f.idle for f in _breaks(report, attack))]
    named = [attack for attack in first if attack in showing] or tried or first
    by_name_only = not set(named) & set(showing)
    return Breakers(
        named=tuple(named),
        by_name_only=by_name_only,
        others=tuple(attack for attack in first if attack not in named),
        later=tuple(attack for attack in showing if attack not in first) if by_name_only else (),
    )


def needs_look(report: Report, row: Row) -> bool:
    """Return whether the break of a row counts only because of pictures in the negative, turned or shifted.

    An attack on a training is judged by fewer draws than others: those of the training's own key.
    """
    of_training = row.attack in report.verdict.of_training
    needed = draws_needed(row.draws) if of_training else report.verdict.draws_needed
    return row.broken - row.broken_by_look < needed


def break_sentence(report: Report) -> str:
    """Return the sentences that say which attack breaks the scheme of a report, from how many images."""
    breakers, verdict = breakers_of(report), report.verdict
    named = breakers.named
    size = verdict.smallest_pool or 0
    sentence = f"{listed(named)} {'breaks' if len(named) == 1 else 'break'} {report.scheme.name} "
    sentence += f"with {images(size, 'sealed')}"
    if set(named) <= set(verdict.of_training):
        sentence += " and what the cloud sees of the training"
    rows = [row for row in rows_of(report) if row.counts and row.size == size and row.attack in named]
    if rows and all(needs_look(report, row) for row in rows):
        sentence += f", with pictures {ANY_LOOK}"
    spent = _seconds(report, named)
    if spent is not None:
        # Every attack runs on one thread, whatever machine writes the report.
        sentence += f", in {seconds(spent)} on one core"
    if breakers.by_name_only:
        sentence += f", by R alone: {_its(named)} guesses name the right images among others"
        sentence += f". {shown}" if (shown := _shown_by_ciphertext(report)) else ", and do not show them"
    if breakers.later:
        words = [
            f"{attack} from {images(verdict.broken_at[attack], 'sealed')}" for attack in breakers.later
        ]
        sentence += f". Pictures or keys are recovered by {listed(words)}"
    return f"{sentence}."


def also_at_smallest(report: Report) -> list[str]:
    """Return sentences on the attacks that break at the smallest pool size, and that the headline does not name."""
    others = breakers_of(report).others
    idle = [attack for attack in others if all(f.idle for f in _breaks(report, attack))]
    idle += [
        row.attack
        for row in rows_of(report)
        if row.size == report.verdict.smallest_pool and row.is_untried and row.broken and not row.counts
    ]
    naming = [attack for attack in others if attack not in idle]
    sentences = []
    if naming:
        shown = "" if _shown_by_ciphertext(report) else ", and do not show them"
        sentences.append(
            f"At the same pool size, {listed(naming)} {'breaks' if len(naming) == 1 else 'break'} it by R alone: "
            f"{_its(naming)} guesses name the right images among others{shown}."
        )
    if idle:
        returned = "it returns" if len(idle) == 1 else "they return"
        sentences.append(
            f"{listed(idle)} tried nothing: the ciphertext as it is, which {returned}, names the right images among "
            "others (R)."
        )
    return sentences


def _shown_by_ciphertext(report: Report) -> str:
    """Return a sentence if the ciphertext is nearer to the picture than other images are; else nothing.

    V asks a guess to exceed the ciphertext, too. So it can never hold for a ciphertext that is the picture already.
    """
    pairs = []
    for draw in report.draws:
        others = [figure.median for name, figure in draw.baselines.items() if name != "ciphertext"]
        if "ciphertext" in draw.baselines and others:
            pairs.append((draw.baselines["ciphertext"].median, max(others)))
    if not pairs or 2 * sum(own >= other + MARGIN for own, other in pairs) < len(pairs):
        return ""
    own, other = (sorted(values)[len(pairs) // 2] for values in zip(*pairs, strict=True))
    return (
        f"The ciphertext itself shows the picture: its median SSIM is {own:.2f}, and that of other images at most "
        f"{other:.2f}. V does not count that: it asks a guess for more than the ciphertext shows"
    )


def _its(attacks: Sequence[str]) -> str:
    return "its" if len(attacks) == 1 else "their"


def _breaks(report: Report, attack: str) -> list[JudgedFinding]:
    """Return the findings by which an attack breaks the scheme at its smallest pool size."""
    size = report.verdict.broken_at[attack]
    return [f for f in report.findings if (f.attack, f.pool_size) == (attack, size) and f.broken]


def _shows(report: Report, attack: str) -> bool:
    """Return whether K or V holds in at least half of the draws in which an attack breaks the scheme."""
    findings = _breaks(report, attack)
    return 2 * sum(bool({"K", "V"} & set(f.broken_by)) for f in findings) >= len(findings)


def _seconds(report: Report, attacks: Sequence[str]) -> float | None:
    """Return the median time of these attacks at the smallest pool size; None if the report holds no findings."""
    size = report.verdict.smallest_pool
    spent = [f.seconds for f in report.findings if f.attack in attacks and f.pool_size == size]
    return median(spent) if spent else None
