"""The verdict over all draws of an audit (docs/suite.md), by the rule that the scores name: suite/1 or suite/2.

Nothing here softens or strengthens a finding: the scheme is broken where the rule says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from coordinator.exchange.audit.scores import DrawScores, Role
from coordinator.exchange.audit.suite1 import draws_needed, is_above_chance, readable_by
from coordinator.exchange.audit.suite2 import broken_by
from coordinator.report.records import JudgedFinding, Verdict

#: How the names of sets under throwaway keys begin, where the name says it. No training used those keys.
FURTHER_DRAWS = "audit-"
#: Whether a finding counts: as a break, or by the second look.
Succeeds = Callable[[JudgedFinding], bool]


def judge(
    draws: Sequence[DrawScores], suite: str, *, name_untried: bool = False
) -> tuple[list[JudgedFinding], Verdict]:
    """Return the findings and the verdict over the audit's draws.

    An attack breaks the scheme at pool size n if it does so in at least two thirds of the draws at n, and the next
    larger n that decides does not refute it. A crash counts as not broken. An n decides in two cases: enough draws
    are broken, or so many withstood that too few are left. A crash, a time-out, an attack that did nothing and one
    that is uncertain (what it found fits too poorly) say nothing about resistance. Attacks on a training (T5) are
    judged over the draws of the training's own key.

    An attack that tried nothing returns the ciphertext's picture, and the finding says what that shows. Whatever it
    shows is a break all the same. But the attack is named as breaking the scheme only where no attack that tried
    something breaks it with as few images: the picture is that of `as_is`.

    Linkability is separate from the verdict: in two thirds of the draws, ciphertexts name their own image by what
    the scheme leaves unchanged. It is None where that was not measured. What is readable in the negative, turned or
    (under suite/2) shifted is counted over draws and pool sizes as breaks are. Under suite/2 it is a break as well.

    Args:
        draws: The audit's draws, without the controls.
        suite: The rule, by its name.
        name_untried: Name attacks that tried nothing wherever their guesses break the scheme: the earlier way.
    """
    findings = [_judged(draw, index, suite) for draw in draws for index in range(len(draw.findings))]
    attacks = list(dict.fromkeys(f.attack for f in findings))
    broken_at = _smallest_pools(draws, findings, lambda finding: finding.broken)
    readable_at = _smallest_pools(draws, findings, lambda finding: bool(finding.readable_by))
    if not name_untried:
        broken_at = _by_trying(broken_at, draws, findings, lambda finding: finding.broken)
        readable_at = _by_trying(readable_at, draws, findings, lambda finding: bool(finding.readable_by))
    has_second_looks = bool(draws) and all(draw.second_looks is not None for draw in draws)
    finished_at = {attack: tuple(finished_sizes(draws, attack)) for attack in attacks}
    smallest = min(broken_at.values(), default=None)
    first = [attack for attack, size in broken_at.items() if size == smallest]
    seconds = [f.seconds for f in findings if f.attack in first and f.pool_size == smallest]
    rates = [draw.linkable for draw in draws]
    linkable_draws = sum(is_above_chance(rate) for rate in rates if rate is not None)
    verdict = Verdict(
        broken=bool(broken_at),
        broken_by=tuple(sorted(broken_at, key=lambda attack: (broken_at[attack], attack))),
        broken_at=broken_at,
        smallest_pool=smallest,
        largest_pool=max((size for sizes in finished_at.values() for size in sizes), default=0),
        finished_at=finished_at,
        pool_attacked=any(finished_at[f.attack] for f in findings if f.uses_pool),
        of_training=tuple(sorted({f.attack for f in findings if f.tier == "T5"})),
        seconds=median(seconds) if seconds else None,
        draws=len(draws),
        draws_needed=draws_needed(len(draws)),
        linkable=None if not draws or None in rates else linkable_draws >= draws_needed(len(draws)),
        linkable_draws=linkable_draws,
        readable=bool(readable_at) if readable_at or has_second_looks else None,
        readable_at=readable_at,
        uncertain_at=_uncertain_sizes(draws, findings),
    )
    return findings, verdict


def draws_for(draws: Sequence[DrawScores], attack: str) -> list[DrawScores]:
    """Return the draws in which an attack can succeed.

    These are all draws. An attack on a training is the exception: further draws do not have the training's key.
    """
    tiers = {finding.tier for draw in draws for finding in draw.of(attack)}
    return [draw for draw in draws if "T5" not in tiers or not _is_further(draw.set_name, draw.role)]


def _is_further(set_name: str, role: Role | None) -> bool:
    """Return whether a draw is under a throwaway key, by its role or, where that is not recorded, by its name."""
    return set_name.startswith(FURTHER_DRAWS) if role is None else role != "own_key"


def finished_sizes(draws: Sequence[DrawScores], attack: str) -> list[int]:
    """Return the pool sizes, rising, at which an attack ran to its end in every draw in which it can succeed."""
    candidates = draws_for(draws, attack)
    done = [f.pool_size for draw in candidates for f in draw.of(attack) if f.is_complete]
    return sorted(size for size in set(done) if done.count(size) >= len(candidates))


def _judged(draw: DrawScores, index: int, suite: str) -> JudgedFinding:
    finding = draw.findings[index]
    letters = broken_by(finding, suite)
    return JudgedFinding(
        **{name: getattr(finding, name) for name in finding.model_fields_set},
        draw=draw.draw,
        broken_by=letters,
        broken=bool(letters),
        readable_by=readable_by(finding),
        baseline_ssim={name: summary.median for name, summary in draw.baselines.items()},
    )


def _smallest_pools(
    draws: Sequence[DrawScores], findings: Sequence[JudgedFinding], succeeds: Succeeds
) -> dict[str, int]:
    """Return the smallest pool size at which each attack succeeds over the draws; others are left out."""
    smallest = {}
    for attack in dict.fromkeys(f.attack for f in findings):
        candidates = draws_for(draws, attack)
        names = {draw.draw for draw in candidates}
        mine = [f for f in findings if f.attack == attack and f.draw in names]
        size = _smallest_pool(mine, len(candidates), succeeds)
        if size is not None:
            smallest[attack] = size
    return smallest


def _by_trying(
    sizes: dict[str, int],
    draws: Sequence[DrawScores],
    findings: Sequence[JudgedFinding],
    succeeds: Succeeds,
) -> dict[str, int]:
    """Return the sizes at which attacks succeed by trying something.

    What an attack returned untried counts only if no attack succeeds by trying with as few images. So the smallest of
    all sizes is the same.
    """
    tried = _smallest_pools(draws, findings, lambda finding: succeeds(finding) and not finding.idle)
    least = min(tried.values(), default=None)
    return {
        attack: tried.get(attack, size) if least is not None and least <= size else size
        for attack, size in sizes.items()
        if attack in tried or least is None or size < least
    }


def _uncertain_sizes(
    draws: Sequence[DrawScores], findings: Sequence[JudgedFinding]
) -> dict[str, tuple[int, ...]]:
    """Return the pool sizes at which each attack neither breaks enough draws nor surely failed in enough of them."""
    sizes_of = {}
    for attack in dict.fromkeys(f.attack for f in findings):
        candidates = {draw.draw for draw in draws_for(draws, attack)}
        mine = [f for f in findings if f.attack == attack and f.draw in candidates]
        sizes = []
        for size in sorted({f.pool_size for f in mine if f.uncertain}):
            here = [f for f in mine if f.pool_size == size]
            broken = sum(f.broken for f in here)
            withstood = sum(f.is_complete and not f.broken and not f.uncertain for f in here)
            needed = draws_needed(len(candidates))
            if broken < needed and withstood <= len(candidates) - needed:
                sizes.append(size)
        if sizes:
            sizes_of[attack] = tuple(sizes)
    return sizes_of


def _smallest_pool(findings: Sequence[JudgedFinding], draws: int, succeeds: Succeeds) -> int | None:
    """Return the smallest pool size at which one attack succeeds over so many draws; None if it does at none."""
    sizes = sorted({f.pool_size for f in findings}) if draws else []
    by_size = [[f for f in findings if f.pool_size == size] for size in sizes]
    for index, size in enumerate(sizes):
        enough = sum(map(succeeds, by_size[index])) >= draws_needed(draws)
        if enough and not _is_refuted(by_size[index + 1 :], draws, succeeds):
            return size
    return None


def _is_refuted(larger: Sequence[Sequence[JudgedFinding]], draws: int, succeeds: Succeeds) -> bool:
    """Return whether the first larger pool size that decides says that a smaller one was a lucky draw."""
    needed = draws_needed(draws)
    for findings in larger:
        complete = [f for f in findings if f.is_complete and (succeeds(f) or not f.uncertain)]
        broken = sum(map(succeeds, complete))
        if broken >= needed:
            return False
        if len(complete) - broken > draws - needed:
            return True
    return False
