"""Decrypt a sealed set into plain pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from crypto.arrays import UInt8Array
from crypto.errors import CipherwardError
from crypto.files import disk_errors, drop_temporaries, read_json, write_atomic, write_json
from crypto.key import SecretKey
from crypto.scheme import load
from crypto.sets.dataset import SealedDataset
from crypto.sets.leaving import require_stays

# Names the set that is being unsealed into a folder. No class's folder begins with a dot.
_UNSEALING = ".unsealing.json"
_UNSEAL_ROWS = 256  # images decrypted at a time: bounds the memory that unsealing needs


def unseal(
    sealed: SealedDataset, key: SecretKey, out: Path, on_progress: Callable[[int], None] = lambda _: None
) -> int:
    """Decrypt a sealed set into PNG files, one folder for each class, and return the number of images.

    The set is verified first, so that a wrong key or an altered shard writes nothing. Where a full disk or a kill
    stopped it, the same call goes on: a file in `out` names the set until all of its images are there.

    Raises:
        CipherwardError: If no key opens the scheme's ciphertexts, verification fails, or `out` may leave the
            hospital, or exists and is not an empty folder, nor one that this set was being opened into.
    """
    require_stays(out, "the images would lie there plain")
    load(sealed.spec).require_invertible("the plain images are where they were sealed from: keep them")
    sealed.verify(key)
    note = out / _UNSEALING
    is_begun = note.is_file() and read_json(note, "file of an interrupted unseal") == {"set": sealed.digest}
    if not is_begun and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CipherwardError(f"{out} exists and is not an empty folder", "unseal into a new folder")
    cipher = load(sealed.spec).cipher(key)
    with disk_errors(out):
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_json(note, {"set": sealed.digest})
        for name in sealed.classes:
            (out / name).mkdir(mode=0o700, exist_ok=True)  # plain images: only for their owner
            drop_temporaries(out / name)
    for start in range(0, len(sealed), _UNSEAL_ROWS):
        stop = min(start + _UNSEAL_ROWS, len(sealed))
        images = cipher.decrypt(np.asarray(sealed.images(start, stop)), first=start)
        for row, image in enumerate(images, start):
            _write_png(out / sealed.classes[int(sealed.labels[row])] / f"{row:06d}.png", image)
        on_progress(stop)
    with disk_errors(note):
        note.unlink()
    return len(sealed)


def _write_png(path: Path, image: UInt8Array) -> None:
    """Write an image, uint8 [h, w, 1 or 3], atomically."""
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    write_atomic(path, lambda temporary: picture.save(temporary, format="PNG"))
