"""Refuse a sealed set that still shows its plain images: its pixels stay, or their negatives, or their pattern.

A key space says nothing about that: `value_shuffle` with most blocks and values fixed has more than 2^80 keys, and
its ciphertext is a readable picture. So a sample of every set is compared with its plain images, in two figures, each
a mean over the images of the sample:

1. `unchanged`: the share of values that are the plain ones, or that are all their negatives, whichever is larger;
2. `correlation`: |Pearson's r| of sealed and plain values, place by place.

Values near the most frequent value of an image do not count: a black border stays black under an honest permutation.
Other likeness that honest keys leave depends on scheme and images (`pe` leaves half of the values, `le` the blocks in
their places). It is measured on the same images, under fresh keys and the scheme's default options. The *excess* of a
figure is how far it is on the way from the largest that a fresh key leaves (0) to no encryption (1). A set is refused
if the excess of `unchanged` is above 1/3, or that of `correlation` above 1/2 and the correlation more than six
standard deviations above the fresh keys' mean. The deviations matter where little is compared: one image of 16 blocks
correlates with its ciphertext by chance, and without them 6 of 120,000 honest keys were refused (with them none).

Measured with 16 fresh keys on 1 to 32 images each of brain MRI (224 and 64 pixels), stained tissue (224, RGB), chest
X-rays (28 and 64), CIFAR-10 (32, RGB) and phantoms (32 and 64): over more than 10,000 honest keys of eight schemes,
the largest excess of `unchanged` was .18 (`etc` with 16 blocks) and of `correlation` .30 (`etc` on one image; `le` on
X-rays .26). At 224 pixels both stayed below .07. `value_shuffle` with 60 % of blocks and 65 % of values fixed reached
.38 to .41 and .30 to .59, with 90 % of both .78 or more.

The rule sees only what is left in place, or as its negative. It does not say that a scheme is secure.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from crypto.arrays import AnyArray, Float64Array, Images, Rows
from crypto.cipher import Cipher
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.scheme import comparison_options, describe, load, without_nonce
from crypto.spec import SchemeSpec

#: A scheme's options as sorted pairs of name and value.
Options = tuple[tuple[str, Any], ...]
#: Images of a set that are compared, evenly spaced. Set once; not tuned.
SAMPLE = 16
#: Fresh keys that the set's key is compared with. Where every image has a key of its own, a pass over the sample
#: draws SAMPLE keys, and two passes are enough.
FRESH_KEYS, FRESH_PASSES = 16, 2
#: Levels from an image's most frequent value within which a value belongs to a border or background. JPEG's noise in
#: the black border of the brain MRI stays within it.
BACKGROUND = 8
#: Values beyond the background that an image needs to be compared: fewer agree by chance.
MIN_VALUES = 32
#: Largest excess of either figure. The measurement above chose them, well above any honest key.
UNCHANGED_LIMIT, CORRELATION_LIMIT = 1 / 3, 1 / 2
#: Standard deviations of the fresh keys' correlations that an honest key's may be above their mean.
DEVIATIONS = 6.0


@dataclass(frozen=True)
class Likeness:
    """How much of its plain images a sealed sample shows.

    Attributes:
        unchanged: Mean share of values that are the plain ones, or their negatives.
        correlation: Mean |r| of sealed and plain values.
    """

    unchanged: float
    correlation: float


def sample_rows(count: int) -> Rows:
    """Return the rows of a set that are compared: int64, at most SAMPLE, evenly spaced, the first and last in it."""
    return np.unique(np.linspace(0, count - 1, min(count, SAMPLE)).astype(np.int64))


def likeness(plain: Images, pictures: Images) -> Likeness | None:
    """Return how alike plain images and sealed pictures are, both uint8 [n, h, w, c]; None if none has texture."""
    figures = [figure for pair in zip(plain, pictures, strict=True) if (figure := _of_image(*pair))]
    if not figures:
        return None
    unchanged, correlation = np.mean(figures, axis=0)
    return Likeness(float(unchanged), float(correlation))


def _of_image(plain: AnyArray, picture: AnyArray) -> tuple[float, float] | None:
    """Return (unchanged, |r|) of the values of an image that are no background; None if there are few."""
    background = int(np.bincount(plain.ravel(), minlength=256).argmax())
    before = plain.ravel().astype(np.int64)
    counts = np.abs(before - background) > BACKGROUND
    if counts.sum() < MIN_VALUES:
        counts = before != background  # an image of little contrast
    if counts.sum() < MIN_VALUES:
        return None
    before, after = before[counts], picture.ravel()[counts].astype(np.int64)
    unchanged = max((after == before).mean(), (after == 255 - before).mean())
    return float(unchanged), _correlation(before.astype(np.float64), after.astype(np.float64))


def _correlation(a: Float64Array, b: Float64Array) -> float:
    """Return |Pearson's r|; 0 if either has no spread."""
    a, b = a - a.mean(), b - b.mean()
    spread = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return abs(float((a * b).sum())) / spread if spread else 0.0


