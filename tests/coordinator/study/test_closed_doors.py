"""While a study trains, another user of the machine finds no door: no port, no socket, no file of a hospital."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.doors import as_nobody, can_signal, open_doors, readable
from tests.support.trainings import Training, require_ended, seal_small, start_training

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads sockets from Linux's /proc")
root_only = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user"
)


@linux_only
def test_the_search_for_doors_finds_all_kinds(tmp_path: Path) -> None:
    pid = os.getpid()
    before = open_doors([pid])
    left, right = socket.socketpair()
    with left, right:
        assert open_doors([pid]) == before  # a socket pair has no name
        for family, kind, address in (
            (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
            (socket.AF_UNIX, socket.SOCK_STREAM, str(tmp_path / "door")),
            (socket.AF_UNIX, socket.SOCK_STREAM, f"\0door-{pid}"),
        ):
            with socket.socket(family, kind) as door:
                door.bind(address)
                if kind == socket.SOCK_STREAM:
                    door.listen()
                assert len(open_doors([pid])) == len(before) + 1, address


@pytest.fixture(scope="module")
def training() -> Iterator[Training]:
    """Train a small study in a folder that other users can enter."""
    folder = Path(tempfile.mkdtemp(prefix="doors-", dir="/tmp"))
    folder.chmod(0o755)
    training = start_training(seal_small(folder), folder / "train", "processes", ["--workers", "2"])
    os.killpg(training.running.pid, signal.SIGSTOP)  # it would end, and the tests would look at nothing
    yield training
    os.killpg(training.running.pid, signal.SIGCONT)
    os.killpg(training.running.pid, signal.SIGINT)
    training.running.wait(20)
    require_ended(training, 5)
    shutil.rmtree(folder)


def all_pids(training: Training) -> list[int]:
    """Return the ids of the command and of all its processes, the hospitals' among them."""
    pids = [training.running.pid, *(process.pid for process in training.processes)]
    assert len(pids) >= 4  # the command, the server's side, the nursery, a hospital or two
    return pids


@pytest.mark.slow
@linux_only
def test_no_process_of_a_study_has_a_socket_with_an_address(training: Training) -> None:
    assert open_doors(all_pids(training)) == []


@pytest.mark.slow
@linux_only
@root_only
def test_another_user_reaches_nothing_of_a_study_that_trains(training: Training) -> None:
    hospitals = sorted((training.folder / "parties").iterdir())
    inside = [path for hospital in hospitals for path in (hospital, *hospital.rglob("*"))]
    names = {path.name for path in inside}
    assert {"secret.key", "policy.yaml", "hospital.log", "rows-train.json", "manifest.json"} <= names
    pids = all_pids(training)
    memory = [Path(f"/proc/{pid}/{part}") for pid in pids for part in ("mem", "environ", "fd", "cwd/.")]
    # What is not a hospital's can be read, so the refusals below are those of a hospital's own folder.
    public = training.folder / "plan.yaml"
    assert as_nobody(lambda: readable([public])) == [str(public)]
    assert readable([*inside, *memory[:3]]) != []  # by root
    assert as_nobody(lambda: readable(inside)) == []
    assert as_nobody(lambda: readable([*memory, *training.runs])) == []
    assert as_nobody(lambda: can_signal(pids)) == []
