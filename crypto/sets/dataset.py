"""SealedDataset: a folder of sealed images that can leave the hospital.

    sealed/train/
      manifest.json              public: scheme, key id, classes, a digest and a MAC for each shard
      images-00000.safetensors   {"images": [r, *sealed_shape], "labels": int64 [r]}
      images-00001.safetensors   …

It opens in O(shards) and is memory-mapped. With the digests (BLAKE3) anyone can find an altered shard. With the MACs
(HMAC under the key) a key holder can tell that nobody replaced shard and digest together. The manifest's MAC covers
the rows, the shards' digests and the set's name, which is its folder's: another set of the same key, put in its
place, is found. The name stands nowhere in the set, so that it does not tell what the set is for. File names of the
plain images are not in it either: they may hold patients' names.

A writer killed at any point leaves `partial.json` and complete shards. The next one continues, and the result is
byte-identical to an uninterrupted one.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from crypto.arrays import AnyArray, Int64Array, Rows
from crypto.errors import CipherwardError
from crypto.files import blake3_file, json_text, read_json
from crypto.key import SecretKey
from crypto.scheme import load
from crypto.sets.shard import map_tensor
from crypto.spec import SchemeSpec, spec_without_nonce

SCHEMA = "cipherward.sealed/3"
_FETCH_AGAIN = "fetch the sealed set again"
_EARLIER = ("cipherward.sealed/1", "cipherward.sealed/2")
#: Shards of a set that are mapped at once. Each map holds a descriptor, and a process has 1,024 of them by default.
_MOST_MAPPED = 64
MANIFEST, PARTIAL = "manifest.json", "partial.json"


def shard_name(index: int) -> str:
    """Return the file name of a shard."""
    return f"images-{index:05d}.safetensors"


def set_name(folder: Path) -> str:
    """Return the name of the set in a folder."""
    return folder.resolve().name


def canonical(value: Any) -> bytes:
    """Return the canonical JSON of a value: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def shard_mac(key: SecretKey, spec: SchemeSpec, index: int, rows: int, digest: str) -> str:
    """Return the hex MAC of a shard: of its spec, index, rows and digest."""
    content = canonical([spec.to_json(), index, rows, digest])
    return key.derive("sealed").mac(b"shard", content).hex()


def manifest_mac(key: SecretKey, name: str, manifest: Mapping[str, Any]) -> str:
    """Return the hex MAC of a set's name and of its manifest, whose own MAC is left out."""
    content = canonical([name, {**manifest, "mac": ""}])
    return key.derive("sealed").mac(b"manifest", content).hex()


