"""Guesses on disk: what an adversary hands to the scorer, frozen by digest before any scoring.

    guesses/
      guesses.json                               the draws: sets, pools, rows, and each guess's digest
      draw-0/pooled_key_recovery-0010.safetensors  images [r, h, w, c], and the recovered key's arrays

This is the exchange format between the cloud, where attacks run, and the hospital that scores them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_origin, get_type_hints

import numpy as np
from safetensors.numpy import load_file

from coordinator.exchange.audit.suite1 import MAX_SET_PART, MIN_GUESSED_ROWS, SPARE_ROWS
from coordinator.exchange.audit.suite2 import BELIEVED
from crypto.arrays import AnyArray, Images, Rows
from crypto.errors import CipherwardError
from crypto.files import read_json, sha256_file, write_bytes, write_json
from crypto.plural import agreeing, counted
from crypto.spec import SchemeSpec
from crypto.tensor_file import tensor_bytes

SCHEMA = "cipherward.guesses/1"
FILE = "guesses.json"
_ATTACK_AGAIN = "restore the guesses from a copy, or attack again into another folder"
#: Guesses about one draw that a scorer accepts at most, to bound what crafted guesses can ask of it (docs/suite.md).
#: Chosen by hand; the attacks of the suite make 9.
MOST_GUESSES = 64


#: Characters of a text in guesses.json, such as a note. The longest note of our attacks has a few hundred.
_MOST_CHARACTERS = 4000
#: Numbers in guesses.json are below this: it bounds what later arithmetic meets.
_MOST_COUNT = 1 << 62
_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class StoredGuess:
    """The entry of one guess in guesses.json.

    Attributes:
        attack: the attack's name.
        tier: the name of the tier of knowledge that this run used, such as "T1".
        uses_pool: True if more images help the attack.
        pool_size: the number of pool images that it was given.
        file: the guess's file below the folder; empty if the attack failed.
        sha256: the file's hex SHA-256; empty if the attack failed.
        seconds: the time that the attack took.
        note: what a reader must know of the guess.
        error: why there is no guess; empty if there is one.
        idle: True if the attack did not try anything, which says nothing about the scheme's strength.
        fit: how well what the attack found explains what it measured, in words; empty if it does not say.
        uncertain: True if that is too poor to believe: no success then says nothing about the scheme's strength.
        confidence: how far it is to be believed, 0 to 1, below .5 if uncertain; None if the attack does not say.
    """

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
    fit: str = ""
    uncertain: bool = False
    confidence: float | None = None


@dataclass(frozen=True)
class Draw:
    """One key and one pool under attack.

    Attributes:
        name: the draw's name, such as draw-0.
        key_id: the public id of the key.
        spec: the scheme's public description.
        digests: the digests of the sealed sets. The owner of the first one scores.
        images: the number of images in all of them.
        rows: int64 [r], the rows of the first set whose plain images are guessed, in the order drawn.
        pool_rows: int64 [n], the rows of the pool that the attacks may use.
        guesses: the guesses about this draw.
    """

    name: str
    key_id: str
    spec: SchemeSpec
    digests: list[str]
    images: int
    rows: Rows
    pool_rows: Rows
    guesses: list[StoredGuess]

    def to_json(self) -> dict[str, Any]:
        """Return the draw as guesses.json holds it."""
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
        """Build a draw from its entry in guesses.json, a file that comes from another party.

        Raises:
            KeyError, TypeError, ValueError: if a field is missing or not of its type.
        """
        fields = dict(value)
        fields["spec"] = SchemeSpec.from_json(value["spec"])
        fields["rows"] = _row_numbers(value, "rows")
        fields["pool_rows"] = _row_numbers(value, "seen")
        fields.pop("seen")
        fields["guesses"] = [_check_beliefs(_check_types(StoredGuess(**g))) for g in value["guesses"]]
        draw = _check_types(cls(**fields))
        if not draw.digests or not all(isinstance(digest, str) for digest in draw.digests):
            raise TypeError("digests are not names of sealed sets")
        return draw


def _row_numbers(value: Mapping[str, Any], name: str) -> Rows:
    """Return the list of row numbers under a name; raise TypeError if it is something else."""
    numbers = value[name]
    if not isinstance(numbers, list) or any(
        type(v) is not int or not 0 <= v < _MOST_COUNT for v in numbers
    ):
        raise TypeError(f"{name} are not row numbers")
    return np.array(numbers, np.int64)


_Typed = TypeVar("_Typed", StoredGuess, Draw)


def _check_types(record: _Typed) -> _Typed:
    """Return the record unchanged; raise TypeError if a field is not of the type it is declared with."""
    for name, kind in get_type_hints(type(record)).items():
        value = getattr(record, name)
        if kind == float | None:
            # The one optional number is a confidence.
            is_valid = value is None or (type(value) in (int, float) and 0 <= value <= 1)
        elif kind is float:
            # The one such number is a time.
            is_valid = type(value) in (int, float) and 0 <= value < math.inf
        elif kind is int:
            is_valid = type(value) is int and 0 <= value < _MOST_COUNT
        else:
            is_valid = isinstance(value, get_origin(kind) or kind)
        if not is_valid or (kind is str and not _is_text(value)):
            raise TypeError(f"{name} cannot be {value!r:.60}")
    return record


def _check_beliefs(guess: StoredGuess) -> StoredGuess:
    """Return the guess unchanged; raise ValueError if its confidence contradicts what else it says.

    Scores of such a guess are refused by whoever reads them, and its set can be scored only once.
    """
    if guess.confidence is None:
        return guess
    if guess.error or (guess.confidence < BELIEVED) != guess.uncertain:
        said = "crashed" if guess.error else f"is {'' if guess.uncertain else 'not '}uncertain"
        raise ValueError(f"a confidence of {guess.confidence}, but the attack {said}")
    return guess


def _is_text(value: str) -> bool:
    """Return whether a text has no NUL, no half of a surrogate pair, and a length that a report can show."""
    return "\0" not in value and len(value) <= _MOST_CHARACTERS and not _SURROGATES.search(value)


def save_guess(path: Path, images: Images, key: Mapping[str, AnyArray] | None) -> str:
    """Write one guess atomically.

    Args:
        path: the file.
        images: the guessed plain images, uint8 [r, h, w, c].
        key: the arrays of the recovered key (`contract.Guess.key`), or None.

    Returns:
        The file's hex SHA-256.
    """
    tensors = {"images": images, **{f"key.{name}": value for name, value in (key or {}).items()}}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, tensor_bytes(tensors))
    return sha256_file(path)


def audit_rows(seed: int, index: int, images: int, rows: int) -> Rows:
    """Draw the rows of a draw's first set to be guessed, int64 [r].

    They are a quarter more than are scored, because the scorer drops near-duplicates, but at most half of the set.

    Args:
        seed: the audit's seed.
        index: the draw's number.
        images: the number of images in the set.
        rows: the number of rows to score.
    """
    count = min(round(rows * SPARE_ROWS), max(MIN_GUESSED_ROWS, images // MAX_SET_PART))
    return np.random.default_rng([seed, index]).permutation(images)[:count]


def most_guess_bytes(spec: SchemeSpec, rows: int) -> int:
    """Return the bytes that the file of a guess about so many rows may have at most.

    The images take one byte a value. The key may take 64 bytes a value of one image, and 16 bytes an entry of a
    block's matrix: about twice what any attack of ours writes.
    """
    values = math.prod(spec.image_shape)
    block_values = spec.block**2 * spec.image_shape[2]
    return rows * values + 64 * values + 16 * block_values**2 + (1 << 20)


def load_guess(
    folder: Path, guess: StoredGuess, most_bytes: int | None = None
) -> tuple[Images, dict[str, AnyArray] | None]:
    """Read one guess.

    Args:
        folder: the folder of guesses.json.
        guess: the entry of the guess.
        most_bytes: bytes that the file may have, from `most_guess_bytes`. A safetensors file is never smaller than
            what it unfolds to, so this bounds the memory.

    Returns:
        The images uint8 [r, h, w, c], and the key's arrays or None.

    Raises:
        CipherwardError: if the file lies outside the folder, changed, or cannot be read.
    """
    path = folder / guess.file
    if not path.resolve().is_relative_to(folder.resolve()):
        raise CipherwardError(f"{folder / FILE} names a file outside its folder", _ATTACK_AGAIN)
    if most_bytes is not None and path.is_file() and path.stat().st_size > most_bytes:
        raise CipherwardError(
            f"the guess {path} is larger than the {most_bytes:,} bytes that a guess can have",
            "its images or its key do not fit this set: have it attacked again by the suite",
        )
    if not path.is_file() or sha256_file(path) != guess.sha256:
        raise CipherwardError(
            f"the guess {path} is missing or altered",
            "guesses are frozen before they are scored: restore it from a copy, or attack again into another folder",
        )
    try:
        tensors = load_file(str(path))
    except Exception as error:  # crafted files make the library raise anything
        raise CipherwardError(
            f"the guess {path} cannot be read: {type(error).__name__}", _ATTACK_AGAIN
        ) from None
    key = {name.removeprefix("key."): v for name, v in tensors.items() if name.startswith("key.")}
    if "images" not in tensors:
        raise CipherwardError(f"the guess {path} holds no images", _ATTACK_AGAIN)
    return tensors["images"], key or None


def require_whole(folder: Path, draws: Sequence[Draw]) -> None:
    """Raise CipherwardError if the file of a guess is missing or altered."""
    stored = [guess for draw in draws for guess in draw.guesses if not guess.error]
    bad = [
        g.file
        for g in stored
        if not (folder / g.file).is_file() or sha256_file(folder / g.file) != g.sha256
    ]
    if bad:
        raise CipherwardError(
            f"{len(bad)} of {counted(len(stored), 'frozen guess', 'frozen guesses')} in {folder} "
            f"{agreeing(len(bad), 'is', 'are')} missing or altered, such as {bad[0]}",
            _ATTACK_AGAIN,
        )


def write_draws(folder: Path, draws: list[Draw], about: Mapping[str, Any]) -> None:
    """Freeze all guesses of a folder by writing guesses.json.

    Args:
        folder: the folder.
        draws: the draws with their guesses.
        about: what else the file says, such as the seed and the attacks.
    """
    write_json(folder / FILE, {"schema": SCHEMA, **about, "draws": [d.to_json() for d in draws]})


def read_draws(folder: Path) -> tuple[list[Draw], dict[str, Any]]:
    """Read guesses.json.

    Returns:
        The draws, and what else the file says.

    Raises:
        CipherwardError: if the file is missing, damaged or of another format.
    """
    value = read_json(Path(folder) / FILE, "guesses", "cipherward-coordinator attack")
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise CipherwardError(
            f"{folder / FILE} is not a {SCHEMA} file",
            "name a folder of guesses, which cipherward-coordinator attack makes",
        )
    try:
        for name in ("seed", "rows"):
            if name in value and (type(value[name]) is not int or not 0 <= value[name] < _MOST_COUNT):
                raise TypeError(f"{name} cannot be {value[name]!r:.60}")
        return [Draw.from_json(d) for d in value.pop("draws")], value
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CipherwardError(f"{folder / FILE} is damaged: {error!r}", _ATTACK_AGAIN) from None
