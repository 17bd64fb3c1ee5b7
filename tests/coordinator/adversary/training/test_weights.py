"""The shared weights as evidence: carried stems undone, learnt ones laid out, and what gives nothing away."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from coordinator.adversary.training.stem_layout import borne_out
from coordinator.adversary.training.stem_similarity import alike, apart, learnt, stem_of, units
from coordinator.adversary.training.weights import attack, carried_order, roughness
from coordinator.exchange.pool import MemoryPool
from coordinator.model.training import PlainImages, train_locally
from coordinator.model.vit import build_model, shared_names
from crypto.cipher import MatrixCipher
from crypto.kernels.executors import apply
from crypto.kernels.table import Table
from crypto.key import SecretKey
from crypto.scheme import describe
from parties.training.stem import carry, coordinates
from tests.support.pictures import sealed_pool, share, smooth
from tests.support.stems import BLOCK, CLASSES, SIDE, public_file, study, watched, weights_of

SHUFFLES = ["block_pixel_shuffle", "value_shuffle"]


@pytest.fixture(autouse=True)
def one_core():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    return public_file(tmp_path_factory.mktemp("gray"))


@pytest.fixture(scope="module")
def plain():
    return smooth(16, SIDE, SIDE, seed=3)


def pool_of(name, plain, key=7, **options):
    return sealed_pool(name, plain, BLOCK, key, **options)


def carried(plan, name, channels=1, key=7, **options):
    """The public model, carried into a key's coordinates."""
    model = build_model(plan, CLASSES)
    spec = describe(name, (SIDE, SIDE, channels), BLOCK, options=options)
    carry(model, coordinates(spec, SecretKey(bytes([key]) * 32)))
    return weights_of(model)


def opens(pool, guess, plain):
    """Share of all values that the guessed key opens, of every image of the pool."""
    if "matrix" in guess.key:
        found = MatrixCipher(pool.spec.image_shape, BLOCK, guess.key["matrix"]).decrypt(pool.sealed)
    else:
        found = apply(Table.flat(pool.spec.image_shape, guess.key["gather"]), pool.sealed)
    assert (found[-len(guess.images) :] == guess.images).all()
    return float((found == plain).mean())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("block_pixel_shuffle", {}),
        ("value_shuffle", {}),
        ("value_shuffle", {"fixed_blocks": 40, "fixed_values": 48}),
    ],
)
def test_a_carried_stem_is_undone_exactly_with_the_public_one(public, plain, name, options):
    pool, truth = pool_of(name, plain, **options)
    plan = study(public, scheme=name, scheme_options=options)
    guess = attack(watched(pool, plan, carried(plan, name, **options)))
    assert (guess.key["K1"] == truth["K1"]).all() and (guess.key["K2"] == truth["K2"]).all()
    assert opens(pool, guess, plain) == 1.0


def test_colours_are_undone_too(tmp_path):
    colourful = smooth(12, SIDE, SIDE, 3, seed=1)
    pool, truth = pool_of("value_shuffle", colourful)
    plan = study(public_file(tmp_path, 3), scheme="value_shuffle", channels=3)
    guess = attack(watched(pool, plan, carried(plan, "value_shuffle", 3)))
    assert (guess.key["K2"] == truth["K2"]).all() and opens(pool, guess, colourful) == 1.0


def test_a_carried_stem_that_was_trained_on_is_undone_too(public, plain):
    pool, truth = pool_of("block_pixel_shuffle", plain)
    plan = study(public, optimizer="sgd", lr=0.05, batch=8, warmup_steps=0)
    model = build_model(plan, CLASSES)
    carry(model, coordinates(pool.spec, SecretKey(bytes([7]) * 32)))
    train_locally(model, PlainImages(pool.sealed, np.arange(16) % CLASSES), plan, 1, "a")
    guess = attack(watched(pool, plan, weights_of(model)))
    assert (guess.key["K1"] == truth["K1"]).all() and (guess.key["K2"] == truth["K2"]).all()


def test_an_orthogonal_matrix_is_found(public, plain):
    pool, truth = pool_of("orthogonal", plain)
    plan = study(public, scheme="orthogonal")
    guess = attack(watched(pool, plan, carried(plan, "orthogonal")))
    np.testing.assert_allclose(guess.key["matrix"], truth["matrix"], atol=2e-3)
    assert opens(pool, guess, plain) > 0.999


