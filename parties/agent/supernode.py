"""Flower's own SuperNode, started and watched: its options, its log, its restarts.

Its fixed pauses are shortened and what it takes is bounded (coordinator/exchange/flower_pauses.py). It runs with
`--isolation process`: it fetches messages and sends replies, and starts no program. The agent's executor takes its
tasks (executor.py). Its Flower home, port and secret are its own, so that several hospitals can run on one machine,
and none of the user's own Flower settings apply.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it has no types

from coordinator.exchange import flower_pauses
from coordinator.exchange.quiet import QUIET
from crypto.errors import CipherwardError
from crypto.files import disk_errors
from crypto.printable import printable

#: Seconds before a restart: the first, and the most. A killed SuperNode is refused by the SuperLink until its last
#: registration has expired, which took 55 s; longer pauses would make a hospital come back later than it can.
_FIRST_PAUSE_S, _MOST_PAUSE_S = 1.0, 10.0
#: A SuperNode that ran so long is restarted after the first pause again. Chosen by hand.
_STEADY_S = 60.0
#: Seconds without a word after which a SuperNode that is cut off is taken for stuck.
_SILENT_S = 40.0
#: Seconds that a SuperNode may take to say farewell to the SuperLink.
_FAREWELL_S = 8.0
#: Bytes of a log at which it is set aside, in the place of the one that was set aside before. A coordinator that
#: repeats itself must not fill the hospital's disk.
_MAX_LOG_BYTES = 16 << 20
#: Variables that open a hospital's key. The SuperNode opens none.
_SECRET_PREFIXES = ("CIPHERWARD_PASSPHRASE", "CIPHERWARD_IDENTITY")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
#: How a line of its log begins, after which its own words must stand: the coordinator chooses parts of lines, such as
#: the name of a round. `flower_pauses` escapes the line breaks in them, and quotes what is no line of its own.
_OWN = r"^(?:[A-Z]{4,8} *:\s*)?"
_ONLINE = re.compile(_OWN + "SuperNode ID:")
_LOST = re.compile(_OWN + r"(?:Connection attempt failed|Failed to send|Giving up reconnection)")
_BACK = re.compile(_OWN + "Connection successful")
#: What it says of a message that it will not receive: its run was stopped, or the connection broke.
_DROPPED = re.compile(
    _OWN
    + r"(?:Run ID \d+ is not in `RUNNING` status\. Ignoring|Failed to receive) message ([0-9a-f]{16,128})"
)
#: What it says when a message comes, and when Flower's own check then refuses the app bundle.
_RECEIVING = re.compile(_OWN + r"Receiving: ([\w.]{1,64}) message \(ID: ([0-9a-f]{16,128})\)")
_UNVERIFIED = re.compile(_OWN + r"(?:FAB verification failed|The FAB could not be verified)")
#: Bytes of the log that are read in one look.
_LOOK_BYTES = 1 << 20
#: Dropped messages that are remembered. Only the one that is pulled now is ever asked for.
_MOST_DROPPED = 64


@dataclass
class SuperNode:
    """A SuperNode of one hospital.

    Attributes:
        folder: the agent's folder.
        superlink: host:port of the coordinator's Fleet API.
        ca: file of the federation's CA certificate.
        key: file of the SuperNode's private key.
        party_dir: the hospital's folder.
        environment: variables that everything of this agent carries.
        trusted: the file of keys whose signatures Flower's own check asks of an app bundle; None without that check.
        most_message: the largest message that it takes, in bytes.
    """

    folder: Path
    superlink: str
    ca: Path
    key: Path
    party_dir: Path
    environment: Mapping[str, str]
    trusted: Path | None = None
    most_message: int = flower_pauses.MOST_MESSAGE
    port: int = 0
    secret: bytes = b""
    starts: int = 0
    #: connecting, online or unreachable: what its log says of the SuperLink.
    connection: str = "connecting"
    #: The last error in its log.
    error: str = ""
    #: The ids of messages that it gave up receiving, newest last.
    dropped: list[str] = field(default_factory=list)
    #: Type and id of the messages whose bundle Flower's own check refused, oldest first; the agent takes them out.
    unverified: list[tuple[str, str]] = field(default_factory=list)
    _receiving: tuple[str, str] = ("message", "")
    _heard: float = 0.0
    _process: subprocess.Popen[bytes] | None = None
    _started: float = 0.0
    _next_start: float = 0.0
    _pause_s: float = _FIRST_PAUSE_S
    _log_position: int = field(default=0, repr=False)

    @property
    def log_file(self) -> Path:
        """What the SuperNode prints."""
        return self.folder / "supernode.log"

    @property
    def address(self) -> str:
        """host:port of its Runtime API, on the loopback interface."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """Its process id, or None while it does not run."""
        return None if self._process is None else self._process.pid

    @property
    def is_listening(self) -> bool:
        """Whether it is this SuperNode that listens on its port.

        It takes seconds to start, and everybody on the machine can read the port from its command line. Another user
        who took the port first would be handed answers.
        """
        try:
            sockets = [] if self.pid is None else psutil.Process(self.pid).net_connections("tcp4")
        except psutil.Error:
            return False
        own = ("127.0.0.1", self.port)
        return any(s.status == psutil.CONN_LISTEN and tuple(s.laddr) == own for s in sockets)

    @property
    def age_s(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self._started

    @property
    def is_stuck(self) -> bool:
        """Whether it is cut off and has stopped trying. One that tries says so several times a minute.

        Flower takes a connection that ends within a TLS handshake, as when the SuperLink is killed, for a wrong
        certificate. The SuperNode then runs on without a connection.
        """
        is_silent = time.monotonic() - max(self._heard, self._started) > _SILENT_S
        return self.pid is not None and self.connection == "unreachable" and is_silent

    def ensure(self) -> bool:
        """Start it if it does not run and if its pause is over. Return whether it was started now.

        Raises:
            CipherwardError: if one of its files cannot be written. The next try comes after a pause.
            OSError: if the system starts no process.
        """
        if self._process is not None:
            if self._process.poll() is None:
                return False
            self._forget()
        if time.monotonic() < self._next_start:
            return False
        self._next_start = time.monotonic() + _MOST_PAUSE_S
        self._start()
        return True

    def _start(self) -> None:
        self.port, self.secret = _free_port(), secrets.token_bytes(32)
        secret_file = self.folder / "superexec-secret"
        with disk_errors(secret_file):
            secret_file.unlink(missing_ok=True)
            with open(os.open(secret_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(self.secret)
        rotate(self.log_file)
        self._log_position = self.log_file.stat().st_size if self.log_file.exists() else 0
        words = [
            *(sys.executable, "-P", flower_pauses.__file__),
            *("--superlink", self.superlink, "--root-certificates", str(self.ca)),
            *("--auth-supernode-private-key", str(self.key)),
            *("--node-config", f"party-dir={json.dumps(str(self.party_dir))}"),
            *("--isolation", "process", "--superexec-auth-secret-file", str(secret_file)),
            *("--host", "127.0.0.1", "--port", str(self.port)),
            *(() if self.trusted is None else ("--trusted-entities", str(self.trusted))),
        ]
        work = self.folder / "work"
        with disk_errors(work):
            work.mkdir(exist_ok=True)
        with disk_errors(self.log_file):
            sink = open(self.log_file, "ab")  # noqa: SIM115 - disk_errors is for opening it only
        with sink:
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                cwd=work,
                env=self._variables(),
                # A Ctrl-C is for the agent, which then ends the SuperNode in good order.
                start_new_session=True,
            )
        self.connection, self.starts, self._started = "connecting", self.starts + 1, time.monotonic()

    def _variables(self) -> dict[str, str]:
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith((*_SECRET_PREFIXES, "PYTHONPATH"))
        }
        own = {
            "FLWR_HOME": str(self.folder / "flwr"),
            flower_pauses.MOST_MESSAGE_NAME: str(self.most_message),
        }
        return {**inherited, **QUIET, **self.environment, **own}

    def _forget(self) -> None:
        """Note that it ended, and when it may start again: later each time, and not all hospitals at once."""
        self.read_log()
        if self.age_s > _STEADY_S:
            self._pause_s = _FIRST_PAUSE_S
        self._next_start = time.monotonic() + self._pause_s * random.uniform(0.7, 1.0)
        self._pause_s = min(2 * self._pause_s, _MOST_PAUSE_S)
        self._process, self.connection = None, "restarting"

    def read_log(self) -> None:
        """Read what it printed since the last call: whether it is connected, and its last error."""
        self._read_new()
        if rotate(self.log_file, self._log_position):
            self._log_position = 0

    def _read_new(self) -> None:
        try:
            with open(self.log_file, "rb") as file:
                file.seek(self._log_position)
                data = file.read(_LOOK_BYTES)
        except OSError:
            return
        # A line that is longer than a look would be waited for without end, and with it all later ones.
        is_endless = len(data) == _LOOK_BYTES and b"\n" not in data
        whole = data if is_endless else data[: data.rfind(b"\n") + 1]
        self._log_position += len(whole)
        if whole:
            self._heard = time.monotonic()
        for raw in whole.decode(errors="replace").split("\n"):
            line = printable(_COLOURS.sub("", raw).strip())
            if _ONLINE.search(line) or _BACK.search(line):
                self.connection, self.error = "online", ""
            elif _LOST.search(line):
                self.connection = "unreachable"
            if (match := _DROPPED.search(line)) is not None:
                self.dropped = [*self.dropped, match[1]][-_MOST_DROPPED:]
            if (match := _RECEIVING.search(line)) is not None:
                self._receiving = match[1], match[2]
            if _UNVERIFIED.search(line):
                self.unverified.append(self._receiving)
            if (reason := explain(line)) is not None:
                self.error = reason

    def end(self) -> None:
        """End it: in good order, so that the coordinator sees it go, or else at once."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            self._process.wait(_FAREWELL_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._forget()


