"""The seconds of an attack, without those in which Numba compiled its functions.

Numba compiles once on a machine, or in every process where its cache cannot be written. run/compilation.py compiles
ahead where it can; what is compiled nevertheless says nothing about the attack.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from types import TracebackType

from numba.core.event import TimingListener, install_listener

#: What Numba calls the event of compiling. Reading its cache is none.
_COMPILING = "numba:compile"


class Stopwatch:
    """Measure the seconds of the work inside a `with` statement, without compilation by Numba in this process."""

    def __init__(self) -> None:
        self._compiling = TimingListener()
        self._listening = ExitStack()
        self._started = self._elapsed = 0.0

    def __enter__(self) -> Stopwatch:
        self._listening.enter_context(install_listener(_COMPILING, self._compiling))
        self._started = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._elapsed = time.perf_counter() - self._started
        self._listening.close()

    @property
    def seconds(self) -> float:
        """The seconds of the work, once it has ended."""
        return max(0.0, self._elapsed - (self._compiling.duration if self._compiling.done else 0.0))
