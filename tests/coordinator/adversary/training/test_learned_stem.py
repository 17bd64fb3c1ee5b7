"""A stem that the cloud trains itself: what it learns on a pool, whatever the stem mode, and what it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from coordinator.adversary.contract import Knowledge
from coordinator.adversary.training.learned_stem import attack, train_stem
from coordinator.adversary.training.stem_similarity import cosine_similarities, learnt_change, unit_weights
from coordinator.exchange.plan import Plan
from coordinator.exchange.pool import MemoryPool
from crypto.arrays import AnyArray, Images
from tests.support.pictures import sealed_pool, share, smooth
from tests.support.stems import BLOCK, CLASSES, SIDE, observed_study, public_file, study


@pytest.fixture(autouse=True)
def one_core() -> None:
    """Keep torch to one thread, so that runs repeat bit for bit."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return public_file(tmp_path_factory.mktemp("public"))


def make_case(
    name: str = "block_pixel_shuffle",
    plan: Plan | None = None,
    n: int = 22,
    seconds: float = 600.0,
    labels: bool = True,
) -> tuple[Knowledge, Images, dict[str, AnyArray]]:
    """Return what the cloud holds, the plain images, and the parts of the key."""
    plain = smooth(n, SIDE, SIDE, seed=2)
    pool, truth = sealed_pool(name, plain, BLOCK)
    pool_labels = np.arange(n) % CLASSES if labels else None
    return observed_study(pool, plan, {}, pool_labels, seconds), plain, truth


def neighbour_share(knowledge: Knowledge, plan: Plan, truth: dict[str, AnyArray], side: int) -> float:
    """Return the share of units whose most similar change of weights is that of a neighbour."""
    first, trained, _ = train_stem(knowledge, plan, CLASSES)
    assert first is not None and trained is not None
    change = unit_weights(learnt_change(first.filters, trained.filters), knowledge.pool.spec)
    similarities = cosine_similarities(change, change)
    np.fill_diagonal(similarities, -9)
    y, x = np.divmod(truth["K2"], side)
    near = similarities.argmax(1)
    return float((abs(y - y[near]) + abs(x - x[near]) == 1).mean())


def test_neighbouring_columns_learn_similar_weights(public: Path) -> None:
    plan = study(public, scheme="value_shuffle", stem="private")
    knowledge, _, truth = make_case("value_shuffle", plan)
    assert neighbour_share(knowledge, plan, truth, BLOCK) > 0.9  # by chance: 1 in 18


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("block_pixel_shuffle", {"stem": "private", "stem_frozen": True}),
        ("value_shuffle", {"stem": "private"}),
        ("block_pixel_shuffle", {"stem": "learn"}),
    ],
)
def test_it_opens_the_pool_whatever_the_stem_mode(public: Path, name: str, mode: dict[str, Any]) -> None:
    knowledge, plain, _ = make_case(name, study(public, scheme=name, **mode))
    guess = attack(knowledge)
    assert guess.note == "after 20 steps on 16 images"
    assert share(guess.images, plain[-6:], signs=False) > 0.8
    assert guess.key is not None and sorted(guess.key["gather"]) == list(range(SIDE**2))


def test_an_untrained_model_opens_the_pool_too() -> None:
    knowledge, plain, _ = make_case(plan=study(stem="private"))
    assert share(attack(knowledge).images, plain[-6:], signs=False) > 0.9


def test_the_same_pool_gives_the_same_guess(public: Path) -> None:
    knowledge, _, _ = make_case(plan=study(public), n=20)
    first, second = attack(knowledge), attack(knowledge)
    assert first.key is not None and second.key is not None
    assert (first.images == second.images).all() and (first.key["K1"] == second.key["K1"]).all()


def test_noise_gives_no_key(public: Path) -> None:
    knowledge, plain, _ = make_case(plan=study(public))
    noise = np.random.default_rng(1).integers(0, 256, plain.shape, np.uint8)
    pool = MemoryPool(knowledge.pool.spec, noise)
    guess = attack(observed_study(pool, study(public), {}, np.arange(len(noise)) % CLASSES))
    assert guess.key is None and "nothing identifiable" in guess.note
    assert (guess.images == noise[-6:]).all()


def test_out_of_time_the_note_says_so_and_no_key_is_claimed(public: Path) -> None:
    guess = attack(make_case(plan=study(public), seconds=0.0)[0])
    assert guess.key is None and "learnt nothing" in guess.note and "truncated" in guess.note


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
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
def test_what_the_attack_lacks_is_in_the_note(name: str, changes: dict[str, Any], reason: str) -> None:
    knowledge, plain, _ = make_case(name, **{"plan": study(), **changes})
    guess = attack(knowledge)
    assert guess.key is None and reason in guess.note and guess.images.shape == plain[-6:].shape