def test_directions_that_a_narrow_stem_ignores_are_filled_in(public, plain):
    pool, _ = pool_of("orthogonal", plain)
    narrow = {"patch_size": BLOCK, "embed_dim": 48, "depth": 1, "num_heads": 2}
    plan = study(scheme="orthogonal", model_args=narrow)
    guess = attack(watched(pool, plan, carried(plan, "orthogonal")))
    matrix = guess.key["matrix"]
    assert "16 of 64 directions of a block by smoothness" in guess.note
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(64), atol=1e-4)
    error = np.abs(guess.images.astype(float) - plain[-6:]).mean()
    assert error < 4.0 < np.abs(plain[-6:] - plain.mean()).mean() / 4


def test_roughness_is_the_sum_of_squared_steps():
    block = np.random.default_rng(0).normal(size=(4, 4, 3))
    steps = (np.diff(block, axis=0) ** 2).sum() + (np.diff(block, axis=1) ** 2).sum()
    assert block.ravel() @ roughness(4, 3) @ block.ravel() == pytest.approx(steps, rel=1e-4)


# ---- without the public weights ---------------------------------------------------------------------------


def neighbours(likeness, place, side):
    """Share of things whose most similar other one stands beside them."""
    np.fill_diagonal(likeness, -9)
    y, x = np.divmod(place, side)
    near = likeness.argmax(1)
    return float((abs(y - y[near]) + abs(x - x[near]) == 1).mean())


