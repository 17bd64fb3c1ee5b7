"""An unfinished sealing: `partial.json`, and the shards that it names.

A shard counts once `partial.json` names it, which is after it is safe on the disk. A sealing resumes only as it
began: from the same images, under the same key and settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crypto.arrays import Int64Array
from crypto.cores import cores
from crypto.errors import CipherwardError
from crypto.files import blake3_file, drop_temporaries, read_json, write_json
from crypto.key import SecretKey
from crypto.sets.dataset import MANIFEST, PARTIAL, equal_except_nonce
from crypto.spec import SchemeSpec


@dataclass(frozen=True)
class PartialSealing:
    """A sealing in work.

    Attributes:
        folder: The folder of the set.
        identity: What a resumed sealing must agree with (`sealing_identity`), and `step`, the images of a shard.
        spec: The scheme.
        shards: The manifest's entries of the shards that are written.
        skipped: The source images before their end that could not be read.
    """

    folder: Path
    identity: dict[str, Any]
    spec: SchemeSpec
    shards: list[dict[str, Any]]
    skipped: list[int]

    def record(self) -> None:
        """Write `partial.json`."""
        value = {
            **self.identity,
            "spec": self.spec.to_json(),
            "shards": self.shards,
            "skipped": self.skipped,
        }
        write_json(self.folder / PARTIAL, value)


def sealing_identity(labels: Int64Array, classes: list[str], key: SecretKey, source: str) -> dict[str, Any]:
    """Return what a resumed sealing must agree with, besides its spec; parameters as of `seal_images`."""
    return {
        # Keyed, so that whoever finds an unfinished folder cannot test which images it holds.
        "source": key.derive("sealed").mac(b"source", source.encode(errors="surrogateescape")).hex(),
        "key_id": key.id,
        "rows": len(labels),
        "classes": classes,
    }


def is_unfinished(folder: Path) -> bool:
    """Return whether the folder holds an interrupted sealing."""
    return (folder / PARTIAL).exists()


def read_unfinished(folder: Path, identity: Mapping[str, Any], spec: SchemeSpec) -> dict[str, Any]:
    """Return the `partial.json` of the interrupted sealing in a folder.

    Raises:
        CipherwardError: If it began from other images, or under another key or scheme.
    """
    partial: dict[str, Any] = read_json(folder / PARTIAL, "unfinished sealing")
    # Nonces are drawn anew for each sealing; a resumed one keeps the nonce it began with.
    if {k: partial.get(k) for k in identity} != identity or not equal_except_nonce(
        SchemeSpec.from_json(partial["spec"]), spec
    ):
        raise CipherwardError(
            f"{folder} holds an unfinished sealing of other images, or under another key or scheme",
            "remove the folder, or finish it with its own settings",
        )
    return partial


def begin_or_resume(folder: Path, identity: dict[str, Any], spec: SchemeSpec) -> PartialSealing:
    """Return a new sealing, or what is intact of the interrupted one in the folder."""
    if not is_unfinished(folder):
        return PartialSealing(folder, identity, spec, [], [])
    partial = read_unfinished(folder, identity, spec)

    def is_intact(shard: Mapping[str, Any]) -> bool:
        path = folder / shard["file"]
        return path.exists() and blake3_file(path) == str(shard["blake3"])

    with ThreadPoolExecutor(cores()) as pool:
        intact = [*pool.map(is_intact, partial["shards"]), False]
    shards = partial["shards"][: intact.index(False)]
    skipped = [row for row in partial["skipped"] if row < len(shards) * identity["step"]]
    return PartialSealing(folder, identity, SchemeSpec.from_json(partial["spec"]), shards, skipped)


def drop_unfinished(folder: Path) -> None:
    """Remove an unfinished sealing. No other process may write to the folder meanwhile."""
    for path in folder.glob("images-*.safetensors"):
        path.unlink()
    (folder / PARTIAL).unlink(missing_ok=True)


def clear_leftovers(folder: Path) -> None:
    """Remove what a killed sealing left next to its result. No other process may write to the folder meanwhile."""
    drop_temporaries(folder)
    if (folder / MANIFEST).exists():
        (folder / PARTIAL).unlink(missing_ok=True)
