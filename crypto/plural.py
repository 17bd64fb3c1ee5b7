"""Counts in sentences: 1 image is, 2 images are."""

from __future__ import annotations


def counted(count: int, singular: str, plural: str = "") -> str:
    """Return a count with its noun: 1 file, 2 files.

    Args:
        count: How many there are.
        singular: The noun, with its verb where one follows, such as "image is".
        plural: The same for any other count; "" for the singular with an s.
    """
    return f"{count} {agreeing(count, singular, plural or f'{singular}s')}"


def agreeing(count: int, singular: str, plural: str) -> str:
    """Return the word that agrees with a count, such as "is" or "are"."""
    return singular if count == 1 else plural
