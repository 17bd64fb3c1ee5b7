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
