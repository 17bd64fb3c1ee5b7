"""Score the guesses about one draw by the suite's own measures. The truth is met here, and by no attack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cipherward.attacking import AS_IS_EACH, Attempt, attack_draw
from cipherward.draws import SealedDraw, truth_of
from cipherward.links import links_of
from cipherward.settings import Settings
from coordinator.exchange.audit.control_sets import PREFIX
from coordinator.exchange.audit.rates import LinkableRate
from coordinator.exchange.audit.scores import ClassRates, DrawScores, Figures, Finding
from coordinator.exchange.audit.suite1 import PICTURED
from coordinator.exchange.audit.suite2 import SUITE, breaking_measures
from crypto.arrays import Float64Array, Images, Rows
from crypto.scheme import load
from crypto.spec import SchemeSpec
from crypto.symmetry import EVERY_MOVE, SECOND_LOOK, Orbit
from parties.scoring.figures import MeasuredPictures, compute_figures, degenerate_figures, is_degenerate
from parties.scoring.measures import ssims, summarise
from parties.scoring.second_look import SecondTruth, second_truth
from parties.scoring.truth import OPENS_EACH_ALONE, Truth, baseline_ssims, classified_rate, linkable_rate


@dataclass(frozen=True)
class ScoredDraw:
    """A draw with its scores.

    Attributes:
        draw: The draw.
        scores: Its scores.
        pictures: By attack and pool size, the guesses of the rows that a report shows, uint8 [p, h, w, c], and the
            side of a block by which they were moved.
        links: For an unknown scheme, how many ciphertexts name their own image by each invariant.
    """

    draw: SealedDraw
    scores: DrawScores
    pictures: dict[tuple[str, int], tuple[Images, int]]
    links: dict[str, LinkableRate]


def orbit_of(draw: SealedDraw, settings: Settings, audited: SchemeSpec) -> Orbit:
    """Return the moves that guesses about a draw may be registered by.

    They are the family's own. Nothing is known of what an unknown scheme leaves open, so it is granted every move.
    The controls are granted what the audited scheme is.
    """
    own = load(draw.spec).orbit
    return own.union(load(audited).orbit if settings.family else EVERY_MOVE)


@dataclass(frozen=True)
class _Measure:
    """What guesses about a draw are measured against, under one side of a block.

    Guesses of attacks that open every image alone are granted a move of their own for each, as `score` grants it.
    """

    truth: Truth
    baselines: dict[str, Float64Array]
    second: SecondTruth
    pictures: MeasuredPictures


class Scorer:
    """What scores the guesses about one draw. What they meet is made once for each side of a block."""

    def __init__(self, draw: SealedDraw, settings: Settings, audited: SchemeSpec) -> None:
        """Take a draw, the settings, and the scheme of the report."""
        self._draw, self._settings = draw, settings
        self._orbit = orbit_of(draw, settings, audited)
        self._measures: dict[tuple[int, str], _Measure] = {}

    def measure(self, spec: SchemeSpec, attack: str = "") -> _Measure:
        """Return what guesses are measured against that are told one of the draw's schemes.

        Args:
            spec: The scheme that the attack was told.
            attack: The attack's name. Some open every image by itself, and so in a turn and sign of its own.
        """
        which = attack if attack in (*OPENS_EACH_ALONE, AS_IS_EACH) else ""
        if (spec.block, which) not in self._measures:
            truth = self.measure(spec).truth if which else self._truth(spec)
            if which == AS_IS_EACH:
                # What anybody can do with a picture in view. Colours in another order are left to the attacks.
                truth = truth.with_orbit(SECOND_LOOK)
            truth = truth.each_alone() if which else truth
            self._measures[spec.block, which] = _Measure(
                truth, baseline_ssims(truth), second_truth(truth), MeasuredPictures()
            )
        return self._measures[spec.block, which]

    def _truth(self, spec: SchemeSpec) -> Truth:
        return truth_of(self._draw, spec, self._settings, self._orbit)

    def figures(self, attempt: Attempt) -> Figures | None:
        """Return the figures of a guess; None if there is none."""
        if attempt.guess is None:
            return None
        spec = attempt.spec
        measure = self.measure(spec, attempt.name)
        images = attempt.guess.images[measure.truth.pick]
        if is_degenerate(images, measure.truth):
            return degenerate_figures(measure.truth, measure.second)
        # Shares of a key are compared in the scheme's own parts, where the scheme is one of this program.
        secret = self._draw.key if spec == self._draw.spec and not load(spec).row_keys else None
        figures = compute_figures(
            images,
            attempt.guess.key,
            measure.truth,
            measure.baselines,
            secret,
            measure.second,
            measured=measure.pictures,
        )
        return figures if self._has_classes else figures.model_copy(update={"classified": None})

    @property
    def pictured(self) -> Rows:
        """The rows of the draw that a report shows, int64 [p]."""
        truth = self.measure(self._draw.spec).truth
        return truth.pick[truth.odd][:PICTURED]

    @property
    def _has_classes(self) -> bool:
        return len(np.unique(self._draw.labels)) > 1

    def scores(self, findings: Sequence[Finding], linkable: LinkableRate | None) -> DrawScores:
        """Return the scores of the draw from its findings."""
        draw, measure = self._draw, self.measure(self._draw.spec)
        truth, scheme = measure.truth, load(draw.spec)
        plain = truth.plain[truth.odd]
        ciphertext = scheme.picture(truth.sealed[truth.odd])
        classes = ClassRates(
            plain=classified_rate(plain, truth), ciphertext=classified_rate(ciphertext, truth)
        )
        ssim, is_exact = self._true_key(truth, scheme.tolerance)
        return DrawScores(
            draw=draw.name,
            set_name=draw.set_name,
            spec=draw.spec,
            key_id="",
            set_digest="",
            pool_images=len(draw.plain),
            parties=1,
            rows=len(truth.odd),
            gallery=len(truth.gallery),
            pictured=tuple(self.pictured.tolist()),
            tolerance=scheme.tolerance,
            true_key_ssim=ssim,
            true_key_exact=is_exact,
            baselines={name: summarise(values) for name, values in measure.baselines.items()},
            linkable=linkable,
            classified=classes if self._has_classes else None,
            second_looks=measure.second.looks,
            findings=tuple(findings),
        )

    def _true_key(self, truth: Truth, tolerance: float) -> tuple[float | None, bool]:
        """Return the median SSIM of what the true key opens, and whether it is exact; 0 and False if unknown.

        If no key opens the family's ciphertexts, there is no SSIM.
        """
        if self._draw.opened is None:
            return 0.0 if load(self._draw.spec).is_invertible else None, False
        opened, plain = self._draw.opened[truth.pick[truth.odd]], truth.plain[truth.odd]
        error = np.abs(opened.astype(np.int16) - plain)
        return summarise(ssims(opened, plain)).median, bool((error <= tolerance).all())


def score_draw(draw: SealedDraw, settings: Settings, audited: SchemeSpec) -> ScoredDraw:
    """Attack a draw, and score the guesses.

    Args:
        draw: The draw.
        settings: Of the audit.
        audited: The scheme of the report.
    """
    scorer = Scorer(draw, settings, audited)
    truth = scorer.measure(draw.spec).truth
    findings, pictures = [], {}
    for attempt in attack_draw(draw, settings):
        findings.append(finding_of(attempt, scorer.figures(attempt)))
        if attempt.guess is not None:
            pictures[attempt.name, attempt.size] = attempt.guess.images[scorer.pictured], attempt.spec.block
    # What an unknown scheme leaves of an image is chosen over all draws.
    is_known = bool(settings.family) or draw.set_name.startswith(PREFIX)
    scores = scorer.scores(findings, linkable_rate(truth) if is_known else None)
    return ScoredDraw(draw, scores, pictures, {} if is_known else links_of(truth))


def finding_of(attempt: Attempt, figures: Figures | None) -> Finding:
    """Return what is reported of an attempt, and its figures."""
    guess = attempt.guess
    notes = [guess.note if guess else "", figures.degenerate if figures else ""]
    is_broken = figures is not None and bool(breaking_measures(figures, SUITE))
    fits = [attempt.choice, *(map(str, guess.fits) if guess else ())]
    if attempt.unfinished and not is_broken:
        notes.append(f"truncated: {attempt.unfinished}")
    is_refuted = attempt.is_sound and not is_broken
    if is_refuted:
        fits.append("it believes what it found, and that is not these images")
    return Finding(
        attack=attempt.name,
        tier=attempt.tier,
        uses_pool=attempt.info.uses_pool,
        pool_size=attempt.size,
        seconds=attempt.seconds,
        note="; ".join(filter(None, notes)),
        error=attempt.error,
        idle=guess.idle if guess else False,
        fit="; ".join(filter(None, fits)),
        uncertain=is_refuted or (guess.is_uncertain if guess else False),
        # What it believes is refuted: a report in which an uncertain attack is confident contradicts itself.
        confidence=guess.confidence if guess and not is_refuted else None,
        figures=figures,
    )
