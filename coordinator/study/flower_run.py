"""One real `flwr run`, isolated from everything else on the machine, with its true status.

Left to itself, Flower keeps a daemon, a database and a configuration in the user's home. It lets simulated parties
import from the daemon's working directory before anything else, installs dependencies at run time, reports usage, and
exits 0 when a run failed. Here the daemon is our own: it has a private Flower home, an empty working directory and a
free loopback port, and all that it starts ends with us (end_with_us.py). The run's status is asked for, not assumed.

Flower and Ray listen on the loopback interface alone. Ray takes requests only with a token of this run, which other
users of the machine cannot read. The SuperLink's port has no login: `LOCAL_DOOR` says so.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from coordinator.exchange.end_with_us import MARK, end_processes, ending_with_us
from coordinator.exchange.quiet import QUIET, without_proxies
from crypto.cores import cores
from crypto.errors import CipherwardError
from crypto.files import open_log

APP = Path(__file__).resolve().parents[2]
#: Training opens no key, so Flower's processes do not get the variables that would open one.
SECRET_PREFIXES = ("CIPHERWARD_PASSPHRASE", "CIPHERWARD_IDENTITY")
#: Variables of the user that would connect a study to another cluster of Ray, or set another token.
_FOREIGN_PREFIXES = ("RAY_ADDRESS", "RAY_AUTH_")
#: What a user must know before a study on images that are not public.
LOCAL_DOOR = (
    "warning: while the study trains, other users of this machine can reach Flower's local port, which has no login, "
    "and run code as you; with images that are not public, use a machine that nobody else uses"
)
#: Seconds that the SuperLink may take to start, to end, and to answer a command. Chosen by hand.
_START_S = 60.0
_STOP_S = 3.0
_COMMAND_S = 120.0


@dataclass(frozen=True)
class _Flower:
    """A private installation of Flower's programs for one run.

    Attributes:
        folder: the temporary folder of everything that Flower and Ray write.
        port: the loopback port of the SuperLink.
        log_file: gets what all programs print.
        sink: the open log file.
        token: what Ray wants from whoever connects to it.
    """

    folder: Path
    port: int
    log_file: Path
    sink: BinaryIO
    token: str = field(default_factory=lambda: secrets.token_hex(32), repr=False)

    @property
    def work(self) -> Path:
        """The empty working directory of all programs."""
        return self.folder / "work"

    @property
    def programs(self) -> Path:
        """The folder of Flower's programs: that of the Python that runs this."""
        return Path(sys.executable).parent

    @property
    def environment(self) -> dict[str, str]:
        """The environment of all programs."""
        left_out = (*SECRET_PREFIXES, *_FOREIGN_PREFIXES)
        inherited = {k: v for k, v in without_proxies(os.environ).items() if not k.startswith(left_out)}
        return {
            **inherited,
            **QUIET,
            "FLWR_HOME": str(self.folder / "home"),
            MARK: str(self.folder),
            "RAY_TMPDIR": str(self.folder),
            # As on macOS, so on Linux: Ray takes the loopback address for its own, and listens on no other.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "PATH": f"{self.programs}{os.pathsep}{os.environ.get('PATH', '')}",
        }

    def prepare(self) -> None:
        """Make Flower's home and the working directory."""
        home = self.folder / "home"
        home.mkdir()
        self.work.mkdir()
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "sim"\n[superlink.sim]\n'
            f'address = "127.0.0.1:{self.port}"\ninsecure = true\n'
        )

    def start(self, *words: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start one of Flower's programs, which prints into the log file."""
        return subprocess.Popen(
            [str(self.programs / words[0]), *words[1:]],
            env=self.environment,
            cwd=self.work,
            stdout=self.sink,
            stderr=subprocess.STDOUT,
            **options,
        )

    def ask(self, *words: str) -> tuple[dict[str, Any], str]:
        """Run `flwr WORDS --format json`; return the answer, empty if there is none, and the printed text."""
        done = subprocess.run(
            [str(self.programs / "flwr"), *words, "--format", "json"],
            env=self.environment,
            cwd=self.work,
            encoding="utf-8",
            errors="replace",
            capture_output=True,
            timeout=_COMMAND_S,
            check=False,  # flwr exits 0 after failures, too
        )
        return _parse_object(done.stdout), done.stderr or done.stdout


def run_flower(
    parties: int,
    run_config: Mapping[str, str],
    log_file: Path,
    timeout_s: float,
    watch: Callable[[], None] = lambda: None,
    app: Path = APP,
) -> None:
    """Run the app in simulation, with one actor that has all cores this process may use, until it has completed.

    Args:
        parties: the number of simulated parties.
        run_config: the app's run configuration.
        log_file: gets what Flower and the app print.
        timeout_s: the longest that the run may take, in seconds.
        watch: called a few times a second during the run.
        app: the folder of the app.

    Raises:
        CipherwardError: if the run was refused, failed, was stopped or took too long. The message has our own error
            from the log, if there is one.
    """
    logged = log_file.stat().st_size if log_file.exists() else 0
    with ending_with_us() as folder, open_log(log_file) as sink:
        flower = _Flower(folder, _free_port(), log_file, sink)
        flower.prepare()
        with _superlink(flower):
            run_id = _submit(flower, parties, run_config, app)
            _follow(flower, run_id, timeout_s, watch)
            status, details = _status(flower, run_id)
            if status != "finished:completed":
                reason = own_error(log_file, logged) or details
                raise CipherwardError(f"the Flower run ended as {status}: {reason}", f"see {log_file}")


@contextlib.contextmanager
def _superlink(flower: _Flower) -> Iterator[None]:
    """Keep a SuperLink running, and end it together with all programs of the run."""
    words = ("flower-superlink", "--insecure", "--simulation")
    link = flower.start(*words, "--host", "127.0.0.1", "--port", str(flower.port), start_new_session=True)
    try:
        _wait_until_healthy(link, flower)
        yield
    finally:
        # All results are on disk, each written whole: nothing here needs to end in good order.
        end_processes(flower.folder)
        link.kill()
        link.wait(_STOP_S)


def _wait_until_healthy(link: subprocess.Popen[bytes], flower: _Flower) -> None:
    """Wait until the SuperLink answers; raise CipherwardError if it does not."""
    deadline = time.monotonic() + _START_S
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        try:
            with direct.open(f"http://127.0.0.1:{flower.port}/health", timeout=0.5):
                return
        except OSError:
            if link.poll() is not None or time.monotonic() > deadline:
                raise CipherwardError(
                    "Flower's SuperLink did not start", f"see {flower.log_file}"
                ) from None
            time.sleep(0.1)


def _submit(flower: _Flower, parties: int, run_config: Mapping[str, str], app: Path) -> str:
    """Start the run and return its id; raise CipherwardError if Flower refuses it."""
    usable = cores()
    settings = (
        f"num-supernodes={parties} client-resources-num-cpus={usable} "
        f"init-args-num-cpus={usable} init-args-log-to-driver=true"
    )
    config = " ".join(f"{k}={json.dumps(v)}" for k, v in run_config.items())
    words = ["run", str(app), "sim", "--federation-config", settings, "--run-config", config]
    answer, printed = flower.ask(*words)
    if not answer.get("success"):
        reason = answer.get("error-message") or printed
        raise CipherwardError(
            f"flwr run was refused: {' '.join(str(reason).split())[:300]}",
            "train without Ray: leave out --engine ray; or mend what Flower names, and run the command again",
        )
    return str(answer["run-id"])


def _follow(flower: _Flower, run_id: str, timeout_s: float, watch: Callable[[], None]) -> None:
    """Stream the run's log into the log file until the run ends; raise CipherwardError if it takes too long."""
    stream = flower.start("flwr", "log", run_id, "sim", "--stream")
    deadline = time.monotonic() + timeout_s
    try:
        while stream.poll() is None:
            if time.monotonic() > deadline:
                raise CipherwardError(f"the Flower run took longer than {timeout_s:.0f} s", "see its log")
            watch()
            time.sleep(0.3)
        watch()
    finally:
        if stream.poll() is None:
            stream.kill()
            stream.wait()


def _status(flower: _Flower, run_id: str) -> tuple[str, str]:
    """Return the run's status and its details, as Flower lists them."""
    answer, _ = flower.ask("ls", "sim", "--run-id", run_id)
    run = answer.get("runs", [{}])[0]
    return str(run.get("status", "unknown")), str(run.get("status-details", ""))


def own_error(log_file: Path, start: int) -> str:
    """Return our own last error in a run's part of its log, or "". It says more than a status.

    start: where the run's part begins, in bytes.
    """
    lines = log_file.read_bytes()[start:].decode(errors="replace").splitlines()
    errors = [line.split("CipherwardError:", 1)[1].strip() for line in lines if "CipherwardError:" in line]
    return errors[-1] if errors else ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _parse_object(text: str) -> dict[str, Any]:
    """Return the JSON object in a text; empty if it is something else."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
