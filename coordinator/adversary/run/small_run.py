"""Run an attack once on a small pool of invented images, so that Numba compiles or loads what it calls.

Loading compiled functions from Numba's cache takes the better part of a second in every process, and compiling takes
seconds more. Where that is done before an attack starts, the attack's seconds are its own.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np

from coordinator.adversary.contract import Budget, Knowledge
from coordinator.adversary.registry import ATTACKS
from coordinator.adversary.time_budget import TimeLeft, always
from coordinator.exchange.pool import MemoryPool
from crypto.arrays import Images, Rows
from crypto.key import SecretKey
from crypto.scheme import describe, load
from crypto.spec import SchemeSpec

#: Invented images: two to guess, and a pool of 28. Chosen by hand; with them every needed function was compiled.
_IMAGES = 30
#: Blocks on each side of an invented image. Chosen by hand, as above.
_SIDE_BLOCKS = 4
#: Seconds that an attack may take. The slowest, key recovery for ele, took 14 s including compilation.
_BUDGET_S = 120.0
#: Side of the largest block that is attacked only to load functions: with 16 and three colours, `le` takes 40 s.
_LOADING_BLOCK = 8
#: The variants whose functions this process has loaded.
LOADED: set[str] = set()


def load_compiled(attack: str, spec: SchemeSpec) -> None:
    """Compile the functions that an attack calls on a scheme, or load them from Numba's cache, once in a process.

    Blocks are small, so that this takes a second or two. What only larger ones call is loaded by the attack itself.
    What the attack returns or raises is dropped.
    """
    if (variant := variant_of(attack, spec)) not in LOADED:
        LOADED.add(variant)
        with contextlib.suppress(Exception):
            run_small(attack, spec, spec.block if "sub_block" in spec.options else _LOADING_BLOCK)


def load_recovery(name: str, recover: Callable[[MemoryPool, Rows, TimeLeft], object]) -> None:
    """Do the same for a recovery that is no scheme's: it runs on a few images of noise, once in a process."""
    if name not in LOADED:
        LOADED.add(name)
        noise = np.random.default_rng(0).integers(0, 256, (_IMAGES, 8, 8, 1), np.uint8)
        with contextlib.suppress(Exception):
            recover(MemoryPool(describe("plain", (8, 8, 1), 8), noise), np.arange(_IMAGES), always)


def variant_of(attack: str, spec: SchemeSpec) -> str:
    """Return a name for what decides on the types of an attack's arrays."""
    return f"{attack} {spec.name} {spec.image_shape[2]} {json.dumps(_options(spec), sort_keys=True)}"


def _options(spec: SchemeSpec) -> dict[str, Any]:
    """Return the scheme's options without the nonce, which is another in every set."""
    return {name: value for name, value in spec.options.items() if name != "nonce"}


def run_small(attack: str, spec: SchemeSpec, largest_block: int | None = None) -> None:
    """Run an attack on a small pool of a scheme, and drop what it returns.

    Args:
        attack: The attack's name.
        spec: The scheme.
        largest_block: Side of the largest block in pixels; by default the blocks are those of the scheme.
    """
    block = spec.block if largest_block is None else min(spec.block, largest_block)
    side, channels = _SIDE_BLOCKS * block, spec.image_shape[2]
    small = describe(spec.name, (side, side, channels), block, spec.key_scope, _options(spec))
    images = _invent_images(side, channels)
    pool = MemoryPool(small, load(small).cipher(SecretKey.generate()).encrypt(images))
    rows = np.arange(_IMAGES)
    labels = np.zeros(_IMAGES, np.int64)
    ATTACKS[attack].attack(Knowledge(pool, rows[2:], rows[:2], Budget(_BUDGET_S), images, labels=labels))


def _invent_images(side: int, channels: int) -> Images:
    """Return random surfaces, uint8 [n, side, side, channels], which are textured and continuous like pictures."""
    steps = np.random.default_rng(0).normal(size=(_IMAGES, side, side, channels))
    surfaces = steps.cumsum(1).cumsum(2)
    low, high = surfaces.min((1, 2, 3), keepdims=True), surfaces.max((1, 2, 3), keepdims=True)
    images: Images = (255 * (surfaces - low) / (high - low)).astype(np.uint8)
    return images
