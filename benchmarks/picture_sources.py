"""The kinds of pictures that key recovery is measured on: real images, and made ones that are hard for it.

The folder of real images holds brain_mri/, cifar10_jpeg.npz, pneumoniamnist.npz and tissue/*/*.png.
"""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.audit_table import read_cifar, read_mri
from coordinator.exchange.image_file import open_image, open_image_bytes
from crypto.arrays import Images
from parties.sources.phantom import Phantom

#: Images of CIFAR-10 and of PneumoniaMNIST that are read, and of those enlarged to 224×224.
_SMALL_IMAGES, _ENLARGED_IMAGES = 1500, 300

#: Every kind of picture, and what it is.
KINDS = {
    "mri 224": "brain MRI slices, gray, with black borders",
    "mri 64": "brain MRI slices reduced to 64×64, gray",
    "pneumonia 28": "PneumoniaMNIST, chest X-rays, gray",
    "cifar 32": "CIFAR-10",
    "cifar 224": "CIFAR-10, enlarged bicubically",
    "tissue 224": "stained tissue, whole tiles",
    "tissue 32": "stained tissue, the whole tile interpolated to 32×32",
    "tissue 32 coarse": "stained tissue, every seventh pixel of a tile",
    "empty plane 32": "CIFAR-10 with nothing in its blue plane",
    "saturated 32": "CIFAR-10 with its contrast tripled and cut off",
    "jpeg blocks 32": "CIFAR-10, compressed to JPEG of quality 10",
    "near gray 32": "CIFAR-10 in gray, with noise of 2 levels in each colour",
    "phantoms 64": "made scans, gray",
}

#: The fixed panel of cipherward/panels.py, by the kinds that stand for it here. Whole images and small ones: some
#: schemes are for small images only. A panel's figure is that of its kind that resisted longest.
PANELS = {
    "gray scan": ("mri 224", "pneumonia 28"),
    "stained tissue": ("tissue 224", "tissue 32"),
    "natural": ("cifar 224", "cifar 32"),
}


def side_of(kind: str) -> int:
    """Return the side of a kind's images in pixels."""
    return int(next(part for part in kind.split() if part.isdigit()))


@lru_cache(maxsize=len(KINDS))
def read_kind(folder: Path, kind: str) -> Images:
    """Return all images of a kind, uint8 [n, h, w, c].

    Raises:
        KeyError: If there is no such kind.
    """
    if kind == "mri 224":
        return read_mri(folder, "train")[0]
    if kind == "mri 64":
        return _reduce(read_mri(folder, "train")[0], 64)
    if kind == "pneumonia 28":
        with np.load(folder / "pneumoniamnist.npz") as stored:
            gray: Images = stored["train_images"][:_SMALL_IMAGES].reshape(-1, 28, 28, 1)
            return gray
    if kind == "cifar 224":
        enlarged: Images = read_cifar(folder, _ENLARGED_IMAGES, 224)[0]
        return enlarged
    if kind.startswith("tissue"):
        return _read_tissue(folder, kind)
    if kind == "phantoms 64":
        source = Phantom(64, 1, 600, 0, "train")
        phantoms = np.stack([source.read(row) for row in range(len(source))])
        return phantoms.reshape(-1, 64, 64, 1)
    plain = read_cifar(folder, _SMALL_IMAGES, 32)[0]
    changed: Images = _CHANGES[kind](plain)
    return changed


def _reduce(images: Images, size: int) -> Images:
    """Return gray images reduced as benchmarks/table1_data.py reduces them, uint8 [n, size, size, 1]."""
    small = [
        np.asarray(Image.fromarray(i[..., 0]).resize((size, size), Image.Resampling.BILINEAR))
        for i in images
    ]
    return np.stack(small)[..., None]


def _read_tissue(folder: Path, kind: str) -> Images:
    """Return the tiles of stained tissue, whole or at 32×32."""
    images = []
    for path in sorted((folder / "tissue").rglob("*.png")):
        with open_image(path) as picture:
            colour = picture.convert("RGB")
            if "32" in kind:
                method = Image.Resampling.NEAREST if "coarse" in kind else Image.Resampling.BILINEAR
                colour = colour.resize((32, 32), method)
            images.append(np.asarray(colour))
    return np.stack(images)


def _without_blue(images: Images) -> Images:
    empty = images.copy()
    empty[..., 2] = 0
    return empty


def _saturated(images: Images) -> Images:
    return ((images.astype(np.float32) - 127.5) * 3 + 127.5).clip(0, 255).astype(np.uint8)


def _in_jpeg_blocks(images: Images) -> Images:
    compressed = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=10)
        with open_image_bytes(file.getvalue()) as picture:
            compressed.append(np.asarray(picture.convert("RGB")))
    return np.stack(compressed)


def _nearly_gray(images: Images) -> Images:
    gray = images.mean(-1, keepdims=True)
    noise = np.random.default_rng(0).normal(0.0, 2.0, images.shape)
    nearly: Images = (gray + noise).clip(0, 255).astype(np.uint8)
    return nearly


_CHANGES = {
    "cifar 32": lambda images: images,
    "empty plane 32": _without_blue,
    "saturated 32": _saturated,
    "jpeg blocks 32": _in_jpeg_blocks,
    "near gray 32": _nearly_gray,
}
