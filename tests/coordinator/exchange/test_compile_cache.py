"""Numba's cache on machines where neither the installation nor the home can be written."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from coordinator.exchange.compile_cache import MATPLOTLIB, VARIABLE, ensure_compile_cache
from tests.support.paths import ROOT

#: Compiles one of our functions, and says where what was compiled lies.
PROGRAM = """
import os
from coordinator.exchange.compile_cache import ensure_compile_cache
if {ensure}:
    ensure_compile_cache(os.environ)
from coordinator.adversary.puzzle import distances
print(os.environ.get("NUMBA_CACHE_DIR", "none"))
"""
#: Root may write what is read-only to others, unless it gives that up.
_AS_USER = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []


def run(code: Path, home: Path, ensure: bool) -> subprocess.CompletedProcess[str]:
    """Import compiled modules of the packages in `code`, as a user who can write neither them nor the home."""
    return subprocess.run(
        [*_AS_USER, sys.executable, "-B", "-P", "-c", PROGRAM.format(ensure=ensure)],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "PYTHONPATH": str(code),
            "TMPDIR": str(home.parent),
        },
        capture_output=True,
        text=True,
        check=False,  # the test looks at the status
        timeout=120,
    )


@pytest.mark.skipif(
    bool(_AS_USER) and shutil.which("setpriv") is None, reason="root can write everything here"
)
def test_a_read_only_installation_and_home_do_not_stop_a_command(tmp_path: Path) -> None:
    code, home = tmp_path / "code", tmp_path / "home"
    home.mkdir()
    for package in ("crypto", "coordinator"):
        shutil.copytree(ROOT / package, code / package, ignore=shutil.ignore_patterns("__pycache__"))
    folders = [home, *(path for path in code.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        assert "cannot cache function" in run(code, home, ensure=False).stderr  # what Numba does by itself
        done = run(code, home, ensure=True)
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert done.returncode == 0, done.stderr
    used = Path(done.stdout.strip())
    assert used.parent == tmp_path and not used.exists()  # it is private, and removed at the end


def test_a_private_folder_is_made_only_if_nothing_else_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere, free = tmp_path / "nowhere", tmp_path / "free"
    nowhere.mkdir()
    free.mkdir()
    monkeypatch.setattr(os, "access", lambda path, _mode: not Path(path).is_relative_to(nowhere))
    environment = {"HOME": str(nowhere)}
    for enough in (
        {"HOME": str(free)},
        {"HOME": str(nowhere), "XDG_CACHE_HOME": str(free), "XDG_CONFIG_HOME": str(free)},
    ):
        changed = dict(enough)
        ensure_compile_cache(changed, sources=nowhere)
        assert changed == enough
    half = dict(environment)
    ensure_compile_cache(half, sources=free)  # the installation can be written, the home cannot
    assert VARIABLE not in half
    Path(half[MATPLOTLIB]).rmdir()
    stated = {"HOME": str(nowhere), VARIABLE: "mine", MATPLOTLIB: "mine"}
    ensure_compile_cache(stated, sources=nowhere)
    assert stated[VARIABLE] == "mine"
    ensure_compile_cache(environment, sources=nowhere)
    made = Path(environment[VARIABLE])
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    made.rmdir()
