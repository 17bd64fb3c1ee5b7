"""Inverting updates: confirmed images are right, and the note says what was not found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from coordinator.adversary.contract import Knowledge
from coordinator.adversary.training import update_search, updates
from coordinator.adversary.training.observation import Observed, Update
from coordinator.adversary.training.update_findings import invert_updates
from coordinator.adversary.training.update_search import search, to_gray_levels
from coordinator.adversary.training.update_solve import can_solve, solve
from coordinator.exchange.pool import MemoryPool
from coordinator.federation.recording import read_summed, read_updates, record_sum
from coordinator.model.model_input import to_model_input
from coordinator.model.vit import build_model, unpack
from crypto.scheme import load
from parties.scoring.measures import ssim
from tests.support.pictures import smooth
from tests.support.updates import (
    CLASSES,
    KEY,
    LABELS,
    PICTURES,
    attack_updates,
    gradients_of,
    plan,
    sealed_pool_of,
    trained,
    view_of,
)


@pytest.fixture(autouse=True)
def one_core() -> None:
    """Keep torch to one thread, so that runs repeat bit for bit."""
    torch.set_num_threads(1)


# ---- the linear solve -------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("scheme", ["block_pixel_shuffle", "orthogonal"])
def test_stem_plain_gives_the_plain_image_of_a_single_step(scheme: str, channels: int) -> None:
    plain = smooth(3, 32, 32, channels, seed=4)
    for i in range(3):
        observed = trained(plan(scheme=scheme, channels=channels), plain[i : i + 1], LABELS[i : i + 1])
        pool = MemoryPool(observed.plan.describe(), np.zeros((1, 32, 32, channels), np.uint8))
        guess = attack_updates(observed, pool=pool)
        assert guess.images.shape == (1, 32, 32, channels)
        assert guess.key is None and "confirmed by training on it" in guess.note
        assert ssim(guess.images[0], plain[i]) > 0.998
        assert np.abs(guess.images[0].astype(int) - plain[i]).max() <= 4


def test_the_solve_takes_gradients_as_they_are() -> None:
    model = build_model(plan(), CLASSES)
    solved = solve(model, gradients_of(model, PICTURES[:1], [1]))
    assert solved.explains_gradients and solved.rank == solved.patches == 16
    assert (to_gray_levels(solved.image) == PICTURES[0]).all()


@pytest.mark.parametrize("batch", [2, 4])
def test_a_batch_is_not_solved_and_leaves_a_large_residual(batch: int) -> None:
    model = build_model(plan(), CLASSES)
    solved = solve(model, gradients_of(model, PICTURES[:batch], LABELS[:batch]))
    assert not solved.explains_gradients and solved.residual > 100
    guess = attack_updates(trained(plan(), PICTURES[:batch], LABELS[:batch]))
    assert len(guess.images) == 0
    assert "several images mix in the update" in guess.note


def test_the_sum_of_hospitals_updates_confirms_members_but_not_of_which_hospital(tmp_path: Path) -> None:
    """Secure aggregation makes one large batch of several hospitals' steps: it hides whose an image is."""
    p = plan(stem="private", batch=4)
    starts = (0, 2, 4)
    parts = [trained(p, PICTURES[i : i + 2], LABELS[i : i + 2]).updates[0] for i in starts]
    before = parts[0].before
    mean = np.mean([part.after - before for part in parts], axis=0, dtype=np.float32)
    images = {f"hospital-{i}": 2 for i in range(3)}
    record_sum(tmp_path, 1, before, before + mean, images, {})
    assert read_summed(tmp_path) == {1: images}
    _, stored_before, replies = read_updates(tmp_path)[0]
    [(party, (after, count))] = replies.items()
    summed = tuple(read_summed(tmp_path)[1].values())
    observed = Observed(p, CLASSES, {}, (Update(1, party, stored_before, after, count, summed),))
    [finding] = invert_updates(observed, PICTURES, lambda: True)
    assert finding.is_confirmed and "rank 6 of 32" in finding.reason
    assert {i.tobytes() for i in finding.images} == {i.tobytes() for i in PICTURES[:6]}
    # Read as one hospital's reply of 6 images, it would look like two local steps, which confirm nothing.
    mistaken = replace(observed, updates=(replace(observed.updates[0], summed=()),))
    [other] = invert_updates(mistaken, PICTURES, lambda: True)
    assert not other.is_confirmed


@pytest.mark.long
def test_a_reply_with_a_false_number_of_images_confirms_nothing() -> None:
    observed = trained(plan(), PICTURES[:4], LABELS[:4])
    [update] = observed.updates
    false_update = replace(update, images=1)
    guess = attack_updates(replace(observed, updates=(false_update,)), seconds=2.0)
    assert "gives no image" in guess.note and "found" not in guess.note
    assert len(guess.images) == 0 or "the pictures are guesses" in guess.note


