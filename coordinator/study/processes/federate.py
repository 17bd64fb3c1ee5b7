"""The program that trains a study on this machine without Flower's servers and without Ray.

    python -m coordinator.study.processes.federate STUDY --workers 2

It runs the ServerApp in this process, and each hospital's ClientApp in a process of its own (grid.py). It listens on
nothing.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from pathlib import Path

from coordinator.exchange.plan import FILE, read_plan
from coordinator.study.processes.nursery import PRELOADED, Hospital, Nursery, die_with_parent
from coordinator.study.study import hospital_log_file, party_folder
from crypto.cores import cores, threads
from crypto.errors import CipherwardError

#: What this engine is called in plans, logs and reports.
ENGINE = "processes"
#: The hospitals' side, as pyproject.toml names it. The cloud's code does not import it.
CLIENT_APP = "parties.training.client_app:app"
#: The number of the first hospital's Flower node. Flower keeps 1 for the server.
FIRST_NODE = 100


def federate(study: Path, workers: int, client_app: str = CLIENT_APP) -> None:
    """Train a prepared study.

    Call it in a process that has not used PyTorch yet and has no thread: it forks.

    Args:
        study: the study's folder.
        workers: how many hospitals may have a process at a time; 0 for as many as there are cores, or for one where
            there is an NVIDIA GPU, whose memory they would share.
        client_app: the hospitals' ClientApp, as "module:attribute".

    Raises:
        CipherwardError: if the training fails.
    """
    plan = read_plan(study / FILE)
    usable = cores()
    # Imported once, before the fork: both sides have it.
    for name in PRELOADED:
        importlib.import_module(name)
    places = min(plan.parties, workers or (1 if _has_nvidia_gpu() else usable))
    # A user's OMP_NUM_THREADS holds here too, as it does under Ray.
    nursery = Nursery(client_app, max(1, min(threads(), usable // places)))
    try:
        _run_server_app(study, nursery, places)
    finally:
        nursery.close()


def _has_nvidia_gpu() -> bool:
    """Return whether PyTorch would use an NVIDIA GPU. It must not be asked: a process that used CUDA cannot fork."""
    import torch

    return torch.version.cuda is not None and any(Path("/dev").glob("nvidia[0-9]*"))


def _run_server_app(study: Path, nursery: Nursery, places: int) -> None:
    # Imported after the fork: no hospital's process needs it.
    from flwr.app import Context, RecordDict

    from coordinator.federation.server_app import app
    from coordinator.study.processes.grid import ProcessGrid
    from coordinator.study.processes.hospital import RUN_ID

    plan = read_plan(study / FILE)
    hospitals = [
        Hospital(FIRST_NODE + index, party_folder(study, index), hospital_log_file(study, index))
        for index in range(plan.parties)
    ]
    grid = ProcessGrid(nursery, hospitals, places)
    settings = {"study-dir": str(study), "engine": ENGINE}
    context = Context(run_id=RUN_ID, node_id=1, node_config={}, state=RecordDict(), run_config=settings)
    try:
        app(grid, context)
    finally:
        grid.close()
    print(f"{grid.bytes_sent} bytes were sent to hospitals, {grid.bytes_received} came back", flush=True)


def main() -> None:
    """Run the program. Its errors are lines that the study's command finds in the log."""
    # Ctrl-C is for the command that started this, which then ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    parser = argparse.ArgumentParser()
    parser.add_argument("study", type=Path)
    parser.add_argument("--workers", type=int, default=0)
    args = parser.parse_args()
    try:
        federate(args.study, args.workers)
    except CipherwardError as error:
        print(f"CipherwardError: {error}", file=sys.stderr, flush=True)
        sys.stderr.flush()
        # The threads that wait for hospitals are not waited for.
        os._exit(1)


if __name__ == "__main__":
    main()
