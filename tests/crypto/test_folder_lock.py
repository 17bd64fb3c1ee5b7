"""A file system without locks, such as NFS without its lock service, is named wherever a lock is taken."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from coordinator.exchange.secure_sum import SumSettings
from crypto.errors import CipherwardError
from crypto.files import folder_lock, hold_file
from crypto.identity import Identity
from parties.agent import running
from parties.agent.agent_log import AgentLog
from parties.sealing.place import Place
from parties.training.privacy_ledger import Budget, Charge, PrivacyLedger
from parties.training.secure_sum import SumStore
from tests.support.agents import make_place
from tests.support.command_runs import Here
from tests.support.files import picture
from tests.support.paths import ROOT


@pytest.fixture(params=[errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EIO, errno.EACCES])
def no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every call for a lock fail, as file systems without locks do."""

    def refuse(*_: object) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", refuse)


def charge(place: Place) -> None:
    one = Charge("a", "p", "first", 1, "image", "d", 1.0, 0.1, 5)
    PrivacyLedger(place).charge(one, Budget(0.0, 0.0), 0)


def lock_sum(place: Place) -> None:
    # Neither the identity nor the settings is used before the lock is held.
    settings = cast(SumSettings, SimpleNamespace(rules=None))
    with SumStore(place.private / "sums", cast(Identity, None), settings).lock():
        raise AssertionError("worked without a lock")


def run_agent(place: Place) -> None:
    with running.hold(place):
        raise AssertionError("worked without a lock")


def look_for_an_agent(place: Place) -> None:
    (running.agent_folder(place) / "lock").touch()
    running.read_state(place)


def append_to_the_log(place: Place) -> None:
    AgentLog(place).append("answered", type="train")


def hold_the_folder(place: Place) -> None:
    with folder_lock(place.folder):
        raise AssertionError("worked without a lock")


@pytest.mark.usefixtures("no_locks")
@pytest.mark.parametrize(
    "act", [hold_the_folder, charge, lock_sum, run_agent, look_for_an_agent, append_to_the_log]
)
def test_nothing_is_done_where_files_cannot_be_locked(tmp_path: Path, act: Callable[[Place], None]) -> None:
    place = make_place(tmp_path)
    with pytest.raises(CipherwardError, match="cannot lock files") as error:
        act(place)
    assert str(tmp_path) in error.value.message and "local disk" in error.value.hint
    written = [path for path in place.private.rglob("*") if path.is_file() and path.stat().st_size]
    assert not [path for path in written if path.suffix in (".jsonl", ".npz")], written


@pytest.mark.usefixtures("no_locks")
def test_a_command_that_cannot_lock_ends_with_one_line_and_seals_nothing(
    tmp_path: Path, here: Here
) -> None:
    for name in ("a", "b"):
        for i in range(10):
            picture(tmp_path / "images" / name / f"{i}.png", seed=i)
    assert here("cipherward-party", "keygen", tmp_path / "h").returncode == 0
    words = ("--images", tmp_path / "images", "--image-size", 32, "--block", 8, "--groups", "none")
    done = here("cipherward-party", "seal", tmp_path / "h", *words)
    assert done.returncode == 1 and "cannot lock files" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "h" / "sealed").exists()


@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_nobody_else_can_hold_a_lock(tmp_path: Path, umask: int) -> None:
    """Who can open a file can lock it: the owner's commands would wait for another user without end."""
    before = os.umask(umask)
    try:
        with folder_lock(tmp_path):
            pass
        assert stat.S_IMODE((tmp_path / ".lock").stat().st_mode) == 0o600
        (tmp_path / ".lock").chmod(0o644)  # as earlier versions made it
        with folder_lock(tmp_path):
            assert stat.S_IMODE((tmp_path / ".lock").stat().st_mode) == 0o600
    finally:
        os.umask(before)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")
def test_another_user_cannot_keep_the_owner_out() -> None:
    # Under /tmp itself: pytest's own folders are closed to others.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        with folder_lock(folder):
            pass
        # Whoever can open it can lock it.
        done = subprocess.run(
            ["/bin/cat", folder / ".lock"],
            user=65534, group=65534, extra_groups=[], capture_output=True, text=True, check=False,
            env={"LC_ALL": "C"},
        )  # fmt: skip
        assert done.returncode == 1 and "Permission denied" in done.stderr


def test_a_lock_that_another_holds_is_no_missing_lock(tmp_path: Path) -> None:
    with (
        folder_lock(tmp_path),
        pytest.raises(CipherwardError, match="another command is at work"),
        folder_lock(tmp_path),
    ):
        pass
    with open(tmp_path / "l", "w") as first, open(tmp_path / "l") as second:
        hold_file(first, tmp_path)
        with pytest.raises(BlockingIOError):
            hold_file(second, tmp_path, wait=False, shared=True)


def test_every_lock_is_taken_by_the_function_that_names_a_file_system_without_them() -> None:
    folders = ("crypto", "coordinator", "parties", "cipherward")
    sources = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    calling = {
        str(path.relative_to(ROOT)) for path in sources if "flock(" in path.read_text(encoding="utf-8")
    }
    assert calling == {"crypto/files.py"}
