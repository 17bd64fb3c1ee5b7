"""A path that the system cannot use is named in one clear line, by every command and for each of its parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
import typer
from click.testing import CliRunner

from coordinator.cli import app as coordinator
from coordinator.exchange.command import naming_paths
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.keyfile import write_key
from parties.cli import app as parties
from tests.support.rotation import make_hospital

#: Both programs as Click's groups. Typer's own runner builds a group anew, for half of each test's time.
PROGRAMS: list[Any] = [typer.main.get_command(app) for app in (coordinator.app, parties.app)]
#: Every parameter of every command that is a path: the program, the command and the parameter.
PARAMETERS = [
    pytest.param(program, name, parameter, id=f"{name} {parameter.name}")
    for program in PROGRAMS
    for name, command in program.commands.items()
    for parameter in command.params
    if parameter.type.name in ("path", "directory", "file")
]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a hospital, a key, a file and a loop of links."""
    folder = tmp_path_factory.mktemp("paths")
    make_hospital(folder / "hospital")
    write_key(folder / "some.key", SecretKey.generate())
    (folder / "file").write_text("not a folder")
    (folder / "loop").symlink_to(folder / "loop")
    return folder


def words_for(command: click.Command, tested: click.Parameter, path: str, here: Path) -> list[str]:
    """Return a command line with this path as one parameter, and usable values as the other required ones."""
    values = {"hospital": "hospital", "sealed": "hospital/sealed/train", "key": "some.key"}
    words = [str(command.name)]
    for parameter in command.params:
        if parameter.name != tested.name and not parameter.required:
            continue
        usable = str(here / values.get(parameter.name or "", "file"))
        if parameter.type.name not in ("path", "directory", "file"):
            usable = "a"
        option = [parameter.opts[0]] if parameter.param_type_name == "option" else []
        words += [*option, path if parameter.name == tested.name else usable]
    return words


def error_of(program: click.Group, words: list[str]) -> CipherwardError | None:
    """Return the command's error for its user; None if it was done, or refused the command line itself."""
    done = CliRunner().invoke(program, words)
    if done.exit_code == 2 or done.exception is None:
        return None
    assert isinstance(done.exception, CipherwardError), (words, repr(done.exception))
    return done.exception


@pytest.mark.parametrize(("program", "name", "parameter"), PARAMETERS)
def test_unusable_paths_are_named(
    program: click.Group, name: str, parameter: click.Parameter, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    command = program.commands[name]
    before = sorted(here.iterdir())
    cases = {
        "x" * 300: "is too long a name",
        "x/" * 3000: "is too long a name",
        str(here / "loop" / "x"): "loop of links",
        str(here / "file" / "x"): "leads through a file",
    }
    for path, problem in cases.items():
        error = error_of(program, words_for(command, parameter, path, here))
        assert error is not None, (name, parameter.name, path[:40])
        assert problem in error.message and error.hint and "\n" not in error.message
        assert len(str(error)) < 400
    # A folder where a file belongs, and a file where a folder does: some commands take it, none falls over.
    for path in (str(here), str(here / "file")):
        words = words_for(command, parameter, path, here)
        if name not in ("keygen", "attack", "simulate") and not (
            name == "rotate" and parameter.name == "hospital"
        ):
            error_of(program, words)
    assert sorted(here.iterdir()) == before


def test_the_table_is_not_empty() -> None:
    assert len(PARAMETERS) > 30


def test_paths_found_at_work_are_named_and_other_errors_keep_their_traceback(tmp_path: Path) -> None:
    with pytest.raises(CipherwardError, match="is a folder, not a file"), naming_paths():
        tmp_path.read_bytes()
    with pytest.raises(FileNotFoundError), naming_paths():
        (tmp_path / "absent").read_bytes()
    with pytest.raises(OSError), naming_paths():
        raise OSError(5, "Input/output error")
