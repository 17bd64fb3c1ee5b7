"""The measurement of the audit as a library, and its section: what was not run is called so."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import library
from benchmarks.pages.library import library as section
from coordinator.adversary.recover import unknown_scheme
from tests.support.pictures import smooth


@pytest.mark.long
def test_a_told_scheme_is_measured_and_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "SETTINGS", {**library.SETTINGS, "rows": 32, "block": 4})
    monkeypatch.setattr(unknown_scheme, "MODELS", ())
    images = smooth(96, 16, 16)
    line = library.measure("etc", images, is_told=True)
    assert (line["scheme"], line["told"], line["draws"], line["chosen"]) == ("etc", True, library.DRAWS, [])
    stream = library.function_of(library.STRONG)
    assert not np.array_equal(stream(images, bytes(32)), stream(images, bytes([1]) * 32))
    settings = {"pictures": "made", "images": 60, **library.SETTINGS}
    lines = section({"settings": settings, "planned": ["etc", "pe"], "audits": [{**line, "broken": False}]})
    assert any(row.startswith("| etc | told | not broken |") for row in lines) and "Not run: pe." in lines
    invalid = section({"settings": settings, "planned": [], "audits": [{**line, "valid": False}]})
    assert any("| invalid |" in row for row in invalid)
