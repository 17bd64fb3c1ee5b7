"""Run the commands of an audit and of a study on machines as hospitals lock them down, all hindrances at once.

    python -m benchmarks.input_environments [--machines root,other-user] [--only COMMAND,...] [--json FILE]

A command runs in a mount namespace of its own (`unshare`), in which everything is read-only but its working folder
and TMPDIR: the installation, the user's home, /tmp. No capabilities, no terminal, umask 077, a locale of ASCII,
80 columns, every proxy dead, and accents and spaces in all names. There are two machines:

1. root:        the user is root, without any right of root's; /dev/shm is read-only;
2. other-user:  the user is a number without a name and a home, as in a container, and may only read the
                installation; there is no /dev/shm. NUMBA_CACHE_DIR names a folder of its own for compiled code, as
                docs/howto/hospital-it.md advises; root compiles anew in every command.

Needs Linux, util-linux and the right to mount. The run fails at a traceback or a status other than 0 and 1. What a
command prints beyond ASCII, and files of it that others may read, are counted. What FILE holds already is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from benchmarks.command_line import ROOT, add_json, make_parser, split_list, write_figures
from benchmarks.input_commands import DEAD_PROXY
from benchmarks.program_run import MAINS, TIMEOUT, first_error
from coordinator.exchange.quiet import PROXY_NAMES
from coordinator.report.build import machine
from parties.sources.phantom import Phantom

SCHEMA = "cipherward.environments/1"
#: Images that are sealed: a study of seconds.
IMAGES = 120
#: Folders that a command needs to read: this checkout, and Python with its packages.
NEEDED = (ROOT, Path(sys.prefix), Path(sys.base_prefix))
PLAN = {
    "study": "small",
    "parties": 2,
    "source": "folder",
    "images": "images",
    "groups": "none",
    "image_size": 32,
    "block": 8,
    "model_args": {"patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2},
    "rounds": 2,
    "batch": 16,
    "warmup_steps": 0,
    "draws": 1,
    "audit_rows": 16,
    "pools": [1, 2, 5],
    "wrong_keys": 1,
    "attacks": ["as_is", "leading_bit", "pooled_key_recovery"],
}
_SIZE = "--image-size 32 --block 8 --groups none"


@dataclass(frozen=True)
class Machine:
    """A machine as hospitals have it.

    Attributes:
        name: what it is called.
        user: the number of the user.
        has_shared_memory: whether /dev/shm is there, read-only.
    """

    name: str
    user: int
    has_shared_memory: bool


MACHINES = {
    machine.name: machine for machine in (Machine("root", 0, True), Machine("other-user", 10001, False))
}


def commands() -> dict[str, list[str]]:
    """Return the commands, by name, in their order. Their paths are relative to the working folder."""

    def words(program: str, text: str) -> list[str]:
        return [sys.executable, "-P", "-c", MAINS[program], *shlex.split(text)]

    report = "report hôpital/scores.json --guesses 'devinés é'"
    return {
        "check": words("party", "check images --groups none"),
        "keygen": words("party", "keygen hôpital"),
        "seal": words("party", f"seal hôpital {_SIZE} --audit 1 --images images"),
        "attack": words("coordinator", "attack hôpital/sealed --out 'devinés é' --pools 1,2,5"),
        "score": words("party", "score hôpital 'devinés é'"),
        "report": words(
            "coordinator", f"{report} --sealed hôpital/sealed --out 'rapport é' --allow-invalid"
        ),
        "report of the hospital": words(
            "party", "report hôpital hôpital/scores.json --guesses 'devinés é'"
        ),
        "audit": words(
            "party", f"audit images {_SIZE} --out 'contrôle é' --draws 1 --rows 16 --pools 1,2,5"
        ),
        "simulate": words("coordinator", "simulate plän.yaml --out 'étude é'"),
        "simulate, again": words("coordinator", "simulate plän.yaml --out 'étude é'"),
        "report --compare": words(
            "coordinator", "report --compare 'rapport é/report.json' 'étude é/report.json'"
        ),
        "simulate --engine ray": words(
            "coordinator", "simulate plän.yaml --out 'étude ray' --engine ray --until train"
        ),
    }


def prepare(folder: Path, machine: Machine) -> tuple[Path, Path]:
    """Make the working folder with images and a plan, and the folder for temporary files. Return the two."""
    from PIL import Image

    work, temporary = folder / "Klinik für Öl é", folder / "t"
    source, names = Phantom(32, 1, IMAGES, 0, "train"), ("tumeur é", "ohne Befund", "c", "d")
    for row in range(IMAGES):
        path = work / "images" / names[source.labels[row]] / f"Müller {row:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(source.read(row)[..., 0]).save(path)
    (work / "plän.yaml").write_text(yaml.safe_dump(PLAN), encoding="utf-8")
    compiled = folder / "compiled"
    temporary.mkdir()
    compiled.mkdir(mode=0o700)
    (folder / "home").mkdir()
    folder.chmod(0o755)
    for path in (work, temporary, compiled, *work.rglob("*")):
        os.chown(path, machine.user, machine.user)
    return work, temporary


def script(machine: Machine, work: Path, temporary: Path) -> str:
    """Return the shell script that makes the machine in a new mount namespace, and runs its arguments there."""
    user, keep = machine.user, shlex.quote
    writable = [keep(str(path)) for path in (work, temporary, temporary.with_name("compiled"))]
    lines = ["set -eu", "cd /", *(f"mount --bind {path} {path}" for path in writable)]
    if user:
        lines += _opened(temporary)
    lines += (
        ["mount -o remount,bind,ro /dev/shm"] if machine.has_shared_memory else _without_memory(temporary)
    )
    rights = "--bounding-set=-all --inh-caps=-all"
    change = f"--reuid {user} --regid {user} --clear-groups" if user else ""
    lines += [
        "mount -o remount,bind,ro /",
        f"cd {keep(str(work))}",
        "umask 077",
        f'exec setpriv {change} {rights} "$@"',
    ]
    return "\n".join(lines)


def _opened(scratch: Path) -> list[str]:
    """Return what makes the installation readable to another user if a folder above it is closed, such as /root."""
    closed: dict[Path, list[Path]] = {}
    for path in dict.fromkeys(NEEDED):
        barriers = [p for p in reversed(path.parents) if not p.stat().st_mode & stat.S_IXOTH]
        if barriers:
            closed.setdefault(barriers[0], []).append(path)
    lines = []
    for barrier, paths in closed.items():
        places = [(path, scratch / f".{number}") for number, path in enumerate(paths)]
        lines += [f"mkdir {at} && mount --bind {path} {at}" for path, at in places]
        lines += [f"mount -t tmpfs -o mode=755 none {barrier}"]
        lines += [f"mkdir -p {path} && mount --move {at} {path} && rmdir {at}" for path, at in places]
        lines += [f"mount -o remount,bind,ro {path}" for path, _ in places]
        lines += [f"mount -o remount,ro {barrier}"]
    return lines


def _without_memory(scratch: Path) -> list[str]:
    """Return what makes a /dev without shared memory."""
    at = scratch / ".dev"
    lines = [f"mkdir {at}", f"mount -t tmpfs -o mode=755 none {at}"]
    for name in ("null", "zero", "full", "random", "urandom", "tty"):
        lines += [f"touch {at}/{name}", f"mount --bind /dev/{name} {at}/{name}"]
    lines += [f"ln -s /proc/self/fd {at}/fd"]
    lines += [
        f"ln -s /proc/self/fd/{i} {at}/{name}" for i, name in enumerate(("stdin", "stdout", "stderr"))
    ]
    return [*lines, f"mount -o remount,ro {at}", f"mount --move {at} /dev", f"rmdir {at}"]


def environment(machine: Machine, folder: Path, temporary: Path) -> dict[str, str]:
    """Return all variables of the environment."""
    if machine.user:
        own = {"NUMBA_CACHE_DIR": str(temporary.with_name("compiled"))}
    else:
        own = {"HOME": str(folder / "home")}
    return {
        **own,
        **dict.fromkeys(PROXY_NAMES, DEAD_PROXY),
        "PATH": "/usr/bin:/bin",
        "TMPDIR": str(temporary),
        "PYTHONPATH": str(ROOT),
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "COLUMNS": "80",
        "TERM": "dumb",
        **{name: os.environ[name] for name in ("OMP_NUM_THREADS",) if name in os.environ},
    }


def run_on(machine: Machine, folder: Path, only: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Yield a row for each command on a machine. only: names of commands; all if there are none.

    Raises:
        SystemExit: If a command ends with a traceback or with a status other than 0 and 1.
    """
    work, temporary = prepare(folder, machine)
    made = [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "bash",
        "-c",
        script(machine, work, temporary),
    ]
    for name, words in commands().items():
        if only and name not in only:
            continue
        started = time.perf_counter()
        run = subprocess.run(
            [*made, "bash", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT,
            env=environment(machine, folder, temporary),
            check=False,
        )
        seconds, printed = time.perf_counter() - started, run.stdout + run.stderr
        if b"Traceback" in printed or run.returncode not in (0, 1):
            raise SystemExit(
                f"{machine.name}, {name}: status {run.returncode}\n{printed.decode(errors='replace')}"
            )
        row = {"machine": machine.name, "command": name, "status": run.returncode}
        row |= {"said": _said(run.stdout.decode(), run.stderr.decode())}
        row |= {"beyond_ascii": not printed.isascii(), "warnings": run.stderr.count(b"Warning")}
        row |= {"open_files": len(open_files(work)), "left_in_tmpdir": _left_behind(temporary)}
        yield {**row, "seconds": round(seconds, 1)}


def _said(output: str, messages: str) -> str:
    """Return the error of a command, or the last line that it printed, without the folder."""
    error = first_error(messages)
    last = next((line for line in reversed((messages + "\n" + output).splitlines()) if line.strip()), "")
    return (error or last).strip()[-100:]


def open_files(work: Path) -> list[Path]:
    """Return what commands made and other users of the machine could read, write or enter."""
    made = (path for path in work.rglob("*") if "images" not in path.parts and path.name != "plän.yaml")
    return [path for path in made if not path.is_symlink() and path.stat().st_mode & 0o077]


def _left_behind(temporary: Path) -> list[str]:
    """Return what is left in the folder for temporary files. PyTorch leaves an empty folder of its own."""
    return sorted(path.name for path in temporary.iterdir() if not path.name.startswith("torchinductor_"))


def require_rights() -> None:
    """Raise SystemExit if this user cannot make such a machine."""
    missing = [name for name in ("unshare", "setpriv", "mount", "bash") if shutil.which(name) is None]
    if missing:
        raise SystemExit(f"not tried: there is no {', '.join(missing)}")
    if subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode:
        raise SystemExit("not tried: this user may not make mount namespaces")


def measure(names: Sequence[str], only: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of several machines."""
    for name in names:
        folder = Path(tempfile.mkdtemp(prefix="m", dir="/tmp"))
        try:
            yield from run_on(MACHINES[name], folder, only)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Run the command line."""
    parser: argparse.ArgumentParser = make_parser(__doc__)
    parser.add_argument("--machines", default=",".join(MACHINES), help="names, separated by commas")
    parser.add_argument("--only", default="", help="names of commands, separated by commas")
    add_json(parser)
    args = parser.parse_args()
    require_rights()
    only = [name for name in split_list(args.only) if name]
    rows: list[dict[str, Any]] = []
    if args.json and args.json.exists():
        rows = json.loads(args.json.read_text())["rows"]
    for row in measure(split_list(args.machines), only):
        Console().print(row)
        same = (row["machine"], row["command"])
        rows = [*(old for old in rows if (old["machine"], old["command"]) != same), row]
        write_figures(args.json, {"schema": SCHEMA, "machine": machine(), "rows": rows})


if __name__ == "__main__":
    main()
