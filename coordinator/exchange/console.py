"""How our commands talk: results on stdout, progress and errors on stderr, and one way to fail."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from crypto.errors import CipherwardError

talk = Console(stderr=True, highlight=False, markup=False)
result = Console(highlight=False, soft_wrap=True, markup=False)


def run(app: typer.Typer, name: str) -> None:
    """Runs a command line. A CipherwardError becomes two lines and exit status 1, without a traceback."""
    try:
        app(prog_name=name)
    except CipherwardError as error:
        print(f"{name}: error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        sys.exit(1)


def seconds(text: str) -> float:
    """A time as users type it, in seconds: 600, 0.5, 90s, 10m or 1h."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS else (text, "s")
    try:
        time = float(number) * _UNITS[unit]
        if not 0.01 <= time < float("inf"):
            raise ValueError
        return time
    except ValueError:
        raise CipherwardError(
            f"--budget {text!r} is no time of at least 0.01 s", "for example: --budget 90s, 10m, 1h, or 600"
        ) from None


_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def sizes(text: str) -> list[int]:
    """Pool sizes as users type them, rising; none for an empty text."""
    try:
        found = sorted({int(n) for n in text.split(",") if n})
        if found and found[0] < 1:
            raise ValueError
        return found
    except ValueError:
        raise CipherwardError(
            f"--pools {text!r} are not numbers of images", "for example: --pools 1,2,5,10"
        ) from None


@contextlib.contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar; the function it gives is told how many of `total` are done."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=talk, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)
