"""Keys from shared weights: carried stems undone, learnt ones laid out, and stems that give nothing away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from coordinator.adversary.contract import Guess
from coordinator.adversary.training.stem_layout import is_supported
from coordinator.adversary.training.stem_rotation import roughness
from coordinator.adversary.training.stem_similarity import (
    cosine_distances,
    cosine_similarities,
    learnt_change,
    stem_from_weights,
    unit_weights,
)
from coordinator.adversary.training.weights import attack, carried_order
from coordinator.exchange.plan import Plan
from coordinator.exchange.pool import MemoryPool
from coordinator.model.shares import shared_names
from coordinator.model.training import PlainImages, train_locally
from coordinator.model.vit import build_model
from crypto.arrays import AnyArray, Images, Int64Array
from crypto.cipher import MatrixCipher
from crypto.kernels.executors import apply
from crypto.kernels.table import Table
from crypto.key import SecretKey
from crypto.scheme import describe
from parties.training.stem import carry, key_coordinates
from tests.support.pictures import sealed_pool, share, smooth
from tests.support.stems import BLOCK, CLASSES, SIDE, observed_study, public_file, study, weights_by_name

SHUFFLES = ["block_pixel_shuffle", "value_shuffle"]


@pytest.fixture(autouse=True)
def one_core() -> None:
    """Keep torch to one thread, so that runs repeat bit for bit."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return public_file(tmp_path_factory.mktemp("gray"))


@pytest.fixture(scope="module")
def plain() -> Images:
    return smooth(16, SIDE, SIDE, seed=3)


def make_pool(
    name: str, plain: Images, key: int = 7, **options: object
) -> tuple[MemoryPool, dict[str, AnyArray]]:
    """Return images sealed under a key, and the parts of that key."""
    return sealed_pool(name, plain, BLOCK, key, **options)


def carried_weights(
    plan: Plan, name: str, channels: int = 1, key: int = 7, **options: object
) -> dict[str, AnyArray]:
    """Return the weights of the public model, carried into a key's coordinates."""
    model = build_model(plan, CLASSES)
    spec = describe(name, (SIDE, SIDE, channels), BLOCK, options=options)
    carry(model, key_coordinates(spec, SecretKey(bytes([key]) * 32)))
    return weights_by_name(model)


def opened_share(pool: MemoryPool, guess: Guess, plain: Images) -> float:
    """Return the share of all values that the guessed key opens, over every image of the pool."""
    assert guess.key is not None
    if "matrix" in guess.key:
        opened = MatrixCipher(pool.spec.image_shape, BLOCK, guess.key["matrix"]).decrypt(pool.sealed)
    else:
        opened = apply(Table.flat(pool.spec.image_shape, guess.key["gather"]), pool.sealed)
    assert (opened[-len(guess.images) :] == guess.images).all()
    return float((opened == plain).mean())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("block_pixel_shuffle", {}),
        ("value_shuffle", {}),
        ("value_shuffle", {"fixed_blocks": 40, "fixed_values": 48}),
    ],
)
def test_a_carried_stem_is_undone_exactly_with_the_public_one(
    public: Path, plain: Images, name: str, options: dict[str, Any]
) -> None:
    pool, truth = make_pool(name, plain, **options)
    plan = study(public, scheme=name, scheme_options=options)
    guess = attack(observed_study(pool, plan, carried_weights(plan, name, **options)))
    assert guess.key is not None
    assert (guess.key["K1"] == truth["K1"]).all() and (guess.key["K2"] == truth["K2"]).all()
    assert opened_share(pool, guess, plain) == 1.0


def test_a_carried_stem_of_colour_images_is_undone_too(tmp_path: Path) -> None:
    colourful = smooth(12, SIDE, SIDE, 3, seed=1)
    pool, truth = make_pool("value_shuffle", colourful)
    plan = study(public_file(tmp_path, 3), scheme="value_shuffle", channels=3)
    guess = attack(observed_study(pool, plan, carried_weights(plan, "value_shuffle", 3)))
    assert guess.key is not None
    assert (guess.key["K2"] == truth["K2"]).all() and opened_share(pool, guess, colourful) == 1.0


def test_a_carried_stem_that_was_trained_further_is_undone_too(public: Path, plain: Images) -> None:
    pool, truth = make_pool("block_pixel_shuffle", plain)
    plan = study(public, optimizer="sgd", lr=0.05, batch=8, warmup_steps=0)
    model = build_model(plan, CLASSES)
    carry(model, key_coordinates(pool.spec, SecretKey(bytes([7]) * 32)))
    train_locally(model, PlainImages(pool.sealed, np.arange(16) % CLASSES), plan, 1, "a")
    guess = attack(observed_study(pool, plan, weights_by_name(model)))
    assert guess.key is not None
    assert (guess.key["K1"] == truth["K1"]).all() and (guess.key["K2"] == truth["K2"]).all()


def test_an_orthogonal_matrix_is_found(public: Path, plain: Images) -> None:
    pool, truth = make_pool("orthogonal", plain)
    plan = study(public, scheme="orthogonal")
    guess = attack(observed_study(pool, plan, carried_weights(plan, "orthogonal")))
    assert guess.key is not None
    np.testing.assert_allclose(guess.key["matrix"], truth["matrix"], atol=2e-3)
    assert opened_share(pool, guess, plain) > 0.999


