"""Keys that do the same count once: by enumeration of all keys of the smallest settings, scheme by scheme."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from crypto.arrays import AnyArray
from crypto.errors import CipherwardError
from crypto.scheme import Scheme, load
from crypto.schemes.le import distinct_key_bits, reversal_bytes
from crypto.spec import SchemeSpec
from crypto.symmetry import TURNS

Parts = dict[str, AnyArray]


def scheme_of(name: str, shape: tuple[int, int, int], block: int, **options: Any) -> Scheme:
    defaults: Mapping[str, Any] = {"value_shuffle": {"fixed_blocks": 0, "fixed_values": 0}}.get(name, {})
    return load(SchemeSpec(name, 2, shape, block, "consortium", {**defaults, **options}))


def permutations(n: int) -> Iterator[AnyArray]:
    return map(np.array, itertools.permutations(range(n)))


def masks(n: int) -> Iterator[AnyArray]:
    return (np.array(bits, bool) for bits in itertools.product([False, True], repeat=n))


def count_distinct(scheme: Scheme, keys: Iterator[Parts]) -> int:
    """Return how many of the keys differ in what they do to images of random values."""
    images = np.random.default_rng(0).integers(0, 256, (12, *scheme.spec.image_shape), np.uint8)
    return len({scheme.algorithm.cipher(parts).encrypt(images).tobytes() for parts in keys})


def stays(permutation: AnyArray, fixed: int) -> bool:
    return int((permutation == np.arange(len(permutation))).sum()) >= fixed


@pytest.mark.parametrize(("mask", "channels"), [("tied", 1), ("tied", 3), ("independent", 1)])
def test_le(mask: str, channels: int) -> None:
    n = 2 * channels
    scheme = scheme_of("le", (1, 1, channels), 1, mask=mask)
    keys: Iterator[Parts] = (
        {"key": p, "reversal": reversal}
        for p in permutations(n)
        for reversal in ([p > n // 2] if mask == "tied" else masks(n))
    )
    assert 2 ** scheme.distinct_bits() == pytest.approx(count_distinct(scheme, keys))
    assert scheme.distinct_bits() <= scheme.formula_bits() - (0 if mask == "tied" else 0.4)


def test_independent_masks_of_six_nibbles() -> None:
    keys = np.array(list(itertools.permutations(range(6))))
    seen = {
        (key.tobytes(), mask.tobytes())
        for bits in masks(6)
        for key, mask in zip(keys, reversal_bytes(keys, np.tile(bits, (len(keys), 1))), strict=True)
    }
    assert len(seen) == 11 * 9 * 7 * 5 * 3 and 2 ** distinct_key_bits(6, "independent") == pytest.approx(
        len(seen)
    )


def test_ele() -> None:
    scheme = scheme_of("ele", (1, 2, 1), 1, mask="independent")
    one_block = list(itertools.product(permutations(2), masks(2)))
    keys: Iterator[Parts] = (
        {"keys": np.stack([a[0], b[0]]), "reversal": np.stack([a[1], b[1]]), "K1": order}
        for a, b in itertools.product(one_block, one_block)
        for order in permutations(2)
    )
    assert 2 ** scheme.distinct_bits() == pytest.approx(count_distinct(scheme, keys))


@pytest.mark.parametrize("fixed", range(5))
def test_restricted_value_shuffle(fixed: int) -> None:
    scheme = scheme_of("value_shuffle", (1, 4, 1), 1, fixed_blocks=fixed)
    keys: Iterator[Parts] = (
        {"K1": order, "K2": np.array([0])} for order in permutations(4) if stays(order, fixed)
    )
    assert 2 ** scheme.distinct_bits() == pytest.approx(count_distinct(scheme, keys))


@pytest.mark.parametrize("block", [1, 2])
def test_etc_blocks_of_one_pixel_cannot_be_turned(block: int) -> None:
    scheme = scheme_of("etc", (block, 2 * block, 1), block, form="colour")
    keys: Iterator[Parts] = (
        {"K1": order, "turn": np.array(turn), "negative": np.array(negative, np.uint8) * np.uint8(255)}
        for order in permutations(2)
        for turn in itertools.product(range(TURNS), repeat=2)
        for negative in itertools.product([0, 1], repeat=2)
    )
    assert 2 ** scheme.distinct_bits() == pytest.approx(count_distinct(scheme, keys))


def test_the_floor_counts_distinct_keys() -> None:
    """24 nibbles have 24! = 2^79 keys with a tied mask; the formula's 2^103 passed the floor."""
    tied = scheme_of("le", (32, 32, 3), 2, mask="tied")
    assert tied.formula_bits() > 100 and round(tied.distinct_bits()) == 79
    with pytest.raises(CipherwardError, match=r"mask tied has 2\^79\.0 keys"):
        tied.require_key_space()
    scheme_of("le", (32, 32, 3), 2, mask="independent").require_key_space()


def test_large_restricted_permutations_are_counted_without_overflow() -> None:
    scheme = scheme_of("value_shuffle", (224, 224, 3), 1, fixed_blocks=50_000)
    assert 0 < scheme.distinct_bits() <= scheme.formula_bits()
    assert math.isfinite(scheme_of("value_shuffle", (224, 224, 3), 1, fixed_blocks=50_176).distinct_bits())
