"""What all commands share: results on stdout, progress and errors on stderr, and one way to fail."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

import typer
from rich.console import Console

from crypto.errors import CipherwardError

Log = Callable[[str], None]

#: For progress and warnings, on stderr.
talk = Console(stderr=True, highlight=False, markup=False)
#: For results, on stdout.
result = Console(highlight=False, soft_wrap=True, markup=False)

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def run(app: typer.Typer, name: str) -> None:
    """Run a command line. A CipherwardError becomes two lines and exit status 1, without a traceback.

    Args:
        app: the commands.
        name: the program's name, as it stands in messages.
    """
    try:
        app(prog_name=name)
    except CipherwardError as error:
        print(f"{name}: error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        sys.exit(1)


def parse_seconds(text: str) -> float:
    """Return the seconds of a time as users type it: 600, 0.5, 90s, 10m or 1h."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS else (text, "s")
    try:
        time = float(number) * _UNITS[unit]
        if not 0.01 <= time < float("inf"):
            raise ValueError
        return time
    except ValueError:
        raise CipherwardError(
            f"--budget {text!r} is not a time of at least 0.01 s",
            "for example: --budget 90s, 10m, 1h, or 600",
        ) from None


def parse_pool_sizes(text: str) -> list[int]:
    """Return pool sizes as users type them, with commas, in rising order; an empty text gives none."""
    try:
        sizes = sorted({int(n) for n in text.split(",") if n})
        if sizes and sizes[0] < 1:
            raise ValueError
        return sizes
    except ValueError:
        raise CipherwardError(
            f"--pools {text!r} are not numbers of images", "for example: --pools 1,2,5,10"
        ) from None


@contextlib.contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar; the yielded function takes the number of items done so far."""
    # Imported here: --help is printed without it.
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=talk, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


@contextlib.contextmanager
def live_line() -> Iterator[Log]:
    """Show one line at the bottom of the terminal, with the time since it began; the yielded function sets its text.

    Without a terminal nothing is shown.
    """
    if not talk.is_terminal:
        yield lambda _text: None
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.table import Column

    # A text that is longer than the terminal is wide must not become two lines.
    text_column = TextColumn(
        "{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)
    )
    columns = (SpinnerColumn(), text_column, TimeElapsedColumn())
    with Progress(*columns, console=talk, transient=True, expand=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda text: bar.update(task, description=text)
