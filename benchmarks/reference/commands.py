"""The reference of a program's commands: usage, arguments, options and defaults, read from its parser."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click
import typer

from benchmarks.pages.markdown import table
from coordinator.exchange.command import EXIT_CODES

_HEADERS = ["option", "value", "default", "meaning"]


def program_page(name: str, app: typer.Typer) -> list[str]:
    """Return the lines of a program's page: what it is for, a table of its commands, and a section for each."""
    group = typer.main.get_command(app)
    if not isinstance(group, click.Group):
        raise TypeError(f"{name} is no program of several commands")
    commands = list(commands_of(group))
    lines = [f"# {name}", "", *_paragraphs(group.help or ""), _markdown(EXIT_CODES), ""]
    lines += ["`make docs` writes this page from the program itself.", ""]
    rows = [[f"[`{words}`](#{words.replace(' ', '-')})", _first_sentence(c)] for words, c in commands]
    lines += table(["command", "what it does"], rows)
    for words, command in commands:
        lines += _section(name, words, command)
    return lines


def commands_of(group: click.Group) -> Iterator[tuple[str, click.Command]]:
    """Yield every command of a program with its words, those of groups inside it too."""
    for name, entry in group.commands.items():
        if isinstance(entry, click.Group):
            yield from ((f"{name} {words}", command) for words, command in commands_of(entry))
        elif not entry.hidden:
            yield name, entry


def _section(program: str, words: str, command: click.Command) -> list[str]:
    """Return the lines of one command: usage, text, and tables of what it takes."""
    context = click.Context(command, info_name=f"{program} {words}")
    usage = command.get_usage(context).removeprefix("Usage: ")
    lines = [
        f"## {words}",
        "",
        "```text",
        " ".join(usage.split()),
        "```",
        "",
        *_paragraphs(command.help or ""),
    ]
    if command.epilog:
        lines += ["Example:", "", "```text", command.epilog.partition("\n\n")[2], "```", ""]
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [
        p for p in command.params if p.param_type_name == "option" and not getattr(p, "hidden", False)
    ]
    if arguments:
        rows = [[f"`{_cell(_argument(p, context))}`", _meaning(p)] for p in arguments]
        lines += table(["argument", "meaning"], rows)
    if options:
        rows = [[_names(p), _value(p, context), _default(p, context), _meaning(p)] for p in options]
        lines += table(_HEADERS, rows)
    return lines


def _argument(argument: click.Parameter, context: click.Context) -> str:
    """Return an argument as the usage names it, without the brackets around one that can be left out."""
    metavar = argument.make_metavar(context)
    return re.sub(r"^\[([^\[\]]*)\](\.\.\.)?$", r"\1\2", metavar)


def _names(option: click.Parameter) -> str:
    """Return an option's names: both of a switch that can be turned on or off."""
    return " / ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))


def _value(option: click.Parameter, context: click.Context) -> str:
    """Return what follows an option: its kind and bounds; nothing for a switch."""
    if getattr(option, "is_flag", False):
        return ""
    bounds = option.type
    if isinstance(bounds, click.IntRange | click.FloatRange):
        low, high = bounds.min, bounds.max
        text = (
            f"{low} to {high}"
            if None not in (low, high)
            else f"{low} or more"
            if high is None
            else f"up to {high}"
        )
    else:
        text = option.make_metavar(context).lower().strip("[]")
    return _cell(text) + (", can be repeated" if option.multiple else "")


def _default(option: click.Parameter, context: click.Context) -> str:
    """Return an option's default; nothing where there is none, or where the meaning says it."""
    value = option.get_default(context)
    if option.required:
        return "required"
    if told := _told_default(option):
        return _cell(_markdown(told[1]))
    shown = getattr(option, "show_default", None)
    if isinstance(shown, str):
        return _cell(_markdown(shown))
    if value is None or value is False or value in ("", [], ()):
        return ""
    if value is True and option.secondary_opts:
        return f"`{option.opts[0]}`"
    return f"`{_cell(str(value))}`"


def _told_default(option: click.Parameter) -> re.Match[str] | None:
    """Return where the help of an option says its default, such as: Default: one a core."""
    return re.search(
        r" Default: (.*?)\.(?= [A-Z]|$)", " ".join((getattr(option, "help", None) or "").split())
    )


def _meaning(parameter: click.Parameter) -> str:
    """Return the help of an argument or option, without what the other columns say."""
    text = " ".join((getattr(parameter, "help", None) or "").split())
    if parameter.param_type_name == "option":
        if told := _told_default(parameter):
            text = text[: told.start()] + text[told.end() :]
        text = text.removesuffix(" Can be repeated.")
    return _cell(_markdown(text))


def _first_sentence(command: click.Command) -> str:
    """Return the first sentence of a command's help."""
    text = " ".join((command.help or "").split("\n\n", maxsplit=1)[0].split())
    return _cell(_markdown(re.split(r"(?<=[a-z)\]`])\. ", text, maxsplit=1)[0].removesuffix(".") + "."))


def _paragraphs(text: str) -> list[str]:
    """Return the paragraphs of a help text, each with an empty line after it."""
    lines: list[str] = []
    for paragraph in text.split("\n\n"):
        if paragraph.lstrip("\b").startswith(("\n  ", "  ")) or "\b" in paragraph:
            lines += ["```text", paragraph.replace("\b", "").strip("\n"), "```", ""]
        else:
            lines += [_markdown(" ".join(paragraph.split())), ""]
    return lines


def _markdown(text: str) -> str:
    """Return a help text as Markdown: words in capitals, options and files as code, and no accidental mark-up."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(p if p.startswith("`") else _escape(p) for p in pieces)


def _escape(text: str) -> str:
    text = re.sub(r"(?<![\w-])(--[a-z][a-z-]*)", r"`\1`", text)
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(p if p.startswith("`") else re.sub(r"([*_<\[\]])", r"\\\1", p) for p in parts)


def _cell(text: str) -> str:
    """Return a text for a cell of a table: one line, and no bar that would end the cell."""
    return " ".join(text.split()).replace("|", "\\|")
