"""Run the inversion of one update step by step (solve, test candidates, search) and decide what counts as found (T5).

A picture is confirmed if training on it gives the observed update (`replay_distance`), or if the candidate test
says so. Nothing else confirms. A residual or a distance that is merely small is no proof, because the equations may
have many solutions, and other pictures may have nearly the same gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from coordinator.adversary.time_budget import TimeLeft
from coordinator.adversary.training.observation import Observed
from coordinator.adversary.training.update_candidates import can_confirm, confirm_candidates, tested_weight
from coordinator.adversary.training.update_search import VARIATION_WEIGHT, search, to_gray_levels
from coordinator.adversary.training.update_solve import EMBEDDING, can_solve, solve
from coordinator.adversary.training.update_steps import (
    CONFIRMED_DISTANCE,
    UpdateView,
    build_plan_model,
    labels_to_try,
    read_update,
    replay_distance,
)
from coordinator.model.model_input import to_model_input
from coordinator.model.shares import missing_weights
from coordinator.model.vit import is_plain_vit
from crypto.arrays import AnyArray, Images
from crypto.scheme import load

#: Steps of optimisation for one update. Set once; how it was chosen is not recorded. 80 steps at 224×224 give
#: nothing (the paper takes 24,000).
SEARCH_STEPS = 300
#: A confirmed picture's distance is below this times the distances of the same picture moved, turned and made flat.
#: Models that hardly look at places, such as untrained ones, give all of these nearly the same update. Set once;
#: how it was chosen is not recorded.
EXACT_SHARE = 0.1
#: The same for solved pictures that float32 leaves inexact. They are guesses.
NEAR_SHARE = 0.7


@dataclass(frozen=True)
class Finding:
    """What one update gave.

    Attributes:
        images: [k, h, w, c] as the model reads them: plain, or ciphertexts under stem `learn`.
        is_confirmed: False for a guess, such as a picture whose update only comes near.
        reason: in words, for the note.
        by_chance: how many of the candidates the test would confirm if none took part (`RowSpaceTest.by_chance`).
    """

    images: AnyArray
    is_confirmed: bool
    reason: str
    by_chance: float = 0.0


def invert_updates(observed: Observed, candidates: Images | None, time_left: TimeLeft) -> list[Finding]:
    """Return what every recorded update gives, in their order.

    Args:
        observed: the training.
        candidates: None, or plain images uint8 [m, h, w, c] that may have taken part.
        time_left: asked between steps.
    """
    needs_public_weights = observed.plan.stem == "private" or observed.plan.share != "all"
    if needs_public_weights and missing_weights(observed.plan):
        reason = f"what did not travel is in {Path(observed.plan.weights).name}, which is not here"
        return _refuse(observed, reason)
    model = build_plan_model(observed)
    if not is_plain_vit(model):
        return _refuse(observed, f"{observed.plan.model} is not a plain Vision Transformer")
    initial_state = {k: v.clone() for k, v in model.state_dict().items()}
    results = []
    for update in observed.updates:
        if time_left():
            model.load_state_dict(initial_state)
            case = UpdateCase(read_update(observed, update, model), observed.classes)
            results.append(_invert(case, candidates, time_left))
        else:
            results.append(Finding(_no_images(model), False, "truncated: out of time"))
    return results


def _refuse(observed: Observed, reason: str) -> list[Finding]:
    """Return the same empty finding for every update."""
    return [Finding(np.zeros((0, 1, 1, 1), np.uint8), False, reason) for _ in observed.updates]


@dataclass(frozen=True)
class UpdateCase:
    """One update, with what its attacks ask again and again."""

    view: UpdateView
    classes: int

    @property
    def has_one_image(self) -> bool:
        """Whether the hospital trained on a single image."""
        return self.view.update.images == 1

    @property
    def reads_ciphertexts(self) -> bool:
        """Whether the model reads ciphertexts, under stem `learn`."""
        return self.view.plan.stem == "learn"

    @property
    def reads_floats(self) -> bool:
        """Whether the model reads ciphertexts that are not bytes."""
        return self.reads_ciphertexts and load(self.view.plan.describe()).sealed_dtype != np.uint8

    @property
    def labels(self) -> list[int]:
        """The possible labels of a single image."""
        return labels_to_try(self.view.gradients, self.classes)

    @property
    def missing_gradients(self) -> str:
        """Which gradients that the attacks need are missing because `share` keeps them back; empty if none."""
        share = self.view.plan.share
        if share == "all":
            return ""
        stem = "" if EMBEDDING in self.view.gradients.values else "the patch embedding or "
        return f"share {share}: the update holds no gradients of {stem}the encoder's own weights"

    @property
    def replay_limits(self) -> list[str]:
        """What of the plan's training a replay does not follow. It makes a negative answer weaker."""
        plan = self.view.plan
        limits = []
        if plan.augment != "none":
            limits.append(
                f"augment {plan.augment}: the update is of altered views, candidates are unaltered"
            )
        if plan.mixup:
            limits.append(f"mixup {plan.mixup}: the update is of mixed images, candidates are whole")
        dropped = [name for name, rate in plan.model_args.items() if name.endswith("drop_rate") and rate]
        if dropped:
            limits.append(f"{', '.join(dropped)}: a step of the hospital left parts out at random")
        if plan.class_weights != "none":
            limits.append("class_weights: how the hospital weighted its images is not known here")
        if plan.precision != "float32":
            limits.append(f"precision {plan.precision}: the step was rounded otherwise than a replayed one")
        return limits

    def distance(self, image: AnyArray) -> float:
        """Return the distance of the update of [h, w, c] alone, under its best label, from the observed one."""
        images = to_model_input(image[None])
        return min(replay_distance(self.view, images, [label]) for label in self.labels)

    def stands_out(self, image: AnyArray, share: float, most: float) -> bool:
        """Return whether an image's distance is below `most`, and below a share of those of its variants."""
        distance = self.distance(image)
        return distance < most and distance < share * min(map(self.distance, _variants(image)))


