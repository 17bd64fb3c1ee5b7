"""How long an attack may take, and how its parts ask whether there is time left."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

#: Return False once the time of a search is used up. Searches ask it between steps and then keep what they have.
TimeLeft = Callable[[], bool]


class OutOfTimeError(Exception):
    """The time was used up before a search had anything that could be kept."""


def require_time(time_left: TimeLeft) -> None:
    """Raise OutOfTimeError once the time of a search is used up: for steps without which there is no result."""
    if not time_left():
        raise OutOfTimeError


def always() -> bool:
    """Return True in every case, for callers that have no time budget."""
    return True


def until(deadline: float) -> TimeLeft:
    """Return a `TimeLeft` that holds until a deadline on `time.monotonic`'s clock."""
    return lambda: time.monotonic() < deadline


@dataclass(frozen=True)
class Budget:
    """The time that one attack may take. An attack out of time returns its best guess and says so.

    Attributes:
        seconds: the whole budget.
        started: when it began, on `time.monotonic`'s clock.
    """

    seconds: float = 600.0
    started: float = field(default_factory=time.monotonic)

    def left(self) -> float:
        """Return the seconds left, never negative."""
        return max(0.0, self.seconds - (time.monotonic() - self.started))

    def time_left(self) -> bool:
        """Return whether any time is left; a `TimeLeft`."""
        return self.left() > 0
