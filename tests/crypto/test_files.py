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


def test_the_folder_of_a_hospital_or_of_sets_names_the_sets_in_it(tmp_path: Path) -> None:
    for name in ("train", "val"):
        (tmp_path / "sealed" / name).mkdir(parents=True)
        (tmp_path / "sealed" / name / "manifest.json").write_text("{}")
    for folder, names in ((tmp_path, "sealed/train, sealed/val"), (tmp_path / "sealed", "train, val")):
        with pytest.raises(CipherwardError) as error:
            SealedDataset.open(folder)
        assert error.value.hint == f"it holds sealed sets: {names}; name one of them"
