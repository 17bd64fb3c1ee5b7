"""The suite: fixed attacks at pool sizes fixed beforehand, over every draw of key and pool.

Sealed sets are grouped by key: each key is one draw. The first set of a draw belongs to the hospital that
will score; audit rows come from it, the pool from all sets of the draw but those rows. Rows and pools
are drawn from the seed and written down before any attack runs; guesses are frozen by digest.

The suite reads sealed files and nothing else. A crash in one attack is a finding, not the end; a killed
run continues with the guesses that are not there yet.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coordinator.adversary.attacks import ABOUT, ATTACKS
from coordinator.adversary.knowledge import Budget, Knowledge
from coordinator.guesses import (
    FILE,
    SCHEMA,
    Draw,
    StoredGuess,
    audit_rows,
    read_draws,
    save_guess,
    write_draws,
)
from coordinator.pool import Pool
from crypto.errors import CipherwardError, unknown
from crypto.files import append_line, disk_errors, only_one, read_lines, sha256_file
from crypto.sealed import SealedDataset

SUITE = "suite/1"
POOLS = (1, 2, 5, 10, 20, 50, 100)


@dataclass(frozen=True)
class Settings:
    """What is fixed before the first attack runs."""

    attacks: Sequence[str]
    pools: Sequence[int]
    rows: int
    seed: int
    budget_s: float
    public: np.ndarray | None = (
        None  # uint8 [m, *image_shape], for the attacks that want public plain images
    )


def find_sets(paths: Sequence[Path]) -> list[SealedDataset]:
    """The sealed sets at these paths; a folder of sets stands for its training, audit and control sets.

    Raises CipherwardError where a path holds none.
    """
    found: list[SealedDataset] = []
    for path in map(Path, paths):
        if (path / "manifest.json").exists():
            found.append(SealedDataset.open(path))
            continue
        inner = sorted(p.parent for p in path.glob("*/manifest.json")) if path.is_dir() else []
        named = [p for p in inner if p.name not in ("val", "test")]
        # The hospital's own images are the first draw, whatever else is there.
        named.sort(key=lambda p: (p.name != "train", p.name.startswith("control"), p.name))
        if not named:
            found.append(SealedDataset.open(path))  # raises, with the reason
        found += [SealedDataset.open(p) for p in named]
    return found


def draws_of(sets: Sequence[SealedDataset]) -> list[list[SealedDataset]]:
    """The sets by key, in order of first appearance: a ciphertext pool has one key."""
    groups: dict[str, list[SealedDataset]] = {}
    for dataset in sets:
        groups.setdefault(dataset.key_id, []).append(dataset)
    return list(groups.values())


def plan_draw(
    name: str, index: int, sets: Sequence[SealedDataset], settings: Settings
) -> tuple[Draw, Pool]:
    """Rows and pools of one draw, from the seed alone. Raises CipherwardError for a set that is too small."""
    pool = Pool.of(sets)
    first = len(sets[0])
    rows = audit_rows(settings.seed, index, first, settings.rows)
    if first < 5 or len(rows) >= len(pool):
        raise CipherwardError(
            f"{sets[0].folder} holds {first} images: too few to attack some and audit others",
            "an audit needs at least 5 images, and says little below 128",
        )
    rest = np.setdiff1d(np.arange(len(pool)), rows)
    seen = np.random.default_rng([settings.seed, index, 1]).permutation(rest)[: max(settings.pools)]
    digests = [s.digest for s in sets]
    return Draw(name, pool.key_id, pool.spec, digests, len(pool), rows, seen, []), pool


def run_suite(
    sets: Sequence[SealedDataset],
    out: Path,
    settings: Settings,
    told: Callable[[str], None] = lambda line: None,
) -> list[Draw]:
    """Attacks every draw and freezes the guesses in `out`. Returns the draws with their guesses.

    Raises CipherwardError for an unknown attack, an altered shard, and a folder of other guesses.
    """
    for name in settings.attacks:
        if name not in ATTACKS:
            raise unknown("attack", name, ATTACKS)
        if not ABOUT[name].in_suite:
            raise CipherwardError(
                f"{name} is no part of an audit: it needs {ABOUT[name].needs}",
                f"attacks of an audit: {', '.join(a for a in ATTACKS if ABOUT[a].in_suite)}",
            )
    digests = [s.digest for s in sets]
    if len(set(digests)) < len(digests):
        raise CipherwardError(
            "a sealed set is named twice", "its rows would be in the pool and in the audit"
        )
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    with only_one(out):
        return _run(sets, out, settings, told)


def _run(
    sets: Sequence[SealedDataset], out: Path, settings: Settings, told: Callable[[str], None]
) -> list[Draw]:
    planned = [plan_draw(f"draw-{i}", i, group, settings) for i, group in enumerate(draws_of(sets))]
    public = settings.public
    about = {
        "public": ""
        if public is None
        else hashlib.sha256(np.ascontiguousarray(public).tobytes()).hexdigest(),
        "suite": SUITE,
        "seed": settings.seed,
        "attacks": list(settings.attacks),
        "pools": list(settings.pools),
        "rows": settings.rows,
    }
    identity = json.dumps([SCHEMA, about, [d.digests for d, _ in planned]])
    if (out / FILE).exists():
        draws, earlier = read_draws(out)
        if json.dumps([SCHEMA, {k: earlier[k] for k in about}, [d.digests for d in draws]]) != identity:
            raise CipherwardError(
                f"{out} holds the guesses of another audit", "choose another --out; frozen guesses stay"
            )
        told("the guesses are there already")
        return draws
    journal = out / "progress.jsonl"
    done = _resume(journal, identity, out)
    draws = []
    for draw, pool in planned:
        guesses = []
        for attack in settings.attacks:
            for size in _sizes(attack, settings.pools, draw):
                place = f"{draw.name}/{attack}-{size:04d}.safetensors"
                stored = done.get(place)
                if stored is None:
                    stored = _attack(attack, size, draw, pool, out, place, settings)
                    append_line(journal, json.dumps({"place": place, "guess": stored.__dict__}))
                told(f"{draw.name} {draw.spec.name}: {attack} at {size}: {_says(stored)}")
                guesses.append(stored)
        draws.append(Draw(**{**draw.__dict__, "guesses": guesses}))
    write_draws(out, draws, {**about, "created": int(time.time())})
    journal.unlink()
    return draws


def _says(guess: StoredGuess) -> str:
    return guess.error or f"{guess.seconds:.2f} s" + (f" ({guess.note})" if guess.note else "")


def _sizes(attack: str, pools: Sequence[int], draw: Draw) -> list[int]:
    # Where every image has a key of its own, one image is all that any attack has about it.
    if not ABOUT[attack].uses_pool or draw.spec.key_scope == "image":
        return [1]
    images = len(draw.seen)
    return [n for n in pools if n <= images] or [images]


def _resume(journal: Path, identity: str, out: Path) -> dict[str, StoredGuess]:
    """Guesses of an interrupted run of the same audit whose files are whole."""
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
        if guess.error or (path.is_file() and sha256_file(path) == guess.sha256):
            done[entry["place"]] = guess
    return done


def _attack(
    attack: str, size: int, draw: Draw, pool: Pool, out: Path, place: str, settings: Settings
) -> StoredGuess:
    about = ABOUT[attack]
    budget = Budget(settings.budget_s)
    knowledge = Knowledge(pool, draw.seen[:size], draw.rows, budget, settings.public)
    started = time.perf_counter()
    try:
        guess = ATTACKS[attack](knowledge)
    except Exception as error:
        seconds = time.perf_counter() - started
        said = f"{type(error).__name__}: {error}"[:300]
        return StoredGuess(attack, about.tier, about.uses_pool, size, "", "", seconds, "", error=said)
    digest = save_guess(out / place, guess.images, guess.key)
    return StoredGuess(attack, guess.tier, about.uses_pool, size, place, digest, guess.seconds, guess.note)
