"""Networks for images that were each sealed under a key of their own.

Two images have no coordinates in common then: a network can use only what the scheme leaves unchanged whatever the
key. `order_free_vit` reads every block through such a statistic, and knows the blocks' positions only where the
scheme leaves them in place:

    values     the block as it is: nothing is hidden in it
    absolute   |v| of every value in its place, for negative-positive masks (PE)
    sorted     the values of each channel in order of size, for permutations of pixels (block_pixel_shuffle)
    mixed      all values in order of size, for permutations that mix the channels (value_shuffle)
    signed     sorted, of v or -v: whichever sums to more, for a mask of whole blocks (EtC)
    folded     |v|, sorted: for masks and permutations of values (block_pixel)
    nibbles    distances of both nibbles of every byte from their middle, sorted (LE, ELE)
    gram       inner products with all blocks, for one orthogonal map of all of them

`histogram_mlp` reads one histogram a channel of the whole image and nothing else. It is the baseline: an accuracy
that it reaches needs no network that sees shapes.

Input is that of every model: v/127.5 - 1 for a gray level v, so a negative has the opposite sign.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import nn

from crypto.errors import CipherwardError, unknown

Statistic = Literal["values", "absolute", "sorted", "mixed", "signed", "folded", "nibbles", "gram"]


def block_statistics(blocks: torch.Tensor, statistic: Statistic) -> torch.Tensor:
    """Return what a statistic tells of blocks.

    Args:
        blocks: float32 [n, N, c, s]: N blocks of an image, of s pixels in c channels.
        statistic: one of the top of this module.

    Returns:
        float32 [n, N, k], k as `statistic_size` says.

    Raises:
        CipherwardError: if the statistic is unknown.
    """
    flat = blocks.flatten(2)
    if statistic == "values":
        return flat
    if statistic == "absolute":
        return flat.abs()
    if statistic == "sorted":
        return blocks.sort(-1).values.flatten(2)
    if statistic == "mixed":
        return flat.sort(-1).values
    if statistic == "signed":
        sign = torch.where(flat.sum(-1, keepdim=True) < 0, -1.0, 1.0)
        return (flat * sign).sort(-1).values
    if statistic == "folded":
        return flat.abs().sort(-1).values
    if statistic == "nibbles":
        return _folded_nibbles(flat).sort(-1).values
    if statistic == "gram":
        return flat @ flat.transpose(1, 2) / flat.shape[-1]
    raise unknown("statistic", statistic, get_args(Statistic))


def statistic_size(statistic: Statistic, count: int, values: int) -> int:
    """Return the length of a block's statistic, for images of `count` blocks of `values` values."""
    return {"gram": count, "nibbles": 2 * values}.get(statistic, values)


def _folded_nibbles(values: torch.Tensor) -> torch.Tensor:
    """Return |n - 7.5|/7.5 of both nibbles n of every gray level: [..., k] → [..., 2k]."""
    levels = ((values + 1) * 127.5).round().clamp(0, 255)
    high = (levels / 16).floor()
    nibbles = torch.cat([high, levels - 16 * high], -1)
    return (nibbles - 7.5).abs() / 7.5


class OrderFreeViT(nn.Module):
    """A Vision Transformer over the statistics of blocks. Without positions it does not depend on their order."""

    def __init__(
        self,
        num_classes: int,
        in_chans: int,
        img_size: int | tuple[int, int],
        patch_size: int = 4,
        statistic: Statistic = "sorted",
        positions: bool = False,
        embed_dim: int = 128,
        depth: int = 4,
        num_heads: int = 4,
    ) -> None:
        """Build the network from scratch.

        Args:
            num_classes: outputs.
            in_chans: channels of the images.
            img_size: height and width of the images, or one number for both.
            patch_size: the side of a block in pixels: that of the scheme.
            statistic: what is read of a block.
            positions: learn an embedding of each block's position. A scheme that moves blocks by a key of each
                image makes it useless.
            embed_dim: the width of a token.
            depth: layers of the encoder.
            num_heads: heads of each.

        Raises:
            CipherwardError: if the statistic is unknown, or the blocks do not fit the images.
        """
        super().__init__()
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        if patch_size < 1 or height % patch_size or width % patch_size:
            raise CipherwardError(
                f"images of {height}×{width} cannot be divided into blocks of {patch_size}",
                "set patch_size to the scheme's block",
            )
        if statistic not in get_args(Statistic):
            raise unknown("statistic", statistic, get_args(Statistic))
        count = (height // patch_size) * (width // patch_size)
        self.patch_size, self.statistic = patch_size, statistic
        size = statistic_size(statistic, count, in_chans * patch_size**2)
        self.embed = nn.Sequential(nn.Linear(size, embed_dim), nn.GELU(), nn.Linear(embed_dim, embed_dim))
        self.positions = (
            nn.Parameter(nn.init.trunc_normal_(torch.empty(1, count, embed_dim), std=0.02))
            if positions
            else None
        )
        layer = nn.TransformerEncoderLayer(
            embed_dim, num_heads, 4 * embed_dim, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(
            layer, depth, nn.LayerNorm(embed_dim), enable_nested_tensor=False
        )
        self.head = nn.Linear(embed_dim, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits [n, classes] of images [n, c, h, w]."""
        tokens = self.embed(block_statistics(_to_blocks(x, self.patch_size), self.statistic))
        if self.positions is not None:
            tokens = tokens + self.positions
        logits: torch.Tensor = self.head(self.encoder(tokens).mean(1))
        return logits


def _to_blocks(x: torch.Tensor, side: int) -> torch.Tensor:
    """Return [n, c, h, w] as blocks [n, N, c, side²]."""
    blocks = x.unfold(2, side, side).unfold(3, side, side)  # [n, c, rows, columns, side, side]
    return blocks.permute(0, 2, 3, 1, 4, 5).flatten(1, 2).flatten(3)


class HistogramMLP(nn.Module):
    """Two layers over the histograms of an image's channels: 32 equal bins each, of values in [-1, 1]."""

    BINS = 32

    def __init__(
        self, num_classes: int, in_chans: int, img_size: int | tuple[int, int], embed_dim: int = 128
    ) -> None:
        """Build the network from scratch; `img_size` makes no difference."""
        super().__init__()
        del img_size
        self.layers = nn.Sequential(
            nn.Linear(in_chans * self.BINS, embed_dim), nn.GELU(), nn.Linear(embed_dim, num_classes)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits [n, classes] of images [n, c, h, w]."""
        bins = ((x.flatten(2) + 1) * (self.BINS / 2)).long().clamp(0, self.BINS - 1)
        counts = x.new_zeros(*bins.shape[:2], self.BINS)
        counts.scatter_add_(2, bins, torch.ones_like(counts[..., :1]).expand_as(bins))
        # A share of all pixels is small in most bins: its square root spreads them.
        logits: torch.Tensor = self.layers((counts / bins.shape[-1]).sqrt().flatten(1))
        return logits
