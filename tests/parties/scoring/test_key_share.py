"""How much of a key a guess holds: best, worst and shifted cases."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from coordinator.exchange.audit.guesses import StoredGuess
from coordinator.exchange.audit.scores import KeyShare
from crypto.arrays import AnyArray, Parts
from crypto.errors import CipherwardError
from crypto.scheme import describe
from parties.scoring.key_share import can_open, key_share, open_sealed, require_well_formed
from parties.scoring.truth import Truth
from tests.support.textbook_ciphers import chained
from tests.support.truth import make_truth

K1, K2 = np.random.default_rng(1).permutation(16), np.random.default_rng(2).permutation(16)
PARTS = {"K1": K1, "K2": K2}


def truth_of_four_by_four_blocks() -> Truth:
    images = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 1), np.uint8)
    return make_truth(images, images[:0])


def share_of(guess: Parts) -> KeyShare:
    """Return the share of PARTS that a guessed key holds."""
    share = key_share(PARTS, guess, truth_of_four_by_four_blocks())
    assert share is not None
    return share


def test_the_true_key_is_all_right() -> None:
    best = share_of(PARTS)
    assert best.block_order == best.pixel_order == 1.0 and best.bits_left == 0.0
    assert best.neighbours == (24, 24) and best.identifiable == 1.0


def test_a_shifted_key_is_right_up_to_the_shift() -> None:
    down = (K1 // 4 + 1) % 4 * 4 + K1 % 4
    shifted = share_of({"K1": down, "K2": K2})
    assert shifted.block_order == 1.0 and shifted.block_order_unshifted == 0.0
    assert shifted.shift == (1, 0)


def test_a_random_key_is_wrong() -> None:
    random = share_of({"K1": np.random.default_rng(5).permutation(16), "K2": np.roll(K2, 1)})
    assert random.block_order < 0.5 and random.pixel_order == 0.0 and random.bits_left > 60


def test_places_that_are_constant_in_the_gallery_are_not_identifiable() -> None:
    truth = truth_of_four_by_four_blocks()
    flat = dataclasses.replace(truth, gallery=np.zeros((3, 32, 32, 1), np.uint8))
    share = key_share(PARTS, PARTS, flat)
    assert share is not None and share.identifiable == 0.0


def test_keys_that_cannot_be_compared_have_no_share() -> None:
    truth = truth_of_four_by_four_blocks()
    assert key_share(PARTS, {"K1": K1}, truth) is None
    assert key_share(PARTS, {"K1": K1, "K2": K2[:9]}, truth) is None
    # The symmetries of value_shuffle leave no entry to compare.
    other = dataclasses.replace(truth, spec=describe("value_shuffle", (32, 32, 1), 8))
    assert key_share(PARTS, PARTS, other) is None


def test_a_stream_opens_what_it_was_added_to() -> None:
    spec = describe("plain", (4, 4, 3), 4)
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), np.uint8)
    stream = np.random.default_rng(1).integers(0, 256, (4, 4, 3), np.uint8)
    assert can_open({"stream": stream})
    assert np.array_equal(open_sealed({"stream": stream}, images + stream, spec), images)


def test_a_stream_under_an_order_and_chaining_open_what_they_sealed() -> None:
    spec = describe("plain", (4, 4, 3), 4)
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), np.uint8)
    order = np.random.default_rng(1).permutation(16)
    stream = np.random.default_rng(2).integers(0, 256, (4, 4, 3), np.uint8)
    moved = np.empty_like(images).reshape(5, 16, 3)
    moved[:, order] = (images + stream).reshape(5, 16, 3)
    key = {"stream": stream, "gather": order}
    assert np.array_equal(open_sealed(key, moved.reshape(images.shape), spec), images)
    for is_xor, step in ((True, 1), (False, 3)):
        sealed = chained(moved.reshape(images.shape), is_xor=is_xor, step=step)
        both = {**key, "chain": np.array([is_xor, step], np.int64)}
        assert can_open(both) and np.array_equal(open_sealed(both, sealed, spec), images)


@pytest.mark.parametrize(
    "chain",
    [np.array([1, 2]), np.array([2, 1]), np.array([1, 0]), np.array([1]), np.array([1, 1], np.uint8)],
)
def test_a_chaining_of_another_kind_is_malformed(chain: AnyArray) -> None:
    spec = describe("plain", (4, 4, 3), 4)
    guess = StoredGuess("pooled_key_recovery", "T1", True, 2, "guess.st", "", 0.0, "")
    images, key = np.zeros((2, 4, 4, 3), np.uint8), {"stream": np.zeros((4, 4, 3), np.uint8)}
    require_well_formed(guess, images, {**key, "chain": np.array([1, 3])}, spec, 2)
    with pytest.raises(CipherwardError, match="malformed"):
        require_well_formed(guess, images, {**key, "chain": chain}, spec, 2)
    for order in (np.arange(8), np.zeros(16, np.int64)):  # of half of the pixels, and no order
        with pytest.raises(CipherwardError, match="malformed"):
            require_well_formed(guess, images, {**key, "gather": order}, spec, 2)


def test_levels_open_what_they_replaced() -> None:
    spec = describe("plain", (4, 4, 3), 4)
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), np.uint8)
    tables = np.stack([np.random.default_rng(c).permutation(256) for c in range(3)]).astype(np.uint8)
    sealed = tables[np.arange(3), images]
    levels = np.argsort(tables, axis=1).astype(np.uint8)
    assert can_open({"levels": levels})
    assert np.array_equal(open_sealed({"levels": levels}, sealed, spec), images)


@pytest.mark.parametrize(
    "levels", [np.zeros((1, 256), np.uint8), np.zeros((3, 256), np.int64), np.zeros((3, 255), np.uint8)]
)
def test_levels_of_another_shape_or_type_are_malformed(levels: AnyArray) -> None:
    spec = describe("plain", (4, 4, 3), 4)
    guess = StoredGuess("pooled_key_recovery", "T1", True, 2, "guess.st", "", 0.0, "")
    images = np.zeros((2, 4, 4, 3), np.uint8)
    require_well_formed(guess, images, {"levels": np.zeros((3, 256), np.uint8)}, spec, 2)
    with pytest.raises(CipherwardError, match="malformed"):
        require_well_formed(guess, images, {"levels": levels}, spec, 2)


@pytest.mark.parametrize(
    "stream",
    [np.zeros((4, 4, 1), np.uint8), np.zeros((4, 4, 3), np.int64), np.zeros(48, np.uint8)],
)
def test_a_stream_of_another_shape_or_type_is_malformed(stream: AnyArray) -> None:
    spec = describe("plain", (4, 4, 3), 4)
    guess = StoredGuess("pooled_key_recovery", "T1", True, 2, "guess.st", "", 0.0, "")
    images = np.zeros((2, 4, 4, 3), np.uint8)
    require_well_formed(guess, images, {"stream": np.zeros((4, 4, 3), np.uint8)}, spec, 2)
    with pytest.raises(CipherwardError, match="malformed"):
        require_well_formed(guess, images, {"stream": stream}, spec, 2)
