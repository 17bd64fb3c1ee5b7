"""Networks of the comparison that timm does not have under one name: those that the papers put behind a scheme.

    resnet18            timm's, with the stem of ImageNet: 7×7 of stride 2, then a max-pool (size: any)
    resnet18_small      the same with a 3×3 stem of stride `stem_stride` (1 or 2) and no max-pool, for 28 to 64 pixels
    shake_pyramidnet    PyramidNet with ShakeDrop; depth 110 and alpha 270 are the published size

All take `adapt`, the adaptation network of a scheme before them, of blocks of `adapt_block` pixels:

    none    nothing
    pixel   1×1 convolution, for pixel-based encryption (Sirichotedumrong & Kiya 2019)
    block   one convolution a block, the same for all blocks, for LE (Tanaka 2018)
    blocks  each block its own network, then a learnt permutation of blocks, for ELE (Madono et al. 2020)

The kept parts are timm's ResNet and pytorchcv's PyramidNet and ShakeDrop function; pytorchcv is an extra
(`pip install '.[table1]'`) and is imported when a PyramidNet is built. Differs from the papers: the width of the 1×1
convolution and the start of ELE's block permutation were not to be read, and are ours; LE's 256 filters are 16 for
each of a block's pixels, so that other blocks than 4×4 can be taken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from coordinator.model.torchvision_fix import timm
from crypto.errors import CipherwardError, unknown

WIDTH = 16  # channels that an adaptation network hands on
_EACH = (
    0.001,
    0.1,
)  # weights of ELE's two further losses: the permutation's, and the smoothness of its features


def pixel_network(channels: int) -> nn.Module:
    """[n, c, h, w] → [n, 16, h, w], each pixel by itself."""
    return nn.Sequential(nn.Conv2d(channels, WIDTH, 1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU())


def block_network(channels: int, block: int) -> nn.Module:
    """[n, c, h, w] → [n, 16, h, w], each block by itself and all alike: conv B×B of stride B, then PixelShuffle."""
    filters = WIDTH * block**2
    return nn.Sequential(
        nn.Conv2d(channels, filters, block, block, bias=False),
        nn.BatchNorm2d(filters),
        nn.LeakyReLU(0.1),
        nn.PixelShuffle(block),
    )


class Blocks(nn.Module):
    """[n, c, h, w] → [n, 16, h, w], each block by a network of its own, then mixed by U, a learnt N×N matrix.

    While training it adds 0.001·L_U + 0.1·L_s to whatever loss is taken of its output: L_U draws U to a permutation,
    L_s smooths the features (the mean of their squared forward differences).
    """

    def __init__(self, channels: int, block: int, height: int, width: int) -> None:
        super().__init__()
        self.block, self.grid = block, (height // block, width // block)
        count, filters = self.grid[0] * self.grid[1], WIDTH * block**2
        self.each = nn.ModuleList(
            nn.Sequential(
                spectral_norm(nn.Conv2d(channels, filters, block, bias=False)),
                nn.BatchNorm2d(filters),
                nn.LeakyReLU(0.2),
            )
            for _ in range(count)
        )
        self.permutation = nn.Parameter(nn.init.orthogonal_(torch.empty(count, count)))
        self.shuffle = nn.PixelShuffle(block)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        side, (_, across) = self.block, self.grid
        rows = (divmod(i, across) for i in range(len(self.each)))
        parts = [x[..., r * side : (r + 1) * side, c * side : (c + 1) * side] for r, c in rows]
        made = [net(part).flatten(1) for net, part in zip(self.each, parts, strict=True)]
        mixed = torch.stack(made, 2) @ self.permutation  # [n, filters, N]
        features: torch.Tensor = self.shuffle(mixed.unflatten(2, self.grid))
        if self.training:
            permutation, smooth = _EACH
            further = permutation * unlike_permutation(self.permutation) + smooth * roughness(features)
            features = _AndLoss.apply(features, further)
        return features


class _AndLoss(torch.autograd.Function):
    """Hands features on as they are; a loss taken of them is then that loss plus `further`, for the gradients.

    So the lines that train every other model train this one, too.
    """

    @staticmethod
    def forward(ctx: Any, features: torch.Tensor, further: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(further)
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (further,) = ctx.saved_tensors
        return grads[0], torch.ones_like(further)


def unlike_permutation(matrix: torch.Tensor) -> torch.Tensor:
    """L_U = (1/N²)·Σ over rows and columns u of (‖u‖₁ - ‖u‖₂): 0 where each holds one number at most."""
    by_row = matrix.abs().sum(1) - matrix.norm(dim=1)
    by_column = matrix.abs().sum(0) - matrix.norm(dim=0)
    return (by_row.sum() + by_column.sum()) / matrix.numel()


def roughness(features: torch.Tensor) -> torch.Tensor:
    """L_s: the mean squared forward difference of [n, c, h, w], down and to the right."""
    return features.diff(dim=2).square().mean() + features.diff(dim=3).square().mean()


def adaptation(kind: str, channels: int, block: int, size: tuple[int, int]) -> tuple[nn.Module, int]:
    """(the adaptation network of that kind, its output channels). Raises CipherwardError for an unknown kind."""
    if kind == "none":
        return nn.Identity(), channels
    if kind != "pixel" and (size[0] % block or size[1] % block):
        raise CipherwardError(
            f"images of {size[0]}×{size[1]} have no blocks of {block}",
            "set adapt_block to the scheme's block",
        )
    kinds: dict[str, Callable[[], nn.Module]] = {
        "pixel": lambda: pixel_network(channels),
        "block": lambda: block_network(channels, block),
        "blocks": lambda: Blocks(channels, block, *size),
    }
    if kind not in kinds:
        raise unknown("adaptation", kind, ("none", *kinds))
    return kinds[kind](), WIDTH


class ShakeDrop(nn.Module):
    """The last step of a residual branch: while training times b + alpha - b·alpha, else times `alive`, its mean.

    b is 1 with probability `alive`, one a batch; alpha is uniform in [-1, 1], and on the way back beta in [0, 1],
    one an image. Source: Yamada et al. 2018, 1802.02375; the function itself is pytorchcv's.
    """

    def __init__(self, alive: float) -> None:
        super().__init__()
        self.alive = alive
        self._shake = _pytorchcv("shakedropresnet_cifar").ShakeDrop.apply

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return self.alive * x
        b = torch.bernoulli(x.new_full((1,), self.alive))
        alpha = x.new_empty(len(x), 1, 1, 1).uniform_(-1.0, 1.0)
        return self._shake(x, b, alpha)


def _size(img_size: int | tuple[int, int]) -> tuple[int, int]:
    return (img_size, img_size) if isinstance(img_size, int) else (img_size[0], img_size[1])


def shake_pyramidnet(
    num_classes: int,
    in_chans: int,
    img_size: int | tuple[int, int],
    depth: int = 110,
    alpha: int = 270,
    alive: float = 0.5,
    adapt: str = "none",
    adapt_block: int = 4,
) -> nn.Module:
    """PyramidNet of `depth` layers (6k + 2), from 16 channels to 16 + alpha.

    Unit i of L is kept with probability 1 - (1 - alive)·i/L.
    Source: Han et al. 2017, 1610.02915. Pooling takes whatever the last stage gives: 8×8 at 32 pixels, as published.
    Raises CipherwardError for another depth, and where pytorchcv is not installed.
    """
    if depth < 8 or (depth - 2) % 6 or alpha < 0 or not 0 < alive <= 1:
        raise CipherwardError(
            f"no PyramidNet of depth {depth}, alpha {alpha}, alive {alive}",
            "depth is 6k + 2, such as 20 or 110; alpha 0 or more; alive above 0, at most 1",
        )
    before, channels = adaptation(adapt, in_chans, adapt_block, _size(img_size))
    units = (depth - 2) // 6
    widths = [round(16 + alpha * (i + 1) / (3 * units)) for i in range(3 * units)]
    stages = [widths[i : i + units] for i in range(0, 3 * units, units)]
    net = _pytorchcv("pyramidnet_cifar").CIFARPyramidNet(
        stages, 16, bottleneck=False, in_channels=channels, num_classes=num_classes
    )
    net.features.final_pool = nn.AdaptiveAvgPool2d(1)
    branches = [
        unit for name, stage in net.features.named_children() if name.startswith("stage") for unit in stage
    ]
    for i, unit in enumerate(branches, 1):
        unit.bn = nn.Sequential(unit.bn, ShakeDrop(1.0 - i / len(branches) * (1.0 - alive)))
    return nn.Sequential(before, net)


def resnet18(
    num_classes: int,
    in_chans: int,
    img_size: int | tuple[int, int],
    adapt: str = "none",
    adapt_block: int = 4,
    **settings: Any,
) -> nn.Module:
    """timm's resnet18, which asks for no image size. Without adaptation it takes timm's weights."""
    before, channels = adaptation(adapt, in_chans, adapt_block, _size(img_size))
    net: nn.Module = timm.create_model("resnet18", num_classes=num_classes, in_chans=channels, **settings)
    return net if adapt == "none" else nn.Sequential(before, net)


def resnet18_small(
    num_classes: int,
    in_chans: int,
    img_size: int | tuple[int, int],
    stem_stride: int = 1,
    adapt: str = "none",
    adapt_block: int = 4,
) -> nn.Module:
    """timm's resnet18 with a 3×3 stem and no max-pool: stride 1 is the full resolution of CIFAR-10's papers."""
    before, channels = adaptation(adapt, in_chans, adapt_block, _size(img_size))
    net = timm.create_model("resnet18", num_classes=num_classes, in_chans=channels)
    net.conv1 = nn.Conv2d(channels, net.conv1.out_channels, 3, stem_stride, 1, bias=False)
    nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    net.maxpool = nn.Identity()
    return nn.Sequential(before, net)


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "resnet18": resnet18,
    "resnet18_small": resnet18_small,
    "shake_pyramidnet": shake_pyramidnet,
}


def _pytorchcv(module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(f"pytorchcv.models.{module}")
    except ImportError:
        raise CipherwardError(
            "a PyramidNet is pytorchcv's, which is not installed", "pip install '.[table1]' in the checkout"
        ) from None
