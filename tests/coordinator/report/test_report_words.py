"""Numbers as a report words them."""

from __future__ import annotations

import re

import pytest

from coordinator.report import wording as words


@pytest.mark.parametrize(
    ("value", "said"),
    [
        *((0.0031, "3.1 ms"), (0.12, "0.12 s"), (4.21, "4.2 s"), (84.6, "85 s"), (99.6, "1 min 40 s")),
        *((3599.6, "1 h 00 min"), (7500, "2 h 05 min"), (None, "–")),
    ],
)
def test_seconds(value: float | None, said: str) -> None:
    assert words.seconds(value) == said


def test_small_words() -> None:
    assert words.percent(0.982) == "98.2 %"
    assert words.percent(1.0) == "100 %"
    assert words.percent(0.9999) == "> 99.9 %"
    assert words.percent(None) == "–"
    assert words.percent(0.0001) == "< 0.1 %"
    assert words.score(-0.02) == "−0.020"
    assert words.score(-0.0001) == "0.000"
    assert words.images(1, "sealed") == "1 sealed image"
    assert words.listed(["a", "b", "c"]) == "a, b and c"
    assert words.listed([]) == ""
    assert re.sub("<[^>]*>", "", words.power(1511.2)) == "2^1511"
    assert re.sub("<[^>]*>", "", words.power(1378580.6)) == "2^1,378,581"
