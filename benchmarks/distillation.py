"""Local training on ciphertext that imitates a teacher on plain images (Hinton et al. 2015; Beyer et al. 2022).

The teacher is a network that the hospitals trained on plain images, as under stem `private`. It stays with them. A
hospital has the plain image of each ciphertext, alters and mixes both alike, and its student learns the teacher's
outputs for the plain image from the sealed one, and nothing else: no label is used. Beyer et al. show that such a
student needs the same view as its teacher, strong mixing and many steps.

A student of features also learns what each block of the teacher makes of the image (Romero et al. 2015, who call that
hints): a few outputs say little of an image, and the tokens of twelve blocks say much. Only what does not depend on
the order of the blocks is compared, so nobody tells the student where the key moved a block.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from coordinator.exchange.plan import Plan
from coordinator.model.attention import fast_attention
from coordinator.model.model_input import to_model_input
from coordinator.model.optimizer import build_optimizer, learning_rate, set_rate
from coordinator.model.training import PlainImages, mix_pairs
from coordinator.model.vit import is_vision_transformer
from crypto.arrays import AnyArray, Rows

#: Both outputs are divided by it before they are compared (Hinton et al. 2015). Set once, not tuned.
TEMPERATURE = 2.0


@dataclass(frozen=True, repr=False)  # `seal` is as secret as its key
class Pairs:
    """Images of a hospital that seals altered views of them while it trains.

    Attributes:
        plain: the hospital's images.
        seal: seals images, uint8 [n, h, w, c], as the hospital's cipher does.
    """

    plain: PlainImages
    seal: Callable[[AnyArray], AnyArray]

    def views(self, rows: Rows, augment: str, random: np.random.Generator) -> AnyArray:
        """Return the plain images of these rows, altered as the plan says: int64 [r] → [r, h, w, c]."""
        return self.plain.rows(rows) if augment == "none" else self.plain.views(rows, augment, random)


def divergence(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return the mean divergence of a student's outputs from its teacher's, times the squared temperature.

    Args:
        student: logits, float32 [n, classes].
        teacher: logits, float32 [n, classes].
    """
    learnt = torch.log_softmax(student / TEMPERATURE, 1)
    taught = torch.log_softmax(teacher / TEMPERATURE, 1)
    return TEMPERATURE**2 * nn.functional.kl_div(learnt, taught, reduction="batchmean", log_target=True)


@contextmanager
def seen_tokens(model: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Keep what each block of a Vision Transformer gives, float [n, tokens, width], of the latest images.

    The list is the same one after each pass of the model, and has one entry a block.

    Raises:
        TypeError: if the model is not timm's VisionTransformer.
    """
    if not is_vision_transformer(model):
        raise TypeError(f"{type(model).__name__} has no blocks whose tokens could be compared")
    kept: list[torch.Tensor] = []

    def keep(block: int, tokens: torch.Tensor) -> None:
        if block == 0:
            kept.clear()
        kept.append(tokens)

    blocks: Any = model.blocks
    handles = [
        block.register_forward_hook(lambda _module, _images, tokens, i=i: keep(i, tokens))
        for i, block in enumerate(blocks)
    ]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def summary(tokens: torch.Tensor) -> torch.Tensor:
    """Return the class token and the mean of the others, normalized: [n, tokens, width] → float32 [n, 2, width]."""
    tokens = tokens.float()
    both = torch.stack([tokens[:, 0], tokens[:, 1:].mean(1)], 1)
    return nn.functional.layer_norm(both, both.shape[-1:])


def distance(student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the mean squared difference of two models' token summaries, over all their blocks."""
    parts = [
        nn.functional.mse_loss(summary(learnt), summary(taught))
        for learnt, taught in zip(student, teacher, strict=True)
    ]
    return torch.stack(parts).mean()


def imitate(
    model: nn.Module,
    teacher: nn.Module,
    pairs: Pairs,
    plan: Plan,
    round_: int,
    party: str,
    features: bool = False,
) -> None:
    """Train a model in place on sealed images for one round, on the CPU, so that it says what the teacher says.

    The order of the images, their views and their mixing depend on the plan's seed, the round and the party's name
    only, as in local training by labels. The optimizer starts afresh each round.

    Args:
        model: the student. It reads sealed images.
        teacher: reads plain ones, and is not changed.
        pairs: the party's images.
        plan: all settings. Labels, and settings of labels, have no effect.
        round_: the round, from 1.
        party: the party's name.
        features: whether the student also learns what each block of the teacher gives. Both have one class token.
    """
    count = len(pairs.plain.labels)
    seed = [plan.seed, round_, zlib.crc32(party.encode())]
    order, views, mixing = (np.random.default_rng([*seed, *stream]) for stream in ([], [1], [2]))
    steps, per_epoch = plan.steps_per_round(count), plan.steps_per_epoch(count)
    model.train()
    teacher.eval()
    optimizer = build_optimizer(model, plan, round_)
    torch.manual_seed(int(order.integers(2**31)))
    step = (round_ - 1) * steps
    half = torch.autocast("cpu", torch.bfloat16, enabled=plan.precision == "bfloat16")
    with ExitStack() as stack:
        for network in (model, teacher):
            stack.enter_context(fast_attention(network, plan.precision, torch.device("cpu")))
        learnt_tokens, taught_tokens = (
            [stack.enter_context(seen_tokens(network)) for network in (model, teacher)]
            if features
            else ([], [])
        )
        for _ in range(plan.local_epochs):
            for rows in np.array_split(order.permutation(count), per_epoch):
                set_rate(optimizer, learning_rate(plan, step, plan.rounds * steps))
                plain = pairs.views(rows, plan.augment, views)
                sealed = to_model_input(pairs.seal(plain))
                # One draw mixes both: the sealed mixture of two images is the mixture of their ciphertexts.
                both, _ = mix_pairs(torch.cat([sealed, to_model_input(plain)], 1), plan.mixup, mixing)
                seen, shown = both[:, : sealed.shape[1]], both[:, sealed.shape[1] :]
                with half, torch.no_grad():
                    taught = teacher(shown)
                with half:
                    learnt = model(seen)
                loss = divergence(learnt.float(), taught.float())
                if features:
                    loss = loss + distance(learnt_tokens, taught_tokens)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
                nn.utils.clip_grad_norm_(model.parameters(), plan.clip)
                optimizer.step()
                step += 1
