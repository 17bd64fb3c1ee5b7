"""The class of all commands: complete help texts, and one clear line for a path that the system cannot use.

A path can be too long, lead through a file or round in links, or name a folder where a file belongs. The parameters
of a command are checked before it starts; what only shows at work is translated when it does.

click 8.5 gave arguments a help text of their own, which is empty under Typer 0.20 and overwrites Typer's. The texts
stand in the command's signature, and are taken from there.
"""

from __future__ import annotations

import contextlib
import errno
import inspect
import os
import shutil
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import click
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption
from typer.models import ArgumentInfo

from coordinator.exchange.console import at_work, talk
from coordinator.exchange.versions import installed_versions
from crypto.errors import CipherwardError

#: What is wrong with a path, by the system's error, and what to do.
_PROBLEMS = {
    errno.ENAMETOOLONG: ("is too long a name", "choose a shorter one"),
    errno.ELOOP: ("goes round in a loop of links", "name the file or folder itself"),
    errno.ENOTDIR: ("leads through a file as if that were a folder", "check the path"),
    errno.EISDIR: ("is a folder, not a file", "name a file"),
}
#: Characters of a path that a message shows.
_SHOWN = 80


#: How every command ends, by exit status (docs/reference/index.md has the same).
EXIT_STATUS = {
    0: "done",
    1: "an error, or a control of an audit failed",
    2: "a wrong option or argument",
    130: "interrupted",
}
EXIT_CODES = f"Exit status: {'; '.join(f'{status} {text}' for status, text in EXIT_STATUS.items())}."


