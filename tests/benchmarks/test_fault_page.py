"""The page of faults: every fault is on it, what was skipped is named, and a loss is not hidden."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from benchmarks.faults.record import Moment, Record
from benchmarks.faults.targets import check_targets
from benchmarks.pages import faults
from benchmarks.pages.entries import Entry

RUNS: list[dict[str, Any]] = [{"left_running": ["a process"]}]


def make_page(*records: Record) -> str:
    rows = [{**record.to_json(), "load": 1.5, "time": ""} for record in records]
    result: dict[str, Any] = {"schema": "cipherward.faults/2", "machine": {}, "hospitals": 3, "quorum": 2}
    result |= {"deadline_s": 25.0, "grace_s": 8.0, "round_seconds": 5.0, "runs": RUNS, "code": "abc"}
    result["targets"] = [asdict(target) for target in check_targets(rows, RUNS, 25.0)]
    result["records"] = rows
    return "\n".join(faults.page([Entry("9-faults.json", "Faults", "command", "2026-01-01", result)]))


def test_every_fault_is_shown_and_what_was_not_run_is_named() -> None:
    text = make_page(
        Record("kill", "a kill", "in training", "absent: a|b", 1, 2, 0, 12.5, 30.0, data_lost="none"),
        Record(
            "loss", "a loss", "at evaluation", "NOT BACK: never", data_lost="the checkpoint is at round 1"
        ),
        Record("key", "a wrong key", "", "refused", data_lost="none"),
        Record("lies", "lies", "before training", "all", 1, details={"a kind": "NOT REFUSED"}),
        Record("clock", "a clock", skipped="there is no compiler"),
    )
    assert "| a kill | in training | 1 | 2 | 12.5 | 30 | none |" in text
    assert "absent: a\\|b" in text
    assert "Skipped: a clock: there is no compiler." in text
    assert "| a loss | at evaluation |  |  |  |  | the checkpoint is at round 1 |" in text
    assert "NOT BACK: never" in text and "| a wrong key |  | refused |" in text
    assert "| a kind | NOT REFUSED |" in text
    assert "without their command after a fault, or at the end: 1." in text


def client_record(
    moment: Moment, back: float | None, skipped: str = "", happened: str = ""
) -> dict[str, Any]:
    record = Record(
        "hung-client", "hung", moment, happened, back_after_s=back, round_s=5.0, data_lost="none"
    )
    return {**record.to_json(), "skipped": skipped}


def verdict_of(word: str, *rows: dict[str, Any]) -> bool | None:
    [target] = [target for target in check_targets(rows, [], 20.0) if word in target.promise]
    return target.holds


def test_a_promise_holds_only_if_it_holds_at_every_moment() -> None:
    good = client_record("in training", 65.0)
    assert verdict_of("that hangs", good, client_record("at evaluation", 64.0)) is True
    assert verdict_of("that hangs", good, client_record("at evaluation", 65.2)) is False
    assert verdict_of("that hangs", good, client_record("at evaluation", None)) is False
    assert verdict_of("that hangs", good, client_record("at evaluation", None, "no time")) is None
    assert verdict_of("that hangs") is None
    lost = client_record("at evaluation", None, happened="NOT BACK: never")
    assert verdict_of("all hospitals reply again", good) is True
    assert verdict_of("all hospitals reply again", good, lost) is False


def test_models_of_different_bits_and_a_round_that_waits_too_long_are_told() -> None:
    def of(*digests: str) -> dict[str, Any]:
        names = ("unbroken", "broken")
        return Record(
            "same-model", figures={"model_sha256": dict(zip(names, digests, strict=True))}
        ).to_json()

    assert verdict_of("bits of an unbroken one", of("a", "a")) is True
    assert verdict_of("bits of an unbroken one", of("a", "b")) is False
    assert verdict_of("no longer than its deadline", Record("x", longest_wait_s=22.0).to_json()) is True
    assert verdict_of("no longer than its deadline", Record("x", longest_wait_s=40.0).to_json()) is False
    assert verdict_of("no process of ours", Record("x", left_running=("a",)).to_json()) is False
    assert verdict_of("loses a finished round", Record("x", data_lost="round 3").to_json()) is False


def test_what_was_not_run_is_called_a_calculation() -> None:
    names = (
        "relay_megabytes",
        "superlink_cpu_seconds",
        "superlink_megabytes",
        "bundle_megabytes",
        "idle_bytes",
    )
    result = dict.fromkeys(names, 60.0) | {"rounds": 3, "hospitals": 3, "run_seconds": 10.0}
    result |= {"idle_cpu_milliseconds": 2.0, "idle_superlink_megabytes": 30.0}
    text = "\n".join(faults.extrapolate(result, 1000))
    assert "Nobody ran this" in text
    assert "| traffic of a round (GB) | 10 |" in text  # 60 MB in two rounds of three hospitals
    assert "| memory of the SuperLink (GB) | 10.03 |" in text
    assert "| cores of the SuperLink that waiting hospitals take | 2 |" in text
