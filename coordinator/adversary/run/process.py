"""A process for attacks: it has one thread, ignores Ctrl-C, and ends when the process that started it ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

from coordinator.adversary.run.cell import ONE_THREAD, environment


def start_process(target: Callable[..., None], *args: Any) -> BaseProcess:
    """Start a process that runs a function, with one thread for every numeric library.

    The process is spawned, not forked. It ignores Ctrl-C, which ends it through the process that started it. It ends
    by itself once that process is gone, even if that one was killed.

    Args:
        target: the function; it must be importable by name.
        args: its arguments, which are pickled.
    """
    spawn = multiprocessing.get_context("spawn")
    process = spawn.Process(target=_run, args=(target, args), daemon=True)
    # Numeric libraries read these variables when the new process loads them.
    with environment({**ONE_THREAD, "NUMBA_NUM_THREADS": "1"}):
        process.start()
    return process


def _run(target: Callable[..., None], args: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    target(*args)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
