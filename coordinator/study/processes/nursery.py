"""The nursery: a process that has imported what a hospital needs, and forks a process for each hospital.

Importing PyTorch, timm and Flower takes seconds, and forking takes milliseconds. The nursery handles no message,
opens no hospital's folder and starts no thread of PyTorch. So every hospital's process starts clean: its memory holds
nothing of another hospital. It is not a second user: on one machine all hospitals run with the same rights.

The coordinator reaches a hospital by a socket pair alone. It has no name and no port, so no other process can
connect. Tried on Linux alone: macOS is not known to fork reliably after frameworks of Apple's were used.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator.study.processes.hospital import load_client_app, serve_messages

#: Linux's prctl: which signal a process gets when its parent ends.
_PR_SET_PDEATHSIG = 1
#: What training, evaluation and model need beside the app itself. What is not installed is not needed.
PRELOADED = (
    "coordinator.model.torchvision_fix",
    "coordinator.model.vit",
    "coordinator.model.training",
)
_REQUEST_BYTES = 1 << 16


def die_with_parent() -> None:
    """End this process when its parent ends. Only Linux can do it; elsewhere the watchdog of the study does."""
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The parent may have ended before the call.
    if os.getppid() != parent:
        os._exit(1)


@dataclass(frozen=True)
class Hospital:
    """What a hospital's process is started with.

    Attributes:
        node: its number as a Flower node.
        folder: its own folder.
        log_file: gets what it prints. It stays in the hospital: it may name patients.
    """

    node: int
    folder: Path
    log_file: Path


class Nursery:
    """The coordinator's handle of the nursery. Calls must not overlap."""

    def __init__(self, client_app: str, threads: int, preloaded: Sequence[str] = PRELOADED) -> None:
        """Fork the nursery. Call it before this process uses PyTorch, and before it starts a thread.

        Args:
            client_app: the ClientApp as "module:attribute".
            threads: how many threads of PyTorch each hospital's process may have.
            preloaded: modules to import before hospitals' processes are forked, if they are installed.
        """
        # What is not printed yet would be printed by both processes.
        sys.stdout.flush()
        sys.stderr.flush()
        self._control, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            self._control.close()
            _run_and_exit(lambda: _serve(theirs, client_app, threads, preloaded))
        theirs.close()

    def start(self, hospital: Hospital) -> tuple[int, socket.socket]:
        """Start a hospital's process; return its id and the socket for its messages.

        Raises:
            OSError: if the nursery has ended.
        """
        ours, theirs = socket.socketpair()
        try:
            request = {"node": hospital.node, "folder": str(hospital.folder), "log": str(hospital.log_file)}
            answer = self._ask(request, theirs)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return int(answer["pid"]), ours

    def end(self, pid: int) -> str:
        """End a hospital's process that `start` returned, and return how it ended, in words."""
        try:
            status = int(self._ask({"end": pid}, None)["status"])
        except OSError:
            return "its process ended"
        if os.WIFSIGNALED(status):
            name = signal.Signals(os.WTERMSIG(status)).name
            return f"its process was ended by {name}"
        return f"its process ended with status {os.WEXITSTATUS(status)}"

    def close(self) -> None:
        """End the nursery, and with it all hospitals' processes."""
        self._control.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def _ask(self, request: Mapping[str, Any], channel: socket.socket | None) -> dict[str, Any]:
        fds = [] if channel is None else [channel.fileno()]
        socket.send_fds(self._control, [json.dumps(request).encode()], fds)
        answer = self._control.recv(_REQUEST_BYTES)
        if not answer:
            raise OSError("the nursery of the hospitals' processes has ended")
        return dict(json.loads(answer))


def _run_and_exit(program: Any) -> None:
    """Run the program of a forked process, and never return to the code of its parent."""
    status = 1
    try:
        # A terminal sends Ctrl-C to all processes. The command that started them ends them.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        die_with_parent()
        program()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _serve(control: socket.socket, client_app: str, threads: int, preloaded: Sequence[str]) -> None:
    """Start and end hospitals' processes as the coordinator asks, until it closes the socket."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    for name in preloaded:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    app = load_client_app(client_app)
    living: set[int] = set()
    while True:
        data, fds, _, _ = socket.recv_fds(control, _REQUEST_BYTES, 1)
        if not data:
            break
        request = json.loads(data)
        if "end" in request:
            pid = int(request["end"])
            # Only its own children, which keep their ids until they are waited for: nobody else is ended.
            living.remove(pid)
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            answer = {"status": status}
        else:
            channel = socket.socket(fileno=fds[0])
            hospital = Hospital(request["node"], Path(request["folder"]), Path(request["log"]))
            pid = os.fork()
            if pid == 0:
                control.close()
                _run_and_exit(lambda: _be_hospital(channel, app, hospital))  # noqa: B023 - used at once
            channel.close()
            living.add(pid)
            answer = {"pid": pid}
        control.sendall(json.dumps(answer).encode())
    for pid in living:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _be_hospital(channel: socket.socket, app: Any, hospital: Hospital) -> None:
    """Answer messages as a hospital, and print into its own log."""
    log = os.open(hospital.log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    serve_messages(channel, app, hospital.node, {"party-dir": str(hospital.folder)})
