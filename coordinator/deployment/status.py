"""What a federation's server knows: who is online, the run, its rounds, bytes, versions, and what expires soon."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from coordinator.deployment.approvals import missing_approvals
from coordinator.deployment.bundle import bundle_digest
from coordinator.deployment.certificates import describe_expiries, read_expiry
from coordinator.deployment.control import Node, Run
from coordinator.deployment.enrolment import Enrolled, node_key_pem, read_roster
from coordinator.deployment.folder import DeploymentFolder
from coordinator.deployment.provision import now_utc
from coordinator.deployment.running import connect_to
from coordinator.deployment.serve import LOW_DISK
from coordinator.exchange.versions import installed_versions
from crypto.errors import CipherwardError
from crypto.files import read_lines
from crypto.identity import PublicIdentity


def read_status(place: DeploymentFolder) -> dict[str, Any]:
    """Return the state of a deployment as JSON values. A server that does not run is a state, too.

    Raises:
        CipherwardError: if the folder is not provisioned or damaged.
    """
    settings, now = place.settings, now_utc()
    nodes: list[Node] = []
    runs: list[Run] = []
    try:
        with connect_to(place) as control:
            nodes, runs = control.nodes(), control.runs()
        server = "running"
    except CipherwardError as error:
        server = error.message
    last = runs[-1] if runs else None
    by_key = {node.public_key: node for node in nodes}
    roster = read_roster(place)
    missing = missing_approvals(place)
    warnings = describe_expiries(place.ca_certificate, place.server, now)
    free = shutil.disk_usage(place.root).free
    if free < LOW_DISK:
        warnings.append(f"{free / 1e9:.1f} GB are free on the disk")
    return {
        "federation": settings.name,
        "address": settings.dial,
        "server": server,
        "versions": installed_versions(),
        "bundle_sha256": bundle_digest(place.read_bundle()),
        "certificate_expires": read_expiry(place.server).isoformat(),
        "database_bytes": place.database.stat().st_size if place.database.exists() else 0,
        "hospitals": [
            _hospital(name, roster.get(name), by_key, now) | {"code_approved": name not in missing}
            for name in settings.hospitals
        ],
        "run": None if last is None else _run(place, last),
        "warnings": warnings,
    }


def _hospital(
    name: str, entry: Enrolled | None, by_key: Mapping[bytes, Node], now: datetime.datetime
) -> dict[str, Any]:
    """Return what is known of one hospital."""
    if entry is None:
        return {"hospital": name, "state": "not enrolled", "fingerprint": "", "last_seen": None}
    node = None if entry.is_revoked else by_key.get(node_key_pem(entry.node_key))
    state = (
        "revoked" if entry.is_revoked else "online" if node is not None and node.is_online else "offline"
    )
    last_seen = None if node is None else node.last_seen
    offline_since = None if node is None else node.offline_since
    return {
        "hospital": name,
        "state": state,
        "fingerprint": PublicIdentity.parse(entry.identity).fingerprint,
        "last_seen": None if last_seen is None else last_seen.isoformat(timespec="seconds"),
        "seconds_ago": None if last_seen is None else _seconds(last_seen, now),
        "offline_since": None if offline_since is None else offline_since.isoformat(timespec="seconds"),
        "offline_s": None if offline_since is None else _seconds(offline_since, now),
        "node_id": None if node is None else str(node.node_id),
    }


def _seconds(then: datetime.datetime, now: datetime.datetime) -> int:
    """Return the whole seconds from then to now, never a negative number: two clocks may differ."""
    return max(0, round((now - then).total_seconds()))


def describe_absent(place: DeploymentFolder, nodes: Sequence[Node]) -> str:
    """Return which hospitals are not online and why, such as "hospital-0 (offline)"; "" if all are.

    Raises:
        CipherwardError: if the roster is damaged.
    """
    roster, now = read_roster(place), now_utc()
    by_key = {node.public_key: node for node in nodes}
    states = {
        name: _hospital(name, roster.get(name), by_key, now)["state"] for name in place.settings.hospitals
    }
    return ", ".join(f"{name} ({state})" for name, state in states.items() if state != "online")


def _run(place: DeploymentFolder, run: Run) -> dict[str, Any]:
    """Return what is known of a run, with the last line of its study's journal."""
    studies = place.root / "studies"
    study = next((path for path in sorted(studies.glob("*")) if str(path) == run.study), None)
    rows = [] if study is None else read_lines(study / "cloud" / "rounds.jsonl")
    return {
        "id": str(run.run_id),
        "status": run.status,
        "study": "" if study is None else study.name,
        "bytes_to_hospitals": run.bytes_sent,
        "bytes_from_hospitals": run.bytes_received,
        "last_round": rows[-1] if rows else None,
    }


def status_lines(status: Mapping[str, Any]) -> list[str]:
    """Return a status as lines of text."""
    lines = [
        f"{status['federation']} at {status['address']}: "
        + ("server running" if status["server"] == "running" else status["server"]),
        f"app bundle {status['bundle_sha256'][:16]}, "
        + ", ".join(f"{name} {version}" for name, version in sorted(status["versions"].items())),
    ]
    for hospital in status["hospitals"]:
        ago, away = hospital.get("seconds_ago"), hospital.get("offline_s")
        seen = (
            f", last seen {ago} s ago" if ago is not None else f" for {away} s" if away is not None else ""
        )
        code = "" if hospital["code_approved"] else "; no approval of the app bundle is here"
        lines.append(f"  {hospital['hospital']}: {hospital['state']}{seen}{code}")
    run = status["run"]
    if run is not None:
        total = (run["bytes_to_hospitals"] + run["bytes_from_hospitals"]) / 1e6
        lines.append(
            f"run {run['id']} of {run['study'] or 'another study'}: {run['status']}, {total:.1f} MB in all"
        )
        if row := run["last_round"]:
            lines.append(
                f"  round {row['round']}: {', '.join(row['parties']) or 'nobody'} replied"
                + (f"; absent: {', '.join(row['absent'])}" if row["absent"] else "")
                + (f"; refused: {', '.join(row['refused'])}" if row["refused"] else "")
                + f"; {(row['bytes_down'] + row['bytes_up']) / 1e6:.1f} MB, {row['seconds']:.0f} s"
            )
    return lines + [f"warning: {text}" for text in status["warnings"]]
