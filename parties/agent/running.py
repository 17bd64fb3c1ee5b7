"""One agent in a hospital's folder: its lock, what it says of itself, and how another process ends it.

HOSPITAL/private/agent/
  lock          held while an agent runs; the kernel releases it when the agent ends in any way
  agent.json    the agent's process and what it is doing
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # it has no types

from crypto.errors import CipherwardError
from crypto.files import disk_errors, hold_file, open_lock, parse_json, write_json
from parties.sealing.place import Place

#: Seconds that an agent may take to end, its SuperNode's farewell included.
_LEAVE_S = 30.0


def agent_folder(place: Place) -> Path:
    """Return the folder of the agent's own files, closed to other users. It is made on first use."""
    path = place.private / "agent"
    with disk_errors(path):
        path.mkdir(mode=0o700, exist_ok=True)
    return path


@contextlib.contextmanager
def hold(place: Place) -> Iterator[None]:
    """Be the hospital's only agent.

    Raises:
        CipherwardError: if another one runs.
    """
    folder = agent_folder(place)
    with open_lock(folder / "lock") as lock:
        try:
            hold_file(lock, folder, wait=False)
        except BlockingIOError:
            raise CipherwardError(
                f"an agent of {place.settings.party} is running already",
                f"end it: cipherward-party leave {place.folder}",
            ) from None
        try:
            yield
        finally:
            _state_path(place).unlink(missing_ok=True)


def write_state(place: Place, **state: Any) -> None:
    """Write what the agent is doing. Only the process that holds the lock may call it."""
    own = psutil.Process()
    write_json(_state_path(place), {"pid": own.pid, "started": own.create_time(), **state})


def read_state(place: Place) -> dict[str, Any] | None:
    """Return what the running agent says of itself; None if no agent runs."""
    if not _is_held(place):
        return None
    try:
        state = parse_json(_state_path(place).read_text())
    except (OSError, ValueError):
        return {}  # it is just starting, or ending
    return state if isinstance(state, dict) else {}


def leave(place: Place, wait_s: float = _LEAVE_S) -> int:
    """End the hospital's agent and wait until it has ended. Return its process id.

    The process is ended only if the lock is held and if the process of that number began when the agent did:
    the system gives numbers to other processes again.

    Raises:
        CipherwardError: if no agent runs, if it is another user's, or if it does not end.
    """
    state = read_state(place)
    if state is None:
        raise CipherwardError(
            f"no agent of {place.settings.party} is running",
            "cipherward-party join KIT HOSPITAL starts one",
        )
    process = _find_process(state)
    if process is None:
        raise CipherwardError(
            f"the agent of {place.settings.party} is just starting or ending, or runs in another container",
            "wait a moment; in a container, stop the container",
        )
    try:
        process.send_signal(signal.SIGTERM)
    except psutil.AccessDenied:
        raise CipherwardError(
            f"the agent (process {process.pid}) is another user's", "run this as that user"
        ) from None
    except psutil.NoSuchProcess:
        return int(process.pid)
    deadline = time.monotonic() + wait_s
    while _is_held(place):
        if time.monotonic() > deadline:
            raise CipherwardError(
                f"the agent (process {process.pid}) has not ended after {wait_s:.0f} s",
                f"see {agent_folder(place)}; kill -9 {process.pid} ends it and what it started",
            )
        time.sleep(0.1)
    return int(process.pid)


def _find_process(state: dict[str, Any]) -> psutil.Process | None:
    """Return the agent's process, or None if that number is another process by now."""
    with contextlib.suppress(psutil.Error, TypeError, ValueError, KeyError):
        process = psutil.Process(int(state["pid"]))
        if abs(process.create_time() - float(state["started"])) < 0.05 and process.pid != os.getpid():
            return process
    return None


def _is_held(place: Place) -> bool:
    """Return whether an agent holds the lock."""
    # Whoever only asks makes no folder.
    path = place.folder / "private" / "agent" / "lock"
    if not path.exists():
        return False
    with open(path) as lock:
        try:
            hold_file(lock, path.parent, wait=False, shared=True)
        except BlockingIOError:
            return True
    return False


def _state_path(place: Place) -> Path:
    return agent_folder(place) / "agent.json"
