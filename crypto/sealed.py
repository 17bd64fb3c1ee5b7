"""SealedDataset: a folder of sealed images that can leave the hospital.

    sealed/train/
      manifest.json              public: scheme, key id, classes, a digest and a MAC for each shard
      images-00000.safetensors   {"images": uint8 [r, h, w, c], "labels": int64 [r]}
      images-00001.safetensors   …

It opens in O(1) and is memory-mapped. Digests (SHA-256) let anyone find an altered shard; MACs (HMAC
under the key) let a key holder tell that nobody replaced shard and digest together. File names of the
plain images are not in it: they may hold patients' names.

A writer killed at any point leaves `partial.json` and whole shards; the next one continues, and the
result is byte-identical to an uninterrupted one.
"""

from __future__ import annotations

import functools
import hashlib
import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from crypto.errors import CipherwardError
from crypto.files import disk_errors, read_json, sha256_file, write_bytes, write_json
from crypto.key import SecretKey
from crypto.scheme import load
from crypto.spec import SchemeSpec

SCHEMA = "cipherward.sealed/1"
SHARD_BYTES = 64 << 20
_MANIFEST, _PARTIAL = "manifest.json", "partial.json"
_HEADER_LIMIT = 1 << 20


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _shard_mac(key: SecretKey, spec: SchemeSpec, index: int, rows: int, digest: str) -> str:
    place = _canonical([spec.to_json(), index, rows, digest])
    return key.derive("sealed").mac(b"shard", place).hex()


def _manifest_mac(key: SecretKey, manifest: Mapping[str, Any]) -> str:
    return key.derive("sealed").mac(b"manifest", _canonical({**manifest, "mac": ""})).hex()


