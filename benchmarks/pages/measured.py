"""coordinator/report/measured.json: the figures of docs/results that the advice of a report cites."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import mean, median
from typing import Any

from benchmarks.pages.audit import CONTROLS, data_name, shown_pool, tried_pools
from benchmarks.pages.entries import Entry, of_kind
from coordinator.report.measured import (
    Measured,
    MeasuredBreak,
    MeasuredInversion,
    MeasuredPrivacy,
    MeasuredProtection,
    MeasuredTraining,
)

Record = Mapping[str, Any]


def measured_of(entries: Sequence[Entry]) -> Measured:
    """Return what the kept runs measured about ways to protect images. What was not run is left out."""
    figures: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for field, kind, read in (
        ("breaks", "audit-table", _breaks),
        ("inversions", "updates", _inversions),
        ("privacy", "privacy", _privacy),
        ("protections", "protection", _protections),
        ("training", "stem-accuracy", _training),
    ):
        # The newest run that measured it: not every run of a kind measures everything.
        for run in reversed(of_kind(entries, kind)):
            if value := read(run.result):
                figures[field] = value
                sources[field] = f"docs/results/{run.file}, {run.date}"
                break
    return Measured(schema_id=Measured().schema_id, **figures, sources=sources)


def _breaks(result: Record) -> tuple[MeasuredBreak, ...]:
    """Return each scheme on each kind of images, by the attack that needs the fewest of them."""
    best: dict[tuple[str, ...], MeasuredBreak] = {}
    for row in result["rows"]:
        shown = shown_pool(row)
        if shown is None or row["scheme"] in CONTROLS:
            continue
        item = MeasuredBreak(
            scheme=row["scheme"],
            options=" ".join(f"{name}={value}" for name, value in row["options"].items()),
            images=data_name(row),
            key_scope=row["scope"],
            attack=row["attack"],
            tried=tuple(pool["pool"] for pool in tried_pools(row)),
            smallest_pool=row["smallest_pool"],
            pool=shown["pool"],
            broken=shown["broken"],
            draws=shown["draws"],
            broken_earlier=tuple(
                (pool["pool"], pool["broken"])
                for pool in row["pools"]
                if pool["broken"] and pool["pool"] < shown["pool"]
            ),
            is_idle=shown.get("idle", 0) == shown["draws"],
            uncertain=shown.get("uncertain", 0),
            ssim=shown["ssim"],
        )
        case = (item.scheme, item.options, item.images, item.key_scope)
        if case not in best or _rank(item) < _rank(best[case]):
            best[case] = item
    return tuple(best.values())


def _rank(item: MeasuredBreak) -> tuple[bool, int]:
    """Return what orders attacks on one case: those that break it first, the smallest pool first."""
    return item.smallest_pool is None, item.smallest_pool or 0


def _inversions(result: Record) -> tuple[MeasuredInversion, ...]:
    return tuple(
        MeasuredInversion(update=row["stem"], found=row["found"])
        for part in ("solve", "steps")
        for row in result.get(part, ())
    )


def _privacy(result: Record) -> tuple[MeasuredPrivacy, ...]:
    rates: dict[float | None, list[float]] = {}
    for record in (r for r in result["accuracy"] if r["share"] == "head"):
        rates.setdefault(record["epsilon"], []).append(record["test"]["rate"])
    return tuple(
        MeasuredPrivacy(epsilon=epsilon, accuracy=mean(values), seeds=len(values))
        for epsilon, values in rates.items()
    )


def _protections(result: Record) -> tuple[MeasuredProtection, ...]:
    groups: dict[str, list[Record]] = {}
    for record in result["records"]:
        if (record["data"], record["part"]) == ("mri", "step"):
            groups.setdefault(record["protection"], []).append(record)
    return tuple(
        MeasuredProtection(
            protection=name,
            ssim=median(value for record in records for value in record["solve SSIM"]),
            confirmed=sum(record["batch confirmed"] for record in records),
            members=sum(record["batch members"] for record in records),
        )
        for name, records in groups.items()
    )


def _training(result: Record) -> MeasuredTraining | None:
    accuracy = {row["run"]: row["test accuracy"] for row in result["summary"]}
    federated, central = accuracy.get("federated, stem plain"), accuracy.get("central, plain images")
    if federated is None or central is None:
        return None
    return MeasuredTraining(
        protocol=result["protocol"], federated=_in_percent(federated), central=_in_percent(central)
    )


def _in_percent(summary: str) -> str:
    """Return "0.9650 ± 0.0033 (0.9617–0.9683)" as "96.5 ± 0.3 % (96.2–96.8 %)"."""
    mean, deviation, low, high = (100 * float(number) for number in re.findall(r"\d+\.\d+", summary))
    return f"{mean:.1f} ± {deviation:.1f} % ({low:.1f}–{high:.1f} %)"
