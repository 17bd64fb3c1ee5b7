"""Public images, sealed under a study's key, that a model is trained on before the study's own images.

A model that learns from ciphertext has to find the key's order of blocks and pixels from labels, and a hospital's own
images are few. Public images sealed under the same key are many, and have the same order. A consortium does so with
two studies: the second one's plan names the model of the first as its weights.

Who may publish what was sealed, must know: public images are known, so that their ciphertexts are pairs of plain and
sealed images, which open every scheme of one key for all images. It costs nothing that block_pixel_shuffle had:
that falls to one ciphertext.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.table1_data import read
from coordinator.exchange.plan import Plan
from coordinator.model.training import PlainImages
from crypto.arrays import Images
from crypto.cipher import Cipher
from crypto.files import read_json, write_bytes, write_json
from crypto.tensor_file import torch_tensor_bytes
from parties.training.baseline import train_plain

#: Training and val images of CIFAR-10.
COUNTS = (45000, 1000)
_CLASSES = 10
#: What the first study trains by. It draws half of the blocks, as the base of all recipes does.
SETTINGS: dict[str, Any] = {
    "parties": 1,
    "rounds": 3,
    "local_epochs": 1,
    "batch": 32,
    "lr": 4e-4,
    "warmup_steps": 50,
    "clip": 1.0,
}
#: Luma of red, green and blue (ITU-R BT.601), as Pillow's.
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
#: Images turned gray at a time: 600 MB of float32 at 224×224.
_CHUNK = 1000


def public_weights(
    plan: Plan, cipher: Cipher, data: Path, out: Path, log: Callable[[str], None]
) -> tuple[Path, dict[str, Any]]:
    """Return the weights of a model trained on sealed public images, and its figures. Both are kept in `out`.

    Args:
        plan: The plan of the first study, of gray images.
        cipher: What seals the images of both studies.
        data: The folder of the data, with cifar10_jpeg.npz.
        out: The folder of what is kept. An interrupted training continues.
        log: Takes one line for each round.

    Returns:
        A safetensors file by timm's names, and `data`, `images`, `epochs`, `val` (accuracy by round) and `seconds`.
    """
    weights, figures = out / "public.safetensors", out / "public.json"
    if figures.exists():
        return weights, read_json(figures, "figures of a training")
    splits = read(data, "cifar", plan.image_size, (*COUNTS, 1))
    train, val = (_sealed_gray(splits.pop(name), cipher) for name in ("train", "val"))
    started = out / "public.started"
    model, by_round, seconds = train_plain(plan, [("public", train)], val, _CLASSES, started, log)
    write_bytes(weights, torch_tensor_bytes(dict(model.state_dict()), {}))
    made = {
        "data": "CIFAR-10 in gray",
        "images": [len(train.labels), len(val.labels)],
        "epochs": plan.rounds * plan.local_epochs,
        "val": by_round,
        "seconds": seconds,
    }
    write_json(figures, made)
    return weights, made


def _sealed_gray(images: PlainImages, cipher: Cipher) -> PlainImages:
    """Return colour images in gray and sealed, a chunk at a time."""
    parts: list[Images] = []
    for start in range(0, len(images.labels), _CHUNK):
        colours = images.images[start : start + _CHUNK].astype(np.float32)
        parts.append(np.asarray(cipher.encrypt((colours @ _LUMA).round().astype(np.uint8)[..., None])))
    return PlainImages(np.concatenate(parts), images.labels)