def test_the_range_of_gray_values_replaces_missing_rank() -> None:
    # 10 of 16 patches are black; the model's width leaves 11 equations for 16 unknowns.
    narrow = {"patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 2}
    model = build_model(plan(model_args=narrow), CLASSES)
    errors = []
    for i in range(6):
        image = PICTURES[i : i + 1].copy()
        image[:, :, :20], image[:, 24:] = 0, 0
        gradient = gradients_of(model, image, [1])
        solved, unbounded = solve(model, gradient), solve(model, gradient, bounded=False)
        assert solved.rank == 11
        errors.append(
            [np.abs(to_gray_levels(s.image).astype(int) - image[0]).mean() for s in (solved, unbounded)]
        )
    # One picture alone had 6 without bounds on one kind of processors, and more than 10 on another.
    assert np.max(errors, 0)[0] < 1.0 and np.mean(errors, 0)[1] > 10.0


def test_models_without_positions_are_not_solved() -> None:
    assert can_solve(build_model(plan(), CLASSES))
    args = {**plan().model_args, "pos_embed": "none"}
    assert not can_solve(build_model(plan(model_args=args), CLASSES))
    guess = attack_updates(trained(plan(model_args=args), PICTURES[:1], [0]), seconds=1.0)
    assert "solve" not in guess.note and "the pictures are guesses" in guess.note


@pytest.mark.parametrize(("epochs", "lr"), [(2, 0.1), (5, 0.1)])
def test_local_epochs_over_a_single_image_do_not_hide_it(epochs: int, lr: float) -> None:
    observed = trained(plan(local_epochs=epochs, lr=lr, weight_decay=1e-3), PICTURES[:1], LABELS[:1])
    guess = attack_updates(observed)
    assert len(guess.images) == 1 and "confirmed by training on it" in guess.note
    assert ssim(guess.images[0], PICTURES[0]) > 0.99


# ---- stem learn -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["block_pixel_shuffle", "pe"])
def test_stem_learn_gives_the_ciphertext_and_the_key_of_the_pool_opens_it(scheme: str) -> None:
    p = plan(stem="learn", scheme=scheme, block=8 if scheme == "block_pixel_shuffle" else 4)
    observed = trained(p, PICTURES[:1], LABELS[:1])
    sealed = load(p.describe()).cipher(KEY).encrypt(PICTURES[:1])
    [finding] = invert_updates(observed, None, lambda: True)
    assert finding.is_confirmed and np.abs(finding.images.astype(int) - sealed).max() <= 4
    guess = attack_updates(observed)
    assert "opened with the pool's key" in guess.note and guess.key is not None
    error, sealed_error = (
        np.abs(image.astype(int) - PICTURES[0]).mean() for image in (guess.images[0], sealed[0])
    )
    if scheme == "pe":  # its global sign cannot be known from ciphertexts
        error = min(error, np.abs(255 - guess.images[0].astype(int) - PICTURES[0]).mean())
    assert error < 1.0 and sealed_error > 20.0


def test_without_a_key_the_guess_is_the_ciphertext_and_the_note_says_so() -> None:
    p = plan(stem="learn")
    sealed = load(p.describe()).cipher(KEY).encrypt(PICTURES[:1])
    black = MemoryPool(p.describe(), np.zeros((4, 32, 32, 1), np.uint8))
    guess = attack_updates(trained(p, PICTURES[:1], LABELS[:1]), pool=black)
    assert guess.key is None and "the pool gave no key" in guess.note
    assert np.abs(guess.images.astype(int) - sealed).max() <= 4


# ---- optimisation, and what stops ---------------------------------------------------------------------------


def test_optimisation_knows_that_the_hospital_smooths_its_labels() -> None:
    observed = trained(plan(stem="private", label_smoothing=0.3), PICTURES[:1], LABELS[:1])
    view = view_of(observed)
    unpack(view.model, view.start)
    image = torch.from_numpy(to_model_input(PICTURES[:1]).numpy())
    targets = {n: torch.from_numpy(v).float() for n, v in view.gradients.values.items()}
    distances = [
        float(update_search._gradient_distance(view.model, targets, image, LABELS[0], smoothing).detach())
        for smoothing in (0.3, 0.0)
    ]
    # Before training the head knows no class: smoothing then hardly turns the gradient, it shortens it.
    assert distances[0] < 0.2 * distances[1], distances


def test_optimisation_comes_nearer_to_the_gradient_and_stays_a_guess() -> None:
    observed = trained(plan(stem="private"), PICTURES[:1], LABELS[:1])
    view = view_of(observed)
    short, long = (search(view, LABELS[0], steps, variation=0.0) for steps in (1, 40))
    assert short.steps == 1 and long.steps == 40 and long.distance < 0.5 * short.distance
    assert np.abs(long.image).max() <= 1
    answers = iter([True, True, False])
    assert search(view, LABELS[0], 40, lambda: next(answers)).steps == 3
    guess = attack_updates(observed, seconds=1.0)
    if "confirmed by training" not in guess.note:
        assert "the pictures are guesses" in guess.note and "cosine distance" in guess.note


def test_other_models_are_not_attacked() -> None:
    p = plan(stem="learn", model="mixer_s32_224", model_args={}, block=32)
    update = Update(1, "hospital-0", np.zeros(3, np.float32), np.zeros(3, np.float32), 1)
    guess = attack_updates(Observed(p, CLASSES, {}, (update,)), pool=sealed_pool_of(plan()))
    assert len(guess.images) == 0 and "mixer_s32_224 is not a plain Vision Transformer" in guess.note


def test_out_of_time_the_note_says_so() -> None:
    guess = attack_updates(trained(plan(), PICTURES[:1], LABELS[:1]), seconds=0.0)
    assert len(guess.images) == 0 and "truncated" in guess.note


def test_without_updates_the_note_says_what_is_needed() -> None:
    pool = sealed_pool_of(plan())
    for observed in (None, Observed(plan(), CLASSES, {})):
        guess = updates.attack(Knowledge(pool, np.arange(2), np.arange(1), observed=observed))
        assert guess.images.shape == (0, 32, 32, 1) and "keep_updates" in guess.note and guess.idle


def test_gradients_of_a_frozen_stem_are_not_solved() -> None:
    observed = trained(plan(stem_frozen=True), PICTURES[:1], LABELS[:1])
    assert not view_of(observed).has_stem_update
    guess = attack_updates(observed, public=PICTURES[:4])
    assert (guess.images == PICTURES[:1]).all() and "row space" in guess.note
