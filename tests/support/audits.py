"""Small audits: phantom images sealed from memory, and the guesses that the suite writes about them."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from crypto.arrays import Images, Int64Array
from crypto.key import SecretKey
from crypto.sets.dataset import SealedDataset
from parties.scoring.score_ledger import ScoreLedger
from parties.sealing.place import Place
from parties.sources.phantom import Phantom


class MakeSealed(Protocol):
    """The fixture `make_sealed`: seals arrays into a folder of that name below tmp_path."""

    def __call__(
        self,
        name: str,
        images: Images,
        labels: Int64Array,
        scheme: str = "block_pixel_shuffle",
        block: int = 8,
        key: SecretKey = ...,
        shard_bytes: int = ...,
    ) -> SealedDataset:
        """Return the sealed set."""


def phantoms(
    count: int, split: str = "train", size: int = 64, channels: int = 1
) -> tuple[Images, Int64Array]:
    """Return phantom images uint8 [count, size, size, channels] and their labels."""
    source = Phantom(size, channels, count, 0, split)
    return np.stack([source.read(i) for i in range(count)]), source.labels


def guess_files(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every guess in a folder, by its path there."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.safetensors"))}


def forget_scores(place: Place) -> None:
    """Make a hospital one that has not scored yet."""
    ledger = ScoreLedger(place)
    for path in (ledger.path, ledger.head_path):
        path.unlink(missing_ok=True)
