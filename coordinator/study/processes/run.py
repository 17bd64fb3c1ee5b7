"""Start the program that trains a study (federate.py), follow it, and end it with the command that started it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from coordinator.exchange.quiet import QUIET, without_proxies
from coordinator.study.flower_run import SECRET_PREFIXES, own_error
from crypto.errors import CipherwardError
from crypto.files import open_log

_PROGRAM = "from coordinator.study.processes.federate import main; main()"
#: Seconds between two looks at the program.
_LOOK_S = 0.2


def run_processes(
    study: Path, workers: int, log_file: Path, timeout_s: float, watch: Callable[[], None] = lambda: None
) -> None:
    """Train a prepared study with a process for each hospital, until it is finished.

    Args:
        study: the study's folder.
        workers: how many hospitals may have a process at a time, 0 for the default (federate.py).
        log_file: gets what the server's side prints. Each hospital has a log of its own.
        timeout_s: the longest that the run may take, in seconds.
        watch: called a few times a second during the run.

    Raises:
        CipherwardError: if the run failed or took too long. The message has our own error from the log, if there is
            one.
    """
    logged = log_file.stat().st_size if log_file.exists() else 0
    environment = {
        k: v for k, v in without_proxies(os.environ).items() if not k.startswith(SECRET_PREFIXES)
    } | QUIET
    words = [sys.executable, "-c", _PROGRAM, str(study), "--workers", str(workers)]
    deadline = time.monotonic() + timeout_s
    with open_log(log_file) as sink:
        # All results are on disk, each written whole, so it can be killed. Its own children die with it.
        running = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, env=environment
        )
        try:
            while running.poll() is None:
                if time.monotonic() > deadline:
                    raise CipherwardError(
                        f"the training took longer than {timeout_s:.0f} s", f"see {log_file}"
                    )
                watch()
                time.sleep(_LOOK_S)
            watch()
        finally:
            if running.poll() is None:
                running.kill()
                running.wait()
    if running.returncode:
        reason = own_error(log_file, logged) or f"it ended with status {running.returncode}"
        raise CipherwardError(f"the training failed: {reason}", f"see {log_file}")
