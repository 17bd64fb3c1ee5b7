"""Cells of the suite in this process, in several processes of this machine, or on a Ray cluster (ray_cluster.py).

The guesses are the same bit for bit. A worker that dies takes its cell with it, as a finding, and another worker
takes its place.

The pool of processes is our own, because no pool that we know keeps all of this:

- `concurrent.futures`, and joblib's loky on top of it: one dead worker breaks the pool. All pending cells fail, and
  nobody knows which cell killed the worker.
- `pebble` 5.2: it replaces dead workers and reports their exit status. But its workers share two pipes and two locks.
  A worker that is killed while it holds a lock stops the others for 60 s, then the pool is broken. It also does not
  say when a cell was started, and a finding needs the cell's seconds. Here every worker has a pipe of its own.
"""

from __future__ import annotations

import contextlib
import pickle
import signal
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from coordinator.adversary.run.cell import Cell, Finished, accept, answer, run_cell
from coordinator.adversary.run.process import start_process
from coordinator.exchange.audit.guesses import StoredGuess

#: Seconds to wait for a process that has ended or was killed. Chosen by hand; the kernel needs milliseconds.
_JOIN_S = 5.0


def run_cells(cells: Sequence[Cell], jobs: int, ray: str = "") -> Finished:
    """Yield every cell with its guess, as they finish.

    In this process (jobs = 1) they finish in the order given, otherwise in any order. Close the iterator to end the
    workers.

    Args:
        cells: the cells.
        jobs: the number of worker processes; 1 runs the cells in this process.
        ray: the address of a Ray cluster, or `local`; empty for processes of this machine.

    Raises:
        CipherwardError: if a cell cannot run at all (`run_cell`).
    """
    if ray:
        from coordinator.adversary.run.ray_cluster import run_on_ray

        return run_on_ray(cells, jobs, ray)
    return _run_here(cells) if jobs == 1 else _run_in_processes(cells, jobs)


def _run_here(cells: Sequence[Cell]) -> Finished:
    for cell in cells:
        yield cell, run_cell(cell)


@dataclass(frozen=True)
class _Worker:
    """A worker process, and our end of its pipe."""

    process: BaseProcess
    link: Connection

    def crash(self, cell: Cell, seconds: float) -> StoredGuess:
        """Return the finding for a cell whose worker is gone."""
        self.process.join(_JOIN_S)
        status = self.process.exitcode
        if status is not None and status < 0:
            reason = f"was killed by {signal.Signals(-status).name}"
            reason += ", as the kernel does when memory runs out" if -status == signal.SIGKILL else ""
        else:
            reason = f"ended with status {status}"
        return cell.failure(f"crash: the worker process {reason}", seconds)


def _run_in_processes(cells: Sequence[Cell], jobs: int) -> Finished:
    todo = deque(cells)
    busy: dict[Connection, tuple[_Worker, Cell, float]] = {}
    workers: list[_Worker] = []

    def assign(worker: _Worker) -> None:
        cell = todo.popleft()
        busy[worker.link] = worker, cell, time.perf_counter()
        # If the worker is gone already, reading its answer shows it.
        with contextlib.suppress(OSError):
            worker.link.send(cell)

    def start() -> None:
        workers.append(_start_worker())
        assign(workers[-1])

    try:
        for _ in range(min(jobs, len(cells))):
            start()
        while busy:
            ready = wait(list(busy))
            for worker, cell, started in [busy.pop(link) for link in list(busy) if link in ready]:
                try:
                    guess = accept(worker.link.recv())
                except (EOFError, OSError, pickle.UnpicklingError):
                    guess = worker.crash(cell, time.perf_counter() - started)
                    if todo:
                        start()
                else:
                    if todo:
                        assign(worker)
                yield cell, guess
    finally:
        for worker in workers:
            worker.process.kill()  # guesses are written whole or not at all
        for worker in workers:
            worker.process.join(_JOIN_S)
            worker.link.close()


def _start_worker() -> _Worker:
    link, worker_link = Pipe()
    try:
        return _Worker(start_process(_serve, worker_link), link)
    finally:
        worker_link.close()  # otherwise the pipe would stay open after the worker's end


def _serve(link: Connection) -> None:
    """Run cells one after another until the worker is ended."""
    while True:
        try:
            link.send(answer(link.recv()))
        except (EOFError, BrokenPipeError):
            return
