"""Counts agree with their nouns and verbs."""

from __future__ import annotations

import pytest

from crypto.plural import agreeing, counted


@pytest.mark.parametrize(("count", "text"), [(0, "0 files"), (1, "1 file"), (2, "2 files")])
def test_a_count_agrees_with_its_noun(count: int, text: str) -> None:
    """Only one file is a file."""
    assert counted(count, "file") == text


def test_a_plural_that_is_no_s_is_stated() -> None:
    """A noun with its verb, and one with another plural."""
    assert [counted(n, "image is", "images are") for n in (1, 2)] == ["1 image is", "2 images are"]
    assert [counted(n, "class", "classes") for n in (1, 2)] == ["1 class", "2 classes"]
    assert [agreeing(n, "is", "are") for n in (0, 1, 2)] == ["are", "is", "are"]
