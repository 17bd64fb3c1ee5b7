"""Every positional argument and option of every command is described by its --help."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer
from typer.testing import CliRunner

from coordinator.adversary.contract import Tier
from coordinator.adversary.registry import ATTACKS
from coordinator.cli import app as coordinator
from coordinator.exchange.audit.suite1 import ATTACK_NAMES, PUBLIC_ATTACKS
from coordinator.exchange.command import EXIT_STATUS
from crypto.errors import CipherwardError
from parties.cli import app as parties
from parties.sealing.place import PlaceSettings
from tests.support.paths import ROOT
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


def help_of(app: typer.Typer, name: str, columns: int) -> str:
    """Return what --help prints on a terminal of so many columns."""
    environment = {"COLUMNS": str(columns), "TERMINAL_WIDTH": str(columns)}
    done = CliRunner().invoke(app, [*name.split(), "--help"], env=environment)
    assert done.exit_code == 0
    return done.output


@pytest.mark.parametrize(("app", "name", "entry"), COMMANDS)
def test_help_describes_every_parameter(app: typer.Typer, name: str, entry: click.Command) -> None:
    shown = help_of(app, name, columns=400)
    assert "│" in shown
    shown = " ".join(shown.replace("│", " ").split())
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


@pytest.mark.parametrize(("app", "name", "entry"), COMMANDS)
def test_help_ends_with_an_example_that_the_command_takes(
    app: typer.Typer, name: str, entry: click.Command
) -> None:
    """At 80 columns the help is plain text, the example stands in one line, and nothing is cut off."""
    shown = help_of(app, name, columns=80)
    program = "cipherward-party" if app is parties.app else "cipherward-coordinator"
    before, line = shown.rstrip().split("  Example:\n  ")
    words = line.removeprefix('eval "$(').removesuffix(')"').split()
    assert words[: 1 + len(name.split())] == [program, *name.split()] and "\n" not in line
    entry.make_context(name, words[1 + len(name.split()) :])  # raises at a wrong option or argument
    assert "…" not in before.replace("age1…", "") and "\\[" not in shown and "│" not in shown
    assert max(map(len, before.splitlines())) <= 80
    assert before.count("rguments:") <= 1  # click and Typer both write them


@pytest.mark.parametrize(("app", "name", "entry"), COMMANDS)
def test_help_says_what_holds_if_an_option_is_not_given(
    app: typer.Typer, name: str, entry: click.Command
) -> None:
    context = click.Context(entry)
    for option in entry.params:
        if option.param_type_name != "option" or getattr(option, "hidden", False) or option.required:
            continue
        if getattr(option, "is_flag", False) and not option.secondary_opts:
            continue  # a switch is off
        record = option.get_help_record(context)
        assert record is not None
        text = record[1].lower()
        assert "default" in text or "required unless" in text, f"{name} {option.opts[0]}: {record[1]}"


def test_the_defaults_that_help_states_are_those_of_the_settings() -> None:
    fields = PlaceSettings.model_fields
    shown = " ".join(help_of(parties.app, "seal", columns=400).split())
    for name in ("groups", "fit", "image_size", "scheme", "block", "key_scope"):
        assert f"[default: ({fields[name].default})]" in shown, name


def test_no_help_needs_a_terminal_that_draws_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    for locale in ("C", "C.UTF-8"):
        monkeypatch.setenv("LC_ALL", locale)
        monkeypatch.setenv("PYTHONCOERCECLOCALE", "0")
        for words in (("seal", "--help"), ("sael",), ("seal", "--colour")):
            done = run_command(PARTY, *words)
            assert "\\u25" not in done.stdout + done.stderr and "│" not in done.stdout + done.stderr


def test_the_exit_statuses_are_documented_in_one_place() -> None:
    text = (ROOT / "docs" / "reference" / "index.md").read_text()
    section = text.split("## Exit status")[1].split("##")[0]
    rows = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("| ")]
    assert rows[1:] == [str(status) for status in EXIT_STATUS]


def test_every_exit_status_is_what_a_command_ends_with(tmp_path: Path) -> None:
    """0 and 1 are tested with the commands; 130 is what the program makes of Ctrl-C."""
    assert run_command(PARTY, "seal", tmp_path, "--no-such-option").returncode == 2
    assert run_command(PARTY, "seal").returncode == 2

    def interrupted() -> None:
        raise KeyboardInterrupt

    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(interrupted)
    assert CliRunner().invoke(app, []).exit_code == 130


def test_a_wrong_attack_is_refused_before_anything_is_sealed(tmp_path: Path) -> None:
    assert set(ATTACK_NAMES) == set(ATTACKS)
    users = {name for name, info in ATTACKS.items() if info.tier is Tier.T2 and not info.study}
    assert set(PUBLIC_ATTACKS) == users
    (tmp_path / "images").mkdir()
    done = CliRunner().invoke(
        parties.app,
        ["audit", str(tmp_path / "images"), "--attacks", "as_is,jigsw", "--out", str(tmp_path / "a")],
    )
    assert isinstance(done.exception, CipherwardError) and "did you mean jigsaw?" in done.exception.hint
    assert not (tmp_path / "a").exists()
