"""Pictures for attacks on block schemes, the pools made of them, and what counts as opened up to the orbit."""

from __future__ import annotations

import itertools

import numpy as np
from scipy.ndimage import gaussian_filter

from coordinator.adversary.contract import Recovered
from coordinator.exchange.pool import MemoryPool
from crypto.kernels.executors import apply
from crypto.key import SecretKey
from crypto.scheme import describe, load


def smooth(
    n: int, height: int, width: int, channels: int = 1, seed: int = 0, gray: float = 1.0
) -> np.ndarray:
    """uint8 [n, h, w, c]: textured fields, rather dark, with a sharp disc; colours share `gray` of each field."""
    rng = np.random.default_rng(seed)
    out = np.empty((n, height, width, channels), np.uint8)
    y, x = np.mgrid[:height, :width]
    for image in out:
        shared = _field(rng, height, width)
        cy, cx, radius = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(0.1, 0.3) * width
        shared += rng.uniform(-1.5, 1.5) * ((y - cy) ** 2 + (x - cx) ** 2 < radius**2)
        for c in range(channels):
            field = gray * shared + _field(rng, height, width)
            image[..., c] = np.clip(
                110 - 6 * c + 45 * field / field.std() + rng.normal(0, 1, field.shape), 0, 255
            )
    return out


def _field(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    layers = [
        gaussian_filter(rng.normal(size=(height, width)), s, mode="nearest") for s in (2.0, 6.0, 16.0)
    ]
    return sum(s**0.5 * layer / layer.std() for s, layer in zip((2.0, 6.0, 16.0), layers, strict=True))


def sealed_pool(
    name: str, plain: np.ndarray, block: int, key: int = 7, **options: object
) -> tuple[MemoryPool, dict[str, np.ndarray]]:
    """(the pool, the parts of the key it was sealed under)."""
    spec = describe(name, plain.shape[1:], block, options=options)
    scheme, secret = load(spec), SecretKey(bytes([key]) * 32)
    return MemoryPool(spec, scheme.cipher(secret).encrypt(plain)), scheme.parts(secret)


def opened(pool: MemoryPool, found: Recovered) -> np.ndarray:
    return load(pool.spec).picture(apply(found.table, pool.sealed))


def orbit(images: np.ndarray, signs: bool, shape: tuple[int, ...]) -> list[np.ndarray]:
    """The symmetries of [n, h, w, c] that have this shape, with either sign, in every colour order."""
    out = []
    for turn in range(8):
        turned = np.rot90(images, turn % 4, (1, 2))
        turned = turned[:, :, ::-1] if turn >= 4 else turned
        if turned.shape != shape:
            continue
        for order in itertools.permutations(range(shape[-1])):
            out += [turned[..., order], *([255 - turned[..., order]] if signs else [])]
    return out


def share(images: np.ndarray, plain: np.ndarray, signs: bool) -> float:
    """Share of values that are right under the best element of the orbit, one for all images."""
    return max(float((guess == plain).mean()) for guess in orbit(images, signs, plain.shape))