def _variants(image: AnyArray) -> list[AnyArray]:
    """Return pictures [h, w, c] of similar values that are not the picture: moved by half, turned, and flat."""
    half = (image.shape[0] // 2, image.shape[1] // 2)
    flat = np.full_like(image, round(float(image.mean())))
    return [np.roll(image, half, (0, 1)), np.ascontiguousarray(image[::-1, ::-1]), flat]


def _no_images(model: nn.Module) -> Images:
    """Return an empty array of the images that a Vision Transformer reads."""
    embed: Any = model.patch_embed
    return np.zeros((0, *embed.img_size, embed.proj.in_channels), np.uint8)


def _invert(case: UpdateCase, candidates: Images | None, time_left: TimeLeft) -> Finding:
    """Try solve, candidates and search in turn, and stop at the first that is confirmed."""
    view, gradients = case.view, case.view.gradients
    reasons, by_chance = [case.missing_gradients, *case.replay_limits], 0.0
    guess: AnyArray = _no_images(view.model)
    can_follow = case.has_one_image and not gradients.signs_only
    if can_follow and view.has_stem_update and can_solve(view.model):
        solved = _solve(case)
        if solved.is_confirmed:
            return solved
        reasons.append(solved.reason)
        guess = solved.images
    if not case.reads_ciphertexts and candidates is not None and len(candidates):
        tested = _test_candidates(case, candidates, time_left)
        if tested.is_confirmed:
            return tested
        reasons.append(tested.reason)
        by_chance = tested.by_chance
    if can_follow and gradients.steps == 1 and time_left():
        result = _search(case, time_left)
        images = result.images if result.is_confirmed or not len(guess) else guess
        return Finding(images, result.is_confirmed, _join([*reasons, result.reason]), by_chance)
    if not case.has_one_image:
        reasons.append("several images mix in the update")
    if gradients.signs_only:
        reasons.append("AdamW shows signs of gradients alone")
    return Finding(guess, False, _join(reasons), by_chance)


def _join(reasons: list[str]) -> str:
    """Return the reasons that are not empty as one note."""
    return "; ".join(filter(None, reasons))


def _solve(case: UpdateCase) -> Finding:
    """Solve the stem's equations, and replay the image."""
    gradients = case.view.gradients
    solution = solve(case.view.model, gradients.values, gradients.rounding, bounded=not case.reads_floats)
    image = to_gray_levels(solution.image, exact=case.reads_floats)
    if case.stands_out(image, EXACT_SHARE, CONFIRMED_DISTANCE):
        return Finding(image[None], True, "solved, and confirmed by training on it")
    is_plausible = solution.explains_gradients or gradients.steps > 1
    if is_plausible and case.stands_out(image, NEAR_SHARE, 1.0):
        return Finding(image[None], False, "solved, inexact: trained on, its update only comes near")
    return Finding(image[None][:0], False, "the linear solve gives no image that trains to this update")


def _test_candidates(case: UpdateCase, candidates: Images, time_left: TimeLeft) -> Finding:
    """Confirm candidates by the row space, or for a single image by training on each."""
    view, gradients, nothing = case.view, case.view.gradients, candidates[:0]
    has_gradient = can_confirm(view.model) and tested_weight(view.model) in gradients.values
    if gradients.steps == 1 and not gradients.signs_only and has_gradient:
        test = confirm_candidates(view, candidates, time_left)
        missed = len(candidates) - test.tested
        untested = f"; truncated: {missed} of {len(candidates)} candidates not tested" if missed else ""
        if test.is_confirmed.any():
            reason = f"candidates confirmed by the gradient's row space ({test.evidence}){untested}"
            return Finding(candidates[test.is_confirmed], True, reason, test.by_chance)
        reason = "no candidate took part" if test.is_decisive else "no candidate can be told apart"
        if untested:
            reason = "no candidate is confirmed"
        return Finding(nothing, False, f"{reason} ({test.evidence}){untested}", test.by_chance)
    if not case.has_one_image:
        return Finding(nothing, False, "")
    for image in candidates:
        if not time_left():
            return Finding(nothing, False, "truncated: not all candidates tried")
        if case.stands_out(image, EXACT_SHARE, CONFIRMED_DISTANCE):
            return Finding(image[None], True, "a candidate confirmed by training on it")
    return Finding(nothing, False, "no candidate took part")


def _search(case: UpdateCase, time_left: TimeLeft) -> Finding:
    """Search by optimisation, and replay the image."""
    variation = 0.0 if case.reads_ciphertexts else VARIATION_WEIGHT
    result = search(case.view, case.labels[0], SEARCH_STEPS, time_left, variation)
    image = to_gray_levels(result.image, exact=case.reads_floats)
    if case.stands_out(image, EXACT_SHARE, CONFIRMED_DISTANCE):
        return Finding(image[None], True, "optimised, and confirmed by training on it")
    reason = f"{result.steps} steps of optimisation end at a cosine distance of {result.distance:.2f}"
    return Finding(image[None], False, reason)
