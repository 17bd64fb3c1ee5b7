"""Rates with their 95 % Wilson bounds, as scores and reports hold them."""

from __future__ import annotations

import functools

from pydantic import Field

from coordinator.exchange.records import Record


class Rate(Record):
    """A share of n cases with its two-sided 95 % Wilson bounds (Wilson 1927)."""

    hits: int
    n: int
    rate: float
    low: float
    high: float


class GalleryRate(Rate):
    """A share of images that were named in a gallery of plain images.

    Attributes:
        gallery: How many plain images the gallery has.
    """

    gallery: int


class SearchedRate(Rate):
    """A share that is the best of several looks. Its bounds are corrected for the search, after Bonferroni.

    Attributes:
        looks: How many looks there were: the bounds are two-sided at 1 - .05 / looks.
    """

    looks: int


class SearchedGalleryRate(GalleryRate, SearchedRate):
    """A share of images that were named in a gallery, the best of several looks."""


class LinkableRate(GalleryRate):
    """A share of ciphertexts whose invariants equal those of their own plain image and of no other.

    Attributes:
        ambiguous: How many more ciphertexts fit their own image and others.
        unmatched: How many do not fit their own image.
    """

    ambiguous: int
    unmatched: int = Field(validation_alias="none", serialization_alias="none")


def rate_of(hits: int, n: int, looks: int = 1) -> Rate:
    """Return the rate of hits among n cases. No cases give the rate 0 between the bounds 0 and 1.

    Args:
        hits: The cases that count.
        n: All cases.
        looks: How many looks the best was chosen from; the bounds' confidence is 1 - .05 / looks.
    """
    if n == 0:
        return Rate(hits=0, n=0, rate=0.0, low=0.0, high=1.0)
    low, high = _wilson(int(hits), int(n), looks)
    return Rate(hits=int(hits), n=int(n), rate=int(hits) / int(n), low=low, high=high)


def in_gallery(rate: Rate, gallery: int) -> GalleryRate:
    """Return the same rate with the size of the gallery it was measured in."""
    return GalleryRate(**dict(rate), gallery=gallery)


def searched(hits: int, n: int, looks: int) -> SearchedRate:
    """Return the rate of the best of several looks."""
    return SearchedRate(**dict(rate_of(hits, n, looks)), looks=looks)


def searched_in_gallery(hits: int, n: int, looks: int, gallery: int) -> SearchedGalleryRate:
    """Return the rate of the best of several looks, with the size of the gallery it was measured in."""
    return SearchedGalleryRate(**dict(rate_of(hits, n, looks)), looks=looks, gallery=gallery)


# SciPy computes a p-value as well, and an audit asks for the same few counts again.
@functools.lru_cache(maxsize=4096)
def _wilson(hits: int, n: int, looks: int) -> tuple[float, float]:
    from scipy.stats import binomtest  # a second of processor time, which sealing need not wait for

    # 1 - .05 / 1 is not .95 in floating point, and stored bounds are compared with these.
    confidence = 0.95 if looks == 1 else 1 - 0.05 / looks
    bounds = binomtest(hits, n).proportion_ci(confidence, method="wilson")
    return float(bounds.low), float(bounds.high)
