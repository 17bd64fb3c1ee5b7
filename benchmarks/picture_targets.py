"""What key recovery should reach on every kind of picture, and what was tried where it does not.

A target names a figure of a pool (picture_kinds.py) and the largest pool by which two thirds of the draws should
reach it. The words of TRIED stand beside the measured figures on the page of results. They hold no figures of their
own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Record = Mapping[str, Any]


#: Draws that a pool must have to decide anything.
LEAST_DRAWS = 3


@dataclass(frozen=True)
class Target:
    """What a scheme's attack should reach: a figure, in words, by a pool of so many images."""

    figure: str
    words: str
    pool: int


_EXACT, _OPENS, _NAMES, _SHOWS = ("exact", "exact"), ("opens", "K"), ("names", "R"), ("shows", "V")
#: The targets of each scheme. Schemes of which none was set should be broken by 10 images, and block_projection,
#: whose noise has to be averaged out, by 100. An image of patch_shuffle is alone with its order. Of neuracrypt only
#: distributions are known, which take hundreds of images.
TARGETS: dict[str, tuple[Target, ...]] = {
    "value_shuffle": (Target(*_EXACT, 10),),
    "le": (Target(*_EXACT, 10),),
    "pe": (Target(*_EXACT, 10),),
    "block_pixel_shuffle": (Target(*_EXACT, 10),),
    "sub_block_etc": (Target(*_EXACT, 10),),
    "etc": (Target("broken", "K or R", 5),),
    "ele": (Target(*_NAMES, 100), Target(*_SHOWS, 100), Target(*_OPENS, 500)),
    "block_pixel": (Target(*_OPENS, 300),),
    "orthogonal": (Target(*_SHOWS, 10),),
    "noisy_orthogonal": (Target(*_SHOWS, 10),),
    "block_projection": (Target("broken", "K or R", 100),),
    "patch_shuffle": (Target(*_NAMES, 1),),
    "neuracrypt": (Target(*_NAMES, 300),),
}

_ALIKE = (
    "Values that are nearly equal in every image are interchangeable: no ciphertext tells them apart, and the opened "
    "pictures hardly differ."
)
_BORDER = (
    "Places that are almost always black fit anywhere. The head touches the upper and the lower border, so that it "
    "costs little to cut off a row and lay it on the other side."
)
_COARSE = (
    "Neighbouring pixels lie seven pixels apart in the slide and hardly correlate, so that the seams of a few images "
    "tell little. Larger pools add seams."
)
_STATES = (
    "In a few pixels a wrong sign or colour order is the likelier one under the model of the pool. More rounds of "
    "flips and orders do not help."
)
_ENDS = (
    "Most values are 0 or 255, so that both nibbles of a value, and many values of a block, are nearly copies of "
    "each other: low nibbles are taken for high ones."
)
_SIDES = "Sides that are all 0 or all 255 fit many others. Larger pools add sides that are not."
_SCANS = "Many blocks are partly black in every image, and black values have no place. Both ways to lay out fail."
_NOT_THE_BORDER = (
    "Not found. Blocks stay in their places under this scheme, so that the black border does not explain it. Few "
    "values are wrong."
)
_DARK_BLOCKS = (
    "The pixel order is right, and every wrong block is a whole block in the place of another. These blocks are "
    "black in most images, at the border of the scan. In some pools two neighbours are exchanged; in others a row or "
    "column of the border lies on the other side. The seams of ten images tell such blocks apart too seldom: the "
    "opened pictures hardly differ."
)
_DARK_NIBBLES = (
    "A black value has the same high nibble in every image. In blocks that are black in most images, such nibbles "
    "correlate with none, and half of those that are taken for high ones are low ones. No mask confirms a block that "
    "is mostly black; bright blocks are confirmed. Larger pools open more of them, and not all."
)
_NOISE = (
    "The noise hides which place a block is of, until a pool averages it out: some blocks are opened in the places "
    "of others."
)
_ONE_IMAGE = (
    "The sides of one image's patches are all there is, and a side of four pixels, or a dark one, fits many others. "
    "The fit says so."
)
_FEW_PUBLIC = (
    "There are too few public images of the kind to know distributions by: the tiles and enlarged images that are "
    "left beside the pool. Turned or shifted copies of tissue did not help."
)
_UNKNOWN = "Not found."
#: Why a scheme misses its target on a kind of picture ("" for all schemes, or all kinds), and what was tried.
TRIED: dict[tuple[str, str], str] = {
    ("pe", "tissue 224"): _STATES,
    ("pe", "tissue 32 coarse"): _STATES,
    ("pe", "saturated 32"): _STATES,
    ("pe", "near gray 32"): _ALIKE,
    ("block_pixel_shuffle", "mri 64"): _DARK_BLOCKS,
    ("value_shuffle", "mri 64"): _DARK_BLOCKS,
    ("ele", "mri 64"): _DARK_NIBBLES,
    ("pe", "phantoms 64"): _NOT_THE_BORDER,
    ("etc", "saturated 32"): _SIDES,
    ("le", "saturated 32"): _ENDS,
    ("ele", "saturated 32"): _ENDS,
    ("block_pixel", "phantoms 64"): _SCANS,
    ("block_projection", ""): _NOISE,
    ("patch_shuffle", ""): _ONE_IMAGE,
    ("neuracrypt", ""): _FEW_PUBLIC,
    ("le", "phantoms 64"): _UNKNOWN,
    ("ele", "phantoms 64"): _UNKNOWN,
    ("", "tissue 32 coarse"): _COARSE,
    ("", "near gray 32"): _ALIKE,
    ("", "phantoms 64"): _BORDER,
}


@dataclass(frozen=True)
class Missed:
    """A target that a row misses.

    Attributes:
        target: The target.
        pool: The largest pool that was measured and does not exceed the target's; None if none was.
        reached: In how many draws the figure was reached there.
        draws: Of how many.
    """

    target: Target
    pool: int | None
    reached: int
    draws: int


def missed_targets(row: Record) -> list[Missed]:
    """Return the targets that a row of the table misses.

    A target is met at any pool up to its size: more images than are needed are no failure. A figure that was not
    measured is missed at no pool.
    """
    missed = []
    for target in TARGETS[row["scheme"]]:
        pools = [
            pool
            for pool in row["pools"]
            if pool["pool"] <= target.pool and pool.get(target.figure) is not None
        ]
        deciding = [pool for pool in pools if pool["draws"] >= LEAST_DRAWS]
        if any(3 * pool[target.figure] >= 2 * pool["draws"] for pool in deciding):
            continue
        pools = deciding or pools
        last = max(pools, key=lambda pool: int(pool["pool"]), default=None)
        if last is None:
            missed.append(Missed(target, None, 0, 0))
        else:
            missed.append(Missed(target, last["pool"], last[target.figure], last["draws"]))
    return missed


def what_was_tried(scheme: str, kind: str) -> str:
    """Return why a scheme misses its target on a kind of picture, and what was tried; "" if that is not known."""
    return TRIED.get((scheme, kind), TRIED.get((scheme, ""), TRIED.get(("", kind), "")))
