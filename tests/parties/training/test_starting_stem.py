"""Under secure aggregation a round starts from a stem that a sum committed, and from none that the cloud chose."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from coordinator.exchange.plan import Plan
from coordinator.exchange.secure_sum import RECORD, SumSettings, encode_update, write_record
from coordinator.federation.participants import Federation
from coordinator.federation.secure_rounds import SecureOutcome, attempt_secure_round
from coordinator.model.shares import shared_names
from coordinator.model.vit import build_model, pack
from crypto.arrays import Float32Array, UInt32Array
from crypto.files import write_atomic
from parties.sealing.place import Place
from parties.training.policy import Policy
from parties.training.policy_file import read_policy
from parties.training.provisional_stem import commit_stem
from parties.training.stem_file import own_stem_digest
from tests.support import hospitals
from tests.support.hospitals import agree, federate, make_grid, one_core, read_journal, seal_hospitals
from tests.support.local_grid import FIRST_NODE

__all__ = ["one_core"]


def plan(**changes: Any) -> Plan:
    """Return a plan of three hospitals that keep their own stems, in sums."""
    settings = {"parties": 3, "stem": "private", "counts": (36, 12, 12), "rounds": 3, "grace_s": 0.2}
    return hospitals.plan(**settings | changes)


class Cloud:
    """A coordinator that may lie: it sends what it likes to whom it likes."""

    def __init__(self, places: Sequence[Place], p: Plan) -> None:
        self.places, self.plan, self.manifest = places, p, agree(list(places), p)
        self.grid = make_grid(list(places))
        self.federation = Federation(self.grid, p, self.manifest)
        self.federation.gather()
        model = build_model(p, hospitals.CLASSES)
        self.model = pack(model, shared_names(model, p))
        #: A model that no honest round gave.
        self.lie = self.model + np.random.default_rng(0).normal(0, 1, self.model.shape).astype(np.float32)

    def message(self, weights: Float32Array, round_: int, hospital: int, **settings: Any) -> Message:
        """Return a training message to a hospital."""
        named = {"plan": self.plan.model_dump_json(), "manifest": self.manifest.digest}
        config = {**named, "server-round": round_, "best-round": 0, **settings}
        content = {
            "arrays": ArrayRecord({"model": Array(weights)}),
            "config": ConfigRecord(dict(config)),
        }
        return Message(RecordDict(content), dst_node_id=FIRST_NODE + hospital, message_type="train")

    def train_alone(self, weights: Float32Array, round_: int, hospital: int = 0, **settings: Any) -> str:
        """Send one hospital a training message that no sum follows. Return its error, or ""."""
        message = self.message(weights, round_, hospital, attempt=secrets.token_hex(16), **settings)
        (answer,) = self.grid.send_and_receive([message])
        return str(answer.error.reason) if answer.has_error() else ""

    def sum(
        self, weights: Float32Array, round_: int, of: Sequence[int] | None = None, best: int = 0
    ) -> SecureOutcome:
        """Run an attempt at a round with these hospitals, by default with all."""
        members = range(len(self.places)) if of is None else of
        messages = [self.message(weights, round_, hospital, **{"best-round": best}) for hospital in members]
        settings = SumSettings.of(self.manifest, self.plan.privacy)
        return attempt_secure_round(self.federation, settings, messages, weights, round_, False)

    def loss(self, round_: int, hospital: int = 0) -> float:
        """Return the loss on val that a hospital's evaluation shows."""
        message = self.message(self.model, round_, hospital)
        config = message.content["config"]
        del config["best-round"]
        config["split"] = "val"
        again = Message(message.content, dst_node_id=FIRST_NODE + hospital, message_type="evaluate")
        (answer,) = self.grid.send_and_receive([again])
        assert not answer.has_error(), answer.error.reason
        return float(answer.content["metrics"]["loss"])


def total(outcome: SecureOutcome) -> UInt32Array:
    assert outcome.total is not None, (outcome.error, outcome.refused)
    return outcome.total


def stored_update(place: Place) -> UInt32Array:
    """Return the update that a hospital keeps: what the cloud must not get."""
    (path,) = place.private.glob("secure_sum/*/update.npz")
    with np.load(path) as file:
        vector: UInt32Array = file["vector"]
    return vector


