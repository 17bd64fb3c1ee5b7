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

from coordinator.adversary.contract import Tier
from coordinator.adversary.registry import ATTACKS
from coordinator.adversary.run.process import start_process
from coordinator.adversary.run.small_run import run_small, variant_of
from coordinator.exchange.audit.control_sets import meets
from crypto.errors import CipherwardError
from crypto.files import write_json
from crypto.sets.dataset import SealedDataset
from crypto.spec import SchemeSpec

#: Begins the line that is logged before the attacks' functions are compiled.
COMPILING = "compiling the attacks' functions"

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
        variant_of(attack, dataset.spec): (attack, dataset.spec.to_json())
        for dataset in sets
        for attack in attacks
        if meets(attack, dataset.folder.name)
        and _is_compiled_ahead(attack)
        and variant_of(attack, dataset.spec) not in compiled
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
            run_small(attack, SchemeSpec.from_json(value))
