"""The reference of the commands: every cell of a table says what its column is for."""

from __future__ import annotations

import pytest
import typer

from benchmarks.reference.commands import program_page
from coordinator.cli.app import app as coordinator
from parties.cli.app import app as party


@pytest.mark.parametrize(
    ("name", "app"), [("cipherward-party", party), ("cipherward-coordinator", coordinator)]
)
def test_arguments_are_whole_and_defaults_stand_in_their_column(name: str, app: typer.Typer) -> None:
    lines = program_page(name, app)
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| `")]
    arguments = [row[0] for row in rows if len(row) == 2]
    assert arguments and all(text.count("[") == text.count("]") for text in arguments)
    options = [line for line in lines if line.startswith("| `--")]
    assert options and not [line for line in options if " Default: " in line or " Can be repeated" in line]
    page = "\n".join(lines)
    if name == "cipherward-party":
        assert "| `[verify] HOSPITAL` | " in page
        assert "| `--out` | path | NAME-audit, here | Folder for an audit of IMAGES. |" in page
    else:
        assert "| `SEALED...` | " in page
        assert "| `--workers` | 0 or more | one a core; one in all with an NVIDIA GPU | " in page
