"""Run the attacks in the hospital, in a process that has no key: the cloud's own `attack` command, as a child.

The child gets sealed sets and a folder for its guesses, and no path to anything else. Its environment is built anew,
so that no passphrase and no identity file is named in it. Where the system has Landlock, the kernel lets it open
nothing else (coordinator/adversary/run/confinement.py). A hospital's code never imports the attacks: the child is
started by its module's name.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from coordinator.exchange import quiet
from coordinator.exchange.console import BEATS
from crypto.errors import CipherwardError
from crypto.files import disk_errors

Log = Callable[[str], None]

_MODULE = "coordinator.cli.confined"
#: What the child keeps of the environment: where programs and libraries are, and how texts are written.
_KEPT = (
    "PATH",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "LD_LIBRARY_PATH",
    "NUMBA_CACHE_DIR",
    "OMP_NUM_THREADS",
)
#: Seconds that the child may take to end when it is told to. Chosen by hand.
_STOP_S = 5.0
_PACKAGES = Path(quiet.__file__).resolve().parents[2]
#: How the child's first line begins; `coordinator.cli.confined` writes it.
_FIRST_LINE = "confined: "


@dataclass(frozen=True)
class AttackOptions:
    """What the attacks are told; each field is an option of `cipherward-coordinator attack`.

    Attributes:
        rows: Number of images to score.
        seed: Seed of the rows and the pools.
        attacks: Names of attacks; none stands for those of the suite.
        pools: Pool sizes; none stands for those of the suite.
        budget_s: Seconds that an attack may take at one pool size; None for the command's default.
        jobs: Number of attacks at once; None for one on every core.
        public: Folder of public plain images.
        draw_numbers: Number of each draw; none stands for 0, 1, 2, …
        blind: Whether the names of the sets do not tell which are controls (blind_sets.py).
    """

    rows: int
    seed: int
    attacks: Sequence[str] = ()
    pools: Sequence[int] = ()
    budget_s: float | None = None
    jobs: int | None = None
    public: Path | None = None
    draw_numbers: Sequence[int] = ()
    blind: bool = False

    def words(self) -> list[str]:
        """Return the options as words of a command line."""
        words = ["--rows", str(self.rows), "--seed", str(self.seed)]
        optional = {
            "--attacks": ",".join(self.attacks),
            "--pools": ",".join(map(str, self.pools)),
            "--budget": "" if self.budget_s is None else str(self.budget_s),
            "--jobs": "" if self.jobs is None else str(self.jobs),
            "--draw-numbers": ",".join(map(str, self.draw_numbers)),
            "--public": "" if self.public is None else str(self.public.resolve()),
        }
        for name, value in optional.items():
            words += [name, value] if value else []
        return [*words, "--blind"] if self.blind else words


def run_attacks(sets: Sequence[Path], out: Path, options: AttackOptions, log: Log = lambda _: None) -> bool:
    """Attack sealed sets in a process without a key; resume what an earlier, interrupted run left in `out`.

    Args:
        sets: Sealed sets, or folders of them. The child can read these folders.
        out: Folder for the guesses, which only its owner can read: guesses may show patients' images.
        options: What the attacks are told.
        log: Called with a line of progress.

    Returns:
        Whether the kernel confined the process.

    Raises:
        CipherwardError: The child's own error, if it fails.
    """
    with disk_errors(out):
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
        out.chmod(0o700)
        scratch = out / ".scratch"
        scratch.mkdir(exist_ok=True)
    readable = [*sets, *([options.public] if options.public else [])]
    words = [word for folder in readable for word in ("--read", str(folder.resolve()))]
    words += ["--write", str(out.resolve()), "--", "attack", *(str(s.resolve()) for s in sets)]
    words += ["--out", str(out.resolve()), *options.words()]
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", _MODULE, *words],
        stdin=subprocess.PIPE,  # its end is ours: when this process is gone, the child's input closes and it ends
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        cwd=scratch,
        env=_environment(scratch),
        close_fds=True,
        umask=0o077,
    )
    try:
        is_confined = _follow(child, log)
    finally:
        _end(child)
    return is_confined


def _environment(scratch: Path) -> dict[str, str]:
    """Return the child's environment: nothing of ours but what is named, and folders of its own."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    paths = [str(_PACKAGES), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    own = {
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
    }
    return {
        **kept,
        **quiet.QUIET,
        **own,
        "NO_COLOR": "1",
        "COLUMNS": "200",
        "MPLCONFIGDIR": str(scratch),
        BEATS: "0",
    }


def _follow(child: subprocess.Popen[str], log: Log) -> bool:
    """Log what the child says until it ends; return whether it is confined. Raises its error if it failed."""
    assert child.stderr is not None
    error, hint, last, is_confined = "", "", "", False
    for raw in child.stderr:
        line = raw.strip()
        if line.startswith(_FIRST_LINE):
            is_confined = line.startswith(f"{_FIRST_LINE}yes")
        elif ": error: " in line:
            error = line.split(": error: ", 1)[1]
        elif line.startswith("hint: "):
            hint = line.removeprefix("hint: ")
        elif line:
            last = line
            log(line)
    if status := child.wait():
        raise CipherwardError(
            error or f"the attacks ended with status {status}: {last:.300}",
            hint or "run the same command again: it goes on where it stopped",
        )
    return is_confined


def _end(child: subprocess.Popen[str]) -> None:
    """End the child if it is still there."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    for stream in (child.stdin, child.stderr):
        if stream is not None:
            stream.close()
