"""The figures of `suite/2` for one guess: V, R, K and what is told beside them (docs/suite.md)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from coordinator.exchange.audit.rates import in_gallery, rate_of
from coordinator.exchange.audit.scores import ChosenMove, Figures, Grid, KeyOpening, KeyShare
from coordinator.exchange.audit.suite1 import MIN_DISTINCT, OPENS, PSNR_STEP, SSIM_STEP
from crypto.arrays import Float64Array, Images, Parts
from crypto.key import SecretKey
from crypto.scheme import load
from parties.scoring.derangement import derange
from parties.scoring.key_share import assembled_grid, can_open, key_share, open_sealed, values_right
from parties.scoring.measures import (
    coarse_rate,
    is_informative,
    psnr,
    round_down,
    rounded_down,
    ssims,
    summarise,
    visible_rows,
)
from parties.scoring.second_look import FirstLook, SecondTruth, empty_second_look, measure_second_look
from parties.scoring.truth import Truth, classified_rate, named_images, register_guesses

_DEGENERATE = "no figures: more than a quarter of the guessed pictures are flat, or repeat one picture"


@dataclass(frozen=True)
class PictureFigures:
    """What the pictures of a guess reach, whatever its key.

    Attributes:
        guesses: The scored guesses, registered, uint8 [odd, h, w, c].
        first: What was measured of them under the declared orbit.
        fields: The fields of `Figures` that follow from the pictures.
    """

    guesses: Images
    first: FirstLook
    fields: Mapping[str, Any]


class MeasuredPictures:
    """What was measured of the pictures of a draw's guesses, by their content.

    An attack that has recovered the key from 20 images makes the same guesses from 50. They are measured once.
    """

    def __init__(self) -> None:
        """Start with nothing measured."""
        self._known: dict[bytes, PictureFigures] = {}

    def of(self, images: Images, measure: Callable[[], PictureFigures]) -> PictureFigures:
        """Return the figures of these pictures, by `measure` if they are new."""
        content = hashlib.blake2b(np.ascontiguousarray(images).data).digest()
        if content not in self._known:
            self._known[content] = measure()
        return self._known[content]


def compute_figures(
    images: Images,
    key: Parts | None,
    truth: Truth,
    baselines: Mapping[str, Float64Array],
    secret: SecretKey | None = None,
    second: SecondTruth | None = None,
    *,
    coarse: bool = False,
    measured: MeasuredPictures | None = None,
) -> Figures:
    """Return the figures of one guess.

    Args:
        images: Guesses for the rows that count, uint8 [r, h, w, c].
        key: The recovered key, if any.
        truth: The hospital's side of the draw.
        baselines: What `baseline_ssims` returns.
        secret: The true key, if its share in the recovered one may be told.
        second: What `second_truth` returns; without it, the second look is not measured.
        coarse: Whether the images are not public. Then everything but V, R and their bounds is told in steps, and
            over the rows whose guess is informative.
        measured: What was measured of other guesses with the same arguments but the key.
    """
    pictures = (measured or MeasuredPictures()).of(
        images, lambda: _measure_pictures(images, truth, baselines, second, coarse=coarse)
    )
    by_key = _key_figures(key, pictures, truth, secret, SSIM_STEP if coarse else 0.0)
    return Figures(
        **pictures.fields,
        key_opening=by_key.opening,
        grid=by_key.grid,
        values_right=by_key.values_right,
        key=by_key.share,
    )


def _measure_pictures(
    images: Images,
    truth: Truth,
    baselines: Mapping[str, Float64Array],
    second: SecondTruth | None,
    *,
    coarse: bool,
) -> PictureFigures:
    """Return what the pictures of a guess reach. The arguments are those of `compute_figures`."""
    guesses, move = register_guesses(images, truth)
    odd = truth.plain[truth.odd]
    values = ssims(guesses, odd)
    deranged = derange(images, truth)
    has_texture = np.isfinite(values)
    visible = visible_rows(values, baselines, deranged.ssims)
    named = named_images(images, guesses, truth)
    # The same guesses against the next row's image: a measure that finds them right there is wrong.
    wrong = deranged.hits(named if deranged.move in (None, move) else deranged.named)
    wrong_rate = coarse_rate(wrong, len(named), up=True) if coarse else rate_of(wrong, len(named))
    told = is_informative(images)[truth.odd] if coarse else np.ones(len(odd), bool)
    ssim_step, psnr_step = (SSIM_STEP, PSNR_STEP) if coarse else (0.0, 0.0)
    first = FirstLook(move, values, deranged, named)
    fields = {
        "n": int(has_texture.sum()),
        "move": None if move is None else ChosenMove(**asdict(move)),
        "ssim": summarise(values[told], ssim_step),
        "psnr": summarise(psnr(guesses, odd)[told], psnr_step),
        "derangement_ssim": summarise(deranged.ssims[:, told].ravel(), ssim_step),
        "visible": rate_of(int(visible.sum()), int(has_texture.sum())),
        "reidentified": in_gallery(
            rate_of(int((named == truth.odd).sum()), len(named)), len(truth.gallery)
        ),
        "reidentified_deranged": in_gallery(wrong_rate, len(truth.gallery)),
        "classified": classified_rate(guesses, truth, coarse=coarse),
        "second_look": None
        if second is None
        else measure_second_look(images, second, first, coarse=coarse),
    }
    return PictureFigures(guesses, first, fields)


def is_degenerate(images: Images, truth: Truth) -> bool:
    """Return whether too many guesses are flat or repeat one picture, among the rows that register or are scored."""
    informative = is_informative(images)
    return bool(min(informative[truth.even].mean(), informative[truth.odd].mean()) < MIN_DISTINCT)


def degenerate_figures(truth: Truth, second: SecondTruth | None = None) -> Figures:
    """Return the figures of degenerate guesses: not broken, and nothing of what other guesses are told."""
    none = rate_of(0, len(truth.odd))
    return Figures(
        degenerate=_DEGENERATE,
        n=len(truth.odd),
        visible=none,
        reidentified=in_gallery(none, len(truth.gallery)),
        reidentified_deranged=in_gallery(none, len(truth.gallery)),
        move=None,
        ssim=None,
        psnr=None,
        derangement_ssim=None,
        classified=None,
        key_opening=None,
        grid=None,
        values_right=None,
        key=None,
        second_look=None if second is None else empty_second_look(second),
    )


@dataclass(frozen=True)
class _KeyFigures:
    """What a recovered key reached; None where it was not measured."""

    opening: KeyOpening | None = None
    grid: Grid | None = None
    values_right: float | None = None
    share: KeyShare | None = None


def opening_of(values: Float64Array, step: float) -> KeyOpening:
    """Return what a key opens, from the SSIM of each image that it opened.

    Whether it opens images is decided by the median. With a step another figure is told, the mean of the middle fifth
    (`summarise`): it lies across the threshold where about half of the images are opened well and the others badly.
    It is told at the threshold then, because whoever reads the scores checks that the two agree.

    Args:
        values: float64 [n], of which some may be NaN.
        step: 0 if the images are public.
    """
    opens, told = summarise(values).median >= OPENS, summarise(values, step).median
    if step:
        told = max(told, OPENS) if opens else min(told, OPENS)
    return KeyOpening(median_ssim=told, n=len(values), opens=opens)


def _key_figures(
    key: Parts | None, pictures: PictureFigures, truth: Truth, secret: SecretKey | None, step: float
) -> _KeyFigures:
    """Return what a recovered key opens and, where the true key may be told, how much of it is right."""
    move = pictures.first.move
    if key is None or move is None or not can_open(key):
        return _KeyFigures()
    odd = truth.plain[truth.odd]
    opened = move.apply(open_sealed(key, truth.sealed[truth.odd], truth.spec), truth.block)
    # Mostly the guesses are what the key opens.
    is_same = np.array_equal(opened, pictures.guesses)
    values = pictures.first.values if is_same else ssims(opened, odd)
    opening = opening_of(values, step)
    if secret is None:
        return _KeyFigures(opening)
    scheme = load(truth.spec)
    cipher = scheme.cipher(secret)
    grid = assembled_grid(key, cipher, truth, move)
    share = key_share(scheme.parts(secret), key, truth)
    return _KeyFigures(
        opening,
        grid=grid and rounded_down(grid),
        values_right=round_down(values_right(key, cipher, truth, move)),
        share=share and rounded_down(share),
    )
