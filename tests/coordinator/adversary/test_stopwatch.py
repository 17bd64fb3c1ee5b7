"""The seconds of an attack do not count what Numba compiles."""

from __future__ import annotations

import time

import numba
import pytest
from numba.core import event

from coordinator.adversary.stopwatch import Stopwatch


class _Clock:
    """A clock that goes only when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    """Return the clock of Numba and of the stopwatch."""
    clock = _Clock()
    monkeypatch.setattr(event, "timer", clock)
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


def test_compilation_does_not_count(clock: _Clock) -> None:
    stopwatch = Stopwatch()
    with stopwatch:
        clock.now += 2
        with event.trigger_event("numba:compile"):
            clock.now += 10
            with event.trigger_event("numba:compile"):  # a function that the first one calls
                clock.now += 5
        clock.now += 1
        with event.trigger_event("numba:compile"):
            clock.now += 7
    clock.now += 100
    with event.trigger_event("numba:compile"):
        clock.now += 1
    assert stopwatch.seconds == 3


def test_numba_tells_when_it_compiles(clock: _Clock) -> None:
    @numba.njit  # type: ignore[untyped-decorator]
    def double(x: int) -> int:
        return x + x

    class _Goes(event.Listener):  # type: ignore[misc]
        def on_start(self, _: object) -> None:
            clock.now += 4

        def on_end(self, _: object) -> None:
            clock.now += 4

    stopwatch = Stopwatch()
    with stopwatch, event.install_listener("numba:compile", _Goes()):
        assert double(2) == 4
        clock.now += 1
    assert clock.now == 9 and 1 <= stopwatch.seconds < 9


def test_an_attack_that_fails_has_its_seconds(clock: _Clock) -> None:
    stopwatch = Stopwatch()
    with pytest.raises(ValueError, match="no"), stopwatch:
        clock.now += 3
        raise ValueError("no")
    assert stopwatch.seconds == 3
