"""Types of the fixtures that run a command in the test's own process (see tests/conftest.py)."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

#: party(*words) runs cipherward-party: (exit status, standard output, standard error).
Party = Callable[..., tuple[int, str, str]]
#: here(program, *words) runs a program and returns what a process of its own would have returned.
Here = Callable[..., "subprocess.CompletedProcess[str]"]
