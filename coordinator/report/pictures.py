"""The pictures of a report: sealed images, the best guess of each attack and, where allowed, the plain images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from coordinator.exchange.audit.guesses import FILE, Draw, load_guess, most_guess_bytes, read_draws
from coordinator.exchange.audit.scores import DrawScores, Scores
from coordinator.exchange.audit.suite1 import breaking_measures
from coordinator.report.records import JudgedFinding, Report, Verdict
from crypto.arrays import Images
from crypto.errors import CipherwardError
from crypto.files import sha256_file
from crypto.scheme import load
from crypto.sets.dataset import SealedDataset
from crypto.symmetry import Move


@dataclass(frozen=True)
class Pictures:
    """Columns of images of the same rows.

    Attributes:
        columns: Caption → images [r, h, w, c].
    """

    columns: Mapping[str, Images]


def pictured_draw(guesses: Path, scores: Scores) -> tuple[Draw, DrawScores]:
    """Return the first audited draw, as it was guessed and as it was scored.

    Raises:
        CipherwardError: If the guesses are not those that were scored.
    """
    if sha256_file(guesses / FILE) != scores.guesses_sha256:
        raise CipherwardError(
            f"{guesses} does not hold the guesses that were scored", "name the folder that was scored"
        )
    scored = scores.audited[0]
    draws, _ = read_draws(guesses)
    draw = next((draw for draw in draws if draw.name == scored.draw), None)
    if draw is None or not all(0 <= row < len(draw.rows) for row in scored.pictured):
        raise CipherwardError(
            f"the scores are about another {scored.draw} than {guesses} holds",
            "fetch scores.json again from the hospital that scored",
        )
    return draw, scored


def gather(guesses: Path, report: Report, scores: Scores, sealed: SealedDataset) -> Pictures:
    """Return sealed images and guesses of the first draw's pictured rows, guesses moved as they were scored.

    Raises:
        CipherwardError: If `sealed` is not the set that the draw is about, or the guesses are not those scored.
    """
    draw, scored = pictured_draw(guesses, scores)
    if sealed.digest != draw.digests[0]:
        raise CipherwardError(
            f"{sealed.folder} is not the sealed set that {guesses} is about",
            "name the folder of sealed sets that was attacked: --sealed",
        )
    rows = np.array(scored.pictured, np.int64)
    columns: dict[str, Images] = {"sealed": load(draw.spec).picture(sealed.rows(draw.rows[rows]))}
    findings = [finding for finding in report.findings if finding.draw == draw.name]
    for attack in dict.fromkeys(finding.attack for finding in findings):
        shown = shown_finding(findings, report.verdict, attack)
        if shown is None:
            continue
        stored = next(
            (
                g
                for g in draw.guesses
                if (g.attack, g.pool_size) == (attack, shown.pool_size) and not g.error
            ),
            None,
        )
        if stored is not None:
            images, _ = load_guess(guesses, stored, most_guess_bytes(draw.spec, len(draw.rows)))
            caption = f"{attack}, {shown.pool_size} sealed" if stored.uses_pool else attack
            columns[caption] = move_of(shown).apply(images[rows], draw.spec.block)
    return Pictures(columns)


def require_public(scores: Scores, where: str) -> None:
    """Check before plain images are shown as public that the hospital that scored calls them so.

    Raises:
        CipherwardError: If it says otherwise: the page would not say that it is patient data. Scores of earlier
            versions do not say.
    """
    if scores.images_public is False:
        raise CipherwardError(
            f"by {where} the images of {scores.party} are of no public source",
            "leave --public-plain out; the hospital sees its own images in cipherward-party report",
        )


def with_public_plain(pictures: Pictures, path: Path) -> Pictures:
    """Return the same pictures, with the plain images of a public source in the first column.

    Raises:
        CipherwardError: If the file holds no plain pictures.
    """
    try:
        plain = load_file(str(path))["plain"]
    except Exception as error:  # crafted files make the library raise anything
        raise CipherwardError(
            f"no plain pictures in {path}: {type(error).__name__}",
            "name the file that `score` wrote beside these scores",
        ) from None
    shapes = {column.shape for column in pictures.columns.values()}
    if plain.dtype != np.uint8 or plain.shape not in shapes:
        raise CipherwardError(
            f"the plain pictures in {path} are {plain.dtype} {plain.shape}, not those of this report",
            "name the file that `score` wrote beside these scores",
        )
    return Pictures({"plain": plain, **pictures.columns})


def shown_finding(findings: Sequence[JudgedFinding], verdict: Verdict, attack: str) -> JudgedFinding | None:
    """Return the finding of an attack that is shown: at the smallest pool that succeeds, else at the largest."""
    ran = [finding for finding in findings if finding.attack == attack and not finding.error]
    if not ran:
        return None
    sizes = {attack: max(finding.pool_size for finding in ran), **verdict.readable_at, **verdict.broken_at}
    size = sizes[attack]
    return next(
        (finding for finding in findings if (finding.attack, finding.pool_size) == (attack, size)), None
    )


def move_of(finding: JudgedFinding) -> Move:
    """Return the move of the guesses. Where every image has its own key they are shown as they came.

    Guesses that the second look alone can read are shown as that look sees them.
    """
    figures = finding.figures
    chosen = figures.move if figures else None
    if figures and figures.second_look and finding.readable_by and not breaking_measures(figures):
        chosen = figures.second_look.move or chosen
    return Move(**dict(chosen)) if chosen else Move()
