"""Cells of the suite in other processes: the guesses are the same. What a crash, a kill and Ctrl-C leave behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from coordinator.adversary.contract import Guess, Knowledge
from coordinator.adversary.decode import as_is
from coordinator.adversary.registry import ATTACKS
from coordinator.adversary.run import cell, suite
from coordinator.adversary.run.cell import Refused, answer, run_cell
from coordinator.adversary.run.draws import plan_cells
from coordinator.adversary.run.workers import run_cells
from coordinator.exchange.audit.guesses import read_draws
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.sets.dataset import SealedDataset
from tests.support import worker_attacks
from tests.support.attacks import replace_attack
from tests.support.audits import MakeSealed, guess_files, phantoms
from tests.support.paths import ROOT

SETTINGS = suite.Settings(
    ["as_is", "leading_bit", "pooled_key_recovery"], [1, 5, 10], rows=16, seed=4, budget_s=60.0
)
CELLS = 5


@pytest.fixture
def sealed(make_sealed: MakeSealed) -> SealedDataset:
    """Return a sealed set of 40 images."""
    return make_sealed("train", *phantoms(40))


def entries(folder: Path) -> list[dict[str, Any]]:
    """Return what guesses.json says of the guesses, without the time that they took."""
    draws, _ = read_draws(folder)
    return [{**g.__dict__, "seconds": 0} for d in draws for g in d.guesses]


@pytest.mark.long
def test_guesses_do_not_depend_on_the_number_of_processes(
    make_sealed: MakeSealed, sealed: SealedDataset, tmp_path: Path
) -> None:
    sets = [sealed, make_sealed("other", *phantoms(40, "val"), key=SecretKey(bytes(range(1, 33))))]
    suite.run_suite(sets, tmp_path / "one", SETTINGS)
    log: list[str] = []
    suite.run_suite(sets, tmp_path / "two", SETTINGS, log.append, suite.Workers(jobs=2))
    assert len(log) == 2 * CELLS and len(guess_files(tmp_path / "one")) == 2 * CELLS
    assert guess_files(tmp_path / "one") == guess_files(tmp_path / "two")
    assert entries(tmp_path / "one") == entries(tmp_path / "two")
    # A further call with another number of processes is the same audit.
    suite.run_suite(sets, tmp_path / "two", SETTINGS, log.append, suite.Workers(jobs=3))
    assert log[-1] == "the guesses are there already"


@pytest.mark.long
def test_a_worker_that_dies_is_a_finding_and_another_takes_its_place(
    sealed: SealedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_attack(monkeypatch, "as_is", worker_attacks.kills_itself)
    replace_attack(monkeypatch, "leading_bit", worker_attacks.exits)
    monkeypatch.setitem(
        ATTACKS,
        "pooled_key_recovery",
        replace(ATTACKS["pooled_key_recovery"], attack=worker_attacks.reports_threads),
    )
    settings = replace(SETTINGS, pools=[5])
    draws = suite.run_suite([sealed], tmp_path / "g", settings, workers=suite.Workers(jobs=2))
    killed, ended, sound = draws[0].guesses
    assert killed.error.startswith("crash: the worker process was killed by SIGKILL") and not killed.file
    assert ended.error == "crash: the worker process ended with status 9" and sound.pool_size == 5
    facts = json.loads(sound.note)
    assert not sound.error and set(facts["libraries"]) == {1} and facts["numba"] == "1"
    assert facts["pid"] != os.getpid()
    # A crash is recorded like any guess, and does not start the audit again.
    assert entries(tmp_path / "g")[0]["error"] == killed.error


def test_this_process_has_one_thread_too_but_only_during_the_attack(
    sealed: SealedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_attack(monkeypatch, "as_is", worker_attacks.reports_threads)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with threadpool_limits(2):
        draws = suite.run_suite([sealed], tmp_path / "g", replace(SETTINGS, attacks=["as_is"]))
        assert {pool["num_threads"] for pool in threadpool_info()} == {2}
    assert set(json.loads(draws[0].guesses[0].note)["libraries"]) == {1}
    assert os.environ["OMP_NUM_THREADS"] == "7"


@pytest.mark.parametrize("ending", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_kill_leaves_no_worker_and_what_was_finished(
    sealed: SealedDataset, tmp_path: Path, ending: signal.Signals
) -> None:
    pids, journal = tmp_path / "pids", tmp_path / "g" / "progress.jsonl"
    pids.mkdir()
    running = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"from tests.support import worker_attacks; worker_attacks.hang({str(tmp_path)!r})",
        ],
        cwd=ROOT,
        env={**os.environ, "TEST_WORKERS_PIDS": str(pids)},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    # as_is and one pool size are finished; both workers hang in the next two.
    deadline = time.monotonic() + 120
    while not (
        journal.exists() and len(journal.read_text().splitlines()) == 3 and len(worker_ids(pids)) == 2
    ):
        assert running.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    if ending == signal.SIGINT:
        os.killpg(running.pid, ending)  # as the terminal does
    else:
        running.kill()
    assert running.wait(30) != 0
    deadline = time.monotonic() + 30
    while left := [pid for pid in worker_ids(pids) if is_alive(pid)]:
        if time.monotonic() > deadline:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            pytest.fail(f"{len(left)} workers outlived the run")
        time.sleep(0.05)
    finished = guess_files(tmp_path / "g")
    assert len(finished) == 2
    pool_sizes: list[int] = []

    def again(knowledge: Knowledge) -> Guess:
        pool_sizes.append(len(knowledge.pool_rows))
        return as_is.attack(knowledge)

    with pytest.MonkeyPatch.context() as patch:
        replace_attack(patch, "pooled_key_recovery", again)
        # In a fresh process the attack would be called once more, on invented images.
        patch.setattr(cell, "load_compiled", lambda *_: None)
        settings = replace(SETTINGS, attacks=["as_is", "pooled_key_recovery"])
        suite.run_suite([sealed], tmp_path / "g", settings)
    assert pool_sizes == [5, 10] and guess_files(tmp_path / "g").items() >= finished.items()


def worker_ids(pids: Path) -> list[int]:
    """Return the process ids that workers left in a folder."""
    return [int(path.name) for path in pids.iterdir()]


def is_alive(pid: int) -> bool:
    """Return whether a process runs. One that has ended and was not waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        pass
    if Path("/proc/self").exists():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_sets_that_changed_during_the_audit_are_refused(
    sealed: SealedDataset, make_sealed: MakeSealed, tmp_path: Path
) -> None:
    draw = suite.plan_draw("draw-0", 0, [sealed], SETTINGS)
    cell = plan_cells(draw, [sealed], SETTINGS, None, tmp_path / "g")[0]
    assert cell.sets == ((sealed.folder.resolve(), sealed.digest),) and cell.out.is_absolute()
    other = replace(cell, sets=((cell.sets[0][0], "0" * 64),))
    with pytest.raises(CipherwardError, match="is not the sealed set that this audit began with"):
        run_cell(other)
    assert answer(other) == Refused(
        f"{sealed.folder.resolve()} is not the sealed set that this audit began with",
        "start the audit again",
    )
    # It ends the audit, also from another process. It is not a finding about the scheme.
    with pytest.raises(CipherwardError, match="began with"):
        list(run_cells([other], 2))


@pytest.mark.slow
def test_on_ray(sealed: SealedDataset, tmp_path: Path) -> None:
    suite.run_suite([sealed], tmp_path / "one", SETTINGS)
    suite.run_suite([sealed], tmp_path / "ray", SETTINGS, workers=suite.Workers(jobs=2, ray="local"))
    assert guess_files(tmp_path / "one") == guess_files(tmp_path / "ray")
    assert entries(tmp_path / "one") == entries(tmp_path / "ray")
    with pytest.raises(CipherwardError, match=r"no Ray cluster at 127\.0\.0\.1:1"):
        suite.run_suite([sealed], tmp_path / "none", SETTINGS, workers=suite.Workers(ray="127.0.0.1:1"))


@pytest.mark.slow
def test_a_crash_on_ray_is_a_finding(
    sealed: SealedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    replace_attack(monkeypatch, "as_is", worker_attacks.exits)
    settings = replace(SETTINGS, attacks=["as_is", "leading_bit"])
    draws = suite.run_suite([sealed], tmp_path / "g", settings, workers=suite.Workers(jobs=1, ray="local"))
    assert draws[0].guesses[0].error.startswith("crash: WorkerCrashedError on Ray")
    assert not draws[0].guesses[1].error
