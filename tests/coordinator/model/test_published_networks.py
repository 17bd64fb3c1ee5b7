"""Networks of published schemes: shapes, ShakeDrop, and which pixels each adaptation network mixes."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from coordinator.exchange.plan import Plan
from coordinator.model import published_networks
from coordinator.model.published_networks import (
    PerBlockAdaptation,
    ShakeDrop,
    build_adaptation,
    shake_pyramidnet,
)
from coordinator.model.training import PlainImages, predict_probabilities, train_locally
from coordinator.model.vit import build_model, pack, unpack
from crypto.errors import CipherwardError

SMALL = {"depth": 8, "alpha": 6}
ADAPTATIONS = ("none", "pixel", "block", "blocks")


def plan(model: str, **changes: Any) -> Plan:
    values: dict[str, Any] = {
        "study": "t",
        "counts": (1, 1, 1),
        "parties": 1,
        "image_size": 16,
        "channels": 3,
        "block": 4,
        "scheme": "ele",
    }
    values |= {"model": model, "rounds": 2, "batch": 8, "optimizer": "sgd", "lr": 0.05, "warmup_steps": 0}
    return Plan.model_validate(values | changes)


def swap_blocks(images: torch.Tensor, one: tuple[int, int], other: tuple[int, int]) -> torch.Tensor:
    """Return [n, c, h, w] with two 4×4 blocks exchanged, given by row and column of the grid."""
    swapped = images.clone()
    (a, b), (c, d) = [tuple(slice(4 * i, 4 * i + 4) for i in place) for place in (one, other)]
    swapped[:, :, a, b], swapped[:, :, c, d] = images[:, :, c, d], images[:, :, a, b]
    return swapped


def test_the_published_pyramidnet_has_the_published_size() -> None:
    with torch.device("meta"):
        net = shake_pyramidnet(10, 3, 32)
    # What pytorchcv builds for PyramidNet-110 of alpha 270, 10 classes.
    assert sum(p.numel() for p in net.parameters()) == 28_485_477
    alive = [m.alive for m in net.modules() if isinstance(m, ShakeDrop)]
    assert len(alive) == 54 and alive[-1] == 0.5 and np.allclose(np.diff(alive), -0.5 / 54)


#: The adaptations do not depend on the network that they feed: all of them are tried with the smallest one.
@pytest.mark.parametrize(
    ("model", "args", "adapt"),
    [
        *(("shake_pyramidnet", SMALL, adapt) for adapt in ADAPTATIONS),
        ("resnet18_small", {"stem_stride": 2}, "block"),
        ("resnet18", {}, "none"),
        *(
            pytest.param(model, args, adapt, marks=pytest.mark.slow)
            for model, args, others in (
                ("resnet18_small", {"stem_stride": 2}, ("none", "pixel", "blocks")),
                ("resnet18", {}, ("pixel", "block", "blocks")),
            )
            for adapt in others
        ),
    ],
)
def test_a_plan_can_build_every_network(model: str, args: dict[str, Any], adapt: str) -> None:
    p = plan(model, model_args={**args, "adapt": adapt}, image_size=20, channels=1)
    built = build_model(p, 5)
    scores = predict_probabilities(
        built, PlainImages(np.zeros((3, 20, 20, 1), np.uint8), np.zeros(3, np.int64))
    )
    assert scores.shape == (3, 5) and np.isfinite(scores).all()
    again = build_model(p, 5)
    assert np.array_equal(pack(built), pack(again))  # from the seed alone
    unpack(again, pack(built) * 0.5)
    assert not np.array_equal(pack(built), pack(again))


def test_the_small_resnet_keeps_the_resolution() -> None:
    sizes: dict[int, torch.Size] = {}
    for stride in (1, 2):
        net = published_networks.resnet18_small(2, 3, 32, stem_stride=stride)
        layer: nn.Module = net.get_submodule("1.layer1")
        layer.register_forward_hook(lambda module, inputs, out, s=stride: sizes.update({s: out.shape[2:]}))
        net.eval()(torch.zeros(1, 3, 32, 32))
    assert sizes == {1: (32, 32), 2: (16, 16)}


def test_shakedrop_multiplies_at_random_in_training_and_by_the_mean_otherwise() -> None:
    torch.manual_seed(0)
    layer, x = ShakeDrop(0.5), torch.ones(64, 2, 1, 1)
    kept = 0
    shaken: list[torch.Tensor] = []
    for _ in range(300):
        factors = layer.train()(x)
        assert torch.equal(factors[:, 0], factors[:, 1])  # one per image
        if bool((factors == 1).all()):  # b = 1: b + alpha - b·alpha = 1 for the whole batch
            kept += 1
        else:  # b = 0: alpha
            shaken.append(factors[:, 0].flatten())
    alphas = torch.cat(shaken)
    assert 0.4 < kept / 300 < 0.6
    assert alphas.min() < -0.95 and alphas.max() > 0.95 and abs(float(alphas.mean())) < 0.03
    assert torch.equal(layer.eval()(x), 0.5 * x)
    assert torch.equal(ShakeDrop(1.0).train()(x), x)


def test_shakedrop_scales_the_gradient_by_a_separate_random_number() -> None:
    torch.manual_seed(1)
    layer = ShakeDrop(1e-9)  # b = 0
    x = torch.ones(200, 1, 1, 1, requires_grad=True)
    out = layer.train()(x)
    out.sum().backward()
    assert x.grad is not None and x.grad.min() >= 0 and x.grad.max() <= 1 and x.grad.std() > 0.2
    assert float(torch.corrcoef(torch.stack([x.grad.flatten(), out.detach().flatten()]))[0, 1]) < 0.3


def test_the_le_network_maps_each_block_separately_with_the_same_weights() -> None:
    torch.manual_seed(2)
    net, channels = build_adaptation("block", 3, 4, (16, 16))
    net.eval()
    x = torch.randn(2, 3, 16, 16)
    out = net(x)
    assert out.shape == (2, channels, 16, 16) and channels == 16
    assert torch.allclose(net(swap_blocks(x, (0, 1), (3, 2))), swap_blocks(out, (0, 1), (3, 2)), atol=1e-6)
    changed = x.clone()
    changed[:, :, 4:8, 8:12] += 1
    differs = (net(changed) - out).abs().sum((0, 1)) > 0
    assert differs[4:8, 8:12].all() and differs.sum() == 16


def test_the_ele_network_has_separate_weights_for_every_block() -> None:
    torch.manual_seed(3)
    net = PerBlockAdaptation(3, 4, 16, 16).eval()
    with torch.no_grad():
        net.permutation.copy_(torch.eye(16))
    x = torch.randn(1, 3, 4, 4).repeat(1, 1, 4, 4)  # the same block everywhere
    parts = net(x).unfold(2, 4, 4).unfold(3, 4, 4).reshape(16, 16, 16)  # [channel, block, pixel]
    gaps = [(parts[:, i] - parts[:, j]).abs().max() for i in range(16) for j in range(i)]
    assert min(gaps) > 0.01
    one, two = (net.get_submodule(f"each.{i}.0") for i in (0, 1))
    assert isinstance(one, nn.Conv2d) and isinstance(two, nn.Conv2d)
    assert one.weight.shape == (256, 3, 4, 4) and not torch.equal(one.weight, two.weight)
    assert float(torch.linalg.matrix_norm(one.weight.detach().flatten(1), 2)) == pytest.approx(
        1, abs=0.15
    )  # spectral norm


def test_the_ele_matrix_permutes_blocks() -> None:
    torch.manual_seed(4)
    net = PerBlockAdaptation(1, 4, 8, 8).eval()
    x = torch.randn(1, 1, 8, 8)
    with torch.no_grad():
        net.permutation.copy_(torch.eye(4))
        out = net(x)
        net.permutation.copy_(torch.eye(4)[[1, 0, 2, 3]])
    assert torch.allclose(net(x), swap_blocks(out, (0, 0), (0, 1)))


def test_the_extra_losses_of_ele_reach_the_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare the gradient of a loss of the output with that of the loss + a·L_U + b·L_s, written out."""
    assert published_networks.LOSS_WEIGHTS == (0.001, 0.1)
    # Large enough that neither is lost in rounding.
    monkeypatch.setattr(published_networks, "LOSS_WEIGHTS", (50.0, 10.0))
    torch.manual_seed(5)
    net = PerBlockAdaptation(1, 4, 8, 8).train()
    net.permutation.data = torch.rand(4, 4)
    x, weight = torch.randn(6, 1, 8, 8), torch.randn(6, 16, 8, 8)
    state = {k: v.clone() for k, v in net.state_dict().items()}
    (net(x) * weight).sum().backward()
    gradients = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    assert len(gradients) == len(list(net.parameters()))
    net.zero_grad()
    net.load_state_dict(state)  # the spectral norm's vectors move at every step
    outputs = [
        f(x[..., r : r + 4, c : c + 4]).flatten(1)
        for f, (r, c) in zip(net.each, ((0, 0), (0, 4), (4, 0), (4, 4)), strict=True)
    ]
    mixed = torch.stack(outputs, 2) @ net.permutation
    features = nn.functional.pixel_shuffle(mixed.reshape(6, -1, 2, 2), 4)
    u = net.permutation
    by_hand = sum(v.abs().sum() - v.norm() for v in (*u, *u.T)) / 16
    smooth = ((features[:, :, 1:] - features[:, :, :-1]) ** 2).mean() + (
        (features[..., 1:] - features[..., :-1]) ** 2
    ).mean()
    ((features * weight).sum() + 50 * by_hand + 10 * smooth).backward()
    for gradient, parameter in zip(gradients, net.parameters(), strict=True):
        assert parameter.grad is not None
        assert torch.allclose(gradient, parameter.grad, rtol=1e-4, atol=1e-5)
    assert published_networks.permutation_loss(torch.eye(5)[[2, 0, 1, 4, 3]]) == 0


