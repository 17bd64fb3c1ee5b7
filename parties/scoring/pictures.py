"""Plain images for a report: those of a public source may leave the hospital, all others stay in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from coordinator.exchange.audit.scores import Scores
from coordinator.report.pictures import Pictures, gather, pictured_draw
from coordinator.report.records import Report
from crypto.arrays import Images
from crypto.files import write_bytes
from crypto.tensor_file import tensor_bytes
from parties.sealing.place import Place
from parties.sealing.seal import plain_rows


def write_public_plain(place: Place, scores: Scores, guesses: Path, out: Path) -> None:
    """Write the pictured plain images for the coordinator's report; do nothing if the source is not public."""
    if scores.audited and place.plain("train").public:
        write_bytes(out, tensor_bytes({"plain": _pictured_plain(place, scores, guesses)}))


def private_pictures(place: Place, report: Report, scores: Scores, guesses: Path) -> Pictures:
    """Return a report's pictures with the hospital's own plain images in the first column."""
    sealed = place.sealed(scores.audited[0].set_name)
    pictures = gather(guesses, report, scores, sealed)
    return Pictures({"plain": _pictured_plain(place, scores, guesses), **pictures.columns})


def _pictured_plain(place: Place, scores: Scores, guesses: Path) -> Images:
    """Return the plain images of the rows that a report shows, uint8 [r, h, w, c]. They stay in the hospital."""
    draw, scored = pictured_draw(guesses, scores)
    return plain_rows(place, scored.set_name, draw.rows[np.array(scored.pictured, np.int64)])
