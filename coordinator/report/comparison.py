"""What differs between two reports: scheme, images to break, accuracy, links, and who ran the attacks."""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.report.reach import attacked_up_to, unfinished_attacks
from coordinator.report.records import Report
from coordinator.report.verdict_text import OWN_RUN, attacked_by, headline, linkability, uncertain_attacks
from coordinator.report.wording import images, percent, score, seconds


@dataclass(frozen=True)
class Fact:
    """One fact of two reports, in words."""

    name: str
    first: str
    second: str

    @property
    def differs(self) -> bool:
        """Whether the two reports do not say the same."""
        return self.first != self.second


def compare(first: Report, second: Report) -> list[Fact]:
    """Return the facts of two reports side by side, those that are the same too. An invalid report has no verdict."""
    one, two = _facts(first), _facts(second)
    return [Fact(name, one[name], two[name]) for name in one]


def cautions(first: Report, second: Report) -> list[str]:
    """Return why two reports may not be comparable, one sentence each."""
    lines = []
    if first.pool.shape != second.pool.shape or first.scheme.block != second.scheme.block:
        lines.append(
            "The images or the blocks are of different sizes, so the images to break are not comparable."
        )
    if _attacks(first) != _attacks(second) or _sizes(first) != _sizes(second):
        lines.append(
            "Different attacks or pool sizes were run: what was not attacked is not known to withstand."
        )
    if first.suite != second.suite:
        lines.append(f"They were judged by different rules: {first.suite} and {second.suite}.")
    if first.attacked_by != second.attacked_by:
        lines.append(
            "Others ran the attacks: a cloud can withhold a success, a hospital's own audit cannot."
        )
    lines.append(
        "A report.json has no signature of its own: check each against its scores (report SCORES --check REPORT)."
    )
    return [*lines, "Whether both are about the same images is not in the reports."]


def _facts(report: Report) -> dict[str, str]:
    verdict, training, scheme = report.verdict, report.training, report.scheme
    if not report.valid:
        to_break = "no verdict: invalid"
    elif verdict.smallest_pool is not None:
        to_break = images(verdict.smallest_pool)
    else:
        to_break = _no_break(report)
    height, width, channels = report.pool.shape
    options = "options not recorded" if scheme.options is None else scheme.options_text or "no options"
    return {
        "study": report.study,
        "created": report.created,
        "scored": report.scored_at or "not recorded",
        "scheme": f"{scheme.name}, version {scheme.version}, blocks of {scheme.block}, "
        f"key scope {scheme.key_scope}, {options}",
        "rule": report.suite,
        "verdict": headline(report).sentence,
        "images to break": to_break,
        "time to break": seconds(verdict.seconds) if report.valid else "no verdict: invalid",
        "linkable": linkability(report) if report.valid else "no verdict: invalid",
        "accuracy, sealed": percent(training.test_accuracy) if training else "no training",
        "accuracy, plain": percent(training.plain_accuracy) if training else "no training",
        "test AUC": score(training.test_auc) if training else "no training",
        "attacked by": attacked_by(report),
        "attacks": ", ".join(_attacks(report)),
        "pool sizes": ", ".join(map(str, _sizes(report))),
        "draws": str(verdict.draws),
        "pool": f"{images(report.pool.images)}, {height}×{width}×{channels}, hospitals: {report.pool.parties}",
        "caveats": str(len(report.doubts)),
        "scores signed by": report.signer.fingerprint if report.signer else "unsigned",
    }


def _no_break(report: Report) -> str:
    """Return in few words what the headline says where no break counts."""
    verdict = report.verdict
    if verdict.readable_at:
        return f"readable with {images(min(verdict.readable_at.values()))}"
    if not verdict.largest_pool or not verdict.pool_attacked:
        return "nothing known"
    if uncertain_attacks(verdict):
        return "attack uncertain"
    if unfinished_attacks(report):
        return "no verdict: attacks not run to their end"
    # Whoever else ran the attacks can have kept a break back: that is not "not broken".
    words = "not broken" if report.attacked_by in OWN_RUN else "no break reported"
    return f"{words} up to {images(attacked_up_to(report))}"


def _attacks(report: Report) -> list[str]:
    return list(dict.fromkeys(finding.attack for finding in report.findings))


def _sizes(report: Report) -> list[int]:
    return sorted({finding.pool_size for finding in report.findings if finding.uses_pool})
