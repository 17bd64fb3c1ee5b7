"""Which guesses a hospital accepts for scoring: about its own sets, as many rows as it asks, well-formed, and once.

All of it is checked before anything is scored, so that refused guesses use up no set.

The ledger (score_ledger.py) remembers for each sealed set which guesses were scored against it, and with which rows,
gallery and seed. The same question has the same answer, and every other question is refused: the answers
about 40 rows and about 41 would differ by one image's answer. A set is known by its digest, and by its content: key,
scheme and plain images. So a copy of it, and the same images sealed once more under the same key, are the same set.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from coordinator.exchange.audit import control_sets as controls
from coordinator.exchange.audit.guesses import (
    FILE,
    MOST_GUESSES,
    Draw,
    audit_rows,
    load_guess,
    most_guess_bytes,
    read_draws,
)
from crypto.errors import CipherwardError
from crypto.files import json_text, read_json, sha256_file
from crypto.plural import counted
from crypto.sets.dataset import SealedDataset
from crypto.spec import SchemeSpec
from parties.scoring.key_share import require_well_formed
from parties.scoring.score_ledger import ScoreLedger
from parties.scoring.stated_pools import require_possible_pools
from parties.scoring.truth import countable_rows
from parties.sealing.audit_sets import is_audit_set, read_map
from parties.sealing.place import Place
from parties.sealing.seal import DecodedImages, plan_sealing
from parties.sources.source import Share

Log = Callable[[str], None]

#: Seconds that a stated budget is below: 30 years.
_LONGEST_BUDGET = 1e9
#: Seconds since 1970 that a ledger's time is below: the year 9999.
_LATEST = 253_370_764_800
#: Rows that a guesses file can name are below this; a draw has at most half of its set's.
_MOST_ROWS = 1 << 31


@dataclass(frozen=True)
class Submission:
    """Guesses about sets of this hospital.

    Attributes:
        folder: The guesses folder.
        draws: Each draw about this hospital, with the name of its sealed set.
        sha256: Digest of guesses.json.
        seed: The seed that rows were drawn from, as the cloud states it.
        budget_s: Seconds that an attack had, as the cloud states it; None if it does not.
        rows: How many rows the cloud was asked to guess.
        numbers: The number of each draw, by its name: rows and pool follow from it.
        declared: Of draws about a control that the cloud took for the audited scheme, by their names: that scheme.
            The draws themselves name the control and its own scheme.
    """

    folder: Path
    draws: list[tuple[Draw, str]]
    sha256: str
    seed: int
    budget_s: float | None
    rows: int
    numbers: Mapping[str, int]
    declared: Mapping[str, SchemeSpec]


def read_submission(place: Place, guesses: Path, rows: int) -> Submission:
    """Read a guesses folder, and check that its draws are what the suite makes of this hospital's sets.

    Raises:
        CipherwardError: If no draw is about this hospital, or a draw is not what the suite makes.
    """
    draws, about = read_draws(guesses)
    names = _set_names(place)
    seed, stated_rows = _stated_rows(about)
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
            require_possible_pools(
                draw, name, {d: len(place.sealed(names[d])) for d in draw.digests if d in names}
            )
    _require_all_audit_sets(place, [(draw, name) for draw, name in mine if is_audit_set(name)], names)
    if len({draw.digests[0] for draw, _ in mine}) < len(mine):
        raise CipherwardError("two draws of the guesses are about one sealed set", "attack each set once")
    numbers = {draw.name: index for index, draw in enumerate(draws)}
    if len(numbers) < len(draws):
        raise CipherwardError(
            "two draws of the guesses have one name", "have them attacked again by the suite"
        )
    digest, budget = sha256_file(guesses / FILE), _stated_budget(about)
    sets = read_map(place)
    controls_of = {} if sets is None else sets.controls
    declared = {draw.name: draw.spec for draw, name in mine if name in controls_of}
    mine = [_about_control(place, draw, controls_of.get(name), name) for draw, name in mine]
    return Submission(guesses, mine, digest, seed, budget, stated_rows, numbers, declared)


def _about_control(place: Place, draw: Draw, control: str | None, name: str) -> tuple[Draw, str]:
    """Return a draw about a declared copy as one about the control behind it; any other as it is."""
    if control is None:
        return draw, name
    return replace(draw, spec=place.sealed(control).spec), control


def _require_all_audit_sets(
    place: Place, draws: Sequence[tuple[Draw, str]], names: Mapping[str, str]
) -> None:
    """Check that guesses about sets whose names tell nothing are about all of them, and about no image twice.

    Whoever may leave some out could leave out the draws that it broke, or what it takes for blind controls.
    """
    sets = read_map(place)
    if not draws or sets is None:
        return
    absent = set(sets.names) - {name for _, name in draws}
    if absent:
        raise CipherwardError(
            f"the guesses leave out {len(absent)} of the "
            f"{counted(len(sets.names), 'set that was', 'sets that were')} sealed for this audit",
            "have all of sealed/set-* attacked",
        )
    for draw, name in draws:
        if others := [names[digest] for digest in draw.digests[1:] if digest in names]:
            raise CipherwardError(
                f"{draw.name} is about {name}, and its pool has the same images in {others[0]}",
                "have it attacked again without that set",
            )


def accept(
    place: Place,
    submission: Submission,
    rows: int,
    gallery: int,
    log: Log = lambda _: None,
    decoded: DecodedImages | None = None,
) -> None:
    """Check everything that would stop a score midway, then write the ledger.

    Args:
        place: The hospital.
        submission: The guesses.
        rows: How many audit images the hospital asks for.
        gallery: How many plain images a guess can name.
        log: Called with a line of progress.
        decoded: Plain images that were decoded before; it is added to.

    Raises:
        CipherwardError: If the key, the rows or a guess do not fit, or if another question about a set was answered
            before.
    """
    for number, (draw, name) in enumerate(submission.draws, 1):
        log(f"checking the guesses, draw {number} of {len(submission.draws)}")
        place.sealed(name).require_key(plan_sealing(place, name).key())
        countable_rows(place, draw, name, rows, decoded)
        for guess in draw.guesses:
            if not guess.error:
                spec = submission.declared.get(draw.name, draw.spec)
                images, key = load_guess(submission.folder, guess, most_guess_bytes(spec, len(draw.rows)))
                require_well_formed(guess, images, key, spec, len(draw.rows))
    for entry in _new_entries(place, submission, rows, gallery):
        ScoreLedger(place).append(entry)


def require_same_question(place: Place, submission: Submission, rows: int, gallery: int) -> None:
    """Check that the ledger knows no other question about the sets of a submission. Nothing is written.

    Raises:
        CipherwardError: If another question about a set was answered before.
    """
    _new_entries(place, submission, rows, gallery)


def _stated_rows(about: Mapping[str, object]) -> tuple[int, int]:
    """Return the seed and the number of rows that the cloud drew its rows from.

    Raises:
        CipherwardError: If it does not name them: then no draw can be checked.
    """
    seed, rows = about.get("seed"), about.get("rows")
    if isinstance(seed, int) and isinstance(rows, int) and 0 < rows < _MOST_ROWS:
        return seed, rows
    raise CipherwardError(
        f"{FILE} does not name the seed and the number of rows that its draws are of",
        "have it attacked again by the suite",
    )


def _require_own_set(draw: Draw, name: str) -> None:
    if name == "train" or name in controls.SETS or is_audit_set(name) or re.fullmatch(r"audit-\d+", name):
        return
    raise CipherwardError(
        f"{draw.name} is about {name}, whose images are not scored",
        "attack the sealed sets train, audit-N and the controls",
    )


def _require_suite_draw(draw: Draw, sealed: SealedDataset, index: int, seed: int, rows: int) -> None:
    """Check scheme, key, rows and number of guesses against what the suite makes of a set."""
    expected = audit_rows(seed, index, len(sealed), rows)
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


def _stated_budget(about: Mapping[str, object]) -> float | None:
    """Return the seconds that an attack had, as the cloud states them; None if it does not.

    Raises:
        CipherwardError: If it states something else than a time.
    """
    stated = about.get("budget_s")
    if stated is None:
        return None
    if isinstance(stated, bool) or not isinstance(stated, int | float) or not 0 < stated < _LONGEST_BUDGET:
        raise CipherwardError(
            f"{FILE} names the budget_s {stated!r:.40}, which is no time in seconds",
            "have it attacked again by the suite",
        )
    return float(stated)


def _content_of(place: Place, draw: Draw, name: str) -> str:
    """Return a digest of a sealed set's key, scheme and plain images, whatever its name and the order of its rows.

    It is keyed and stays in the hospital: a plain digest would confirm a known image.
    """
    record = read_json(place.rows_file(name), "row list")
    options = {field: value for field, value in draw.spec.options.items() if field != "nonce"}
    spec = {**draw.spec.to_json(), "options": options}
    sealing = plan_sealing(place, name)
    source, rows = record["source"], record["rows"]
    if is_audit_set(name) and not sealing.throwaway and isinstance(sealing.source, Share):
        # In other words: which images of `train`. The same ones under the same key are the same set.
        source, rows = sealing.source.source.fingerprint(), sealing.source.rows[rows].tolist()
    content = {"spec": spec, "source": source, "rows": sorted(rows)}
    key = sealing.key()
    return key.derive("score-ledger").mac(b"content", json_text(content).encode()).hex()


def has_scored_own_key(place: Place, key_id: str) -> bool:
    """Return whether guesses about images under this key of the hospital's own were scored before."""
    train = place.sealed_folder("train")
    # Lines of earlier versions name no key; those about `train` are known by its digest.
    digest = SealedDataset.open(train).digest if (train / "manifest.json").exists() else None
    entries = ScoreLedger(place).entries()
    return any(e.get("own_key") == key_id or (digest and e.get("set") == digest) for e in entries)


