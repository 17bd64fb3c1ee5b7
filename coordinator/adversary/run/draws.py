"""What an audit attacks: sealed sets by key, the rows and pools of each draw, and the cells of the suite.

Sealed sets are grouped by key: each key is one draw. The first set of a draw belongs to the hospital that
will score; audit rows come from it, the pool from all sets of the draw but those rows. Both depend on the seed alone.
Control sets are told by the names of their folders (coordinator/exchange/control_sets.py).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coordinator.adversary.contract import Tier
from coordinator.adversary.registry import ATTACKS
from coordinator.adversary.run.cell import Cell
from coordinator.exchange.control_sets import FOR, LARGEST, PREFIX, PUBLIC, meets
from coordinator.exchange.guesses import Draw, audit_rows
from coordinator.exchange.pool import Pool
from crypto.errors import CipherwardError
from crypto.sets.dataset import SealedDataset

FEWEST = 32  # images of a set that is audited: below, half of them make no figures
POOLS = (1, 2, 5, 10, 20, 50, 100)


@dataclass(frozen=True)
class Settings:
    """What is fixed before the first attack runs.

    public: None, or uint8 [m, *image_shape], for attacks that want public plain images. study: None, or a study's
    folder, for attacks on what the cloud observed of its training.
    """

    attacks: Sequence[str]
    pools: Sequence[int]
    rows: int
    seed: int
    budget_s: float
    public: np.ndarray | None = None
    study: Path | None = None


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


def draws_of(sets: Sequence[SealedDataset], attacks: Sequence[str]) -> list[list[SealedDataset]]:
    """The sets by key, in order of first appearance: a ciphertext pool has one key.

    Sets that none of the attacks is run on are left out.
    """
    groups: dict[str, list[SealedDataset]] = {}
    for dataset in sets:
        if any(meets(attack, dataset.folder.name) for attack in attacks):
            groups.setdefault(dataset.key_id, []).append(dataset)
    return list(groups.values())


def control_public(sets: Sequence[SealedDataset]) -> SealedDataset | None:
    """The set of images that are public for the controls made for some attacks alone."""
    found = [s for s in sets if s.folder.name == PUBLIC]
    return found[0] if found else None


def plan_draw(name: str, index: int, sets: Sequence[SealedDataset], settings: Settings) -> Draw:
    """Rows and pools of one draw, from the seed alone.

    Raises CipherwardError for a set that is too small, altered, or not of one pool with the others of its key.
    """
    pool = Pool.of(sets)
    first = len(sets[0])
    rows = audit_rows(settings.seed, index, first, settings.rows)
    if first < FEWEST or len(rows) >= len(pool):
        raise CipherwardError(
            f"{sets[0].folder} holds {first} images: too few to attack some and audit others",
            f"an audit needs at least {FEWEST} images, and says little below 128",
        )
    rest = np.setdiff1d(np.arange(len(pool)), rows)
    seen = np.random.default_rng([settings.seed, index, 1]).permutation(rest)[: max(settings.pools)]
    digests = [s.digest for s in sets]
    return Draw(name, pool.key_id, pool.spec, digests, len(pool), rows, seen, [])


def watches(attack: str) -> bool:
    """Whether an attack is given what was observed of a training."""
    return ATTACKS[attack].study or of_training(attack)


def of_training(attack: str) -> bool:
    """Whether all that an attack has about a key is what a training under that key shows."""
    return ATTACKS[attack].tier == Tier.T5


def cells_of(
    draw: Draw,
    sets: Sequence[SealedDataset],
    settings: Settings,
    public: SealedDataset | None,
    out: Path,
    keys: Collection[str] = (),
) -> list[Cell]:
    """The cells of a draw of these sets, in order.

    public: the set that is public for some controls. keys: the ids of the keys of the training that was observed, as
    far as they are known: draws of other keys are not attacked by what it shows.
    """
    held = tuple((s.folder.resolve(), s.digest) for s in sets)
    name = sets[0].folder.name
    given, further = settings.public, bool(keys) and draw.key_id not in keys and not name.startswith(PREFIX)
    if name in FOR and public is not None:
        given = public.images(0, len(public))
    return [
        Cell(
            draw=draw.name,
            scheme=draw.spec.name,
            info=ATTACKS[attack],
            sets=held,
            pool_rows=draw.pool_rows[:size],
            rows=draw.rows,
            budget_s=settings.budget_s,
            public=given if ATTACKS[attack].tier >= Tier.T2 else None,
            study=settings.study.resolve() if settings.study and watches(attack) else None,
            out=out.resolve(),
            place=f"{draw.name}/{attack}-{size:04d}.safetensors",
        )
        for attack in settings.attacks
        if meets(attack, name) and not (further and of_training(attack))
        for size in _sizes(attack, settings.pools, draw)[-1 if name in LARGEST else 0 :]
    ]


def _sizes(attack: str, pools: Sequence[int], draw: Draw) -> list[int]:
    # Where every image has a key of its own, one image is all that any attack has about it.
    if not ATTACKS[attack].uses_pool or draw.spec.key_scope == "image":
        return [1]
    images = len(draw.pool_rows)
    return [n for n in pools if n <= images] or [images]
