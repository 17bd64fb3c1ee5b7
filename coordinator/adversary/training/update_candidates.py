"""Which of one's own plain images took part in an update: confirmed, or not, without any key (T5 and T2).

The gradient of a linear layer is a sum of outer products δ·aᵀ over the inputs a that met it, so its row space
is that of the inputs. In the last block only the class token goes on to the head: there every image brings one
input to `mlp.fc1`, and the gradient of a step with B images has rank B. A candidate's input, computed through
the stem and the encoder that the cloud holds, lies in that space where the candidate was in the step; of
others, some part sticks out. Exact for one step of SGD through the stem that the hospital trained with;
clipping and learning rate do not matter. The space of a rank near the model's width holds everything, and says
nothing.

Source: that a linear layer's gradient shows the span of its inputs, and tests of membership in it, are known
(Zhu & Blaschko 2021, arXiv 2010.07733; DAGER, Petrov et al. 2024, arXiv 2405.15586, for tokens of text); the
class token's layer is our choice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from coordinator.adversary.training.update_steps import Seen, as_input
from coordinator.model.vit import VisionTransformer

#: A candidate's input was in the step where the share of its length outside the row space is no more than rounding
#: explains, that of the update over the weakest direction, and that of float32; and never where it is more than this.
INSIDE = 0.02
_FLOAT32 = 3e-5
_CHUNK = 16
_ABOVE = 2.0  # times the rounding that a direction must exceed to count


@dataclass(frozen=True)
class Span:
    """outside: float64 [m], the share of each candidate's input outside the row space; NaN where not reached in
    time.

    rank: images that the gradient shows. width: of the layer's input; above half of it nothing is confirmed.
    rounding: the share that rounding explains.
    """

    outside: np.ndarray
    rank: int
    width: int
    rounding: float

    @property
    def says(self) -> bool:
        """Whether the row space is small enough to tell anybody apart."""
        return 0 < self.rank <= self.width // 2

    @property
    def inside(self) -> np.ndarray:
        """bool [m]: the candidates confirmed."""
        return self.outside <= self.most if self.says else np.zeros(len(self.outside), bool)

    @property
    def most(self) -> float:
        """The share outside, up to which a candidate counts as inside."""
        return min(INSIDE, self.rounding)

    @property
    def how(self) -> str:
        """By what it was told, for a note."""
        return f"rank {self.rank} of {self.width}, at most {self.most:.1g} of an input outside"


def can_confirm(model: nn.Module) -> bool:
    """Whether only the class token of a model's last block goes on."""
    return isinstance(model, VisionTransformer) and model.global_pool == "token" and model.attn_pool is None


def layer_of(model: nn.Module) -> str:
    """The name of the weight whose gradient `confirm` reads."""
    return f"blocks.{len(model.blocks) - 1}.mlp.fc1.weight"  # type: ignore[arg-type]


def confirm(seen: Seen, candidates: np.ndarray, time_left: Callable[[], bool] = lambda: True) -> Span:
    """Tests candidates uint8 [m, h, w, c], as the model with `seen`'s stem reads them."""
    model = seen.model
    layer = model.blocks[-1].mlp.fc1  # type: ignore[index, union-attr]
    name = layer_of(model)
    gradient = seen.step.values[name]
    _, strengths, directions = np.linalg.svd(gradient, full_matrices=False)
    noise = seen.step.rounding[name] * sum(np.sqrt(gradient.shape))
    rank = int((strengths > max(_ABOVE * noise, 1e-6 * strengths[0])).sum())
    space = directions[:rank]
    outside = np.full(len(candidates), np.nan)
    inputs: list[torch.Tensor] = []
    hook = layer.register_forward_pre_hook(  # type: ignore[union-attr]
        lambda module, given: inputs.append(given[0][:, 0])
    )
    try:
        with torch.inference_mode():
            for start in range(0, len(candidates), _CHUNK):
                if not time_left():
                    break
                inputs.clear()
                model.eval()(as_input(candidates[start : start + _CHUNK]))
                a = inputs[0].double().numpy()
                away = np.linalg.norm(a - (a @ space.T) @ space, axis=1)
                outside[start : start + _CHUNK] = away / np.linalg.norm(a, axis=1)
    finally:
        hook.remove()
    rounding = _FLOAT32 + noise / strengths[rank - 1] if rank else 0.0
    return Span(outside, rank, gradient.shape[1], float(rounding))
