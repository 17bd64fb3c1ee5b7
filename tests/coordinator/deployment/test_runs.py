"""Running a study: what is submitted again, what is not, and that a run that is under way is joined."""

from __future__ import annotations

import contextlib
import datetime
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.supernode.start_client_internal import FAB_VERIFICATION_ERROR

from coordinator.deployment import runs
from coordinator.deployment.bundle import bundle_digest
from coordinator.deployment.control import Node, Run
from coordinator.deployment.enrolment import enrol, node_key_pem, read_public_keys, read_roster
from coordinator.deployment.folder import DeploymentFolder
from coordinator.deployment.running import ServerNotRunningError
from coordinator.deployment.runs import run_study, stop_runs
from coordinator.exchange.manifest import write_manifest
from crypto.errors import CipherwardError
from tests.support import hospitals
from tests.support.deployment import PLAN, provisioned, write_keys


class FakeServer:
    """A SuperLink whose runs end as they are told to.

    Attributes:
        endings: what each submitted run does; it returns the run's status.
        away: how many connections fail from now on.
        node_answers: which SuperNodes it knows, for one question after the other; then none.
    """

    def __init__(self, study: Path) -> None:
        self.study = study
        self.endings: list[Callable[[], str]] = []
        self.submitted: list[tuple[str, dict[str, str]]] = []
        self.all: list[Run] = []
        self.logs: dict[int, str] = {}
        self.away = 0
        self.node_answers: list[list[Node]] = []

    @contextlib.contextmanager
    def connect(self, _place: DeploymentFolder) -> Iterator[FakeServer]:
        if self.away:
            self.away -= 1
            raise ServerNotRunningError("no server")
        yield self

    def runs(self) -> list[Run]:
        return self.all

    def nodes(self) -> list[Node]:
        return self.node_answers.pop(0) if self.node_answers else []

    def start_run(self, bundle: bytes, digest: str, run_config: dict[str, str]) -> int:
        assert digest == bundle_digest(bundle)
        self.submitted.append((digest, run_config))
        number = len(self.submitted)
        status = self.endings.pop(0)()
        self.all.append(Run(number, status, "killed", digest, run_config["study-dir"], 0, 0))
        return number

    def read_log(self, run_id: int) -> str:
        return self.logs.get(run_id, "nothing of ours\n")

    def stop_run(self, run_id: int) -> None:
        self.all = [Run(r.run_id, "finished:stopped", "", "", r.study, 0, 0) for r in self.all]

    def round(self, number: int) -> None:
        with open(self.study / "cloud" / "rounds.jsonl", "a") as journal:
            journal.write(json.dumps({"round": number}) + "\n")

    def complete(self) -> str:
        self.round(3)
        (self.study / "cloud" / "training.json").write_text('{"best_round": 3}')
        return "finished:completed"


@pytest.fixture
def place(tmp_path: Path) -> DeploymentFolder:
    return provisioned(tmp_path)


