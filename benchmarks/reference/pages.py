"""All generated pages of docs/reference, by name."""

from __future__ import annotations

from pathlib import Path

import typer

from benchmarks.reference.commands import program_page
from benchmarks.reference.files import files_page
from benchmarks.reference.plan import plan_page
from coordinator.cli.app import app as coordinator_app
from parties.cli.app import app as party_app

FOLDER = Path(__file__).parents[2] / "docs" / "reference"
#: The programs, by the name that users type.
PROGRAMS: dict[str, typer.Typer] = {
    "cipherward-party": party_app,
    "cipherward-coordinator": coordinator_app,
}


def make_pages() -> dict[str, str]:
    """Return the text of every generated page of docs/reference, by its file name."""
    pages = {f"{name}.md": program_page(name, app) for name, app in PROGRAMS.items()}
    pages |= {"plan.md": plan_page(), "files.md": files_page()}
    return {name: "\n".join(lines).rstrip() + "\n" for name, lines in pages.items()}
