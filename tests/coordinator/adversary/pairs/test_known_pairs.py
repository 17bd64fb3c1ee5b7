"""Keys from known pairs and from chosen plain images: exact for every scheme, and honest about what stays open."""

from __future__ import annotations

import numpy as np
import pytest

from coordinator.adversary.contract import Guess, Knowledge
from coordinator.adversary.pairs import chosen_plaintext, known_pairs
from coordinator.adversary.pairs.unit_signatures import pair_up, rows_as_ids
from coordinator.exchange.pool import MemoryPool
from crypto.cipher import MatrixCipher
from crypto.errors import CipherwardError
from crypto.kernels.executors import apply
from crypto.kernels.table import Table
from crypto.key import SecretKey
from crypto.scheme import describe, load
from tests.support.pictures import sealed_pool, smooth

KEY = SecretKey(bytes([7]) * 32)

#: scheme, channels, block, options, known pairs of textured 32×32 pictures that are enough, chosen images
SCHEMES = [
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
    ("orthogonal", 1, 4, {}, 1, 1),
    ("orthogonal", 3, 4, {}, 2, 2),
]


def attacked(name, plain, block, options, *, pairs=0, oracle=False, rows=3, key=7) -> Guess:
    """The attack on a pool of `plain`; the pairs are its last images, and none of the rows."""
    pool, _ = sealed_pool(name, plain, block, key, **options)
    known = (plain[-pairs:], pool.sealed[-pairs:]) if pairs else None
    cipher = load(pool.spec).cipher(SecretKey(bytes([key]) * 32))
    asked = Knowledge(
        pool, np.arange(1), np.arange(rows), known=known, oracle=cipher.encrypt if oracle else None
    )
    return (chosen_plaintext if oracle else known_pairs).attack(asked)


def opens(guess: Guess, spec, plain: np.ndarray) -> float:
    """The share of values of images never seen that the guessed key puts right."""
    sealed = load(spec).cipher(KEY).encrypt(plain)
    if "matrix" in guess.key:
        images = MatrixCipher(spec.image_shape, spec.block, guess.key["matrix"]).decrypt(sealed)
    else:
        images = apply(Table.flat(sealed.shape[1:], guess.key["gather"], guess.key.get("mask")), sealed)
        images = load(spec).picture(images)
    return float((np.abs(images.astype(int) - plain) <= load(spec).tolerance).mean())


@pytest.mark.parametrize(("name", "channels", "block", "options", "pairs", "chosen"), SCHEMES)
def test_pairs_give_the_key(name, channels, block, options, pairs, chosen):
    plain = smooth(3 + pairs, 32, 32, channels, gray=0.2)
    guess = attacked(name, plain, block, options, pairs=pairs)
    tolerance = load(describe(name, plain.shape[1:], block, options=options)).tolerance
    assert guess.images.dtype == np.uint8
    assert (np.abs(guess.images.astype(int) - plain[:3]) <= tolerance).mean() > 0.998
    again = attacked(name, plain, block, options, pairs=pairs)
    assert all((guess.key[k] == again.key[k]).all() for k in guess.key)


@pytest.mark.parametrize(("name", "channels", "block", "options", "pairs", "chosen"), SCHEMES)
def test_chosen_images_give_the_whole_key(name, channels, block, options, pairs, chosen):
    shape = (32, 32, channels)
    guess = attacked(name, smooth(3, *shape), block, options, oracle=True)
    spec = describe(name, shape, block, options=options)
    assert len(chosen_plaintext.queries(spec)) == chosen
    assert guess.note == f"{chosen} chosen images"
    unseen = np.random.default_rng(5).integers(0, 256, (4, *shape), np.uint8)
    assert opens(guess, spec, unseen) == 1.0


