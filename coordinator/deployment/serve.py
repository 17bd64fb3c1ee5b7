"""Keep a federation's server running: Flower's SuperLink and the process that starts ServerApps.

Both are started again if they end, with growing pauses. They end with this process, whatever ends it
(coordinator.exchange.end_with_us.py). All state is in the folder: a server that was killed goes on where it was.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from coordinator.deployment.certificates import check_server, describe_expiries
from coordinator.deployment.control import Control, connect
from coordinator.deployment.enrolment import read_roster, reconcile
from coordinator.deployment.folder import DeploymentFolder, FederationSettings
from coordinator.deployment.provision import now_utc, provide_secret
from coordinator.deployment.superlink import SuperLinkSettings, open_port
from coordinator.exchange.console import Log
from coordinator.exchange.end_with_us import MARK, ending_with_us
from coordinator.exchange.quiet import QUIET, without_proxies
from crypto.errors import CipherwardError
from crypto.files import disk_errors, folder_lock, write_json

#: Training opens no key, so Flower's programs do not get the variables that would open one.
_SECRET_PREFIXES = ("CIPHERWARD_PASSPHRASE", "CIPHERWARD_IDENTITY")
#: Seconds that the SuperLink may take to answer and to end; between two looks at the processes; and until a program
#: that ended is started again, at first and at most. Chosen by hand.
_START_S, _STOP_S, _LOOK_S, _PAUSE_S, _MAX_PAUSE_S = 60.0, 8.0, 0.3, 0.5, 30.0
#: Seconds after which a program that is started again counts as healthy. Chosen by hand.
_HEALTHY_S = 60.0
#: Seconds between two looks at the free disk, and at the certificates' ends.
_DISK_EVERY_S, _EXPIRY_EVERY_S = 600.0, 86_400.0
#: Free bytes below which a warning is given, and the size from which on a log is set aside at the start.
LOW_DISK, _LOG_BYTES = 2 << 30, 64 << 20


class Stopped(Exception):  # noqa: N818 - it is no error
    """A signal asked the server to end."""


@dataclass
class _Server:
    """The processes of one server.

    Attributes:
        place: the deployment's folder.
        settings: the federation's settings.
        folder: the private temporary folder of the processes; it holds the Control API's socket.
        log: takes one line for each event.
        stop: set when a signal came.
    """

    place: DeploymentFolder
    settings: FederationSettings
    folder: Path
    log: Log
    stop: threading.Event
    link: subprocess.Popen[bytes] | None = None
    executor: subprocess.Popen[bytes] | None = None
    _sinks: dict[str, BinaryIO] = field(default_factory=dict)

    @property
    def socket(self) -> Path:
        """The Control API's socket. Under /tmp, because its path must be short."""
        return self.folder / "control.sock"

    def control(self) -> contextlib.AbstractContextManager[Control]:
        """Connect to the Control API."""
        return connect(self.socket, self.place.ca_certificate)

    def start(self) -> None:
        """Start both programs, register the roster, and say where the server listens."""
        place, settings = self.place, self.settings
        words = SuperLinkSettings(
            ca=str(place.ca_certificate),
            server=str(place.server),
            database=str(place.database),
            secret=str(place.secret),
            control=str(self.socket),
            approvals=str(place.approvals),
            interface=settings.interface,
            port=settings.port,
            local_port=settings.local_port,
        )
        self._require_folder()
        file = self.folder / "superlink.json"
        with disk_errors(file):
            file.write_text(words.to_json())
        program = (sys.executable, "-P", "-m", "coordinator.deployment.superlink", str(file))
        self.link = self._popen("superlink", *program)
        self._wait_until_healthy()
        with self.control() as control:
            nodes = reconcile(read_roster(place), control, self.log)
        self.executor = self._popen(
            "superexec",
            str(Path(sys.executable).parent / "flower-superexec"),
            *("--runtime-api-address", f"127.0.0.1:{settings.local_port}"),
            *("--root-certificates", str(place.ca_certificate)),
            *("--superexec-auth-secret-file", str(place.secret)),
            *("--parent-pid", str(self.link.pid)),
        )
        about = {"socket": str(self.socket), "pid": os.getpid(), "started": now_utc().isoformat()}
        write_json(place.serving, {**about, "nodes": {str(node): name for node, name in nodes.items()}})

    def _require_folder(self) -> None:
        """Make the temporary folder again if it is gone: cleaners of /tmp remove what is old.

        Raises:
            CipherwardError: if it cannot be made, or if another user has made one of its name.
        """
        with disk_errors(self.folder):
            with contextlib.suppress(FileExistsError):
                self.folder.mkdir(mode=0o700)
            found = self.folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise CipherwardError(
                f"{self.folder} is no folder of this user alone", "remove it, and serve again"
            )

    def _popen(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        """Start a program that prints into its log."""
        if name not in self._sinks:
            self._sinks[name] = _open_log(self.place.log(name))
        work = self.folder / "work"
        with disk_errors(work):
            work.mkdir(exist_ok=True)
        return subprocess.Popen(
            words,
            env=self._environment(),
            cwd=work,
            stdin=subprocess.DEVNULL,
            stdout=self._sinks[name],
            stderr=subprocess.STDOUT,
            # Ctrl-C in a terminal is for `serve`, which ends its programs in order.
            start_new_session=True,
        )

    def _environment(self) -> dict[str, str]:
        """Return the environment of all programs."""
        inherited = {
            k: v for k, v in without_proxies(os.environ).items() if not k.startswith(_SECRET_PREFIXES)
        }
        programs = Path(sys.executable).parent
        return {
            **inherited,
            **QUIET,
            "FLWR_HOME": str(self.place.state / "home"),
            # Flower's option for the seconds between two looks for a ServerApp to start. A look costs CPU time.
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "1",
            MARK: str(self.folder),
            "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}",
        }

    def _wait_until_healthy(self) -> None:
        """Wait until the SuperLink answers. Raise CipherwardError if it ends or does not."""
        assert self.link is not None
        deadline = time.monotonic() + _START_S
        while True:
            if self.stop.is_set():
                raise Stopped
            with contextlib.suppress(CipherwardError), self.control() as control:
                control.nodes()
                return
            if self.link.poll() is not None or time.monotonic() > deadline:
                raise CipherwardError(
                    f"Flower's SuperLink did not start: {_last_line(self.place.log('superlink'))}",
                    f"see {self.place.log('superlink')}",
                )
            self.stop.wait(0.1)

    def ended(self) -> str:
        """Return which program has ended, how, and where its own words are, or ""."""
        for name, process in (("SuperLink", self.link), ("SuperExec", self.executor)):
            if process is not None and process.poll() is not None:
                log = self.place.log(name.lower())
                return f"Flower's {name} ended ({process.returncode}; see {log})"
        return ""

    def end(self) -> None:
        """End both programs, the SuperLink in good order if it can."""
        self.place.serving.unlink(missing_ok=True)
        for process in (self.executor, self.link):
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + _STOP_S
        for process in (self.executor, self.link):
            if process is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.1, deadline - time.monotonic()))
                if process.poll() is None:
                    process.kill()
                    process.wait()

    def close(self) -> None:
        """Close the logs."""
        for sink in self._sinks.values():
            sink.close()


