"""What all commands share: results on stdout, progress and errors on stderr, and one way to fail.

Names of files and classes, and texts of files that others wrote, reach the terminal here. Control characters in them
are printed as escapes: they could hide a line, or write another one.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import typer
from rich.console import Console

from coordinator.exchange.quiet import bypass_proxies
from crypto.errors import CipherwardError
from crypto.printable import printable

Log = Callable[[str], None]


class SafeConsole(Console):
    """A console that prints each text as one line without control characters. Tables are printed as they are."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print texts with their control characters escaped, and other objects as they are."""
        super().print(*(printable(o, _LONGEST) if isinstance(o, str) else o for o in objects), **options)

    def print_json(self, json: str | None = None, **options: Any) -> None:
        """Print JSON in ASCII: other characters as JSON's own escapes, control characters among them."""
        super().print_json(json, **{**options, "ensure_ascii": True})


#: Characters of one printed text, at most. A quarantined name and its reason are far shorter.
_LONGEST = 20_000
#: For progress and warnings, on stderr.
talk = SafeConsole(stderr=True, highlight=False, markup=False)
#: For results, on stdout.
result = SafeConsole(highlight=False, soft_wrap=True, markup=False)

#: Seconds after which a silence ends without a terminal.
_BEAT_S = 5.0
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def run(app: typer.Typer, name: str) -> None:
    """Run a command line. A CipherwardError becomes two lines and exit status 1, without a traceback.

    Args:
        app: the commands.
        name: the program's name, as it stands in messages.
    """
    _use_utf8()
    bypass_proxies(os.environ)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal whose encoding lacks an accent or an ellipsis gets an escape, not a traceback.
            stream.reconfigure(errors="backslashreplace")
    try:
        app(prog_name=name)
    except CipherwardError as error:
        print(f"{name}: error: {printable(error.message)}", file=sys.stderr)
        if error.hint:
            print(f"hint: {printable(error.hint)}", file=sys.stderr)
        sys.exit(1)


def _use_utf8() -> None:
    """Start this program again in Python's UTF-8 mode if the locale has another encoding.

    A path with an accent is no text in such a locale: it could not be written into a plan or a message. The terminal
    keeps its encoding, which PYTHONIOENCODING passes on.
    """
    if sys.getfilesystemencoding().lower() == "utf-8" or os.environ.get("PYTHONUTF8") == "1":
        return
    sys.stdout.flush()
    sys.stderr.flush()
    terminal = {"PYTHONIOENCODING": f"{sys.stdout.encoding}:backslashreplace", **os.environ}
    os.execve(sys.executable, sys.orig_argv, {**terminal, "PYTHONUTF8": "1"})


def parse_seconds(text: str, option: str = "--budget") -> float:
    """Return the seconds of a time as users type it: 600, 0.5, 90s, 10m or 1h. option: its name, for the error."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS else (text, "s")
    try:
        time = float(number) * _UNITS[unit]
        if not 0.01 <= time < float("inf"):
            raise ValueError
        return time
    except ValueError:
        raise CipherwardError(
            f"{option} {text!r} is not a time of at least 0.01 s",
            f"for example: {option} 90s, 10m, 1h, or 600",
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
    """Show a progress bar; the yielded function takes the number of items done so far.

    Without a terminal a line says how far it is, every five seconds.
    """
    if not talk.is_terminal:
        with _heartbeat() as show:
            yield lambda done: show(f"{what}: {done} of {total}")
        return
    # Imported here: --help is printed without it.
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=talk, transient=True) as bar:
        task = bar.add_task(printable(what), total=total)
        yield lambda done: bar.update(task, completed=done)


@contextlib.contextmanager
def narrate() -> Iterator[Log]:
    """Print every line that the yielded function takes, and show the last one with its time until the next comes."""
    with live_line() as show:

        def log(line: str) -> None:
            talk.print(line)
            show(line)

        yield log


@contextlib.contextmanager
def _heartbeat() -> Iterator[Log]:
    """Print the last text that the yielded function took, and the time since it came, so that no silence is long.

    The first silence ends after five seconds. Later ones may last a twentieth of the time so far: a log of hours
    stays short.
    """
    ended = threading.Event()
    started = time.monotonic()
    latest = ("", started)

    def beat() -> None:
        while not ended.wait(max(_BEAT_S, (time.monotonic() - started) / 20)):
            text, since = latest
            if text:
                talk.print(f"  {text} ({time.monotonic() - since:.0f} s)")

    def show(text: str) -> None:
        nonlocal latest
        latest = (text, time.monotonic())

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield show
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def live_line() -> Iterator[Log]:
    """Show one line at the bottom of the terminal, with the time since it began; the yielded function sets its text.

    Without a terminal the text is printed with its time, again and again while it stays (`_heartbeat`).
    """
    if not talk.is_terminal:
        with _heartbeat() as show:
            yield show
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
        yield lambda text: bar.update(task, description=printable(text))
