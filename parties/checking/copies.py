"""Find images that are in two splits: the same file, or nearly the same picture."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

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


def exact_copies(
    root: Path, items: Sequence[Item], splits: Sequence[str], max_bytes: int
) -> tuple[list[tuple[str, str]], bool]:
    """Return pairs of equal files in different splits, and whether all were compared.

    Files of one length are read, as long as they are not more than `max_bytes` together.
    """
    first = {item.path: split for item, split in zip(items, splits, strict=True)}
    by_length: defaultdict[int, list[str]] = defaultdict(list)
    for path in first:
        by_length[(root / path).stat().st_size].append(path)
    candidates = {n: paths for n, paths in by_length.items() if len({first[path] for path in paths}) > 1}
    pairs: list[tuple[str, str]] = []
    for length, paths in sorted(candidates.items()):
        max_bytes -= length * len(paths)
        if max_bytes < 0:
            return pairs, False
        by_content: defaultdict[bytes, list[str]] = defaultdict(list)
        for path in paths:
            by_content[_digest(root / path)].append(path)
        for same in by_content.values():
            pairs += [(same[0], path) for path in same[1:] if first[path] != first[same[0]]]
    return pairs, True


def _digest(path: Path) -> bytes:
    return blake3.blake3(path.read_bytes()).digest()


def near_copies(looks: Sequence[Look | None], splits: Sequence[str]) -> tuple[list[tuple[int, int]], bool]:
    """Return pairs of rows in different splits whose pictures are nearly the same, and whether all were compared.

    Each image is in one pair at most, as the second of it. Images of one gray value are left out.
    """
    rows = np.array(
        [i for i, seen in enumerate(looks) if seen is not None and np.ptp(seen.thumb) > 0], np.int64
    )
    if not len(rows):
        return [], True
    known = [seen for seen in looks if seen is not None and np.ptp(seen.thumb) > 0]
    bits = np.array([seen.bits for seen in known], np.uint64)
    thumbs = np.stack([seen.thumb.reshape(-1) for seen in known]).astype(np.int16)
    codes = np.unique(np.array(splits)[rows], return_inverse=True)[1]
    pairs: list[tuple[int, int]] = []
    limit = min(len(rows), max(1, MAX_PAIRS // len(rows)))
    for start in range(0, limit, _BLOCK):
        block = np.arange(start, min(start + _BLOCK, limit))
        near = np.bitwise_count(bits[block, None] ^ bits[None]) <= NEAR_BITS
        near &= (codes[block, None] != codes[None]) & (np.arange(len(rows))[None] < block[:, None])
        for i, other in _confirm(block, near, thumbs):
            pairs.append((int(rows[other]), int(rows[i])))
    return pairs, limit == len(rows)


def _confirm(block: Int64Array, near: BoolArray, thumbs: NDArray[np.int16]) -> list[tuple[int, int]]:
    """Return (image, an image that is its near copy) of candidates whose small pictures agree."""
    result = []
    for place in np.flatnonzero(near.any(1)):
        others = np.flatnonzero(near[place])[:1000]
        distance = np.abs(thumbs[others] - thumbs[block[place]]).mean(1)
        if distance.min() <= NEAR_LEVELS:
            result.append((int(block[place]), int(others[distance.argmin()])))
    return result
