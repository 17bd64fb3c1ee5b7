"""Measure every encryption scheme: its claimed key space, and how fast it seals on this machine."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from crypto.key import SecretKey
from crypto.scheme import SCHEMES, describe, load

_IMAGES = 48  # images sealed in one measurement: enough to keep all cores busy for a moment
_REPEATS = 3  # measurements; the median is shown
_SLOW_S = 0.1  # seconds for one image above which a measurement seals one image only
# Block sides of the papers. All other schemes use the patch size of the ViT, 16.
_BLOCKS = {"le": 4, "ele": 4}


def measure_schemes(image_size: int) -> list[dict[str, Any]]:
    """Return one row for each scheme: name, source, options, key bits, and MB/s of sealing RGB images on all cores.

    Megabytes are those of the plain images. A key is drawn and its tables are built before the clock starts, unless
    every image has its own key.

    Args:
        image_size: Side of the images in pixels, rounded down to a multiple of 16.
    """
    size = image_size - image_size % 16
    images = np.random.default_rng(0).integers(0, 256, (_IMAGES, size, size, 3), dtype=np.uint8)
    rows = []
    for name in SCHEMES:
        spec = describe(name, (size, size, 3), _BLOCKS.get(name, 16))
        scheme = load(spec)
        cipher = scheme.cipher(SecretKey.generate())
        cipher.encrypt(images[:1])  # compiles
        started = time.perf_counter()
        cipher.encrypt(images[:1])
        few = images[:1] if time.perf_counter() - started > _SLOW_S else images
        times = []
        for _ in range(_REPEATS):
            started = time.perf_counter()
            cipher.encrypt(few)
            times.append(time.perf_counter() - started)
        rows.append(
            {
                "name": name,
                "version": spec.version,
                "source": scheme.algorithm.source,
                "block": spec.block,
                "options": {k: v for k, v in spec.options.items() if k != "nonce"},
                "formula_bits": scheme.formula_bits(),
                "effective_bits": scheme.effective_bits(),
                "invertible": scheme.is_invertible,
                "megabytes_per_second": few.nbytes / 1e6 / float(np.median(times)),
            }
        )
    return rows
