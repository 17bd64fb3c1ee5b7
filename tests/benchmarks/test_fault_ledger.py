"""The fault harness's lines: a rerun goes on where it was ended, and the figures are made of lines alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.command_line import ROOT
from benchmarks.faults.__main__ import NAMES, STRIKING, Harness, list_trials
from benchmarks.faults.at_the_door import DOOR_FAULTS
from benchmarks.faults.ledger import NOT_DEPLOYED, Ledger, Trial, list_code, make_figures
from benchmarks.faults.liar import damage_content
from benchmarks.faults.machine_faults import MACHINE_FAULTS
from benchmarks.faults.malformed import EVALUATION, TRAINING
from benchmarks.faults.record import MOMENTS, Record

TRIALS: dict[Trial, str] = {
    ("a", "in training"): "fault a",
    ("a", "at evaluation"): "fault a",
    ("b", ""): "fault b",
}


def test_a_rerun_goes_on_where_it_was_ended_and_names_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    ledger = Ledger(path)
    ledger.add(Record("a", "fault a", "in training", "x", round_s=2.0, data_lost="none"))
    ledger.add_run({"left_running": []})
    with open(path, "a") as file:
        file.write('{"kind": "record", "rec')  # a kill in the middle of a line
    again = Ledger(path)
    assert again.is_done(("a", "in training")) and not again.is_done(("a", "at evaluation"))
    again.add(Record("b", "fault b", "", "y", data_lost="none"))
    figures = make_figures([path], TRIALS)
    by_trial = {(r["name"], r["moment"]): r for r in figures["records"]}
    assert list(by_trial) == list(TRIALS)
    assert by_trial["a", "in training"]["happened"] == "x" and by_trial["b", ""]["happened"] == "y"
    assert "no record" in by_trial["a", "at evaluation"]["skipped"]
    assert figures["round_seconds"] == 2.0 and len(figures["runs"]) == 1


def test_records_of_other_code_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    Ledger(path).add(Record("a", "fault a", "in training", "x", data_lost="none"))
    line = json.loads(path.read_text()) | {"code": "of yesterday"}
    path.write_text(json.dumps(line) + "\n")
    assert not Ledger(path).is_done(("a", "in training"))
    figures = make_figures([path], TRIALS)
    assert all(record["skipped"] for record in figures["records"]) and figures["other_code"] == 1


def test_the_digest_leaves_out_only_what_no_program_of_a_deployment_imports() -> None:
    rooms = (
        "coordinator/deployment",
        "coordinator/federation",
        "coordinator/exchange",
        "coordinator/model",
    )
    code = list_code()
    deployed = [p for p in code if any(p.is_relative_to(ROOT / r) for r in (*rooms, "parties/agent"))]
    assert len(deployed) > 50 and ROOT / "parties/training/client_app.py" in code
    for path in deployed:
        text = path.read_text()
        assert not [r for r in NOT_DEPLOYED if f"import {r.replace('/', '.')}" in text], path
        assert not [r for r in NOT_DEPLOYED if f"from {r.replace('/', '.')}" in text], path
    assert all((ROOT / room).is_dir() for room in NOT_DEPLOYED)


def test_what_the_machine_does_not_allow_is_skipped_by_the_harness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault, _ = MACHINE_FAULTS["clock"]
    monkeypatch.setitem(MACHINE_FAULTS, "clock", (fault, lambda: "there is no compiler"))
    ledger = Ledger(tmp_path / "lines.jsonl")
    Harness(ledger).run(list_trials(["clock"]))
    [record] = ledger.records
    assert record["skipped"] == "there is no compiler" and record["fault"] == fault.title


def test_every_fault_comes_once_before_any_comes_again() -> None:
    trials = list(list_trials())
    assert len(trials) == len(NAMES) + sum(len(fault.moments) - 1 for fault in STRIKING.values())
    assert {name for name, _ in trials[: len(NAMES)]} == set(NAMES)
    for name in ("sigterm", "sigkill", "sigkill-back", "sigstop-30", "sigstop-120", "slow-reply", "hung-client",
                 "killed-client"):  # fmt: skip
        assert [moment for trial, moment in trials if trial == name] != [] and STRIKING[
            name
        ].moments == MOMENTS
    assert not set(STRIKING) & set(DOOR_FAULTS)


def test_a_liar_sends_every_kind_that_the_wire_can_express() -> None:
    import numpy as np
    from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
    from flwr.common.serde import recorddict_to_proto

    metrics = MetricRecord({"loss": 1.0, "steps": 3, "num-examples": 5})
    train = RecordDict(
        {"arrays": ArrayRecord({"model": Array(np.zeros(6, np.float32))}), "metrics": metrics}
    )
    tables = ConfigRecord({"confusion": [1, 2]})
    figures = MetricRecord({"loss": 1.0, "accuracy": 0.5, "num-examples": 5})
    evaluation = RecordDict({"metrics": figures, "tables": tables})
    sent = []
    for kinds, reply in ((TRAINING, train), (EVALUATION, evaluation)):
        content = recorddict_to_proto(reply).SerializeToString()
        for kind, damage in kinds.items():
            damaged = damage_content(content, damage)
            assert damaged != content, kind
            sent += [kind] if damaged is not None else []
    assert "an empty list in a config record" in sent and "an empty list among the metrics" in sent
    # A text, bytes or nothing in place of a number has no form on the wire, nor has an integer beyond 64 bits.
    assert len(TRAINING) + len(EVALUATION) - len(sent) <= 5, sent
