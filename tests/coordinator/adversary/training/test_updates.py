"""Inverting updates: what is found is right and confirmed by itself, and what is not found is said to be so."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import coordinator.model.training
from coordinator.adversary.contract import Budget, Guess, Knowledge
from coordinator.adversary.training import update_findings, updates
from coordinator.adversary.training.observation import Observed, Update
from coordinator.adversary.training.update_candidates import confirm
from coordinator.adversary.training.update_findings import findings
from coordinator.adversary.training.update_search import as_levels, search
from coordinator.adversary.training.update_solve import EMBEDDING, can_solve, solve
from coordinator.adversary.training.update_steps import (
    CONFIRMED,
    as_input,
    labels_to_try,
    learning_rate,
    model_of,
    replay,
    see,
)
from coordinator.exchange.pool import MemoryPool
from coordinator.model.vit import build_model, in_stem
from crypto.key import SecretKey
from crypto.scheme import load
from parties.scoring.measures import ssim
from parties.training.stem import carry, coordinates
from tests.support.pictures import smooth
from tests.support.updates import CLASSES, KEY, plan, trained

PICTURES = smooth(24, 32, 32)
LABELS = [i % CLASSES for i in range(24)]


@pytest.fixture(autouse=True)
def one_core():
    torch.set_num_threads(1)


def pool_of(p, n: int = 24, key: SecretKey = KEY) -> MemoryPool:
    spec = p.describe()
    return MemoryPool(spec, load(spec).cipher(key).encrypt(PICTURES[:n]))


def attacked(observed: Observed, public=None, seconds: float = 60.0, pool=None) -> Guess:
    pool = pool or pool_of(observed.plan)
    every = np.arange(len(pool))
    return updates.attack(
        Knowledge(pool, every, every[:1], Budget(seconds), public=public, observed=observed)
    )


def seen_in(observed: Observed):
    return see(observed, observed.updates[0], model_of(observed))


# ---- gradients ------------------------------------------------------------------------------------------


def gradients_of(model: torch.nn.Module, images: np.ndarray, labels) -> dict[str, np.ndarray]:
    model.zero_grad()
    torch.nn.functional.cross_entropy(model(as_input(images)), torch.tensor(labels)).backward()
    return {n: w.grad.double().numpy() for n, w in model.named_parameters() if w.grad is not None}


@pytest.mark.parametrize("changes", [{}, {"momentum": 0.0, "weight_decay": 0.0}, {"stem": "private"}])
def test_one_step_of_sgd_is_the_gradient_up_to_the_scale_of_clipping(changes):
    p = plan(**changes)
    step = seen_in(trained(p, PICTURES[:2], LABELS[:2])).step
    true = gradients_of(build_model(p, CLASSES), PICTURES[:2], LABELS[:2])
    whole = np.sqrt(sum((g**2).sum() for g in true.values()))
    assert whole > p.clip and step.steps == 1 and not step.signs
    for name, value in step.values.items():
        scale = p.clip / whole
        assert np.abs(value - scale * true[name]).max() < 1e-5 * max(1.0, np.abs(value).max()), name
    assert (set(step.values) == set(true)) == (p.stem == "plain")


def test_the_first_step_of_adamw_shows_signs_and_says_so():
    p = plan(optimizer="adamw", lr=3e-3)
    step = seen_in(trained(p, PICTURES[:1], LABELS[:1])).step
    true = gradients_of(build_model(p, CLASSES), PICTURES[:1], LABELS[:1])[EMBEDDING]
    large = np.abs(true) > 1e-5
    assert step.signs and large.mean() > 0.5
    assert np.abs(step.values[EMBEDDING] - np.sign(true))[large].max() < 0.05
    guess = attacked(trained(p, PICTURES[:1], LABELS[:1]))
    assert len(guess.images) == 0 and "signs of gradients alone" in guess.note


def test_what_a_replayed_step_does_not_follow_is_said():
    settings = {"optimizer": "adamw", "lr": 3e-3}
    p = plan(**settings, augment="flip_shift", class_weights="balanced", precision="bfloat16")
    note = attacked(trained(p, PICTURES[:1], LABELS[:1])).note
    for said in ("altered views", "how the hospital weighted its images", "precision bfloat16"):
        assert (
            said in note and said not in attacked(trained(plan(**settings), PICTURES[:1], LABELS[:1])).note
        )


def test_the_schedule_is_that_of_the_hospitals():
    for warmup, step in itertools.product((0, 1, 5), range(12)):
        p = plan(warmup_steps=warmup)
        assert learning_rate(p, step, 12) == coordinator.model.training.rate(p, step, 12)


def test_training_on_the_same_images_gives_the_same_update():
    for changes in ({}, {"optimizer": "adamw", "lr": 1e-3}, {"local_epochs": 3}, {"label_smoothing": 0.1}):
        seen = seen_in(trained(plan(stem="learn", scheme="plain", **changes), PICTURES[:1], [2], 2))
        assert replay(seen, as_input(PICTURES[:1]), [2]) < 1e-3
        assert replay(seen, as_input(PICTURES[1:2]), [2]) > CONFIRMED
        assert replay(seen, as_input(PICTURES[:1]), [1]) > CONFIRMED
    assert labels_to_try(seen.step, CLASSES) == [2]


# ---- the linear solve -------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("scheme", ["block_pixel_shuffle", "orthogonal"])
def test_stem_plain_gives_the_plain_image_of_a_single_step(scheme, channels):
    plain = smooth(3, 32, 32, channels, seed=4)
    for i in range(3):
        observed = trained(plan(scheme=scheme, channels=channels), plain[i : i + 1], LABELS[i : i + 1])
        pool = MemoryPool(observed.plan.describe(), np.zeros((1, 32, 32, channels), np.uint8))
        guess = attacked(observed, pool=pool)
        assert guess.images.shape == (1, 32, 32, channels)
        assert guess.key is None and "confirmed by training on it" in guess.note
        assert ssim(guess.images[0], plain[i]) > 0.998
        assert np.abs(guess.images[0].astype(int) - plain[i]).max() <= 4


def test_the_solve_takes_gradients_as_they_are():
    model = build_model(plan(), CLASSES)
    solved = solve(model, gradients_of(model, PICTURES[:1], [1]))
    assert solved.fits and solved.rank == solved.patches == 16
    assert (as_levels(solved.image) == PICTURES[0]).all()


@pytest.mark.parametrize("batch", [2, 4])
def test_a_batch_is_not_solved_and_its_residual_says_so(batch):
    model = build_model(plan(), CLASSES)
    solved = solve(model, gradients_of(model, PICTURES[:batch], LABELS[:batch]))
    assert not solved.fits and solved.residual > 100
    guess = attacked(trained(plan(), PICTURES[:batch], LABELS[:batch]))
    assert len(guess.images) == 0
    assert "several images mix in the update" in guess.note


def test_a_reply_that_hides_its_number_of_images_gives_nothing_that_counts_as_found():
    observed = trained(plan(), PICTURES[:4], LABELS[:4])
    [update] = observed.updates
    lying = Observed(observed.plan, CLASSES, observed.weights, (Update(*_fields(update), 1),))
    guess = attacked(lying, seconds=2.0)
    assert "gives no image" in guess.note and "found" not in guess.note
    assert len(guess.images) == 0 or "the pictures are guesses" in guess.note


def _fields(update):
    return update.round, update.party, update.before, update.after


def test_a_gradient_of_too_low_rank_is_closed_by_the_range_of_gray_values():
    # 10 of 16 patches are black; the model's width leaves 11 equations for 16 unknowns.
    narrow = {"patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 2}
    model = build_model(plan(model_args=narrow), CLASSES)
    image = PICTURES[:1].copy()
    image[:, :, :20], image[:, 24:] = 0, 0
    gradient = gradients_of(model, image, [1])
    solved, free = solve(model, gradient), solve(model, gradient, bounded=False)
    assert solved.rank == 11
    error, loose = (np.abs(as_levels(s.image).astype(int) - image[0]).mean() for s in (solved, free))
    assert error < 1.0 and loose > 10.0


def test_models_without_positions_are_not_solved():
    assert can_solve(build_model(plan(), CLASSES))
    args = {**plan().model_args, "pos_embed": "none"}
    assert not can_solve(build_model(plan(model_args=args), CLASSES))
    guess = attacked(trained(plan(model_args=args), PICTURES[:1], [0]), seconds=1.0)
    assert "solve" not in guess.note and "the pictures are guesses" in guess.note


@pytest.mark.parametrize(("epochs", "lr"), [(2, 0.1), (5, 0.1)])
def test_local_epochs_over_a_single_image_do_not_hide_it(epochs, lr):
    observed = trained(plan(local_epochs=epochs, lr=lr, weight_decay=1e-3), PICTURES[:1], LABELS[:1])
    guess = attacked(observed)
    assert len(guess.images) == 1 and "confirmed by training on it" in guess.note
    assert ssim(guess.images[0], PICTURES[0]) > 0.99


# ---- stem learn -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["block_pixel_shuffle", "pe"])
def test_stem_learn_gives_the_ciphertext_and_the_pool_s_key_opens_it(scheme):
    p = plan(stem="learn", scheme=scheme, block=8 if scheme == "block_pixel_shuffle" else 4)
    observed = trained(p, PICTURES[:1], LABELS[:1])
    sealed = load(p.describe()).cipher(KEY).encrypt(PICTURES[:1])
    [finding] = findings(observed, None, lambda: True)
    assert finding.found and np.abs(finding.images.astype(int) - sealed).max() <= 4
    guess = attacked(observed)
    assert "opened with the pool's key" in guess.note and guess.key is not None
    likeness = [np.abs(shown.astype(int) - PICTURES[0]).mean() for shown in (guess.images[0], sealed[0])]
    if scheme == "pe":  # its global sign cannot be told from ciphertexts
        likeness[0] = min(likeness[0], np.abs(255 - guess.images[0].astype(int) - PICTURES[0]).mean())
    assert likeness[0] < 1.0 < 20.0 < likeness[1]


def test_without_a_key_the_ciphertext_is_handed_back_and_called_one():
    p = plan(stem="learn")
    sealed = load(p.describe()).cipher(KEY).encrypt(PICTURES[:1])
    black = MemoryPool(p.describe(), np.zeros((4, 32, 32, 1), np.uint8))
    guess = attacked(trained(p, PICTURES[:1], LABELS[:1]), pool=black)
    assert guess.key is None and "the pool gave no key" in guess.note
    assert np.abs(guess.images.astype(int) - sealed).max() <= 4


# ---- carried stems, and candidates --------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["block_pixel_shuffle", "value_shuffle", "orthogonal"])
def test_gradients_behind_a_carried_stem_are_those_of_plain_images(scheme):
    p = plan(stem="private", scheme=scheme)
    plain, carried = build_model(p, CLASSES), build_model(p, CLASSES)
    carry(carried, coordinates(p.describe(), KEY))
    sealed = load(p.describe()).cipher(KEY).encrypt(PICTURES[:4])
    own, other = gradients_of(plain, PICTURES[:4], LABELS[:4]), gradients_of(carried, sealed, LABELS[:4])
    bare = gradients_of(plain, sealed, LABELS[:4])
    names = [n for n in own if not in_stem(n)]
    assert len(names) > 20
    apart = {n: np.linalg.norm(own[n] - other[n]) / np.linalg.norm(own[n]) for n in names}
    assert max(apart.values()) < 1e-4
    assert min(np.linalg.norm(own[n] - bare[n]) / np.linalg.norm(own[n]) for n in names) > 1e-3


@pytest.mark.parametrize("stem", ["private", "plain"])
@pytest.mark.parametrize("batch", [1, 2, 4, 8])
def test_candidates_that_took_part_are_confirmed_and_no_others(stem, batch):
    observed = trained(plan(stem=stem), PICTURES[:batch], LABELS[:batch])
    order = np.random.default_rng(0).permutation(24)
    span = confirm(seen_in(observed), PICTURES[order])
    assert span.says and span.rank == batch
    assert (span.inside == (order < batch)).all()
    assert span.outside[order < batch].max() < 1e-4 and span.outside[order >= batch].min() > 5e-3
    if batch > 1:
        guess = attacked(observed, public=PICTURES[order])
        assert (guess.images == PICTURES[order][order < batch]).all() and len(guess.images) == batch
        none = attacked(observed, public=PICTURES[8:])
        assert len(none.images) == 0 and "no candidate took part" in none.note


def test_a_batch_beyond_the_model_s_width_tells_nobody_apart():
    observed = trained(plan(stem="private", batch=24), PICTURES, LABELS)
    span = confirm(seen_in(observed), PICTURES)
    assert not span.says and not span.inside.any()
    guess = attacked(observed, public=PICTURES)
    assert len(guess.images) == 0 and "no candidate can be told apart" in guess.note


def test_a_hospital_s_own_stem_that_moved_confirms_nobody():
    p = plan(stem="private")
    observed = trained(p, PICTURES[:2], LABELS[:2])
    seen = seen_in(observed)
    with torch.no_grad():
        seen.model.patch_embed.proj.weight.add_(0.02 * torch.randn(32, 1, 8, 8))
    assert not confirm(seen, PICTURES).inside.any()


@pytest.mark.parametrize("changes", [{"optimizer": "adamw", "lr": 1e-3}, {"local_epochs": 2}])
def test_a_candidate_is_confirmed_by_training_on_it(changes):
    observed = trained(plan(stem="private", **changes), PICTURES[3:4], LABELS[3:4])
    guess = attacked(observed, public=PICTURES[:8])
    assert (guess.images == PICTURES[3:4]).all() and "candidate confirmed by training" in guess.note
    none = attacked(observed, public=PICTURES[4:8])
    assert len(none.images) == 0 and "no candidate took part" in none.note


def test_a_solved_picture_whose_update_only_comes_near_is_a_guess_and_the_search_goes_on(monkeypatch):
    observed = trained(plan(), PICTURES[:1], LABELS[:1])
    stands_out = update_findings._Case.stands_out
    monkeypatch.setattr(
        update_findings._Case,
        "stands_out",
        lambda case, image, share, least: (
            share == update_findings.NEAR and stands_out(case, image, share, least)
        ),
    )
    monkeypatch.setattr(update_findings, "SEARCH_STEPS", 2)
    [near] = findings(observed, PICTURES[8:9], lambda: True)
    assert not near.found and len(near.images) == 1 and near.why.startswith("solved, inexact")
    assert "no candidate took part" in near.why and "2 steps of optimisation" in near.why
    assert ssim(near.images[0], PICTURES[0]) > 0.9  # of the two guesses, the one that was solved
    [confirmed] = findings(observed, PICTURES[:1], lambda: True)
    assert confirmed.found and "row space" in confirmed.why


def test_a_confirmation_says_by_what_it_was_told():
    guess = attacked(trained(plan(stem="private"), PICTURES[:2], LABELS[:2]), public=PICTURES[:8])
    span = confirm(seen_in(trained(plan(stem="private"), PICTURES[:2], LABELS[:2])), PICTURES[:8])
    assert f"rank 2 of {span.width}, at most {span.most:.1g} of an input outside" in guess.note


# ---- optimisation, and what stops ---------------------------------------------------------------------------


def test_optimisation_comes_nearer_to_the_gradient_and_is_called_a_guess():
    observed = trained(plan(stem="private"), PICTURES[:1], LABELS[:1])
    seen = seen_in(observed)
    short, long = (search(seen, LABELS[0], steps, variation=0.0) for steps in (1, 40))
    assert short.steps == 1 and long.steps == 40 and long.distance < 0.5 * short.distance
    assert np.abs(long.image).max() <= 1
    left = iter([True, True, False])
    assert search(seen, LABELS[0], 40, lambda: next(left)).steps == 3
    guess = attacked(observed, seconds=1.0)
    if "confirmed by training" not in guess.note:
        assert "the pictures are guesses" in guess.note and "cosine distance" in guess.note


def test_other_models_are_not_attacked():
    p = plan(stem="learn", model="mixer_s32_224", model_args={}, block=32)
    update = Update(1, "hospital-0", np.zeros(3, np.float32), np.zeros(3, np.float32), 1)
    guess = attacked(Observed(p, CLASSES, {}, (update,)), pool=pool_of(plan()))
    assert len(guess.images) == 0 and "mixer_s32_224 is not a plain Vision Transformer" in guess.note


def test_out_of_time_it_says_so():
    guess = attacked(trained(plan(), PICTURES[:1], LABELS[:1]), seconds=0.0)
    assert len(guess.images) == 0 and "truncated" in guess.note


def test_without_updates_it_says_what_it_needs():
    pool = pool_of(plan())
    for observed in (None, Observed(plan(), CLASSES, {})):
        guess = updates.attack(Knowledge(pool, np.arange(2), np.arange(1), observed=observed))
        assert guess.images.shape == (0, 32, 32, 1) and "keep_updates" in guess.note


def test_gradients_of_a_frozen_stem_are_not_solved():
    observed = trained(plan(stem_frozen=True), PICTURES[:1], LABELS[:1])
    assert not seen_in(observed).stem_moved
    guess = attacked(observed, public=PICTURES[:4])
    assert (guess.images == PICTURES[:1]).all() and "row space" in guess.note
