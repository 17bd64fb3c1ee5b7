"""Every positional argument and option of every command is described by its --help."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer
from typer.testing import CliRunner

from coordinator.cli import app as coordinator
from parties.cli import app as parties
from tests.support.study import command as run_command

PARTY = "cipherward-party"


def commands_of(group: click.Group) -> Iterator[tuple[str, click.Command]]:
    """Yield every command of a program with its words, those of groups inside it too."""
    for name, entry in group.commands.items():
        if isinstance(entry, click.Group):
            yield from ((f"{name} {inner}", each) for inner, each in commands_of(entry))
        else:
            yield name, entry


COMMANDS = [
    pytest.param(app, name, entry, id=f"{program} {name}")
    for program, app in (("coordinator", coordinator.app), ("party", parties.app))
    for name, entry in commands_of(typer.main.get_command(app))  # type: ignore[arg-type] # a group
]


@pytest.mark.parametrize(("app", "name", "entry"), COMMANDS)
def test_help_describes_every_parameter(app: typer.Typer, name: str, entry: click.Command) -> None:
    environment = {"COLUMNS": "400", "TERMINAL_WIDTH": "400"}
    done = CliRunner().invoke(app, [*name.split(), "--help"], env=environment)
    assert done.exit_code == 0
    shown = " ".join(done.output.replace("│", " ").split())
    assert entry.params or name == "env"
    for parameter in entry.params:
        if getattr(parameter, "hidden", False):
            continue
        text = getattr(parameter, "help", None)
        assert text, f"{name} {parameter.name} has no help"
        assert " ".join(text.split()) in shown, parameter.name


def test_the_arguments_are_among_them() -> None:
    """Without the command's own class, the texts of positional arguments were empty."""
    output = CliRunner().invoke(parties.app, ["unseal", "--help"]).output
    assert "A sealed set" in output


@pytest.mark.parametrize("app", [coordinator.app, parties.app])
def test_every_program_has_a_version_a_short_help_and_its_exit_codes(app: typer.Typer) -> None:
    assert CliRunner().invoke(app, ["--version"]).output.count("Flower") == 1
    output = " ".join(CliRunner().invoke(app, ["-h"]).output.split())
    assert "Exit status: 0 done; 1 an error" in output and "--install-completion" in output


def test_a_mistyped_command_is_answered_once_with_a_similar_one() -> None:
    output = CliRunner().invoke(parties.app, ["sael"]).output
    assert output.lower().count("did you mean") == 1 and "'seal'" in output


@pytest.mark.parametrize(("app", "name", "command"), COMMANDS)
def test_every_command_can_be_quiet_but_those_that_ask(
    app: typer.Typer,
    name: str,
    command: click.Command,
) -> None:
    names = {parameter.name for parameter in command.params}
    assert ("quiet" in names) is not ("yes" in names)


def test_quiet_prints_results_and_errors_only(tmp_path: Path) -> None:
    key = run_command(PARTY, "keygen", tmp_path / "h", "--quiet")
    assert (key.returncode, key.stderr) == (0, "") and len(key.stdout.strip()) == 16
    again = run_command(PARTY, "keygen", tmp_path / "h", "--quiet")
    assert again.returncode == 1 and ": error: " in again.stderr and "hint: " in again.stderr
