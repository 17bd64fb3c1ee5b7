"""What a command starts ends with it, whatever ends the command; and a study's programs listen on loopback alone."""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it has no types
import pytest

from coordinator.exchange.end_with_us import MARK, ending_with_us, find_processes
from coordinator.exchange.plan import Plan
from coordinator.federation.rounds import State
from coordinator.study import simulate as study_simulate
from coordinator.study.flower_run import LOCAL_DOOR
from tests.support.study import PLAN, command

ROUNDS = 8
#: Starts a process in another session, which starts one more, and says where the run's folder is.
PROGRAM = f"""
import os, subprocess, sys, time
from coordinator.exchange.end_with_us import ending_with_us
with ending_with_us() as folder:
    inner = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)'], "
    inner += "start_new_session=True); time.sleep(99)"
    environment = {{**os.environ, "{MARK}": str(folder)}}
    subprocess.Popen([sys.executable, "-c", inner], start_new_session=True, env=environment)
    print(folder, flush=True)
    time.sleep(99)
"""


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Say whether a condition comes true within that time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


@pytest.fixture
def stranger(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that carries the mark of another run."""
    environment = {**os.environ, MARK: str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(99)"], env=environment)
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_processes_end_with_the_one_that_started_them(
    number: signal.Signals, stranger: subprocess.Popen[bytes]
) -> None:
    running = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert running.stdout is not None
    folder = Path(running.stdout.readline().strip())
    assert wait_until(lambda: len(find_processes(folder)) == 2, 20) and folder.is_dir()
    running.send_signal(number)
    running.wait(10)
    assert wait_until(lambda: not find_processes(folder), 10)
    assert wait_until(lambda: not folder.exists(), 10)
    assert stranger.poll() is None


def test_processes_end_with_the_block(stranger: subprocess.Popen[bytes]) -> None:
    with ending_with_us() as folder:
        environment = {**os.environ, MARK: str(folder)}
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(99)"], env=environment)
        assert wait_until(lambda: len(find_processes(folder)) == 1, 10)
    assert process.wait(5) == -signal.SIGKILL and not folder.exists()
    assert stranger.poll() is None


@pytest.mark.parametrize(("source", "warned"), [("folder", True), ("phantom", False)])
def test_the_open_port_is_named_before_a_study_on_images_that_are_not_public(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, warned: bool
) -> None:
    lines: list[str] = []

    def run_steps(_study: object, _until: str) -> None:
        lines.append("the steps begin")

    monkeypatch.setattr(study_simulate, "_run_steps", run_steps)
    plan = Plan.model_validate(
        {"study": "t", "source": source, "images": str(tmp_path), "counts": (9, 9, 9), "image_size": 32}
    )
    study_simulate.simulate(plan, tmp_path / "run", "train", lines.append)
    assert lines == [*([LOCAL_DOOR] if warned else []), "the steps begin"]


# ---- with the real command ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seal the images of a small study that trains for some seconds; return the folder of plan and study."""
    folder = tmp_path_factory.mktemp("sealed")
    plan = PLAN.replace("rounds: 1", f"rounds: {ROUNDS}").replace("[220, 24, 24]", "[440, 24, 24]")
    (folder / "small.yaml").write_text(plan)
    done = command(
        "cipherward-coordinator",
        "simulate",
        folder / "small.yaml",
        "--out",
        folder / "run",
        "--until",
        "seal",
    )
    assert done.returncode == 0, done.stderr
    return folder


def start_training(sealed: Path, folder: Path) -> tuple[subprocess.Popen[str], list[Path]]:
    """Train in a copy of a sealed study until a round is over; return the command and its runs' folders."""
    shutil.copytree(sealed / "run", folder)
    program = str(Path(sys.executable).parent / "cipherward-coordinator")
    words = ["simulate", str(sealed / "small.yaml"), "--out", str(folder), "--until", "train"]
    with open(folder / "talk.txt", "w") as talk:
        running = subprocess.Popen([program, *words], stderr=talk, text=True, start_new_session=True)
    checkpoint = folder / "cloud" / "checkpoint.safetensors"
    assert wait_until(lambda: checkpoint.exists() or running.poll() is not None, 200)
    assert running.poll() is None, (folder / "talk.txt").read_text()
    marks = set()
    for process in psutil.Process(running.pid).children(recursive=True):
        try:
            marks.add(process.environ().get(MARK))
        except psutil.Error:
            continue
    folders = [Path(mark) for mark in marks if mark]
    names = {process.name() for run in folders for process in find_processes(run)}
    assert {"raylet", "gcs_server"} <= names, names
    return running, folders


def require_ended(folders: list[Path], seconds: float) -> None:
    """Assert that no process of these runs is alive after that time, and no temporary folder is left."""
    assert wait_until(lambda: not any(find_processes(run) for run in folders), seconds)
    assert wait_until(lambda: not any(run.exists() for run in folders), 5)


def require_goes_on(sealed: Path, folder: Path) -> None:
    """Run the same command again, and assert that it goes on after the last checkpoint."""
    journal, checkpoint = folder / "cloud" / "rounds.jsonl", folder / "cloud" / "checkpoint.safetensors"
    before, done = len(journal.read_text().splitlines()), State.load(checkpoint).round
    assert 1 <= done < ROUNDS
    words = ["simulate", sealed / "small.yaml", "--out", folder, "--until", "train"]
    again = command("cipherward-coordinator", *words)
    assert again.returncode == 0, again.stderr
    rounds = [json.loads(line)["round"] for line in journal.read_text().splitlines()]
    assert rounds[before:] == list(range(done + 1, ROUNDS + 1))


@pytest.mark.slow
def test_a_study_that_is_killed_leaves_no_process_and_goes_on(sealed: Path, tmp_path: Path) -> None:
    running, folders = start_training(sealed, tmp_path / "run")
    running.kill()
    running.wait(10)
    require_ended(folders, 15)
    done = State.load(tmp_path / "run" / "cloud" / "checkpoint.safetensors").round
    time.sleep(3)
    assert State.load(tmp_path / "run" / "cloud" / "checkpoint.safetensors").round == done
    require_goes_on(sealed, tmp_path / "run")


@pytest.mark.slow
def test_ctrl_c_ends_a_study_within_ten_seconds_and_says_how_far_it_came(
    sealed: Path, tmp_path: Path
) -> None:
    running, folders = start_training(sealed, tmp_path / "run")
    # A terminal sends the signal to the whole group.
    os.killpg(running.pid, signal.SIGINT)
    assert running.wait(10) == 130
    require_ended(folders, 1)
    done = State.load(tmp_path / "run" / "cloud" / "checkpoint.safetensors").round
    talk = (tmp_path / "run" / "talk.txt").read_text()
    assert f"stopped after round {done} of {ROUNDS}; run the same command to go on" in talk.replace(
        "\n", " "
    )
    assert "Traceback" not in talk
    require_goes_on(sealed, tmp_path / "run")


@pytest.mark.slow
def test_a_study_listens_on_loopback_alone_and_ray_wants_the_token(sealed: Path, tmp_path: Path) -> None:
    running, folders = start_training(sealed, tmp_path / "run")
    try:
        processes = [process for run in folders for process in find_processes(run)]
        ports: dict[str, list[int]] = {}
        for process in processes:
            for socket in process.net_connections("inet"):
                if socket.status == psutil.CONN_LISTEN:
                    address = ipaddress.ip_address(socket.laddr.ip)
                    mapped = getattr(address, "ipv4_mapped", None) or address
                    assert mapped.is_loopback, (process.name(), socket.laddr)
                    ports.setdefault(process.name(), []).append(socket.laddr.port)
        assert "gcs_server" in ports and len(ports) >= 3
        [gcs] = [process for process in processes if process.name() == "gcs_server"]
        token, [port] = gcs.environ()["RAY_AUTH_TOKEN"], ports["gcs_server"]
        assert len(token) == 64 and not any(token in " ".join(p.cmdline()) for p in processes)
        assert "Unauthenticated" in ask_ray(port, "") + ask_ray(port, "0" * 64)
        assert "keys" in ask_ray(port, token)
    finally:
        os.killpg(running.pid, signal.SIGINT)
        running.wait(20)
    require_ended(folders, 5)


def ask_ray(port: int, token: str) -> str:
    """Ask a Ray cluster for its keys as another program would, and return what came of it."""
    program = f"""
from ray._raylet import GcsClient
try:
    print("keys", len(GcsClient(address="127.0.0.1:{port}").internal_kv_keys(b"", None)))
except Exception as error:
    print(type(error).__name__, error)
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    if token:
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,  # tests look at what it printed
    )
    return done.stdout + done.stderr
