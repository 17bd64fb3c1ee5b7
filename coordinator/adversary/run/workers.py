"""Cells of the suite in this process, in several side by side, or on a Ray cluster: the same guesses, bit for bit.

Worker processes are spawned, not forked, with one thread each for the numeric libraries. A worker that dies takes its
cell with it, as a finding, and another takes its place. Workers pass over Ctrl-C, which ends them through the process
that started them, and they end by themselves when that is gone, however it went.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import socket
import tempfile
import threading
import time
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from coordinator.adversary.run.cell import ONE_THREAD, Cell, run_cell
from coordinator.exchange.guesses import StoredGuess
from crypto.errors import CipherwardError

_PATIENCE_S = 5.0

Finished = Generator[tuple[Cell, StoredGuess], None, None]


@dataclass(frozen=True)
class Refused:
    """A CipherwardError on its way from another process: the audit itself cannot go on there."""

    message: str
    hint: str


def run_cells(cells: Sequence[Cell], jobs: int, ray: str = "") -> Finished:
    """Every cell with its guess, as they are finished: in the order given in this process (jobs = 1), else in any.

    jobs: worker processes. ray: the address of a cluster, or `local`, to run them there instead. Close the iterator
    to end the workers. Raises CipherwardError where a cell cannot be run at all (`run_cell`).
    """
    if ray:
        return _on_ray(cells, jobs, ray)
    return _here(cells) if jobs == 1 else _in_processes(cells, jobs)


def _here(cells: Sequence[Cell]) -> Finished:
    for cell in cells:
        yield cell, run_cell(cell)


def answer(cell: Cell) -> StoredGuess | Refused:
    """`run_cell`, with an answer that can be sent."""
    try:
        return run_cell(cell)
    except CipherwardError as error:
        return Refused(error.message, error.hint)


def _accepted(answer: StoredGuess | Refused) -> StoredGuess:
    if isinstance(answer, Refused):
        raise CipherwardError(answer.message, answer.hint)
    return answer


# ---- processes of this machine ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Worker:
    process: BaseProcess
    link: Connection

    def lost(self, cell: Cell, seconds: float) -> StoredGuess:
        """The finding of a cell whose worker is gone."""
        self.process.join(_PATIENCE_S)
        status = self.process.exitcode
        if status is not None and status < 0:
            said = f"was killed by {signal.Signals(-status).name}"
            said += ", as the kernel does when memory runs out" if -status == signal.SIGKILL else ""
        else:
            said = f"ended with status {status}"
        return cell.failed(f"crash: the worker process {said}", seconds)


def _in_processes(cells: Sequence[Cell], jobs: int) -> Finished:
    todo = deque(cells)
    busy: dict[Connection, tuple[_Worker, Cell, float]] = {}
    workers: list[_Worker] = []

    def give(worker: _Worker) -> None:
        cell = todo.popleft()
        busy[worker.link] = worker, cell, time.perf_counter()
        # A worker that is gone already is noticed where its answer is read.
        with contextlib.suppress(OSError):
            worker.link.send(cell)

    def start() -> None:
        workers.append(_started())
        give(workers[-1])

    try:
        for _ in range(min(jobs, len(cells))):
            start()
        while busy:
            ready = wait(list(busy))
            for worker, cell, since in [busy.pop(link) for link in list(busy) if link in ready]:
                try:
                    found = _accepted(worker.link.recv())
                except (EOFError, OSError, pickle.UnpicklingError):
                    found = worker.lost(cell, time.perf_counter() - since)
                    if todo:
                        start()
                else:
                    if todo:
                        give(worker)
                yield cell, found
    finally:
        for worker in workers:
            worker.process.kill()  # its guesses are written whole or not at all
        for worker in workers:
            worker.process.join(_PATIENCE_S)
            worker.link.close()


def _started() -> _Worker:
    spawn = multiprocessing.get_context("spawn")
    link, theirs = spawn.Pipe()
    process = spawn.Process(target=_serve, args=(theirs,), daemon=True)
    # Numeric libraries read these when the new process loads them.
    wanted = {**ONE_THREAD, "NUMBA_NUM_THREADS": "1"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        process.start()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        theirs.close()  # or the end of the worker would not end the pipe
    return _Worker(process, link)


def _serve(link: Connection) -> None:
    """What a worker does: cells, one after another, until it is ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            link.send(answer(link.recv()))
        except (EOFError, BrokenPipeError):
            return


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


# ---- Ray --------------------------------------------------------------------------------------------------


def _on_ray(cells: Sequence[Cell], jobs: int, address: str) -> Finished:
    from coordinator.study.flower_run import QUIET

    os.environ.update(QUIET)  # Ray reports usage unless it is told not to before it is loaded
    import ray
    from ray import exceptions

    _must_answer(address)
    with tempfile.TemporaryDirectory(prefix="cw-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        how: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if address == "local":
            own = {"num_cpus": jobs, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
            how |= {**own, "_temp_dir": folder}
        try:
            ray.init(address=address, **how)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise CipherwardError(
                f"no Ray cluster at {address}: {str(error).splitlines()[0]}",
                "name one that runs, or `local` for one of this machine's own",
            ) from None
        try:
            # A cell that kills its worker would kill the next one, too: none is tried again.
            work = ray.remote(num_cpus=1, max_retries=0)(answer)
            waiting = {work.remote(cell): (cell, time.perf_counter()) for cell in cells}
            while waiting:
                (done,), _ = ray.wait(list(waiting), num_returns=1)
                cell, since = waiting.pop(done)
                try:
                    found = _accepted(ray.get(done))
                except exceptions.RayTaskError as error:
                    raise CipherwardError(
                        f"a Ray worker cannot run cells: {str(error).splitlines()[-1]}",
                        "every node needs this same checkout and its .venv",
                    ) from None
                except exceptions.RayError as error:
                    said = f"crash: {type(error).__name__} on Ray: {error}"
                    found = cell.failed(said, time.perf_counter() - since)
                yield cell, found
        finally:
            ray.shutdown()


def _must_answer(address: str) -> None:
    """Raises CipherwardError where nobody listens at HOST:PORT or ray://HOST:PORT; Ray would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), _PATIENCE_S).close()
        except (OSError, OverflowError) as error:
            raise _no_cluster(address, error) from None


def _no_cluster(address: str, error: Exception) -> CipherwardError:
    said = (str(error) or type(error).__name__).splitlines()[0]
    return CipherwardError(
        f"no Ray cluster at {address}: {said}",
        "name one that runs, or `local` for one of this machine's own",
    )
