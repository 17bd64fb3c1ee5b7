"""No two modules import each other, not even in a function or for types: what both need stands below both."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def imports_of(root: Path) -> dict[str, set[str]]:
    """Return which of the project's modules each of them imports, wherever in its file."""
    files = {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for package in ("crypto", "coordinator", "parties", "cipherward", "benchmarks")
        for path in sorted((root / package).rglob("*.py"))
    }
    graph = {}
    for module, path in files.items():
        targets = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                targets |= {name if name in files else node.module for name in names}
            elif isinstance(node, ast.Import):
                targets |= {alias.name for alias in node.names}
        graph[module] = (targets & files.keys()) - {module}
    return graph


def test_no_module_imports_itself_through_others() -> None:
    graph = imports_of(ROOT)
    assert graph["coordinator.report.report_file"] >= {"coordinator.report.consistency"}
    graphlib.TopologicalSorter(graph).prepare()


def test_a_cycle_is_found_in_a_function_and_for_types(tmp_path: Path) -> None:
    for package in ("crypto", "coordinator"):
        (tmp_path / package).mkdir()
    (tmp_path / "crypto/a.py").write_text("def f():\n    from crypto import b\n")
    (tmp_path / "crypto/b.py").write_text("if TYPE_CHECKING:\n    from crypto.a import f\n")
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter(imports_of(tmp_path)).prepare()