def test_the_full_size_needs_as_many_chosen_images_as_it_says():
    counts = {
        (name, channels): len(chosen_plaintext.queries(describe(name, (224, 224, channels), 16)))
        for name in ("block_pixel_shuffle", "value_shuffle", "block_pixel", "ele", "le", "pe", "orthogonal")
        for channels in (1, 3)
    }
    assert [counts[n, 3] for n in ("block_pixel_shuffle", "value_shuffle", "block_pixel", "ele", "le", "pe")] == [
        1, 3, 3, 7, 1, 1,
    ]  # fmt: skip
    assert counts["block_pixel_shuffle", 1] == 2 and counts["orthogonal", 3] == 5


def test_the_parts_are_the_schemes_own():
    plain = smooth(4, 32, 32)
    pool, truth = sealed_pool("block_pixel_shuffle", plain, 8)
    guess = known_pairs.attack(
        Knowledge(pool, np.arange(1), np.arange(3), known=(plain[3:], pool.sealed[3:]))
    )
    assert guess.note == "" and all((guess.key[k] == truth[k]).all() for k in ("K1", "K2"))
    pool, truth = sealed_pool("etc", smooth(4, 32, 32, 3), 8)
    found, note = known_pairs.solve(pool.spec, smooth(4, 32, 32, 3), pool.sealed)
    assert note == "" and all((found.parts[k] == truth[k]).all() for k in truth)


@pytest.mark.parametrize(
    ("name", "channels", "options"),
    [("block_pixel", 3, {}), ("pe", 3, {"colour_shuffle": True}), ("ele", 3, {}), ("value_shuffle", 1, {})],
)
def test_more_pairs_leave_less_open(name, channels, options):
    plain = smooth(19, 32, 32, channels, gray=0.2)
    spec, unseen = None, np.random.default_rng(5).integers(0, 256, (4, 32, 32, channels), np.uint8)
    right = []
    for pairs in (1, 4, 16):
        guess = attacked(name, plain, 4, options, pairs=pairs)
        spec = describe(name, plain.shape[1:], 4, options=options)
        right.append(opens(guess, spec, unseen))
        assert (right[-1] == 1.0) == (guess.note == "")
    assert right[0] < 0.999 and right == sorted(right) and right[2] > right[0]


def test_pictures_with_black_borders_say_what_stays_open():
    plain = smooth(4, 32, 32)
    plain[:, :8] = plain[:, 24:] = 0
    guess = attacked("block_pixel_shuffle", plain, 8, {}, pairs=1)
    assert guess.note == "8 of 16 blocks are equal to others"
    assert (guess.images == plain[:3]).all()


def test_blocks_alike_in_values_are_told_apart_by_their_arrangement():
    plain = smooth(4, 32, 32)
    plain[3, 8:16, 8:16] = plain[3, 8:16, 16:24]
    plain[3, 8:12, 8:12] = plain[3, 8:12, 8:12][::-1]  # the same values, one sub-block upside down
    assert (plain[3, 8:12, 8:12] != plain[3, 8:12, 16:20]).any()
    guess = attacked("block_pixel_shuffle", plain, 8, {}, pairs=1)
    assert guess.note == "" and (guess.images == plain[:3]).all()


def test_blocks_alike_in_every_image_are_told_apart_by_their_units():
    rng = np.random.default_rng(0)
    plain = rng.integers(0, 256, (3, 16, 16, 1), np.uint8)
    plain[0, :4, 4:8] = plain[0, :4, :4]  # the same values in both images, not at the same places
    plain[1, :4, 4:8] = plain[1, :4, :4][::-1]
    for name in ("block_pixel", "ele"):
        pool, _ = sealed_pool(name, plain, 4)
        asked = Knowledge(pool, np.arange(1), np.arange(2), known=(plain[:2], pool.sealed[:2]))
        guess = known_pairs.attack(asked)
        assert "blocks" not in guess.note and (guess.images == plain[:2]).all()


def test_a_matrix_is_known_on_the_span_of_the_blocks_seen():
    plain = smooth(4, 32, 32, gray=0.2)
    guess = attacked("orthogonal", plain, 8, {}, pairs=1)
    assert guess.note == "16 of 64 directions of a block are known"
    assert (
        attacked("orthogonal", plain, 8, {}, pairs=3, rows=1).note
    ) == "48 of 64 directions of a block are known"
    matrix = guess.key["matrix"].astype(float)
    assert np.linalg.matrix_rank(matrix, 1e-3) == 16
    assert np.abs(matrix @ matrix.T @ matrix - matrix).max() < 1e-4


