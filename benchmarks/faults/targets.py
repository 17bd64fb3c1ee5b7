"""Check the records of faults against what the product promises, and say of each promise whether it holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: Seconds beyond a round after which a hospital whose client hung or was killed must be back; seconds after which one
#: whose SuperNode was killed must be.
_CLIENT_S, _SUPERNODE_S = 60.0, 75.0
#: Seconds that checking and adding up replies may take beyond the deadline that they are waited for.
_SLACK_S = 3.0

_Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Target:
    """A promise.

    Attributes:
        promise: what must hold.
        measured: what was measured, in words.
        holds: whether it holds; None if it was not measured as a whole.
    """

    promise: str
    measured: str
    holds: bool | None


def check_targets(records: _Rows, runs: _Rows, deadline_s: float) -> list[Target]:
    """Return every target with what was measured.

    Args:
        records: the records, as JSON values.
        runs: the figures of the federations.
        deadline_s: the plan's deadline.
    """
    client = f"its hospital is back after one round and {_CLIENT_S:.0f} s at most"
    run = [record for record in records if not record["skipped"]]
    struck = [record for record in run if record["back_after_s"] is not None]
    waits = [record for record in run if record["longest_wait_s"] is not None]
    left = [text for row in (*run, *runs) for text in row.get("left_running", ())]
    longest = max((record["longest_wait_s"] for record in waits), default=0.0)
    losses = [f"{r['fault']}: {r['data_lost']}" for r in run if r["data_lost"] != "none"]
    return [
        _back(records, "hung-client", f"a ClientApp that hangs: {client}", lambda r: r["round_s"] + _CLIENT_S),
        _back(records, "killed-client", f"a killed ClientApp: {client}", lambda r: r["round_s"] + _CLIENT_S),
        _back(records, "supernode", f"a killed SuperNode: its hospital is back within {_SUPERNODE_S:.0f} s",
              lambda _: _SUPERNODE_S),
        _resubmitted(records),
        _same_model(records),
        Target("after every fault that strikes a study, all hospitals reply again",
               f"{len(struck)} of {len(struck) + sum('NOT ' in r['happened'] for r in run)} records",
               not any("NOT BACK" in r["happened"] or "NOT OBSERVED" in r["happened"] for r in run)
               if struck else None),
        Target(f"a round waits for updates, and for evaluations, no longer than its deadline of {deadline_s:.0f} s",
               f"{longest:.1f} s at most, with the work on the replies, in {len(waits)} records",
               longest <= deadline_s + _SLACK_S if waits else None),
        Target("no fault loses a finished round or a line of a log",
               "; ".join(losses) or f"none in {len(run)} records",
               not losses if run else None),
        Target("after every fault, and at the end, no process of ours is left without its command",
               f"{len(left)} processes in {len(run)} records and {len(runs)} ends", not left if run else None),
    ]  # fmt: skip


def _of(records: _Rows, name: str) -> _Rows:
    return [record for record in records if record["name"] == name]


def _is_whole(records: _Rows) -> bool:
    return bool(records) and not any(record["skipped"] for record in records)


def _back(records: _Rows, name: str, promise: str, bound: Callable[[Mapping[str, Any]], float]) -> Target:
    """Return the target that a hospital is back within a bound, at every moment."""
    rows = _of(records, name)
    parts, holds = [], []
    for record in rows:
        after = record["back_after_s"]
        if record["skipped"]:
            parts.append(f"{record['moment']}: not tried")
        elif after is None:
            parts.append(f"{record['moment']}: not back")
            holds.append(False)
        else:
            holds.append(after <= bound(record))
            parts.append(f"{record['moment']}: {after:.1f} s of {bound(record):.1f} s")
    return Target(promise, "; ".join(parts), False if False in holds else True if _is_whole(rows) else None)


def _resubmitted(records: _Rows) -> Target:
    """Return the target that `run` submits a study again after the SuperLink died."""
    rows = _of(records, "superlink")
    tried = [record for record in rows if not record["skipped"]]
    good = ["submitted the study again" in r["happened"] and r["back_after_s"] is not None for r in tried]
    return Target(
        "after the SuperLink was killed, `run` submits the study again by itself, and it goes on",
        f"{sum(good)} of {len(rows)} moments",
        False if False in good else True if _is_whole(rows) else None,
    )


def _same_model(records: _Rows) -> Target:
    """Return the target that a broken run ends in the model of an unbroken one."""
    rows = [record for record in _of(records, "same-model") if not record["skipped"]]
    digests = [set(record["figures"].get("model_sha256", {}).values()) for record in rows]
    return Target(
        "a study whose coordinator is killed again and again ends in the bits of an unbroken one",
        "; ".join(record["happened"] for record in rows),
        all(len(found) == 1 for found in digests) if rows else None,
    )