def test_the_pe_network_maps_each_pixel_separately() -> None:
    net, _ = build_adaptation("pixel", 3, 4, (16, 16))
    net.eval()
    x = torch.randn(1, 3, 16, 16)
    order = torch.randperm(256)
    out = net(x).flatten(2)
    shuffled = x.flatten(2)[..., order].reshape(x.shape)
    assert torch.allclose(net(shuffled).flatten(2), out[..., order], atol=1e-6)


def test_a_small_pyramidnet_behind_ele_learns() -> None:
    random = np.random.default_rng(0)
    labels = np.arange(32) % 2
    images = random.integers(0, 120, (32, 8, 8, 3), np.uint8)
    images[labels == 1] += 130
    p = plan("shake_pyramidnet", model_args={**SMALL, "adapt": "blocks"}, image_size=8, local_epochs=6)
    model, data = build_model(p, 2), PlainImages(images, labels)
    losses = [train_locally(model, data, p, r, "a")["loss"] for r in (1, 2)]
    assert losses[1] < losses[0] and (predict_probabilities(model, data).argmax(1) == labels).mean() > 0.9


def test_the_error_for_an_impossible_network_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for args, line in (
        ({"adapt": "magic"}, "unknown adaptation 'magic'"),
        ({"adapt": "block", "adapt_block": 5}, "16×16 cannot be divided into blocks of 5"),
        ({"depth": 9}, "no PyramidNet of depth 9"),
        ({"dept": 8}, "'dept' is not an argument"),
        ({"embed_dim": 8}, "cannot build shake_pyramidnet"),
    ):
        with pytest.raises(CipherwardError, match=line):
            build_model(plan("shake_pyramidnet", model_args={**SMALL, **args}), 2)
    for name in [n for n in sys.modules if n.startswith("pytorchcv")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pytorchcv", None)
    with pytest.raises(
        CipherwardError, match="PyramidNet needs pytorchcv, which is not installed"
    ) as error:
        build_model(plan("shake_pyramidnet", model_args=SMALL), 2)
    assert "table1" in error.value.hint
