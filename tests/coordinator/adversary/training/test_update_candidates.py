"""Candidates of an update: those that took part are confirmed, by the row space or by training on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from coordinator.adversary.training import update_findings
from coordinator.adversary.training.update_candidates import RowSpaceTest, confirm_candidates, make_decoys
from coordinator.adversary.training.update_findings import invert_updates
from coordinator.model.shares import in_stem
from coordinator.model.vit import build_model
from crypto.arrays import Float64Array
from crypto.scheme import load
from parties.scoring.measures import ssim
from parties.training.stem import carry, key_coordinates
from tests.support.updates import (
    CLASSES,
    KEY,
    LABELS,
    PICTURES,
    attack_updates,
    gradients_of,
    plan,
    trained,
    view_of,
)


@pytest.fixture(autouse=True)
def one_core() -> None:
    """Keep torch to one thread, so that runs repeat bit for bit."""
    torch.set_num_threads(1)


@pytest.mark.parametrize("scheme", ["block_pixel_shuffle", "value_shuffle", "orthogonal"])
def test_gradients_behind_a_carried_stem_are_those_of_plain_images(scheme: str) -> None:
    p = plan(stem="private", scheme=scheme)
    plain_model, carried_model = build_model(p, CLASSES), build_model(p, CLASSES)
    carry(carried_model, key_coordinates(p.describe(), KEY))
    sealed = load(p.describe()).cipher(KEY).encrypt(PICTURES[:4])
    expected = gradients_of(plain_model, PICTURES[:4], LABELS[:4])
    carried = gradients_of(carried_model, sealed, LABELS[:4])
    uncarried = gradients_of(plain_model, sealed, LABELS[:4])
    names = [n for n in expected if not in_stem(n)]
    assert len(names) > 20

    def distance(other: dict[str, Float64Array], name: str) -> float:
        return float(np.linalg.norm(expected[name] - other[name]) / np.linalg.norm(expected[name]))

    assert max(distance(carried, n) for n in names) < 1e-4
    assert min(distance(uncarried, n) for n in names) > 1e-3


@pytest.mark.parametrize("stem", ["private", "plain"])
@pytest.mark.parametrize("batch", [1, 2, 4, 8])
def test_exactly_the_candidates_that_took_part_are_confirmed(stem: str, batch: int) -> None:
    observed = trained(plan(stem=stem), PICTURES[:batch], LABELS[:batch])
    order = np.random.default_rng(0).permutation(24)
    test = confirm_candidates(view_of(observed), PICTURES[order])
    assert test.is_decisive and test.rank == batch
    assert (test.is_confirmed == (order < batch)).all()
    assert test.outside[order < batch].max() < 1e-4 and test.outside[order >= batch].min() > 5e-3
    if batch > 1:
        guess = attack_updates(observed, public=PICTURES[order])
        assert (guess.images == PICTURES[order][order < batch]).all() and len(guess.images) == batch
        none = attack_updates(observed, public=PICTURES[8:])
        assert len(none.images) == 0 and "no candidate took part" in none.note


def test_a_batch_beyond_the_width_of_the_model_confirms_no_candidate() -> None:
    observed = trained(plan(stem="private", batch=24), PICTURES, LABELS)
    test = confirm_candidates(view_of(observed), PICTURES)
    assert not test.is_decisive and not test.is_confirmed.any()
    guess = attack_updates(observed, public=PICTURES)
    assert len(guess.images) == 0 and "no candidate can be told apart" in guess.note


def test_a_candidate_no_nearer_than_a_decoy_is_not_confirmed() -> None:
    """A small model makes nearly the same input of all images: then strangers lie within rounding, like decoys."""
    outside = np.array([1e-5, 4e-4, 9e-4, 0.3])
    test = RowSpaceTest(outside, rank=3, width=64, rounding=1e-3, decoys=np.array([3e-4, 0.2, np.nan]))
    assert test.is_confirmed.tolist() == [True, False, False, False]
    assert "1 of 2 decoys within rounding" in test.evidence and test.threshold == 3e-4
    apart = RowSpaceTest(outside, rank=3, width=64, rounding=1e-3, decoys=np.array([0.1, 0.2]))
    assert apart.is_confirmed.tolist() == [True, True, True, False] and apart.threshold == 1e-3
    untested = RowSpaceTest(outside, rank=3, width=64, rounding=1e-3, decoys=np.full(2, np.nan))
    assert not untested.is_decisive and not untested.is_confirmed.any()


def test_the_evidence_says_what_chance_alone_would_confirm_where_decoys_lie_within_rounding() -> None:
    outside = np.append(np.linspace(1e-4, 0.3, 96), np.nan)  # time ran out before the last one
    near = RowSpaceTest(
        outside, rank=3, width=64, rounding=1e-3, decoys=np.append([3e-4], np.full(63, 0.2))
    )
    assert near.by_chance == pytest.approx(96 / 65)
    assert "1 of 64 decoys within rounding, so chance alone would confirm about 1.5 of 96" in near.evidence
    apart = RowSpaceTest(outside, rank=3, width=64, rounding=1e-3, decoys=np.full(64, 0.2))
    assert apart.by_chance == 0 and "chance" not in apart.evidence


def test_strangers_are_the_nearest_as_often_as_the_evidence_says() -> None:
    """Strangers and decoys that a model cannot tell apart: their shares are of one distribution."""
    rng = np.random.default_rng(0)
    shares = 0.01 * rng.random((400, 96 + 64))  # all within rounding
    tests = [RowSpaceTest(share[:96], 3, 64, 1.0, share[96:]) for share in shares]
    confirmed = [test.is_confirmed.sum() for test in tests]
    assert tests[0].by_chance == pytest.approx(np.mean(confirmed), rel=0.2)


def test_what_was_not_tested_in_time_is_not_said_to_have_taken_no_part() -> None:
    observed = trained(plan(stem="private"), PICTURES[20:22], LABELS[20:22])
    answers = iter([True] * 5)  # the update, 3 for 48 decoys, 1 for 16 candidates; the members come later
    [finding] = invert_updates(observed, PICTURES, lambda: next(answers, False))
    assert not finding.is_confirmed and "no candidate took part" not in finding.reason
    assert "truncated: 8 of 24 candidates not tested" in finding.reason
    answers = iter([True] * 6)
    [finding] = invert_updates(observed, PICTURES, lambda: next(answers, False))
    assert finding.is_confirmed and "truncated" not in finding.reason


def test_a_decoy_that_is_another_candidate_is_left_out() -> None:
    """A gallery that holds an image and its mirror image: the one that took part is confirmed all the same."""
    both = np.concatenate([PICTURES[:4], PICTURES[:4, :, ::-1]])
    contents = {image.tobytes() for image in both}
    assert not any(decoy.tobytes() in contents for decoy in make_decoys(both))
    test = confirm_candidates(view_of(trained(plan(stem="private"), PICTURES[:1], LABELS[:1])), both)
    assert test.is_confirmed.tolist() == [True, *[False] * 7]


def test_no_decoy_is_a_candidate() -> None:
    flat = np.full((1, 32, 32, 1), 90, np.uint8)
    symmetric = np.concatenate([PICTURES[:1, :, :16], PICTURES[:1, :, 15::-1]], 2)
    decoys = make_decoys(np.concatenate([PICTURES[:8, :32, :32], flat, symmetric]))
    assert len(decoys) == 2 * 10 - 2 - 1
    distances = np.abs(decoys[:, None].astype(int) - PICTURES[None, :8]).mean((2, 3, 4))
    assert distances.min() >= 1


def test_candidates_are_not_confirmed_through_another_stem() -> None:
    p = plan(stem="private")
    observed = trained(p, PICTURES[:2], LABELS[:2])
    view = view_of(observed)
    with torch.no_grad():
        view.model.get_parameter("patch_embed.proj.weight").add_(0.02 * torch.randn(32, 1, 8, 8))
    assert not confirm_candidates(view, PICTURES).is_confirmed.any()


@pytest.mark.parametrize("changes", [{"optimizer": "adamw", "lr": 1e-3}, {"local_epochs": 2}])
def test_a_candidate_is_confirmed_by_training_on_it(changes: dict[str, Any]) -> None:
    observed = trained(plan(stem="private", **changes), PICTURES[3:4], LABELS[3:4])
    guess = attack_updates(observed, public=PICTURES[:8])
    assert (guess.images == PICTURES[3:4]).all() and "candidate confirmed by training" in guess.note
    none = attack_updates(observed, public=PICTURES[4:8])
    assert len(none.images) == 0 and "no candidate took part" in none.note


def test_a_solved_picture_whose_update_only_comes_near_is_a_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    observed = trained(plan(), PICTURES[:1], LABELS[:1])
    stands_out = update_findings.UpdateCase.stands_out
    monkeypatch.setattr(
        update_findings.UpdateCase,
        "stands_out",
        lambda case, image, share, most: (
            share == update_findings.NEAR_SHARE and stands_out(case, image, share, most)
        ),
    )
    monkeypatch.setattr(update_findings, "SEARCH_STEPS", 2)
    [near] = invert_updates(observed, PICTURES[8:9], lambda: True)
    assert not near.is_confirmed and len(near.images) == 1 and near.reason.startswith("solved, inexact")
    assert "no candidate took part" in near.reason and "2 steps of optimisation" in near.reason
    assert ssim(near.images[0], PICTURES[0]) > 0.9  # of the two guesses, the one that was solved
    [confirmed] = invert_updates(observed, PICTURES[:1], lambda: True)
    assert confirmed.is_confirmed and "row space" in confirmed.reason


def test_a_confirmation_names_its_evidence() -> None:
    guess = attack_updates(trained(plan(stem="private"), PICTURES[:2], LABELS[:2]), public=PICTURES[:8])
    test = confirm_candidates(
        view_of(trained(plan(stem="private"), PICTURES[:2], LABELS[:2])), PICTURES[:8]
    )
    assert f"rank 2 of {test.width}, at most {test.threshold:.1g} of an input outside" in guess.note
