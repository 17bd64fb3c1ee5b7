"""Find images that are in two splits or under two classes: the same file, or nearly the same picture."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import blake3
import numpy as np
from numpy.typing import NDArray

from crypto.arrays import BoolArray, Int64Array
from parties.checking.glance import Look
from parties.sources.catalog import Item

#: Of a pair of near copies: the bits of the hashes that may differ, and the mean difference of the small pictures in
#: gray levels. Set on brain MRI, where neighbouring slices of one patient differ by more; not tuned further.
NEAR_BITS, NEAR_LEVELS = 4, 3.0
#: Pairs of images that are compared, at most. More take longer than a few seconds.
MAX_PAIRS = 300_000_000
_BLOCK = 256  # images compared at a time


Name = TypeVar("Name", str, int)


@dataclass
class Copies(Generic[Name]):
    """Pairs of copies: those in two splits, those under two classes, and whether all images were compared.

    Each image is in one pair of a list at most, as the second of it.
    """

    in_two_splits: list[tuple[Name, Name]] = field(default_factory=list)
    under_two_classes: list[tuple[Name, Name]] = field(default_factory=list)
    is_complete: bool = True


def exact_copies(root: Path, items: Sequence[Item], splits: Sequence[str], max_bytes: int) -> Copies[str]:
    """Return pairs of equal files in different splits or classes.

    Files of one length are read, as long as they are not more than `max_bytes` together.
    """
    kinds = {item.path: (split, item.label) for item, split in zip(items, splits, strict=True)}
    by_length: defaultdict[int, list[str]] = defaultdict(list)
    for path in kinds:
        by_length[(root / path).stat().st_size].append(path)
    candidates = {n: paths for n, paths in by_length.items() if len({kinds[path] for path in paths}) > 1}
    found = Copies[str]()
    for length, paths in sorted(candidates.items()):
        max_bytes -= length * len(paths)
        if max_bytes < 0:
            found.is_complete = False
            return found
        by_content: defaultdict[bytes, list[str]] = defaultdict(list)
        for path in paths:
            by_content[_digest(root / path)].append(path)
        for same in by_content.values():
            split, label = kinds[same[0]]
            found.in_two_splits += [(same[0], path) for path in same[1:] if kinds[path][0] != split]
            found.under_two_classes += [(same[0], path) for path in same[1:] if kinds[path][1] != label]
    return found


def _digest(path: Path) -> bytes:
    return blake3.blake3(path.read_bytes()).digest()


def near_copies(looks: Sequence[Look | None], splits: Sequence[str], labels: Int64Array) -> Copies[int]:
    """Return pairs of rows in different splits or classes whose pictures are nearly the same.

    Images of one gray value are left out.
    """
    rows = np.array(
        [i for i, seen in enumerate(looks) if seen is not None and np.ptp(seen.thumb) > 0], np.int64
    )
    if not len(rows):
        return Copies()
    known = [seen for seen in looks if seen is not None and np.ptp(seen.thumb) > 0]
    bits = np.array([seen.bits for seen in known], np.uint64)
    thumbs = np.stack([seen.thumb.reshape(-1) for seen in known]).astype(np.int16)
    codes = np.unique(np.array(splits)[rows], return_inverse=True)[1]
    found = Copies[int]()
    limit = min(len(rows), max(1, MAX_PAIRS // len(rows)))
    for start in range(0, limit, _BLOCK):
        block = np.arange(start, min(start + _BLOCK, limit))
        near = np.bitwise_count(bits[block, None] ^ bits[None]) <= NEAR_BITS
        near &= np.arange(len(rows))[None] < block[:, None]
        for pairs, kinds in ((found.in_two_splits, codes), (found.under_two_classes, labels[rows])):
            differ = near & (kinds[block, None] != kinds[None])
            pairs += [(int(rows[other]), int(rows[i])) for i, other in _confirm(block, differ, thumbs)]
    found.is_complete = limit == len(rows)
    return found


def _confirm(block: Int64Array, near: BoolArray, thumbs: NDArray[np.int16]) -> list[tuple[int, int]]:
    """Return (image, an image that is its near copy) of candidates whose small pictures agree."""
    result = []
    for place in np.flatnonzero(near.any(1)):
        others = np.flatnonzero(near[place])[:1000]
        distance = np.abs(thumbs[others] - thumbs[block[place]]).mean(1)
        if distance.min() <= NEAR_LEVELS:
            result.append((int(block[place]), int(others[distance.argmin()])))
    return result
