"""One study twice over the same sealed images: unbroken, and with the coordinator killed in every round.

All hospitals are needed in every round, so both runs are made of the same replies. The models must be equal to the
bit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.faults.deployment import PLAN, Deployment, wait_until
from benchmarks.faults.observe import Observer
from benchmarks.faults.record import Moment, Record
from benchmarks.many_hospitals import prepare
from coordinator.exchange.plan import Plan
from crypto.files import read_json

TITLE = "the coordinator is killed in every round of a study, one process after the other"
#: What is killed, in this order, and when. One round comes before, and one after.
KILLS: tuple[tuple[str, Moment], ...] = (
    ("superlink", "in training"),
    ("serverapp", "at evaluation"),
    ("serve", "before training"),
    ("run", "in training"),
)
_WORDS = {"superlink": "coordinator.deployment.superlink", "serverapp": "flwr-serverapp"}
_END_S = 420.0


def compare_models(folder: Path, settings: dict[str, Any] | None = None) -> Record:
    """Run the study twice, and compare the digests of the models."""
    changes = {
        "quorum": 0,
        "deadline_s": 60.0,
        "rounds": len(KILLS) + 2,
        "counts": (240, 60, 60),
        **(settings or {}),
    }
    plan = Plan.model_validate({**PLAN, **changes})
    prepare(folder / "prepared", plan)
    results = {
        name: _run_study(folder / name / "f", folder / "prepared", plan, is_broken)
        for name, is_broken in (("unbroken", False), ("broken", True))
    }
    digests = {name: str(result["model_sha256"]) for name, result in results.items()}
    words = ", ".join(f"{name} {digest[:16]}" for name, digest in digests.items())
    broken = results["broken"]
    return Record(
        happened=f"model SHA-256 {words} after {plan.rounds} rounds; killed: "
        + ", ".join(f"{name} {moment}" for name, moment in KILLS)
        + f"; `run` submitted the study again {broken['submissions']} ×",
        rounds_repeated=sum(not row["aggregated"] for row in broken["rows"]),
        seconds_lost=round(broken["seconds"] - results["unbroken"]["seconds"], 1),
        data_lost="none" if _is_complete(broken["rows"], plan.rounds) else "rounds of the journal",
        left_running=tuple(text for result in results.values() for text in result["left"]),
        figures={"model_sha256": digests},
    )


def _is_complete(rows: list[dict[str, Any]], rounds: int) -> bool:
    done = [row for row in rows if row["aggregated"]]
    return [row["round"] for row in done] == list(range(1, rounds + 1)) and all(
        len(row["parties"]) == PLAN["parties"] for row in done
    )


def _run_study(folder: Path, prepared: Path, plan: Plan, is_broken: bool) -> dict[str, Any]:
    """Run the study to its end, and return its model's digest, its journal, and what was left running."""
    deployment = Deployment(folder, plan, prepared)
    result: dict[str, Any] = {}
    try:
        deployment.start_server()
        deployment.join(*deployment.names)
        deployment.start_run()
        if is_broken:
            wait_until(lambda: deployment.rows, 200, f"the first round; {deployment.last_words('run')}")
            for name, moment in KILLS:
                _kill(deployment, name, moment)
        wait_until(lambda: deployment.runs[-1].poll() is not None, _END_S, "the end of the study")
        if deployment.runs[-1].returncode != 0:
            raise AssertionError(f"`run` failed: {deployment.last_words('run')}")
        training = read_json(deployment.study / "training.json", "training")
        rows = [row for _, row in deployment.rows]
        result = {
            "model_sha256": training["model_sha256"],
            "rows": rows,
            "submissions": deployment.submissions,
        }
        result["seconds"] = sum(row["seconds"] for row in rows)
        if len(deployment.rows) > 1:
            result["seconds"] = deployment.rows[-1][0] - deployment.rows[0][0]
    finally:
        left = deployment.close()
    return {**result, "left": left}


def _kill(deployment: Deployment, name: str, moment: Moment) -> None:
    """Kill one of the coordinator's processes, start again what people start, and wait for the next whole round."""
    watch = Observer(deployment)
    try:
        watch.reach(moment)
        if name == "serve":
            assert deployment.serve is not None
            deployment.serve.kill()
            deployment.serve.wait()
        elif name == "run":
            deployment.runs[-1].kill()
            deployment.runs[-1].wait()
        else:
            process = deployment.server_process(_WORDS[name])
            assert process is not None, name
            process.kill()
    finally:
        watch.release()
    if name == "serve":
        deployment.start_server()
    if name == "run":
        deployment.start_run()
    done = sum(row["aggregated"] for _, row in deployment.rows)
    wait_until(
        lambda: (
            sum(row["aggregated"] for _, row in deployment.rows) > done
            or deployment.runs[-1].poll() is not None
        ),
        _END_S,
        f"a round after the {name} was killed",
    )