def serve(folder: Path, log: Log, on_ready: Log) -> None:
    """Serve a federation until SIGINT or SIGTERM.

    Args:
        folder: the deployment's folder.
        log: takes one line for each event.
        on_ready: takes the line that says where hospitals connect, once they can.

    Raises:
        CipherwardError: if the folder is not provisioned, if another `serve` holds it, if a port is taken, if the
            certificate has expired, or if the SuperLink does not start.
    """
    place = DeploymentFolder.open(folder)
    settings = place.settings
    check_server(place.ca_certificate, place.server)
    for problem in describe_expiries(place.ca_certificate, place.server, now_utc()):
        if " expired on " in problem:
            what, _, remedy = problem.partition("; ")
            raise CipherwardError(what, remedy)
        log(f"warning: {problem}")
    with disk_errors(place.state):
        place.state.mkdir(exist_ok=True, mode=0o700)
    with _signals() as stop, folder_lock(place.state):
        for host, port in ((settings.interface, settings.port), ("127.0.0.1", settings.local_port)):
            open_port(host, port).close()
        _warn_of_disk(place, log)
        provide_secret(place)  # all of state/ can be made again
        with ending_with_us() as temporary:
            server = _Server(place, settings, temporary, log, stop)
            try:
                server.start()
                on_ready(
                    f"ready: hospitals connect to {settings.dial}; {len(_active(place))} of "
                    f"{len(settings.hospitals)} are enrolled"
                )
                _watch(server)
            except Stopped:
                pass
            finally:
                server.end()
                server.close()


