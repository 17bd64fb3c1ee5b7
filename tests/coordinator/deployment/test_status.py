"""What `status` tells, with and without a running server."""

from __future__ import annotations

import contextlib
import datetime
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.proto.control_pb2 import ListNodesResponse, ListRunsResponse
from flwr.proto.node_pb2 import NodeInfo

from coordinator.deployment import status
from coordinator.deployment.control import Control, Node, Run
from coordinator.deployment.enrolment import enrol, node_key_pem, read_public_keys, read_roster, revoke
from coordinator.deployment.folder import DeploymentFolder
from coordinator.deployment.provision import now_utc
from coordinator.deployment.status import read_status, status_lines
from tests.support.deployment import provisioned, write_keys


@pytest.fixture
def place(tmp_path: Path) -> DeploymentFolder:
    place = provisioned(tmp_path)
    enrol(place, read_public_keys(write_keys(tmp_path, "hospital-0")[1]))
    return place


def test_without_a_server_it_says_so_and_shows_the_roster(place: DeploymentFolder) -> None:
    state = read_status(place)
    assert state["server"].startswith("no server is running") and state["run"] is None
    assert [h["state"] for h in state["hospitals"]] == ["offline", "not enrolled"]
    assert json.loads(json.dumps(state)) == state
    revoke(place, "hospital-0")
    assert [h["state"] for h in read_status(place)["hospitals"]] == ["revoked", "not enrolled"]


def test_without_a_server_its_line_says_that_once(place: DeploymentFolder) -> None:
    first = status_lines(read_status(place))[0]
    assert ": no server is running for " in first and "server no server" not in first


def test_who_left_is_offline_since_it_left(
    place: DeploymentFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flower ends the time of a SuperNode that leaves at once: it was said to have been seen a minute earlier."""
    now = now_utc()
    key = node_key_pem(read_roster(place)["hospital-0"].node_key)

    def info(state: str, seconds: float) -> NodeInfo:
        until = now.timestamp() + seconds
        return NodeInfo(
            node_id=7, public_key=key, status=state, online_until=until, heartbeat_interval=30.0
        )

    class Client:
        answer = info("offline", -12.0)

        def ListNodes(self, _request: Any) -> ListNodesResponse:  # noqa: N802 -- Flower's name
            return ListNodesResponse(nodes_info=[self.answer])

        def ListRuns(self, _request: Any) -> ListRunsResponse:  # noqa: N802 -- Flower's name
            return ListRunsResponse()

    client = Client()

    @contextlib.contextmanager
    def connect(_place: DeploymentFolder) -> Iterator[Control]:
        yield Control(client)

    monkeypatch.setattr(status, "connect_to", connect)
    monkeypatch.setattr(status, "now_utc", lambda: now)
    state = read_status(place)
    assert state["hospitals"][0]["last_seen"] is None and state["hospitals"][0]["offline_s"] == 12
    assert "  hospital-0: offline for 12 s" in status_lines(state)[2]
    client.answer = info("online", 40.0)
    state = read_status(place)
    assert state["hospitals"][0]["offline_since"] is None
    assert "  hospital-0: online, last seen 20 s ago" in status_lines(state)[2]


def test_it_shows_nodes_rounds_bytes_and_warnings(
    place: DeploymentFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = place.study_folder("small")
    (study / "cloud").mkdir(parents=True)
    row = {
        "round": 2, "parties": ["hospital-0"], "absent": ["hospital-1"], "refused": {},
        "bytes_down": 10**6, "bytes_up": 2 * 10**6, "seconds": 4.0,
    }  # fmt: skip
    (study / "cloud" / "rounds.jsonl").write_text(json.dumps(row) + "\n")
    last_seen = now_utc() - datetime.timedelta(seconds=5)

    class FakeControl:
        def nodes(self) -> list[Node]:
            return [Node(2**63, node_key_pem(read_roster(place)["hospital-0"].node_key), True, last_seen)]

        def runs(self) -> list[Run]:
            return [
                Run(1, "finished:failed", "", "", "/x", 0, 0),
                Run(2, "running", "", "", str(study), 7, 8),
            ]

    @contextlib.contextmanager
    def connect(_place: DeploymentFolder) -> Iterator[Any]:
        yield FakeControl()

    monkeypatch.setattr(status, "connect_to", connect)
    later = now_utc() + datetime.timedelta(days=350)
    monkeypatch.setattr(status, "now_utc", lambda: later)
    state = read_status(place)
    assert state["hospitals"][0]["state"] == "online" and state["hospitals"][0]["node_id"] == str(2**63)
    assert state["run"]["study"] == "small" and state["run"]["last_round"]["round"] == 2
    assert (state["run"]["bytes_to_hospitals"], state["run"]["bytes_from_hospitals"]) == (7, 8)
    text = "\n".join(status_lines(state))
    assert "round 2: hospital-0 replied; absent: hospital-1; 3.0 MB, 4 s" in text
    assert "warning: the server's certificate expires in 14 days" in text or "in 15 days" in text
