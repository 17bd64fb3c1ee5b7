"""What all commands share: results on stdout, progress and errors on stderr, and one way to fail.

Names of files and classes, and texts of files that others wrote, reach the terminal here. Control characters in them
are printed as escapes: they could hide a line, or write another one.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import typer
from rich.console import Console

from coordinator.exchange.audit.suite1 import MIN_BUDGET_S
from coordinator.exchange.compile_cache import ensure_compile_cache
from coordinator.exchange.quiet import bypass_proxies
from coordinator.exchange.temporary import has_shared_memory
from coordinator.exchange.time_left import MAX_SECONDS, Countdown, parse_count
from crypto.asking import waiting_for_user
from crypto.errors import CipherwardError
from crypto.printable import printable

Log = Callable[[str], None]


class Show(Protocol):
    """Takes what a program is doing now, and whether the user has read it already."""

    def __call__(self, text: str, is_printed: bool = False) -> None:
        """Show it."""


class SafeConsole(Console):
    """A console that prints each text as one line without control characters. Tables are never cut.

    In files and pipes a text stays one line, however long: programs read line by line. On a terminal it is broken
    between words. With `soft_wrap` what follows is indented there, so that it does not look like another text.

    Attributes:
        last_printed: When something was printed last, by the monotonic clock.
    """

    last_printed = 0.0

    def print(self, *objects: Any, **options: Any) -> None:
        """Print texts with their control characters escaped, and other objects as they are."""
        self.last_printed = time.monotonic()
        for thing in objects:
            _fold(thing)
        if not self.is_terminal and all(isinstance(o, str) for o in objects):
            options.setdefault("soft_wrap", True)
        super().print(*(self._line(o) if isinstance(o, str) else o for o in objects), **options)

    def _line(self, text: str) -> str:
        """Return a text as it is printed."""
        line = printable(text, _LONGEST)
        if not (self.soft_wrap and self.is_terminal and len(line) > self.width):
            return line
        indent = " " * (len(line) - len(line.lstrip(" ")) + 2)
        # A path or a command's word stays whole, so that it can be copied.
        return textwrap.fill(
            line, self.width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )

    def print_json(self, json: str | None = None, **options: Any) -> None:
        """Print JSON in ASCII: other characters as JSON's own escapes, control characters among them."""
        super().print_json(json, **{**options, "ensure_ascii": True})


def _fold(thing: Any) -> None:
    """Let long words of a table go on in the next line: the end of a digest or of a name must not be missing."""
    tables = sys.modules.get("rich.table")  # --help is printed without it
    if tables is None or not isinstance(thing, tables.Table):
        return
    for column in thing.columns:
        if not column.no_wrap:
            column.overflow = "fold"


#: Characters of one printed text, at most. A quarantined name and its reason are far shorter.
_LONGEST = 20_000
#: For progress and warnings, on stderr.
talk = SafeConsole(stderr=True, highlight=False, markup=False, emoji=False)
#: For results, on stdout.
result = SafeConsole(highlight=False, soft_wrap=True, markup=False, emoji=False)

#: Seconds after which a silence ends. A reader takes five for a hang, and printing may be late.
_BEAT_S = 4.0
#: What a command does that says nothing of its own; and the characters of a step in a line that it goes on.
_AT_WORK, _LONGEST_STEP = "at work", 100
#: Set to 0 in the environment of programs whose lines another of ours reads: it ends the silences itself.
BEATS = "CIPHERWARD_BEATS"
# Variables of Numba and NumPy, what they may hold, and in words. Numba warns of a text, and fails at 0.
_NUMBERS = (
    ("NUMBA_NUM_THREADS", r"(?!-|\+?0+$).*", "number of threads from 1"),
    ("SOURCE_DATE_EPOCH", r"[+-]?[0-9]+", "number of seconds"),
)
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def run(app: typer.Typer, name: str) -> None:
    """Run a command line. A CipherwardError becomes two lines and exit status 1, without a traceback.

    Args:
        app: the commands.
        name: the program's name, as it stands in messages.
    """
    _open_standard_streams()
    _use_utf8()
    # The umask decides whether other users may read what is outside private/. None of them may ever write it.
    os.umask(os.umask(0o077) | 0o022)
    bypass_proxies(os.environ)
    ensure_compile_cache(os.environ)
    # Threads of OpenMP wait for each other by spinning. Two of them beside one other busy process made training ten
    # times slower. It is read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not has_shared_memory():
        # joblib, which scikit-learn loads, would print a warning. We use none of its processes.
        os.environ.setdefault("JOBLIB_MULTIPROCESSING", "0")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal whose encoding lacks an accent or an ellipsis gets an escape, not a traceback.
            stream.reconfigure(errors="backslashreplace")
    try:
        _require_numbers(os.environ)
        app(prog_name=name)
    except CipherwardError as error:
        print(f"{name}: error: {printable(error.message)}", file=sys.stderr)
        if error.hint:
            print(f"hint: {printable(error.hint)}", file=sys.stderr)
        sys.exit(1)
    except SystemExit:
        try:
            if sys.stdout is not None:  # it is closed
                sys.stdout.flush()  # at the end of the program a full disk would be an exit status of Python's own
        except OSError as error:
            _end_if_full(name, error)
        raise
    except OSError as error:
        _end_if_full(name, error)
        _end_if_homeless(name, error)
        raise


