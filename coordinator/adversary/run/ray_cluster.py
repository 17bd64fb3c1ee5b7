"""Cells of the suite on a Ray cluster. All nodes need this same checkout, and storage that they share."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Sequence
from typing import Any

from coordinator.adversary.run.cell import Cell, Finished, accept, answer
from coordinator.exchange.quiet import QUIET, bypass_proxies
from coordinator.exchange.temporary import require_ray, temporary_folder
from crypto.errors import CipherwardError

#: Seconds until a cluster's address must answer. Chosen by hand; Ray itself would try for minutes.
_CONNECT_S = 5.0


def run_on_ray(cells: Sequence[Cell], jobs: int, address: str) -> Finished:
    """Yield every cell with its guess, as they finish, in any order.

    Args:
        cells: the cells.
        jobs: the number of processes of a `local` cluster.
        address: HOST:PORT or ray://HOST:PORT of a cluster, or `local` for a cluster of this machine's own.

    Raises:
        CipherwardError: if no cluster answers, or a cell cannot run at all on it.
    """
    bypass_proxies(os.environ)
    os.environ.update(QUIET)  # Ray reads them when it is loaded, and reports usage without them
    import ray
    from ray import exceptions

    _check_address(address)
    if address == "local":
        require_ray(
            "leave --ray out: the attacks then run in processes of this machine, as many as --jobs says"
        )
    parent = temporary_folder()
    with tempfile.TemporaryDirectory(prefix="cw-", dir=parent, ignore_cleanup_errors=True) as folder:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if address == "local":
            options |= {"num_cpus": jobs, "include_dashboard": False}
            options |= {"_node_ip_address": "127.0.0.1", "_temp_dir": folder}
        try:
            ray.init(address=address, **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise _no_cluster(address, error) from None
        try:
            # A cell that kills its worker would kill the next one, too, so none is tried again.
            work = ray.remote(num_cpus=1, max_retries=0)(answer)
            waiting = {work.remote(cell): cell for cell in cells}
            while waiting:
                (done,), _ = ray.wait(list(waiting), num_returns=1)
                cell = waiting.pop(done)
                try:
                    guess = accept(ray.get(done))
                except exceptions.RayTaskError as error:
                    raise CipherwardError(
                        f"a Ray worker cannot run cells: {str(error).splitlines()[-1]}",
                        "every node needs this same checkout and its .venv",
                    ) from None
                except exceptions.RayError as error:
                    reason = f"crash: {type(error).__name__} on Ray: {error}"
                    guess = cell.failure(
                        reason, 0.0
                    )  # Ray does not say how long it waited, and how long it ran
                yield cell, guess
        finally:
            ray.shutdown()


def _check_address(address: str) -> None:
    """Raise CipherwardError if nobody listens at HOST:PORT or ray://HOST:PORT."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), _CONNECT_S).close()
        except (OSError, OverflowError) as error:
            raise _no_cluster(address, error) from None


def _no_cluster(address: str, error: Exception) -> CipherwardError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return CipherwardError(
        f"no Ray cluster at {address}: {reason}",
        "name one that runs, or `local` for one of this machine's own",
    )
