"""Cells of the suite in other processes: the same guesses, and what a crash, a kill and Ctrl-C leave behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import coordinator.adversary.run.suite as suite
from coordinator.adversary.contract import Guess, Knowledge
from coordinator.adversary.decode import as_is
from coordinator.adversary.registry import ATTACKS
from coordinator.adversary.run.cell import run_cell
from coordinator.adversary.run.draws import cells_of
from coordinator.adversary.run.workers import Refused, answer, run_cells
from coordinator.exchange.guesses import read_draws
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from parties.sources.phantom import Phantom
from tests.support import worker_attacks
from tests.support.attacks import replace_attack
from tests.support.paths import ROOT

SETTINGS = suite.Settings(
    ["as_is", "leading_bit", "pooled_key_recovery"], [1, 5, 10], rows=16, seed=4, budget_s=60.0
)
CELLS = 5


def phantoms(count: int, split: str = "train"):
    source = Phantom(64, 1, count, 0, split)
    return np.stack([source.read(i) for i in range(count)]), source.labels


@pytest.fixture
def sealed(make_sealed):
    return make_sealed("train", *phantoms(40))


def frozen(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.safetensors"))}


def lines(folder: Path) -> list[dict]:
    """What guesses.json says of the guesses, but for the time that they took."""
    draws, _ = read_draws(folder)
    return [{**g.__dict__, "seconds": 0} for d in draws for g in d.guesses]


def test_guesses_do_not_depend_on_the_number_of_processes(make_sealed, sealed, tmp_path):
    sets = [sealed, make_sealed("other", *phantoms(40, "val"), key=SecretKey(bytes(range(1, 33))))]
    suite.run_suite(sets, tmp_path / "one", SETTINGS)
    said: list[str] = []
    suite.run_suite(sets, tmp_path / "two", SETTINGS, said.append, suite.Where(jobs=2))
    assert len(said) == 2 * CELLS and len(frozen(tmp_path / "one")) == 2 * CELLS
    assert frozen(tmp_path / "one") == frozen(tmp_path / "two")
    assert lines(tmp_path / "one") == lines(tmp_path / "two")
    # A third call with another number of processes is the same audit.
    suite.run_suite(sets, tmp_path / "two", SETTINGS, said.append, suite.Where(jobs=3))
    assert said[-1] == "the guesses are there already"


def test_a_worker_that_dies_is_a_finding_and_another_takes_its_place(sealed, tmp_path, monkeypatch):
    replace_attack(monkeypatch, "as_is", worker_attacks.is_killed)
    replace_attack(monkeypatch, "leading_bit", worker_attacks.ends)
    monkeypatch.setitem(
        ATTACKS,
        "pooled_key_recovery",
        replace(ATTACKS["pooled_key_recovery"], attack=worker_attacks.counts_threads),
    )
    settings = replace(SETTINGS, pools=[5])
    draws = suite.run_suite([sealed], tmp_path / "g", settings, where=suite.Where(jobs=2))
    killed, ended, whole = draws[0].guesses
    assert killed.error.startswith("crash: the worker process was killed by SIGKILL") and not killed.file
    assert ended.error == "crash: the worker process ended with status 9" and whole.pool_size == 5
    told = json.loads(whole.note)
    assert not whole.error and set(told["libraries"]) == {1} and told["numba"] == "1"
    assert told["pid"] != os.getpid()
    # A crash is written down like any guess: the audit is not begun anew.
    assert lines(tmp_path / "g")[0]["error"] == killed.error


def test_one_thread_in_this_process_too_and_only_for_the_attack(sealed, tmp_path, monkeypatch):
    replace_attack(monkeypatch, "as_is", worker_attacks.counts_threads)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with threadpool_limits(2):
        draws = suite.run_suite([sealed], tmp_path / "g", replace(SETTINGS, attacks=["as_is"]))
        assert {pool["num_threads"] for pool in threadpool_info()} == {2}
    assert set(json.loads(draws[0].guesses[0].note)["libraries"]) == {1}
    assert os.environ["OMP_NUM_THREADS"] == "7"


@pytest.mark.parametrize("ending", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_kill_leaves_no_worker_and_what_was_finished(sealed, tmp_path, ending):
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
    # as_is and one pool are finished; both workers hang in the next two.
    until = time.monotonic() + 120
    while not (journal.exists() and len(journal.read_text().splitlines()) == 3 and len(named(pids)) == 2):
        assert running.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    if ending == signal.SIGINT:
        os.killpg(running.pid, ending)  # as the terminal does
    else:
        running.kill()
    assert running.wait(30) != 0
    until = time.monotonic() + 30
    while left := [pid for pid in named(pids) if alive(pid)]:
        if time.monotonic() > until:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            pytest.fail(f"{len(left)} workers outlived the run")
        time.sleep(0.05)
    kept = frozen(tmp_path / "g")
    assert len(kept) == 2
    asked: list[int] = []

    def again(knowledge: Knowledge) -> Guess:
        asked.append(len(knowledge.pool_rows))
        return as_is.attack(knowledge)

    with pytest.MonkeyPatch.context() as patch:
        replace_attack(patch, "pooled_key_recovery", again)
        settings = replace(SETTINGS, attacks=["as_is", "pooled_key_recovery"])
        suite.run_suite([sealed], tmp_path / "g", settings)
    assert asked == [5, 10] and frozen(tmp_path / "g").items() >= kept.items()


def named(pids: Path) -> list[int]:
    return [int(path.name) for path in pids.iterdir()]


def alive(pid: int) -> bool:
    """Whether a process runs: one that has ended and was not waited for yet does not."""
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


def test_other_sets_than_the_audit_began_with_are_refused(sealed, make_sealed, tmp_path):
    draw = suite.plan_draw("draw-0", 0, [sealed], SETTINGS)
    cell = cells_of(draw, [sealed], SETTINGS, None, tmp_path / "g")[0]
    assert cell.sets == ((sealed.folder.resolve(), sealed.digest),) and cell.out.is_absolute()
    other = replace(cell, sets=((cell.sets[0][0], "0" * 64),))
    with pytest.raises(CipherwardError, match="is not the sealed set that this audit began with"):
        run_cell(other)
    assert answer(other) == Refused(
        f"{sealed.folder.resolve()} is not the sealed set that this audit began with",
        "start the audit again",
    )
    # It ends the audit, also from another process; it is no finding about the scheme.
    with pytest.raises(CipherwardError, match="began with"):
        list(run_cells([other], 2))


@pytest.mark.slow
def test_on_ray(sealed, tmp_path):
    suite.run_suite([sealed], tmp_path / "one", SETTINGS)
    suite.run_suite([sealed], tmp_path / "ray", SETTINGS, where=suite.Where(jobs=2, ray="local"))
    assert frozen(tmp_path / "one") == frozen(tmp_path / "ray")
    assert lines(tmp_path / "one") == lines(tmp_path / "ray")
    with pytest.raises(CipherwardError, match=r"no Ray cluster at 127\.0\.0\.1:1"):
        suite.run_suite([sealed], tmp_path / "none", SETTINGS, where=suite.Where(ray="127.0.0.1:1"))


@pytest.mark.slow
def test_a_crash_on_ray_is_a_finding(sealed, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    replace_attack(monkeypatch, "as_is", worker_attacks.ends)
    settings = replace(SETTINGS, attacks=["as_is", "leading_bit"])
    draws = suite.run_suite([sealed], tmp_path / "g", settings, where=suite.Where(jobs=1, ray="local"))
    assert draws[0].guesses[0].error.startswith("crash: WorkerCrashedError on Ray")
    assert not draws[0].guesses[1].error
