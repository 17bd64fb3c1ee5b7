"""The warm client seen from the agent: start it for an approved bundle, give it a message, end it when it hangs.

There is one process for each approved bundle that is in use. It forks for every message, which costs hundredths of a
second where a new process costs seconds of imports. If forking is not safe, because a GPU is there or because imports
started threads, a fresh process is prepared after each message, and serves the next one.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import IO, Any, Literal

import psutil  # type: ignore[import-untyped]  # it has no types

from crypto.errors import CipherwardError

PROGRAM = Path(__file__).with_name("warm_process.py")
#: Seconds that importing an approved app may take. It takes about 3 s on a slow core; cold disks take longer.
START_S = 120.0
#: Seconds between two calls of `tick` while a message is answered.
_TICK_S = 0.2
#: A client that used no more than `_IDLE_CPU_S` of CPU time for so many seconds hangs. Training always computes, and
#: reading from a slow disk costs some CPU time too. Chosen by hand.
IDLE_S = 30.0
_IDLE_CPU_S = 0.02
#: Seconds between two looks at the CPU time; and the most that one look counts, so that a machine that slept, or an
#: agent that stood still, makes no client idle.
_LOOK_S, _MOST_COUNTED_S = 1.0, 2.0

Mode = Literal["fork", "spawn"]


@dataclass(frozen=True)
class App:
    """An unpacked, approved bundle.

    Attributes:
        sha256: the bundle's digest.
        folder: where it is unpacked.
        fab_id: the app's id, as Flower names it.
        fab_version: the app's version.
    """

    sha256: str
    folder: Path
    fab_id: str
    fab_version: str


@dataclass(frozen=True)
class Answer:
    """What a child left.

    Attributes:
        content: the reply's content, a serialized RecordDict; empty after an error.
        context: the context after the message, serialized; empty if the app got no further.
        error: the type of the error; "" after a reply.
        text: the error's text, if it was written for others to read.
        field: the setting that the hospital refused, if it refused one.
        cpu_s: CPU seconds of the child.
    """

    content: bytes = b""
    context: bytes = b""
    error: str = ""
    text: str = ""
    field: str = ""
    cpu_s: float = 0.0


def pick_mode() -> Mode:
    """Return whether a process may be forked after its imports: not beside a GPU, whose driver starts threads."""
    has_gpu = Path("/dev/nvidiactl").exists() and os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1")
    return "spawn" if has_gpu or not sys.platform.startswith("linux") else "fork"


class Idleness:
    """For how long a process and all that it started have used no CPU time.

    Args:
        process: the process; None if it ended.
    """

    def __init__(self, process: subprocess.Popen[bytes] | None) -> None:
        self.is_hung = False
        self._id = None if process is None else process.pid
        self._cpu_s, self._idle_s, self._looked = self._used(), 0.0, time.monotonic()

    def look(self) -> bool:
        """Return whether the process has been idle for `IDLE_S`; look at most once a second."""
        passed = time.monotonic() - self._looked
        if passed >= min(_LOOK_S, IDLE_S):
            self._looked += passed
            used = self._used()
            if abs(used - self._cpu_s) > _IDLE_CPU_S:  # less, where a child ended
                self._cpu_s, self._idle_s = used, 0.0
            else:
                self._idle_s += min(passed, _MOST_COUNTED_S)
            self.is_hung = self._idle_s >= IDLE_S
        return self.is_hung

    def _used(self) -> float:
        """Return the CPU seconds of the process and of all that it started and that runs."""
        seconds = 0.0
        with contextlib.suppress(psutil.Error):
            root = psutil.Process(self._id)
            for process in (root, *root.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    times = process.cpu_times()
                    seconds += times.user + times.system
        return seconds


class WarmClient:
    """A warm client process for one bundle.

    Args:
        app: the bundle.
        environment: the process's environment.
        log_file: gets what the app prints.
        mode: fork, or spawn where forking is not safe.
    """

    def __init__(self, app: App, environment: Mapping[str, str], log_file: Path, mode: Mode) -> None:
        self.app = app
        self.mode: Mode = mode
        self.start_cpu_s = 0.0
        self._environment = dict(environment)
        self._log_file = log_file
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None

    @property
    def pid(self) -> int | None:
        """The process's id, or None if it does not run."""
        return None if self._process is None else self._process.pid

    def start(self, tick: Callable[[], None] = lambda: None) -> None:
        """Start the process and wait until it has imported the app. Does nothing if it runs.

        Raises:
            CipherwardError: if the app cannot be imported.
        """
        if self._process is not None and self._process.poll() is None:
            return
        self.end()
        self._launch()
        report = self._wait(START_S, tick)
        if report is None or "error" in report:
            self.end()
            reason = f"{report['error']}" if report else f"not ready after {START_S:.0f} s"
            raise CipherwardError(f"the approved app cannot be loaded: {reason}", f"see {self._log_file}")
        self.start_cpu_s = float(report["cpu_s"])
        if self.mode == "fork" and report["threads"] != 1:
            self.mode = "spawn"
            self.end()
            self.start(tick)

    def _launch(self) -> None:
        ours, theirs = socket.socketpair()
        settings = {
            "folder": str(self.app.folder),
            "fab_id": self.app.fab_id,
            "fab_version": self.app.fab_version,
            "fab_hash": self.app.sha256,
            "mode": self.mode,
        }
        with theirs, open(self._log_file, "ab") as sink:
            self._process = subprocess.Popen(
                # Isolated from PYTHONPATH and the working directory: the bundle's packages come first.
                [sys.executable, "-P", str(PROGRAM), str(theirs.fileno()), json.dumps(settings)],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=self._environment,
                cwd=self.app.folder,
                start_new_session=True,
            )
        self._channel = ours

    def answer(
        self, message: bytes, context: bytes, limit_s: float, tick: Callable[[], None] = lambda: None
    ) -> Answer:
        """Run the app on a message. The process is ended if it takes longer than `limit_s` seconds, or hangs.

        Args:
            message: a serialized Flower message.
            context: its serialized context.
            limit_s: the longest time, the start of the process included.
            tick: called a few times a second; what it raises ends the process.
        """
        deadline = time.monotonic() + limit_s
        self.start(tick)
        with _memory_file() as request, _memory_file() as reply:
            request.write(f"{len(message)}\n".encode() + message + context)
            request.seek(0)  # the process shares the file's position
            assert self._channel is not None
            try:
                socket.send_fds(self._channel, [b"message\n"], [request.fileno(), reply.fileno()])
                idle = Idleness(self._process)
                report = self._wait(max(0.1, deadline - time.monotonic()), tick, idle)
            except OSError:
                report = {"status": -signal.SIGKILL}
            except BaseException:
                self.end()
                raise
            if report is None:
                self.end()
                if idle.is_hung:
                    return Answer(error="Hung", text=f"used no CPU time for {IDLE_S:.0f} s, and was ended")
                return Answer(error="TimeLimit", text=f"no answer within {limit_s:.0f} s, and was ended")
            if self.mode == "spawn":
                self.end()
            return _read_answer(reply, report)

    def _wait(
        self, limit_s: float, tick: Callable[[], None], idle: Idleness | None = None
    ) -> dict[str, Any] | None:
        """Return the process's next report; None after `limit_s` seconds, or if it hangs."""
        assert self._channel is not None
        deadline, text = time.monotonic() + limit_s, b""
        while not text.endswith(b"\n"):
            if time.monotonic() > deadline or (idle is not None and idle.look()):
                return None
            tick()
            if wait_for([self._channel], _TICK_S):
                piece = self._channel.recv(1 << 12)
                if not piece:  # the process ended
                    self.end()
                    return {"status": -signal.SIGKILL, "error": "the process ended"}
                text += piece
        report: dict[str, Any] = json.loads(text)
        return report

    def end(self) -> None:
        """End the process with everything that it started in its group."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is not None:
            # It leads its own group, and is not waited for before: its id cannot be another's.
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


def _read_answer(reply: IO[bytes], report: Mapping[str, Any]) -> Answer:
    """Return the answer that a child wrote, or the error that it ended with."""
    cpu_s = float(report.get("cpu_s", 0.0))
    if report.get("status") != 0:
        return Answer(
            error="Ended", text=f"the client ended with status {report.get('status')}", cpu_s=cpu_s
        )
    reply.seek(0)
    outcome, rest = json.loads(reply.readline()), reply.read()
    if "error" in outcome:
        text, field = str(outcome.get("text", "")), str(outcome.get("field", ""))
        return Answer(b"", rest, str(outcome["error"]), text, field, cpu_s)
    size = int(outcome["size"])
    return Answer(rest[:size], rest[size:], cpu_s=cpu_s)


def _memory_file() -> IO[bytes]:
    """Open a nameless file in memory, so that a full disk stops no message; elsewhere than on Linux, on disk."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("message"), "w+b")
    return tempfile.TemporaryFile()
