"""Files that others wrote: what is no regular file is named, and nothing is waited for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crypto.errors import CipherwardError
from crypto.files import read_json
from crypto.sets.dataset import SealedDataset


def test_a_pipe_in_the_place_of_a_manifest_is_named_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "manifest.json")  # reading it would wait for ever
    with pytest.raises(CipherwardError, match=r"manifest\.json is not a regular file"):
        SealedDataset.open(tmp_path)


def test_json_is_read_or_its_fault_is_named(tmp_path: Path) -> None:
    (tmp_path / "whole.json").write_text('{"a": "é"}', encoding="utf-8")
    assert read_json(tmp_path / "whole.json", "note") == {"a": "é"}
    (tmp_path / "half.json").write_bytes(b'{"a": "\xc3')
    (tmp_path / "folder.json").mkdir()
    for name, fault in (
        ("half.json", "cannot read the note"),
        ("folder.json", "IsADirectoryError"),
        ("none.json", "no note at"),
    ):
        with pytest.raises(CipherwardError, match=fault):
            read_json(tmp_path / name, "note")
