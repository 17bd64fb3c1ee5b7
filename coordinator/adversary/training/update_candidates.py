"""Test which of the adversary's own plain images took part in an update, without any key (T5 and T2).

The gradient of a linear layer is a sum of outer products δ·aᵀ over the inputs a that met it. So its row space is
that of the inputs. In the last block only the class token goes on to the head. There every image brings one input
to `mlp.fc1`, and the gradient of a step with B images has rank B. The adversary computes a candidate's input
through the stem and the encoder that the cloud holds. If the candidate was in the step, its input lies in that
space. Of any other image, some part lies outside.

The test is exact for one step of SGD through the stem that the hospital trained with. Clipping and learning rate do
not matter. A space whose rank is near the model's width holds everything, and says nothing.

A small model makes nearly the same input of all images of a kind, and then strangers lie in the space too. So every
test is calibrated with *decoys*: candidates mirrored and moved, which no hospital trained on. A candidate is
confirmed only if it lies nearer to the space than every decoy. Where decoys lie within rounding, so may a stranger,
and one of them is nearer than d decoys with a chance of 1 / (d + 1). The evidence then says how many that makes.

Source: that a linear layer's gradient shows the span of its inputs, and tests of membership in it, are known
(Zhu & Blaschko 2021, arXiv 2010.07733; DAGER, Petrov et al. 2024, arXiv 2405.15586, for tokens of text). The class
token's layer is our choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from coordinator.adversary.time_budget import TimeLeft, always
from coordinator.adversary.training.update_steps import UpdateView
from coordinator.model.model_input import to_model_input
from coordinator.model.vit import is_vision_transformer
from crypto.arrays import BoolArray, Float64Array, Images

#: The share of a candidate's input outside the row space never exceeds this for a confirmed one. Rounding sets a
#: lower limit (`RowSpaceTest.threshold`): a fixed limit alone confirmed strangers on untrained models.
MAX_OUTSIDE = 0.02
#: The share outside that float32 arithmetic alone explains. Set once; how it was chosen is not recorded.
_FLOAT32_SHARE = 3e-5
#: Candidates that decoys are made of; each gives two. Set by hand: 64 decoys, none of them nearer, leave a rate of
#: false confirmations of up to 4.6 % open (95 %, Clopper and Pearson).
_CANDIDATES_FOR_DECOYS = 32
#: A decoy that differs from its candidate by less than this, in gray levels on average, is the same picture.
_LEAST_DIFFERENCE = 1.0
#: Candidates that run through the model at a time. Set by hand, for memory; the result does not depend on it.
_CANDIDATES_AT_A_TIME = 16
#: A direction counts if it is this many times the rounding. Set once; how it was chosen is not recorded.
_NOISE_MARGIN = 2.0


@dataclass(frozen=True)
class RowSpaceTest:
    """The outcome of the row space test.

    Attributes:
        outside: float64 [m], the share of each candidate's input outside the row space; NaN if time ran out before
        it. rank: images that the gradient shows. width: of the layer's input. If the rank is above half of it,
        nothing is confirmed. rounding: the share outside that rounding explains: that of the update over the
        weakest direction, and that of float32. decoys: float64 [d], the same shares of altered candidates; NaN as
        above.
    """

    outside: Float64Array
    rank: int
    width: int
    rounding: float
    decoys: Float64Array

    @property
    def tested(self) -> int:
        """How many candidates were tested before time ran out."""
        return int(np.isfinite(self.outside).sum())

    @property
    def decoys_within_rounding(self) -> int:
        """How many decoys lie as near to the space as arithmetic explains."""
        return int((self.decoys <= self.limit).sum())

    @property
    def by_chance(self) -> float:
        """How many of the tested candidates chance alone would confirm if none took part.

        A stranger and d decoys are alike, so it is the nearest of them with a chance of 1 / (d + 1). It is 0 where
        no decoy lies within rounding: then the limit alone keeps strangers out, as far as decoys can show.
        """
        if not self.is_decisive or not self.decoys_within_rounding:
            return 0.0
        return self.tested / (int(np.isfinite(self.decoys).sum()) + 1)

    @property
    def is_decisive(self) -> bool:
        """Whether the row space is small enough to tell candidates apart, and decoys were tested."""
        return 0 < self.rank <= self.width // 2 and bool(np.isfinite(self.decoys).any())

    @property
    def is_confirmed(self) -> BoolArray:
        """The candidates that took part, bool [m]."""
        if not self.is_decisive:
            return np.zeros(len(self.outside), bool)
        return (self.outside <= self.limit) & (self.outside < np.nanmin(self.decoys))

    @property
    def limit(self) -> float:
        """The largest share outside that arithmetic explains."""
        return min(MAX_OUTSIDE, self.rounding)

    @property
    def threshold(self) -> float:
        """The largest share outside at which a candidate counts as inside: the limit, or the nearest decoy."""
        return float(min(self.limit, np.nanmin(self.decoys))) if self.is_decisive else self.limit

    @property
    def evidence(self) -> str:
        """Rank, threshold, decoys and what chance would confirm in words, for a note."""
        chance = (
            f", so chance alone would confirm about {self.by_chance:.2g} of {self.tested} candidates"
            if self.by_chance
            else ""
        )
        return (
            f"rank {self.rank} of {self.width}, at most {self.threshold:.1g} of an input outside; "
            f"{self.decoys_within_rounding} of {np.isfinite(self.decoys).sum()} decoys within rounding{chance}"
        )


def can_confirm(model: nn.Module) -> bool:
    """Return whether the class token alone goes on from a model's last block to its head."""
    return is_vision_transformer(model) and model.global_pool == "token" and model.attn_pool is None


