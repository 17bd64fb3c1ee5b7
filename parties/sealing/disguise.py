"""Control sets declared as the audited scheme, so that no attack is told that they are controls.

A control can be declared so if its ciphertexts have the form of the audited scheme's: what nothing opens (*noise*,
*permuted*), and the audited scheme itself under another key (*known*). The declared copy has the audited scheme's
manifest, classes, labels drawn with the same shares, and as many images as an audited set, if the control has them.

Two audits use it: the hospital's own (parties/scoring/blind_sets.py), and one that a cloud runs (audit_sets.py). The
ciphertexts themselves still tell: noise is noise, and controls are phantom scans.
"""

from __future__ import annotations

import secrets
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from coordinator.exchange.audit.control_sets import MAY_BE_HIDDEN, PREFIX
from crypto.arrays import AnyArray, Int64Array
from crypto.files import blake3_file, write_bytes, write_json
from crypto.key import SecretKey
from crypto.scheme import load
from crypto.sets.dataset import (
    MANIFEST,
    SCHEMA,
    SealedDataset,
    equal_except_nonce,
    manifest_mac,
    set_name,
    shard_mac,
    shard_name,
)
from crypto.sets.shard_sealer import row_bytes
from crypto.sets.writer import SHARD_BYTES
from crypto.spec import SchemeSpec
from crypto.tensor_file import tensor_bytes

_MAC_BYTES = 32


def can_be_declared(name: str, spec: SchemeSpec, audited: SchemeSpec) -> bool:
    """Return whether a control set can be declared as the audited scheme.

    Args:
        name: The control's name.
        spec: Its scheme.
        audited: The audited scheme.
    """
    is_form = load(spec).sealed_shape == load(audited).sealed_shape and spec.block == audited.block
    # What key recovery must open is under one key: an attack that is told of a key for every image could not.
    as_audited = replace(spec, key_scope=audited.key_scope)
    is_one_key = audited.key_scope != "image" and equal_except_nonce(as_audited, audited)
    is_scheme = name != f"{PREFIX}known" or is_one_key
    return name in MAY_BE_HIDDEN and is_form and is_scheme


def write_declared_copy(
    sealed: SealedDataset,
    audited: SealedDataset,
    folder: Path,
    all_labels: Int64Array,
    key: SecretKey | None = None,
) -> None:
    """Write a copy of a set that declares the audited scheme. What an interrupted call left is written anew.

    Args:
        sealed: The set. A control gets the declaration, labels and number of images of an audited set; another set
            keeps its own.
        audited: A set of the audited scheme.
        folder: Of the copy.
        all_labels: int64 [n], the classes of the images that audited sets are drawn from.
        key: Makes the copy's MACs; without one they are random, for readers that have no key.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    is_own = not sealed.name.startswith(PREFIX)
    count = len(sealed) if is_own else min(len(sealed), len(audited))
    spec = sealed.spec if is_own else _declared(audited.spec)
    labels = sealed.labels if is_own else _labels_like(all_labels, count)
    step, shards = max(1, SHARD_BYTES // row_bytes(spec)), []
    for index, start in enumerate(range(0, count, step)):
        stop = min(start + step, count)
        images = _as_ciphertexts(sealed.images(start, stop), audited)
        path = folder / shard_name(index)
        write_bytes(path, tensor_bytes({"labels": labels[start:stop], "images": images}))
        digest = blake3_file(path)
        mac = shard_mac(key, spec, index, stop - start, digest) if key else secrets.token_hex(_MAC_BYTES)
        shards.append(
            {
                "file": path.name,
                "rows": stop - start,
                "bytes": path.stat().st_size,
                "blake3": digest,
                "mac": mac,
            }
        )
    manifest = {
        "schema": SCHEMA,
        "spec": spec.to_json(),
        "key_id": sealed.key_id,
        "rows": count,
        "classes": audited.classes,
        "shards": shards,
        "mac": "",
    }
    mac = manifest_mac(key, set_name(folder), manifest) if key else secrets.token_hex(_MAC_BYTES)
    write_json(folder / MANIFEST, {**manifest, "mac": mac})


def _declared(spec: SchemeSpec) -> SchemeSpec:
    """Return the audited scheme's public description as another set of it would state it."""
    nonce = spec.options.get("nonce")
    if nonce is None:
        return spec
    return replace(spec, options={**spec.options, "nonce": secrets.token_hex(len(nonce) // 2)})


def _labels_like(labels: Int64Array, count: int) -> Int64Array:
    """Return so many labels, drawn from those that the audited sets are drawn from, in the same way."""
    generator = np.random.default_rng(secrets.randbits(64))
    return generator.choice(labels, count, replace=count > len(labels))


def _as_ciphertexts(images: AnyArray, audited: SealedDataset) -> AnyArray:
    """Return bytes in the dtype of the audited scheme, real numbers with its ciphertexts' mean and deviation."""
    if images.dtype == audited.sealed_dtype:
        return images
    sample = audited.images(0, min(len(audited), 8))
    centred = (images.astype(np.float32) - np.float32(127.5)) / np.float32(np.arange(256).std())
    result: AnyArray = (centred * sample.std() + sample.mean()).astype(audited.sealed_dtype)
    return result