@pytest.fixture
def server(place: DeploymentFolder, monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    fake = FakeServer(place.study_folder("small"))
    monkeypatch.setattr(runs, "connect_to", fake.connect)
    monkeypatch.setattr(runs, "_LOOK_S", 0.0)
    return fake


def run(place: DeploymentFolder, plan: Path | None = None) -> tuple[dict[str, Any], list[str], list[int]]:
    lines: list[str] = []
    shown: list[int] = []
    training = run_study(place, plan, lines.append, lambda row: shown.append(row["round"]))
    return training, lines, shown


def test_a_run_that_the_server_lost_is_submitted_again(place: DeploymentFolder, server: FakeServer) -> None:
    def lose() -> str:
        server.round(len(server.submitted))
        server.away = 3
        return "finished:failed"

    server.endings = [lose, lose, server.complete]
    training, lines, shown = run(place)
    assert training == {"best_round": 3} and shown == [1, 2, 3] and len(server.submitted) == 3
    assert server.submitted[0] == (
        bundle_digest(place.bundle.read_bytes()),
        {"study-dir": str(server.study)},
    )
    assert sum("it is submitted again" in line for line in lines) == 2
    assert place.log("run-1").read_text() == "nothing of ours\n"
    # A second command finds the result, and submits nothing.
    training, lines, _ = run(place)
    assert training == {"best_round": 3} and len(server.submitted) == 3
    assert lines[-1] == f"small is trained already: {server.study / 'cloud' / 'training.json'}"


def test_our_own_error_ends_it_because_it_would_come_again(
    place: DeploymentFolder, server: FakeServer
) -> None:
    server.endings = [lambda: "finished:failed"]
    server.logs[1] = "Traceback\ncrypto.errors.CipherwardError: 1 of 2 parties came within 5 s\nmore\n"
    with pytest.raises(CipherwardError, match=r"^1 of 2 parties came within 5 s"):
        run(place)
    assert len(server.submitted) == 1


def test_no_hospital_puts_words_into_our_error(place: DeploymentFolder, server: FakeServer) -> None:
    said = "hospital-1 (node-5) is refused: it was sealed with CipherwardError: provision again 1"
    server.logs[1] = f"{said}\nINFO: {said}\n"
    server.endings = [lambda: "finished:failed", server.complete]
    assert run(place)[0] == {"best_round": 3} and len(server.submitted) == 2


def test_a_result_of_another_manifest_is_no_result(
    place: DeploymentFolder, server: FakeServer, tmp_path: Path
) -> None:
    server.endings = [server.complete]
    assert run(place)[0] == {"best_round": 3}
    result = server.study / "cloud" / "training.json"
    result.write_text('{"best_round": 3, "manifest_sha256": "earlier"}')
    places = hospitals.seal_hospitals(tmp_path / "h", hospitals.plan(counts=(8, 4, 4)))
    write_manifest(place.study, hospitals.agree(places, hospitals.plan(counts=(8, 4, 4))))
    with pytest.raises(CipherwardError, match="under another study manifest"):
        run(place)
    assert not (server.study / "study.json").exists()


def test_hospitals_without_a_carried_approval_are_named_with_the_command_that_helps(
    place: DeploymentFolder, server: FakeServer
) -> None:
    """The words are Flower's own, so that another version of it fails here."""
    server.endings = [lambda: "finished:failed"]
    refusal = f"0 of 2 parties are usable: node-7: error: {FAB_VERIFICATION_ERROR.reason}"
    server.logs[1] = f"crypto.errors.CipherwardError: {refusal}\n"
    lines: list[str] = []
    with pytest.raises(CipherwardError, match=r"could not be verified") as error:
        run_study(place, None, lines.append, lambda _: None)
    for text in (lines[0], error.value.hint):
        assert "hospital-0, hospital-1" in text
        assert f"cipherward-coordinator carry {place.root} APPROVAL.json" in text


def test_after_a_loss_hospitals_that_are_not_back_yet_are_waited_for(
    place: DeploymentFolder, server: FakeServer
) -> None:
    server.endings = [lambda: "finished:failed", lambda: "finished:failed", server.complete]
    server.logs[2] = "crypto.errors.CipherwardError: 1 of 2 parties are usable: node-7: no answer\n"
    assert run(place)[0] == {"best_round": 3} and len(server.submitted) == 3


@pytest.mark.parametrize(
    "error",
    [
        "round 3: fewer than 3 usable replies in 2 attempts (hospital-1: no answer)",
        "only 0 of 3 parties evaluated round 3 on val: hospital-1: no answer",
    ],
)
def test_a_round_that_failed_because_the_server_was_away_is_no_end(
    place: DeploymentFolder, server: FakeServer, error: str
) -> None:
    def lose() -> str:
        server.away = 2
        return "finished:failed"

    server.logs[1] = f"crypto.errors.CipherwardError: {error}\n"
    server.endings = [lose, server.complete]
    assert run(place)[0] == {"best_round": 3} and len(server.submitted) == 2
    # The same without a loss of the server would come again.
    (server.study / "cloud" / "training.json").unlink()
    server.logs[3], server.endings = server.logs[1], [lambda: "finished:failed"]
    with pytest.raises(CipherwardError, match=error[:20]):
        run(place)


def test_a_run_that_is_lost_without_end_is_given_up(place: DeploymentFolder, server: FakeServer) -> None:
    server.endings = [lambda: "finished:failed"] * 9
    with pytest.raises(CipherwardError, match="lost 6 times without a further round: killed"):
        run(place)


def test_without_a_server_the_command_says_so_and_ends_soon(
    place: DeploymentFolder, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "_SERVER_UNSEEN_S", 0.2)
    server.away, lines = 1 << 60, list[str]()
    with pytest.raises(CipherwardError, match="no server"):
        run_study(place, None, lines.append, lambda row: None)
    assert [line for line in lines if line.startswith("no server; waiting for it, at most 0 s")] == lines[
        -1:
    ]
    # One that is just starting is waited for.
    monkeypatch.setattr(runs, "_SERVER_UNSEEN_S", 60.0)
    server.away, server.endings = 3, [server.complete]
    assert run(place)[0] == {"best_round": 3}


def test_a_stopped_run_is_not_submitted_again(place: DeploymentFolder, server: FakeServer) -> None:
    server.endings = [lambda: "finished:stopped"]
    with pytest.raises(CipherwardError, match="run 1 was stopped"):
        run(place)


def test_a_run_of_this_study_is_joined_and_one_of_another_is_named(
    place: DeploymentFolder, server: FakeServer
) -> None:
    server.all = [Run(7, "running", "", "", "/other/study", 0, 0)]
    with pytest.raises(CipherwardError, match=r"run 7 of another study is under way \(/other/study\)"):
        run(place)
    looks = 0

    def finish_at_the_third_look() -> list[Run]:
        nonlocal looks
        looks += 1
        if looks == 3:
            server.complete()
        status = "running" if looks < 3 else "finished:completed"
        return [Run(7, status, "", "", str(server.study), 0, 0)]

    server.runs = finish_at_the_third_look  # type: ignore[method-assign]
    assert run(place)[0] == {"best_round": 3}
    assert server.submitted == [] and looks >= 3


def test_who_is_not_online_is_said_each_time_that_it_changes(
    place: DeploymentFolder, server: FakeServer, tmp_path: Path
) -> None:
    """A run that waits for a hospital said that it was still at work, for as long as the plan's deadline."""
    for name in place.settings.hospitals:
        enrol(place, read_public_keys(write_keys(tmp_path, name)[1]))
    roster, now = read_roster(place), datetime.datetime.now(datetime.UTC)
    nodes = [
        Node(number, node_key_pem(roster[name].node_key), True, now)
        for number, name in enumerate(place.settings.hospitals)
    ]
    server.node_answers = [nodes[:1], nodes[:1], nodes]
    looks = 0

    def finish_at_the_sixth_look() -> list[Run]:
        nonlocal looks
        looks += 1
        if looks == 6:
            server.complete()
        status = "running" if looks < 6 else "finished:completed"
        return [Run(7, status, "", "", str(server.study), 0, 0)]

    server.runs = finish_at_the_sixth_look  # type: ignore[method-assign]
    lines = run(place)[1]
    assert [line for line in lines if not line.startswith(("no approval", "run 7"))] == [
        "not online: hospital-1 (offline)",
        "all hospitals are online",
    ]


def test_another_plan_under_the_same_name_is_refused(
    place: DeploymentFolder, server: FakeServer, tmp_path: Path
) -> None:
    server.endings = [server.complete]
    run(place)
    other = tmp_path / "other.yaml"
    other.write_text(PLAN.replace("rounds: 3", "rounds: 4"))
    with pytest.raises(CipherwardError, match="was begun with another plan"):
        run(place, other)
    other.write_text(PLAN.replace("parties: 2", "parties: 3"))
    with pytest.raises(CipherwardError, match="the plan is for 3 hospitals, and this federation has 2"):
        run(place, other)


def test_stop_ends_what_is_under_way(place: DeploymentFolder, server: FakeServer) -> None:
    assert stop_runs(place) == []
    server.all = [Run(7, "running", "", "", str(server.study), 0, 0)]
    assert stop_runs(place) == [7] and stop_runs(place) == []
