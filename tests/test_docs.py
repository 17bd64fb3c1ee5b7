"""Documents that must stay true: generated results, the folders that ARCHITECTURE.md names, commands and files."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

from benchmarks import results
from benchmarks.pages.entries import read_entries
from benchmarks.pages.markdown import MAX_COLUMNS
from benchmarks.pages.summary import TOPICS
from crypto.scheme import SCHEMES
from tests.support.paths import ROOT

DOCS = ROOT / "docs"


def test_the_result_pages_are_generated() -> None:
    entries = read_entries(DOCS / "results")
    assert entries, "no results are kept"
    pages = results.make_pages(entries)
    assert {name: (DOCS / name).read_text() for name in pages} == pages
    on_disk = {f"results/{path.name}" for path in (DOCS / "results").glob("*.md")}
    assert on_disk == set(pages) - {"results.md", "leaderboard.md"}


def test_every_kept_run_is_on_a_page() -> None:
    entries = read_entries(DOCS / "results")
    pages = results.make_pages(entries)
    for entry in entries:
        topics = [topic for topic, (_, kinds) in TOPICS.items() if entry.kind in kinds]
        assert topics and entry.title in pages["results.md"]
        assert all(f"({entry.file})" in pages[f"results/{topic}.md"] for topic in topics), entry.file
        assert json.loads((DOCS / "results" / entry.file).read_text())["title"] == entry.title


def test_no_table_of_results_is_wider_than_seven_columns() -> None:
    for path in (DOCS / "results.md", *(DOCS / "results").glob("*.md")):
        for line in path.read_text().splitlines():
            assert not line.startswith("|") or line.count("|") - 1 <= MAX_COLUMNS, (path.name, line)


def test_the_tables_of_results_in_readme_and_explanation_are_generated() -> None:
    for path in results.WITH_TABLE:
        text = path.read_text()
        assert all(text.count(marker) == 1 for marker in results.MARKERS)
        assert results.insert_table(text, read_entries(DOCS / "results")) == text


#: What commands of README.md and docs/ write into the checkout where they are run as they stand.
OUTPUTS = (
    "identity.txt",
    "for-them.key",
    "theirs/secret.key",
    "hospital/private/report.html",
    "hospital-0/secret.key",
    "hospital-0.kit",
    "my-images/level/patient-000/0.png",
    "my-images-audit/secret.key",
    "my-audit/report.html",
    "audit-le/audits/x/private/report.html",
    "north/ca.pem",
    "guesses/guesses.json",
    "report/report.html",
    "study.json",
)


def test_every_option_of_a_scheme_is_named_with_its_values() -> None:
    table = (DOCS / "howto" / "keys.md").read_text().split("the default first |")[1].split("\n\n")[0]
    rows = [line.split("|")[1:3] for line in table.splitlines()[2:]]
    documented = {name: options for names, options in rows for name in re.findall(r"`(\w+)`", names)}
    papers = (DOCS / "explanation" / "papers.md").read_text()
    own = {name: scheme for name, scheme in SCHEMES.items() if not getattr(scheme, "is_control", False)}
    assert set(documented) == set(own)
    for name, scheme in own.items():
        assert f"| `{name}` |" in papers, name
        for option, values in getattr(scheme, "options", {}).items():
            listed = ", ".join(str(value) for value in values).lower() if isinstance(values, tuple) else ""
            expected = f"`{option}`: {listed}" if listed else f"`{option}`"
            assert re.search(rf"{re.escape(expected)}(?![, ]*\w)", documented[name]), (name, option)


def test_git_ignores_what_the_documents_commands_write() -> None:
    """A key, an identity or a report with plain images is not committed by `git add -A`."""
    if not (ROOT / ".git").exists():
        pytest.skip("no checkout of git")
    done = subprocess.run(
        ["git", "check-ignore", "--no-index", *OUTPUTS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert set(OUTPUTS) == set(done.stdout.splitlines())
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--ignored", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert tracked.stdout == ""


def test_architecture_names_every_folder_of_modules() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    for package in ("crypto", "coordinator", "parties", "cipherward"):
        folders = {path.parent for path in (ROOT / package).rglob("*.py") if path.name != "__init__.py"}
        for folder in folders:
            assert f"{folder.relative_to(ROOT)}/" in text, folder


def test_make_targets_and_files_that_the_documents_name_exist() -> None:
    targets = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for document in ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "SECURITY.md", "docs/suite.md"):
        text = (ROOT / document).read_text()
        for target in re.findall(r"`make ([a-z0-9-]+)`|^make ([a-z0-9-]+)", text, re.MULTILINE):
            assert "".join(target) in targets, (document, target)
        for path in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
            assert (ROOT / document).parent.joinpath(path).exists(), (document, path)
        for path in re.findall(
            r"`((?:crypto|parties|coordinator|tests|configs|benchmarks)/[\w./]+\.\w+)`", text
        ):
            assert "NAME" in path or (ROOT / path).exists(), (document, path)
