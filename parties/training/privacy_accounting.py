"""From a bound (epsilon, delta) to the noise of a training, and from the noise of trainings to their common bound.

Opacus' PRV accountant (Gopi et al. 2021, arXiv 2106.02848) for Poisson sampling and the Gaussian mechanism. Data sets
are neighbours if one unit is added or removed. Opacus is an optional extra, and is loaded when something is computed.
"""

from __future__ import annotations

import contextlib
import functools
import math
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from crypto.errors import CipherwardError

#: The search for the noise stops within this share of epsilon; the accountant's own error is twice as large at most.
_TOLERANCE = 1e-3
_MOST_ERROR = 0.01
#: Points of the accountant's mesh, at most: they take about 5 GB. A plan's epsilon and steps choose how many there
#: are.
_MOST_POINTS = 1 << 23
#: The mesh reaches at least so far to both sides of 0, whatever the steps are.
_LEAST_REACH = 3.0
#: A sum over the mesh may be wrong by this much for each of its points.
_ROUNDING = 2.0**-64
#: The search for the noise tries no larger multiplier.
_MOST_NOISE = 1e6
#: Where less noise has no bound that can be computed, the search stops within this share of the noise.
_NOISE_SHARE = 0.01


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


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what Opacus and torch say about hooks and secure mode: nothing that a hospital can change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@functools.lru_cache(maxsize=64)
def noise_multiplier(epsilon: float, delta: float, sample_rate: float, steps: int) -> float:
    """Return the smallest noise multiplier with which so many steps keep (epsilon, delta).

    Raises:
        CipherwardError: if Opacus is not installed, or if no noise is enough that can be computed.
    """
    require_opacus()
    error, reason = _accountant_error(epsilon), ""

    def spent(noise: float) -> float:
        nonlocal reason
        try:
            return _epsilon(((noise, sample_rate, steps),), delta, error)
        except CipherwardError as failure:  # so little noise, or so small an error, that it is out of reach
            reason = f": {failure.message}"
            return math.inf

    # As Opacus' get_noise_multiplier, which would also try to compute what no machine has the memory for.
    low, high = 0.0, 20.0
    while (total := spent(high)) > epsilon:
        high *= 2
        if high > _MOST_NOISE:
            raise CipherwardError(
                f"no noise was found that keeps epsilon {epsilon:g} at delta {delta:g} over {steps} steps{reason}",
                "set a larger privacy.epsilon or privacy.delta, or fewer rounds",
            )
    while epsilon - total > _TOLERANCE * epsilon:
        middle = (low + high) / 2
        if (there := spent(middle)) < epsilon:
            high, total = middle, there
            continue
        low = middle
        if there == math.inf and high - low < _NOISE_SHARE * high:
            break
    return high


def _accountant_error(epsilon: float) -> float:
    return min(_MOST_ERROR, 2 * _TOLERANCE * epsilon)


def total_epsilon(mechanisms: Iterable[Mechanism], delta: float, near: float) -> float:
    """Return an upper bound on epsilon of all these steps together, at delta.

    Args:
        mechanisms: the steps. Their order does not matter.
        delta: the common delta.
        near: the epsilon that the result will be compared with; the accountant's error is a share of it.

    Raises:
        CipherwardError: if Opacus is not installed, or if it cannot compute a bound.
    """
    steps: Counter[tuple[float, float]] = Counter()
    for m in mechanisms:
        steps[m.noise_multiplier, m.sample_rate] += m.steps
    history = tuple((*kind, count) for kind, count in sorted(steps.items()))
    if not history:
        return 0.0
    error = _accountant_error(near)
    if error < _MOST_ERROR:
        # Of a bound that holds, or is far beyond, nobody needs the last digits, which would take the most memory.
        with contextlib.suppress(CipherwardError):
            rough = _epsilon(history, delta, _MOST_ERROR)
            if rough <= near or rough - 2 * _MOST_ERROR > near:
                return rough
    return _epsilon(history, delta, error)


@functools.lru_cache(maxsize=256)
def _epsilon(history: Sequence[tuple[float, float, int]], delta: float, error: float) -> float:
    """Return an upper bound on epsilon, by Opacus.

    Args:
        history: noise multiplier, sampling rate and number of steps of each kind.
        delta: the common delta.
        error: how far the bound is above the true one, at most about twice.

    Raises:
        CipherwardError: if Opacus is not installed, if the computation would take too much memory, or if it fails.
    """
    require_opacus()
    from opacus.accountants import PRVAccountant

    class Accountant(PRVAccountant):  # type: ignore[misc]  # Opacus has no types
        """Refuses a mesh that is too large before it is made."""

        def _get_domain(self, **settings: Any) -> Any:
            domain = super()._get_domain(**settings)
            _require_mesh(domain.size, delta)
            return domain

    accountant = Accountant()
    accountant.history = list(history)
    try:
        with quiet():
            # The least mesh first: to find out how far a mesh must reach can take a minute.
            _require_mesh(_least_points(history, delta, error), delta)
            bound = float(accountant.get_epsilon(delta, eps_error=error))
            if math.isfinite(bound):
                return bound
        reason = "its result is no number"
    except MemoryError:
        reason = "there is not enough memory"
    except (ArithmeticError, RuntimeError, ValueError) as failure:
        reason = str(failure) or type(failure).__name__
    count = sum(steps for _, _, steps in history)
    raise CipherwardError(
        f"the privacy bound of {count} steps at delta {delta:g} cannot be computed to within {error:g}: {reason}",
        "set a larger epsilon or delta, in the plan or of this hospital's budget, or fewer rounds",
    )


def _least_points(history: Sequence[tuple[float, float, int]], delta: float, error: float) -> float:
    """Return how many points Opacus' mesh has at least (Gopi et al. 2021, remark 5.6)."""
    steps = sum(count for _, _, count in history)
    delta_error = delta / 1000  # as in Opacus
    return 2 * _LEAST_REACH * math.sqrt(steps * math.log(12 / delta_error) / 2) / error


def _require_mesh(points: float, delta: float) -> None:
    """Raise OverflowError if a mesh of so many points takes too much memory, or rounds away what delta allows."""
    if points > _MOST_POINTS:
        raise OverflowError(f"it takes {points:.1e} points, and {_MOST_POINTS:.1e} are the most")
    if points * _ROUNDING > delta:
        raise OverflowError("delta is below the rounding of floating-point numbers")