def test_directions_that_a_narrow_stem_ignores_are_filled_in(public: Path, plain: Images) -> None:
    pool, _ = make_pool("orthogonal", plain)
    narrow = {"patch_size": BLOCK, "embed_dim": 48, "depth": 1, "num_heads": 2}
    plan = study(scheme="orthogonal", model_args=narrow)
    guess = attack(observed_study(pool, plan, carried_weights(plan, "orthogonal")))
    assert guess.key is not None
    matrix = guess.key["matrix"]
    assert "16 of 64 directions of a block by smoothness" in guess.note
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(64), atol=1e-4)
    error = np.abs(guess.images.astype(float) - plain[-6:]).mean()
    assert error < 4.0 < np.abs(plain[-6:] - plain.mean()).mean() / 4


def test_roughness_is_the_sum_of_squared_steps() -> None:
    block = np.random.default_rng(0).normal(size=(4, 4, 3))
    steps = (np.diff(block, axis=0) ** 2).sum() + (np.diff(block, axis=1) ** 2).sum()
    assert block.ravel() @ roughness(4, 3) @ block.ravel() == pytest.approx(steps, rel=1e-4)


# ---- without the public weights ---------------------------------------------------------------------------


def neighbour_share(rows: AnyArray, place: Int64Array, side: int) -> float:
    """Return the share of rows whose most similar other row stands beside them on a grid."""
    similarities = cosine_similarities(rows, rows)
    np.fill_diagonal(similarities, -9)
    y, x = np.divmod(place, side)
    near = similarities.argmax(1)
    return float((abs(y - y[near]) + abs(x - x[near]) == 1).mean())