def _require_numbers(environment: Mapping[str, str]) -> None:
    """Raise CipherwardError if a variable holds what a library of ours ends with a traceback at, in mid-command."""
    for variable, pattern, what in _NUMBERS:
        if (value := environment.get(variable, "")) and not re.fullmatch(pattern, value.strip()):
            raise CipherwardError(
                f"the environment variable {variable} is {value!r}, which is no {what}",
                f"correct it, or take it away: unset {variable}",
            )


def _open_standard_streams() -> None:
    """Open the null device in the place of a standard stream that the caller closed.

    Without it the next file that is opened gets the stream's number, and what a process of ours or a library prints
    would be written into that file. Python has None for such a stream.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def _end_if_homeless(name: str, error: OSError) -> None:
    """End with one clear line if the working directory was removed: every relative path leads nowhere."""
    if error.errno != errno.ENOENT or error.filename is not None:
        return
    try:
        Path.cwd()
    except FileNotFoundError:
        print(f"{name}: error: the working directory was removed", file=sys.stderr)
        print("hint: go to one that exists, such as with: cd ~", file=sys.stderr)
        sys.exit(1)


def _end_if_full(name: str, error: OSError) -> None:
    """End with one clear line if a write failed because its disk is full; the command may have printed into it."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT) or error.filename is not None:
        return
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is not tried again
    print(f"{name}: error: cannot write: {error.strerror}", file=sys.stderr)
    print(
        "hint: free some space, or let the output go elsewhere, and run the command again", file=sys.stderr
    )
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
        if not MIN_BUDGET_S <= time <= MAX_SECONDS:
            raise ValueError
        return time
    except ValueError:
        raise CipherwardError(
            f"{option} {text!r} is not a time of at least {MIN_BUDGET_S:g} s and at most {MAX_SECONDS:.0f} s",
            f"for example: {option} 90s, 10m, 1h, or 600",
        ) from None


def parse_pool_sizes(text: str) -> list[int]:
    """Return pool sizes as users type them, with commas, in rising order; an empty text gives none."""
    try:
        sizes = sorted({int(n) for n in text.split(",") if n})
        if text and (not sizes or sizes[0] < 1):  # a comma alone names none: the default would be taken
            raise ValueError
        return sizes
    except ValueError:
        raise CipherwardError(
            f"--pools {text!r} are not numbers of images", "for example: --pools 1,2,5,10"
        ) from None


class _Pulse:
    """Ends silences: says what the program is doing while nothing else is printed.

    While a text stays, the next line says that it goes on, and those after it are short: they say for how long. They
    come as often in a log as on a terminal, so that a log that stands still is one of a program that hangs.
    """

    def __init__(self) -> None:
        """Start with nothing to say."""
        self._texts: list[_Text] = []
        self._change = threading.RLock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._shown_live = 0

    @contextlib.contextmanager
    def beating(self, first: str = "") -> Iterator[Show]:
        """End silences until the block ends. The yielded function takes a text, and whether it is printed already.

        Blocks may lie in one another: the innermost that has a text is told.
        """
        text = _Text(first)
        with self._change:
            self._texts.append(text)
            if self._thread is None and os.environ.get(BEATS) != "0":
                self._ended.clear()
                self._thread = threading.Thread(target=self._beat, args=(time.monotonic(),), daemon=True)
                self._thread.start()
        try:
            yield text.change
        finally:
            with self._change:
                self._texts.remove(text)
                thread = self._thread if not self._texts else None
                if thread is not None:
                    self._ended.set()
                    self._thread = None
            if thread is not None:
                thread.join()

    @contextlib.contextmanager
    def shown_live(self) -> Iterator[None]:
        """Say nothing until the block ends: a line of the terminal moves."""
        self._shown_live += 1
        try:
            yield
        finally:
            self._shown_live -= 1
            talk.last_printed = time.monotonic()

    def _beat(self, started: float) -> None:
        ended = self._ended
        while not ended.wait(_BEAT_S / 16):
            now = time.monotonic()
            latest = max(started, talk.last_printed, result.last_printed)
            if now - latest < _BEAT_S or self._shown_live or waiting_for_user.is_set():
                started = now if waiting_for_user.is_set() else started
                continue
            with self._change:
                texts = [text for text in self._texts if text.text]
            if texts:
                talk.print(texts[-1].line(now))


