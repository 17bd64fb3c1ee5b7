"""What the coordinator keeps of a round's replies if the plan sets `keep_updates`: the evidence for the audit.

    cloud/updates/round-0001-hospital-0.safetensors   `after`: float32 [parameters], the reply of one hospital
    cloud/updates/round-0001.safetensors              `before`: the weights that were sent, and the list of replies

Under secure aggregation the cloud sees masked vectors and their sum, and that is what is kept: one reply, named after
all whose updates are in it, and

    cloud/updates/round-0001-hospital-0.masked.safetensors   `masked`: uint32 [parameters + 2], as it was received

The list is written last. A round that a kill interrupts therefore has no list: it runs again and overwrites the rest.
The SHA-256 of every vector is stored with the list.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from safetensors import SafetensorError, safe_open

from crypto.arrays import Float32Array, UInt32Array
from crypto.errors import CipherwardError
from crypto.files import disk_errors, drop_temporaries, parse_json, write_bytes
from crypto.tensor_file import tensor_bytes

FOLDER = "updates"
_HINT = "set keep_updates in the plan and train again, in another folder"

#: Each party's trained weights, float32 [parameters], and its number of images.
Updates = Mapping[str, tuple[Float32Array, int]]


def record_updates(
    cloud: Path,
    round_: int,
    before: Float32Array,
    updates: Updates,
    summed: Mapping[str, int] | None = None,
) -> None:
    """Write one round to disk. Files that an interrupted run of the same round left are replaced.

    Args:
        cloud: the study's cloud folder.
        round_: the round, from 1.
        before: the weights that every party was sent, float32 [parameters].
        updates: each party's trained weights and number of images.
        summed: under secure aggregation the number of images of each party in the one update.
    """
    folder = Path(cloud) / FOLDER
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for old in (folder / _round_file(round_), *folder.glob(f"round-{round_:04d}-*.safetensors")):
            old.unlink(missing_ok=True)
    drop_temporaries(folder, f"round-{round_:04d}*")
    parties = {}
    for party, (after, images) in updates.items():
        name = f"round-{round_:04d}-{_safe_name(party)}.safetensors"
        write_bytes(folder / name, tensor_bytes({"after": np.asarray(after, np.float32)}))
        parties[party] = {"file": name, "images": images, "sha256": _digest(after)}
    about: dict[str, Any] = {"round": round_, "sha256": _digest(before), "parties": parties}
    if summed is not None:
        about["summed"] = dict(summed)
    text = json.dumps(about, sort_keys=True)
    data = tensor_bytes({"before": np.asarray(before, np.float32)}, {"json": text})
    write_bytes(folder / _round_file(round_), data)


def record_sum(
    cloud: Path,
    round_: int,
    before: Float32Array,
    after: Float32Array,
    images: Mapping[str, int],
    masked: Mapping[str, UInt32Array],
) -> None:
    """Write one round under secure aggregation to disk: what the cloud really saw.

    Args:
        cloud: the study's cloud folder.
        round_: the round, from 1.
        before: the weights that every party was sent, float32 [parameters].
        after: those weights and the mean update, float32 [parameters].
        images: the number of images of each party whose update is in the mean.
        masked: the masked vectors, uint32 [parameters + 2], by party; those of parties that are not in the mean too.
    """
    record_updates(cloud, round_, before, {sum_name(images): (after, sum(images.values()))}, images)
    for party, vector in masked.items():
        name = f"round-{round_:04d}-{_safe_name(party)}.masked.safetensors"
        write_bytes(Path(cloud) / FOLDER / name, tensor_bytes({"masked": vector}))


def sum_name(parties: Collection[str]) -> str:
    """Return the name under which the sum of several parties' updates is recorded."""
    return "sum of " + ", ".join(sorted(parties))


def read_updates(cloud: Path) -> list[tuple[int, Float32Array, dict[str, tuple[Float32Array, int]]]]:
    """Read all recorded rounds in order, as (round, before, party → (after, images)). The list may be empty.

    Raises:
        CipherwardError: if a listed file is missing, altered or unreadable.
    """
    folder, rounds = Path(cloud) / FOLDER, []
    for path in sorted(folder.glob("round-*.safetensors")):
        if path.stem.removeprefix("round-").isdigit():
            before, about = _read_vector(path, "before")
            updates = {}
            try:
                number = int(about["round"])
                _require_digest(before, about["sha256"], path)
                for party, entry in about["parties"].items():
                    after, _ = _read_vector(folder / Path(entry["file"]).name, "after")
                    _require_digest(after, entry["sha256"], folder / entry["file"])
                    updates[str(party)] = (after, int(entry["images"]))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise CipherwardError(f"{path} is damaged: {error!r}", _HINT) from None
            rounds.append((number, before, updates))
    return rounds


def read_summed(cloud: Path) -> dict[int, dict[str, int]]:
    """Read of which parties' updates each recorded sum is: by round, the number of images of each party.

    Rounds without secure aggregation are left out.

    Raises:
        CipherwardError: if a recorded round is unreadable.
    """
    result = {}
    for path in sorted((Path(cloud) / FOLDER).glob("round-*.safetensors")):
        if path.stem.removeprefix("round-").isdigit():
            _, about = _read_vector(path, "before")
            try:
                if "summed" in about:
                    result[int(about["round"])] = {str(k): int(v) for k, v in about["summed"].items()}
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise CipherwardError(f"{path} is damaged: {error!r}", _HINT) from None
    return result


def _safe_name(party: str) -> str:
    """Return a party's name for use in a file name.

    The name comes from outside. It must not select a folder, or the file of another party.
    """
    name = quote(party, safe="")
    return name if len(name) <= 100 else f"{name[:80]}-{hashlib.sha256(party.encode()).hexdigest()[:19]}"


def _round_file(round_: int) -> str:
    return f"round-{round_:04d}.safetensors"


def _digest(vector: Float32Array) -> str:
    """Return the hex SHA-256 of a vector's float32 bytes."""
    return hashlib.sha256(np.ascontiguousarray(vector, np.float32).tobytes()).hexdigest()


def _read_vector(path: Path, name: str) -> tuple[Float32Array, dict[str, Any]]:
    """Return a vector of a file, and the JSON of the file's metadata or {}."""
    try:
        with safe_open(str(path), framework="numpy") as file:
            return file.get_tensor(name), parse_json((file.metadata() or {}).get("json", "{}"))
    except FileNotFoundError:
        raise CipherwardError(f"the recorded update {path} is missing", _HINT) from None
    except (SafetensorError, OSError, ValueError) as error:
        raise CipherwardError(
            f"the recorded update {path} cannot be read: {type(error).__name__}", _HINT
        ) from None


def _require_digest(vector: Float32Array, digest: str, path: Path) -> None:
    """Raise CipherwardError if a vector does not have this digest."""
    if vector.dtype != np.float32 or vector.ndim != 1 or _digest(vector) != digest:
        raise CipherwardError(f"the recorded update {path} is damaged: its digest differs", _HINT)