def explain(line: str) -> str | None:
    """Return why a SuperNode cannot work, in words, if a line of its log says so; otherwise None."""
    if "CERTIFICATE_VERIFY_FAILED" in line:
        detail = line.partition("certificate verify failed: ")[2].partition(" (_ssl")[0]
        detail = detail or "verification failed"
        if "not yet valid" in detail or "expired" in detail:
            return (
                f"the coordinator's certificate does not fit this machine's clock ({detail}); check the clock, or "
                "ask the coordinator to renew the certificate"
            )
        return f"the coordinator's certificate does not fit this kit ({detail}); ask for a new kit"
    if "[code: 2004]" in line:
        return (
            "the coordinator does not accept this SuperNode key: it is not enrolled, was revoked, or its last "
            "connection has not expired yet, which takes about a minute"
        )
    if (text := line.removeprefix(flower_pauses.QUOTED)).startswith("[code:"):
        return text[:300]
    return None


def rotate(path: Path, read: int | None = None) -> bool:
    """Set a large log aside in the place of the one that was set aside before, and say whether it was.

    It is copied and emptied: a program that runs appends to it, and goes on at its new beginning. On a full disk it
    is emptied alone.

    Args:
        path: the log.
        read: how many bytes of it were read; one with more is left as it is. None: nobody reads it.
    """
    try:
        with open(path, "r+b") as file:
            size = os.fstat(file.fileno()).st_size
            if size <= _MAX_LOG_BYTES or read not in (None, size):
                return False
            with contextlib.suppress(OSError), open(path.with_suffix(path.suffix + ".1"), "wb") as kept:
                shutil.copyfileobj(file, kept)
            # What came during the copy was not read.
            if read not in (None, os.fstat(file.fileno()).st_size):
                return False
            file.truncate(0)
    except FileNotFoundError:
        return False
    return True


def require_flower() -> None:
    """Raise CipherwardError if Flower's SuperNode is not installed beside this program."""
    if not (Path(sys.executable).parent / "flower-supernode").exists():
        raise CipherwardError(
            f"there is no flower-supernode beside {sys.executable}",
            "install this program again with its dependencies",
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