def stem_of(place: Place, round_: int) -> bytes:
    return own_stem_digest(place, read_policy(place), round_)


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> list[Place]:
    return seal_hospitals(tmp_path_factory.mktemp("stems"), plan())


def copy(places: Sequence[Place], folder: Path) -> list[Place]:
    copies = []
    for place in places:
        shutil.copytree(place.folder, folder / place.folder.name)
        copies.append(Place.open(folder / place.folder.name))
    return copies


@pytest.fixture
def cloud(sealed: list[Place], tmp_path: Path) -> Cloud:
    return Cloud(copy(sealed, tmp_path), plan())


@pytest.mark.long
def test_a_summed_round_that_is_repeated_gives_the_same_sum_whatever_a_hospital_was_sent_between(
    cloud: Cloud,
) -> None:
    """A cloud sends one hospital an earlier round with another model, to change the stem of the repeated round."""
    total(cloud.sum(cloud.model, 1))
    first = total(cloud.sum(cloud.model, 2))
    before = [stored_update(place) for place in cloud.places]
    assert "masked an update of round 1 that answers another request" in cloud.train_alone(cloud.lie, 1)
    again = total(cloud.sum(cloud.model, 2))
    assert np.array_equal(again, first)
    for place, update in zip(cloud.places, before, strict=True):
        assert np.array_equal(stored_update(place), update)
    refusals = (cloud.places[0].private / "refusals.jsonl").read_text()
    assert "secure_aggregation" in refusals and "another request" in refusals