@functools.lru_cache(
    maxsize=1
)  # the sets of a hospital are sealed one after the other with the same settings
def _fresh_ciphers(
    settings: tuple[str, tuple[int, int, int], int, bool, Options],
) -> list[tuple[SchemeSpec, Cipher]]:
    """Return a scheme under its default options and fresh keys, the same ones every time.

    Args:
        settings: Name, image shape, block, whether every image has a key of its own, and the options that are
            used where the defaults do not go with the block.
    """
    name, shape, block, has_row_keys, options = settings
    result = []
    for i in range(FRESH_PASSES if has_row_keys else FRESH_KEYS):
        scope = "image" if has_row_keys else "consortium"
        try:
            spec = describe(name, shape, block, scope, comparison_options(name))
        except CipherwardError:  # the default options do not go with these blocks
            spec = describe(name, shape, block, scope, dict(options))
        if "nonce" in spec.options:
            with_nonce = {**spec.options, "nonce": f"{i:032x}"}
            spec = SchemeSpec(name, spec.version, shape, block, spec.key_scope, with_nonce)
        # These keys protect nothing. A second run must come to the same verdict, so they are not drawn at random.
        key = SecretKey(hashlib.sha256(f"cipherward/still-plain/{i}".encode()).digest())
        result.append((spec, load(spec).cipher(key)))
    return result


def fresh_likeness(spec: SchemeSpec, plain: Images) -> list[Likeness]:
    """Return the likeness that fresh keys and the scheme's default options leave of plain images."""
    options = tuple(sorted(without_nonce(spec).options.items()))
    settings = (spec.name, spec.image_shape, spec.block, load(spec).row_keys, options)
    return list(_fresh_likeness(settings, np.ascontiguousarray(plain).tobytes()))


@functools.lru_cache(maxsize=1)  # a set is compared twice, mostly by the same images
def _fresh_likeness(
    settings: tuple[str, tuple[int, int, int], int, bool, Options], pixels: bytes
) -> list[Likeness]:
    """Return the likeness that fresh keys leave of plain images, given as the bytes of uint8 [n, h, w, c]."""
    plain = np.frombuffer(pixels, np.uint8).reshape(-1, *settings[1])
    pictures = (load(fresh).picture(np.asarray(c.encrypt(plain))) for fresh, c in _fresh_ciphers(settings))
    return [figure for picture in pictures if (figure := likeness(plain, picture))]


def excess(figure: float, fresh: Sequence[float]) -> float:
    """Return how far a figure is on the way from the largest one of fresh keys (0 or less) to 1."""
    largest = max(fresh)
    return (figure - largest) / (1 - largest) if largest < 1 else 0.0


def require_hidden(name: str, spec: SchemeSpec, plain: Images, sealed: AnyArray) -> None:
    """Raise CipherwardError if sealed images still show their plain ones. Controls of audits are not judged.

    Args:
        name: The set's name, for the message.
        spec: The scheme.
        plain: Plain images, uint8 [n, h, w, c].
        sealed: Their ciphertexts, [n, *sealed_shape].
    """
    scheme = load(spec)
    if scheme.is_control:
        return
    figure = likeness(plain, scheme.picture(sealed))
    if figure is None:
        return  # no image shows anything
    fresh = fresh_likeness(spec, plain)
    shares, correlations = [f.unchanged for f in fresh], [f.correlation for f in fresh]
    by_chance = float(np.mean(correlations) + DEVIATIONS * np.std(correlations))
    for shows, value, honest, what in (
        (
            excess(figure.unchanged, shares) > UNCHANGED_LIMIT,
            figure.unchanged,
            max(shares),
            "of their values are the plain ones or negatives",
        ),
        (
            excess(figure.correlation, correlations) > CORRELATION_LIMIT and figure.correlation > by_chance,
            figure.correlation,
            max(correlations),
            "is their correlation with the plain ones",
        ),
    ):
        if shows:
            raise CipherwardError(
                f"{name}: the sealed images still show the plain ones: {value:.0%} {what} "
                f"({spec.name} with its default options leaves at most {honest:.0%})",
                "nothing of this set is kept; choose other options of the scheme, or another scheme",
            )
