"""A stem of the cloud's own: what it learns on a pool, whatever the stem mode, and what it needs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from coordinator.adversary.training.learned_stem import attack, trained
from coordinator.adversary.training.stem_similarity import alike, learnt, units
from coordinator.exchange.pool import MemoryPool
from tests.support.pictures import sealed_pool, share, smooth
from tests.support.stems import BLOCK, CLASSES, SIDE, public_file, study, watched


@pytest.fixture(autouse=True)
def one_core():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    return public_file(tmp_path_factory.mktemp("public"))


def knowledge(name="block_pixel_shuffle", plan=None, n=22, seconds=600.0, labels=True):
    plain = smooth(n, SIDE, SIDE, seed=2)
    pool, truth = sealed_pool(name, plain, BLOCK)
    given = np.arange(n) % CLASSES if labels else None
    return watched(pool, plan, {}, given, seconds), plain, truth


def neighbour_share(given, plan, truth, side):
    """Share of units whose column changed most alike a neighbour's."""
    first, own, _ = trained(given, plan, CLASSES)
    change = units(learnt(first.filters, own.filters), given.pool.spec)
    likeness = alike(change, change)
    np.fill_diagonal(likeness, -9)
    y, x = np.divmod(truth["K2"], side)
    near = likeness.argmax(1)
    return float((abs(y - y[near]) + abs(x - x[near]) == 1).mean())


def test_its_own_stem_learns_neighbours_alike(public):
    plan = study(public, scheme="value_shuffle", stem="private")
    given, _, truth = knowledge("value_shuffle", plan)
    assert neighbour_share(given, plan, truth, BLOCK) > 0.9  # by chance: 1 in 18


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("block_pixel_shuffle", {"stem": "private", "stem_frozen": True}),
        ("value_shuffle", {"stem": "private"}),
        ("block_pixel_shuffle", {"stem": "learn"}),
    ],
)
def test_it_opens_the_pool_whatever_the_stem_mode(public, name, mode):
    given, plain, _ = knowledge(name, study(public, scheme=name, **mode))
    guess = attack(given)
    assert guess.note == "after 20 steps on 16 images"
    assert share(guess.images, plain[-6:], signs=False) > 0.8
    assert sorted(guess.key["gather"]) == list(range(SIDE**2))


def test_a_model_from_scratch_does_as_well():
    given, plain, _ = knowledge(plan=study(stem="private"))
    assert share(attack(given).images, plain[-6:], signs=False) > 0.9


def test_the_same_pool_gives_the_same_guess(public):
    given, _, _ = knowledge(plan=study(public), n=20)
    first, second = attack(given), attack(given)
    assert (first.images == second.images).all() and (first.key["K1"] == second.key["K1"]).all()


def test_noise_gives_no_key(public):
    given, plain, _ = knowledge(plan=study(public))
    noise = np.random.default_rng(1).integers(0, 256, plain.shape, np.uint8)
    pool = MemoryPool(given.pool.spec, noise)
    guess = attack(watched(pool, study(public), {}, np.arange(len(noise)) % CLASSES))
    assert guess.key is None and "nothing identifiable" in guess.note
    assert (guess.images == noise[-6:]).all()


def test_out_of_time_it_says_so_and_claims_nothing(public):
    guess = attack(knowledge(plan=study(public), seconds=0.0)[0])
    assert guess.key is None and "learnt nothing" in guess.note and "truncated" in guess.note


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("block_pixel_shuffle", {"plan": None}, "no training was given"),
        ("block_pixel_shuffle", {"labels": False}, "needs the labels"),
        ("block_pixel_shuffle", {"n": 10}, "needs 8 ciphertexts, has 4"),
        (
            "block_pixel_shuffle",
            {"plan": study("/nowhere/vit.safetensors")},
            "vit.safetensors are not here",
        ),
        ("orthogonal", {"plan": study(scheme="orthogonal")}, "no order"),
    ],
)
def test_what_it_lacks_is_said(name, changes, said):
    given, plain, _ = knowledge(name, **{"plan": study(), **changes})
    guess = attack(given)
    assert guess.key is None and said in guess.note and guess.images.shape == plain[-6:].shape
