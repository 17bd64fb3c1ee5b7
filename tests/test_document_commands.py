"""The commands in README, tutorial and how-to pages: each is one that the program takes, and the tutorial's are run.

docs/deployment.md is followed on three machines by test_deployment_document.py.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import typer

from benchmarks.reference.commands import commands_of
from benchmarks.reference.outputs import differences, kept_outputs, run_line, shell_lines, shown
from benchmarks.reference.pages import FOLDER, PROGRAMS, make_pages
from coordinator.adversary.run.compilation import COMPILING
from docs.demo_images import main, write_images
from tests.support.command_runs import run_here
from tests.support.paths import ROOT

DOCS = ROOT / "docs"
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "ARCHITECTURE.md",
    ROOT / "SECURITY.md",
    *sorted(DOCS.glob("*.md")),
    *sorted((DOCS / "howto").glob("*.md")),
]
#: Commands of the tutorial that a test of their own runs: the demo.
_LONG = ("source ", "cipherward-coordinator simulate")


def lines_of(text: str) -> Iterator[str]:
    """Yield the lines of all blocks of code that begin with one of our programs, without their comments."""
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            command = re.split(r"\s{2,}#|\s+\(what ", line)[0].strip()
            if command.startswith(tuple(f"{name} " for name in PROGRAMS)):
                yield command


COMMANDS = sorted({(path.name, line) for path in DOCUMENTS for line in lines_of(path.read_text())})


def parse(line: str) -> None:
    """Parse a command as the program does, without running it. Raises click's errors."""
    name, *words = shlex.split(line)
    group = typer.main.get_command(PROGRAMS[name])
    assert isinstance(group, click.Group)
    known = {tuple(words.split()): command for words, command in commands_of(group)}
    size = next((n for n in (2, 1) if tuple(words[:n]) in known), 0)
    assert size, f"{name} has no command {words[0]}"
    known[tuple(words[:size])].make_context(f"{name} {words[0]}", words[size:])


@pytest.mark.parametrize(("document", "line"), COMMANDS, ids=[f"{d}: {c[:60]}" for d, c in COMMANDS])
def test_the_program_takes_every_command_of_the_documents(document: str, line: str) -> None:
    parse(line)


def test_a_wrong_command_would_be_noticed() -> None:
    for line in (
        "cipherward-party sael hospital",
        "cipherward-party seal hospital --colour",
        "cipherward-party seal",
    ):
        with pytest.raises((click.UsageError, AssertionError)):
            parse(line)
    assert {name for name, _ in COMMANDS} >= {"README.md", "tutorial.md", "hospital-it.md", "deployment.md"}


def test_the_reference_is_what_the_program_says() -> None:
    pages = make_pages()
    assert {path.name for path in FOLDER.glob("*.md")} == {*pages, "index.md"}
    for name, text in pages.items():
        assert (FOLDER / name).read_text() == text, (
            f"{name}: python -m benchmarks.reference writes it again"
        )


def test_the_outputs_that_the_tutorial_keeps_are_what_check_and_seal_print(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With fewer images than the tutorial has: counts may differ, and no word. The slow test runs the rest."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    write_images(tmp_path / "my-images", count=240)
    kept, texts = kept_outputs((DOCS / "tutorial.md").read_text()), {}
    run_here("cipherward-party", "keygen", "hospital")
    for line in (line for line in kept if shlex.split(line)[1] in ("check", "seal")):
        done = run_here(*shlex.split(line))
        texts[line] = shown(done.stderr + done.stdout, tmp_path)
        assert done.returncode == 0, texts[line]
        assert not (changes := differences(kept[line], texts[line])), (line, changes)
    assert len(texts) == 2
    text = " ".join(texts.popitem()[1].split())
    without = text.replace("copies by file only; ", "")
    assert without != text and differences(without, text) == ["+ copies by file only;"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "required: folder"),
        (["--help-me"], "required: folder"),
        (["a", "b"], "unrecognized arguments: b"),
        (["file"], "cannot write the images into file: "),
    ],
)
def test_the_script_that_draws_the_images_refuses_what_is_no_folder(
    words: list[str],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It made a folder of the name --help, and ended in tracebacks."""
    (tmp_path / "file").write_text("a file")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["demo_images.py", *words])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2 and reason in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_first_audit_in_a_checkout_prints_what_later_ones_do(tmp_path: Path) -> None:
    """A newcomer's first audit compiles: that it says so is no difference to the output that the tutorial keeps."""
    printed = f"sealing 10 sets\n{COMPILING}, once in a checkout: about 12 s\nscoring the guesses"
    assert shown(printed, tmp_path) == "sealing 10 sets\nscoring the guesses"


@pytest.mark.slow
def test_a_newcomer_follows_the_tutorial(tmp_path: Path) -> None:
    lines = [line for line in shell_lines((DOCS / "tutorial.md").read_text()) if not line.startswith(_LONG)]
    assert len(lines) >= 5
    printed = {line: run_line(line, tmp_path) for line in lines}
    kept = kept_outputs((DOCS / "tutorial.md").read_text())
    assert {line: differences(text, shown(printed[line], tmp_path)) for line, text in kept.items()} == {
        line: [] for line in kept
    }
    assert "1200 × 64×64" in printed["cipherward-party check my-images"]
    assert any("verdict: Broken." in text for text in printed.values())
    (report,) = (text.split("report: ")[1] for text in printed.values() if "report: " in text)
    assert (tmp_path / report.strip()).is_file()


def run_notebook() -> Any:
    """Run the notebook in its folder, and return it with its outputs. Skip the test without what runs it."""
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    path = DOCS / "notebooks" / "images-to-verdict.ipynb"
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(path.parent)}}
    ).execute()
    return notebook


@pytest.mark.slow
def test_the_notebook_runs_to_its_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CIPHERWARD_DATA", raising=False)
    notebook = run_notebook()
    assert "'broken': True" in str(notebook.cells[-2].outputs)
    assert "1200 × 64×64" not in str(notebook.cells) and "glioma" not in str(notebook.cells)


@pytest.mark.slow
@pytest.mark.usefixtures("real_mri")  # skips without real images
def test_the_notebook_runs_to_its_verdict_on_real_images() -> None:
    notebook = run_notebook()
    assert "'broken': True" in str(notebook.cells[-2].outputs)
    assert "glioma" in str(notebook.cells)
