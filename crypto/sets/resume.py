"""What there is of an unfinished sealing: `partial.json`, and the shards that it names.

A shard counts once the note names it, which is after it is safe on the disk. A sealing is resumed only as it was
begun: from the same images, under the same key and settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crypto.cores import cores
from crypto.errors import CipherwardError
from crypto.files import blake3_file, drop_temporaries, read_json, write_json
from crypto.key import SecretKey
from crypto.sets.dataset import MANIFEST, PARTIAL, same_but_nonce
from crypto.spec import SchemeSpec


@dataclass(frozen=True)
class Part:
    """What there is of a sealing; `record` keeps it in partial.json.

    begun: what a resumed sealing must agree with. shards: the manifest's entries of those that are written.
    skipped: the source images before their end that could not be read.
    """

    folder: Path
    begun: dict[str, Any]
    spec: SchemeSpec
    shards: list[dict[str, Any]]
    skipped: list[int]

    def record(self) -> None:
        value = {**self.begun, "spec": self.spec.to_json(), "shards": self.shards, "skipped": self.skipped}
        write_json(self.folder / PARTIAL, value)


def begun_as(labels: np.ndarray, classes: list[str], key: SecretKey, source: str) -> dict[str, Any]:
    """What a resumed sealing must agree with, beside its spec; parameters as of `seal_images`."""
    return {
        # Keyed, so that whoever finds an unfinished folder cannot test which images it holds.
        "source": key.derive("sealed").mac(b"source", source.encode(errors="surrogateescape")).hex(),
        "key_id": key.id,
        "rows": len(labels),
        "classes": classes,
    }


def is_unfinished(folder: Path) -> bool:
    """Whether an interrupted sealing is there."""
    return (folder / PARTIAL).exists()


def unfinished(folder: Path, begun: Mapping[str, Any], spec: SchemeSpec) -> dict[str, Any]:
    """The note of the interrupted sealing that is there. Raises CipherwardError where it began otherwise."""
    known: dict[str, Any] = read_json(folder / PARTIAL, "unfinished sealing")
    # Nonces are drawn anew for each sealing; a resumed one keeps the nonce it began with.
    if {k: known.get(k) for k in begun} != begun or not same_but_nonce(
        SchemeSpec.from_json(known["spec"]), spec
    ):
        raise CipherwardError(
            f"{folder} holds an unfinished sealing of other images, or under another key or scheme",
            "remove the folder, or finish it with its own settings",
        )
    return known


def begin_or_resume(folder: Path, begun: dict[str, Any], spec: SchemeSpec) -> Part:
    """A new sealing, or what is intact of the interrupted one in the folder."""
    if not is_unfinished(folder):
        return Part(folder, begun, spec, [], [])
    known = unfinished(folder, begun, spec)

    def intact(shard: Mapping[str, Any]) -> bool:
        path = folder / shard["file"]
        return path.exists() and blake3_file(path) == shard["blake3"]

    with ThreadPoolExecutor(cores()) as pool:
        checks = [*pool.map(intact, known["shards"]), False]
    shards = known["shards"][: checks.index(False)]
    skipped = [row for row in known["skipped"] if row < len(shards) * begun["step"]]
    return Part(folder, begun, SchemeSpec.from_json(known["spec"]), shards, skipped)


def drop_unfinished(folder: Path) -> None:
    """Removes an unfinished sealing; nobody else may write to the folder now."""
    for path in folder.glob("images-*.safetensors"):
        path.unlink()
    (folder / PARTIAL).unlink(missing_ok=True)


def clear_leftovers(folder: Path) -> None:
    """Removes what a killed sealing left beside its result; nobody else may write to the folder now."""
    drop_temporaries(folder)
    if (folder / MANIFEST).exists():
        (folder / PARTIAL).unlink(missing_ok=True)
