"""How a Vision Transformer computes its attention while it trains."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from coordinator.model.attention import fast_attention
from coordinator.model.torchvision_fix import timm
from coordinator.model.training import train_locally
from coordinator.model.vit import build_model
from tests.support.local_training import plan, striped_images

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def vit(size: int) -> nn.Module:
    """Return a ViT of two layers for gray images of this side, with patches of 8."""
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=size,
        patch_size=8,
        in_chans=1,
        embed_dim=24,
        depth=2,
        num_heads=3,
        num_classes=2,
    )
    return model


def are_fused(model: Any) -> list[bool]:
    """Return whether each layer's attention is torch's fused one."""
    return [block.attn.fused_attn for block in model.blocks]


@pytest.mark.parametrize(
    ("precision", "device", "size", "fused"),
    [
        ("bfloat16", CPU, 16, False),
        ("float32", CPU, 16, True),
        ("bfloat16", CUDA, 16, True),
        ("bfloat16", CPU, 8 * 16, True),  # 256 blocks and the class token
    ],
)
def test_only_short_bfloat16_sequences_on_the_cpu_leave_the_fused_attention(
    precision: str, device: torch.device, size: int, fused: bool
) -> None:
    model = vit(size)
    with fast_attention(model, precision, device):
        assert are_fused(model) == [fused, fused]
    assert are_fused(model) == [True, True]


def test_a_failed_step_leaves_the_model_as_it_was() -> None:
    model = vit(16)
    with pytest.raises(KeyboardInterrupt), fast_attention(model, "bfloat16", CPU):
        raise KeyboardInterrupt
    assert are_fused(model) == [True, True]


def test_an_attention_that_was_chosen_by_the_caller_stays() -> None:
    model: Any = vit(16)
    model.blocks[0].attn.fused_attn = False
    with fast_attention(model, "bfloat16", CPU):
        pass
    assert are_fused(model) == [False, True]


def test_outputs_and_gradients_are_those_of_the_fused_attention() -> None:
    images = torch.randn(4, 1, 16, 16)
    found = []
    for precision in ("float32", "bfloat16"):  # computed in float32 both times: only the attention differs
        model = vit(16)
        with fast_attention(model, precision, CPU):
            outputs = model(images)
        outputs.square().sum().backward()
        found.append([outputs.detach(), *(w.grad for w in model.parameters())])
    for fused, plain in zip(*found, strict=True):
        torch.testing.assert_close(plain, fused, rtol=1e-4, atol=1e-5)


def test_a_network_without_attention_is_left_alone() -> None:
    with fast_attention(nn.Linear(2, 2), "bfloat16", CPU):
        pass


def test_training_in_bfloat16_uses_it() -> None:
    p = plan(precision="bfloat16")
    model: Any = build_model(p, 2)
    seen: list[bool] = []
    model.blocks[0].attn.register_forward_hook(lambda layer, *_: seen.append(layer.fused_attn))
    train_locally(model, striped_images(8), p, 1, "a")
    assert set(seen) == {torch.cuda.is_available()} and all(are_fused(model))