def scored_at(place: Place, submission: Submission) -> str | None:
    """Return when the ledger noted a submission, UTC in ISO 8601; None if a line of an earlier version has no time.

    It is the time of the first answer. The same question asked again has the same one, byte for byte.
    """
    digests = {draw.digests[0] for draw, _ in submission.draws}
    latest = 0
    for entry in ScoreLedger(place).entries():
        if entry.get("guesses") != submission.sha256:
            continue
        moment = entry.get("time")
        if entry.get("set") in digests:
            if not isinstance(moment, int) or not 0 < moment < _LATEST:
                return None
            latest = max(latest, moment)
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(latest)) if latest else None


def _new_entries(place: Place, submission: Submission, rows: int, gallery: int) -> list[dict[str, object]]:
    """Return what the ledger must note of the guesses that are scored, and how.

    Raises:
        CipherwardError: If a set was scored before against other guesses, or with other settings.
    """
    settings = {"rows": rows, "gallery": gallery, "seed": place.settings.seed}
    recorded = ScoreLedger(place).entries()
    entries = []
    for draw, name in submission.draws:
        digest, content = draw.digests[0], _content_of(place, draw, name)
        earlier = [e for e in recorded if e.get("set") == digest or e.get("content") == content]
        for entry in earlier:
            _require_same_question(entry, submission.sha256, settings, f"sealed set {name} ({digest[:16]})")
        if not earlier:
            entry = {"set": digest, "content": content, "guesses": submission.sha256, **settings}
            if not plan_sealing(place, name).throwaway:
                entry["own_key"] = draw.key_id
            entries.append(entry)
    return entries


def _require_same_question(
    entry: Mapping[str, object], guesses: str, settings: Mapping[str, int], what: str
) -> None:
    """Check that an earlier answer was to the same question: the same guesses, rows, gallery and seed."""
    if entry.get("guesses") != guesses:
        raise CipherwardError(
            f"other guesses about {what} were scored before",
            "a scorer that answers twice is an oracle: seal a new audit set, then attack that",
        )
    for name, value in settings.items():
        if entry.get(name) != value:
            # A line of an earlier version names no settings: no repetition is known to be the same question.
            earlier = f"{name} {entry[name]}" if name in entry else f"an unrecorded number of {name}"
            raise CipherwardError(
                f"{what} was scored with {earlier} before, and now {name} {value} is asked",
                "two answers differ by single images: ask with the earlier setting, or seal a new audit set",
            )
