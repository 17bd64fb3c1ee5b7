"""From a bound (epsilon, delta) to the noise of a training, and from the noise of trainings to their common bound.

Opacus' PRV accountant (Gopi et al. 2021, arXiv 2106.02848) for Poisson sampling and the Gaussian mechanism. Data sets
are neighbours if one unit is added or removed. Opacus is an optional extra, and is loaded when something is computed.
"""

from __future__ import annotations

import functools
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from crypto.errors import CipherwardError

#: The search for the noise stops within this share of epsilon; the accountant's own error is twice as large at most.
_TOLERANCE = 1e-3
_MOST_ERROR = 0.01


@dataclass(frozen=True)
class Mechanism:
    """Steps of DP-SGD of one kind.

    Attributes:
        noise_multiplier: the noise's deviation, as a multiple of max_grad_norm.
        sample_rate: the probability that a step takes a unit.
        steps: how many steps.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int


def require_opacus() -> None:
    """Raise CipherwardError if Opacus is not installed."""
    with quiet():
        try:
            import opacus  # noqa: F401 - whether it can be loaded
        except ImportError:
            raise CipherwardError(
                "privacy.epsilon needs Opacus, which is not installed", "run: pip install -e '.[privacy]'"
            ) from None


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what Opacus and torch say about hooks and secure mode: nothing that a hospital can change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@functools.lru_cache(maxsize=64)
def noise_multiplier(epsilon: float, delta: float, sample_rate: float, steps: int) -> float:
    """Return the smallest noise multiplier with which so many steps keep (epsilon, delta).

    Raises:
        CipherwardError: if Opacus is not installed, or if no noise is enough.
    """
    require_opacus()
    from opacus.accountants.utils import get_noise_multiplier

    try:
        with quiet():
            return float(
                get_noise_multiplier(
                    target_epsilon=epsilon,
                    target_delta=delta,
                    sample_rate=sample_rate,
                    steps=steps,
                    accountant="prv",
                    epsilon_tolerance=_TOLERANCE * epsilon,
                    eps_error=_accountant_error(epsilon),
                )
            )
    except (ValueError, RuntimeError) as error:
        raise CipherwardError(
            f"no noise was found that keeps epsilon {epsilon:g} at delta {delta:g} over {steps} steps: {error}",
            "set a larger privacy.epsilon or privacy.delta, or fewer rounds",
        ) from None


def _accountant_error(epsilon: float) -> float:
    return min(_MOST_ERROR, 2 * _TOLERANCE * epsilon)


def total_epsilon(mechanisms: Iterable[Mechanism], delta: float, near: float) -> float:
    """Return an upper bound on epsilon of all these steps together, at delta.

    Args:
        mechanisms: the steps. Their order does not matter.
        delta: the common delta.
        near: the epsilon that the result will be compared with; the accountant's error is a share of it.
    """
    steps: Counter[tuple[float, float]] = Counter()
    for m in mechanisms:
        steps[m.noise_multiplier, m.sample_rate] += m.steps
    history = tuple((*kind, count) for kind, count in sorted(steps.items()))
    return _epsilon(history, delta, _accountant_error(near)) if history else 0.0


@functools.lru_cache(maxsize=64)
def _epsilon(history: Sequence[tuple[float, float, int]], delta: float, error: float) -> float:
    require_opacus()
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = list(history)
    with quiet():
        return float(accountant.get_epsilon(delta, eps_error=error))
