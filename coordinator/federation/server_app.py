"""The cloud's side of a federation: a Flower ServerApp.

    flwr run . --run-config 'study-dir="/absolute/path/of/runs/demo"'

`cipherward-coordinator simulate` prepares such a study and starts this.
"""

from __future__ import annotations

import time
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from coordinator.exchange.plan import FILE, read_plan
from coordinator.exchange.wire import received
from coordinator.federation.participants import Federation
from coordinator.federation.rounds import evaluate, run_rounds
from coordinator.federation.strategies import averageable, strategy_of
from coordinator.model.shares import base_digest
from coordinator.model.vit import build_model, pack, save_model, shared_names, unpack
from crypto.errors import CipherwardError
from crypto.files import only_one, write_json

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Gather the parties, train, keep the round that was best on val, read test once, save."""
    study = _study(context)
    with only_one(study / "cloud"):
        _federate(grid, study)


def _federate(grid: Grid, study: Path) -> None:
    plan, cloud = read_plan(study / FILE), study / "cloud"
    federation = Federation(grid, plan)
    parties = federation.gather()
    classes = list(parties[0].about["classes"])
    model = build_model(plan, len(classes))
    names = shared_names(model, plan)
    federation.base = base_digest(model, plan)
    averageable(model, names, plan)
    started = time.perf_counter()
    state = run_rounds(grid, plan, federation, pack(model, names), cloud)
    test = evaluate(strategy_of(plan), federation, state.best, state.best_round, "test")
    seconds = time.perf_counter() - started
    # What was tested is what is saved: the weights as the hospitals had them.
    unpack(model, received(state.best, plan.wire), names)
    digest = save_model(model, plan, classes, cloud / "model.safetensors", state.best_round)
    training = {
        "best_round": state.best_round,
        "val_accuracy": state.best_val,
        "test": test,
        "seconds": seconds,
        "model_sha256": digest,
        "classes": classes,
        "parties": [p.about for p in parties],
    }
    write_json(cloud / "training.json", training)


def _study(context: Context) -> Path:
    folder = str(context.run_config.get("study-dir", ""))
    if not folder or not (Path(folder) / FILE).is_file():
        raise CipherwardError(
            f"no prepared study at {folder!r}",
            "prepare one: cipherward-coordinator simulate configs/demo.yaml --until seal; "
            "then: flwr run . --run-config 'study-dir=\"/absolute/path/of/runs/demo\"'",
        )
    return Path(folder)
