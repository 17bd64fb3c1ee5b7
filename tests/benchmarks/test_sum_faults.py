"""The list of faults of a secure sum: every one is survived, and an outcome that is wrong is not called survived."""

from __future__ import annotations

import pytest

from benchmarks.pages.training import sum_faults
from benchmarks.sum_faults import strike_protocol
from benchmarks.sum_round import Round, attempt, federation


@pytest.mark.long
def test_every_fault_of_the_protocol_is_survived() -> None:
    found = strike_protocol()
    assert len(found) > 35 and not [(name, record) for name, record in found if not record["survived"]]


def test_a_sum_that_must_not_come_out_is_no_success() -> None:
    assert not attempt(Round(federation()), releases=False)["survived"]


def test_a_wrong_sum_is_no_success() -> None:
    def shift(round_: Round) -> None:
        round_.collector.total[0] += 1 << 20

    assert not attempt(Round(federation(), {"survivors": shift}), releases=True)["survived"]
    assert attempt(Round(federation()), releases=True)["survived"]


def test_the_page_marks_what_was_not_survived() -> None:
    faults = [
        {"fault": "a", "summed": 4, "error": 2e-6, "said": [], "survived": True},
        {"fault": "b", "summed": 0, "said": ["cloud: no"], "survived": False},
        {"fault": "c", "said": ["skipped"], "survived": None},
    ]
    text = "\n".join(sum_faults({"faults": faults}))
    assert "1 of 2 faults" in text and "**no**" in text and "the sum of 4, error 2e-06" in text
