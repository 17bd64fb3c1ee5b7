"""Which guesses the scorer accepts: about its own training images, as many rows as it wants, sound, and once.

All of it is checked before anything is scored. The ledger remembers which guesses were scored against a sealed set.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import numpy as np

from coordinator.exchange import control_sets as controls
from coordinator.exchange.guesses import MOST_GUESSES, Draw, audit_rows, load_guess
from crypto.errors import CipherwardError
from crypto.files import append_line, read_lines
from parties.scoring.key_share import must_be_sound
from parties.scoring.truth import counted
from parties.sealing.place import Place
from parties.sealing.seal import sealing


def must_be_ours(place: Place, name: str, draw: Draw, index: int, seed: int, asked: int) -> None:
    """Raises CipherwardError where a draw is not what the suite makes of this place's set."""
    if not (name == "train" or name in controls.SETS or re.fullmatch(r"audit-\d+", name)):
        raise CipherwardError(
            f"{draw.name} is about {name}, whose images are not scored",
            "attack the sealed sets train, audit-N and the controls",
        )
    sealed = place.sealed(name)
    expected = audit_rows(seed, index, len(sealed), asked) if seed >= 0 and asked > 0 else draw.rows[:0]
    kinds = {(g.attack, g.pool_size) for g in draw.guesses}
    if draw.spec != sealed.spec or draw.key_id != sealed.key_id:
        said = "another scheme or key than the set's"
    elif not np.array_equal(draw.rows, expected):
        said = "other rows than the seed draws"
    elif len(kinds) < len(draw.guesses) or len(draw.guesses) > MOST_GUESSES:
        said = "an attack twice, or too many guesses"
    else:
        return
    raise CipherwardError(
        f"{draw.name} is about {name} but names {said}", "have it attacked again by the suite"
    )


def must_be_enough(place: Place, name: str, draw: Draw, index: int, seed: int, rows: int) -> None:
    """Raises CipherwardError where the cloud guessed fewer rows than the hospital's setting makes of the set."""
    if len(draw.rows) < len(audit_rows(seed, index, len(place.sealed(name)), rows)):
        raise CipherwardError(
            f"{draw.name} guesses fewer rows of {name} than the {rows} images to be scored",
            f"have it attacked again with --rows {rows}",
        )


def check(place: Place, draw: Draw, name: str, folder: Path, rows: int) -> None:
    """Raises CipherwardError for all that would stop a score midway: the key, the rows, each guess's form."""
    place.sealed(name).require_key(sealing(place, name).key())
    counted(place, draw, name, rows)
    for guess in draw.guesses:
        if not guess.error:
            must_be_sound(guess, *load_guess(folder, guess), draw.spec, len(draw.rows))


def remember(place: Place, draws: list[Draw], stamp: str) -> None:
    ledger = place.private / "score-ledger.jsonl"
    known = {entry["set"]: entry["guesses"] for entry in read_lines(ledger)}
    for draw in draws:
        earlier = known.get(draw.digests[0])
        if earlier is not None and earlier != stamp:
            raise CipherwardError(
                f"other guesses about sealed set {draw.digests[0][:16]} were scored before",
                "a scorer that answers twice is an oracle: seal a new audit set, then attack that",
            )
    for draw in draws:
        if draw.digests[0] not in known:
            entry = {"set": draw.digests[0], "guesses": stamp, "time": int(time.time())}
            append_line(ledger, json.dumps(entry))