class SealedDataset:
    """A sealed set on disk. `open` opens one; crypto/sets/writer.py writes them."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest
        try:
            self.spec = SchemeSpec.from_json(manifest["spec"])
            scheme = load(self.spec)
        except CipherwardError as error:
            raise CipherwardError(f"{folder / MANIFEST}: {error.message}", error.hint) from None
        self.key_id = str(manifest["key_id"])
        self.classes = [str(name) for name in manifest["classes"]]
        for name in self.classes:
            if not name or name.startswith(".") or "/" in name or "\\" in name or "\0" in name:
                raise ValueError(f"class name {name!r}")  # they become folders when a set is unsealed
        self.sealed_shape = scheme.sealed_shape
        self.sealed_dtype = scheme.sealed_dtype
        self._starts = np.cumsum([0] + [s["rows"] for s in manifest["shards"]])
        #: Memory maps of shards that were read.
        self._mapped: dict[int, AnyArray] = {}

    @classmethod
    def open(cls, folder: Path) -> SealedDataset:
        """Open a set: read the manifest and check that every shard is there at its full size. It needs no key.

        Raises:
            CipherwardError: Naming what is missing, cut short, damaged or unfinished.
        """
        folder = Path(folder)
        if not (folder / MANIFEST).exists():
            if (folder / PARTIAL).exists():
                raise CipherwardError(
                    f"{folder} is unfinished: its sealing was interrupted",
                    "run the same seal command again",
                )
            places = (f"*/{MANIFEST}", f"sealed/*/{MANIFEST}")  # the second: of a hospital's folder
            found = [p.parent for place in places for p in folder.glob(place)] if folder.is_dir() else []
            inner = sorted(str(p.relative_to(folder)) for p in found)
            hint = f"it holds sealed sets: {', '.join(inner)}; name one of them" if inner else ""
            raise CipherwardError(
                f"no sealed set at {folder}", hint or "make one with: cipherward-party seal"
            )
        manifest = read_json(folder / MANIFEST, "sealed set's manifest")
        if isinstance(manifest, dict) and manifest.get("schema") in _EARLIER:
            raise CipherwardError(
                f"{folder} was sealed by an earlier version of cipherward, as {manifest['schema']}",
                "seal the images again",
            )
        if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
            raise CipherwardError(f"{folder / MANIFEST} is not a {SCHEMA} manifest", _FETCH_AGAIN)
        try:
            sealed = cls(folder, manifest)
            sealed._check_files()
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise CipherwardError(f"{folder / MANIFEST} is damaged: {error!r}", _FETCH_AGAIN) from None
        return sealed

    def _check_files(self) -> None:
        """Check that the manifest's shards are there, each once and at its full size, and add up to its rows."""
        shards = self.manifest["shards"]
        for index, shard in enumerate(shards):
            if shard.keys() != {"file", "rows", "bytes", "blake3", "mac"}:
                raise ValueError(f"shard {index} has {sorted(shard)}")
            if shard["file"] != shard_name(index):
                raise CipherwardError(
                    f"{self.folder / MANIFEST} names {shard['file']!r} as shard {index}",
                    _FETCH_AGAIN,
                )
            path = self.folder / shard["file"]
            if not path.exists():
                raise CipherwardError(f"shard {path} is missing", _FETCH_AGAIN)
            if (size := path.stat().st_size) != shard["bytes"]:
                raise CipherwardError(
                    f"shard {path} is truncated or altered: {size} bytes, not the {shard['bytes']} of "
                    f"{MANIFEST}",
                    _FETCH_AGAIN,
                )
        rows = [shard["rows"] for shard in shards]
        if (
            not all(isinstance(r, int) and 0 <= r < 1 << 40 for r in rows)
            or sum(rows) != self.manifest["rows"]
        ):
            raise ValueError("its shards do not add up to its rows")

    @property
    def name(self) -> str:
        """The set's name: its folder's, such as `train`."""
        return set_name(self.folder)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the manifest, which names this sealing and no other."""
        return hashlib.sha256(canonical(self.manifest)).hexdigest()

    @functools.cached_property
    def labels(self) -> Int64Array:
        """Class index of every row, int64 [n], in clear."""
        parts = [self._labels(i) for i in range(len(self.manifest["shards"]))]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def images(self, start: int, stop: int) -> AnyArray:
        """Return sealed images [stop - start, *sealed_shape]; within one shard a view of the mapped file."""
        return self.rows(slice(start, stop))

    def rows(self, rows: slice | Rows) -> AnyArray:
        """Return the sealed images [r, *sealed_shape] of a slice or of rows int64 [r], in that order."""
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(len(self))
            shard = int(np.searchsorted(self._starts, start, side="right")) - 1
            if start < stop <= self._starts[min(shard + 1, len(self._starts) - 1)]:
                base = self._starts[shard]
                return self._images(shard)[start - base : stop - base]
            rows = np.arange(start, stop)
        rows = np.asarray(rows, np.int64)
        out = np.empty((len(rows), *self.sealed_shape), self.sealed_dtype)
        shards = np.searchsorted(self._starts, rows, side="right") - 1
        for shard in np.unique(shards):
            members = np.flatnonzero(shards == shard)
            out[members] = self._images(int(shard))[rows[members] - self._starts[shard]]
        return out

    def _images(self, shard: int) -> AnyArray:
        """Return the images of a shard as a read-only memory map, which is kept while the set is open."""
        mapped = self._mapped.get(shard)
        if mapped is None:
            if len(self._mapped) >= _MOST_MAPPED:
                self._mapped.clear()  # at once: threads may read, and whoever has a view keeps its map
            entry = self.manifest["shards"][shard]
            shape = (entry["rows"], *self.sealed_shape)
            mapped = self._mapped[shard] = map_tensor(
                self.folder / entry["file"], "images", shape, self.sealed_dtype
            )
        return mapped

    def _labels(self, shard: int) -> AnyArray:
        """Return the labels of a shard as a read-only memory map."""
        entry = self.manifest["shards"][shard]
        return map_tensor(self.folder / entry["file"], "labels", (entry["rows"],), np.dtype(np.int64))

    def check_digests(self) -> None:
        """Compare every shard with its digest.

        Raises:
            CipherwardError: Naming the first one that differs or cannot be read.
        """
        for shard in self.manifest["shards"]:
            path = self.folder / shard["file"]
            try:
                digest = blake3_file(path)
            except OSError as error:
                raise CipherwardError(
                    f"cannot read shard {path}: {error.strerror}", "mend that, and try again"
                ) from None
            if digest != shard["blake3"]:
                raise CipherwardError(
                    f"shard {path} is altered: its digest is not the manifest's",
                    _FETCH_AGAIN,
                )

    def verify(self, key: SecretKey) -> None:
        """Check digests and MACs of the manifest and of every shard, under the key.

        Raises:
            CipherwardError: For a key that is not the set's, known by its id before any work. Otherwise it names the
                altered manifest or shard, the set that stands in this one's place, or a file or folder that does not
                belong to the set, hidden ones included.
        """
        path = self.folder / MANIFEST
        is_authentic = self._has_mac(key, self.name)
        if not is_authentic:
            self.require_key(key)
            self._require_place(key)
        # The bytes are compared, too: other JSON text can have the same meaning.
        if (
            not is_authentic
            or key.id != self.key_id
            or path.read_bytes() != json_text(self.manifest).encode()
        ):
            raise CipherwardError(
                f"the manifest {path} is altered: its MAC does not hold",
                f"{_FETCH_AGAIN}; a copy must lie in a folder of the name that it was sealed under, such as train",
            )
        self.check_digests()
        members = {MANIFEST, *(shard["file"] for shard in self.manifest["shards"])}
        for other in sorted(self.folder.iterdir()):
            # Hidden files, too: what lies in here is copied with the set.
            if other.name not in members:
                raise CipherwardError(
                    f"{other} is no part of this sealed set",
                    "take it away: what is in here may leave the hospital",
                )
        for index, shard in enumerate(self.manifest["shards"]):
            if shard_mac(key, self.spec, index, shard["rows"], shard["blake3"]) != shard["mac"]:
                raise CipherwardError(
                    f"shard {self.folder / shard['file']} is not this set's: bad MAC",
                    _FETCH_AGAIN,
                )

    def _has_mac(self, key: SecretKey, name: str) -> bool:
        """Return whether the manifest is authentic under the key as that of a set of this name."""
        return manifest_mac(key, name, {**self.manifest, "key_id": key.id}) == self.manifest.get("mac")

    def _require_place(self, key: SecretKey) -> None:
        """Raise CipherwardError if this is an intact set of another folder beside this one."""
        for other in sorted(self.folder.resolve().parent.iterdir()):
            if self._has_mac(key, other.name):
                raise CipherwardError(
                    f"{self.folder} holds the set {other.name!r}, which was put in the place of {self.name!r}",
                    _FETCH_AGAIN,
                )

    def require_key(self, key: SecretKey) -> None:
        """Raise CipherwardError if the key is not the one that sealed this set."""
        if key.id != self.key_id:
            raise CipherwardError(
                f"key {key.id} did not seal {self.folder}; key {self.key_id} did",
                "use the key file whose id is " + self.key_id,
            )


def equal_except_nonce(a: SchemeSpec, b: SchemeSpec) -> bool:
    """Return whether two specs are equal, nonces left out: those are drawn anew for each sealing."""
    return spec_without_nonce(a) == spec_without_nonce(b)
