"""`attack`, for a hospital that runs it on its own machine: confined, and ended with whoever started it.

    python -P -m coordinator.cli.confined --read SEALED --write GUESSES -- attack SEALED --out GUESSES …

The first line on standard error says whether the kernel confines the process. The process ends when its standard
input closes, which the system does if the starting process ends in any way.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from coordinator.adversary.run.confinement import confine

#: How the first line on standard error begins, and what follows.
CONFINED, UNCONFINED = "confined: yes", "confined: no, this system has no Landlock"


def main() -> None:
    """Confine this process, then run the command after `--`."""
    words = sys.argv[1:]
    end = words.index("--")
    options = list(zip(words[:end:2], words[1:end:2], strict=True))
    read = [Path(path) for name, path in options if name == "--read"]
    write = [Path(path) for name, path in options if name == "--write"]
    # Before any thread is there: a thread that exists already would stay free.
    print(CONFINED if confine(read, write) else UNCONFINED, file=sys.stderr, flush=True)
    threading.Thread(target=_end_with_starter, daemon=True).start()
    sys.argv = ["cipherward-coordinator", *words[end + 1 :]]
    from coordinator.cli.app import main as run_command

    run_command()


def _end_with_starter() -> None:
    """Wait until standard input closes, then end this process. Its workers end with it."""
    # Not sys.stdin: the interpreter cannot shut down while a thread waits in its buffer.
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
