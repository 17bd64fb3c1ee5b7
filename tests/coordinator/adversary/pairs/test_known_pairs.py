"""Keys from known pairs and from chosen plain images: exact for every scheme, and honest about what stays open."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from coordinator.adversary.contract import Guess, Knowledge, Recovered
from coordinator.adversary.opened import open_images
from coordinator.adversary.pairs import chosen_plaintext, known_pairs
from coordinator.adversary.pairs.known_pairs import solve_keystream, solve_substitution
from coordinator.adversary.pairs.unit_signatures import pair_up, rows_as_ids
from coordinator.exchange.pool import MemoryPool
from crypto.arrays import Images
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.scheme import describe, load
from crypto.spec import SchemeSpec
from parties.scoring.key_share import open_sealed
from tests.support.pictures import key_of, sealed_pool, smooth
from tests.support.textbook_ciphers import (
    added,
    lines_moved,
    noise,
    pixels_moved,
    pool_of,
    substituted,
    xored,
)

KEY = SecretKey(bytes([7]) * 32)

#: Scheme, channels, block, options, known pairs of textured 32×32 pictures that are enough, chosen images.
SCHEMES: list[tuple[str, int, int, dict[str, Any], int, int]] = [
    ("plain", 1, 4, {}, 2, 1),
    ("block_pixel_shuffle", 3, 8, {}, 1, 1),
    ("block_pixel_shuffle", 1, 8, {}, 1, 1),
    ("value_shuffle", 3, 8, {}, 1, 2),
    ("value_shuffle", 1, 4, {"fixed_blocks": 5, "fixed_values": 3}, 4, 2),
    ("block_pixel", 3, 8, {}, 16, 2),
    ("block_pixel", 1, 8, {}, 12, 2),
    ("pe", 3, 4, {}, 1, 1),
    ("pe", 1, 4, {}, 1, 1),
    ("pe", 3, 4, {"colour_shuffle": True}, 8, 1),
    ("le", 3, 4, {"mask": "tied"}, 2, 1),
    ("le", 3, 4, {"mask": "independent"}, 2, 1),
    ("le", 1, 4, {}, 2, 1),
    ("ele", 3, 4, {}, 24, 5),
    ("ele", 1, 4, {"mask": "independent"}, 40, 4),
    ("etc", 3, 8, {}, 1, 1),
    ("etc", 1, 8, {}, 1, 1),
    ("etc", 3, 8, {"form": "gray"}, 1, 1),
    ("sub_block_etc", 3, 8, {"sub_block": 4}, 2, 2),
    ("sub_block_etc", 1, 8, {"sub_block": 8}, 2, 2),
    ("orthogonal", 1, 4, {}, 1, 1),
    ("orthogonal", 3, 4, {}, 2, 2),
    ("block_projection", 1, 4, {"noise": 0}, 4, 2),
    ("block_projection", 3, 4, {"noise": 0, "matrix": "uniform"}, 8, 6),
    (
        "block_projection",
        1,
        8,
        {"noise": 0, "matrix": "uniform", "matrices": "shared", "shuffle": False},
        2,
        2,
    ),
]


def attack(
    name: str,
    plain: Images,
    block: int,
    options: dict[str, Any],
    *,
    pairs: int = 0,
    oracle: bool = False,
    rows: int = 3,
) -> Guess:
    """Attack a pool of `plain`, with its last images as pairs, which are none of the rows, or with an oracle."""
    pool, _ = sealed_pool(name, plain, block, **options)
    if oracle:
        cipher = load(pool.spec).cipher(KEY)
        return chosen_plaintext.attack(
            Knowledge(pool, np.arange(1), np.arange(rows), oracle=cipher.encrypt)
        )
    known = (plain[-pairs:], pool.sealed[-pairs:])
    return known_pairs.attack(Knowledge(pool, np.arange(1), np.arange(rows), known=known))


def share_opened(guess: Guess, spec: SchemeSpec, plain: Images) -> float:
    """Return the share of values of other images that the guessed key puts right."""
    sealed = load(spec).cipher(KEY).encrypt(plain)
    key = key_of(guess)
    images = open_sealed(key, sealed, spec)
    return float((np.abs(images.astype(int) - plain) <= load(spec).tolerance).mean())


@pytest.mark.parametrize(("name", "channels", "block", "options", "pairs", "chosen"), SCHEMES)
def test_pairs_give_the_key(
    name: str, channels: int, block: int, options: dict[str, Any], pairs: int, chosen: int
) -> None:
    plain = smooth(3 + pairs, 32, 32, channels, gray=0.2)
    guess = attack(name, plain, block, options, pairs=pairs)
    tolerance = load(describe(name, plain.shape[1:], block, options=options)).tolerance
    assert guess.images.dtype == np.uint8
    assert (np.abs(guess.images.astype(int) - plain[:3]) <= tolerance).mean() > 0.998
    again = attack(name, plain, block, options, pairs=pairs)
    assert all((key_of(guess)[k] == key_of(again)[k]).all() for k in key_of(guess))


@pytest.mark.parametrize(("name", "channels", "block", "options", "pairs", "chosen"), SCHEMES)
def test_chosen_images_give_the_whole_key(
    name: str, channels: int, block: int, options: dict[str, Any], pairs: int, chosen: int
) -> None:
    shape = (32, 32, channels)
    guess = attack(name, smooth(3, *shape), block, options, oracle=True)
    spec = describe(name, shape, block, options=options)
    assert len(chosen_plaintext.queries(spec)) == chosen
    assert guess.note == f"{chosen} chosen images"
    unseen = np.random.default_rng(5).integers(0, 256, (4, *shape), np.uint8)
    assert share_opened(guess, spec, unseen) == 1.0


def test_the_full_size_needs_as_many_chosen_images_as_it_says() -> None:
    counts = {
        (name, channels): len(chosen_plaintext.queries(describe(name, (224, 224, channels), 16)))
        for name in ("block_pixel_shuffle", "value_shuffle", "block_pixel", "ele", "le", "pe", "orthogonal")
        for channels in (1, 3)
    }
    assert [counts[n, 3] for n in ("block_pixel_shuffle", "value_shuffle", "block_pixel", "ele", "le", "pe")] == [
        1, 3, 3, 7, 1, 1,
    ]  # fmt: skip
    assert counts["block_pixel_shuffle", 1] == 2 and counts["orthogonal", 3] == 5


def test_the_parts_are_the_schemes_own() -> None:
    plain = smooth(4, 32, 32)
    pool, truth = sealed_pool("block_pixel_shuffle", plain, 8)
    guess = known_pairs.attack(
        Knowledge(pool, np.arange(1), np.arange(3), known=(plain[3:], pool.sealed[3:]))
    )
    assert guess.note == "" and all((key_of(guess)[k] == truth[k]).all() for k in ("K1", "K2"))
    pool, truth = sealed_pool("etc", smooth(4, 32, 32, 3), 8)
    key, note = known_pairs.solve(pool.spec, smooth(4, 32, 32, 3), pool.sealed)
    assert isinstance(key, Recovered)
    assert note == "" and all((key.parts[k] == truth[k]).all() for k in truth)


@pytest.mark.parametrize(
    ("name", "channels", "options"),
    [("block_pixel", 3, {}), ("pe", 3, {"colour_shuffle": True}), ("ele", 3, {}), ("value_shuffle", 1, {})],
)
def test_more_pairs_leave_less_open(name: str, channels: int, options: dict[str, Any]) -> None:
    plain = smooth(19, 32, 32, channels, gray=0.2)
    unseen = np.random.default_rng(5).integers(0, 256, (4, 32, 32, channels), np.uint8)
    right = []
    for pairs in (1, 4, 16):
        guess = attack(name, plain, 4, options, pairs=pairs)
        spec = describe(name, plain.shape[1:], 4, options=options)
        right.append(share_opened(guess, spec, unseen))
        assert (right[-1] == 1.0) == (guess.note == "")
    assert right[0] < 0.999 and right == sorted(right) and right[2] > right[0]


def test_pictures_with_black_borders_say_what_stays_open() -> None:
    plain = smooth(4, 32, 32)
    plain[:, :8] = plain[:, 24:] = 0
    guess = attack("block_pixel_shuffle", plain, 8, {}, pairs=1)
    assert guess.note == "8 of 16 blocks are equal to others"
    assert (guess.images == plain[:3]).all()


def test_blocks_alike_in_values_are_told_apart_by_their_arrangement() -> None:
    plain = smooth(4, 32, 32)
    plain[3, 8:16, 8:16] = plain[3, 8:16, 16:24]
    plain[3, 8:12, 8:12] = plain[3, 8:12, 8:12][::-1]  # the same values, one sub-block upside down
    assert (plain[3, 8:12, 8:12] != plain[3, 8:12, 16:20]).any()
    guess = attack("block_pixel_shuffle", plain, 8, {}, pairs=1)
    assert guess.note == "" and (guess.images == plain[:3]).all()


def test_blocks_alike_in_every_image_are_told_apart_by_their_units() -> None:
    rng = np.random.default_rng(0)
    plain = rng.integers(0, 256, (3, 16, 16, 1), np.uint8)
    plain[0, :4, 4:8] = plain[0, :4, :4]  # the same values in both images, not at the same places
    plain[1, :4, 4:8] = plain[1, :4, :4][::-1]
    for name in ("block_pixel", "ele"):
        pool, _ = sealed_pool(name, plain, 4)
        knowledge = Knowledge(pool, np.arange(1), np.arange(2), known=(plain[:2], pool.sealed[:2]))
        guess = known_pairs.attack(knowledge)
        assert "blocks" not in guess.note and (guess.images == plain[:2]).all()


def test_a_matrix_is_known_on_the_span_of_the_plain_blocks() -> None:
    plain = smooth(4, 32, 32, gray=0.2)
    guess = attack("orthogonal", plain, 8, {}, pairs=1)
    assert guess.note == "16 of 64 directions of a block are known"
    assert (
        attack("orthogonal", plain, 8, {}, pairs=3, rows=1).note
    ) == "48 of 64 directions of a block are known"
    matrix = key_of(guess)["matrix"].astype(float)
    assert np.linalg.matrix_rank(matrix, 1e-3) == 16
    assert np.abs(matrix @ matrix.T @ matrix - matrix).max() < 1e-4


# ---- what they must not claim -------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "scope"), [("noise", "consortium"), ("pe", "image")])
def test_keys_for_every_image_say_nothing_about_others(name: str, scope: str) -> None:
    plain = smooth(4, 16, 16)
    spec = describe(name, (16, 16, 1), 4, scope)
    cipher = load(spec).cipher(KEY)
    pool = MemoryPool(spec, cipher.encrypt(plain))
    knowledge = Knowledge(
        pool, np.arange(1), np.arange(3), known=(plain[3:], pool.sealed[3:]), oracle=cipher.encrypt
    )
    for module in (known_pairs, chosen_plaintext):
        guess = module.attack(knowledge)
        assert (
            guess.idle and guess.key is None and guess.note.startswith("every image has a key of its own")
        )
        assert (guess.images == pool.sealed[:3]).all()


def test_without_pairs_or_an_oracle_they_say_so() -> None:
    pool, _ = sealed_pool("etc", smooth(2, 16, 16, 3), 8, form="gray")
    knowledge = Knowledge(pool, np.arange(1), np.arange(2))
    for module, note in ((known_pairs, "needs known pairs"), (chosen_plaintext, "needs an oracle")):
        guess = module.attack(knowledge)
        assert guess.note == note and guess.key is None and guess.idle
        assert (guess.images == load(pool.spec).picture(pool.sealed)).all()


@pytest.mark.parametrize(
    "name", ["block_pixel_shuffle", "value_shuffle", "block_pixel", "pe", "le", "etc", "orthogonal"]
)
def test_pairs_of_two_keys_are_noticed(name: str) -> None:
    plain = smooth(4, 16, 16)
    first, second = (sealed_pool(name, plain, 4, key)[0] for key in (1, 2))
    known = plain, np.concatenate([first.sealed[:2], second.sealed[2:]])
    guess = known_pairs.attack(Knowledge(first, np.arange(1), np.arange(2), known=known))
    assert guess.key is None and guess.note in (
        "the pairs are not of one key",
        "the pairs are not of one orthogonal matrix",
    )


def test_black_pairs_give_no_key_that_claims_to_be_whole() -> None:
    black = np.zeros((3, 16, 16, 1), np.uint8)
    for name in ("block_pixel_shuffle", "value_shuffle", "block_pixel", "le", "etc"):
        guess = attack(name, black, 4, {}, pairs=1, rows=1)
        assert guess.note != "" and (guess.images == 0).all()


def test_pairs_of_other_shapes_are_refused() -> None:
    pool, _ = sealed_pool("orthogonal", smooth(2, 16, 16), 4)
    for known in ((smooth(2, 16, 16), pool.sealed[:1]), (smooth(2, 16, 16), smooth(2, 16, 16))):
        with pytest.raises(CipherwardError, match="are not of orthogonal"):
            known_pairs.attack(Knowledge(pool, np.arange(1), np.arange(2), known=known))


# ---- building blocks ----------------------------------------------------------------------------------------


def test_pairing_against_loops() -> None:
    rng = np.random.default_rng(0)
    source = rng.integers(0, 9, (5, 12))
    truth = np.argsort(rng.random((5, 12)), 1)
    target = np.take_along_axis(source, truth, 1)
    gather, ambiguous, is_match = pair_up(source, target)
    assert is_match and (np.take_along_axis(source, gather, 1) == target).all()
    for g in range(5):
        assert sorted(gather[g]) == list(range(12))
        assert ambiguous[g].tolist() == [list(target[g]).count(v) > 1 for v in target[g]]
    assert not pair_up(source, target + 1)[2]


def test_rows_as_ids_name_equal_rows() -> None:
    source = np.array([[1, 2], [3, 4], [1, 2]], np.int32)
    first, second = rows_as_ids(source, np.array([[3, 4], [5, 6]], np.int32))
    assert first[0] == first[2] != first[1] == second[0] != second[1] and second[1] not in first


@pytest.mark.parametrize("seal", [xored, added])
def test_pairs_give_one_keystream_for_all_images(seal: Callable[[Images, int], Images]) -> None:
    plain = noise((4, 6, 7, 3))
    pool = pool_of(seal(plain, 3))
    for pairs, keys in ((1, 2), (3, 1)):  # one pair does not tell XOR from addition
        found = solve_keystream(plain[:pairs], pool.sealed[:pairs])
        opened = [np.array_equal(open_images(pool.spec, pool.sealed, key), plain) for key in found]
        assert len(found) == keys and sum(opened) == 1


@pytest.mark.parametrize(
    "seal", [lines_moved, pixels_moved, lambda images, seed: noise(images.shape, seed)]
)
def test_pairs_of_no_keystream_give_none(seal: Callable[[Images, int], Images]) -> None:
    plain = noise((3, 6, 7, 3))
    assert solve_keystream(plain, seal(plain, 3)) == []


@pytest.mark.parametrize("is_own", [False, True])
def test_pairs_give_the_substitution_of_all_images(is_own: bool) -> None:
    plain = smooth(12, 32, 32, 3)
    sealed = substituted(plain, 5, is_own=is_own)
    found = solve_substitution(plain[:6], sealed[:6])
    assert found is not None
    opened = open_images(pool_of(sealed).spec, sealed, found)
    assert np.array_equal(opened[:6], plain[:6])
    assert (opened[6:] == plain[6:]).mean() > 0.95


def test_colours_that_share_a_substitution_share_what_pairs_show_of_it() -> None:
    ramps = np.arange(192, dtype=np.uint8).reshape(1, 8, 8, 3)
    found = solve_substitution(ramps, substituted(ramps, 5))
    assert found is not None
    assert (found.levels == found.levels[0]).all() and len(np.unique(found.levels[0])) >= 192


@pytest.mark.parametrize("seal", [xored, added, pixels_moved])
def test_pairs_of_no_substitution_give_none(seal: Callable[[Images, int], Images]) -> None:
    plain = smooth(4, 32, 32)
    assert solve_substitution(plain, seal(plain, 3)) is None


def test_levels_that_become_one_are_no_substitution() -> None:
    plain = smooth(4, 32, 32)
    assert solve_substitution(plain, plain // 2) is None
