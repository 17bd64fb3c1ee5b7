"""Compile the Numba functions of the attacks before any attack starts.

Numba compiles a function when it is first called, and keeps the result beside the source. On a fresh checkout this
takes 1 to 12 s for key recovery, by scheme, and 12 s for the attacks of the demo (measured on one core of a cloud
machine). Without this module every worker would compile the same functions in parallel, and their time would count as
the attack's. Here one process runs each attack once on a small pool of invented images. Afterwards key recovery and
the jigsaw solver compiled nothing more. This was tried once for every scheme, in gray or in colour, with pictures of
32×32 to 224×224.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from coordinator.adversary.contract import Budget, Knowledge, Tier
from coordinator.adversary.registry import ATTACKS
from coordinator.adversary.run.process import start_process
from coordinator.exchange.audit.control_sets import meets
from coordinator.exchange.pool import MemoryPool
from crypto.arrays import Images
from crypto.errors import CipherwardError
from crypto.files import write_json
from crypto.key import SecretKey
from crypto.scheme import describe, load
from crypto.sets.dataset import SealedDataset
from crypto.spec import SchemeSpec

#: Begins the line that is logged before the attacks' functions are compiled.
COMPILING = "compiling the attacks' functions"

#: Invented images: two to guess, and a pool of 28. Chosen by hand; with them every needed function was compiled.
_IMAGES = 30
#: Blocks on each side of an invented image. Chosen by hand, as above.
_SIDE_BLOCKS = 4
#: Seconds that an attack may take. The slowest, key recovery for ele, took 14 s including compilation.
_BUDGET_S = 120.0
#: The variants whose functions this process has loaded.
LOADED: set[str] = set()

_PACKAGES = Path(__file__).parents[3]


def compile_attacks(
    attacks: Sequence[str], sets: Sequence[SealedDataset], log: Callable[[str], None]
) -> None:
    """Compile the functions that these attacks call on these sealed sets, unless that was done before.

    A note in Numba's cache folder says what was compiled from which sources. If this folder cannot be written,
    nothing is done, and Numba compiles on first use.

    Args:
        attacks: the attacks by name.
        sets: the sealed sets; only their schemes matter.
        log: gets one line if there is something to compile.
    """
    note = (
        Path(os.environ.get("NUMBA_CACHE_DIR") or Path(__file__).parent / "__pycache__") / "compiled.json"
    )
    with contextlib.suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(note.parent, os.W_OK):
        return
    sources = source_digest()
    compiled = _read_note(note, sources)
    jobs = {
        _variant(attack, dataset.spec): (attack, dataset.spec.to_json())
        for dataset in sets
        for attack in attacks
        if meets(attack, dataset.folder.name)
        and _is_compiled_ahead(attack)
        and _variant(attack, dataset.spec) not in compiled
    }
    if not jobs:
        return
    log(f"{COMPILING}, once in a checkout: about 12 s")
    process = start_process(_run_once, list(jobs.values()))
    try:
        process.join()
    finally:
        process.kill()
    # After a crash the note is written as well: the attack itself will report the crash.
    with contextlib.suppress(CipherwardError):
        write_json(note, {"sources": sources, "variants": sorted({*compiled, *jobs})})


def _is_compiled_ahead(attack: str) -> bool:
    """Return whether an attack is worth a trial run: it trains no network, and needs no training to look at."""
    info = ATTACKS[attack]
    return info.tier <= Tier.T2 and not info.by_name and not info.study


def _variant(attack: str, spec: SchemeSpec) -> str:
    """Return a name for what decides on the types of an attack's arrays."""
    return f"{attack} {spec.name} {spec.image_shape[2]} {json.dumps(_options(spec), sort_keys=True)}"


def _options(spec: SchemeSpec) -> dict[str, Any]:
    """Return the scheme's options without the nonce, which is another in every set."""
    return {name: value for name, value in spec.options.items() if name != "nonce"}


def source_digest() -> str:
    """Return a digest of what Numba's cache depends on: the sources' times and sizes, Numba, and Python."""
    digest = hashlib.sha256(f"{version('numba')} {sys.version}".encode())
    for folder in ("coordinator/adversary", "crypto"):
        for path in sorted((_PACKAGES / folder).rglob("*.py")):
            status = path.stat()
            digest.update(f"{path} {status.st_mtime_ns} {status.st_size}\n".encode())
    return digest.hexdigest()


def _read_note(note: Path, sources: str) -> set[str]:
    """Return the variants that were compiled from these sources; none if the note cannot be read."""
    try:
        value = json.loads(note.read_text())
        return set(value["variants"]) if value["sources"] == sources else set()
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _run_once(jobs: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Run each attack once on a small pool of a scheme, given as JSON. What it returns or raises is dropped."""
    for attack, value in jobs:
        with contextlib.suppress(Exception):
            _run_small(attack, SchemeSpec.from_json(value))


def load_compiled(attack: str, spec: SchemeSpec) -> None:
    """Compile the functions that an attack calls on a scheme, or load them from Numba's cache, once in a process.

    Loading alone takes seconds. Where attacks are timed in the process that calls this, their seconds are then their
    own.
    """
    if (variant := _variant(attack, spec)) not in LOADED:
        LOADED.add(variant)
        with contextlib.suppress(Exception):
            _run_small(attack, spec)


def _run_small(attack: str, spec: SchemeSpec) -> None:
    """Run an attack on a small pool of a scheme, and drop what it returns."""
    side, channels = _SIDE_BLOCKS * spec.block, spec.image_shape[2]
    small = describe(spec.name, (side, side, channels), spec.block, spec.key_scope, _options(spec))
    images = _invent_images(side, channels)
    pool = MemoryPool(small, load(small).cipher(SecretKey.generate()).encrypt(images))
    rows = np.arange(_IMAGES)
    labels = np.zeros(_IMAGES, np.int64)
    ATTACKS[attack].attack(Knowledge(pool, rows[2:], rows[:2], Budget(_BUDGET_S), images, labels=labels))


def _invent_images(side: int, channels: int) -> Images:
    """Return random surfaces, uint8 [n, side, side, channels], which are textured and continuous like pictures."""
    steps = np.random.default_rng(0).normal(size=(_IMAGES, side, side, channels))
    surfaces = steps.cumsum(1).cumsum(2)
    low, high = surfaces.min((1, 2, 3), keepdims=True), surfaces.max((1, 2, 3), keepdims=True)
    images: Images = (255 * (surfaces - low) / (high - low)).astype(np.uint8)
    return images
