"""One real `flwr run`, shut off from everything else on the machine, with its true status.

Flower keeps a daemon, a database and a configuration in the user's home, lets simulated parties import
from the daemon's working directory before anything else, installs dependencies at run time, reports
usage, and exits 0 when a run failed. Here the daemon is ours: a private Flower home, an empty working
directory, a free loopback port, ended by its process id; the status is asked for, not assumed.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from crypto.cores import cores
from crypto.errors import CipherwardError

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    # Ray lowers its workers to 15; a study is what the user started the machine for.
    "RAY_worker_niceness": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "HF_HUB_OFFLINE": "1",
}
APP = Path(__file__).resolve().parents[2]
_START_S = 60.0
_STOP_S = 8.0


def run_flower(
    parties: int,
    run_config: Mapping[str, str],
    log_file: Path,
    timeout_s: float,
    watch: Callable[[], None] = lambda: None,
    app: Path = APP,
) -> None:
    """Runs the app in simulation, one actor with all cores that this process may use; returns when it has completed.

    `watch` is called a few times a second while it runs. Raises CipherwardError with the last lines of
    the log where the run failed, was stopped or took longer than `timeout_s`.
    """
    usable = cores()
    logged = log_file.stat().st_size if log_file.exists() else 0
    # Directly under /tmp: Ray's socket paths must stay below 104 characters on macOS.
    folder = tempfile.TemporaryDirectory(prefix="cw-", dir="/tmp", ignore_cleanup_errors=True)
    with folder as temporary, open(log_file, "ab") as sink:
        home, work = Path(temporary, "home"), Path(temporary, "work")
        home.mkdir()
        work.mkdir()
        port = _free_port()
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "sim"\n[superlink.sim]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
        )
        programs = Path(sys.executable).parent
        # Training opens no key, so Flower's processes need not know what would open one.
        known = {k: v for k, v in os.environ.items() if not k.startswith(_SECRET)}
        environment = {
            **known,
            **QUIET,
            "FLWR_HOME": str(home),
            "RAY_TMPDIR": temporary,
            "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}",
        }
        link = subprocess.Popen(
            [
                str(programs / "flower-superlink"),
                "--insecure",
                "--simulation",
                "--host",
                "127.0.0.1",
                "--port",
                str(port),
            ],
            env=environment,
            cwd=work,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _wait_healthy(link, port, log_file)

            def flwr(*words: str, **how: Any) -> subprocess.CompletedProcess:
                command = [str(programs / "flwr"), *words]
                return subprocess.run(command, env=environment, cwd=work, text=True, **how)

            settings = (
                f"num-supernodes={parties} client-resources-num-cpus={usable} "
                f"init-args-num-cpus={usable} init-args-log-to-driver=true"
            )
            config = " ".join(f"{k}={json.dumps(v)}" for k, v in run_config.items())
            words = ["run", str(app), "sim", "--format", "json", "--federation-config", settings]
            begun = flwr(*words, "--run-config", config, capture_output=True, timeout=120)
            answer = _json(begun.stdout)
            if not answer.get("success"):
                said = answer.get("error-message") or begun.stderr or begun.stdout
                raise CipherwardError(f"flwr run was refused: {' '.join(str(said).split())[:300]}")
            run_id = str(answer["run-id"])
            _follow(programs, run_id, environment, work, sink, timeout_s, watch)
            listed = flwr(
                "ls", "sim", "--run-id", run_id, "--format", "json", capture_output=True, timeout=120
            )
            runs = _json(listed.stdout).get("runs", [{}])
            status = str(runs[0].get("status", "unknown"))
            if status != "finished:completed":
                details = str(runs[0].get("status-details", ""))
                raise CipherwardError(
                    f"the Flower run ended as {status}: {_reason(log_file, logged) or details}",
                    f"see {log_file}",
                )
        finally:
            _stop(link)


_SECRET = ("CIPHERWARD_PASSPHRASE", "CIPHERWARD_IDENTITY")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _json(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _wait_healthy(link: subprocess.Popen, port: int, log_file: Path) -> None:
    end = time.monotonic() + _START_S
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=0.5):
                return
        except OSError:
            if link.poll() is not None or time.monotonic() > end:
                raise CipherwardError("Flower's SuperLink did not start", f"see {log_file}") from None
            time.sleep(0.1)


def _follow(
    programs: Path,
    run_id: str,
    environment: Mapping[str, str],
    work: Path,
    sink: Any,
    timeout_s: float,
    watch: Callable[[], None],
) -> None:
    """Streams the run's log into `sink` until the run ends."""
    command: Sequence[str] = [str(programs / "flwr"), "log", run_id, "sim", "--stream"]
    stream = subprocess.Popen(command, env=environment, cwd=work, stdout=sink, stderr=subprocess.STDOUT)
    end = time.monotonic() + timeout_s
    try:
        while stream.poll() is None:
            if time.monotonic() > end:
                raise CipherwardError(f"the Flower run took longer than {timeout_s:.0f} s", "see its log")
            watch()
            time.sleep(0.3)
        watch()
    finally:
        if stream.poll() is None:
            stream.kill()
            stream.wait()


def _reason(log_file: Path, start: int) -> str:
    """Our own error text in this run's part of the log, if there is one: it says more than Flower's status."""
    lines = log_file.read_bytes()[start:].decode(errors="replace").splitlines()
    said = [line.split("CipherwardError:", 1)[1].strip() for line in lines if "CipherwardError:" in line]
    return said[-1] if said else ""


def _stop(link: subprocess.Popen) -> None:
    """Ends the SuperLink and all that it started in its session."""
    link.send_signal(signal.SIGTERM)
    try:
        link.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(link.pid, signal.SIGKILL)
        link.wait(_STOP_S)
