"""What one update gives, step by step: solve, confirm candidates, search; and what may be called found (T5).

A picture counts as found where training on it gives the update that was seen (`replay`), or where the candidate
test says so. Nothing else does: a residual or a distance that is merely small is no proof, because the equations may
have many solutions, and other pictures may have nearly the same gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coordinator.adversary.training.observation import Observed
from coordinator.adversary.training.update_candidates import can_confirm, confirm, layer_of
from coordinator.adversary.training.update_search import VARIATION, as_levels, search
from coordinator.adversary.training.update_solve import EMBEDDING, can_solve, solve
from coordinator.adversary.training.update_steps import (
    CONFIRMED,
    Seen,
    as_input,
    labels_to_try,
    model_of,
    replay,
    see,
)
from coordinator.model.shares import missing_weights
from coordinator.model.vit import PatchEmbed, VisionTransformer
from crypto.scheme import load

SEARCH_STEPS = 300
#: A picture's update must be nearer to the one seen than this times those of the same picture moved, turned and made
#: flat: models that hardly look at places, untrained ones, give all of these nearly the same update.
EXACT = 0.1
#: For solved pictures, which float32 leaves inexact.
NEAR = 0.7

More = Callable[[], bool]


@dataclass(frozen=True)
class Finding:
    """What one update gave.

    images: [k, h, w, c] as the model reads them: plain, or ciphertexts under stem `learn`.
    found: whether confirmed; a guess otherwise, such as a picture whose update only comes near.
    why: in words, for the note.
    """

    images: np.ndarray
    found: bool
    why: str


def findings(observed: Observed, candidates: np.ndarray | None, time_left: More) -> list[Finding]:
    """What every kept update gives, in their order. candidates: None or plain images uint8 [m, h, w, c]."""
    needs = observed.plan.stem == "private" or observed.plan.share != "all"
    if needs and missing_weights(observed.plan):
        why = f"what did not travel is in {Path(observed.plan.weights).name}, which is not here"
        return [Finding(np.zeros((0, 1, 1, 1), np.uint8), False, why) for _ in observed.updates]
    model, found = model_of(observed), []
    if not isinstance(model, VisionTransformer) or not isinstance(model.patch_embed, PatchEmbed):
        why = f"{observed.plan.model} is not a plain Vision Transformer"
        return [Finding(np.zeros((0, 1, 1, 1), np.uint8), False, why) for _ in observed.updates]
    stem = {k: v.clone() for k, v in model.state_dict().items()}
    for update in observed.updates:
        if time_left():
            model.load_state_dict(stem)
            found.append(
                _find(_Case(see(observed, update, model), observed.classes), candidates, time_left)
            )
        else:
            found.append(Finding(_nothing(model), False, "truncated: out of time"))
    return found


@dataclass(frozen=True)
class _Case:
    """One update with what its attacks ask again and again."""

    seen: Seen
    classes: int

    @property
    def alone(self) -> bool:
        return self.seen.update.images == 1

    @property
    def learn(self) -> bool:
        return self.seen.plan.stem == "learn"

    @property
    def floats(self) -> bool:
        """Whether the model reads ciphertexts that are no bytes."""
        return self.learn and load(self.seen.plan.describe()).sealed_dtype != np.uint8

    @property
    def labels(self) -> list[int]:
        return labels_to_try(self.seen.step, self.classes)

    @property
    def lacks(self) -> str:
        """Which of the gradients that attacks ask for the update does not hold, where `share` keeps some back."""
        share = self.seen.plan.share
        if share == "all":
            return ""
        stem = "" if EMBEDDING in self.seen.step.values else "the patch embedding or "
        return f"share {share}: the update holds no gradients of {stem}the encoder's own weights"

    @property
    def differs(self) -> list[str]:
        """What of the plan's training a replayed step does not follow, so that nothing found is a weaker answer."""
        plan = self.seen.plan
        said = []
        if plan.augment != "none":
            said.append(f"augment {plan.augment}: the update is of altered views, candidates are unaltered")
        if plan.class_weights != "none":
            said.append("class_weights: how the hospital weighted its images is not known here")
        if plan.precision != "float32":
            said.append(f"precision {plan.precision}: the step was rounded otherwise than a replayed one")
        return said

    def distance(self, image: np.ndarray) -> float:
        """How far the update of [h, w, c] alone, under its best label, is from the one seen."""
        return min(replay(self.seen, as_input(image[None]), [label]) for label in self.labels)

    def stands_out(self, image: np.ndarray, share: float, least: float) -> bool:
        away = self.distance(image)
        return away < least and away < share * min(map(self.distance, _others(image)))


