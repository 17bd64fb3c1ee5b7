"""What commands say after Ctrl-C: what became of the work, by the kind of the command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from coordinator.cli.app import app as coordinator_app
from coordinator.exchange.command import Command, FollowingCommand, ServingCommand


def _interrupted() -> None:
    raise KeyboardInterrupt


def _asking(yes: Annotated[bool, typer.Option("--yes")] = False) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("command", "kind", "said"),
    [
        (_interrupted, Command, "program: interrupted; the same command goes on where it stopped\n"),
        (_asking, Command, "program: interrupted; the same command asks again\n"),
        (_interrupted, ServingCommand, "program: interrupted\n"),
        (
            _interrupted,
            FollowingCommand,
            "program: interrupted; the run goes on: the same command shows its rounds again, and stop ends it\n",
        ),
    ],
)
def test_ctrl_c_says_what_became_of_the_work(
    command: Callable[..., None], kind: type[Command], said: str
) -> None:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command(cls=kind)(command)
    done = CliRunner().invoke(app, [], prog_name="program")
    assert done.exit_code == 130
    assert said in done.stderr and not done.stdout


def test_the_end_of_run_is_not_the_end_of_the_run() -> None:
    commands = get_command(coordinator_app).commands  # type: ignore[attr-defined] # a group
    following = [name for name, command in commands.items() if isinstance(command, FollowingCommand)]
    assert following == ["run"]
