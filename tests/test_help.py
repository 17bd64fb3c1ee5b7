"""Every positional argument and option of every command is described by its --help."""

from __future__ import annotations

import click
import pytest
import typer
from typer.testing import CliRunner

from coordinator.cli import app as coordinator
from parties.cli import app as parties

COMMANDS = [
    pytest.param(app, name, id=f"{program} {name}")
    for program, app in (("coordinator", coordinator.app), ("party", parties.app))
    for name in typer.main.get_command(app).commands  # type: ignore[attr-defined] # a group
]


@pytest.mark.parametrize(("app", "name"), COMMANDS)
def test_help_describes_every_parameter(app: typer.Typer, name: str) -> None:
    command: click.Command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined] # a group
    done = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "400", "TERMINAL_WIDTH": "400"})
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
