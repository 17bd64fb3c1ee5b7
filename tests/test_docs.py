"""Documents that must stay true: generated results, the README's tree, the commands it names."""

from __future__ import annotations

import re

from benchmarks import results
from tests.support.paths import ROOT


def test_results_are_generated():
    kept = sorted((ROOT / "docs" / "results").glob("*.json"))
    assert kept, "no results are kept"
    assert results.page(kept) == (ROOT / "docs" / "results.md").read_text()


def test_the_readme_s_tree_names_every_module():
    readme = (ROOT / "README.md").read_text()
    for package in ("crypto", "parties", "coordinator"):
        for path in (ROOT / package).rglob("*.py"):
            if path.name != "__init__.py":
                names = (
                    {path.name, path.stem}
                    if path.parent.name in ("schemes", "sources", "recover")
                    else {path.name}
                )
                assert any(n in readme for n in names), path.relative_to(ROOT)


def test_make_targets_and_files_that_the_documents_name_exist():
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
