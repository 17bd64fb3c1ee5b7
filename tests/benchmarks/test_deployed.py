"""Deployed studies with real processes: bytes against a counting relay, secure sums, one model from a broken run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.deployed import measure
from benchmarks.faults.__main__ import run_faults
from benchmarks.faults.deployment import PLAN, Deployment, wait_until
from benchmarks.faults.observe import VICTIM
from benchmarks.faults.same_model import compare_models
from coordinator.exchange.plan import Plan

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("deployed")]


def make_plan(**changes: Any) -> Plan:
    """Return the harness's plan with few rounds, all hospitals needed, and patience for a loaded machine."""
    return Plan.model_validate({**PLAN, "rounds": 3, "quorum": 0, "deadline_s": 120.0, **changes})


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "f"


def test_the_journal_s_bytes_are_those_on_the_wire_within_one_percent() -> None:
    # 10 MB a message: what TLS, HTTP and the polls add is constant, and a real model is larger still.
    model = {"patch_size": 8, "embed_dim": 192, "depth": 6, "num_heads": 3}
    figures = measure(make_plan(counts=(96, 24, 24), local_epochs=1, model_args=model))
    assert figures["journal_megabytes"] > 2 * 3 * 3 * 10
    assert 1.0 < figures["relay_over_journal"] < 1.01


def test_a_coordinator_that_is_killed_again_and_again_changes_no_bit_of_the_model(tmp_path: Path) -> None:
    record = compare_models(tmp_path)
    digests = record.figures["model_sha256"]
    assert digests["unbroken"] == digests["broken"]
    assert record.data_lost == "none" and record.left_running == ()
    assert "submitted the study again" in record.happened


def test_secure_sums_through_the_agents_survive_a_hospital_killed_between_mask_and_reveal(
    folder: Path,
) -> None:
    plan = make_plan(stem="private", rounds=2, deadline_s=60.0, retries=4, counts=(240, 24, 24))
    assert plan.sums_securely
    deployment = Deployment(folder, plan)
    try:
        deployment.start_server()
        deployment.join(*deployment.names)
        deployment.start_run()
        # Three hospitals tolerate no dropout: without the third one's reveal, the sum of this attempt stays masked.
        wait_until(lambda: _is_masked(deployment), 240, "the masked update", 0.02)
        deployment.agents[VICTIM].kill()
        deployment.agents[VICTIM].wait()
        time.sleep(2)
        deployment.start_agent(VICTIM)
        wait_until(lambda: deployment.runs[-1].poll() is not None, 500, "the end")
        assert deployment.runs[-1].returncode == 0, deployment.output("run")
        rows = [row for _, row in deployment.rows]
        failed = [row for row in rows if not row["aggregated"]]
        assert failed and all(row["summed"]["error"] for row in failed)
        assert [row["round"] for row in rows if row["aggregated"]] == [1, 2]
        assert all(row["parties"] == deployment.names for row in rows if row["aggregated"])
        kinds = {line.get("type") for line in deployment.log(VICTIM) if line["event"] == "answered"}
        assert {"query.shares", "query.masked", "query.confirm", "query.reveal"} <= kinds
    finally:
        assert deployment.close() == []


def _is_masked(deployment: Deployment) -> bool:
    return any(x["event"] == "answered" and x.get("type") == "query.masked" for x in deployment.log(VICTIM))


def test_a_killed_client_costs_one_round_and_a_wrong_certificate_gets_no_connection() -> None:
    records, runs = run_faults(["killed-client", "wrong-certificate"])
    killed, wrong = records
    assert killed["rounds_missed"] == 1 and killed["rounds_repeated"] == 0 and killed["data_lost"] == "none"
    assert killed["seconds_lost"] < 60 and killed["left_running"] == []
    assert "certificate" in wrong["happened"]
    assert [run["left_running"] for run in runs] == [[]]


def test_a_run_without_approvals_says_what_to_do_and_a_late_one_brings_its_hospital_in(
    folder: Path,
) -> None:
    plan = make_plan(rounds=2000, quorum=2, grace_s=8.0)
    deployment = Deployment(folder, plan)
    try:
        approvals = {name: deployment.cloud.approval(name) for name in deployment.names}
        carried = {name: path.read_bytes() for name, path in approvals.items()}
        for path in approvals.values():
            path.unlink()
        deployment.start_server()
        deployment.join(*deployment.names)
        deployment.start_run()
        wait_until(lambda: deployment.runs[-1].poll() is not None, 240, "the run's end")
        assert deployment.runs[-1].returncode == 1
        printed = " ".join(deployment.output("run").split())
        assert "FAB could not be verified" in printed and "cipherward-coordinator carry" in printed
        refusals = [line for line in deployment.log(VICTIM) if line["event"] == "refused"]
        assert refusals and {line["by"] for line in refusals} == {"SuperNode"}

        # The same agents, without a new start: two are carried, and the third during the run.
        for name in deployment.names:
            if name != VICTIM:
                approvals[name].write_bytes(carried[name])
        deployment.start_run()
        wait_until(lambda: len(deployment.rows) >= 3, 240, "three rounds of two hospitals")
        assert not any(VICTIM in row["parties"] for _, row in deployment.rows)
        approvals[VICTIM].write_bytes(carried[VICTIM])
        wait_until(lambda: VICTIM in deployment.rows[-1][1]["parties"], 120, "a round with the third")
        assert deployment.runs[-1].poll() is None
    finally:
        assert deployment.close() == []