def _others(image: np.ndarray) -> list[np.ndarray]:
    """Pictures [h, w, c] of the same values that are not the picture."""
    half = (image.shape[0] // 2, image.shape[1] // 2)
    flat = np.full_like(image, round(float(image.mean())))
    return [np.roll(image, half, (0, 1)), np.ascontiguousarray(image[::-1, ::-1]), flat]


def _nothing(model: VisionTransformer) -> np.ndarray:
    return np.zeros((0, *model.patch_embed.img_size, model.patch_embed.proj.in_channels), np.uint8)


def _find(case: _Case, candidates: np.ndarray | None, time_left: More) -> Finding:
    seen, step = case.seen, case.seen.step
    said = [case.lacks] * bool(case.lacks) + case.differs
    near = _nothing(seen.model)  # a picture that may be it
    if case.alone and not step.signs and seen.stem_moved and can_solve(seen.model):
        solved = _solved(case)
        if solved.found:
            return solved
        said.append(solved.why)
        near = solved.images
    if not case.learn and candidates is not None and len(candidates):
        confirmed = _confirmed(case, candidates, time_left)
        if confirmed.found:
            return confirmed
        said.append(confirmed.why)
    if case.alone and step.steps == 1 and not step.signs and time_left():
        searched = _searched(case, time_left)
        guess = searched.images if searched.found or not len(near) else near
        return Finding(guess, searched.found, "; ".join([*said, searched.why]))
    if not case.alone:
        said.append("several images mix in the update")
    if step.signs:
        said.append("AdamW shows signs of gradients alone")
    return Finding(near, False, "; ".join(filter(None, said)))


def _solved(case: _Case) -> Finding:
    step = case.seen.step
    solved = solve(case.seen.model, step.values, step.rounding, bounded=not case.floats)
    image = as_levels(solved.image, exact=case.floats)
    if case.stands_out(image, EXACT, CONFIRMED):
        return Finding(image[None], True, "solved, and confirmed by training on it")
    if (solved.fits or step.steps > 1) and case.stands_out(image, NEAR, 1.0):
        return Finding(image[None], False, "solved, inexact: trained on, its update only comes near")
    return Finding(image[None][:0], False, "the linear solve gives no image that trains to this update")


def _confirmed(case: _Case, candidates: np.ndarray, time_left: More) -> Finding:
    step, none = case.seen.step, candidates[:0]
    told = can_confirm(case.seen.model) and layer_of(case.seen.model) in step.values
    if step.steps == 1 and not step.signs and told:
        span = confirm(case.seen, candidates, time_left)
        if span.inside.any():
            said = f"candidates confirmed by the gradient's row space ({span.how})"
            return Finding(candidates[span.inside], True, said)
        said = "no candidate took part" if span.says else "no candidate can be told apart"
        return Finding(none, False, f"{said} ({span.how})")
    if not case.alone:
        return Finding(none, False, "")
    for image in candidates:
        if not time_left():
            return Finding(none, False, "truncated: not all candidates tried")
        if case.stands_out(image, EXACT, CONFIRMED):
            return Finding(image[None], True, "a candidate confirmed by training on it")
    return Finding(none, False, "no candidate took part")


def _searched(case: _Case, time_left: More) -> Finding:
    made = search(case.seen, case.labels[0], SEARCH_STEPS, time_left, 0.0 if case.learn else VARIATION)
    image = as_levels(made.image, exact=case.floats)
    if case.stands_out(image, EXACT, CONFIRMED):
        return Finding(image[None], True, "optimised, and confirmed by training on it")
    said = f"{made.steps} steps of optimisation end at a cosine distance of {made.distance:.2f}"
    return Finding(image[None], False, said)
