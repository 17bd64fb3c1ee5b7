"""A confined process opens what attacks need and nothing else: the kernel refuses, whatever the code tries."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from coordinator.adversary.run.confinement import landlock_version

_PROGRAM = """
import os, socket, sys
from pathlib import Path
from coordinator.adversary.run.confinement import confine
home = Path(sys.argv[1])
assert confine([home / "sealed"], [home / "guesses"])

def refused(action):
    try:
        action()
    except OSError:
        return True
    return False

import coordinator.adversary.registry  # the attacks can still be loaded
(home / "guesses" / "g").write_text("written")
found = {
    "sealed": (home / "sealed" / "s").read_text() == "sealed",
    "key": refused(lambda: (home / "secret.key").read_text()),
    "private": refused(lambda: list((home / "private").iterdir())),
    "rows": refused(lambda: (home / "private" / "rows.json").read_text()),
    "link": refused(lambda: (home / "sealed" / "link").read_text()),
    "other": refused(lambda: (home / "new").write_text("x")),
    "into sealed": refused(lambda: (home / "sealed" / "new").write_text("x")),
    "parent": refused(lambda: Path(f"/proc/{os.getppid()}/environ").read_bytes()),
    "child": os.system(f"cat {home}/secret.key 2>/dev/null") != 0,
}
if int(sys.argv[2]) >= 4:
    found["network"] = refused(lambda: socket.create_connection(("127.0.0.1", int(sys.argv[3])), 2))
print(*[name for name, holds in found.items() if not holds])
"""


@pytest.mark.skipif(not landlock_version(), reason="this system has no Landlock")
def test_the_kernel_refuses_what_is_not_named(tmp_path: Path) -> None:
    import socket

    for name in ("sealed", "guesses", "private"):
        (tmp_path / name).mkdir()
    (tmp_path / "sealed" / "s").write_text("sealed")
    (tmp_path / "secret.key").write_text("key")
    (tmp_path / "private" / "rows.json").write_text("{}")
    (tmp_path / "sealed" / "link").symlink_to(tmp_path / "secret.key")
    with socket.create_server(("127.0.0.1", 0)) as server:
        words = [str(tmp_path), str(landlock_version()), str(server.getsockname()[1])]
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "", f"not refused: {done.stdout}"
    assert (tmp_path / "guesses" / "g").read_text() == "written"


def test_without_landlock_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from coordinator.adversary.run import confinement

    monkeypatch.setattr(confinement, "landlock_version", lambda: 0)
    assert not confinement.confine([], [])
