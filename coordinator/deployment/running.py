"""The server of a deployment that is running now, as other commands find it: by the file that `serve` writes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from coordinator.deployment.control import Control, SuperLinkUnreachableError, connect
from coordinator.deployment.enrolment import read_roster, reconcile
from coordinator.deployment.folder import DeploymentFolder
from coordinator.exchange.console import Log
from crypto.errors import CipherwardError
from crypto.files import read_json, write_json


class ServerNotRunningError(CipherwardError):
    """No `serve` runs for a folder."""


def read_serving(place: DeploymentFolder) -> dict[str, object]:
    """Return what `serve` wrote when it started. Raise CipherwardError if none is running for this folder."""
    value = read_json(place.serving, "running server") if place.serving.exists() else {}
    if not isinstance(value, dict) or not Path(str(value.get("socket", ""))).is_socket():
        raise ServerNotRunningError(
            f"no server is running for {place.root}",
            f"start one: cipherward-coordinator serve {place.root}",
        )
    return value


@contextlib.contextmanager
def connect_to(place: DeploymentFolder) -> Iterator[Control]:
    """Connect to the running server's Control API. Raise CipherwardError if none is running for this folder."""
    with connect(Path(str(read_serving(place)["socket"])), place.ca_certificate) as control:
        yield control


def reconcile_running(place: DeploymentFolder, log: Log) -> bool:
    """Make a running server take the roster, and say whether one is running."""
    try:
        with connect_to(place) as control:
            nodes = reconcile(read_roster(place), control, log)
    except (ServerNotRunningError, SuperLinkUnreachableError):
        return False
    about = read_serving(place)
    write_json(place.serving, {**about, "nodes": {str(node): name for node, name in nodes.items()}})
    return True