def test_most_similar_columns_and_positions_are_neighbours(public: Path, plain: Images) -> None:
    plan = study(public, scheme="value_shuffle")
    _, truth = make_pool("value_shuffle", plain)
    stem = stem_from_weights(carried_weights(plan, "value_shuffle"))
    assert stem is not None and stem.positions is not None
    columns = unit_weights(stem.filters, plan.describe())
    assert neighbour_share(columns, truth["K2"], BLOCK) == 1.0
    assert neighbour_share(stem.positions[1:], truth["K1"], SIDE // BLOCK) == 1.0


@pytest.mark.parametrize("name", SHUFFLES)
def test_without_the_public_weights_the_stem_alone_opens(
    public: Path, plain: Images, name: str, tmp_path: Path
) -> None:
    pool, _ = make_pool(name, plain)
    weights = carried_weights(study(public, scheme=name), name)
    guess = attack(observed_study(pool, study(tmp_path / "not here", scheme=name), weights))
    assert guess.note == "from the stem alone"
    assert share(guess.images, plain[-6:], signs=False) == 1.0


def test_positions_place_blocks_that_seams_cannot(public: Path, plain: Images, tmp_path: Path) -> None:
    """All black blocks fit each other, but every token has its own position embedding."""
    black = plain.copy()
    black[:, : 2 * BLOCK] = black[:, :, -BLOCK:] = 0
    pool, truth = make_pool("block_pixel_shuffle", black)
    weights = carried_weights(study(public), "block_pixel_shuffle")
    nowhere = study(tmp_path / "not here")
    by_positions = attack(observed_study(pool, nowhere, weights))
    assert by_positions.key is not None and (by_positions.key["K1"] == truth["K1"]).all()
    del weights["pos_embed"]
    by_seams = attack(observed_study(pool, nowhere, weights))
    assert by_seams.key is not None
    assert (by_seams.key["K2"] == truth["K2"]).all() and (by_seams.key["K1"] != truth["K1"]).any()


def test_an_orthogonal_stem_alone_shows_nothing(public: Path, plain: Images, tmp_path: Path) -> None:
    pool, _ = make_pool("orthogonal", plain)
    weights = carried_weights(study(public, scheme="orthogonal"), "orthogonal")
    guess = attack(observed_study(pool, study(tmp_path / "not here", scheme="orthogonal"), weights))
    assert guess.key is None and "no matrix" in guess.note


# ---- stems that learnt --------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [{"optimizer": "adamw", "lr": 1e-3}, {"optimizer": "sgd", "lr": 0.1}])
@pytest.mark.parametrize("name", SHUFFLES)
def test_the_change_of_a_stem_that_learnt_on_ciphertexts_opens_them(
    public: Path, optimizer: dict[str, Any], name: str
) -> None:
    plain = smooth(48, SIDE, SIDE, seed=5)
    pool, _ = make_pool(name, plain)
    plan = study(public, scheme=name, batch=8, rounds=1, local_epochs=3, warmup_steps=0, **optimizer)
    model = build_model(plan, CLASSES)
    train_locally(model, PlainImages(pool.sealed, np.arange(48) % CLASSES), plan, 1, "a")
    guess = attack(observed_study(pool, plan, weights_by_name(model)))
    assert guess.note.startswith("from what the stem learnt on ciphertexts")
    assert share(guess.images, plain[-6:], signs=False) > 0.8


def test_weight_decay_is_removed_from_what_was_learnt() -> None:
    rng = np.random.default_rng(0)
    before, added = rng.normal(size=(9, 40)), 1e-4 * rng.normal(size=(9, 40))
    change = learnt_change(before, before * 0.95 + added)
    assert cosine_similarities(change.reshape(1, -1), added.reshape(1, -1))[0, 0] > 0.99


# ---- what gives nothing away ----------------------------------------------------------------------------------


def test_a_private_stem_is_named_and_no_key_is_claimed(public: Path, plain: Images) -> None:
    pool, _ = make_pool("block_pixel_shuffle", plain)
    plan = study(public, stem="private")
    model = build_model(plan, CLASSES)
    shared = {k: v for k, v in weights_by_name(model).items() if k in shared_names(model, plan)}
    guess = attack(observed_study(pool, plan, shared))
    assert guess.key is None and guess.note == "no stem among the shared weights (stem private)"
    assert (guess.images == pool.sealed[-6:]).all()


@pytest.mark.parametrize("trained", [False, True])
def test_a_plain_stem_shows_nothing(public: Path, plain: Images, trained: bool) -> None:
    pool, _ = make_pool("block_pixel_shuffle", plain)
    plan = study(public, stem="plain", batch=8)
    model = build_model(plan, CLASSES)
    if trained:
        train_locally(model, PlainImages(plain, np.arange(16) % CLASSES), plan, 1, "a")
    guess = attack(observed_study(pool, plan, weights_by_name(model)))
    reason = "plain coordinates (stem plain)" if trained else "it learnt nothing"
    assert guess.key is None and reason in guess.note


@pytest.mark.parametrize("with_public", [True, False])
@pytest.mark.parametrize("name", [*SHUFFLES, "orthogonal"])
def test_a_random_stem_gives_no_key(
    public: Path, plain: Images, name: str, with_public: bool, tmp_path: Path
) -> None:
    pool, _ = make_pool(name, plain)
    rng = np.random.default_rng(8)
    weights = carried_weights(study(public, scheme=name), name)
    for part in ("patch_embed.proj.weight", "pos_embed"):
        weights[part] = rng.normal(0, 0.1, weights[part].shape).astype(np.float32)
    plan = study(public if with_public else tmp_path / "not here", scheme=name)
    guess = attack(observed_study(pool, plan, weights))
    assert guess.key is None and share(guess.images, plain[-6:], signs=False) < 0.05


@pytest.mark.parametrize("name", [*SHUFFLES, "orthogonal"])
def test_a_stem_of_another_key_gives_no_key(public: Path, plain: Images, name: str) -> None:
    pool, _ = make_pool(name, plain)
    plan = study(public, scheme=name)
    guess = attack(observed_study(pool, plan, carried_weights(plan, name, key=8)))
    assert guess.key is None and "do not bear out" in guess.note


def test_rows_in_their_places_are_not_carried() -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(size=(20, 50))
    order = rng.permutation(20)
    assert carried_order(first + 0.1 * rng.normal(size=(20, 50)), first) is None
    assert carried_order(rng.normal(size=(20, 50)), first) is None
    result = carried_order(first[order] + 0.1 * rng.normal(size=(20, 50)), first)
    assert result is not None and (result == order).all()


def test_only_the_true_order_is_supported(plain: Images) -> None:
    pool, truth = make_pool("value_shuffle", plain)
    place, colour = truth["K2"], np.zeros(64, np.int64)
    wrong = np.random.default_rng(0).permutation(64)
    assert is_supported(pool, np.arange(10), place, colour)
    assert not is_supported(pool, np.arange(10), wrong, colour)
    constant = MemoryPool(pool.spec, np.zeros_like(pool.sealed))
    assert not is_supported(constant, np.arange(10), place, colour)


def test_cosine_distances_are_symmetric_and_0_on_the_diagonal() -> None:
    distances = cosine_distances(np.random.default_rng(0).normal(size=(5, 7)))
    assert not np.diag(distances).any() and distances.min() >= 0
    np.testing.assert_array_equal(distances, distances.T)


@pytest.mark.parametrize(
    ("pool_scheme", "options", "reason"),
    [
        ("etc", {}, "no way is known"),
        ("block_pixel_shuffle", {"scheme": "value_shuffle"}, "another scheme"),
        ("block_pixel_shuffle", {"block": 4}, "another scheme, size or block"),
    ],
)
def test_the_note_says_why_a_stem_is_unusable(
    public: Path, plain: Images, pool_scheme: str, options: dict[str, Any], reason: str
) -> None:
    pool, _ = make_pool(pool_scheme, plain)
    guess = attack(observed_study(pool, study(public, **options), {}))
    assert guess.key is None and reason in guess.note


def test_without_a_training_the_note_says_so(plain: Images) -> None:
    pool, _ = make_pool("block_pixel_shuffle", plain)
    guess = attack(observed_study(pool, None, {}))
    assert guess.key is None and "no training was given" in guess.note
    assert guess.images.shape == plain[-6:].shape
