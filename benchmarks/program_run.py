"""Run a command of the program as users do, in a process of its own, and find what must never happen."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping

#: Seconds that a command may take. A file that makes it wait for ever is found by this.
TIMEOUT = 1800
_MAINS = {
    "party": "from parties.cli.app import main; main()",
    "coordinator": "from coordinator.cli.app import main; main()",
}


def run_command(
    *words: object, program: str = "party", changes: Mapping[str, str] | None = None
) -> tuple[int, str, str, float]:
    """Run a command, and return exit status, output, messages and seconds.

    Args:
        words: The command's words.
        program: `party` (cipherward-party) or `coordinator` (cipherward-coordinator).
        changes: Variables of the environment that differ from this process's.

    Raises:
        SystemExit: If the command ends with a traceback, or with a status that it should not have.
    """
    environment = os.environ | {"COLUMNS": "400", "NO_COLOR": "1", "TERM": "dumb"} | dict(changes or {})
    command = [sys.executable, "-P", "-c", _MAINS[program], *map(str, words)]
    start = time.perf_counter()
    run = subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=TIMEOUT,
        env=environment,
        check=False,
    )
    if "Traceback" in run.stdout + run.stderr or run.returncode not in (0, 1):
        raise SystemExit(f"{words}: status {run.returncode}\n{run.stdout[-2000:]}\n{run.stderr[-4000:]}")
    return run.returncode, run.stdout, run.stderr, time.perf_counter() - start


def first_error(messages: str) -> str:
    """Return the error line of a command, without its hint; empty if there is none."""
    return next((line.partition("error: ")[2] for line in messages.splitlines() if "error: " in line), "")
