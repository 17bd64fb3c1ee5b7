"""The schemes side by side: what each claims, and how fast it is here."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from crypto.key import SecretKey
from crypto.scheme import SCHEMES, describe, load

_IMAGES = 48
_TURNS = 3
# Block sides of the papers; all others follow the ViT's patch of 16.
_BLOCKS = {"le": 4, "ele": 4}


def measure_schemes(image_size: int) -> list[dict[str, Any]]:
    """One row a scheme, for RGB images of this side: name, source, options, bits, and MB/s of sealing on all cores.

    Bytes are counted plain; a key is drawn and its tables are built before the clock starts, except where every
    image has a key of its own.
    """
    size = image_size - image_size % 16
    images = np.random.default_rng(0).integers(0, 256, (_IMAGES, size, size, 3), dtype=np.uint8)
    rows = []
    for name in SCHEMES:
        spec = describe(name, (size, size, 3), _BLOCKS.get(name, 16))
        scheme = load(spec)
        cipher = scheme.cipher(SecretKey.generate())
        cipher.encrypt(images[:2])  # compiles
        times = []
        for _ in range(_TURNS):
            started = time.perf_counter()
            cipher.encrypt(images)
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
                "megabytes_per_second": images.nbytes / 1e6 / float(np.median(times)),
            }
        )
    return rows
