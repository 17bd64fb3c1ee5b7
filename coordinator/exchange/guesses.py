"""Guesses on disk: what an adversary hands to the scorer, frozen by digest before any scoring.

    guesses/
      guesses.json                               the draws: sets, pools, rows, and each guess's digest
      draw-0/pooled_key_recovery-0010.safetensors  images [r, h, w, c], and the recovered key's arrays

This is the exchange format between the cloud, where attacks run, and the hospital that scores them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_origin, get_type_hints

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from crypto.errors import CipherwardError
from crypto.files import read_json, sha256_file, write_bytes, write_json
from crypto.spec import SchemeSpec

SCHEMA = "cipherward.guesses/1"
FILE = "guesses.json"
MOST_GUESSES = 64  # of one draw: a scorer takes no more


@dataclass(frozen=True)
class StoredGuess:
    """One guess's line in guesses.json. idle: the attack found nothing that it could try, which is no resistance."""

    attack: str
    tier: str
    uses_pool: bool
    pool_size: int
    file: str
    sha256: str
    seconds: float
    note: str
    error: str = ""
    idle: bool = False


@dataclass(frozen=True)
class Draw:
    """One key and pool under attack. digests: of the sealed sets; the first one's owner scores.

    rows: int64 [r], rows of that first set whose plain images were to be guessed, in the order drawn.
    """

    name: str
    key_id: str
    spec: SchemeSpec
    digests: list[str]
    images: int
    rows: np.ndarray
    pool_rows: np.ndarray
    guesses: list[StoredGuess]

    def to_json(self) -> dict[str, Any]:
        fields = {k: v for k, v in self.__dict__.items() if k != "pool_rows"}
        return {
            **fields,
            "spec": self.spec.to_json(),
            "rows": self.rows.tolist(),
            "seen": self.pool_rows.tolist(),
            "guesses": [g.__dict__ for g in self.guesses],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Draw:
        """Raises TypeError or ValueError where a field is not of its type: the file comes from elsewhere."""
        parts = dict(value)
        parts["spec"] = SchemeSpec.from_json(value["spec"])
        parts["rows"] = _whole_numbers(value, "rows")
        parts["pool_rows"] = _whole_numbers(value, "seen")
        parts.pop("seen")
        parts["guesses"] = [_of_its_types(StoredGuess(**g)) for g in value["guesses"]]
        draw = _of_its_types(cls(**parts))
        if not draw.digests or not all(isinstance(digest, str) for digest in draw.digests):
            raise TypeError("digests are not names of sealed sets")
        return draw


def _whole_numbers(value: Mapping[str, Any], name: str) -> np.ndarray:
    listed = value[name]
    if not isinstance(listed, list) or any(type(v) is not int or not 0 <= v < 2**62 for v in listed):
        raise TypeError(f"{name} are no row numbers")
    return np.array(listed, np.int64)


_Typed = TypeVar("_Typed", StoredGuess, Draw)


def _of_its_types(made: _Typed) -> _Typed:
    """The same; raises TypeError where a field is not of the type it is declared with."""
    for name, wanted in get_type_hints(type(made)).items():
        value = getattr(made, name)
        if wanted is float:
            sound = type(value) in (int, float) and math.isfinite(value)
        elif wanted is int:
            sound = type(value) is int and value >= 0
        else:
            sound = isinstance(value, get_origin(wanted) or wanted)
        if not sound or (wanted is str and "\0" in value):
            raise TypeError(f"{name} cannot be {value!r:.60}")
    return made


def save_guess(path: Path, images: np.ndarray, key: Mapping[str, np.ndarray] | None) -> str:
    """Writes one guess atomically; returns its hex SHA-256."""
    tensors = {"images": np.ascontiguousarray(images)}
    for name, value in (key or {}).items():
        tensors[f"key.{name}"] = np.ascontiguousarray(value)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = save(tensors)
    write_bytes(path, data)
    return sha256_file(path)


def audit_rows(seed: int, index: int, images: int, rows: int) -> np.ndarray:
    """int64 [r]: the rows of a draw's first set to be guessed, from the seed and the draw's number alone.

    A quarter more than are scored, because the scorer drops near-duplicates; at most half of the set.
    """
    wanted = min(round(rows * 1.25), max(4, images // 2))
    return np.random.default_rng([seed, index]).permutation(images)[:wanted]


def load_guess(folder: Path, guess: StoredGuess) -> tuple[np.ndarray, dict[str, np.ndarray] | None]:
    """(images uint8 [r, h, w, c], key arrays or None); raises CipherwardError where the file changed."""
    path = folder / guess.file
    if not path.resolve().is_relative_to(folder.resolve()):
        raise CipherwardError(f"{folder / FILE} names a file outside its folder")
    if not path.is_file() or sha256_file(path) != guess.sha256:
        raise CipherwardError(
            f"the guess {path} is missing or altered",
            "guesses are frozen before they are scored: attack again",
        )
    try:
        tensors = load_file(str(path))
    except (SafetensorError, OSError) as error:
        raise CipherwardError(f"the guess {path} cannot be read: {type(error).__name__}") from None
    key = {name.removeprefix("key."): v for name, v in tensors.items() if name.startswith("key.")}
    if "images" not in tensors:
        raise CipherwardError(f"the guess {path} holds no images")
    return tensors["images"], key or None


def write_draws(folder: Path, draws: list[Draw], about: Mapping[str, Any]) -> None:
    """Freezes all guesses of a folder."""
    write_json(folder / FILE, {"schema": SCHEMA, **about, "draws": [d.to_json() for d in draws]})


def read_draws(folder: Path) -> tuple[list[Draw], dict[str, Any]]:
    """(draws, what else guesses.json says); raises CipherwardError where it is missing or not ours."""
    value = read_json(Path(folder) / FILE, "guesses")
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise CipherwardError(f"{folder / FILE} is not a {SCHEMA} file")
    try:
        for name in ("seed", "rows"):
            if name in value and (type(value[name]) is not int or value[name] < 0):
                raise TypeError(f"{name} cannot be {value[name]!r:.60}")
        return [Draw.from_json(d) for d in value.pop("draws")], value
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CipherwardError(f"{folder / FILE} is damaged: {error!r}") from None
