"""Attacks that tests hand to worker processes by name: they crash, hang, or say what they see."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_info

from coordinator.adversary.contract import Guess, Knowledge
from coordinator.adversary.decode import as_is


def ends(knowledge: Knowledge) -> Guess:
    os._exit(9)


def is_killed(knowledge: Knowledge) -> Guess:
    os.kill(os.getpid(), signal.SIGKILL)
    return as_is.attack(knowledge)


def counts_threads(knowledge: Knowledge) -> Guess:
    np.ones((300, 300)) @ np.ones((300, 300))
    said = {
        "libraries": [pool["num_threads"] for pool in threadpool_info()],
        "numba": os.environ.get("NUMBA_NUM_THREADS"),
        "pid": os.getpid(),
    }
    return replace(as_is.attack(knowledge), note=json.dumps(said))


def hangs_after_the_first(knowledge: Knowledge) -> Guess:
    (Path(os.environ["TEST_WORKERS_PIDS"]) / str(os.getpid())).touch()
    while len(knowledge.pool_rows) > 1:
        time.sleep(0.05)
    return as_is.attack(knowledge)


def hang(folder: str) -> None:
    """A run of the suite that a signal alone ends: what `attack --jobs 2` does, with an attack that hangs."""
    from coordinator.adversary.registry import ATTACKS
    from coordinator.adversary.run import suite

    name = "pooled_key_recovery"
    ATTACKS[name] = replace(ATTACKS[name], attack=hangs_after_the_first)
    settings = suite.Settings(["as_is", "pooled_key_recovery"], [1, 5, 10], rows=16, seed=4, budget_s=60.0)
    sets = suite.find_sets([Path(folder) / "train"])
    suite.run_suite(sets, Path(folder) / "g", settings, where=suite.Where(jobs=2))
