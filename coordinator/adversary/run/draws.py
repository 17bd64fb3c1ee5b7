"""What an audit attacks: draws of key and pool, the rows and pools of each draw, and the cells of the suite.

Sealed sets are grouped by key, and each key is one draw. The first set of a draw belongs to the hospital that will
score. The rows to guess come from this set; the pool comes from the other rows of all sets of the draw. Both depend
on the seed alone. Control sets are recognised by the names of their folders (`control_sets.py` in
coordinator/exchange/audit).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coordinator.adversary.contract import Tier
from coordinator.adversary.registry import ATTACKS
from coordinator.adversary.run.cell import Cell
from coordinator.exchange.audit.control_sets import (
    BLIND_PREFIX,
    GENERAL,
    LARGEST_POOL_ONLY,
    MAY_BE_HIDDEN,
    PREFIX,
    PUBLIC,
    TARGETED,
    meets,
)
from coordinator.exchange.audit.guesses import Draw, audit_rows
from coordinator.exchange.audit.suite1 import BLIND_CONTROLS, DRAWS, require_enough_to_audit
from coordinator.exchange.pool import Pool
from crypto.arrays import Images
from crypto.plural import counted
from crypto.scheme import load
from crypto.sets.dataset import SealedDataset


@dataclass(frozen=True)
class Settings:
    """What is fixed before the first attack runs.

    Attributes:
        attacks: the attacks by name.
        pools: the pool sizes.
        rows: the number of rows to score in each draw.
        seed: draws the rows and the pools.
        budget_s: the time that an attack may take at one pool size, in seconds.
        public: None, or public plain images uint8 [m, *image_shape], for the attacks that need some.
        study: None, or the folder of a study, for the attacks on what the cloud observed of its training.
        draw_numbers: the number of each draw, which decides on its rows and pool; by default 0, 1, 2, … A hospital
            that runs the attacks on some sets of an audit again names the numbers that these had.
    """

    attacks: Sequence[str]
    pools: Sequence[int]
    rows: int
    seed: int
    budget_s: float
    public: Images | None = None
    study: Path | None = None
    draw_numbers: Sequence[int] = ()


def find_sets(paths: Sequence[Path]) -> list[SealedDataset]:
    """Open the sealed sets at these paths. A folder of sets stands for its training, audit and control sets.

    Where a hospital sealed sets that are told by no name, one of them holds the training images under the same key:
    then `train` is left out, or the rows to guess would be in the pool.

    Raises:
        CipherwardError: if a path holds no sealed set.
    """
    sets: list[SealedDataset] = []
    for path in map(Path, paths):
        if (path / "manifest.json").exists():
            sets.append(SealedDataset.open(path))
            continue
        inner = sorted(p.parent for p in path.glob("*/manifest.json")) if path.is_dir() else []
        is_blind = any(p.name.startswith(BLIND_PREFIX) for p in inner)
        left_out = ("train", "val", "test") if is_blind else ("val", "test")
        attacked = [p for p in inner if p.name not in left_out]
        if is_blind:  # sets of an earlier version, whose names tell what they are
            attacked = [p for p in attacked if not p.name.startswith("audit-")]
        # The hospital's own images are the first draw, whatever else is there.
        attacked.sort(key=lambda p: (p.name != "train", p.name.startswith("control"), p.name))
        if not attacked:
            sets.append(SealedDataset.open(path))  # raises, with the reason
        sets += [SealedDataset.open(p) for p in attacked]
    return sets


def group_by_key(sets: Sequence[SealedDataset], attacks: Sequence[str]) -> list[list[SealedDataset]]:
    """Group sets by key, in order of first appearance: a pool of ciphertexts has one key.

    Sets that none of the attacks runs on are left out.
    """
    groups: dict[str, list[SealedDataset]] = {}
    for dataset in sets:
        if any(meets(attack, dataset.folder.name) for attack in attacks):
            groups.setdefault(dataset.key_id, []).append(dataset)
    return list(groups.values())


def audit_gaps(sets: Sequence[SealedDataset], attacks: Sequence[str]) -> list[str]:
    """Return, one sentence each, what an audit of these sets will lack, so that nobody learns it from the report.

    Args:
        sets: the sealed sets that are to be attacked.
        attacks: the attacks' names.
    """
    names = {dataset.folder.name for dataset in sets}
    groups = group_by_key([s for s in sets if not s.folder.name.startswith(PREFIX)], attacks)
    gaps = []
    # Which of the sets under other keys are blind controls is not told, nor which are controls of other schemes that
    # are declared as the audited one: all of them count.
    is_blind = any(name.startswith(BLIND_PREFIX) for name in names)
    hidden = [name for name in MAY_BE_HIDDEN if is_blind and name not in names]
    found = max(0, len(groups) - BLIND_CONTROLS - len(hidden)) if is_blind else len(groups)
    if found < DRAWS:
        gaps.append(f"{counted(found, 'draw')} of key and pool instead of {DRAWS}: the verdict will say so")
    needed = [*GENERAL, *(name for name, run in TARGETED.items() if set(run) & set(attacks))]
    if missing := [name for name in needed if name not in names and name not in hidden]:
        gaps.append(f"no {', '.join(missing)}: without every control the report will be invalid")
    return gaps


def find_public_control(sets: Sequence[SealedDataset]) -> SealedDataset | None:
    """Return the set whose images are public for the controls that single attacks have, if there is one."""
    return next((s for s in sets if s.folder.name == PUBLIC), None)


def plan_draw(name: str, index: int, sets: Sequence[SealedDataset], settings: Settings) -> Draw:
    """Draw the rows to guess and the pool of one draw, from the seed alone.

    Args:
        name: the draw's name.
        index: its number.
        sets: the sealed sets under one key. The first one is audited.
        settings: of the audit.

    Raises:
        CipherwardError: if a set is too small, altered, or not of one pool with the others of its key.
    """
    pool = Pool.of(sets)
    first = len(sets[0])
    rows = audit_rows(settings.seed, index, first, settings.rows)
    require_enough_to_audit(first, str(sets[0].folder))
    other_rows = np.setdiff1d(np.arange(len(pool)), rows)
    shuffled = np.random.default_rng([settings.seed, index, 1]).permutation(other_rows)
    digests = [s.digest for s in sets]
    return Draw(name, pool.key_id, pool.spec, digests, len(pool), rows, shuffled[: max(settings.pools)], [])


def uses_training(attack: str) -> bool:
    """Return whether an attack gets what was observed of a training."""
    return ATTACKS[attack].study or attacks_only_training(attack)


def attacks_only_training(attack: str) -> bool:
    """Return whether an attack learns about a key only from a training under that key."""
    return ATTACKS[attack].tier == Tier.T5


def plan_cells(
    draw: Draw,
    sets: Sequence[SealedDataset],
    settings: Settings,
    public_control: SealedDataset | None,
    out: Path,
    training_keys: Collection[str] = (),
) -> list[Cell]:
    """Return the cells of a draw, in order.

    Args:
        draw: the draw.
        sets: its sealed sets.
        settings: of the audit.
        public_control: the set whose images are public for some controls, if there is one.
        out: the folder of the guesses.
        training_keys: the ids of the keys of the observed training, as far as they are known. Draws under other keys
            are not attacked by what the training shows.
    """
    name = sets[0].folder.name
    is_control = name.startswith(PREFIX)
    is_of_training = not training_keys or draw.key_id in training_keys or is_control
    public = settings.public
    if name in TARGETED and public_control is not None:
        public = public_control.images(0, len(public_control))
    return [
        Cell(
            draw=draw.name,
            scheme=draw.spec.name,
            info=ATTACKS[attack],
            sets=tuple((s.folder.resolve(), s.digest) for s in sets),
            pool_rows=draw.pool_rows[:size],
            rows=draw.rows,
            budget_s=settings.budget_s,
            public=public if ATTACKS[attack].tier >= Tier.T2 else None,
            study=settings.study.resolve() if settings.study and uses_training(attack) else None,
            out=out.resolve(),
            file=f"{draw.name}/{attack}-{size:04d}.safetensors",
        )
        for attack in settings.attacks
        if meets(attack, name) and (is_of_training or not attacks_only_training(attack))
        for size in _pool_sizes(attack, settings.pools, draw)[-1 if name in LARGEST_POOL_ONLY else 0 :]
    ]


def _pool_sizes(attack: str, pools: Sequence[int], draw: Draw) -> list[int]:
    """Return the pool sizes that an attack runs at in a draw."""
    # Where every image has a key of its own, one image is all that any attack has about this key.
    if not ATTACKS[attack].uses_pool or load(draw.spec).is_each_alone:
        return [1]
    images = len(draw.pool_rows)
    return [n for n in pools if n <= images] or [images]
