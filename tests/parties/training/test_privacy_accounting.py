"""What a plan or a budget asks of the accountant is computed in seconds, or refused in one line."""

from __future__ import annotations

import math
import resource
from collections.abc import Iterator

import pytest

import parties.training.privacy_accounting as accounting
from coordinator.exchange.privacy import LEAST_EPSILON, Privacy
from coordinator.exchange.settings import build
from crypto.errors import CipherwardError
from parties.training.privacy_accounting import Mechanism, noise_multiplier, total_epsilon
from parties.training.privacy_ledger import Budget

STEPS = Mechanism(1.0, 0.2, 100)


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """Fail where a test takes more memory than a computation of the least epsilon does."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (24 << 30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("epsilon", [1e-9, 1e-6, 0.0999])
def test_a_plan_with_a_tiny_epsilon_is_refused_before_anything_is_computed(epsilon: float) -> None:
    with pytest.raises(CipherwardError, match=r"is below 0\.1") as error:
        build(Privacy, {"epsilon": epsilon, "delta": 1e-3}, "the plan")
    assert "0.1 or more" in error.value.hint
    assert build(Privacy, {"epsilon": LEAST_EPSILON, "delta": 1e-3}, "the plan").is_on


def test_the_least_epsilon_is_kept() -> None:
    noise = noise_multiplier(LEAST_EPSILON, 1e-3, 1.0, 4)
    assert total_epsilon([Mechanism(noise, 1.0, 4)], 1e-3, LEAST_EPSILON) == pytest.approx(
        LEAST_EPSILON, rel=2e-3
    )


@pytest.mark.parametrize(("epsilon", "delta"), [(1e-6, 1e-3), (8.0, 1e-300)])
def test_noise_that_cannot_be_computed_is_one_line(epsilon: float, delta: float) -> None:
    with pytest.raises(CipherwardError, match=r"no noise was found .* cannot be computed to within"):
        noise_multiplier(epsilon, delta, 0.5, 4)


@pytest.mark.long
def test_for_a_huge_epsilon_the_search_ends_with_noise_that_keeps_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(accounting, "_MOST_POINTS", 1 << 18)
    noise = noise_multiplier(1e9, 1e-3, 0.5, 4)
    assert 0 < noise < 1 and total_epsilon([Mechanism(noise, 0.5, 4)], 1e-3, 1e9) < 1e9


@pytest.mark.parametrize("near", [1e-9, 1e-4])
def test_a_small_budget_that_was_exceeded_by_far_is_compared_without_its_digits(near: float) -> None:
    total = total_epsilon([STEPS], 1e-5, near)
    assert total == pytest.approx(total_epsilon([STEPS], 1e-5, 100.0))
    with pytest.raises(CipherwardError, match="its own budget is epsilon"):
        Budget(near, 1e-5).require([STEPS], "a round")


@pytest.mark.parametrize(
    "failure", [MemoryError(), ValueError("x"), OverflowError("x"), math.nan, math.inf]
)
def test_an_accountant_that_fails_keeps_no_bound(
    monkeypatch: pytest.MonkeyPatch, failure: float | Exception
) -> None:
    def get_epsilon(*_: object, **__: object) -> float:
        if isinstance(failure, Exception):
            raise failure
        return failure

    accounting._epsilon.cache_clear()
    monkeypatch.setattr("opacus.accountants.PRVAccountant.get_epsilon", get_epsilon)
    with pytest.raises(CipherwardError, match="cannot be computed"):
        Budget(1000.0, 1e-5).require([STEPS], "a round")