def tested_weight(model: nn.Module) -> str:
    """Return the name of the weight whose gradient `confirm_candidates` reads."""
    return f"blocks.{len(model.blocks) - 1}.mlp.fc1.weight"  # type: ignore[arg-type] # a ViT: a list of blocks


def confirm_candidates(view: UpdateView, candidates: Images, time_left: TimeLeft = always) -> RowSpaceTest:
    """Test candidates uint8 [m, h, w, c], read as the model with the view's stem reads them."""
    name = tested_weight(view.model)
    gradient = view.gradients.values[name]
    _, strengths, directions = np.linalg.svd(gradient, full_matrices=False)
    noise = view.gradients.rounding[name] * sum(np.sqrt(gradient.shape))
    rank = int((strengths > max(_NOISE_MARGIN * noise, 1e-6 * strengths[0])).sum())
    decoys = _shares_outside(view.model, make_decoys(candidates), directions[:rank], time_left)
    outside = _shares_outside(view.model, candidates, directions[:rank], time_left)
    rounding = _FLOAT32_SHARE + noise / strengths[rank - 1] if rank else 0.0
    return RowSpaceTest(outside, rank, gradient.shape[1], float(rounding), decoys)


def make_decoys(candidates: Images) -> Images:
    """Return pictures of the candidates' kind that took no part, uint8 [d, h, w, c].

    Candidates spread over the whole list are mirrored left to right, and moved by an eighth of their sides around
    the edges. A decoy that equals its candidate, such as a symmetric picture's mirror image, is left out. So is one
    that is among the candidates itself: it may have taken part, and then none of them would be nearer.

    Args:
        candidates: uint8 [m, h, w, c].
    """
    count = min(len(candidates), _CANDIDATES_FOR_DECOYS)
    chosen = candidates[np.linspace(0, len(candidates) - 1, count).astype(np.int64)]
    height, width = chosen.shape[1:3]
    moved = np.roll(chosen, (height // 8, width // 8), (1, 2))
    decoys, originals = np.concatenate([chosen[:, :, ::-1], moved]), np.concatenate([chosen, chosen])
    difference = np.abs(decoys.astype(np.int16) - originals).mean((1, 2, 3))
    contents = {candidate.tobytes() for candidate in candidates}
    is_candidate = np.array([decoy.tobytes() in contents for decoy in decoys], bool)
    kept: Images = decoys[(difference >= _LEAST_DIFFERENCE) & ~is_candidate]
    return kept


def _shares_outside(
    model: nn.Module, candidates: Images, space: Float64Array, time_left: TimeLeft
) -> Float64Array:
    """Return the share of each candidate's input outside a space [rank, width], float64 [m]; NaN if out of time."""
    outside = np.full(len(candidates), np.nan)
    inputs: list[torch.Tensor] = []

    def keep_input(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        inputs.append(args[0][:, 0])  # the class token's

    layer: nn.Module = model.blocks[-1].mlp.fc1  # type: ignore[index, union-attr] # a ViT: a list of blocks
    hook = layer.register_forward_pre_hook(keep_input)
    try:
        with torch.inference_mode():
            for start in range(0, len(candidates), _CANDIDATES_AT_A_TIME):
                if not time_left():
                    break
                stop = start + _CANDIDATES_AT_A_TIME
                inputs.clear()
                model.eval()(to_model_input(candidates[start:stop]))
                rows = inputs[0].double().numpy()
                residuals = np.linalg.norm(rows - (rows @ space.T) @ space, axis=1)
                outside[start:stop] = residuals / np.linalg.norm(rows, axis=1)
    finally:
        hook.remove()
    return outside
