"""docs/library.md: the example runs as it stands, and names only what exists."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from cipherward.audit import AuditResult, audit, audit_ciphertexts
from cipherward.panels import PANELS, PanelResult, audit_panels
from cipherward.settings import Settings
from coordinator.adversary.recover import unknown_scheme
from coordinator.report.report_file import read_report
from tests.support.paths import ROOT

TEXT = (ROOT / "docs" / "library.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


@pytest.mark.long
def test_the_example_runs_and_its_scheme_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    # The other recoveries take seconds; test_audit_function.py tries all of them.
    quick = tuple(
        m for m in unknown_scheme.MODELS if m[0] in ("block_pixel_shuffle", "value_shuffle", "etc")
    )
    monkeypatch.setattr(unknown_scheme, "MODELS", quick)
    names: dict[str, Any] = {}
    exec(BLOCKS[0], names)
    result = names["result"]
    assert isinstance(result, AuditResult) and result.valid and result.broken
    assert str(result) in capsys.readouterr().out
    assert read_report(tmp_path / "my-audit" / "report.json") == result.report
    assert (tmp_path / "my-audit" / "report.html").is_file()
    # In ten lines: the imports and the scheme are the caller's.
    code = [line for line in BLOCKS[0].splitlines() if line.strip()]
    assert len(code) <= 12


def test_the_document_names_the_options_and_properties_that_there_are() -> None:
    table = TEXT.split("## What is attacked")[1].split("## What comes out")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = {option.split("=")[0] for row in rows for option in re.findall(r"`([\w=]+)`", row)}
    known = {field.name for field in fields(Settings)} | set(audit.__annotations__)
    assert named and named <= known
    # Everything but what has a paragraph of its own, or is for programs, is in the table.
    assert known - named - {"log", "family", "options", "key_scope", "block"} <= {
        *("encrypt", "images", "key_bytes", "settings", "return")
    }
    properties = set(re.findall(r"`result\.(\w+)", TEXT))
    assert all(hasattr(AuditResult, name) or name in AuditResult.__annotations__ for name in properties)
    of_panels = set(re.findall(r"`panels\.(\w+)", TEXT))
    assert of_panels and all(hasattr(PanelResult, name) for name in of_panels)
    assert all(f'"{name}"' in BLOCKS[1] for name in PANELS) and audit_panels.__name__ in BLOCKS[1]
    assert len(BLOCKS) == 3 and audit_ciphertexts.__name__ in BLOCKS[2]
