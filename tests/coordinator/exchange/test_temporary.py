"""Temporary files, and memory for processes, on machines where /tmp or /dev/shm cannot be written."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from coordinator.adversary.run.ray_cluster import run_on_ray
from coordinator.exchange import temporary
from coordinator.exchange.end_with_us import ending_with_us
from coordinator.exchange.plan import read_plan
from coordinator.study.simulate import simulate
from coordinator.study.study import Engine
from crypto.errors import CipherwardError
from tests.support.paths import ROOT


def test_a_run_has_its_folder_where_tmpdir_says_if_tmp_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_allowed(path: object, _mode: int) -> bool:
        return str(path) != "/tmp"

    monkeypatch.setattr(os, "access", is_allowed)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with ending_with_us() as folder:
        assert folder.parent == tmp_path
    assert not folder.exists()


def test_without_any_folder_for_temporary_files_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_none() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", find_none)
    with pytest.raises(CipherwardError, match="no folder for temporary files"):
        temporary.temporary_folder(str(tmp_path / "none"))


def test_ray_is_refused_where_it_cannot_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not temporary.has_shared_memory(str(tmp_path / "none"))
    monkeypatch.setattr(temporary, "has_shared_memory", lambda: False)
    with pytest.raises(CipherwardError, match="/dev/shm") as error:
        temporary.require_ray("leave it out")
    assert error.value.hint == "leave it out"
    with pytest.raises(CipherwardError, match="/dev/shm"):
        list(run_on_ray([], 1, "local"))
    plan = read_plan(ROOT / "configs" / "demo.yaml")
    with pytest.raises(CipherwardError, match="/dev/shm") as error:
        simulate(plan, tmp_path / "study", "seal", lambda _: None, engine=Engine("ray"))
    assert "--engine processes" in error.value.hint and not (tmp_path / "study").exists()
    monkeypatch.setattr(temporary, "has_shared_memory", lambda: True)
    monkeypatch.setattr(temporary, "temporary_folder", lambda: "/" + "é" * 15)  # 31 bytes
    with pytest.raises(CipherwardError, match="longer paths"):
        temporary.require_ray("")
