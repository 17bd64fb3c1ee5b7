"""The networks of the SIA-GAN attack: generator, discriminator, classifier.

Pictures are float32 [n, c, h, w] in -1…1.

Source: Madono et al., IEEE Access 9 (2021), figures 3 to 5, tables 4 to 6, and the authors' code.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

#: Features of every pixel behind the blocks' networks, and channels of the decoder, from the source.
_FEATURES, _WIDTH = 16, 64
#: Of every leaky ReLU, from the source.
_SLOPE = 0.1
#: Rounds of normalising rows and columns in Sinkhorn's iteration. Ours, set by hand; not tuned further.
_SINKHORN_ROUNDS = 20


class BlockNetworks(nn.Module):
    """Map each block by a spectrally normalised linear map, batch norm and leaky ReLU.

    Args:
        channels: of the pictures.
        block: side B of a block.
        cells: blocks down and across.
        per_block: True for a map and a batch norm for every block; otherwise all blocks share one.
    """

    left: torch.Tensor
    right: torch.Tensor

    def __init__(self, channels: int, block: int, cells: tuple[int, int], per_block: bool) -> None:
        super().__init__()
        self.block, self.cells, self.per_block = block, cells, per_block
        values, outs = channels * block**2, _FEATURES * block**2
        maps = cells[0] * cells[1] if per_block else 1
        bound = 1.0 / math.sqrt(values)  # torch's initial range of convolutions
        self.weight = nn.Parameter(torch.empty(maps, outs, values).uniform_(-bound, bound))
        self.norm = nn.BatchNorm1d(maps * outs) if per_block else nn.BatchNorm2d(outs)
        self.register_buffer("left", functional.normalize(torch.randn(maps, outs, 1), dim=1))
        self.register_buffer("right", functional.normalize(torch.randn(maps, values, 1), dim=1))

    def normalised_weights(self) -> torch.Tensor:
        """Return the weights [maps, 16B², B²c] over the estimates of their largest singular values.

        In training mode the estimates take one step of power iteration at every call.
        """
        if self.training:
            with torch.no_grad():
                self.right.copy_(functional.normalize(self.weight.transpose(1, 2) @ self.left, dim=1))
                self.left.copy_(functional.normalize(self.weight @ self.right, dim=1))
        # Copies, because a later call changes the buffers while this call's gradient is still needed.
        left, right = self.left.clone(), self.right.clone()
        return self.weight / (left.transpose(1, 2) @ self.weight @ right)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map [n, c, h, w] to [n, 16B², y, x], one cell for each block."""
        n, block, (down, across) = len(images), self.block, self.cells
        cut = images.reshape(n, -1, down, block, across, block).permute(2, 4, 0, 1, 3, 5)
        blocks = cut.reshape(down * across, n, -1)
        features = blocks @ self.normalised_weights().transpose(1, 2)  # [N, n, 16B²]
        if self.per_block:
            flat = features.permute(1, 0, 2).reshape(n, -1)
            normed = self.norm(flat).reshape(n, down, across, -1).permute(0, 3, 1, 2)
        else:
            normed = self.norm(features.permute(1, 2, 0).reshape(n, -1, down, across))
        return functional.leaky_relu(normed, _SLOPE)


class SoftPermutation(nn.Module):
    """Mix cells by a learnable matrix whose rows and columns sum to 1.

    Sinkhorn's iteration in logarithms normalises it. Where one entry of every row stands out, it is a permutation.
    Ours.
    """

    def __init__(self, cells: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.randn(cells, cells))

    def matrix(self) -> torch.Tensor:
        """Return [N, N]: how much of cell i goes to cell j."""
        logs: torch.Tensor = self.logits
        for _ in range(_SINKHORN_ROUNDS):
            logs = logs.log_softmax(1).log_softmax(0)
        return logs.exp()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map [n, f, y, x] to the same shape."""
        return (features.flatten(2) @ self.matrix()).reshape(features.shape)


class Generator(nn.Module):
    """Decode ciphertexts into pictures: the blocks' networks, a permutation of the blocks, and the decoder.

    Args:
        channels: of the pictures.
        block: side of a block.
        cells: blocks down and across.
        per_block: True for a network for every block; otherwise all blocks share one.
        moves_blocks: True for a learnable permutation of the blocks; otherwise they stay in place.
    """

    def __init__(
        self, channels: int, block: int, cells: tuple[int, int], per_block: bool, moves_blocks: bool
    ) -> None:
        super().__init__()
        self.per_block = per_block
        self.blocks = BlockNetworks(channels, block, cells, per_block)
        self.places = SoftPermutation(cells[0] * cells[1]) if moves_blocks else nn.Identity()
        self.shuffle = nn.PixelShuffle(block)
        self.first = _normed(_FEATURES, _WIDTH)
        self.residual = nn.ModuleList(
            nn.Sequential(_normed(_WIDTH, _WIDTH), nn.LeakyReLU(_SLOPE), _normed(_WIDTH, _WIDTH))
            for _ in range(3)
        )
        self.second = _normed(_WIDTH, _WIDTH)
        self.last = spectral_norm(nn.Conv2d(_WIDTH, channels, 3, padding=1, bias=False))

    def forward(self, sealed: torch.Tensor) -> torch.Tensor:
        """Map [n, c, h, w] in -1…1 to the same shape and range."""
        features = self.shuffle(self.places(self.blocks(sealed)))
        features = functional.leaky_relu(self.first(features), _SLOPE)
        for block in self.residual:
            features = functional.leaky_relu(block(features) + features, _SLOPE)
        features = functional.leaky_relu(self.second(features), _SLOPE)
        return torch.tanh(self.last(features))


def _normed(ins: int, outs: int) -> nn.Sequential:
    """Return a spectrally normalised convolution of 3×3 with batch norm."""
    return nn.Sequential(
        spectral_norm(nn.Conv2d(ins, outs, 3, padding=1, bias=False)), nn.BatchNorm2d(outs)
    )


class SelfAttention(nn.Module):
    """Add to every place a learnable share (0 at first) of what it attends to, as in SAGAN."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.query, self.key = nn.Conv2d(features, features // 8, 1), nn.Conv2d(features, features // 8, 1)
        self.value = nn.Conv2d(features, features, 1)
        self.share = nn.Parameter(torch.zeros(1))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map [n, f, y, x] to the same shape."""
        query, key = self.query(features).flatten(2), self.key(features).flatten(2)
        attention = (query.transpose(1, 2) @ key).softmax(2)  # [n, place, attended place]
        attended = self.value(features).flatten(2) @ attention.transpose(1, 2)
        result: torch.Tensor = self.share * attended.reshape(features.shape) + features
        return result


class Discriminator(nn.Module):
    """Score pictures: positive for what it takes for plain.

    Args:
        image_shape: (height, width, channels) of the pictures.
        width: channels of the last convolution, 1024 in the paper.
    """

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
        """Map [n, c, h, w] to scores [n]."""
        scores: torch.Tensor = self.judge(self.features(images))
        return scores.flatten()


def build_classifier(channels: int, classes: int) -> nn.Sequential:
    """Return an untrained classifier, [n, c, h, w] to [n, classes].

    Three convolutions and a mean over the picture. Ours.
    """
    layers: list[nn.Module] = []
    for ins, outs, stride in ((channels, 32, 1), (32, 64, 2), (64, 128, 2)):
        conv = nn.Conv2d(ins, outs, 3, stride=stride, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(outs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, classes))
