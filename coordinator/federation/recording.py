"""What the coordinator keeps of a round's replies, where the plan's `keep_updates` asks for it: the audit's evidence.

    cloud/updates/round-0001-hospital-0.safetensors   `after`: float32 [parameters], what one hospital sent back
    cloud/updates/round-0001.safetensors              `before`: what all were sent, and the list of the replies

The list is written last, so a round that a kill cut short is none; its round is run again and overwrites it. Every
vector's SHA-256 is kept beside it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from crypto.errors import CipherwardError
from crypto.files import disk_errors, drop_temporaries, write_bytes

FOLDER = "updates"
_MEND = "set keep_updates in the plan and train again, in another folder"


def keep(
    cloud: Path, round_: int, before: np.ndarray, replies: Mapping[str, tuple[np.ndarray, int]]
) -> None:
    """Keeps one round: what was sent, and every party's (vector, number of images). Vectors: float32 [parameters].

    Replaces whatever an interrupted run of the same round left.
    """
    folder = Path(cloud) / FOLDER
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for old in (folder / _round(round_), *folder.glob(f"round-{round_:04d}-*.safetensors")):
            old.unlink(missing_ok=True)
    drop_temporaries(folder, f"round-{round_:04d}*")
    parties = {}
    for party, (after, images) in replies.items():
        name = f"round-{round_:04d}-{_named(party)}.safetensors"
        write_bytes(folder / name, save({"after": np.ascontiguousarray(after, np.float32)}))
        parties[party] = {"file": name, "images": images, "sha256": _digest(after)}
    about = {"round": round_, "sha256": _digest(before), "parties": parties}
    data = save({"before": np.ascontiguousarray(before, np.float32)}, metadata={"json": json.dumps(about)})
    write_bytes(folder / _round(round_), data)


def kept(cloud: Path) -> list[tuple[int, np.ndarray, dict[str, tuple[np.ndarray, int]]]]:
    """Every kept round: (round, before, party → (after, images)), in order; none where nothing was kept.

    Raises CipherwardError where a listed file is missing, altered or unreadable.
    """
    folder, rounds = Path(cloud) / FOLDER, []
    for path in sorted(folder.glob("round-*.safetensors")):
        if path.stem.removeprefix("round-").isdigit():
            before, about = _vector(path, "before")
            replies = {}
            try:
                number = int(about["round"])
                _must_be(before, about["sha256"], path)
                for party, line in about["parties"].items():
                    after, _ = _vector(folder / Path(line["file"]).name, "after")
                    _must_be(after, line["sha256"], folder / line["file"])
                    replies[str(party)] = (after, int(line["images"]))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise CipherwardError(f"{path} is damaged: {error!r}", _MEND) from None
            rounds.append((number, before, replies))
    return rounds


def _named(party: str) -> str:
    """A party's name as part of a file's: it comes from outside, and must choose no path and no other's file."""
    name = quote(party, safe="")
    return name if len(name) <= 100 else f"{name[:80]}-{hashlib.sha256(party.encode()).hexdigest()[:19]}"


def _round(round_: int) -> str:
    return f"round-{round_:04d}.safetensors"


def _digest(vector: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(vector, np.float32).tobytes()).hexdigest()


def _vector(path: Path, name: str) -> tuple[np.ndarray, dict[str, Any]]:
    """(the vector, the metadata's JSON or {})."""
    try:
        with safe_open(str(path), framework="numpy") as file:
            return file.get_tensor(name), json.loads((file.metadata() or {}).get("json", "{}"))
    except FileNotFoundError:
        raise CipherwardError(f"the kept update {path} is missing", _MEND) from None
    except (SafetensorError, OSError, ValueError) as error:
        raise CipherwardError(
            f"the kept update {path} cannot be read: {type(error).__name__}", _MEND
        ) from None


def _must_be(vector: np.ndarray, digest: str, path: Path) -> None:
    if vector.dtype != np.float32 or vector.ndim != 1 or _digest(vector) != digest:
        raise CipherwardError(f"the kept update {path} is damaged: its digest differs", _MEND)
