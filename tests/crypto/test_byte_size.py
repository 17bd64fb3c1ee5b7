"""Numbers of bytes for people."""

from __future__ import annotations

import pytest

from crypto.byte_size import size


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0 B"), (999, "999 B"), (12_340_000, "12.3 MB"), (999_960, "1.0 MB"), (4e15, "4000 TB")],
)
def test_sizes(value: float, said: str) -> None:
    assert size(value) == said
