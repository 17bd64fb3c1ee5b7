"""Every positional argument and option of every command is described by its --help."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
import typer
from typer.testing import CliRunner

from coordinator.cli import app as coordinator
from parties.cli import app as parties


def paths_of(group: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of every command below a group."""
    commands: dict[str, click.Command] = getattr(group, "commands", {})
    for name, command in commands.items():
        yield from paths_of(command, (*path, name)) if hasattr(command, "commands") else [(*path, name)]


COMMANDS = [
    pytest.param(app, path, id=" ".join((program, *path)))
    for program, app in (("coordinator", coordinator.app), ("party", parties.app))
    for path in paths_of(typer.main.get_command(app))
]


@pytest.mark.parametrize(("app", "path"), COMMANDS)
def test_help_describes_every_parameter(app: typer.Typer, path: tuple[str, ...]) -> None:
    command: click.Command = typer.main.get_command(app)
    for word in path:
        command = command.commands[word]  # type: ignore[attr-defined] # a group
    name = path[-1]
    done = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "400", "TERMINAL_WIDTH": "400"})
    assert done.exit_code == 0
    shown = " ".join(done.output.replace("│", " ").split())
    assert command.params or name == "env"
    for parameter in command.params:
        text = getattr(parameter, "help", None)
        assert text, f"{name} {parameter.name} has no help"
        assert " ".join(text.split()) in shown, parameter.name


def test_the_arguments_are_among_them() -> None:
    """Without the command's own class, the texts of positional arguments were empty."""
    output = CliRunner().invoke(parties.app, ["unseal", "--help"]).output
    assert "A sealed set" in output
