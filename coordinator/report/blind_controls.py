"""The blind controls: whether a cloud showed what the hospital's own run of the same attacks shows.

They are further draws of the audited scheme, which the cloud cannot tell from the audited ones (docs/suite.md).
"""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.exchange.audit.scores import DrawScores, Finding
from coordinator.exchange.audit.suite1 import draws_needed, readable_by
from coordinator.exchange.audit.suite2 import broken_by
from coordinator.report.records import Control
from coordinator.report.verdict import judge

#: The name of the control that finds withheld successes.
BLIND = "blind"
#: How its message begins if the cloud withheld one.
CLOUD_FAILED = "the cloud failed blind controls"


def check_blind(draws: Sequence[DrawScores], suite: str) -> Control:
    """Check the cloud's guesses about blind controls against the hospital's own run of the same attacks on them.

    A blind control is a draw of the audited scheme that the cloud cannot tell from an audited one. Two things must
    hold. Where the hospital's run breaks one, the cloud's guesses of the same attack and pool size break it too. And
    where the hospital's run breaks as many of them as a verdict needs, at the largest pool, the audited draws are not
    reported as unbroken by that attack: both are drawn alike. Pictures that the second look reads in the negative or
    turned are held to the same: the cloud's guesses show them too, or break the draw outright.

    What an attack did not try counts for nothing, and asks for no verdict about it. So a cloud's word that an attack
    tried nothing is held to the same run: on a blind control, and on all audited draws.

    Args:
        draws: All scored draws.
        suite: The rule, by its name.
    """
    blind = [draw for draw in draws if draw.is_blind_control]
    if not any(draw.hospital_run for draw in blind):
        return Control(ok=False, message="not run")
    successes = [
        (draw, finding) for draw in blind for finding in draw.hospital_run if _succeeds(finding, suite)
    ]
    withheld = [
        f"{own.cell} in {draw.draw}" for draw, own in successes if not _shows_as_much(draw, own, suite)
    ]
    if withheld:
        return Control(
            ok=False,
            message=f"{CLOUD_FAILED}: the hospital's own run breaks or reads them and the cloud's guesses do "
            f"not: {', '.join(withheld)}",
        )
    # What an attack returns untried counts here as well: the hospital's own run returned the same.
    _, verdict = judge([draw for draw in draws if not draw.is_control], suite, name_untried=True)
    unreported = []
    for attack in dict.fromkeys(own.attack for _, own in successes):
        last = [own for draw in blind if (own := _at_largest(draw, attack)) is not None]
        breaks = sum(bool(broken_by(own, suite)) for own in last)
        shows = sum(_succeeds(own, suite) for own in last)
        needed = draws_needed(len(blind))
        is_reported = attack in verdict.broken_at or (breaks < needed and attack in verdict.readable_at)
        if shows >= needed and not is_reported:
            unreported.append(attack)
    if unreported:
        return Control(
            ok=False,
            message=f"{CLOUD_FAILED}: {', '.join(unreported)} breaks or reads them at the largest pool in the "
            "hospital's own run, and the cloud reports none of it of the audited draws, which are drawn alike",
        )
    if untried := _falsely_untried(draws, blind):
        return Control(
            ok=False,
            message=f"{CLOUD_FAILED}: it states that an attack tried nothing, and the hospital's own run attacked: "
            f"{', '.join(untried)}",
        )
    cells = list(dict.fromkeys(own.cell for _, own in successes))
    return Control(
        ok=True,
        message=f"{len(blind)} draws that the cloud could not tell from the audited ones; the hospital's own run "
        f"breaks or reads them by {', '.join(cells) or 'no attack'}"
        + ("; so do the cloud's guesses" if cells else ""),
    )


def _falsely_untried(draws: Sequence[DrawScores], blind: Sequence[DrawScores]) -> list[str]:
    """Return where the cloud states that an attack tried nothing, though the hospital's own run attacked to its end.

    One audited draw may hold nothing to begin with. All of them do not, where each blind control, drawn alike, does.
    """
    tried = [(draw, own) for draw in blind for own in draw.hospital_run if own.is_complete]
    false = [f"{own.cell} in {draw.draw}" for draw, own in tried if any(f.idle for f in _same(draw, own))]
    audited = [draw for draw in draws if not draw.is_control]
    for cell, own in {own.cell: own for _, own in tried}.items():
        stated = [finding for draw in audited for finding in _same(draw, own)]
        in_all = sum(other.cell == cell for _, other in tried) == len(blind)
        if in_all and stated and all(finding.idle for finding in stated):
            false.append(f"{cell} in every audited draw")
    return false


def _same(draw: DrawScores, own: Finding) -> list[Finding]:
    """Return the cloud's findings of the attack and pool size of one of the hospital's own."""
    return [finding for finding in draw.of(own.attack) if finding.pool_size == own.pool_size]


def _succeeds(finding: Finding, suite: str) -> bool:
    """Return whether guesses break a draw, or can be read in the negative or turned."""
    return bool(broken_by(finding, suite) or readable_by(finding))


def _shows_as_much(draw: DrawScores, own: Finding, suite: str) -> bool:
    """Return whether the cloud's guesses break a draw where the hospital's do; or read it, where those only do so."""
    broken = bool(broken_by(own, suite))
    return any(broken_by(f, suite) if broken else _succeeds(f, suite) for f in _same(draw, own))


def _at_largest(draw: DrawScores, attack: str) -> Finding | None:
    """Return what the hospital's own run of an attack found at the largest pool, if it ran."""
    mine = [finding for finding in draw.hospital_run if finding.attack == attack]
    return max(mine, key=lambda finding: finding.pool_size, default=None)