# ---- what they must not claim -------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "scope"), [("noise", "consortium"), ("pe", "image")])
def test_keys_for_every_image_say_nothing_of_others(name, scope):
    plain = smooth(4, 16, 16)
    spec = describe(name, (16, 16, 1), 4, scope)
    cipher = load(spec).cipher(KEY)
    pool = MemoryPool(spec, cipher.encrypt(plain))
    asked = Knowledge(
        pool, np.arange(1), np.arange(3), known=(plain[3:], pool.sealed[3:]), oracle=cipher.encrypt
    )
    for attack in (known_pairs.attack, chosen_plaintext.attack):
        guess = attack(asked)
        assert guess.key is None and guess.note.startswith("every image has a key of its own")
        assert (guess.images == pool.sealed[:3]).all()


def test_without_pairs_or_an_oracle_they_say_so():
    pool, _ = sealed_pool("etc", smooth(2, 16, 16, 3), 8, form="gray")
    asked = Knowledge(pool, np.arange(1), np.arange(2))
    for attack, note in (
        (known_pairs.attack, "needs known pairs"),
        (chosen_plaintext.attack, "needs an oracle"),
    ):
        guess = attack(asked)
        assert guess.note == note and guess.key is None
        assert (guess.images == load(pool.spec).picture(pool.sealed)).all()


@pytest.mark.parametrize(
    "name", ["block_pixel_shuffle", "value_shuffle", "block_pixel", "pe", "le", "etc", "orthogonal"]
)
def test_pairs_of_two_keys_are_told(name):
    plain = smooth(4, 16, 16)
    first, second = (sealed_pool(name, plain, 4, key)[0] for key in (1, 2))
    known = plain, np.concatenate([first.sealed[:2], second.sealed[2:]])
    guess = known_pairs.attack(Knowledge(first, np.arange(1), np.arange(2), known=known))
    assert guess.key is None and guess.note in (
        "the pairs are not of one key",
        "the pairs are not of one orthogonal matrix",
    )


def test_black_pairs_give_no_key_that_claims_to_be_whole():
    black = np.zeros((3, 16, 16, 1), np.uint8)
    for name in ("block_pixel_shuffle", "value_shuffle", "block_pixel", "le", "etc"):
        guess = attacked(name, black, 4, {}, pairs=1, rows=1)
        assert guess.note != "" and (guess.images == 0).all()


def test_pairs_of_other_shapes_are_refused():
    pool, _ = sealed_pool("orthogonal", smooth(2, 16, 16), 4)
    for known in ((smooth(2, 16, 16), pool.sealed[:1]), (smooth(2, 16, 16), smooth(2, 16, 16))):
        with pytest.raises(CipherwardError, match="are not of orthogonal"):
            known_pairs.attack(Knowledge(pool, np.arange(1), np.arange(2), known=known))


# ---- building blocks ----------------------------------------------------------------------------------------


def test_pairing_against_loops():
    rng = np.random.default_rng(0)
    source = rng.integers(0, 9, (5, 12))
    truth = np.argsort(rng.random((5, 12)), 1)
    target = np.take_along_axis(source, truth, 1)
    gather, loose, fits = pair_up(source, target)
    assert fits and (np.take_along_axis(source, gather, 1) == target).all()
    for g in range(5):
        assert sorted(gather[g]) == list(range(12))
        assert loose[g].tolist() == [list(target[g]).count(v) > 1 for v in target[g]]
    assert not pair_up(source, target + 1)[2]


def test_rows_as_ids_name_equal_rows():
    source = np.array([[1, 2], [3, 4], [1, 2]], np.int32)
    first, second = rows_as_ids(source, np.array([[3, 4], [5, 6]], np.int32))
    assert first[0] == first[2] != first[1] == second[0] != second[1] and second[1] not in first