class SealedDataset:
    """A sealed set on disk. Make one with `open`; write one with `seal_images`."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest
        self.spec = SchemeSpec.from_json(manifest["spec"])
        self.key_id = str(manifest["key_id"])
        self.classes = [str(name) for name in manifest["classes"]]
        for name in self.classes:
            if not name or name.startswith(".") or "/" in name or "\\" in name or "\0" in name:
                raise ValueError(f"class name {name!r}")  # they become folders when a set is unsealed
        scheme = load(self.spec)
        self.sealed_shape = scheme.sealed_shape
        self.sealed_dtype = scheme.sealed_dtype
        self._starts = np.cumsum([0] + [s["rows"] for s in manifest["shards"]])

    @classmethod
    def open(cls, folder: Path) -> SealedDataset:
        """Reads the manifest and checks that every shard is there at its full size; needs no key.

        Raises CipherwardError naming what is missing, cut short or unfinished.
        """
        folder = Path(folder)
        if not (folder / _MANIFEST).exists():
            if (folder / _PARTIAL).exists():
                raise CipherwardError(
                    f"{folder} is unfinished: its sealing was interrupted",
                    "run the same seal command again",
                )
            inner = sorted(p.parent.name for p in folder.glob(f"*/{_MANIFEST}")) if folder.is_dir() else []
            hint = f"it holds sealed sets: {', '.join(inner)}; name one of them" if inner else ""
            raise CipherwardError(
                f"no sealed set at {folder}", hint or "make one with: cipherward-party seal"
            )
        manifest = read_json(folder / _MANIFEST, "sealed set's manifest")
        if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
            raise CipherwardError(f"{folder / _MANIFEST} is not a {SCHEMA} manifest")
        try:
            sealed = cls(folder, manifest)
            for shard in manifest["shards"]:
                path = folder / shard["file"]
                if Path(shard["file"]).name != shard["file"]:
                    raise CipherwardError(f"the manifest of {folder} names a file outside it")
                if not path.exists():
                    raise CipherwardError(f"shard {path} is missing", "fetch the sealed set again")
                if (size := path.stat().st_size) != shard["bytes"]:
                    raise CipherwardError(
                        f"shard {path} is truncated or altered: {size} bytes, not {shard['bytes']}",
                        "fetch the sealed set again",
                    )
        except (KeyError, TypeError, ValueError) as error:
            raise CipherwardError(f"{folder / _MANIFEST} is damaged: {error!r}") from None
        return sealed

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the manifest: names this very sealing."""
        return hashlib.sha256(_canonical(self.manifest)).hexdigest()

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """int64 [n]: class index of every row, in clear."""
        parts = [self._tensor(i, "labels") for i in range(len(self.manifest["shards"]))]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def images(self, start: int, stop: int) -> np.ndarray:
        """[stop - start, *sealed_shape]: sealed images; within one shard a view of the mapped file."""
        return self.rows(slice(start, stop))

    def rows(self, rows: slice | np.ndarray) -> np.ndarray:
        """[r, *sealed_shape]: sealed images of a slice or of int64 [r] rows, in that order."""
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(len(self))
            shard = int(np.searchsorted(self._starts, start, side="right")) - 1
            if start < stop <= self._starts[min(shard + 1, len(self._starts) - 1)]:
                base = self._starts[shard]
                return self._tensor(shard, "images")[start - base : stop - base]
            rows = np.arange(start, stop)
        rows = np.asarray(rows, np.int64)
        out = np.empty((len(rows), *self.sealed_shape), self.sealed_dtype)
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        for shard in np.unique(owner):
            mine = np.flatnonzero(owner == shard)
            out[mine] = self._tensor(int(shard), "images")[rows[mine] - self._starts[shard]]
        return out

    @functools.lru_cache(maxsize=4096)  # noqa: B019 - a mapping a shard, kept while the set is open
    def _tensor(self, shard: int, name: str) -> np.ndarray:
        """A tensor of a shard as a read-only memory map (safetensors: length, JSON header, bytes)."""
        path = self.folder / self.manifest["shards"][shard]["file"]
        try:
            with open(path, "rb") as handle:
                (length,) = struct.unpack("<Q", handle.read(8))
                header = json.loads(handle.read(length if length < _HEADER_LIMIT else 0))
            entry = header[name]
            kinds = {"U8": np.uint8, "I64": np.int64, "F32": np.float32}
            return np.memmap(
                path,
                dtype=kinds[entry["dtype"]],
                mode="r",
                offset=8 + length + entry["data_offsets"][0],
                shape=tuple(entry["shape"]),
            )
        except (OSError, ValueError, KeyError, struct.error) as error:
            raise CipherwardError(
                f"shard {path} is truncated or altered: {type(error).__name__}",
                "fetch the sealed set again",
            ) from None

    def check_digests(self) -> None:
        """Compares every shard with its digest; raises CipherwardError naming the first bad one."""
        for shard in self.manifest["shards"]:
            path = self.folder / shard["file"]
            if sha256_file(path) != shard["sha256"]:
                raise CipherwardError(
                    f"shard {path} is altered: its digest is not the manifest's",
                    "fetch the sealed set again",
                )

    def verify(self, key: SecretKey) -> None:
        """Digests and MACs of the manifest and of every shard, under the key.

        Raises CipherwardError: a key that is not the set's is told by its id before any work; then the
        altered manifest or shard is named.
        """
        self.require_key(key)
        if _manifest_mac(key, self.manifest) != self.manifest["mac"]:
            raise CipherwardError(f"the manifest of {self.folder} is altered: its MAC does not hold")
        self.check_digests()
        for index, shard in enumerate(self.manifest["shards"]):
            if _shard_mac(key, self.spec, index, shard["rows"], shard["sha256"]) != shard["mac"]:
                raise CipherwardError(f"shard {self.folder / shard['file']} is not this set's: bad MAC")

    def require_key(self, key: SecretKey) -> None:
        """Raises CipherwardError where the key is not the one that sealed this set."""
        if key.id != self.key_id:
            raise CipherwardError(
                f"key {key.id} did not seal {self.folder}; key {self.key_id} did",
                "use the key file whose id is " + self.key_id,
            )


