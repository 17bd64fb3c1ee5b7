"""Attacks that tests give to worker processes by name: they crash, hang, or report what they see."""

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


def exits(knowledge: Knowledge) -> Guess:
    os._exit(9)


def kills_itself(knowledge: Knowledge) -> Guess:
    os.kill(os.getpid(), signal.SIGKILL)
    return as_is.attack(knowledge)


def reports_threads(knowledge: Knowledge) -> Guess:
    np.ones((300, 300)) @ np.ones((300, 300))
    facts = {
        "libraries": [pool["num_threads"] for pool in threadpool_info()],
        "numba": os.environ.get("NUMBA_NUM_THREADS"),
        "pid": os.getpid(),
    }
    return replace(as_is.attack(knowledge), note=json.dumps(facts))


def hangs_after_the_first(knowledge: Knowledge) -> Guess:
    (Path(os.environ["TEST_WORKERS_PIDS"]) / str(os.getpid())).touch()
    while len(knowledge.pool_rows) > 1:
        time.sleep(0.05)
    return as_is.attack(knowledge)


def hang(folder: str) -> None:
    """Run the suite like `attack --jobs 2`, with an attack that hangs: only a signal ends it."""
    from coordinator.adversary.registry import ATTACKS
    from coordinator.adversary.run import suite

    name = "pooled_key_recovery"
    ATTACKS[name] = replace(ATTACKS[name], attack=hangs_after_the_first)
    settings = suite.Settings(["as_is", "pooled_key_recovery"], [1, 5, 10], rows=16, seed=4, budget_s=60.0)
    sets = suite.find_sets([Path(folder) / "train"])
    suite.run_suite(sets, Path(folder) / "g", settings, workers=suite.Workers(jobs=2))
