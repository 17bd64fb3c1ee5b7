"""The rows of the table by kind of picture: which schemes meet which kinds, in blocks of what side and what pools."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from benchmarks.picture_sources import KINDS, side_of


@dataclass(frozen=True)
class Row:
    """One scheme on one kind of picture."""

    scheme: str
    kind: str
    block: int
    pools: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)
    attack: str = "pooled_key_recovery"

    @property
    def name(self) -> str:
        """The row's name in the journal."""
        return json.dumps([self.scheme, self.kind, self.block, self.options])


COLOURS = {"colour_shuffle": True}
_BLOCKS = {"224": 16, "64": 8, "32": 4, "28": 4}
#: Block and sub-block of sub_block_etc by image side: at least four main blocks and four sub-blocks.
_SUB_BLOCKS = {"224": (16, 4), "64": (8, 4), "32": (8, 4), "28": (4, 2)}
_GRAY = ("mri 224", "mri 64", "pneumonia 28", "phantoms 64")
#: Images of a kind where the largest pools would leave no gallery: there are 162 tiles of tissue, and 300 enlarged
#: images of CIFAR-10.
_LARGEST_POOL = {"tissue 224": 100, "tissue 32": 100, "tissue 32 coarse": 100, "cifar 224": 100}


def _rows() -> Iterator[Row]:
    """Yield a row for every scheme and every kind that it is meant for."""
    for kind in KINDS:
        size = str(side_of(kind))
        # MRI at 64 has the blocks of the comparison's networks.
        block, is_small = (4, True) if kind == "mri 64" else (_BLOCKS[size], size in ("32", "28"))
        # Seams of these tell little: the larger pools say how many are enough.
        needs_more = kind in ("tissue 32 coarse", "mri 64")
        quick = (1, 2, 5, 10, 20, 50, 100) if needs_more else (1, 2, 5, 10, 20)
        large = tuple(n for n in (100, 300, 500) if n <= _LARGEST_POOL.get(kind, 500))
        for scheme in ("block_pixel_shuffle", "value_shuffle", "etc", "pe"):
            yield Row(scheme, kind, block, quick)
        if kind not in _GRAY:
            yield Row("pe", kind, block, quick, COLOURS)
        main, sub = _SUB_BLOCKS[size]
        yield Row("sub_block_etc", kind, main, (5, 10, 20), {"sub_block": sub})
        if kind == "cifar 32":  # as the comparison has it
            yield Row("sub_block_etc", kind, 4, (5, 10, 20), {"sub_block": 2})
        is_compared = kind in ("mri 224", "cifar 224")
        yield Row("le", kind, block, quick)
        if is_small:
            yield Row("ele", kind, 4, tuple(n for n in (50, *large) if n != 300))
        else:
            smallest = (1, 2, 5, 10, 20) if is_compared else ()  # the comparison has networks for these
            yield Row("ele", kind, block, (*smallest, 50, 100, *large[2:]))
        yield Row("block_pixel", kind, block, tuple(n for n in (20, *large) if n != 500))
        for scheme in ("orthogonal", "noisy_orthogonal"):
            yield Row(scheme, kind, block, (10, 50), attack="moment_matching")
        yield Row("patch_shuffle", kind, block, (1,), attack="jigsaw")
        # A patch of 28×28 images is one of 7: eight does not divide them, and tokens of four hold sixteen values.
        yield Row(
            "neuracrypt", kind, 7 if size == "28" else _BLOCKS[size], large[:2], attack="moment_matching"
        )
        # Its noise hides the inner products that the attack begins with, until a pool averages it out.
        yield Row("block_projection", kind, block, (10, 20, *large[:2]), attack="moment_matching")


ROWS = tuple(_rows())
