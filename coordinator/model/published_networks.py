"""Networks that timm does not offer under one name: of published encryption schemes, and for keys of each image.

    resnet18            timm's, with the stem for ImageNet: 7×7 with stride 2, then a max-pool (any image size)
    resnet18_small      the same with a 3×3 stem of stride `stem_stride` (1 or 2) and no max-pool, for 28 to 64 pixels
    shake_pyramidnet    PyramidNet with ShakeDrop; depth 110 and alpha 270 are the published size

The two for keys of each image, order_free_vit and histogram_mlp, are in order_free.py. Those above take `adapt`, the
adaptation network of a scheme. It comes first and has blocks of `adapt_block` pixels:

    none    nothing
    pixel   1×1 convolution, for pixel-based encryption (Sirichotedumrong & Kiya 2019)
    block   one convolution per block, the same for all blocks, for LE (Tanaka 2018)
    blocks  a separate network for each block, then a learnt permutation of blocks, for ELE (Madono et al. 2020)

timm's ResNet, and pytorchcv's PyramidNet and ShakeDrop function, are used as they are. pytorchcv is an extra
(`pip install '.[table1]'`) and is imported when a PyramidNet is built. Three things differ from the papers. We could
not find the width of the 1×1 convolution or the initial block permutation of ELE, so both are our choice. LE's 256
filters are 16 for each pixel of a block, so that blocks other than 4×4 are possible.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from coordinator.model.order_free import HistogramMLP, OrderFreeViT
from crypto.errors import CipherwardError, unknown

#: Output channels of an adaptation network.
WIDTH = 16
#: Weights of ELE's two extra losses: permutation_loss of its block matrix, and smoothness_loss of its features.
LOSS_WEIGHTS = (0.001, 0.1)


def pixel_adaptation(channels: int) -> nn.Module:
    """Return a network that maps each pixel separately: [n, c, h, w] → [n, 16, h, w]."""
    return nn.Sequential(nn.Conv2d(channels, WIDTH, 1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU())


def block_adaptation(channels: int, block: int) -> nn.Module:
    """Return a network that maps each block separately, all with the same weights: [n, c, h, w] → [n, 16, h, w].

    It is a B×B convolution with stride B, then PixelShuffle.
    """
    filters = WIDTH * block**2
    return nn.Sequential(
        nn.Conv2d(channels, filters, block, block, bias=False),
        nn.BatchNorm2d(filters),
        nn.LeakyReLU(0.1),
        nn.PixelShuffle(block),
    )


class PerBlockAdaptation(nn.Module):
    """A separate network for each block, then a mix of the blocks by a learnt N×N matrix U.

    It maps [n, c, h, w] to [n, 16, h, w]. In training mode it adds 0.001·L_U + 0.1·L_s to any loss that is computed
    from its output: L_U pulls U towards a permutation, L_s smooths the features (the mean of their squared forward
    differences).
    """

    def __init__(self, channels: int, block: int, height: int, width: int) -> None:
        super().__init__()
        self.block, self.grid = block, (height // block, width // block)
        count, filters = self.grid[0] * self.grid[1], WIDTH * block**2
        # Saved models hold the weights under the names `each` and `permutation`.
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
        """Map images [n, c, h, w] to features [n, 16, h, w]."""
        side, (_, across) = self.block, self.grid
        places = (divmod(i, across) for i in range(len(self.each)))
        blocks = [x[..., r * side : (r + 1) * side, c * side : (c + 1) * side] for r, c in places]
        outputs = [net(block).flatten(1) for net, block in zip(self.each, blocks, strict=True)]
        mixed = torch.stack(outputs, 2) @ self.permutation  # [n, filters, N]
        features: torch.Tensor = self.shuffle(mixed.unflatten(2, self.grid))  # type: ignore[no-untyped-call]
        if self.training:
            permutation_weight, smoothness_weight = LOSS_WEIGHTS
            extra = permutation_weight * permutation_loss(self.permutation)
            extra = extra + smoothness_weight * smoothness_loss(features)
            features = _AddLoss.apply(features, extra)  # type: ignore[no-untyped-call]
        return features


class _AddLoss(torch.autograd.Function):
    """Pass features through unchanged, and give `extra` the gradient of a term that is added to the loss.

    The training loop of every other model can therefore train this one too.
    """

    @staticmethod
    def forward(ctx: Any, features: torch.Tensor, extra: torch.Tensor) -> torch.Tensor:
        """Return the features."""
        ctx.save_for_backward(extra)
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the gradients of the features and of the extra loss, which is 1."""
        (extra,) = ctx.saved_tensors
        return grads[0], torch.ones_like(extra)


def permutation_loss(matrix: torch.Tensor) -> torch.Tensor:
    """Return L_U = (1/N²)·Σ (‖u‖₁ - ‖u‖₂) over all rows and columns u: 0 if each has at most one non-zero entry."""
    by_row = matrix.abs().sum(1) - matrix.norm(dim=1)
    by_column = matrix.abs().sum(0) - matrix.norm(dim=0)
    loss: torch.Tensor = (by_row.sum() + by_column.sum()) / matrix.numel()
    return loss


def smoothness_loss(features: torch.Tensor) -> torch.Tensor:
    """Return L_s: the mean squared forward difference of [n, c, h, w], downwards and to the right."""
    return features.diff(dim=2).square().mean() + features.diff(dim=3).square().mean()


