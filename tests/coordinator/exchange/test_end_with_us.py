"""What a command starts ends with it, whatever ends the command; and Ray listens on loopback alone."""

from __future__ import annotations

import ipaddress
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it has no types
import pytest

from coordinator.exchange.end_with_us import MARK, ending_with_us, find_processes
from coordinator.exchange.plan import Plan
from coordinator.study import simulate as study_simulate
from coordinator.study.flower_run import LOCAL_DOOR
from coordinator.study.study import ENGINES, Engine
from tests.support.trainings import ROUNDS, require_ended, require_goes_on, seal_small, start_training
from tests.support.waiting import wait_until

#: Starts a process in another session, which starts one more, and says where the run's folder is. A shell that starts
#: the tests in the background has all of them ignore Ctrl-C: this program takes it again.
PROGRAM = f"""
import os, signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from coordinator.exchange.end_with_us import ending_with_us
with ending_with_us() as folder:
    inner = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)'], "
    inner += "start_new_session=True); time.sleep(99)"
    environment = {{**os.environ, "{MARK}": str(folder)}}
    subprocess.Popen([sys.executable, "-c", inner], start_new_session=True, env=environment)
    print(folder, flush=True)
    time.sleep(99)
"""


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
    running.wait(60)
    assert wait_until(lambda: not find_processes(folder), 60)
    assert wait_until(lambda: not folder.exists(), 60)
    assert stranger.poll() is None


def test_processes_end_with_the_block(stranger: subprocess.Popen[bytes]) -> None:
    with ending_with_us() as folder:
        environment = {**os.environ, MARK: str(folder)}
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(99)"], env=environment)
        assert wait_until(lambda: len(find_processes(folder)) == 1, 10)
    assert process.wait(5) == -signal.SIGKILL and not folder.exists()
    assert stranger.poll() is None


def test_an_agent_of_ray_that_lost_the_mark_ends_with_the_block(tmp_path: Path) -> None:
    """Ray's agents overwrite the start of their environment with their title."""
    waits = "import sys, time; file = open(sys.argv[1], 'w'); print('ready', flush=True); time.sleep(99)"
    unmarked = {name: value for name, value in os.environ.items() if name != MARK}

    def start(title: str, file: Path) -> subprocess.Popen[bytes]:
        words = [title, "-c", waits, str(file)]
        process = subprocess.Popen(
            words, executable=sys.executable, env=unmarked, stdout=subprocess.PIPE, start_new_session=True
        )
        assert process.stdout is not None and process.stdout.readline()
        return process

    with ending_with_us() as folder:
        agent = start("ray::DashboardAgent", folder / "agent.log")
        others = [start("ray::DashboardAgent", tmp_path / "log"), start("reader", folder / "agent.log")]
        assert [process.pid for process in find_processes(folder)] == [agent.pid]
    assert agent.wait(5) == -signal.SIGKILL
    # Another run's agent, and another program that reads the run's files, are left alone.
    assert [other.poll() for other in others] == [None, None]
    for other in others:
        other.kill()
        other.wait()


def test_what_a_process_of_the_run_started_ends_without_a_mark() -> None:
    inner = (
        "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)'], "
    )
    inner += "env={}, start_new_session=True).wait()"
    with ending_with_us() as folder:
        outer = subprocess.Popen([sys.executable, "-c", inner], env={**os.environ, MARK: str(folder)})
        assert wait_until(lambda: len(find_processes(folder)) == 2, 10)
        [unmarked] = [process for process in find_processes(folder) if process.pid != outer.pid]
    assert outer.wait(5) == -signal.SIGKILL
    assert not unmarked.is_running() or unmarked.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    ("source", "engine", "warned"),
    [("folder", "ray", True), ("phantom", "ray", False), ("folder", "processes", False)],
)
def test_the_open_port_is_named_before_ray_runs_on_images_that_are_not_public(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, engine: str, warned: bool
) -> None:
    lines: list[str] = []

    def run_steps(_study: object, _until: str) -> None:
        lines.append("the steps begin")

    monkeypatch.setattr(study_simulate, "_run_steps", run_steps)
    (images := tmp_path / "images").mkdir()
    plan = Plan.model_validate(
        {"study": "t", "source": source, "images": str(images), "counts": (9, 9, 9), "image_size": 32}
    )
    study_simulate.simulate(plan, tmp_path / "run", "train", lines.append, engine=Engine(engine))
    assert [line for line in lines if line in (LOCAL_DOOR, "the steps begin")] == [
        *([LOCAL_DOOR] if warned else []),
        "the steps begin",
    ]


# ---- with the real command ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return seal_small(tmp_path_factory.mktemp("sealed"))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_a_study_that_is_killed_leaves_no_process_and_goes_on(
    sealed: Path, tmp_path: Path, engine: str
) -> None:
    training = start_training(sealed, tmp_path / "run", engine)
    training.running.kill()
    training.running.wait(10)
    require_ended(training, 15)
    done = training.rounds_done
    time.sleep(3)
    assert training.rounds_done == done
    require_goes_on(training)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_ctrl_c_ends_a_study_within_ten_seconds_and_says_how_far_it_came(
    sealed: Path, tmp_path: Path, engine: str
) -> None:
    training = start_training(sealed, tmp_path / "run", engine)
    # A terminal sends the signal to the whole group.
    os.killpg(training.running.pid, signal.SIGINT)
    assert training.running.wait(10) == 130
    require_ended(training, 1)
    said = f"stopped after round {training.rounds_done} of {ROUNDS}; run the same command to go on"
    assert said in training.talk and "Traceback" not in training.talk
    require_goes_on(training)


@pytest.mark.slow
def test_ray_listens_on_loopback_alone_and_wants_the_token(sealed: Path, tmp_path: Path) -> None:
    training = start_training(sealed, tmp_path / "run", "ray")
    try:
        processes = training.processes
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
        os.killpg(training.running.pid, signal.SIGINT)
        training.running.wait(20)
    require_ended(training, 5)


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
