"""The verdict in words. The HTML page, the terminal and docs/results all use `headline`, so they say the same.

No sentence here calls a scheme secure: "not broken" means that these attacks failed at these pool sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from coordinator.exchange.audit.suite2 import counts_looks
from coordinator.report.blind_controls import BLIND, CLOUD_FAILED
from coordinator.report.breakers import ANY_LOOK, also_at_smallest, break_sentence, breakers_of, needs_look
from coordinator.report.inversion_bound import inversion_bound
from coordinator.report.reach import attacked_up_to, tried_up_to, unfinished_attacks
from coordinator.report.records import Report, Training, Verdict
from coordinator.report.repeat import mends
from coordinator.report.rows import Row, rows_of
from coordinator.report.wording import images, listed, percent, score, span
from crypto.errors import CipherwardError
from crypto.plural import agreeing, counted
from crypto.scheme import kept_by

#: Who ran the attacks on images of their own: they withhold nothing from themselves.
OWN_RUN = ("hospital", "library")


@dataclass(frozen=True)
class Headline:
    """A verdict in one sentence. `open` means not broken, or nothing known. Readable pictures are no open state."""

    state: Literal["invalid", "broken", "open"]
    sentence: str


def headline(report: Report) -> Headline:
    """Return the verdict of a report in one sentence."""
    found = _found(report)
    if report.valid and report.defects:
        # Whoever needs no attack needs no pool either; what the attacks found stands behind it.
        first = "; ".join(report.defects)
        return Headline("broken", f"Broken without an attack: {first}. By the attacks: {found.sentence}")
    return found


def _found(report: Report) -> Headline:
    """Return what controls and attacks say."""
    verdict = report.verdict
    if not report.valid:
        failed = report.failed_controls
        if BLIND in failed and report.controls[BLIND].message.startswith(CLOUD_FAILED):
            others = [name for name in failed if name != BLIND]
            also = f" Other controls that failed: {listed(others)}." if others else ""
            return Headline("invalid", f"INVALID: {CLOUD_FAILED}.{also}")
        which = "a control failed" if len(failed) == 1 else f"{len(failed)} controls failed"
        return Headline("invalid", f"INVALID: {which}: {listed(failed)}.")
    if verdict.smallest_pool is not None:
        return Headline("broken", f"Broken. {break_sentence(report)}")
    if verdict.readable_at:
        smallest = min(verdict.readable_at.values())
        first = sorted(a for a, size in verdict.readable_at.items() if size == smallest)
        return Headline(
            "broken",
            f"Readable. {listed(first)} {'shows' if len(first) == 1 else 'show'} pictures in the negative or turned, "
            f"with {images(smallest, 'sealed')}.",
        )
    if not verdict.largest_pool:
        return Headline("open", "Nothing is known: no attack ran to its end.")
    if not verdict.pool_attacked:
        return Headline(
            "open", "Nothing is known about a pool: no attack that can use a pool ran to its end."
        )
    return Headline("open", _no_break(report))


def _no_break(report: Report) -> str:
    """Return what may be said where no break was found: it depends on who ran the attacks.

    A cloud can withhold every success of one scheme, so its silence is no finding of ours.
    """
    uncertain = uncertain_attacks(report.verdict)
    if uncertain:
        reach = images(tried_up_to(report), "sealed")
        names = [f"{attack} at {images(max(sizes))}" for attack, sizes in uncertain.items()]
        return (
            f"Attack uncertain: what {listed(names)} found cannot be believed. That says nothing about "
            f"{report.scheme.name}. No break was found up to {reach}."
        )
    reach = images(attacked_up_to(report), "sealed")
    unfinished = unfinished_attacks(report)
    if unfinished:
        whose = "its" if len(unfinished) == 1 else "their"
        return (
            f"No verdict by {report.suite}: {listed(unfinished)} did not run to {whose} end in every draw. No break "
            f"was reported by other attacks, up to {reach}."
        )
    if report.attacked_by in OWN_RUN:
        if not report.scheme.version:
            return f"Not broken by {report.suite} up to {reach}; no attack was written for {report.scheme.name}."
        return f"Not broken by {report.suite} up to {reach}."
    if report.attacked_by is None:
        return f"No break was reported, up to {reach}."
    return f"The cloud reported no break, up to {reach}."


def uncertain_attacks(verdict: Verdict) -> dict[str, tuple[int, ...]]:
    """Return the attacks that are uncertain at the largest pool size at which they ran to their end, with sizes."""
    return {
        attack: sizes
        for attack, sizes in verdict.uncertain_at.items()
        if max(sizes) >= max(verdict.finished_at.get(attack, ()), default=0)
    }


def attacked_by(report: Report) -> str:
    """Return one sentence on who ran the attacks."""
    who = {
        "hospital": "The attacks were run by the hospital itself.",
        "cloud": "The attacks' results were reported by the cloud. A cloud can withhold a success; only the "
        "hospital's own audit (cipherward-party audit) shows that none was.",
        "simulation": "Hospital and cloud were simulated on one machine; what the cloud would report is shown.",
        "library": "The attacks were run by whoever handed over the scheme, in one process with its keys and images.",
    }
    return who.get(report.attacked_by or "", "Who ran the attacks is not recorded.")


def reasons(report: Report, rows: Sequence[Row]) -> list[str]:
    """Return the sentences under the headline: what broke the scheme, or the bounds of what was not observed."""
    verdict = report.verdict
    sentences = [attacked_by(report)]
    sentences += [_break_of(row) for row in rows if row.counts and row.size == verdict.smallest_pool]
    sentences += _further_breaks(report)
    if not verdict.broken:
        sentences += _bounds_in_words(report, rows)
    return [*sentences, *early_breaks(report, rows)]


def early_breaks(report: Report, rows: Sequence[Row]) -> list[str]:
    """Return a sentence on draws that were broken, too few to count: no verdict, but no reader should miss it."""
    early: dict[str, Row] = {}
    for row in rows:
        if (
            row.broken
            and not row.is_untried
            and row.size < report.verdict.broken_at.get(row.attack, row.size + 1)
        ):
            early.setdefault(row.attack, row)
    words = [f"{row.attack} at {images(row.size)} ({row.broken} of {row.draws})" for row in early.values()]
    return [f"Some draws were broken, but too few to count as a break: {listed(words)}."] if words else []


def _further_breaks(report: Report) -> list[str]:
    """Return sentences on the attacks that break the scheme, and that the headline does not name."""
    verdict = report.verdict
    if verdict.smallest_pool is None:
        return []
    named = breakers_of(report).later
    later = [
        f"{attack} from {images(size)}"
        for attack, size in verdict.broken_at.items()
        if size != verdict.smallest_pool and attack not in named
    ]
    return [*also_at_smallest(report), *([f"Also broken by {listed(later)}."] if later else [])]


def _break_of(row: Row) -> str:
    """Return what one attack reached at the smallest pool size that breaks the scheme."""
    words = []
    opened, key_ssim = row.breaks_by("K"), row.key_ssim
    if opened and key_ssim is not None:
        where = (
            ""
            if opened == row.draws
            else f", at least .90 as the rule asks in {opened} of {counted(row.draws, 'draw')}"
        )
        words.append(f"the recovered key opens other images at median SSIM {score(key_ssim)} (K{where})")
    look_r, look_v = _by_look(row, "R"), _by_look(row, "V")
    reidentified = row.second_reidentified if look_r else row.reidentified
    visible = row.second_visible if look_v else row.visible
    if row.breaks_by("R") and reidentified:
        words.append(
            f"{percent(reidentified.rate)} of its guesses name the right image of the gallery (R{look_r})"
        )
    if row.breaks_by("V") and visible:
        words.append(f"{percent(visible.rate)} show more of the plain image than any baseline (V{look_v})")
    sentence = f"{row.attack}, {row.broken} of {counted(row.draws, 'draw')}: {listed(words)}."
    if key_ssim is not None and not opened:
        sentence += (
            " K failed in every draw: the recovered key opens other images at median SSIM "
            f"{score(key_ssim)}, below .90."
        )
    elif key_ssim is not None and 2 * opened < row.draws:
        sentence += f" K mostly failed: in {row.draws - opened} of {counted(row.draws, 'draw')}."
    return sentence


def _by_look(row: Row, letter: str) -> str:
    """Return words for R or V that break mostly by the second look; "" where the declared orbit is enough."""
    return f", {ANY_LOOK}" if 2 * row.breaks_by_look(letter) > row.breaks_by(letter) else ""


def upper_bounds(report: Report, rows: Sequence[Row]) -> tuple[float, float] | None:
    """Return the largest upper bounds of R and V, each attack at the largest pool size at which it ran to its end.

    Under suite/2 the second look's rates count as well. Pool sizes at which an attack is uncertain do not count. None
    if nothing was scored.
    """
    finished = report.verdict.finished_at
    uncertain = report.verdict.uncertain_at
    largest = {
        row.attack: row
        for row in rows
        if row.scored
        and row.size in finished.get(row.attack, ())
        and row.size not in uncertain.get(row.attack, ())
    }
    reidentified = [rate.high for row in largest.values() if (rate := row.reidentified)]
    visible = [rate.high for row in largest.values() if (rate := row.visible)]
    if not reidentified or not visible:
        return None
    if counts_looks(report.suite):
        reidentified += [rate.high for row in largest.values() if (rate := row.second_reidentified)]
        visible += [rate.high for row in largest.values() if (rate := row.second_visible)]
    return max(reidentified), max(visible)


def _bounds_in_words(report: Report, rows: Sequence[Row]) -> list[str]:
    bounds = upper_bounds(report, rows)
    if bounds is None:
        return []
    looks = f", {ANY_LOOK} as well" if counts_looks(report.suite) else ""
    return [
        f"95 % upper bounds{looks}, each attack at its largest pool: at most {percent(bounds[0])} of guesses "
        f"name the right image of the gallery (R), and at most {percent(bounds[1])} show more of the plain image "
        "than any baseline (V)."
    ]


def linkability(report: Report) -> str:
    """Return one sentence on whether ciphertexts name their own image without any key."""
    kept = report.scheme.kept or kept_by(report.scheme.name)
    rates = [draw.linkable for draw in report.draws if draw.linkable is not None]
    if report.verdict.linkable is None or kept is None or not rates:
        return (
            "Linkable: not run."
            if kept
            else "Linkable: not measured, because it is not known what the scheme leaves unchanged."
        )
    hits, n = sum(rate.hits for rate in rates), sum(rate.n for rate in rates)
    counts = (
        f"{hits} of {counted(n, 'ciphertext')} {agreeing(hits, 'names its', 'name their')} own image among "
        f"{span(rate.gallery for rate in rates)} by {kept} alone"
    )
    ambiguous = sum(rate.ambiguous for rate in rates)
    several = ""
    if ambiguous:
        which = (
            "The others fit"
            if ambiguous == n - hits
            else f"{ambiguous} of the others {agreeing(ambiguous, 'fits', 'fit')}"
        )
        several = f" {which} more than one image of the gallery, so that none is named."
    if report.verdict.linkable:
        return f"Linkable: {counts}. This needs no key.{several}"
    bound = score(max(rate.high for rate in rates))
    return f"Not linkable: {counts} (95 % upper bound {bound}).{several}"


def second_look(report: Report) -> str:
    """Return one sentence or two on what can be read in the negative, turned or shifted, whatever the orbit."""
    return _counted_look(report) if counts_looks(report.suite) else _look_beside(report)


def _counted_look(report: Report) -> str:
    """Return what the second look adds under suite/2, where it counts as a break."""
    if {draw.second_looks for draw in report.draws} == {1}:
        return f"Second look: the orbit of {report.scheme.name} already grants the negative, all turns and shifts."
    by_look = {row.attack: row.size for row in rows_of(report) if row.counts and needs_look(report, row)}
    if by_look:
        words = listed([f"{attack} from {images(n)}" for attack, n in by_look.items()])
        return (
            f"Second look: pictures can be read {ANY_LOOK} ({words}). The key of {report.scheme.name} decides on "
            f"that, and {report.suite} counts it as a break all the same: whoever looks at them can read them."
        )
    if report.verdict.readable:
        return f"Second look, {ANY_LOOK}: it adds nothing to the breaks above."
    return _nothing_readable(report, ANY_LOOK)


def _look_beside(report: Report) -> str:
    """Return what the second look adds under suite/1, where it stands beside the verdict."""
    verdict, looks = report.verdict, [draw.second_looks for draw in report.draws]
    # At these sizes a break says the same.
    added = {a: n for a, n in verdict.readable_at.items() if n < verdict.broken_at.get(a, n + 1)}
    if added:
        words = listed([f"{attack} from {images(n)}" for attack, n in added.items()])
        return (
            f"Second look: pictures can be read in the negative or turned ({words}). The rule of {report.suite} does "
            f"not count that for {report.scheme.name}, but whoever looks at them can read them."
        )
    if verdict.readable is None or None in looks:
        return "Second look, in the negative and turned: not measured."
    if set(looks) == {1}:
        return f"Second look: the orbit of {report.scheme.name} already grants the negative and all turns."
    if verdict.readable:
        return "Second look, in the negative and turned: it adds nothing to the breaks above."
    return _nothing_readable(report, "in the negative and turned")


def _nothing_readable(report: Report, looked: str) -> str:
    """Return the bounds of what the second look did not find.

    Args:
        report: The report.
        looked: How the guesses were looked at, in words.
    """
    bounds = [f.figures.second_look for f in report.findings if f.figures and f.figures.second_look]
    if not bounds:
        return f"Second look, {looked}: no guess was scored."
    reidentified = max(look.reidentified.high for look in bounds)
    visible = max(look.visible.high for look in bounds)
    return (
        f"Second look, {looked}: nothing was readable. At most {percent(reidentified)} of guesses "
        f"name the right image (R) and {percent(visible)} show more than any baseline (V), by 95 % bounds corrected "
        "for the search."
    )


def summary_lines(report: Report) -> list[str]:
    """Return a report in a few lines for a terminal: training, verdict, linkability and caveats."""
    lines = _training_lines(report.training) if report.training else []
    verdict = headline(report)
    if verdict.state == "invalid":
        lines.append(verdict.sentence)
    else:
        lines.append(f"verdict: {verdict.sentence}")
        rows = rows_of(report)
        lines += [f"  {line}" for line in (*_further_breaks(report), *early_breaks(report, rows))]
        if verdict.state == "open":
            lines += [f"  {line}" for line in _bounds_in_words(report, rows)]
        lines += [f"  {line}" for line in (second_look(report), linkability(report))]
        bound = inversion_bound(report, rows)
        lines += [f"  {bound}"] if bound else []
    if report.scheme.options_text:
        lines.append(f"  This is about {report.scheme.name} with {report.scheme.options_text}.")
    lines.append(f"  {attacked_by(report)}")
    if report.signer is not None:
        when = f", of {report.scored_at[:10]}" if report.scored_at else ""
        lines.append(f"  Scores signed by {report.scorer}, fingerprint {report.signer.fingerprint}{when}.")
    return [*lines, *(f"  caveat: {doubt}" for doubt in report.doubts)]


def _training_lines(training: Training) -> list[str]:
    line = f"test accuracy {score(training.test_accuracy)} on ciphertext"
    if training.strategy:
        line += ", federated"
    if training.plain_accuracy is not None:
        line += f"; {score(training.plain_accuracy)} on plain images"
    if training.wrong_key:
        line += f"; {score(training.wrong_key.mean)} under wrong keys"
    lines = [line]
    if training.linear_accuracy is not None:
        lines.append(
            f"without a ViT: {score(training.linear_accuracy)} with a linear model on pixels, "
            f"{score(training.histogram_accuracy)} with the nearest histogram"
        )
    return lines


def require_valid(report: Report) -> None:
    """Check that every control of a report passed.

    Raises:
        CipherwardError: If one failed; the message says which, and what was observed.
    """
    if report.valid:
        return
    failed = [f"{name} ({report.controls[name].message})" for name in report.failed_controls]
    first = mends(report)[0]
    raise CipherwardError(
        f"the report is invalid: {'; '.join(failed)}",
        f"the audit, not the scheme, is in doubt. {first.need} {'; '.join(first.commands)}",
    )
