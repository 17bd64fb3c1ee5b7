"""The suite: fixed attacks at fixed pool sizes, over every draw of key and pool (draws.py).

Rows and pools are drawn before any attack runs, and guesses are frozen by digest. Attacks read sealed files and
nothing else, except for the public images and the training that they are given. Cells (cell.py) run one after another
or side by side (workers.py). A crash in one cell is a finding and does not end the suite. A killed run continues with
the guesses that are missing.
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
from coordinator.adversary.run.cell import Cell, study_digest, training_key_ids
from coordinator.adversary.run.draws import (
    Settings,
    find_public_control,
    find_sets,
    group_by_key,
    plan_cells,
    plan_draw,
    uses_training,
)
from coordinator.adversary.run.workers import run_cells
from coordinator.exchange.audit.control_sets import PREFIX
from coordinator.exchange.audit.guesses import (
    FILE,
    MOST_GUESSES,
    SCHEMA,
    Draw,
    StoredGuess,
    read_draws,
    require_whole,
    write_draws,
)
from coordinator.exchange.audit.suite2 import SUITE
from coordinator.exchange.time_left import Countdown
from crypto.errors import CipherwardError, unknown
from crypto.files import append_line, disk_errors, folder_lock, read_lines, sha256_file, write_text
from crypto.plural import counted
from crypto.sets.dataset import SealedDataset

__all__ = ["Settings", "Workers", "find_sets", "plan_draw", "run_suite"]

Log = Callable[[str], None]


@dataclass(frozen=True)
class Workers:
    """Where cells run.

    Attributes:
        jobs: the number of processes; 1 stands for this process.
        ray: the address of a Ray cluster, or `local`; empty for processes of this machine.
    """

    jobs: int = 1
    ray: str = ""


IN_THIS_PROCESS = Workers()
#: What a folder of guesses has from its first moment on.
JOURNAL = "progress.jsonl"


def _ignore(_line: str) -> None:
    """Drop a line of the log."""


def run_suite(
    sets: Sequence[SealedDataset],
    out: Path,
    settings: Settings,
    log: Log = _ignore,
    workers: Workers = IN_THIS_PROCESS,
    prepare: Callable[[], None] = lambda: None,
) -> list[Draw]:
    """Attack every draw and freeze the guesses in `out`.

    The guesses do not depend on where the cells run, unless an attack runs out of time.

    Args:
        sets: the sealed sets. The first set of each key is the one audited.
        out: the folder of the guesses.
        settings: what is attacked, and how.
        log: gets one line for each cell.
        workers: where the cells run.
        prepare: called before the first cell runs, if any has to.

    Returns:
        The draws with their guesses.

    Raises:
        CipherwardError: for an unknown attack, an altered shard, or a folder with other guesses.
    """
    settings = replace(settings, attacks=list(dict.fromkeys(settings.attacks)))
    check_attacks(settings.attacks, settings.study is not None)
    digests = [s.digest for s in sets]
    if len(set(digests)) < len(digests):
        raise CipherwardError(
            "a sealed set is named twice", "its rows would be in the pool and among the rows to guess"
        )
    with disk_errors(out):
        out.mkdir(mode=0o700, parents=True, exist_ok=True)  # guesses may show patients' images
    with folder_lock(out):
        return _run(sets, out, settings, log, workers, prepare)


def check_attacks(attacks: Sequence[str], has_study: bool) -> None:
    """Raise CipherwardError for an attack that is unknown or not part of an audit.

    Args:
        attacks: their names.
        has_study: whether a training is observed, which some attacks need.
    """
    for name in attacks:
        if name not in ATTACKS:
            raise unknown("attack", name, ATTACKS)
        if not (ATTACKS[name].in_suite or (uses_training(name) and has_study)):
            raise CipherwardError(
                f"{name} is not part of an audit: it needs {ATTACKS[name].needs}",
                f"attacks of an audit: {', '.join(a for a in ATTACKS if ATTACKS[a].in_suite)}",
            )


def _run(
    sets: Sequence[SealedDataset],
    out: Path,
    settings: Settings,
    log: Log,
    workers: Workers,
    prepare: Callable[[], None],
) -> list[Draw]:
    groups, public_control = group_by_key(sets, settings.attacks), find_public_control(sets)
    numbers = settings.draw_numbers or range(len(groups))
    if len(numbers) != len(groups):
        raise CipherwardError(
            f"{counted(len(numbers), 'number')} for {counted(len(groups), 'draw')}", "name one for each key"
        )
    planned = [plan_draw(f"draw-{i}", i, group, settings) for i, group in zip(numbers, groups, strict=True)]
    training_keys = training_key_ids(settings.study)
    _check_training(training_keys, planned, groups, settings)
    about = _about(settings, public_control)
    identity = _identity(about, planned)
    if (out / FILE).exists():
        draws, earlier = read_draws(out)
        if _identity({k: earlier.get(k, "") for k in about}, draws) != identity:
            raise CipherwardError(
                f"{out} holds the guesses of another audit", "choose another --out; frozen guesses stay"
            )
        require_whole(out, draws)
        log("the guesses are there already")
        return draws
    journal = out / JOURNAL
    done = _resume(journal, identity, out)
    cells = [
        plan_cells(draw, group, settings, public_control, out, training_keys)
        for draw, group in zip(planned, groups, strict=True)
    ]
    most = max(map(len, cells), default=0)
    if most > MOST_GUESSES:
        raise CipherwardError(
            f"{most} guesses about one draw: a scorer takes {MOST_GUESSES} at most",
            "name fewer attacks or pool sizes",
        )
    all_cells = [cell for of_draw in cells for cell in of_draw]
    if any(cell.file not in done for cell in all_cells):
        prepare()
    done = _finish(all_cells, done, journal, log, workers)
    # In the order planned, whatever the order in which the cells finished.
    draws = [
        replace(draw, guesses=[done[cell.file] for cell in of_draw])
        for draw, of_draw in zip(planned, cells, strict=True)
    ]
    write_draws(out, draws, {**about, "created": int(time.time()), "jobs": workers.jobs})
    journal.unlink()
    return draws


def _finish(
    cells: Sequence[Cell], done: dict[str, StoredGuess], journal: Path, log: Log, workers: Workers
) -> dict[str, StoredGuess]:
    """Run the cells that are not done, write each one to the journal, and return all guesses by file."""
    done = dict(done)
    for cell in cells:
        if cell.file in done:
            log(_summary(cell, done[cell.file]))
    missing = [cell for cell in cells if cell.file not in done]
    countdown = Countdown(len(cells), len(done))
    with contextlib.closing(run_cells(missing, workers.jobs, workers.ray)) as finished:
        for cell, stored in finished:
            append_line(journal, json.dumps({"place": cell.file, "guess": stored.__dict__}))
            done[cell.file] = stored
            log(f"{_summary(cell, stored)}; {countdown.after(len(done))}")
    return done


def _check_training(
    training_keys: frozenset[str],
    draws: Sequence[Draw],
    groups: Sequence[Sequence[SealedDataset]],
    settings: Settings,
) -> None:
    """Raise CipherwardError if the observed training was under none of the keys that are audited."""
    audited = {
        draw.key_id
        for draw, group in zip(draws, groups, strict=True)
        if not group[0].folder.name.startswith(PREFIX)
    }
    if training_keys and not training_keys & audited:
        raise CipherwardError(
            f"the training in {settings.study} was under other keys than these sealed images",
            "name the study that trained on them, or attack without --study",
        )


def _about(settings: Settings, public_control: SealedDataset | None) -> dict[str, Any]:
    """Return what two runs on the same sets must share to be the same audit."""
    public = b"" if settings.public is None else np.ascontiguousarray(settings.public).tobytes()
    return {
        "public": hashlib.sha256(public).hexdigest() if public else "",
        "control_public": "" if public_control is None else public_control.digest,
        "study": study_digest(settings.study),
        "suite": SUITE,
        "seed": settings.seed,
        "attacks": list(settings.attacks),
        "pools": list(settings.pools),
        "rows": settings.rows,
        "budget_s": settings.budget_s,
        **({"draw_numbers": list(settings.draw_numbers)} if settings.draw_numbers else {}),
    }


def _identity(about: dict[str, Any], draws: Sequence[Draw]) -> str:
    """Return the line of JSON that identifies an audit."""
    return json.dumps([SCHEMA, about, [draw.digests for draw in draws]])


def _summary(cell: Cell, guess: StoredGuess) -> str:
    """Return the log's line for a cell."""
    outcome = guess.error or f"{guess.seconds:.2f} s" + (f" ({guess.note})" if guess.note else "")
    return f"{cell.draw} {cell.scheme}: {cell.info.name} at {guess.pool_size}: {outcome}"


def _resume(journal: Path, identity: str, out: Path) -> dict[str, StoredGuess]:
    """Return the guesses of an interrupted run of the same audit whose files are whole. Failed cells run again."""
    lines = read_lines(journal)
    if not lines:  # there is none; or a full disk or a power cut left nothing of it
        write_text(journal, f"{identity}\n")
        return {}
    first, *entries = lines
    if isinstance(first, dict):
        raise CipherwardError(
            f"{journal} is damaged: its first line, which says whose guesses these are, is missing",
            f"remove {out}, and run the same command again",
        )
    if first != json.loads(identity):
        raise CipherwardError(
            f"{out} holds another, unfinished audit", "choose another --out, or remove it"
        )
    done = {}
    for entry in entries:
        try:
            guess, path = StoredGuess(**entry["guess"]), out / str(entry["place"])
        except (KeyError, TypeError):
            continue  # of another version, or damaged: that cell runs again
        if not guess.error and path.is_file() and sha256_file(path) == guess.sha256:
            done[entry["place"]] = guess
    return done
