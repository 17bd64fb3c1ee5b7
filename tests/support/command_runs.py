"""Commands run in the test's own process, where nothing is imported again. Fixtures for them: tests/conftest.py."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from collections.abc import Callable

import coordinator.cli.app
import parties.cli.app

#: party(*words) runs cipherward-party: (exit status, standard output, standard error).
Party = Callable[..., tuple[int, str, str]]
#: here(program, *words) runs a program and returns what a process of its own would have returned.
Here = Callable[..., "subprocess.CompletedProcess[str]"]

_MAINS = {"cipherward-party": parties.cli.app.main, "cipherward-coordinator": coordinator.cli.app.main}


def run_here(program: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Run a program, and return what `tests.support.study.command` returns. For fixtures of a whole module."""
    output, errors, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = [program, *map(str, words)]
    status = 0
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            _MAINS[program]()
    except SystemExit as end:
        status = status_of(end)
    finally:
        sys.argv = before
    return subprocess.CompletedProcess(
        [program, *map(str, words)], status, output.getvalue(), errors.getvalue()
    )


def status_of(end: SystemExit) -> int:
    """Return the exit status of a command that ended."""
    return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
