"""How much of a piece of work is done and how long the rest will take, as a text; the longest time of a step."""

from __future__ import annotations

import re
import time

_COUNT = re.compile(r"(\d+) of (\d+)")

#: Far more than any step takes, 115 days: at times of 10^10 s a process waits without end, or not at all.
MAX_SECONDS = 1e7


class Countdown:
    """Tells how far a piece of work is: "12 of 58, about 40 s left".

    The rest is taken to go on as fast as what was done since the start: attacks and images differ, so this is a
    rough guess.
    """

    def __init__(self, total: int, done: int = 0) -> None:
        """Start the clock. total: all that there is to do. done: how much of it was there before."""
        self._total, self._first, self._started = total, done, time.monotonic()

    def after(self, done: int) -> str:
        """Return how far the work is when so much of all is done."""
        text, fresh = f"{done} of {self._total}", done - self._first
        if fresh <= 0 or done >= self._total:
            return text
        return f"{text}, about {duration((time.monotonic() - self._started) / fresh * (self._total - done))} left"


def duration(seconds: float) -> str:
    """Return a time as people say it: 40 s, 12 min, 3 h."""
    if seconds < 99.5:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 99.5 * 60 else f"{seconds / 3600:.0f} h"


def parse_count(text: str) -> tuple[int, int | None]:
    """Return K and N of the last "K of N" in a text, as a bar shows them; 0 and None without one."""
    counts = [(int(k), int(n)) for k, n in _COUNT.findall(text)]
    return next(((k, n) for k, n in reversed(counts) if 0 < n >= k), (0, None))
