"""How long a hospital waits for a verdict: the whole of `cipherward-party audit`, by its steps, and its memory.

    python -m benchmarks.time_to_verdict [--data FOLDER] [--schemes etc,block_pixel_shuffle] [--images gray,RGB]
                                         [--json FILE]

Brain MRI of 224×224 pixels is audited as a hospital does it, with every default: three draws, seven pool sizes, 64
scored rows, a gallery of 1000 images and all controls. The command runs in a process of its own, which is watched
from outside: its lines say which step it is at. A step is measured by the clock and in processor time of all its
processes. The clock depends on what else the machine does; its load is kept beside it. Memory is the most that all
processes hold at a time, shared pages counted once (PSS).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # it has no types

from benchmarks.command_line import ROOT, add_data, add_json, make_parser, split_list, write_figures
from benchmarks.score_speed import COLOURS
from coordinator.report.build import machine
from crypto.errors import CipherwardError

SCHEMA = "cipherward.time-to-verdict/1"
#: How the first line of each step begins (parties/scoring/local_audit.py).
STEPS = {
    "seal": "sealing ",
    "attack": "attacking the sealed sets",
    "score and report": "scoring the guesses",
}
#: What comes before the first of them.
START = "start"
#: Seconds between two looks at the memory. Chosen by hand: a look takes milliseconds.
_LOOK_S = 0.5
#: Lines of a failed command that the error cites.
_LAST_LINES = 5


class Watch:
    """Follows a running audit: the step it is at, and the time and memory that it takes.

    Attributes:
        clock: Seconds by the clock of each step.
        spent: Processor seconds of each step, of the process and of those it has waited for.
        peak: The most memory of all its processes at a time, in bytes (PSS).
    """

    def __init__(self, pid: int) -> None:
        """Start at the process of this id."""
        self._process = psutil.Process(pid)
        self._step, self._since, self._before = START, time.monotonic(), 0.0
        self.clock: dict[str, float] = {}
        self.spent: dict[str, float] = {}
        self.peak = 0

    def read(self, line: str) -> None:
        """Begin another step if this line is the first of one."""
        step = next((name for name, begins in STEPS.items() if line.startswith(begins)), None)
        if step is not None and step not in self.clock and step != self._step:
            self._end_step(self._processor_seconds())
            self._step = step

    def end(self, total: float) -> None:
        """End the last step, once the process has spent so many processor seconds in all."""
        self._end_step(total)

    def look(self) -> None:
        """Read the memory once."""
        size = 0
        with contextlib.suppress(psutil.Error):
            for process in (self._process, *self._process.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    size += int(process.memory_full_info().pss)
        self.peak = max(self.peak, size)

    def _processor_seconds(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system + times.children_user + times.children_system)

    def _end_step(self, spent: float) -> None:
        now = time.monotonic()
        self.clock[self._step], self.spent[self._step] = now - self._since, spent - self._before
        self._since, self._before = now, spent


def measure(scheme: str, colours: str, images: Path, folder: Path) -> dict[str, Any]:
    """Audit a folder of images under a scheme, and return what it took.

    Args:
        scheme: The scheme.
        colours: gray or RGB.
        images: Folder of the images.
        folder: An empty folder for the audit.

    Raises:
        CipherwardError: If the command fails, or prints no line of one of the steps.
    """
    words = ["audit", images, "--out", folder / "hospital", COLOURS[colours], "--scheme", scheme]
    child = subprocess.Popen(
        [sys.executable, "-P", "-c", "from parties.cli.app import main; main()", *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    watch, lines = Watch(child.pid), _follow(child)
    load, printed = os.getloadavg()[0], []
    while True:
        try:
            line = lines.get(timeout=_LOOK_S)
        except queue.Empty:
            watch.look()
            continue
        if line is None:
            break
        printed.append(line.rstrip())
        watch.read(line)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    watch.end(usage.ru_utime + usage.ru_stime)
    if child.returncode or set(watch.clock) != {START, *STEPS}:
        raise CipherwardError(
            f"the audit of {scheme} ended with {child.returncode}", "\n".join(printed[-_LAST_LINES:])
        )
    (path,) = folder.glob("hospital/audits/*/report.json")
    report = json.loads(path.read_text())
    return {
        "scheme": scheme,
        "images": colours,
        "clock_seconds": watch.clock,
        "cpu_seconds": watch.spent,
        "load_at_start": load,
        "peak_megabytes": watch.peak / 1e6,
        "guesses": len(report["findings"]),
        "valid": report["valid"],
        "broken_from": report["verdict"]["smallest_pool"],
    }


def _follow(child: subprocess.Popen[str]) -> queue.Queue[str | None]:
    """Return a queue of the lines that a process prints; None comes after the last."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        assert child.stdout is not None
        for line in child.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    return lines


def totals(record: Mapping[str, Any]) -> tuple[float, float]:
    """Return the seconds of a whole audit: by the clock, and in processor time."""
    return sum(record["clock_seconds"].values()), sum(record["cpu_seconds"].values())


def main() -> None:
    """Run the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--schemes", default="etc,block_pixel_shuffle", help="schemes, by name")
    parser.add_argument("--images", default=",".join(COLOURS), help="gray, RGB or both")
    add_data(parser)
    add_json(parser)
    args = parser.parse_args()
    records = []
    for scheme, colours in itertools.product(split_list(args.schemes), split_list(args.images)):
        with tempfile.TemporaryDirectory() as folder:
            records.append(measure(scheme, colours, args.data / "brain_mri", Path(folder)))
        clock, spent = totals(records[-1])
        print(
            f"{scheme}, {colours}: {clock:.0f} s by the clock, {spent:.0f} s of processor time, "
            f"{records[-1]['peak_megabytes']:.0f} MB",
            flush=True,
        )
    figures = {"schema": SCHEMA, "machine": machine(), "records": records}
    write_figures(args.json, figures)


if __name__ == "__main__":
    main()
