"""How many threads a process may compute with: what the user set, as OpenMP reads it, or else one for each core."""

from __future__ import annotations

import pytest

from crypto.cores import cores, threads


@pytest.mark.parametrize(
    ("asked", "allowed"), [("3", 3), (" 2 ", 2), ("4,2", 4), ("0", 1), ("", 0), ("many", 0), ("-1", 0)]
)
def test_the_user_sets_the_threads(monkeypatch: pytest.MonkeyPatch, asked: str, allowed: int) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert threads() == (allowed or cores())


def test_without_a_word_from_the_user_every_core_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert threads() == cores() >= 1
