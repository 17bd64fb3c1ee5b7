"""Divide images into train, val and test, so that no patient is in two of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from crypto.arrays import Int64Array
from crypto.plural import counted
from parties.sources.catalog import SPLITS, Item, group_numbers, repeated_groups

SHARES = (0.7, 0.1, 0.2)  # of a class's images, for train, val and test
#: Shares of the training images if only val is missing: val is as large, against train, as under SHARES.
VAL_SHARES = (0.875, 0.125, 0.0)

# A split's claim is its share over (what it holds + this part of a patient). Between the methods of Adams (0), which
# favours small splits, and Webster (0.5), which leaves val without a patient where a class has five.
_ROUNDING = 0.3

#: Where so many classes have fewer images than so many each, they are more likely patients. Chosen by hand.
_MANY_CLASSES, _FEW_IMAGES = 5, 10


def divide(items: Sequence[Item], seed: int, shares: tuple[float, float, float]) -> list[str]:
    """Return a split for each image.

    Without patients, each class is divided by a permutation of its own. With patients, whole patients are dealt, in a
    random order, each to the split with the largest claim on the patient's classes, as seats are given to parties by
    a divisor method; patients with many images come first.

    Args:
        items: The images, in a fixed order.
        seed: The study's seed. It decides who is where, not what is secret.
        shares: Of train, val and test; they add up to 1.
    """
    labels = np.array([item.label for item in items], np.int64)
    if repeated_groups(items):
        return _divide_groups(labels, group_numbers(items), seed, shares)
    splits = [""] * len(items)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        order = np.random.default_rng([seed, int(label)]).permutation(len(rows))
        cuts = (np.cumsum(shares)[:-1] * len(rows)).round().astype(int)
        for split, part in zip(SPLITS, np.split(order, cuts), strict=True):
            for i in part:
                splits[rows[i]] = split
    return splits


def _divide_groups(
    labels: Int64Array, groups: Int64Array, seed: int, shares: tuple[float, float, float]
) -> list[str]:
    """Deal whole groups, and return a split for each image."""
    kinds = int(labels.max()) + 1
    sizes = np.zeros((int(groups.max()) + 1, kinds))
    np.add.at(sizes, (groups, labels), 1)
    target = np.array(shares)[:, None] * sizes.sum(0)
    held = np.zeros((3, kinds))
    chosen = np.zeros(len(sizes), np.int64)
    order = np.random.default_rng([seed, 4]).permutation(len(sizes))
    for group in order[np.argsort(-sizes[order].sum(1), kind="stable")]:
        size = sizes[group]
        claim = (target / np.maximum(held + _ROUNDING * size, 1e-9)) @ size
        chosen[group] = int(np.argmax(claim))
        held[chosen[group]] += sizes[group]
    return [SPLITS[split] for split in chosen[groups]]


def crossing_groups(items: Sequence[Item], splits: Sequence[str]) -> list[str]:
    """Return the patients that have images in two splits."""
    where: dict[str, set[str]] = {}
    for item, split in zip(items, splits, strict=True):
        if item.group:
            where.setdefault(item.group, set()).add(split)
    return [group for group, found in where.items() if len(found) > 1]


def why_too_few(items: Sequence[Item], split: str) -> tuple[str, str]:
    """Return why a split has no image, and what to do.

    Args:
        items: The images of all splits.
        split: The split.
    """
    few = f"too few images for a {split} split"
    images = Counter(item.label for item in items)
    if len(images) >= _MANY_CLASSES and sum(images.values()) < _FEW_IMAGES * len(images):
        return (
            f"{few}: {len(images)} folders were taken for classes, of {counted(sum(images.values()), 'image')} "
            "in all",
            "name the folder that holds one folder for each class; in a class folder, folders are patients",
        )
    patients = {item.path: item.group for item in items if item.group and not item.split}
    count = max(Counter(patients.values()).values(), default=0)
    if count < 2 or 2 * count <= len({item.path for item in items}):
        return few, "provide ten or more images of a class, of three or more patients"
    return (
        f"{few}: {count} files name one patient",
        "a stand-in such as ANONYMOUS is no patient: --groups REGEX takes the patient from the file's path, such as"
        " '^([^/]+)/', a label file from its column patient; --groups none if nothing tells patients apart",
    )
