"""Every positional argument and option of every command is described by its --help."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
import typer
from typer.testing import CliRunner

from coordinator.cli import app as coordinator
from parties.cli import app as parties


def commands_of(group: click.Group) -> Iterator[tuple[str, click.Command]]:
    """Yield every command of a program with its words, those of groups inside it too."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from ((f"{name} {inner}", each) for inner, each in commands_of(command))
        else:
            yield name, command


COMMANDS = [
    pytest.param(app, name, command, id=f"{program} {name}")
    for program, app in (("coordinator", coordinator.app), ("party", parties.app))
    for name, command in commands_of(typer.main.get_command(app))  # type: ignore[arg-type] # a group
]


@pytest.mark.parametrize(("app", "name", "command"), COMMANDS)
def test_help_describes_every_parameter(app: typer.Typer, name: str, command: click.Command) -> None:
    environment = {"COLUMNS": "400", "TERMINAL_WIDTH": "400"}
    done = CliRunner().invoke(app, [*name.split(), "--help"], env=environment)
    assert done.exit_code == 0
    shown = " ".join(done.output.replace("│", " ").split())
    assert command.params or name == "env"
    for parameter in command.params:
        if getattr(parameter, "hidden", False):
            continue
        text = getattr(parameter, "help", None)
        assert text, f"{name} {parameter.name} has no help"
        assert " ".join(text.split()) in shown, parameter.name


def test_the_arguments_are_among_them() -> None:
    """Without the command's own class, the texts of positional arguments were empty."""
    output = CliRunner().invoke(parties.app, ["unseal", "--help"]).output
    assert "A sealed set" in output
