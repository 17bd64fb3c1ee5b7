"""The pictures of a report: sealed images, the best guess of each attack and, where allowed, the plain ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from coordinator.exchange.guesses import FILE, Draw, StoredGuess, load_guess, read_draws
from coordinator.exchange.orbit import Move
from coordinator.report.control_checks import is_control
from crypto.errors import CipherwardError
from crypto.files import sha256_file
from crypto.scheme import load
from crypto.sets.dataset import SealedDataset


@dataclass(frozen=True)
class Pictures:
    """Columns of images for the same rows. columns: caption → uint8 [r, h, w, c]."""

    columns: Mapping[str, np.ndarray]


def best_guess(
    findings: Sequence[Mapping[str, Any]], verdict: Mapping[str, Any], attack: str
) -> int | None:
    """The pool size whose guess is shown: the smallest that breaks, else the largest attacked."""
    sizes = [f["pool_size"] for f in findings if f["attack"] == attack and not f["error"]]
    if not sizes:
        return None
    return int(verdict["broken_at"].get(attack, max(sizes)))


def gather(
    guesses: Path, report: Mapping[str, Any], scores: Mapping[str, Any], sealed: SealedDataset
) -> Pictures:
    """Sealed images and guesses of the first draw's pictured rows, guesses moved as they were scored.

    Raises CipherwardError where `sealed` is not the set that draw is about.
    """
    if sha256_file(guesses / FILE) != scores["guesses_sha256"]:
        raise CipherwardError(f"{guesses} does not hold the guesses that were scored")
    draws, _ = read_draws(guesses)
    scored = next(d for d in scores["draws"] if not is_control(d))
    draw: Draw = next(d for d in draws if d.name == scored["draw"])
    if sealed.digest != draw.digests[0]:
        raise CipherwardError(f"{sealed.folder} is not the sealed set that {guesses} is about")
    rows = np.array(scored["pictured"], np.int64)
    columns: dict[str, np.ndarray] = {"sealed": load(draw.spec).picture(sealed.rows(draw.rows[rows]))}
    mine = [f for f in report["findings"] if f["draw"] == draw.name]
    block = draw.spec.block
    for attack in dict.fromkeys(f["attack"] for f in mine):
        size = best_guess(mine, report["verdict"], attack)
        stored: StoredGuess | None = next(
            (g for g in draw.guesses if g.attack == attack and g.pool_size == size and not g.error), None
        )
        finding = next((f for f in mine if f["attack"] == attack and f["pool_size"] == size), None)
        if stored is None or finding is None:
            continue
        images, _ = load_guess(guesses, stored)
        # Where every image has a key of its own they were moved one by one, and are shown as they came.
        shown = Move(**(finding["move"] or {})).apply(images[rows], block)
        columns[f"{attack}, {size} sealed" if stored.uses_pool else attack] = shown
    return Pictures(columns)


def with_public_plain(pictures: Pictures, path: Path) -> Pictures:
    """The same pictures with the plain images that a public source lets out in the first column."""
    try:
        plain = load_file(str(path))["plain"]
    except (SafetensorError, OSError, KeyError) as error:
        raise CipherwardError(f"no plain pictures in {path}: {type(error).__name__}") from None
    return Pictures({"plain": plain, **pictures.columns})
