"""Pictures for attacks on block schemes, the pools made of them, and what counts as opened up to the orbit."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from coordinator.adversary.contract import Ciphertexts, Guess, Recovered, Recovery
from coordinator.adversary.puzzle.grid_layout import grid_symmetries
from coordinator.adversary.time_budget import TimeLeft, always
from coordinator.exchange.pool import MemoryPool
from crypto.arrays import AnyArray, Float64Array, Images, Int64Array, Rows
from crypto.kernels.executors import apply
from crypto.key import SecretKey
from crypto.scheme import describe, load
from crypto.symmetry import TURNS, turned


def smooth(n: int, height: int, width: int, channels: int = 1, seed: int = 0, gray: float = 1.0) -> Images:
    """Return textured fields with a sharp disc, rather dark, uint8 [n, h, w, c]. Colours share `gray` of a field."""
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


def grainy(n: int, height: int, width: int, channels: int = 1, seed: int = 0) -> Images:
    """Return `smooth` pictures with the grain that photographs and scans have, uint8 [n, h, w, c]."""
    plain = smooth(n, height, width, channels, seed)
    grain = np.random.default_rng(seed).normal(0, 5, plain.shape)
    return np.clip(np.round(plain + grain), 0, 255).astype(np.uint8)


def fields(n: int, height: int, width: int, channels: int = 1, seed: int = 0) -> Images:
    """Return smooth fields, darker towards the border, uint8 [n, h, w, c]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    shade = 1 - 0.5 * np.hypot(y / height - 0.5, x / width - 0.5)
    out = np.empty((n, height, width, channels), np.uint8)
    for i in range(n):
        base = np.zeros((height, width))
        for scale in (1.5, 4.0, 10.0):
            base = base + scale * gaussian_filter(rng.normal(size=(height, width)), scale)
        for c in range(channels):
            own = base + (
                2.0 * gaussian_filter(rng.normal(size=(height, width)), 2.0) if channels == 3 else 0
            )
            out[i, :, :, c] = np.clip(shade * (95 + 75 * own / own.std() * 0.6), 0, 255)
    return out


def coloured_texture(
    n: int, levels: tuple[int, ...], contrasts: tuple[int, ...], grain: float, own: float, seed: int
) -> Images:
    """Return texture without borders or edges, uint8 [n, 32, 32, 3]. Colours share a field, and have `own` of theirs.

    Args:
        n: Number of images.
        levels: Mean of each colour, in gray levels.
        contrasts: How much each colour varies, in gray levels.
        grain: Reach of the texture in pixels.
        own: Weight of each colour's own field, where the shared one counts 1.
        seed: Of the texture.
    """
    rng = np.random.default_rng(seed)

    def field() -> AnyArray:
        smooth = gaussian_filter(rng.normal(size=(32, 32)), grain)
        return np.asarray(smooth / smooth.std())

    out = np.empty((n, 32, 32, 3), np.uint8)
    for image in out:
        shared = field()
        for c in range(3):
            image[..., c] = np.clip(levels[c] + contrasts[c] * (shared + own * field()), 0, 255)
    return out


def _field(rng: np.random.Generator, height: int, width: int) -> Float64Array:
    layers = [
        gaussian_filter(rng.normal(size=(height, width)), s, mode="nearest") for s in (2.0, 6.0, 16.0)
    ]
    field: Float64Array = np.zeros(())
    for s, layer in zip((2.0, 6.0, 16.0), layers, strict=True):
        field = field + s**0.5 * layer / layer.std()
    return field


def sealed_pool(
    name: str, plain: Images, block: int, key: int = 7, **options: Any
) -> tuple[MemoryPool, dict[str, AnyArray]]:
    """Return the pool of these images sealed under a key, and the parts of that key."""
    spec = describe(name, plain.shape[1:], block, options=options)
    scheme, secret = load(spec), SecretKey(bytes([key]) * 32)
    return MemoryPool(spec, scheme.cipher(secret).encrypt(plain)), scheme.parts(secret)


def recovered(
    recovery: Recovery, pool: Ciphertexts, rows: Rows | int, time_left: TimeLeft = always
) -> Recovered:
    """Return the key that a recovery finds from these rows of a pool, or from its first rows. It must find one."""
    result = recovery(pool, np.arange(rows) if isinstance(rows, int) else rows, time_left)
    assert result is not None
    return result


def key_of(guess: Guess) -> Mapping[str, AnyArray]:
    """Return the key of a guess, which must have one."""
    assert guess.key is not None
    return guess.key


def opened(pool: MemoryPool, key: Recovered) -> Images:
    """Return all images of a pool, opened with a recovered key, as pictures of the plain shape."""
    return load(pool.spec).picture(apply(key.table, pool.sealed))


def orbit(images: Images, signs: bool, shape: tuple[int, ...]) -> list[Images]:
    """Return the symmetries of [n, h, w, c] of this shape in every colour order; with `signs` also the negatives."""
    out = []
    for turn in range(TURNS):
        state = turned(images, turn)
        if state.shape != shape:
            continue
        for order in itertools.permutations(range(shape[-1])):
            out += [state[..., order], *([255 - state[..., order]] if signs else [])]
    return out


def share(images: Images, plain: Images, signs: bool) -> float:
    """Return the share of values that are right under the best element of the orbit, one for all images."""
    return max(float((guess == plain).mean()) for guess in orbit(images, signs, plain.shape))


def is_same_layout(k2: Int64Array, truth: Int64Array, side: int, channels: int) -> bool:
    """Return whether some turn of the block and order of the colours makes them equal."""
    place, colour = np.divmod(k2, channels)
    for turn, order in itertools.product(grid_symmetries(side), itertools.permutations(range(channels))):
        if (turn[place] * channels + np.array(order)[colour] == truth).all():
            return True
    return False
