"""Which guesses a hospital accepts for scoring: about its own sets, as many rows as it asks, well-formed, and once.

All of it is checked before anything is scored, so that refused guesses use up no set. The ledger,
private/score-ledger.jsonl, remembers which guesses were scored against a sealed set.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coordinator.exchange import control_sets as controls
from coordinator.exchange.guesses import FILE, MOST_GUESSES, Draw, audit_rows, load_guess, read_draws
from crypto.errors import CipherwardError
from crypto.files import append_line, read_lines, sha256_file
from crypto.sets.dataset import SealedDataset
from parties.scoring.key_share import require_well_formed
from parties.scoring.truth import countable_rows
from parties.sealing.place import Place
from parties.sealing.seal import plan_sealing


@dataclass(frozen=True)
class Submission:
    """Guesses about sets of this hospital.

    Attributes:
        folder: The guesses folder.
        draws: Each draw about this hospital, with the name of its sealed set.
        sha256: Digest of guesses.json.
        seed: The seed that rows were drawn from, as the cloud states it; -1 if it does not.
        budget_s: Seconds that an attack had, as the cloud states it; None if it does not, or states something else.
    """

    folder: Path
    draws: list[tuple[Draw, str]]
    sha256: str
    seed: int
    budget_s: float | None


def read_submission(place: Place, guesses: Path, rows: int) -> Submission:
    """Read a guesses folder, and check that its draws are what the suite makes of this hospital's sets.

    Raises:
        CipherwardError: If no draw is about this hospital, or a draw is not what the suite makes.
    """
    draws, about = read_draws(guesses)
    names = _set_names(place)
    seed, stated_rows = about.get("seed", -1), about.get("rows", 0)
    mine = [(draw, names[draw.digests[0]]) for draw in draws if draw.digests[0] in names]
    if not mine:
        raise CipherwardError(
            f"{guesses} holds no guesses about images of {place.settings.party}",
            "the first sealed set given to `attack` decides whose images are scored",
        )
    for index, draw in enumerate(draws):
        name = names.get(draw.digests[0])
        if name is not None:
            _require_own_set(draw, name)
            sealed = place.sealed(name)
            _require_suite_draw(draw, sealed, index, seed, stated_rows)
            _require_rows(draw, sealed, index, seed, rows)
    if len({draw.digests[0] for draw, _ in mine}) < len(mine):
        raise CipherwardError("two draws of the guesses are about one sealed set", "attack each set once")
    return Submission(
        guesses, mine, sha256_file(guesses / FILE), seed, _positive_seconds(about.get("budget_s"))
    )


def accept(place: Place, submission: Submission, rows: int) -> None:
    """Check everything that would stop a score midway, then write the ledger.

    Raises:
        CipherwardError: If the key, the rows or a guess do not fit, or other guesses about a set were scored before.
    """
    for draw, name in submission.draws:
        place.sealed(name).require_key(plan_sealing(place, name).key())
        countable_rows(place, draw, name, rows)
        for guess in draw.guesses:
            if not guess.error:
                images, key = load_guess(submission.folder, guess)
                require_well_formed(guess, images, key, draw.spec, len(draw.rows))
    _record(place, submission)


def _require_own_set(draw: Draw, name: str) -> None:
    if name == "train" or name in controls.SETS or re.fullmatch(r"audit-\d+", name):
        return
    raise CipherwardError(
        f"{draw.name} is about {name}, whose images are not scored",
        "attack the sealed sets train, audit-N and the controls",
    )


def _require_suite_draw(draw: Draw, sealed: SealedDataset, index: int, seed: int, rows: int) -> None:
    """Check scheme, key, rows and number of guesses against what the suite makes of a set."""
    expected = audit_rows(seed, index, len(sealed), rows) if seed >= 0 and rows > 0 else draw.rows[:0]
    cells = {(guess.attack, guess.pool_size) for guess in draw.guesses}
    if draw.spec != sealed.spec or draw.key_id != sealed.key_id:
        problem = "another scheme or key than the set's"
    elif not np.array_equal(draw.rows, expected):
        problem = "other rows than the seed draws"
    elif len(cells) < len(draw.guesses) or len(draw.guesses) > MOST_GUESSES:
        problem = "an attack twice, or too many guesses"
    else:
        return
    raise CipherwardError(
        f"{draw.name} is about {sealed.folder.name} but names {problem}",
        "have it attacked again by the suite",
    )


def _require_rows(draw: Draw, sealed: SealedDataset, index: int, seed: int, rows: int) -> None:
    """Check that the cloud guessed as many rows as the hospital's setting makes of the set."""
    if len(draw.rows) < len(audit_rows(seed, index, len(sealed), rows)):
        raise CipherwardError(
            f"{draw.name} guesses fewer rows of {sealed.folder.name} than the {rows} images to be scored",
            f"have it attacked again with --rows {rows}",
        )


def _set_names(place: Place) -> dict[str, str]:
    """Return the names of the hospital's sealed sets, by their digests."""
    return {
        SealedDataset.open(folder).digest: folder.name
        for folder in sorted((place.folder / "sealed").glob("*"))
        if (folder / "manifest.json").exists()
    }


def _positive_seconds(stated: object) -> float | None:
    return float(stated) if isinstance(stated, int | float) and stated > 0 else None


def _record(place: Place, submission: Submission) -> None:
    """Write to the ledger which guesses are scored; refuse a set that other guesses were scored against."""
    ledger = place.private / "score-ledger.jsonl"
    recorded = {entry["set"]: entry["guesses"] for entry in read_lines(ledger)}
    digests = [draw.digests[0] for draw, _ in submission.draws]
    for digest in digests:
        if recorded.get(digest, submission.sha256) != submission.sha256:
            raise CipherwardError(
                f"other guesses about sealed set {digest[:16]} were scored before",
                "a scorer that answers twice is an oracle: seal a new audit set, then attack that",
            )
    for digest in digests:
        if digest not in recorded:
            entry = {"set": digest, "guesses": submission.sha256, "time": int(time.time())}
            append_line(ledger, json.dumps(entry))