def test_most_similar_columns_and_places_are_neighbours(public, plain):
    plan = study(public, scheme="value_shuffle")
    _, truth = pool_of("value_shuffle", plain)
    stem = stem_of(carried(plan, "value_shuffle"))
    columns = units(stem.filters, plan.describe())
    assert neighbours(alike(columns, columns), truth["K2"], BLOCK) == 1.0
    assert neighbours(alike(stem.positions[1:], stem.positions[1:]), truth["K1"], SIDE // BLOCK) == 1.0


@pytest.mark.parametrize("name", SHUFFLES)
def test_without_the_public_weights_the_stem_alone_opens(public, plain, name, tmp_path):
    pool, _ = pool_of(name, plain)
    weights = carried(study(public, scheme=name), name)
    guess = attack(watched(pool, study(tmp_path / "not here", scheme=name), weights))
    assert guess.note == "from the stem alone"
    assert share(guess.images, plain[-6:], signs=False) == 1.0


def test_positions_place_even_blocks_that_seams_cannot(public, plain, tmp_path):
    """Black blocks fit each other anyhow; the position of a token is its own."""
    black = plain.copy()
    black[:, : 2 * BLOCK] = black[:, :, -BLOCK:] = 0
    pool, truth = pool_of("block_pixel_shuffle", black)
    weights = carried(study(public), "block_pixel_shuffle")
    nowhere = study(tmp_path / "not here")
    assert (attack(watched(pool, nowhere, weights)).key["K1"] == truth["K1"]).all()
    del weights["pos_embed"]
    seams = attack(watched(pool, nowhere, weights))
    assert (seams.key["K2"] == truth["K2"]).all() and (seams.key["K1"] != truth["K1"]).any()


def test_an_orthogonal_stem_alone_shows_nothing(public, plain, tmp_path):
    pool, _ = pool_of("orthogonal", plain)
    weights = carried(study(public, scheme="orthogonal"), "orthogonal")
    guess = attack(watched(pool, study(tmp_path / "not here", scheme="orthogonal"), weights))
    assert guess.key is None and "no matrix" in guess.note


# ---- stems that learnt --------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [{"optimizer": "adamw", "lr": 1e-3}, {"optimizer": "sgd", "lr": 0.1}])
@pytest.mark.parametrize("name", SHUFFLES)
def test_what_a_stem_learnt_on_ciphertexts_opens_them(public, optimizer, name):
    plain = smooth(48, SIDE, SIDE, seed=5)
    pool, _ = pool_of(name, plain)
    plan = study(public, scheme=name, batch=8, rounds=1, local_epochs=3, warmup_steps=0, **optimizer)
    model = build_model(plan, CLASSES)
    train_locally(model, PlainImages(pool.sealed, np.arange(48) % CLASSES), plan, 1, "a")
    guess = attack(watched(pool, plan, weights_of(model)))
    assert guess.note.startswith("from what the stem learnt on ciphertexts")
    assert share(guess.images, plain[-6:], signs=False) > 0.8


def test_weight_decay_is_taken_off_what_was_learnt():
    rng = np.random.default_rng(0)
    before, added = rng.normal(size=(9, 40)), 1e-4 * rng.normal(size=(9, 40))
    found = learnt(before, before * 0.95 + added)
    assert alike(found.reshape(1, -1), added.reshape(1, -1))[0, 0] > 0.99


# ---- what gives nothing away ----------------------------------------------------------------------------------


def test_a_private_stem_is_said_and_nothing_is_claimed(public, plain):
    pool, _ = pool_of("block_pixel_shuffle", plain)
    plan = study(public, stem="private")
    model = build_model(plan, CLASSES)
    shared = {k: v for k, v in weights_of(model).items() if k in shared_names(model, plan)}
    guess = attack(watched(pool, plan, shared))
    assert guess.key is None and guess.note == "no stem among the shared weights (stem private)"
    assert (guess.images == pool.sealed[-6:]).all()


@pytest.mark.parametrize("trained", [False, True])
def test_a_plain_stem_shows_nothing(public, plain, trained):
    pool, _ = pool_of("block_pixel_shuffle", plain)
    plan = study(public, stem="plain", batch=8)
    model = build_model(plan, CLASSES)
    if trained:
        train_locally(model, PlainImages(plain, np.arange(16) % CLASSES), plan, 1, "a")
    guess = attack(watched(pool, plan, weights_of(model)))
    said = "plain coordinates (stem plain)" if trained else "it learnt nothing"
    assert guess.key is None and said in guess.note


@pytest.mark.parametrize("with_public", [True, False])
@pytest.mark.parametrize("name", [*SHUFFLES, "orthogonal"])
def test_a_random_stem_breaks_nothing(public, plain, name, with_public, tmp_path):
    pool, _ = pool_of(name, plain)
    rng = np.random.default_rng(8)
    weights = carried(study(public, scheme=name), name)
    for part in ("patch_embed.proj.weight", "pos_embed"):
        weights[part] = rng.normal(0, 0.1, weights[part].shape).astype(np.float32)
    plan = study(public if with_public else tmp_path / "not here", scheme=name)
    guess = attack(watched(pool, plan, weights))
    assert guess.key is None and share(guess.images, plain[-6:], signs=False) < 0.05


@pytest.mark.parametrize("name", [*SHUFFLES, "orthogonal"])
def test_a_stem_of_another_key_is_not_taken_for_this_one(public, plain, name):
    pool, _ = pool_of(name, plain)
    plan = study(public, scheme=name)
    guess = attack(watched(pool, plan, carried(plan, name, key=8)))
    assert guess.key is None and "do not bear out" in guess.note


def test_rows_in_their_places_are_not_carried():
    rng = np.random.default_rng(0)
    first = rng.normal(size=(20, 50))
    order = rng.permutation(20)
    assert carried_order(first + 0.1 * rng.normal(size=(20, 50)), first) is None
    assert carried_order(rng.normal(size=(20, 50)), first) is None
    assert (carried_order(first[order] + 0.1 * rng.normal(size=(20, 50)), first) == order).all()


def test_an_order_is_borne_out_by_neighbours_alone(plain):
    pool, truth = pool_of("value_shuffle", plain)
    place, colour = truth["K2"], np.zeros(64, np.int64)
    wrong = np.random.default_rng(0).permutation(64)
    assert borne_out(pool, np.arange(10), place, colour)
    assert not borne_out(pool, np.arange(10), wrong, colour)
    constant = MemoryPool(pool.spec, np.zeros_like(pool.sealed))
    assert not borne_out(constant, np.arange(10), place, colour)


def test_distances_are_none_to_oneself():
    distances = apart(np.random.default_rng(0).normal(size=(5, 7)))
    assert (np.diag(distances) == 0).all() and (distances == distances.T).all() and distances.min() >= 0


@pytest.mark.parametrize(
    ("pool_scheme", "options", "said"),
    [
        ("etc", {}, "no way is known"),
        ("block_pixel_shuffle", {"scheme": "value_shuffle"}, "another scheme"),
        ("block_pixel_shuffle", {"block": 4}, "another scheme, size or block"),
    ],
)
def test_what_a_stem_cannot_say_is_said(public, plain, pool_scheme, options, said):
    pool, _ = pool_of(pool_scheme, plain)
    guess = attack(watched(pool, study(public, **options), {}))
    assert guess.key is None and said in guess.note


def test_without_a_training_it_says_so(plain):
    pool, _ = pool_of("block_pixel_shuffle", plain)
    guess = attack(watched(pool, None, {}))
    assert guess.key is None and "no training was given" in guess.note
    assert guess.images.shape == plain[-6:].shape