@pytest.mark.parametrize("changes", [{"stem": "learn"}, {"stem": "plain"}, {"stem_frozen": True}])
def test_a_round_has_one_update_of_a_hospital_under_every_stem(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    """Without a stem of its own, a hospital could be sent another setting in the repeated round alone."""
    p = plan(privacy={"secure_aggregation": True}, rounds=4, **changes)
    cloud = Cloud(seal_hospitals(tmp_path, p), p)
    total(cloud.sum(cloud.model, 1))
    first = total(cloud.sum(cloud.model, 2))
    for refused in (
        cloud.train_alone(cloud.model, 2, **{"best-round": 1}),
        cloud.train_alone(cloud.lie, 2),
        cloud.train_alone(cloud.lie, 1),
    ):
        assert refused
    larger = p.model_copy(update={"batch": p.batch + 1})  # as many steps: the policy accepts it
    assert larger.steps_per_round(12) == p.steps_per_round(12)
    honest, cloud.plan = cloud.plan, larger
    assert "answers another request" in cloud.train_alone(cloud.model, 2)
    cloud.plan = honest
    assert np.array_equal(total(cloud.sum(cloud.model, 2)), first)


@pytest.mark.long
@pytest.mark.parametrize("round_", [1, 2])
def test_before_its_first_sum_a_round_cannot_be_steered_by_a_message_to_one_hospital(
    cloud: Cloud, tmp_path: Path, round_: int
) -> None:
    """The twins of the hospitals are sent no lie, and send the same updates."""
    total(cloud.sum(cloud.model, 1))
    (tmp_path / "twins").mkdir()
    twins = Cloud(copy(cloud.places, tmp_path / "twins"), cloud.plan)
    stem, loss = stem_of(cloud.places[0], 3), cloud.loss(2)
    refused = cloud.train_alone(cloud.lie, round_)
    assert bool(refused) == (
        round_ == 1
    )  # of round 2 no update was masked yet: it is trained, and changes nothing
    assert stem_of(cloud.places[0], 3) == stem and cloud.loss(2) == loss
    assert np.array_equal(total(cloud.sum(cloud.model, 2)), total(twins.sum(cloud.model, 2)))
    for place, twin in zip(cloud.places, twins.places, strict=True):
        assert np.array_equal(stored_update(place), stored_update(twin))
        assert stem_of(place, 2) == stem_of(twin, 2) != stem_of(place, 1)


def test_a_sum_that_failed_commits_no_stem_and_its_repetition_does(cloud: Cloud) -> None:
    def lose(node: int, reply: Message) -> Message:
        is_signature = reply.metadata.message_type == "query.confirm" and node == FIRST_NODE
        if is_signature:
            reply.content["sum"] = ConfigRecord({"json": "{}"})
        return reply

    before = [stem_of(place, 1) for place in cloud.places]
    cloud.grid.tamper = lose
    assert cloud.sum(cloud.model, 1).total is None
    assert [stem_of(place, 1) for place in cloud.places] == before == [b""] * 3
    cloud.grid.tamper = lambda node, reply: reply
    total(cloud.sum(cloud.model, 1))
    assert all(stem_of(place, 1) for place in cloud.places)


@pytest.mark.long
@pytest.mark.parametrize(
    "where", ["before the commit", "in the commit", "after the commit", "after the note"]
)
def test_a_hospital_that_is_killed_while_it_reveals_is_as_its_twin_after_the_repetition(
    cloud: Cloud, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "twins").mkdir()
    twins = Cloud(copy(cloud.places, tmp_path / "twins"), cloud.plan)
    total(twins.sum(cloud.model, 1))
    is_alive = [True]

    def kill(*_: object) -> None:
        if is_alive:
            is_alive.clear()
            raise RuntimeError("killed")

    def commit(place: Place, policy: Policy, request: str, keeps_later: bool) -> None:
        if where == "before the commit":
            kill()
        commit_stem(place, policy, request, keeps_later)
        if where == "after the commit":
            kill()

    def write(path: Path, fill: Callable[[Path], None]) -> None:
        write_atomic(path, fill)
        if where == "after the note" and path.name == "summed.json":
            kill()

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if where == "in the commit" and path.suffix == ".safetensors":
            kill()
        plain_unlink(path, missing_ok)

    plain_unlink = Path.unlink
    with monkeypatch.context() as patch:
        patch.setattr("parties.training.secure_sum.commit_stem", commit)
        patch.setattr("parties.training.secure_sum.write_atomic", write)
        patch.setattr(Path, "unlink", unlink)
        assert cloud.sum(cloud.model, 1).total is None and not is_alive
    total(cloud.sum(cloud.model, 1))
    assert np.array_equal(total(cloud.sum(cloud.model, 2)), total(twins.sum(cloud.model, 2)))
    for place, twin in zip(cloud.places, twins.places, strict=True):
        assert [stem_of(place, r) for r in (1, 2)] == [stem_of(twin, r) for r in (1, 2)]


@pytest.mark.long
def test_a_hospital_that_drops_out_of_a_round_starts_the_next_one_from_its_last_committed_stem(
    tmp_path: Path,
) -> None:
    """One of five misses the end of round 1: its update is in the sum, and it does not know."""
    p = plan(parties=5, quorum=4, counts=(40, 10, 10), deadline_s=5.0, privacy={"min_sum": 4})
    cloud = Cloud(seal_hospitals(tmp_path, p), p)
    place = cloud.places[0]
    answered = cloud.grid.app

    def deaf(message: Message, context: Any) -> Message:
        if context.node_id == FIRST_NODE and message.metadata.message_type in (
            "query.confirm",
            "query.reveal",
        ):
            raise RuntimeError("away")
        reply: Message = answered(message, context)
        return reply

    cloud.grid.app = deaf
    outcome = cloud.sum(cloud.model, 1)
    total(outcome)
    assert outcome.parties == [f"hospital-{i}" for i in range(5)]
    assert stem_of(place, 1) == b"" and all(stem_of(other, 1) for other in cloud.places[1:])
    # Its update may be in a sum: it gives no other one of this round.
    assert "answers another request" in cloud.train_alone(cloud.lie, 1)
    cloud.grid.app = answered
    total(cloud.sum(cloud.model, 2))
    assert stem_of(place, 2) and "round 1" in cloud.train_alone(cloud.lie, 1)


@pytest.mark.long
def test_a_hospital_that_was_away_cannot_be_asked_for_that_round_later(tmp_path: Path) -> None:
    p = plan(parties=5, quorum=4, counts=(40, 10, 10), deadline_s=5.0, privacy={"min_sum": 4})
    cloud = Cloud(seal_hospitals(tmp_path, p), p)
    total(cloud.sum(cloud.model, 1, of=range(1, 5)))
    assert stem_of(cloud.places[0], 1) == b""
    outcome = cloud.sum(cloud.model, 2)
    total(outcome)
    assert "hospital-0" in outcome.parties and stem_of(cloud.places[0], 2)
    assert "round 1 is over" in cloud.train_alone(cloud.model, 1)


@pytest.mark.long
def test_a_coordinator_that_lost_its_checkpoint_repeats_the_rounds_as_they_were(
    sealed: list[Place], tmp_path: Path
) -> None:
    places = copy(sealed, tmp_path)
    state, _ = federate(places, plan(), tmp_path / "cloud")
    stems = [stem_of(place, 3) for place in places]
    (tmp_path / "cloud" / "checkpoint.safetensors").unlink()
    again, _ = federate(places, plan(), tmp_path / "cloud")
    assert np.array_equal(again.weights, state.weights) and again.round == 3
    assert [stem_of(place, 3) for place in places] == stems
    assert all(row["aggregated"] for row in read_journal(tmp_path / "cloud"))


def test_a_hospital_that_is_sent_other_settings_is_in_no_sum(cloud: Cloud) -> None:
    """A larger batch of as many steps is within what its policy allows, and would change its update alone."""
    messages = [cloud.message(cloud.model, 1, hospital) for hospital in range(3)]
    other = cloud.plan.model_copy(update={"batch": cloud.plan.batch + 1})
    messages[0].content["config"]["plan"] = other.model_dump_json()
    settings = SumSettings.of(cloud.manifest, cloud.plan.privacy)
    outcome = attempt_secure_round(cloud.federation, settings, messages, cloud.model, 1, False)
    assert outcome.total is None
    total(cloud.sum(cloud.model, 1))


@pytest.mark.long
def test_an_earlier_round_that_is_repeated_takes_no_later_stem_away(
    sealed: list[Place], tmp_path: Path
) -> None:
    """Else a cloud could let one hospital alone start from an older stem than the others."""
    cloud = Cloud(copy(sealed, tmp_path), plan(rounds=5))
    for round_, best in ((1, 0), (2, 1), (3, 2), (4, 2)):
        total(cloud.sum(cloud.model, round_, best=best))
    stems = [stem_of(place, 4) for place in cloud.places]
    total(cloud.sum(cloud.model, 3, best=2))
    assert [stem_of(place, 4) for place in cloud.places] == stems
    assert [stem_of(place, 3) for place in cloud.places] != stems


def test_an_update_that_was_lost_and_trained_with_another_result_is_not_masked(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    total(cloud.sum(cloud.model, 1))
    (path,) = cloud.places[0].private.glob("secure_sum/*/update.npz")
    path.unlink()

    def encode(update: Float32Array, *args: Any) -> tuple[UInt32Array, int]:
        return encode_update(update + np.float32(1e-4), *args)

    with monkeypatch.context() as patch:
        patch.setattr("parties.training.secure_sum.encode_update", encode)
        outcome = cloud.sum(cloud.model, 1)
    assert outcome.total is None and "is not the one that was masked" in outcome.refused["hospital-0"]


def test_a_round_that_an_earlier_version_summed_is_not_trained_again(cloud: Cloud) -> None:
    total(cloud.sum(cloud.model, 1))
    (path,) = cloud.places[0].private.glob("secure_sum/*/masked.json")
    path.unlink()
    attempts = path.with_name("attempts.json")
    attempts.write_text(json.dumps(json.loads(attempts.read_text())["names"]))
    assert "round 1 was summed before" in cloud.train_alone(cloud.model, 1)
    assert cloud.train_alone(cloud.model, 2) == ""


def test_under_another_manifest_a_study_is_trained_anew_and_no_attempt_of_the_earlier_one_goes_on(
    cloud: Cloud,
) -> None:
    total(cloud.sum(cloud.model, 1))
    message = cloud.message(cloud.model, 2, 0, attempt="ab" * 16)
    assert not cloud.grid.send_and_receive([message])[0].has_error()
    about = {"study": cloud.manifest.digest, "round": 2, "attempt": "ab" * 16, "keys": {}}
    other = Cloud(cloud.places, plan(retries=7))
    assert other.manifest.digest != cloud.manifest.digest
    content = RecordDict({RECORD: write_record(about), "config": ConfigRecord({})})
    (answer,) = other.grid.send_and_receive([Message(content, FIRST_NODE, "query.shares")])
    assert "another attempt" in answer.error.reason
    total(other.sum(cloud.lie, 1))
    assert "another request" in other.train_alone(cloud.model, 1)
