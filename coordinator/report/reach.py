"""How far a report's silence reaches: which attacks of the suite did not run to their end, and up to what pool.

"Not broken by suite/2 up to n" speaks of what the suite requires. For a required attack that was left out, crashed,
ran out of time or is uncertain about what it found, no other attack that ran at a larger pool can stand in.
"""

from __future__ import annotations

from coordinator.exchange.audit.suite1 import ATTACKS, ON_POOLS
from coordinator.report.records import Report


def unfinished_attacks(report: Report) -> list[str]:
    """Return the required attacks that ran to their end at no pool size in every draw.

    An attack that knows no way into the scheme (`idle` each time) is not among them: there was nothing to run.
    """
    unfinished = []
    for attack in ATTACKS:
        mine = [finding for finding in report.findings if finding.attack == attack]
        is_required = (
            bool(mine) or attack in ON_POOLS
        )  # those on one image are doubts if they were left out
        is_idle = bool(mine) and all(finding.idle for finding in mine)
        if is_required and not is_idle and not report.verdict.finished_at.get(attack):
            unfinished.append(attack)
    return unfinished


def attacked_up_to(report: Report) -> int:
    """Return the largest pool size that the required attacks on a pool reached, and were certain of what they found.

    Where all of them are idle or unfinished it is the largest size that any attack reached. Where one was uncertain
    at every size it is 0.
    """
    verdict, largest = report.verdict, [report.verdict.largest_pool]
    for attack in ON_POOLS:
        finished, uncertain = verdict.finished_at.get(attack, ()), verdict.uncertain_at.get(attack, ())
        if finished:
            largest.append(max((size for size in finished if size not in uncertain), default=0))
    return min(largest)


def tried_up_to(report: Report) -> int:
    """Return the largest pool size at which the required attacks on a pool ran to their end, certain or not.

    Where all of them are idle or unfinished it is the largest size that any attack reached, as in `attacked_up_to`.
    """
    finished_at = report.verdict.finished_at
    sizes = [max(finished_at[attack]) for attack in ON_POOLS if finished_at.get(attack)]
    return min([report.verdict.largest_pool, *sizes])