class _Text:
    """What a program is doing now, and since when."""

    def __init__(self, text: str) -> None:
        """Begin with a text, which is not printed yet."""
        self.change(text)

    def change(self, text: str, is_printed: bool = False) -> None:
        """Take a new text; is_printed: whether the user has read it already."""
        self.text, self._is_printed, self._since = text, is_printed, time.monotonic()
        self._is_repeated = text == _AT_WORK

    def line(self, now: float) -> str:
        """Return the line that ends a silence."""
        text = self.text
        if self._is_printed:
            text = "still at work" if self._is_repeated else f"still at work: {_shorten(text)}"
            self._is_repeated = True
        self._is_printed = True
        return f"  {text} ({now - self._since:.0f} s)"


def _shorten(text: str) -> str:
    """Return a text with at most `_LONGEST_STEP` characters."""
    return text if len(text) <= _LONGEST_STEP else text[: _LONGEST_STEP - 1] + "…"


_pulse = _Pulse()


@contextlib.contextmanager
def at_work() -> Iterator[None]:
    """End every long silence in the block, whether or not it says what it does."""
    with _pulse.beating(_AT_WORK):
        yield


@contextlib.contextmanager
def starting(what: str) -> Iterator[Callable[[], None]]:
    """End silences until the yielded function is called. From then on a command waits for others, and may be silent.

    Args:
        what: what is starting.
    """
    with _pulse.beating(what) as show:
        yield lambda: show("")


@contextlib.contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar; the yielded function takes the number of items done so far.

    Without a terminal a line says how far it is and how long the rest will take, before a silence is long.
    """
    if not talk.is_terminal:
        countdown = Countdown(total)
        with _pulse.beating() as show:
            yield lambda done: show(f"{what}: {countdown.after(done)}")
        return
    # Imported here: --help is printed without it.
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with _pulse.shown_live(), Progress(*columns, console=talk, transient=True) as bar:
        task = bar.add_task(printable(what), total=total)
        yield lambda done: bar.update(task, completed=done)


@contextlib.contextmanager
def narrate() -> Iterator[Log]:
    """Print every line that the yielded function takes, and show the last one with its time until the next comes."""
    if not talk.is_terminal:
        with _pulse.beating() as show_beat:

            def log_line(line: str) -> None:
                talk.print(line)
                show_beat(line, True)

            yield log_line
        return
    with live_line() as show:

        def log(line: str) -> None:
            talk.print(line)
            show(line)

        yield log


@contextlib.contextmanager
def live_line(below: Callable[[], Any] = lambda: None) -> Iterator[Show]:
    """Show one line at the bottom of the terminal, with the time since it began; the yielded function sets its text.

    A text with "K of N" moves a bar. Without a terminal the text is printed when a silence grows long; if it was
    printed before, the line says that it goes on.

    Args:
        below: Returns what to show below the line on a terminal, such as a table of Rich's, or None. It is called
            several times a second, by another thread.
    """
    if not talk.is_terminal:
        with _pulse.beating() as show_beat:
            yield show_beat
        return
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.table import Column

    # A text that is longer than the terminal is wide must not become two lines.
    text_column = TextColumn(
        "{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)
    )
    bar_column = BarColumn(bar_width=16, table_column=Column(no_wrap=True))
    columns = (SpinnerColumn(), text_column, bar_column, TimeElapsedColumn())

    class LineAndTable(Progress):
        """The line, and what is below it."""

        def get_renderables(self) -> Iterator[Any]:
            """Yield what is shown, from top to bottom."""
            yield from super().get_renderables()
            if (table := below()) is not None:
                yield table

    with _pulse.shown_live(), LineAndTable(*columns, console=talk, transient=True, expand=True) as bar:
        task = bar.add_task("", total=None)

        def show(text: str, is_printed: bool = False) -> None:  # noqa: ARG001 - the line shows it all the same
            done, total = parse_count(text)
            bar.update(task, description=printable(text), completed=done, total=total)

        yield show
