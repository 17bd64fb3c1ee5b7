"""Decrypt a sealed set into plain pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from crypto.arrays import UInt8Array
from crypto.errors import CipherwardError
from crypto.files import disk_errors, drop_temporaries, folder_lock, read_json, write_atomic, write_json
from crypto.key import SecretKey
from crypto.scheme import load
from crypto.sets.dataset import SealedDataset
from crypto.sets.leaving import require_stays

# Names the set that is being unsealed into a folder. No class's folder begins with a dot.
_UNSEALING = ".unsealing.json"
_LOCK = ".lock"  # of folder_lock
_UNSEAL_ROWS = 256  # images decrypted at a time: bounds the memory that unsealing needs


def unseal(
    sealed: SealedDataset, key: SecretKey, out: Path, on_progress: Callable[[int], None] = lambda _: None
) -> int:
    """Decrypt a sealed set into PNG files, one folder for each class, and return the number of images.

    The set is verified first, so that a wrong key or an altered shard writes nothing. Where a full disk or a kill
    stopped it, the same call goes on: a file in `out` names the set until all of its images are there.

    Raises:
        CipherwardError: If no key opens the scheme's ciphertexts, verification fails, or `out` may leave the
            hospital, exists and is not an empty folder, nor one that this set was being opened into, or if another
            command is at work in it.
    """
    require_stays(out, "the images would lie there plain")
    load(sealed.spec).require_invertible("the plain images are where they were sealed from: keep them")
    sealed.verify(key)
    _require_free(sealed, out)
    with disk_errors(out):
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Two at once would drop each other's temporary files.
    with folder_lock(out):
        _require_free(sealed, out)
        number = _write_images(sealed, key, out, on_progress)
        with disk_errors(out):
            (out / _LOCK).unlink(missing_ok=True)
    return number


def _require_free(sealed: SealedDataset, out: Path) -> None:
    """Raise CipherwardError unless a folder is new or empty, or this set was being opened into it."""
    note = out / _UNSEALING
    is_begun = note.is_file() and read_json(note, "file of an interrupted unseal") == {"set": sealed.digest}
    if is_begun or not out.exists():
        return
    if not out.is_dir() or any(path.name != _LOCK for path in out.iterdir()):
        raise CipherwardError(f"{out} exists and is not an empty folder", "unseal into a new folder")


def _write_images(
    sealed: SealedDataset, key: SecretKey, out: Path, on_progress: Callable[[int], None]
) -> int:
    """Decrypt a verified set into a folder that this process holds, and return the number of images."""
    note, cipher = out / _UNSEALING, load(sealed.spec).cipher(key)
    with disk_errors(out):
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
