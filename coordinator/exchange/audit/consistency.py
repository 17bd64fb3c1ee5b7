"""Recompute what a file of scores derives from its counts, and name the field that contradicts them.

A reader must not believe a figure that follows from others: whoever edits `low` and leaves `hits` would turn a break
into none. So rates and their bounds are computed anew from hits and cases, and counts must agree with each other. The
report's part, broken_by and the verdict, is in coordinator/report/consistency.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from coordinator.exchange.audit.rates import GalleryRate, LinkableRate, Rate, SearchedRate, rate_of
from coordinator.exchange.audit.scores import (
    DrawScores,
    Figures,
    Finding,
    KeyOpening,
    Scores,
    SecondLook,
    Summary,
)
from coordinator.exchange.audit.suite1 import OPENS, SSIM_STEP
from coordinator.exchange.audit.suite2 import BELIEVED, counts_looks, require_known
from coordinator.exchange.records import Record
from crypto.errors import CipherwardError
from crypto.scheme import is_invertible, load
from crypto.symmetry import SECOND_LOOK

#: Rates and bounds of other SciPy versions differ in their last digits.
_ROUNDING = 1e-9
#: Half of the step of SSIM figures, and half of their third digit: as far as a told median lies from the true one.
_SSIM_TOLERANCE = SSIM_STEP / 2 + 0.0005
#: Cases of a rate, at most. Chosen by hand: more than any audit has, and few enough for exact arithmetic.
_MOST_CASES = 1 << 40

#: Looks of a second look, at most: all moves but colour orders.
_MOST_LOOKS = SECOND_LOOK.size((1, 1, 1))


class ContradictionError(CipherwardError):
    """A figure that does not follow from the others. The message names its field."""


def require(holds: bool, where: str, field: str, problem: str) -> None:
    """Check one condition.

    Args:
        holds: The condition.
        where: The file, as it stands in messages.
        field: The field's place in the file, such as draws.0.findings.2.R.low.
        problem: What contradicts what.

    Raises:
        ContradictionError: If it does not hold.
    """
    if not holds:
        raise ContradictionError(
            f"{where} contradicts itself: {field}: {problem}",
            "the file was changed after it was written: fetch it again from whoever wrote it",
        )


def is_close(one: float | None, other: float | None) -> bool:
    """Return whether two figures are equal but for rounding, or both absent."""
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=0.0, abs_tol=_ROUNDING)


def check_rates(record: object, where: str, place: str = "") -> None:
    """Check every rate, however deep in a record, against its counts.

    Raises:
        ContradictionError: If one does not follow from its counts.
    """
    for field, value in walk(record, place):
        if isinstance(value, Rate):
            _check_rate(value, where, field)


def walk(value: object, place: str) -> Iterator[tuple[str, Record]]:
    """Yield every record in a value, with its place in the file."""
    if isinstance(value, Record):
        if place:
            yield place, value
        for name in type(value).model_fields:
            # Figures stand in the finding itself.
            inner = (
                place if isinstance(getattr(value, name), Figures) else _join(place, file_name(value, name))
            )
            yield from walk(getattr(value, name), inner)
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from walk(item, _join(place, str(index)))
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from walk(item, _join(place, str(name)))


def file_name(record: Record, name: str) -> str:
    """Return the name that a field has in the file."""
    return type(record).model_fields[name].serialization_alias or name


def _join(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _check_rate(rate: Rate, where: str, field: str) -> None:
    """Check one rate, its bounds, and what its kind adds."""
    require(0 <= rate.hits <= rate.n, where, f"{field}.hits", f"{rate.hits} of {rate.n} is no count")
    require(rate.n <= _MOST_CASES, where, f"{field}.n", f"{rate.n} are more cases than any audit has")
    looks = rate.looks if isinstance(rate, SearchedRate) else 1
    require(1 <= looks <= _MOST_LOOKS, where, f"{field}.looks", f"{looks} is no number of looks")
    expected = rate_of(rate.hits, rate.n, looks)
    for name in ("rate", "low", "high"):
        stated, computed = getattr(rate, name), getattr(expected, name)
        require(
            is_close(stated, computed),
            where,
            f"{field}.{name}",
            f"{stated} does not follow from {rate.hits} of {rate.n}, which make {computed}",
        )
    if isinstance(rate, GalleryRate):
        require(rate.gallery > 0, where, f"{field}.gallery", f"{rate.gallery} is no gallery")
    if isinstance(rate, LinkableRate):
        total = rate.hits + rate.ambiguous + rate.unmatched
        problem = f"{rate.hits} hits, {rate.ambiguous} ambiguous and {rate.unmatched} unmatched of {rate.n}"
        counts = min(rate.ambiguous, rate.unmatched)
        require(counts >= 0 and total == rate.n, where, f"{field}.ambiguous", problem)


def check_figures(figures: Figures, where: str, place: str) -> None:
    """Check that the figures of one guess agree with each other.

    Raises:
        ContradictionError: If two of them do not.
    """
    visible, named = figures.visible, figures.reidentified
    require(visible.n == figures.n, where, f"{place}.V.n", f"{visible.n}, but n is {figures.n}")
    require(figures.n <= named.n, where, f"{place}.n", f"{figures.n} rows of {named.n} that are scored")
    deranged = figures.reidentified_deranged
    if deranged is not None:
        same = (deranged.n, deranged.gallery) == (named.n, named.gallery)
        require(same, where, f"{place}.R_deranged.n", "other rows or another gallery than those of R")
    if figures.classified is not None:
        n = figures.classified.n
        require(n == named.n, where, f"{place}.classified.n", f"{n} rows, but R has {named.n}")
    if figures.second_look is not None:
        _check_second_look(figures.second_look, figures, where, f"{place}.second_look")
    if figures.degenerate:
        hits = visible.hits + named.hits
        if figures.second_look is not None:
            hits += figures.second_look.visible.hits + figures.second_look.reidentified.hits
        is_empty = not hits and figures.key_opening is None and figures.ssim is None
        require(is_empty, where, f"{place}.degenerate", "guesses that say nothing have figures")
    if figures.key_opening is not None:
        check_opening(figures.key_opening, named.n, where, f"{place}.K")


def _check_second_look(look: SecondLook, figures: Figures, where: str, place: str) -> None:
    """Check that a second look is at the rows and the gallery of the first, with one number of looks."""
    named = figures.reidentified
    require(look.visible.n == figures.n, where, f"{place}.V.n", f"{look.visible.n}, but n is {figures.n}")
    for name, rate in (("R", look.reidentified), ("R_deranged", look.reidentified_deranged)):
        same = (rate.n, rate.gallery) == (named.n, named.gallery)
        require(same, where, f"{place}.{name}.n", "other rows or another gallery than those of R")
        problem = f"{rate.looks}, but V has {look.visible.looks}"
        require(rate.looks == look.visible.looks, where, f"{place}.{name}.looks", problem)


def check_looks(looks: int | None, finding: Finding, where: str, place: str) -> None:
    """Check that a finding has a second look exactly where its draw says so, and as many looks.

    Args:
        looks: The draw's `second_looks`.
        finding: One of its findings.
        where: The file, as it stands in messages.
        place: The finding's place in the file.
    """
    if finding.figures is None:
        return
    look = finding.figures.second_look
    stated = 1 if look is None else look.visible.looks
    problem = f"{stated} looks, but the draw has {looks}"
    require(stated == (looks or 1), where, f"{place}.second_look", problem)


def check_opening(opening: KeyOpening, rows: int, where: str, place: str) -> None:
    """Check that a key opens images exactly where its median says so, as far as that is told."""
    require(opening.n == rows, where, f"{place}.n", f"{opening.n} rows, but R has {rows}")
    _check_ssim(opening.median_ssim, where, f"{place}.median_ssim")
    is_high = opening.median_ssim >= OPENS - _SSIM_TOLERANCE
    is_low = opening.median_ssim < OPENS + _SSIM_TOLERANCE
    require(
        is_high if opening.opens else is_low,
        where,
        f"{place}.opens",
        f"{opening.opens} does not follow from a median SSIM of {opening.median_ssim} and the threshold {OPENS}",
    )


def _check_ssim(value: float, where: str, field: str) -> None:
    require(-1 <= value <= 1 + _ROUNDING, where, field, f"{value} is no SSIM")


def check_scores(scores: Scores, where: str) -> None:
    """Check every figure of scores.json that follows from others.

    Raises:
        ContradictionError: If one does not; the message names its field.
        CipherwardError: If this version does not know the rule that the scores name.
    """
    require_known(scores.suite, where)
    check_rates(scores, where)
    names = [draw.draw for draw in scores.draws]
    require(len(set(names)) == len(names), where, "draws", "two draws have one name")
    for index, draw in enumerate(scores.draws):
        _check_draw(draw, where, f"draws.{index}")
    looks = {draw.second_looks for draw in scores.audited}
    require(
        len(looks) < 2, where, "draws", f"draws of one scheme have second_looks {sorted(map(str, looks))}"
    )
    if counts_looks(scores.suite):
        _check_counted_looks(scores, where)


def _check_counted_looks(scores: Scores, where: str) -> None:
    """Check that every draw has the second look that suite/2 asks for: bounds under more looks would be wider."""
    for index, draw in enumerate(scores.draws):
        orbit = load(draw.spec).orbit
        if scores.audited:
            orbit = orbit.union(load(scores.audited[0].spec).orbit)
        expected = orbit.second_looks(draw.spec.image_shape)
        problem = (
            f"{draw.second_looks}, but {scores.suite} adds {expected} looks to those of {draw.spec.name}"
        )
        require(draw.second_looks == expected, where, f"draws.{index}.second_looks", problem)


def check_confidence(finding: Finding, where: str, place: str) -> None:
    """Check that a confidence is a share, and below one half exactly where the attack is uncertain."""
    confidence = finding.confidence
    if confidence is None:
        return
    field = f"{place}.confidence"
    require(0 <= confidence <= 1, where, field, f"{confidence} is no share of 1")
    require(not finding.error, where, field, "an attack that crashed believes nothing")
    is_low = confidence < BELIEVED
    problem = f"{confidence}, but the attack is {'' if finding.uncertain else 'not '}uncertain"
    require(is_low == finding.uncertain, where, field, problem)


def _check_draw(draw: DrawScores, where: str, place: str) -> None:
    """Check that all figures of a draw are about its rows and its gallery."""
    if draw.true_key_ssim is not None:
        _check_ssim(draw.true_key_ssim, where, f"{place}.true_key_ssim")
    opens = is_invertible(draw.spec.name)
    require(
        opens == (draw.true_key_ssim is not None),
        where,
        f"{place}.true_key_ssim",
        f"the true key {'opens' if opens else 'does not open'} {draw.spec.name}",
    )
    for name, summary in draw.baselines.items():
        _check_ssim(summary.median, where, f"{place}.baselines.{name}.median")
    if draw.linkable is not None:
        same = (draw.linkable.n, draw.linkable.gallery) == (draw.rows, draw.gallery)
        require(same, where, f"{place}.linkable.n", "other rows or another gallery than the draw's")
    if draw.classified is not None:
        for name in ("plain", "ciphertext"):
            n = getattr(draw.classified, name).n
            require(n == draw.rows, where, f"{place}.classified.{name}.n", f"{n} rows of {draw.rows}")
    _check_findings(draw.findings, draw, where, f"{place}.findings")
    _check_findings(draw.hospital_run, draw, where, f"{place}.hospital_run")


def _check_findings(findings: Sequence[Finding], draw: DrawScores, where: str, place: str) -> None:
    """Check that what was found in a draw is about its rows and its gallery."""
    cells = [(finding.attack, finding.pool_size) for finding in findings]
    require(len(set(cells)) == len(cells), where, place, "one attack twice at one pool size")
    for index, finding in enumerate(findings):
        spot, figures = f"{place}.{index}", finding.figures
        size = finding.pool_size
        problem = f"{size} sealed images, but the pool holds {draw.pool_images}"
        require(1 <= size <= draw.pool_images, where, f"{spot}.pool_size", problem)
        check_confidence(finding, where, spot)
        has_both = bool(finding.error) and figures is not None
        require(not has_both, where, f"{spot}.error", "an attack that crashed has figures")
        require(
            bool(finding.error) or figures is not None,
            where,
            f"{spot}.R",
            "an attack without error has no figures",
        )
        if figures is None:
            continue
        check_figures(figures, where, spot)
        check_looks(draw.second_looks, finding, where, spot)
        named = figures.reidentified
        require(named.n == draw.rows, where, f"{spot}.R.n", f"{named.n} rows, but the draw has {draw.rows}")
        same = named.gallery == draw.gallery
        require(same, where, f"{spot}.R.gallery", f"{named.gallery}, but the draw has {draw.gallery}")
        for name in ("ssim", "derangement_ssim"):
            summary_or_none: Summary | None = getattr(figures, name)
            if summary_or_none is not None:
                _check_ssim(summary_or_none.median, where, f"{spot}.{name}.median")