def build_adaptation(kind: str, channels: int, block: int, size: tuple[int, int]) -> tuple[nn.Module, int]:
    """Return the adaptation network of a kind, and the number of its output channels.

    Args:
        kind: none, pixel, block or blocks (see the top of this module).
        channels: channels of the images.
        block: the side of a block in pixels.
        size: (height, width) of the images.

    Raises:
        CipherwardError: if the kind is unknown, or if the blocks do not fit the images.
    """
    if kind == "none":
        return nn.Identity(), channels
    if kind != "pixel" and (size[0] % block or size[1] % block):
        raise CipherwardError(
            f"images of {size[0]}×{size[1]} cannot be divided into blocks of {block}",
            "set adapt_block to the scheme's block",
        )
    builders: dict[str, Callable[[], nn.Module]] = {
        "pixel": lambda: pixel_adaptation(channels),
        "block": lambda: block_adaptation(channels, block),
        "blocks": lambda: PerBlockAdaptation(channels, block, *size),
    }
    if kind not in builders:
        raise unknown("adaptation", kind, ("none", *builders))
    return builders[kind](), WIDTH


class ShakeDrop(nn.Module):
    """The last step of a residual branch: a random factor in training, its mean `alive` otherwise.

    The factor is b + alpha - b·alpha. b is 1 with probability `alive`, one draw per batch; alpha is uniform in
    [-1, 1], one draw per image. The backward pass replaces alpha by beta, uniform in [0, 1], one draw per image.
    Source: Yamada et al. 2018, 1802.02375. The function itself is pytorchcv's.
    """

    def __init__(self, alive: float) -> None:
        super().__init__()
        self.alive = alive
        self._shake: Callable[..., torch.Tensor] = _pytorchcv("shakedropresnet_cifar").ShakeDrop.apply

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scale a branch [n, c, h, w]."""
        if not self.training:
            return self.alive * x
        b = torch.bernoulli(x.new_full((1,), self.alive))
        alpha = x.new_empty(len(x), 1, 1, 1).uniform_(-1.0, 1.0)
        return self._shake(x, b, alpha)


def _height_and_width(img_size: int | tuple[int, int]) -> tuple[int, int]:
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
    """Build a PyramidNet with ShakeDrop that widens from 16 channels to 16 + alpha.

    The pooling takes any size of the last stage: 8×8 for images of 32 pixels, as published.
    Source: Han et al. 2017, 1610.02915.

    Args:
        num_classes: outputs.
        in_chans: channels of the images.
        img_size: height and width of the images, or one number for both.
        depth: layers, 6k + 2.
        alpha: the channels that are added from the first to the last unit.
        alive: the probability that ShakeDrop keeps the last unit. Unit i of L is kept with probability
            1 - (1 - alive)·i/L.
        adapt: the adaptation network.
        adapt_block: its block in pixels.

    Raises:
        CipherwardError: if depth, alpha or alive is impossible, and if pytorchcv is not installed.
    """
    if depth < 8 or (depth - 2) % 6 or alpha < 0 or not 0 < alive <= 1:
        raise CipherwardError(
            f"no PyramidNet of depth {depth}, alpha {alpha}, alive {alive}",
            "depth is 6k + 2, such as 20 or 110; alpha is 0 or more; alive is above 0 and at most 1",
        )
    adapter, channels = build_adaptation(adapt, in_chans, adapt_block, _height_and_width(img_size))
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
    return nn.Sequential(adapter, net)


def resnet18(
    num_classes: int,
    in_chans: int,
    img_size: int | tuple[int, int],
    adapt: str = "none",
    adapt_block: int = 4,
    **settings: Any,
) -> nn.Module:
    """Build timm's resnet18, which itself takes no image size. Without adaptation it can load timm's weights."""
    from coordinator.model.torchvision_fix import timm  # takes more than a second to load

    adapter, channels = build_adaptation(adapt, in_chans, adapt_block, _height_and_width(img_size))
    net: nn.Module = timm.create_model("resnet18", num_classes=num_classes, in_chans=channels, **settings)
    return net if adapt == "none" else nn.Sequential(adapter, net)


def resnet18_small(
    num_classes: int,
    in_chans: int,
    img_size: int | tuple[int, int],
    stem_stride: int = 1,
    adapt: str = "none",
    adapt_block: int = 4,
) -> nn.Module:
    """Build timm's resnet18 with a 3×3 stem and no max-pool. Stride 1 keeps the full resolution, as for CIFAR-10."""
    from coordinator.model.torchvision_fix import timm  # takes more than a second to load

    adapter, channels = build_adaptation(adapt, in_chans, adapt_block, _height_and_width(img_size))
    net = timm.create_model("resnet18", num_classes=num_classes, in_chans=channels)
    net.conv1 = nn.Conv2d(channels, net.conv1.out_channels, 3, stem_stride, 1, bias=False)
    nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    net.maxpool = nn.Identity()
    return nn.Sequential(adapter, net)


#: Networks that a plan can name besides timm's.
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "resnet18": resnet18,
    "resnet18_small": resnet18_small,
    "shake_pyramidnet": shake_pyramidnet,
    "order_free_vit": OrderFreeViT,
    "histogram_mlp": HistogramMLP,
}


def _pytorchcv(module: str) -> Any:
    """Import a module of pytorchcv's models. Raise CipherwardError if pytorchcv is not installed."""
    try:
        return importlib.import_module(f"pytorchcv.models.{module}")
    except ImportError:
        raise CipherwardError(
            "PyramidNet needs pytorchcv, which is not installed",
            "run: pip install '.[table1]' in the checkout",
        ) from None
