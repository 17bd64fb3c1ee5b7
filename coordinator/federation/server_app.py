"""The cloud's side of a federation: a Flower ServerApp.

    flwr run . --run-config 'study-dir="/absolute/path/of/runs/demo"'

`cipherward-coordinator simulate` prepares such a study and starts this app.
"""

from __future__ import annotations

import time
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from coordinator.exchange.flower_pauses import shorten_server_app
from coordinator.exchange.manifest import FILE as MANIFEST_FILE
from coordinator.exchange.manifest import StudyManifest, read_manifest
from coordinator.exchange.plan import FILE, Plan, read_plan, require_rounds
from coordinator.exchange.statement import plan_digest, plan_settings
from coordinator.exchange.wire import as_received
from coordinator.federation.participants import Federation
from coordinator.federation.rounds import evaluate, run_rounds
from coordinator.federation.strategies import build_strategy, require_aggregatable
from coordinator.model.private_layers import require_private_layers
from coordinator.model.shares import base_digest, shared_names, variances
from coordinator.model.vit import build_model, pack, save_model, unpack
from crypto.errors import CipherwardError
from crypto.files import folder_lock, write_json

#: Bytes of a reply beside its weights, at most. An introduction has 1 MB at most, and so have shares.
_MOST_FIGURES = 64 << 20

app = ServerApp()


@app.main()  # type: ignore[untyped-decorator]  # flwr is not typed for mypy here
def main(grid: Grid, context: Context) -> None:
    """Run the study that the run configuration names."""
    study = _study_folder(context)
    with folder_lock(study / "cloud"):
        run_federation(grid, study, str(context.run_config.get("engine", "")) or "flwr run")


def run_federation(grid: Grid, study: Path, engine: str = "") -> None:
    """Gather the parties, train, keep the round that is best on val, read test once, and save the model.

    Args:
        grid: the parties' messages.
        study: the study's folder. It contains plan.yaml, study.json and cloud/, where all results are written.
        engine: what ran the hospitals, for the record.

    Raises:
        CipherwardError: if there is no study manifest, or it is about another plan; if too few parties are usable, or
            if a round misses its quorum after all retries.
    """
    plan, cloud = read_plan(study / FILE, needs_images=False), study / "cloud"
    require_rounds(plan)
    shorten_server_app(plan.deadline_s, _MOST_FIGURES)
    federation = Federation(grid, plan, read_study_manifest(study, plan))
    parties = federation.gather()
    classes = list(parties[0].about["classes"])
    model = build_model(plan, len(classes), log=lambda line: print(line, flush=True))
    require_private_layers(model, plan)
    names = shared_names(model, plan)
    # Weights and masked vectors have 4 bytes a number at most. More would be held in memory, only to be refused.
    shorten_server_app(plan.deadline_s, 2 * pack(model, names).nbytes + _MOST_FIGURES)
    federation.base = base_digest(model, plan)
    require_aggregatable(model, names, plan)
    started = time.perf_counter()
    state = run_rounds(federation, pack(model, names), cloud, variances(model, names))
    test = evaluate(build_strategy(plan), federation, state.best, state.best_round, "test")
    seconds = time.perf_counter() - started
    # The saved weights are the tested ones: those that the hospitals received.
    unpack(model, as_received(state.best, plan.wire), names)
    # In order of their names: who came first must not change the file.
    accepted = sorted(federation.parties.values(), key=lambda party: party.name)
    key_ids = {p.name: str(p.about["splits"]["train"].get("key_id", "")) for p in accepted}
    path = cloud / "model.safetensors"
    digest = save_model(model, plan, classes, path, state.best_round, key_ids=key_ids)
    training = {
        "best_round": state.best_round,
        "val_accuracy": state.best_val,
        "test": test,
        "seconds": seconds,
        "model_sha256": digest,
        "engine": engine,
        "classes": classes,
        "manifest_sha256": federation.manifest.digest,
        "parties": [p.about for p in accepted],
    }
    write_json(cloud / "training.json", training)


def read_study_manifest(study: Path, plan: Plan) -> StudyManifest:
    """Return the manifest in a study's folder.

    Raises:
        CipherwardError: if there is none, it contradicts itself, or it is about another plan.
    """
    path = study / MANIFEST_FILE
    if not path.exists():
        raise CipherwardError(
            f"no study manifest at {path}: no hospital agreed to this study",
            "collect the hospitals' statements (cipherward-party declare), then: cipherward-coordinator manifest; "
            "`cipherward-coordinator simulate` makes one by itself",
        )
    manifest = read_manifest(path)
    if manifest.plan_sha256 != plan_digest(plan):
        agreed, present = plan_settings(manifest.read_plan()), plan_settings(plan)
        other = next(k for k in sorted(agreed.keys() | present.keys()) if agreed.get(k) != present.get(k))
        raise CipherwardError(
            f"the hospitals agreed to {other} {agreed.get(other)!r}, and {study / FILE} says {present.get(other)!r}",
            "put the agreed plan back, or let the hospitals agree to a new study manifest",
        )
    return manifest


def _study_folder(context: Context) -> Path:
    """Return the folder that the run configuration names. Raise CipherwardError if no study is prepared there."""
    folder = str(context.run_config.get("study-dir", ""))
    if not folder or not (Path(folder) / FILE).is_file():
        raise CipherwardError(
            f"no prepared study at {folder!r}",
            "prepare one: cipherward-coordinator simulate configs/demo.yaml --until seal; "
            "then: flwr run . --run-config 'study-dir=\"/absolute/path/of/runs/demo\"'",
        )
    return Path(folder)