def _watch(server: _Server) -> None:
    """Start the programs again whenever one ends, until a signal comes."""
    pause, started = _PAUSE_S, time.monotonic()
    next_disk, next_expiry = started + _DISK_EVERY_S, started + _EXPIRY_EVERY_S
    while not server.stop.wait(_LOOK_S):
        if time.monotonic() > next_disk:
            next_disk += _DISK_EVERY_S
            _warn_of_disk(server.place, server.log)
        if time.monotonic() > next_expiry:
            next_expiry += _EXPIRY_EVERY_S
            _warn_of_expiry(server.place, server.log)
        if not (event := server.ended()):
            continue
        if time.monotonic() - started > _HEALTHY_S:
            pause = _PAUSE_S
        server.log(f"{event}; starting again in {pause:.1f} s")
        server.end()
        if server.stop.wait(pause):
            return
        pause, started = min(2 * pause, _MAX_PAUSE_S), time.monotonic()
        try:
            server.start()
            server.log("the server answers again")
        except CipherwardError as error:
            server.log(f"{error.message}")
        except OSError as error:  # it is tried again, whatever the system could not do
            server.log(f"the server does not start: {error}")


@contextlib.contextmanager
def _signals() -> Iterator[threading.Event]:
    """Let SIGINT and SIGTERM set an event instead of ending this process."""
    event = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda *_: event.set()) for number in numbers}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _active(place: DeploymentFolder) -> list[str]:
    return [name for name, entry in read_roster(place).items() if not entry.is_revoked]


def _warn_of_expiry(place: DeploymentFolder, log: Log) -> None:
    """Say so if a certificate is about to expire: a server may run for longer than one is valid."""
    try:
        problems = describe_expiries(place.ca_certificate, place.server, now_utc())
    except CipherwardError as error:  # it ends no server that runs
        problems = [error.message]
    for problem in problems:
        log(f"warning: {problem}")


def _warn_of_disk(place: DeploymentFolder, log: Log) -> None:
    """Say so if the disk is nearly full."""
    try:
        free = shutil.disk_usage(place.root).free
    except OSError as error:  # it ends no server that runs
        log(f"warning: the disk of {place.root} cannot be read: {error.strerror}")
        return
    if free < LOW_DISK:
        log(f"warning: {free / 1e9:.1f} GB are free on the disk of {place.root}; a full disk ends the run")


def _open_log(path: Path) -> BinaryIO:
    """Open a log for appending. One that has grown large is set aside first, in place of the one before."""
    with disk_errors(path):
        path.parent.mkdir(exist_ok=True, mode=0o700)
        if path.exists() and path.stat().st_size > _LOG_BYTES:
            path.replace(path.with_suffix(".old.log"))
        path.touch(mode=0o600)
        sink = open(path, "ab")  # noqa: SIM115 - it is open as long as the program that prints into it
        sink.write(f"--- {now_utc().isoformat()}\n".encode())
        sink.flush()
        return sink


def _last_line(path: Path) -> str:
    """Return the last line of a log that says something, or ""."""
    lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("CipherwardError: ")[:300] if lines else ""
