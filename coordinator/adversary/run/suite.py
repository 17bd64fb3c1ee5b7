"""The suite: fixed attacks at pool sizes fixed beforehand, over every draw of key and pool (draws.py).

Rows and pools are drawn before any attack runs, and guesses are frozen by digest. Attacks read sealed files and
nothing else, but for the public images and the training that they are given. Cells (cells.py) run one after another
or side by side (workers.py); a crash in one is a finding, not the end. A killed run continues with the guesses that
are not there yet.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from coordinator.adversary.registry import ATTACKS
from coordinator.adversary.run.cell import Cell, keys_of, study_digest
from coordinator.adversary.run.draws import (
    POOLS,
    Settings,
    cells_of,
    control_public,
    draws_of,
    find_sets,
    plan_draw,
    watches,
)
from coordinator.adversary.run.workers import run_cells
from coordinator.exchange.control_sets import PREFIX
from coordinator.exchange.guesses import (
    FILE,
    MOST_GUESSES,
    SCHEMA,
    Draw,
    StoredGuess,
    read_draws,
    write_draws,
)
from crypto.errors import CipherwardError, unknown
from crypto.files import append_line, disk_errors, only_one, read_lines, sha256_file
from crypto.sets.dataset import SealedDataset

__all__ = ["POOLS", "Settings", "Where", "draws_of", "find_sets", "plan_draw", "run_suite"]

SUITE = "suite/1"


@dataclass(frozen=True)
class Where:
    """Where cells run: in this process (jobs = 1), in so many beside each other, or at a Ray address."""

    jobs: int = 1
    ray: str = ""


HERE = Where()


def run_suite(
    sets: Sequence[SealedDataset],
    out: Path,
    settings: Settings,
    log: Callable[[str], None] = lambda line: None,
    where: Where = HERE,
) -> list[Draw]:
    """Attacks every draw and freezes the guesses in `out`. Returns the draws with their guesses.

    The guesses do not depend on where the cells run, unless one runs out of time. Raises CipherwardError for an
    unknown attack, an altered shard, and a folder of other guesses.
    """
    settings = replace(settings, attacks=list(dict.fromkeys(settings.attacks)))
    for name in settings.attacks:
        if name not in ATTACKS:
            raise unknown("attack", name, ATTACKS)
        if not (ATTACKS[name].in_suite or (watches(name) and settings.study is not None)):
            raise CipherwardError(
                f"{name} is no part of an audit: it needs {ATTACKS[name].needs}",
                f"attacks of an audit: {', '.join(a for a in ATTACKS if ATTACKS[a].in_suite)}",
            )
    digests = [s.digest for s in sets]
    if len(set(digests)) < len(digests):
        raise CipherwardError(
            "a sealed set is named twice", "its rows would be in the pool and in the audit"
        )
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    with only_one(out):
        return _run(sets, out, settings, log, where)


def _run(
    sets: Sequence[SealedDataset],
    out: Path,
    settings: Settings,
    log: Callable[[str], None],
    where: Where,
) -> list[Draw]:
    groups, public = draws_of(sets, settings.attacks), control_public(sets)
    planned = [plan_draw(f"draw-{i}", i, group, settings) for i, group in enumerate(groups)]
    keys = keys_of(settings.study)
    if keys and not any(
        d.key_id in keys for d, own in zip(planned, groups, strict=True) if not _control(own)
    ):
        raise CipherwardError(
            f"the training in {settings.study} was under other keys than these sealed images",
            "name the study that trained on them, or attack without --study",
        )
    about = _about(settings, public)
    identity = json.dumps([SCHEMA, about, [d.digests for d in planned]])
    if (out / FILE).exists():
        draws, earlier = read_draws(out)
        if (
            json.dumps([SCHEMA, {k: earlier.get(k, "") for k in about}, [d.digests for d in draws]])
            != identity
        ):
            raise CipherwardError(
                f"{out} holds the guesses of another audit", "choose another --out; frozen guesses stay"
            )
        log("the guesses are there already")
        return draws
    journal = out / "progress.jsonl"
    done = _resume(journal, identity, out)
    cells = [
        cells_of(draw, group, settings, public, out, keys)
        for draw, group in zip(planned, groups, strict=True)
    ]
    most = max(map(len, cells), default=0)
    if most > MOST_GUESSES:
        raise CipherwardError(
            f"{most} guesses about one draw: a scorer takes {MOST_GUESSES} at most",
            "name fewer attacks or pool sizes",
        )
    every = [cell for own in cells for cell in own]
    for cell in every:
        if cell.place in done:
            log(_says(cell, done[cell.place]))
    missing = [cell for cell in every if cell.place not in done]
    with contextlib.closing(run_cells(missing, where.jobs, where.ray)) as finished:
        for cell, stored in finished:
            append_line(journal, json.dumps({"place": cell.place, "guess": stored.__dict__}))
            done[cell.place] = stored
            log(_says(cell, stored))
    # In the order planned, whatever the order in which they were finished.
    draws = [
        replace(draw, guesses=[done[cell.place] for cell in own])
        for draw, own in zip(planned, cells, strict=True)
    ]
    write_draws(out, draws, {**about, "created": int(time.time()), "jobs": where.jobs})
    journal.unlink()
    return draws


def _about(settings: Settings, public: SealedDataset | None) -> dict[str, Any]:
    """What makes two audits of the same sets the same one."""
    given = b"" if settings.public is None else np.ascontiguousarray(settings.public).tobytes()
    return {
        "public": hashlib.sha256(given).hexdigest() if given else "",
        "control_public": "" if public is None else public.digest,
        "study": study_digest(settings.study),
        "suite": SUITE,
        "seed": settings.seed,
        "attacks": list(settings.attacks),
        "pools": list(settings.pools),
        "rows": settings.rows,
        "budget_s": settings.budget_s,
    }


def _control(group: Sequence[SealedDataset]) -> bool:
    return group[0].folder.name.startswith(PREFIX)


def _says(cell: Cell, guess: StoredGuess) -> str:
    said = guess.error or f"{guess.seconds:.2f} s" + (f" ({guess.note})" if guess.note else "")
    return f"{cell.draw} {cell.scheme}: {cell.info.name} at {guess.pool_size}: {said}"


def _resume(journal: Path, identity: str, out: Path) -> dict[str, StoredGuess]:
    """Guesses of an interrupted run of the same audit whose files are whole; cells that failed run again."""
    if not journal.exists():
        append_line(journal, identity)
        return {}
    first, *entries = read_lines(journal) or [None]
    if first != json.loads(identity):
        raise CipherwardError(
            f"{out} holds another, unfinished audit", "choose another --out, or remove it"
        )
    done = {}
    for entry in entries:
        guess = StoredGuess(**entry["guess"])
        path = out / entry["place"]
        if not guess.error and path.is_file() and sha256_file(path) == guess.sha256:
            done[entry["place"]] = guess
    return done
