"""Programs that start a command may close its standard streams, and its working directory may be gone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from coordinator.exchange.console import run
from parties.cli.app import app
from tests.support.paths import ROOT

_PARTY = "from parties.cli.app import main; main()"
#: Tells where the numbers of the standard streams lead after `run` began.
_WHERE = """
import os, sys
from coordinator.exchange.console import run
def app(prog_name):
    with open(sys.argv[1], "w") as file:
        assert file.fileno() > 2
        os.system("echo printed by another program; echo and its error >&2")
        print("printed by us"); print("and our error", file=sys.stderr); sys.stdin.read()
run(app, "test")
"""


def _run(words: list[str], closed: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python on these words with the standard streams closed that a shell's redirections name."""
    return subprocess.run(
        ["sh", "-c", f'exec "$0" "$@" {closed}', sys.executable, "-c", *words],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", ">&-"])
def test_what_is_printed_into_a_closed_stream_lands_in_no_file(tmp_path: Path, closed: str) -> None:
    assert _run([_WHERE, str(tmp_path / "file")], closed).returncode == 0
    assert (tmp_path / "file").read_bytes() == b""


def test_a_command_that_would_ask_says_so_without_an_input(tmp_path: Path) -> None:
    done = _run([_PARTY, "keygen", str(tmp_path / "h"), "--passphrase"], "<&-")
    assert done.returncode == 1
    assert done.stderr.splitlines()[0].endswith(
        "error: the new key file needs a passphrase and none was given"
    )


def test_a_closed_output_is_no_matter_in_a_locale_of_another_encoding(tmp_path: Path) -> None:
    done = _run(
        [_PARTY, "keygen", str(tmp_path / "h")],
        ">&-",
        LC_ALL="C",
        PYTHONCOERCECLOCALE="0",
        PYTHONUTF8="0",
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "h" / "secret.key").exists()


def test_a_working_directory_that_was_removed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    (tmp_path / "images").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    monkeypatch.setattr(sys, "argv", ["cipherward-party", "check", str(tmp_path / "images")])
    with pytest.raises(SystemExit) as end:
        run(app, "cipherward-party")
    assert end.value.code == 1
    assert capsys.readouterr().err.splitlines() == [
        "cipherward-party: error: the working directory was removed",
        "hint: go to one that exists, such as with: cd ~",
    ]


def test_a_file_that_is_missing_is_not_taken_for_the_working_directory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(prog_name: str) -> None:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr("coordinator.exchange.console.ensure_compile_cache", lambda _environment: None)
    with pytest.raises(FileNotFoundError):
        run(fail, "test")  # type: ignore[arg-type]