def seal_images(
    folder: Path,
    read: Callable[[int, int], tuple[np.ndarray, np.ndarray]],
    labels: np.ndarray,
    classes: list[str],
    key: SecretKey,
    spec: SchemeSpec,
    source: str,
    progress: Callable[[int], None] = lambda rows: None,
    keep: Callable[[str, np.ndarray], None] = lambda digest, rows: None,
    shard_bytes: int = SHARD_BYTES,
) -> tuple[SealedDataset, np.ndarray]:
    """Seals images into `folder`, resuming what an earlier, interrupted call left there.

    read(start, stop) gives (uint8 [k, h, w, c], bool [stop - start]): the images that could be read and
    which of the asked ones those are; the rest is left out. labels: int64 [n], of every source image.
    `source` is a fingerprint of the plain images: a resumed sealing must have the same one. `progress`
    is told the source images done so far. Returns the set and int64 [rows], the source image of each row;
    `keep` is given the set's digest and these rows before the set counts as finished.
    Raises CipherwardError where a finished set, or an unfinished one of another source or key, is there, and
    where no image could be read.
    """
    folder = Path(folder)
    if (folder / _MANIFEST).exists():
        raise CipherwardError(
            f"{folder} already holds a sealed set", "seal into another folder, or remove it first"
        )
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    scheme = load(spec)
    row_bytes = int(np.prod(scheme.sealed_shape)) * scheme.sealed_dtype.itemsize
    step = max(1, shard_bytes // row_bytes)
    begun = {
        # Keyed, so that whoever finds an unfinished folder cannot test which images it holds.
        "source": key.derive("sealed").mac(b"source", source.encode()).hex(),
        "key_id": key.id,
        "rows": len(labels),
        "step": step,
        "classes": classes,
    }
    done: list[dict[str, Any]] = []
    skipped: list[int] = []
    if (folder / _PARTIAL).exists():
        partial = read_json(folder / _PARTIAL, "unfinished sealing")
        known = SchemeSpec.from_json(partial["spec"])
        # Nonces are drawn anew for each sealing; a resumed one keeps the nonce it began with.
        same = {k: partial.get(k) for k in begun} == begun and same_but_nonce(known, spec)
        if not same:
            raise CipherwardError(
                f"{folder} holds an unfinished sealing of other images, or under another key or scheme",
                "remove the folder, or finish it with its own settings",
            )
        spec, done, skipped = known, partial["shards"], partial["skipped"]
        scheme = load(spec)
    cipher = scheme.cipher(key)

    def record() -> None:
        write_json(folder / _PARTIAL, {**begun, "spec": spec.to_json(), "shards": done, "skipped": skipped})

    record()
    for index, start in enumerate(range(0, len(labels), step)):
        stop = min(start + step, len(labels))
        name = f"images-{index:05d}.safetensors"
        path = folder / name
        if index < len(done) and path.exists() and sha256_file(path) == done[index]["sha256"]:
            progress(stop)
            continue
        del done[index:]
        skipped = [row for row in skipped if row < start]
        images, kept = read(start, stop)
        row = sum(shard["rows"] for shard in done)
        sealed = {
            "images": np.ascontiguousarray(cipher.encrypt(images, first=row)),
            "labels": np.ascontiguousarray(labels[start:stop][kept].astype(np.int64)),
        }
        skipped += [start + int(i) for i in np.flatnonzero(~kept)]
        data = save(sealed)  # our own write: safetensors hides the reason of a failed one
        write_bytes(path, data)
        digest = sha256_file(path)
        count = len(images)
        mac = _shard_mac(key, spec, index, count, digest)
        size = path.stat().st_size
        done.append({"file": name, "rows": count, "bytes": size, "sha256": digest, "mac": mac})
        record()
        progress(stop)
    manifest = {
        "schema": SCHEMA,
        "spec": spec.to_json(),
        "key_id": key.id,
        "rows": len(labels) - len(skipped),
        "classes": list(classes),
        "shards": done,
        "mac": "",
    }
    manifest["mac"] = _manifest_mac(key, manifest)
    rows = np.setdiff1d(np.arange(len(labels)), skipped)
    if not len(rows):
        raise CipherwardError(f"not one image for {folder.name} could be read", "see the quarantine list")
    keep(hashlib.sha256(_canonical(manifest)).hexdigest(), rows)
    write_json(folder / _MANIFEST, manifest)
    (folder / _PARTIAL).unlink()
    return SealedDataset.open(folder), rows


def same_but_nonce(a: SchemeSpec, b: SchemeSpec) -> bool:
    """Whether two specs say the same; nonces are drawn anew for each sealing."""

    def bare(spec: SchemeSpec) -> dict[str, Any]:
        value = spec.to_json()
        value["options"] = {k: v for k, v in value["options"].items() if k != "nonce"}
        return value

    return bare(a) == bare(b)
