"""Public weights in the coordinates of a key that was recovered from ciphertexts: what whoever trains can begin with.

The stem of public weights reads plain images. Key recovery finds the key of block_pixel_shuffle in the sealed images
of a training alone; carried by that key (parties/training/stem.py) the same weights read the ciphertext.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from coordinator.adversary.recover.block_pixel_shuffle import recover
from coordinator.adversary.time_budget import Budget
from coordinator.exchange.plan import Plan
from coordinator.exchange.pool import MemoryPool
from coordinator.model.vit import create_model
from crypto.arrays import AnyArray, Parts
from crypto.files import write_bytes
from crypto.key import SecretKey
from crypto.scheme import load
from crypto.tensor_file import torch_tensor_bytes
from parties.training.stem import COORDINATES, carry

#: What is carried: the places of the blocks, the order of the pixels in a block, or both.
Carried = Literal["places", "pixels", "key"]
#: Sealed images that the key is recovered from.
POOL = 100
#: Public weights read colour images. Their head is left out: every study has its own.
_PUBLIC: dict[str, Any] = {"num_classes": 0, "in_chans": 3}


def write_recovered_weights(
    plan: Plan, sealed: AnyArray, key: SecretKey, carried: Carried, path: Path
) -> dict[str, Any]:
    """Write the plan's weights with their stem carried by a key that is recovered from sealed images.

    Args:
        plan: The plan, whose scheme is block_pixel_shuffle, with its public weights.
        sealed: Sealed images of the training, [n, *sealed_shape].
        key: The true key. The figures compare with it; the weights do not know it.
        carried: What of the stem is carried.
        path: The safetensors file to write.

    Returns:
        `images` that the key was recovered from, `seconds`, and the shares of `blocks` and `pixels` whose place is
        right.
    """
    spec, started = plan.describe(), time.perf_counter()
    pool = MemoryPool(spec, sealed[:POOL])
    found = recover(pool, np.arange(len(pool)), Budget().time_left)
    assert found is not None  # real pictures vary
    seconds = time.perf_counter() - started
    _write_carried(plan, found.parts, carried, path)
    true = load(spec).parts(key)
    right = {name: float(np.mean(found.parts[part] == true[part])) for name, part in _PARTS.items()}
    return {"carried": carried, "images": len(pool), "seconds": seconds, **right}


#: The parts of the key by what they say.
_PARTS = {"blocks": "K1", "pixels": "K2"}


def _write_carried(plan: Plan, parts: Parts, carried: Carried, path: Path) -> None:
    # The weights read colour images, whose blocks and pixels move as those of gray ones do.
    spec = replace(plan.describe(), image_shape=(plan.image_size, plan.image_size, 3))
    coordinates = COORDINATES[spec.name](spec, parts)
    if carried == "places":
        coordinates = replace(coordinates, values=None)
    elif carried == "pixels":
        coordinates = replace(coordinates, order=None)
    settings = {**_PUBLIC, "img_size": plan.image_size, **plan.model_args}
    model = create_model(plan.model, settings, plan.weights)
    carry(model, coordinates)
    write_bytes(path, torch_tensor_bytes(dict(model.state_dict()), {}))
