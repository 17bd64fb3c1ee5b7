"""Processes that end with the command that started them, whatever ends that command.

Flower and Ray start programs in sessions of their own, and none of them ends with a command that was killed. So
everything that a run starts carries one environment variable with the run's own temporary folder as its value, and
every process inherits it. A watchdog, a small process in a session of its own, holds one end of a pipe. When the
command ends in any way, SIGKILL included, the system closes the other end. The watchdog then ends all processes that
carry the variable with that value, all that these started, and removes the folder.

Ray's agents (`ray::DashboardAgent`, `ray::RuntimeEnvAgent`) set titles that can overwrite the variable. They are
found by that title together with a file that they have open in the run's folder. No process is found by its name
alone.

Only a kill of command and watchdog at once escapes this. This file is also the watchdog's program, so it imports
nothing of ours when it is loaded.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it has no types

#: The environment variable that marks the processes of a run.
MARK = "CIPHERWARD_RUN"
#: Seconds between two looks for processes, and seconds after which one that does not die is left. Chosen by hand.
_LOOK_S, _PATIENCE_S = 0.05, 8.0
#: What the titles of Ray's processes begin with.
_RAY_TITLE = "ray::"
#: Looks in a row that must find nothing. Chosen by hand.
_EMPTY_LOOKS = 4


@contextlib.contextmanager
def ending_with_us() -> Iterator[Path]:
    """Give a run a temporary folder, and end all processes of the run with the block or with this process.

    The processes must be started with `MARK` set to the folder in their environment.

    Raises:
        CipherwardError: If no folder for temporary files can be written.
    """
    # Imported here: this file is the watchdog's program, too.
    from coordinator.exchange.temporary import temporary_folder

    folder = Path(tempfile.mkdtemp(prefix="cw-", dir=temporary_folder()))
    # Without the mark and in another session, neither a search nor a signal for us reaches it.
    watchdog = subprocess.Popen(
        [sys.executable, "-P", __file__, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={name: value for name, value in os.environ.items() if name != MARK},
        start_new_session=True,
    )
    assert watchdog.stdin is not None and watchdog.stdout is not None
    try:
        if not watchdog.stdout.readline():
            raise RuntimeError("the watchdog of the study's processes did not start")
        yield folder
    finally:
        end_processes(folder)
        watchdog.stdin.close()
        watchdog.wait()
        watchdog.stdout.close()
        shutil.rmtree(folder, ignore_errors=True)


def find_processes(folder: Path) -> list[psutil.Process]:
    """Return the living processes of a run: those with its mark, Ray's agents, and all that these started.

    This process is left out.
    """
    ours: list[psutil.Process] = []
    others: list[psutil.Process] = []
    for process in psutil.process_iter(["ppid"]):
        # Processes of other users cannot be read, and are none of ours.
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid():
                belongs = _has_mark(process, folder) or _is_agent(process, folder)
                (ours if belongs else others).append(process)
    pids = {process.pid for process in ours}
    while started := [process for process in others if process.info["ppid"] in pids]:
        ours += started
        pids |= {process.pid for process in started}
        others = [process for process in others if process.pid not in pids]
    return ours


def _is_agent(process: psutil.Process, folder: Path) -> bool:
    """Return whether a process has a title of Ray's and a file of the run open."""
    if not "".join(process.cmdline()[:1]).startswith(_RAY_TITLE):
        return False
    return any(folder in Path(file.path).parents for file in process.open_files())


def _has_mark(process: psutil.Process, folder: Path) -> bool:
    """Return whether a process carries the mark of a run.

    Programs that set their own title, as Ray's agents do, overwrite the start of their environment, and psutil then
    reads none of it. So it is searched as bytes where the system shows it.
    """
    block = Path(f"/proc/{process.pid}/environ")
    if block.exists():
        return f"{MARK}={folder}".encode() in block.read_bytes().split(b"\0")
    return bool(process.environ().get(MARK) == str(folder))


def end_processes(folder: Path) -> None:
    """End all processes of a run, and those that they start meanwhile."""
    deadline, empty_looks = time.monotonic() + _PATIENCE_S, 0
    # One look can miss a process that is just being started, or whose environment cannot be read at that moment.
    while empty_looks < _EMPTY_LOOKS and time.monotonic() < deadline:
        marked = find_processes(folder)
        for process in marked:
            with contextlib.suppress(psutil.Error):
                process.kill()
        empty_looks = 0 if marked else empty_looks + 1
        time.sleep(_LOOK_S)


def watch(folder: Path) -> None:
    """Say that the watchdog is ready, wait until standard input closes, then end the run and remove its folder."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    print("ready", flush=True)
    sys.stdin.buffer.read()
    end_processes(folder)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    watch(Path(sys.argv[1]))
