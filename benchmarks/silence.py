"""Measure how long commands print nothing: on a terminal of 80 columns, and without one.

    python -m benchmarks.silence [--plan PLAN] [--ways WAY,...] [--only COMMAND,...] [--json FILE]

The commands of an audit by a cloud (keygen, check, seal, attack, score, report) and an audit by a hospital run on
images that are made here, and `simulate` runs the plan from its first step to its report. What FILE holds already is
kept, so that the commands may be measured in several runs. Each output is read as it comes. The longest silence is
the longest time between two readings, from the command's start to its end; what was read last before it is named.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.command_line import ROOT, add_json, make_parser, split_list, write_figures
from benchmarks.program_run import MAINS
from coordinator.report.build import machine
from parties.sources.phantom import Phantom

SCHEMA = "cipherward.silence/1"
#: With a terminal (a pseudo-terminal of 80 columns), and with a pipe in its place.
WAYS = ("terminal", "pipe")
IMAGES = 240
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f]")


class Silences:
    """Keeps the longest silence of an output that is read as it comes.

    Attributes:
        longest: In seconds.
        after: The last line that was read before it.
        lines: Lines that were read.
    """

    def __init__(self, now: float) -> None:
        """Begin to listen at a time."""
        self.longest, self.after, self.lines = 0.0, "its start", 0
        self._latest, self._text = now, "its start"

    def hear(self, now: float, data: bytes) -> None:
        """Take what was read at a time; nothing at the end."""
        if now - self._latest > self.longest:
            self.longest, self.after = now - self._latest, self._text
        self._latest, self._text = now, _last_line(data) or self._text
        self.lines += data.count(b"\n")


def listen(command: Sequence[str], way: str, cwd: Path) -> dict[str, Any]:
    """Run a command and return its status, seconds, longest silence in seconds, and the text before that.

    Args:
        command: The program and its words.
        way: One of WAYS.
        cwd: The working directory.
    """
    if way == "terminal":
        reader, writer = pty.openpty()
        fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    else:
        reader, writer = os.pipe()
    kept = {
        name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")
    }
    environment = kept | {"TERM": "xterm-256color"}
    started = time.monotonic()
    run = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=writer, stderr=writer, cwd=cwd, env=environment
    )
    os.close(writer)
    silences = Silences(started)
    poll = select.poll()  # `select` takes no descriptor above 1023
    poll.register(reader, select.POLLIN)
    while True:
        data = b""
        if poll.poll(50):
            try:
                data = os.read(reader, 1 << 16)
            except OSError:  # a terminal whose last program has closed it
                data = b""
            if not data:
                break
        elif run.poll() is not None:
            break  # a process that it started may hold the output open
        if data:
            silences.hear(time.monotonic(), data)
    status, ended = run.wait(), time.monotonic()
    os.close(reader)
    silences.hear(ended, b"")
    return {
        "way": way,
        "status": status,
        "seconds": round(ended - started, 1),
        "longest_silence": round(silences.longest, 2),
        "after": silences.after.replace(f"{cwd}/", "")[:80],
        "lines": silences.lines,
    }


def _last_line(data: bytes) -> str:
    """Return the last line with a letter in it, without what steers a terminal and without numbers that count."""
    lines = _CONTROL.sub("\n", data.decode(errors="replace")).splitlines()
    return next((line.strip() for line in reversed(lines) if any(map(str.isalpha, line))), "")


def commands_of(images: Path, plan: Path) -> dict[str, list[str]]:
    """Return the commands, by name, in their order. Their paths are relative to the working directory."""

    def words(program: str, text: str, *paths: object) -> list[str]:
        return [sys.executable, "-P", "-c", MAINS[program], *text.split(), *map(str, paths)]

    size = "--image-size 32 --block 8 --groups none"
    return {
        "keygen": words("party", "keygen hospital"),
        "check": words("party", "check", images),
        "seal": words("party", f"seal hospital {size} --audit 1 --images", images),
        "attack": words("coordinator", "attack hospital/sealed --out guesses --pools 1,2,5"),
        "score": words("party", "score hospital guesses"),
        "report": words(
            "coordinator",
            "report hospital/scores.json --guesses guesses --sealed hospital/sealed --out report --allow-invalid",
        ),
        "audit": words("party", f"audit {size} --out audit --pools 1,2,5", images),
        "simulate": words("coordinator", "simulate --out study", plan),
    }


def make_images(folder: Path) -> Path:
    """Make class folders of pictures, and return the folder."""
    from PIL import Image

    source = Phantom(32, 1, IMAGES, 0, "train")
    for row in range(IMAGES):
        path = folder / source.classes[source.labels[row]] / f"{row:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(source.read(row)[..., 0]).save(path)
    return folder


def measure(plan: Path, ways: Sequence[str], only: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield a row for each way and command. Raises SystemExit if a command fails."""
    for way in ways:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for command, words in commands_of(make_images(folder / "images"), plan).items():
                if only and command not in only:
                    continue
                row = {"command": command, **listen(words, way, folder)}
                if row["status"]:
                    raise SystemExit(f"{command}: status {row['status']} after {row['after']!r}")
                yield row


def merge(rows: Sequence[dict[str, Any]], row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return rows with a new one in the place of an earlier one of its command and way, in the commands' order."""
    order = [(way, name) for way in WAYS for name in commands_of(Path(), Path())]
    kept = {(each["way"], each["command"]): each for each in (*rows, row)}
    return [kept[key] for key in order if key in kept]


def main() -> None:
    """Run the command line."""
    parser: argparse.ArgumentParser = make_parser(__doc__)
    parser.add_argument(
        "--plan", type=Path, default=ROOT / "configs" / "demo.yaml", help="what simulate runs"
    )
    parser.add_argument("--ways", default=",".join(WAYS), help="terminal, pipe, or both with a comma")
    parser.add_argument("--only", default="", help="names of commands, separated by commas")
    add_json(parser)
    args = parser.parse_args()
    only = [name for name in split_list(args.only) if name]
    rows: list[dict[str, Any]] = []
    if args.json and args.json.exists():
        rows = json.loads(args.json.read_text())["rows"]
    for row in measure(args.plan.resolve(), split_list(args.ways), only):
        Console().print(row)
        rows = merge(rows, row)
        figures = {"schema": SCHEMA, "machine": machine(), "plan": args.plan.name, "rows": rows}
        write_figures(args.json, figures)


if __name__ == "__main__":
    main()