def _show_version(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    """Print the program's version and those of Flower and Python, and end."""
    if wanted and not context.resilient_parsing:
        versions = installed_versions()
        name = context.find_root().info_name
        click.echo(
            f"{name} {versions['cipherward']} (Flower {versions['flwr']}, Python {versions['python']})"
        )
        context.exit()


#: Columns from which help and errors of usage stand in panels. In narrower ones, names and defaults are cut off.
_PANEL_COLUMNS = 100


def _markup_mode() -> Literal["rich"] | None:
    """Return Typer's `rich` (panels) for a terminal that is wide and draws lines, None (plain text) for others."""
    encoding = str(getattr(sys.stdout, "encoding", None) or "ascii")
    is_wide = shutil.get_terminal_size().columns >= _PANEL_COLUMNS
    return "rich" if is_wide and encoding.lower().replace("-", "") == "utf8" else None


class Program(TyperGroup):
    """A program of several commands: -h is --help, --version, and the exit codes below the help."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        settings["epilog"] = settings.get("epilog") or EXIT_CODES
        settings["context_settings"] = {"help_option_names": ["-h", "--help"]} | (
            settings.get("context_settings") or {}
        )
        super().__init__(*args, **settings)
        self.suggest_commands = False  # click does it
        self.params.insert(0, _flag("version", "Show the version.", _show_version))

    def main(self, *args: Any, **settings: Any) -> Any:
        """Run the program. Its errors of usage are written for the terminal as it is now."""
        self.rich_markup_mode = _markup_mode()
        return super().main(*args, **settings)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help for the terminal as it is now."""
        self.rich_markup_mode = _markup_mode()
        super().format_help(ctx, formatter)


def _flag(
    name: str, text: str, callback: Callable[[click.Context, click.Parameter, bool], None]
) -> TyperOption:
    """Return an option without a value that acts at once, and that the command's function does not see."""
    return TyperOption(
        param_decls=[name, f"--{name}"],
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=callback,
        help=text,
    )


def _be_quiet(_context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    """Print results and errors alone from now on."""
    if wanted:
        talk.quiet = True


class Command(TyperCommand):
    """A command that shows the help of its positional arguments, and names paths that cannot be used.

    The help ends with an example, and its paragraphs are as wide as the terminal.

    Every command has --quiet, but for those that ask: whoever answers must have seen the question. What a command
    does is told while it prints nothing (console.py), but not by those that ask or wait.
    """

    ends_silences = True
    #: What Ctrl-C makes it say, in parts.
    interrupted: tuple[str, ...] = ("interrupted", "the same command goes on where it stopped")

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.help = "\n\n".join(" ".join(part.split()) for part in (self.help or "").split("\n\n"))
        texts = _argument_texts(self.callback)
        for parameter in self.params:
            if isinstance(parameter, TyperArgument) and not parameter.help:
                parameter.help = texts.get(parameter.name or "")
        if "yes" not in {parameter.name for parameter in self.params}:
            self.params.append(_flag("quiet", "Print results and errors only.", _be_quiet))
        else:
            self.ends_silences = False
            self.interrupted = ("interrupted", "the same command asks again")

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help for the terminal as it is now."""
        self.rich_markup_mode = _markup_mode()
        super().format_help(ctx, formatter)

    def format_arguments(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write nothing: `format_options` writes the arguments, too."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write arguments and options. Typer would write the brackets as Rich's escapes."""
        for title, kind in (("Arguments", "argument"), ("Options", "option")):
            records = [p.get_help_record(ctx) for p in self.get_params(ctx) if p.param_type_name == kind]
            rows = [(record[0], record[1].replace("\\[", "[")) for record in records if record is not None]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def format_epilog(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example in one line, to copy, however long it is."""
        if self.epilog:
            formatter.write_paragraph()
            for line in self.epilog.split("\n\n"):
                formatter.write(f"  {line}\n")

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command.

        Raises:
            CipherwardError: Besides what the command raises, if the system cannot use a path.
            KeyboardInterrupt: After Ctrl-C, once a line has said what that means for the work.
        """
        for parameter in self.params:
            value = ctx.params.get(parameter.name or "")
            if isinstance(parameter.type, click.Path) and value is not None:
                for path in value if isinstance(value, list | tuple) else (value,):
                    _require_usable(Path(path))
        try:
            with naming_paths(), at_work() if self.ends_silences else contextlib.nullcontext():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            # Typer ends with status 130 and without a word, which reads as a crash or as work that is lost.
            print(f"{ctx.find_root().info_name}: {'; '.join(self.interrupted)}", file=sys.stderr)
            raise


def example_of(examples: Mapping[str, str], name: str) -> str:
    """Return the end of a command's help: its example. Raises KeyError if it has none."""
    return f"Example:\n\n{examples[name]}"


class ServingCommand(Command):
    """A command that waits for others, for days if need be: its silence is none."""

    ends_silences = False
    interrupted: tuple[str, ...] = ("interrupted",)


class FollowingCommand(ServingCommand):
    """A command that shows what another process does, and whose end does not end that."""

    interrupted = (
        "interrupted",
        "the run goes on: the same command shows its rounds again, and stop ends it",
    )


def _require_usable(path: Path) -> None:
    """Raise CipherwardError if the system cannot use a path. That nothing is there, or may be read, is no matter."""
    with naming_paths(), contextlib.suppress(FileNotFoundError, PermissionError):
        try:
            path.stat()
        except ValueError:
            raise CipherwardError(
                f"{_shown(path)} is no path: it has a null character", "check it"
            ) from None


@contextlib.contextmanager
def naming_paths() -> Iterator[None]:
    """Turn the system's refusal of a path into one clear line. Other errors keep their traceback."""
    try:
        yield
    except OSError as error:
        if error.errno not in _PROBLEMS or error.filename is None:
            raise
        problem, hint = _PROBLEMS[error.errno]
        raise CipherwardError(f"{_shown(error.filename)} {problem}", hint) from None


def _shown(path: object) -> str:
    """Return a path as it stands in a message: a long one without its middle."""
    text = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else str(path)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]}…{text[-_SHOWN // 2 :]}"


def _argument_texts(function: Any) -> dict[str, str]:
    """Return the help texts of a function's positional arguments, by name."""
    hints = typing.get_type_hints(inspect.unwrap(function), include_extras=True) if function else {}
    return {
        name: item.help
        for name, hint in hints.items()
        for item in getattr(hint, "__metadata__", ())
        if isinstance(item, ArgumentInfo) and item.help
    }
