"""The networks of SIA-GAN: generator, discriminator, classifier. Pictures are float32 [n, c, h, w] in -1…1.

Source: Madono et al., IEEE Access 9 (2021), figures 3 to 5, tables 4 to 6, and the authors' code.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

_FEATURES, _WIDTH = 16, 64
_SLOPE = 0.1
_ROUNDS = 20  # of normalising rows and columns


class BlockNetworks(nn.Module):
    """[n, c, h, w] → [n, 16B², y, x]: each block by a spectrally normalised linear map, batch norm, leaky ReLU.

    own: a map and a batch norm for every block; otherwise all blocks share one.
    """

    def __init__(self, channels: int, block: int, cells: tuple[int, int], own: bool) -> None:
        super().__init__()
        self.block, self.cells, self.own = block, cells, own
        values, outs = channels * block**2, _FEATURES * block**2
        maps = cells[0] * cells[1] if own else 1
        bound = 1.0 / math.sqrt(values)  # as torch begins convolutions
        self.weight = nn.Parameter(torch.empty(maps, outs, values).uniform_(-bound, bound))
        self.norm = nn.BatchNorm1d(maps * outs) if own else nn.BatchNorm2d(outs)
        self.register_buffer("left", functional.normalize(torch.randn(maps, outs, 1), dim=1))
        self.register_buffer("right", functional.normalize(torch.randn(maps, values, 1), dim=1))
        self.left: torch.Tensor
        self.right: torch.Tensor

    def maps(self) -> torch.Tensor:
        """[maps, 16B², B²c]: the weights over the estimates of their largest singular values.

        In training the estimates take one step of power iteration at every call.
        """
        if self.training:
            with torch.no_grad():
                self.right.copy_(functional.normalize(self.weight.transpose(1, 2) @ self.left, dim=1))
                self.left.copy_(functional.normalize(self.weight @ self.right, dim=1))
        left, right = (
            self.left.clone(),
            self.right.clone(),
        )  # a later call must not change them under the gradient
        return self.weight / (left.transpose(1, 2) @ self.weight @ right)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """See the class."""
        n, block, (down, across) = len(images), self.block, self.cells
        cut = images.reshape(n, -1, down, block, across, block).permute(2, 4, 0, 1, 3, 5)
        blocks = cut.reshape(down * across, n, -1)
        features = blocks @ self.maps().transpose(1, 2)  # [N, n, 16B²]
        if self.own:
            flat = features.permute(1, 0, 2).reshape(n, -1)
            normed = self.norm(flat).reshape(n, down, across, -1).permute(0, 3, 1, 2)
        else:
            normed = self.norm(features.permute(1, 2, 0).reshape(n, -1, down, across))
        return functional.leaky_relu(normed, _SLOPE)


class Places(nn.Module):
    """[n, f, y, x] → the same: cells mixed by a learnable matrix whose rows and columns sum to 1.

    Sinkhorn's iteration in logarithms; where one entry of every row stands out it is a permutation. Ours.
    """

    def __init__(self, cells: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.randn(cells, cells))

    def matrix(self) -> torch.Tensor:
        """[N, N]: how much of cell i stands at cell j."""
        logs = self.logits
        for _ in range(_ROUNDS):
            logs = logs.log_softmax(1).log_softmax(0)
        return logs.exp()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return (features.flatten(2) @ self.matrix()).reshape(features.shape)


class Generator(nn.Module):
    """Ciphertexts → pictures: the blocks' networks, their places if `places`, and the decoder."""

    def __init__(self, channels: int, block: int, cells: tuple[int, int], own: bool, places: bool) -> None:
        super().__init__()
        self.own = own
        self.blocks = BlockNetworks(channels, block, cells, own)
        self.places = Places(cells[0] * cells[1]) if places else nn.Identity()
        self.shuffle = nn.PixelShuffle(block)
        self.first = _normed(_FEATURES, _WIDTH)
        self.residual = nn.ModuleList(
            nn.Sequential(_normed(_WIDTH, _WIDTH), nn.LeakyReLU(_SLOPE), _normed(_WIDTH, _WIDTH))
            for _ in range(3)
        )
        self.second = _normed(_WIDTH, _WIDTH)
        self.last = spectral_norm(nn.Conv2d(_WIDTH, channels, 3, padding=1, bias=False))

    def forward(self, sealed: torch.Tensor) -> torch.Tensor:
        """[n, c, h, w] in -1…1 → the same."""
        features = self.shuffle(self.places(self.blocks(sealed)))
        features = functional.leaky_relu(self.first(features), _SLOPE)
        for block in self.residual:
            features = functional.leaky_relu(block(features) + features, _SLOPE)
        features = functional.leaky_relu(self.second(features), _SLOPE)
        return torch.tanh(self.last(features))


def _normed(ins: int, outs: int) -> nn.Sequential:
    return nn.Sequential(
        spectral_norm(nn.Conv2d(ins, outs, 3, padding=1, bias=False)), nn.BatchNorm2d(outs)
    )


class SelfAttention(nn.Module):
    """[n, f, y, x] → the same, plus a learnable share (0 at first) of what each place attends to (SAGAN)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.query, self.key = nn.Conv2d(features, features // 8, 1), nn.Conv2d(features, features // 8, 1)
        self.value = nn.Conv2d(features, features, 1)
        self.share = nn.Parameter(torch.zeros(1))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """See the class."""
        query, key = self.query(features).flatten(2), self.key(features).flatten(2)
        attention = (query.transpose(1, 2) @ key).softmax(2)  # [n, place, attended place]
        attended = self.value(features).flatten(2) @ attention.transpose(1, 2)
        return self.share * attended.reshape(features.shape) + features


class Discriminator(nn.Module):
    """[n, c, h, w] → [n]: positive for what it takes for plain. width: the last channels, 1024 in the paper."""

    def __init__(self, image_shape: tuple[int, int, int], width: int = 1024) -> None:
        super().__init__()
        height, across, channels = image_shape
        layers: list[nn.Module] = []
        for ins, outs in ((channels, width // 8), (width // 8, width // 4), (width // 4, width // 2)):
            layers += [spectral_norm(nn.Conv2d(ins, outs, 3, padding=1)), nn.LeakyReLU(_SLOPE)]
            layers += [spectral_norm(nn.Conv2d(outs, outs, 4, stride=2, padding=1)), nn.LeakyReLU(_SLOPE)]
        layers += [SelfAttention(width // 2), spectral_norm(nn.Conv2d(width // 2, width, 3, padding=1))]
        self.features = nn.Sequential(*layers, SelfAttention(width), nn.Flatten())
        self.judge = spectral_norm(nn.Linear(width * (height // 8) * (across // 8), 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """See the class."""
        judged: torch.Tensor = self.judge(self.features(images))
        return judged.flatten()


def classifier_of(channels: int, classes: int) -> nn.Sequential:
    """[n, c, h, w] → [n, classes]: three convolutions and a mean over the picture. Ours."""
    layers: list[nn.Module] = []
    for ins, outs, stride in ((channels, 32, 1), (32, 64, 2), (64, 128, 2)):
        conv = nn.Conv2d(ins, outs, 3, stride=stride, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(outs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, classes))
