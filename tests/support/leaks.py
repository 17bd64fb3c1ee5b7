"""Find key material and plain pixels in what left a hospital: the forms that are looked for, and the search."""

from __future__ import annotations

import base64
import io
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from crypto.arrays import Images
from crypto.key import SecretKey
from crypto.scheme import load, sub_key
from crypto.spec import SchemeSpec

_DTYPES = (np.uint8, np.int16, np.int32, np.int64, np.float32, np.float64)


def key_forms(key: SecretKey, specs: Iterable[SchemeSpec]) -> dict[str, bytes]:
    """Return name → bytes of every form of a key that must never be found outside its hospital.

    The key and the sub-keys that schemes and MACs use are given raw, reversed, in hex (both cases), in base64 (both
    alphabets) and as a list of numbers. K1, K2 and the pixel table are given as text and in every dtype.
    """
    forms: dict[str, bytes] = {}
    secrets = {"key": key}
    for spec in specs:
        secrets[f"{spec.name} sub-key"] = sub_key(spec, key)
    secrets["MAC sub-key"] = key.derive("sealed")
    for name, secret in secrets.items():
        raw = secret.reveal()
        forms[f"{name}, raw"] = raw
        forms[f"{name}, reversed"] = raw[::-1]
        forms[f"{name}, hex"] = raw.hex().encode()
        forms[f"{name}, HEX"] = raw.hex().upper().encode()
        # Without the tail: base64 of a longer text that holds the key differs at its ends.
        forms[f"{name}, base64"] = base64.b64encode(raw)[:40]
        forms[f"{name}, urlsafe base64"] = base64.urlsafe_b64encode(raw)[:40]
        forms[f"{name}, numbers"] = ", ".join(map(str, raw)).encode()
        forms[f"{name}, repr"] = repr(raw)[2:-1].encode()
    for spec in specs:
        for part, table in load(spec).parts(key).items():
            flat = table.ravel()
            if flat.dtype == bool or len(flat) < 12 or np.array_equal(flat, np.arange(len(flat))):
                continue
            start = flat[:24]  # enough to be no accident, whatever became of the rest
            forms[f"{spec.name} {part}, numbers"] = ", ".join(map(str, start)).encode()
            forms[f"{spec.name} {part}, compact"] = ",".join(map(str, start)).encode()
            for dtype in _DTYPES:
                if np.array_equal(start.astype(dtype).astype(np.int64), start):
                    forms[f"{spec.name} {part}, {np.dtype(dtype).name}"] = start.astype(dtype).tobytes()
    return forms


def plain_forms(images: Images) -> dict[str, bytes]:
    """Return name → bytes of rows of plain images [n, h, w, c] with enough texture to be no accident."""
    forms: dict[str, bytes] = {}
    for i, image in enumerate(images):
        rows = image.reshape(len(image), -1).astype(np.int64)
        busiest = rows[np.argmax(np.abs(np.diff(rows, axis=1)).sum(1))]
        start = max(0, int(np.argmax(busiest > 0)))
        piece = busiest[start : start + 24]
        if len(np.unique(piece)) < 8:
            continue
        forms[f"image {i}, bytes"] = piece.astype(np.uint8).tobytes()
        forms[f"image {i}, hex"] = piece.astype(np.uint8).tobytes().hex().encode()
        forms[f"image {i}, numbers"] = ", ".join(map(str, piece)).encode()
        forms[f"image {i}, float32"] = piece.astype(np.float32).tobytes()
        forms[f"image {i}, as model input"] = (piece.astype(np.float32) / 127.5 - 1).tobytes()
    return forms


_PICTURE = re.compile(rb"data:image/png;base64,([A-Za-z0-9+/=]+)")


def _unpacked(name: str, data: bytes) -> Iterable[tuple[str, bytes]]:
    """Yield (name, content) of an artefact, and of the pictures and archive members in it."""
    yield name, data
    for i, picture in enumerate(_PICTURE.findall(data)):  # a report's pictures, as pixels
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))))
        yield f"{name}!picture {i}", pixels.tobytes()
    if data[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for inner in archive.namelist():
                yield f"{name}!{inner}", archive.read(inner)


def find(forms: Mapping[str, bytes], artefacts: Mapping[str, bytes]) -> list[str]:
    """Return every form that an artefact contains, as `form in artefact`."""
    return [
        f"{form} in {name}"
        for outer, data in artefacts.items()
        for name, content in _unpacked(outer, data)
        for form, secret in forms.items()
        if secret in content
    ]


def files(folder: Path, leave_out: Iterable[Path] = ()) -> dict[str, bytes]:
    """Return all files below a folder, without those below the left-out ones."""
    left_out = [p.resolve() for p in leave_out]
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and not any(p.resolve().is_relative_to(o) for o in left_out)
    }
