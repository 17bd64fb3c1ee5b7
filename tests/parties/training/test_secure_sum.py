"""Secure aggregation with real hospitals: the same model as without, and what a hospital refuses and keeps."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from safetensors.numpy import load_file

from coordinator.exchange.plan import Plan
from coordinator.exchange.secure_sum import RECORD, TEXT, SumSettings, write_record
from coordinator.federation.participants import Federation
from coordinator.federation.recording import read_updates
from coordinator.federation.rounds import run_rounds
from coordinator.model.training import train_locally
from crypto.errors import CipherwardError
from crypto.files import temporary_of
from crypto.identity import Identity
from crypto.secure_sum.transcript import RoundId, Rules
from parties.sealing.place import Place
from parties.training.policy_file import read_policy
from parties.training.secure_sum import SumStore, open_store
from tests.support import hospitals
from tests.support.hospitals import agree, federate, make_grid, one_core, read_journal, seal_hospitals
from tests.support.local_grid import FIRST_NODE, LocalGrid

__all__ = ["one_core"]


def plan(**changes: Any) -> Plan:
    """Return a plan of three hospitals that keep their own stems, in sums unless changed."""
    settings = {"parties": 3, "stem": "private", "counts": (36, 12, 12), "rounds": 2, "grace_s": 0.2}
    return hospitals.plan(**settings | changes)


PLAIN = {"privacy": {"secure_aggregation": False}}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> list[Place]:
    return seal_hospitals(tmp_path_factory.mktemp("sums"), plan())


@pytest.fixture
def fresh(tmp_path: Path) -> list[Place]:
    return seal_hospitals(tmp_path / "hospitals", plan())


def forget(places: list[Place]) -> None:
    """Let the hospitals forget stems, answers and sums of earlier trainings."""
    for place in places:
        for name in ("stems", "answers", "secure_sum"):
            shutil.rmtree(place.private / name, ignore_errors=True)


@pytest.mark.long
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"wire": "bfloat16", "rounds": 1},
        {"share": "head", "rounds": 1},
        {"strategy": "fedadam"},
        {"stem": "plain", "share": "lora", "rounds": 1},
    ],
)
def test_the_model_is_that_of_a_training_without_protection(
    places: list[Place], tmp_path: Path, changes: Mapping[str, Any]
) -> None:
    forget(places)
    summed, grid = federate(places, plan(**changes), tmp_path / "summed")
    forget(places)
    plain, _ = federate(places, plan(**changes, **PLAIN), tmp_path / "plain")
    moved = np.abs(plain.weights - summed.weights).max()
    # bfloat16 rounds what is sent anew in each round; FedAdam divides by small numbers.
    limit = {"wire": 2e-3, "strategy": 1e-3}.get(next(iter(changes), ""), 1e-6)
    assert moved <= limit
    for row in read_journal(tmp_path / "summed"):
        assert row["aggregated"] and row["parties"] == ["hospital-0", "hospital-1", "hospital-2"]
        assert set(row["summed"]["seconds"]) == {"train", "shares", "masked", "confirm", "reveal"}
    losses = [
        [row["train"]["loss"] for row in read_journal(tmp_path / name)] for name in ("summed", "plain")
    ]
    assert np.allclose(losses[0], losses[1], rtol=2e-2)
    assert not any("arrays" in m.content for m in grid.received if m.metadata.message_type == "train")


def test_private_and_plain_stems_of_three_are_summed_by_default_and_learn_is_not() -> None:
    assert plan().sums_securely and plan(stem="plain").sums_securely
    assert not plan(stem="learn").sums_securely and not plan(parties=2).sums_securely
    assert plan(stem="learn", privacy={"secure_aggregation": True}).sums_securely


def test_what_a_kill_left_of_a_rounds_secrets_is_removed_by_the_next_message(tmp_path: Path) -> None:
    names = ("h0", "h1", "h2")
    identities = {name: Identity.generate(name) for name in names}
    rules = Rules({name: identity.public for name, identity in identities.items()})
    store = SumStore(
        tmp_path / "sum", identities["h0"], SumSettings("ab", rules, dict.fromkeys(names, 9), 1.0)
    )
    store.begin(RoundId("ab", 1, "a" * 32, "cd"), "request")
    live = tmp_path / "sum" / "member.json"
    draft = temporary_of(live)
    shutil.copy(live, draft)  # a kill between the two halves of an atomic write
    with store.lock():
        assert live.exists() and not draft.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "krum"}, "needs each update"),
        ({"strategy": "fedmedian"}, "needs each update"),
        ({"parties": 2}, "2 hospitals"),
        ({"quorum": 2}, "3 of 3"),
        ({"parties": 5, "quorum": 4}, "5 of 5"),
        ({"parties": 4, "privacy": {"secure_aggregation": True, "min_sum": 5}}, "4 hospitals"),
        ({"privacy": {"sum_clip": 1e300}}, "too few bits"),
    ],
)
def test_plans_that_cannot_be_summed_are_refused(changes: Mapping[str, Any], message: str) -> None:
    on = {"privacy": {"secure_aggregation": True}}
    with pytest.raises(CipherwardError, match=message):
        plan(**{**on, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"privacy": {"min_sum": 4}},  # more than the three hospitals: it switched the sums off
        {"privacy": {"secure_aggregation": False, "min_sum": 3}},
        {"stem": "learn", "privacy": {"min_sum": 3}},
        {"stem": "learn", "privacy": {"sum_clip": 2.0}},
    ],
)
def test_settings_of_sums_are_refused_where_nothing_is_summed(changes: Mapping[str, Any]) -> None:
    with pytest.raises(CipherwardError, match="says nothing without secure aggregation"):
        plan(**changes)


@pytest.mark.parametrize(
    "privacy",
    [{"unit": "image"}, {"max_grad_norm": 0.5}, {"public_class_counts": True}, {"delta": 1e-5}],
)
def test_settings_of_differential_privacy_are_refused_where_there_is_none(
    privacy: Mapping[str, Any],
) -> None:
    with pytest.raises(CipherwardError, match="says nothing without epsilon"):
        plan(privacy=privacy)


def test_a_hospital_that_expects_sums_sends_no_update_to_a_message_without(fresh: list[Place]) -> None:
    """The cloud leaves the protocol out, or states a plan without it."""
    p = plan()
    manifest = agree(fresh, p)
    grid = make_grid(fresh)
    for settings in ({}, {"attempt": ""}, {"attempt": "x"}, {"attempt": "A" * 32}):
        reply = ask(grid, p, manifest.digest, settings)
        assert reply.has_error() and "attempt" in reply.error.reason
    stated = plan(**PLAIN)
    reply = ask(grid, stated, manifest.digest, {})
    assert reply.has_error() and "privacy" in reply.error.reason


def ask(grid: LocalGrid, p: Plan, manifest: str, settings: Mapping[str, Any]) -> Message:
    """Send a training message for round 1 to the first hospital, and return its answer."""
    from flwr.app import Array, ArrayRecord

    from coordinator.model.shares import shared_names
    from coordinator.model.vit import build_model, pack

    model = build_model(p, hospitals.CLASSES)
    config = {
        "plan": p.model_dump_json(),
        "manifest": manifest,
        "server-round": 1,
        "best-round": 0,
        **settings,
    }
    arrays = ArrayRecord({"model": Array(pack(model, shared_names(model, p)))})
    content = RecordDict({"arrays": arrays, "config": ConfigRecord(config)})
    message = Message(content, dst_node_id=FIRST_NODE, message_type="train")
    (answer,) = grid.send_and_receive([message])
    return answer


def step(grid: LocalGrid, action: str, value: Mapping[str, Any]) -> Message:
    """Send a later step to the first hospital."""
    content = RecordDict({RECORD: write_record(value), "config": ConfigRecord({})})
    (answer,) = grid.send_and_receive(
        [Message(content, dst_node_id=FIRST_NODE, message_type=f"query.{action}")]
    )
    return answer


def test_an_attempt_has_one_name_and_a_second_unmasking_is_refused(
    fresh: list[Place], tmp_path: Path
) -> None:
    _, grid = federate(fresh, plan(rounds=1), tmp_path / "cloud")
    sent = [m for m in grid.sent if m.metadata.dst_node_id == FIRST_NODE]
    for message in sent:
        kind = message.metadata.message_type
        if kind in ("query.hello", "evaluate"):
            continue
        again = Message(message.content, dst_node_id=FIRST_NODE, message_type=kind)
        (answer,) = grid.send_and_receive([again])
        assert answer.has_error(), kind
    rows = [json.loads(line) for line in (fresh[0].private / "refusals.jsonl").read_text().splitlines()]
    assert {row["field"] for row in rows} == {"secure_aggregation"} and len(rows) >= 4


@pytest.mark.parametrize("action", ["shares", "masked", "confirm", "reveal"])
def test_steps_of_no_round_and_malformed_ones_are_refused(places: list[Place], action: str) -> None:
    agree(places, plan())
    forget(places)
    grid = make_grid(places)
    field = {"shares": "keys", "masked": "shares", "confirm": "survivors", "reveal": "signatures"}[action]
    about = {"study": "ab" * 32, "round": 1, "attempt": "0" * 32}
    for value in ({}, about, about | {field: {}}, about | {field: {}, "more": 1}, about | {field: 5}):
        answer = step(grid, action, value)
        assert answer.has_error() and "CipherwardError" in answer.error.reason


def test_a_repeated_attempt_masks_the_stored_update_and_trains_nothing(
    fresh: list[Place], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cloud loses an answer in the first attempt: the second one sums without training again."""
    trained: list[str] = []

    def count(*args: Any, **kwargs: Any) -> Any:
        trained.append(str(args[4]))
        return train_locally(*args, **kwargs)

    monkeypatch.setattr("parties.training.client_app.train_locally", count)
    is_lost = [True]

    def lose(node: int, reply: Message) -> Message:
        text = str(dict(reply.content.get(RECORD, {})).get(TEXT, "")) if reply.has_content() else ""
        if node == FIRST_NODE and text.startswith('{"signature"') and is_lost:
            is_lost.clear()
            reply.content[RECORD] = write_record({"signature": bytes(64)})
        return reply

    p = plan(rounds=1)
    state, _ = federate(fresh, p, tmp_path / "cloud", lose)
    rows = read_journal(tmp_path / "cloud")
    assert [row["aggregated"] for row in rows] == [False, True]
    assert "not hospital-0's" in rows[0]["refused"]["hospital-0"]
    assert sorted(trained) == ["hospital-0", "hospital-1", "hospital-2"]
    assert state.round == 1


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", None])
def test_an_update_that_a_crash_damaged_is_as_if_it_were_not_there(
    fresh: list[Place], tmp_path: Path, damage: bytes | None
) -> None:
    federate(fresh, plan(rounds=1), tmp_path / "cloud")
    (path,) = fresh[0].private.glob("secure_sum/*/update.npz")
    store = open_store(fresh[0], read_policy(fresh[0]))
    with np.load(path) as file:
        request, steps = str(file["request"]), int(file["steps"])
    assert store.stored_steps(request) == steps
    path.write_bytes(path.read_bytes()[:-200] if damage is None else damage)
    assert store.stored_steps(request) is None


@pytest.mark.parametrize("name", ["masked.json", "summed.json"])
def test_a_list_of_what_was_masked_or_summed_that_is_gone_is_no_empty_one(
    fresh: list[Place], tmp_path: Path, name: str
) -> None:
    """Another update of the round would be masked, or another sum of it unmasked."""
    federate(fresh, plan(rounds=1), tmp_path / "cloud")
    (path,) = fresh[0].private.glob(f"secure_sum/*/{name}")
    store = open_store(fresh[0], read_policy(fresh[0]))
    store.require_open(2, "another request")
    whole = path.read_text()
    for damage in (None, "[]", "{", "7"):
        if damage is None:
            path.unlink()
        else:
            path.write_text(damage)
        with pytest.raises(CipherwardError) as error:
            store.require_open(2, "another request")
        assert name in error.value.message and "restore private/secure_sum" in error.value.hint
    # An earlier version began its lists with their first entries.
    attempts = path.with_name("attempts.json")
    attempts.write_text(json.dumps(json.loads(attempts.read_text())["names"]))
    path.unlink()
    store.require_open(2, "another request")
    path.write_text(whole)
    state = path.with_name("member.json")
    for damage in ("[]", "{}", '{"member": 1, "request": "x"}'):
        state.write_text(damage)
        with pytest.raises(CipherwardError, match="the state of this secure sum is damaged"):
            store.confirm({"study": "", "round": 1, "attempt": "", "survivors": []})


@pytest.mark.long
def test_after_a_sum_another_sum_of_the_round_needs_the_same_hospitals(
    fresh: list[Place], tmp_path: Path
) -> None:
    """Five hospitals: the cloud repeats a summed round without one, to get its update."""
    four = {"min_sum": 4}
    p = plan(parties=5, quorum=4, rounds=1, counts=(40, 10, 10), deadline_s=5.0, privacy=four)
    places = seal_hospitals(tmp_path / "five", p)
    _, grid = federate(places, p, tmp_path / "cloud")
    federation = Federation(grid, p, agree(places, p))
    grid.offline = {FIRST_NODE + 4}
    first = next(m for m in grid.sent if m.metadata.message_type == "train")
    weights = first.content["arrays"]["model"].numpy()
    (tmp_path / "again").mkdir()
    with pytest.raises(CipherwardError, match="round 1"):
        run_rounds(federation, weights, tmp_path / "again")
    rows = read_journal(tmp_path / "again")
    assert rows and not any(row["aggregated"] for row in rows)
    assert any("give one update away" in why for row in rows for why in row["refused"].values())


def test_the_cloud_records_sums_and_masked_vectors_only(places: list[Place], tmp_path: Path) -> None:
    forget(places)
    federate(places, plan(keep_updates=1), tmp_path)
    [(number, before, updates)] = read_updates(tmp_path)
    assert number == 1 and list(updates) == ["sum of hospital-0, hospital-1, hospital-2"]
    after, images = next(iter(updates.values()))
    assert images == 36 and after.shape == before.shape
    names = sorted(p.name for p in (tmp_path / "updates").iterdir())
    assert sum(name.endswith(".masked.safetensors") for name in names) == 3 and len(names) == 5


@pytest.mark.parametrize(
    "changes",
    [
        {"stem": "plain", "share": "head", "stem_frozen": True},
        {"stem": "plain", "share": "lora", "stem_frozen": True},
    ],
)
def test_masks_cover_the_whole_shared_vector_zeros_included(
    places: list[Place], tmp_path: Path, changes: Mapping[str, Any]
) -> None:
    """A frozen stem does not move. Which values are zero in whose update must not show (arXiv 2508.04285)."""
    forget(places)
    federate(places, plan(rounds=1, keep_updates=1, **changes), tmp_path)
    [(_, before, updates)] = read_updates(tmp_path)
    [(after, _)] = updates.values()
    moved = after != before
    still = np.flatnonzero(~moved)
    assert still.size > 1000 and moved.sum() > 100
    files = sorted((tmp_path / "updates").glob("*.masked.safetensors"))
    masked = [load_file(path)["masked"] for path in files]
    assert len(masked) == 3
    for vector in masked:
        assert vector.shape == (before.size + 2,) and vector.dtype == np.uint32
        assert np.count_nonzero(vector[still]) == still.size  # 0 comes once in 2^32
        counts = np.bincount(vector[still].view(np.uint8), minlength=256)
        expected = counts.sum() / 256
        # Chi-square with 255 degrees of freedom: 400 is exceeded once in 10^8.
        assert ((counts - expected) ** 2 / expected).sum() < 400
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert np.count_nonzero(masked[first][still] == masked[second][still]) == 0
        assert np.count_nonzero(masked[first][still] + masked[second][still] == 0) == 0
    # A message is as long, whatever moved.
    assert len({path.stat().st_size for path in files}) == 1


def test_secrets_of_a_round_lie_in_private_files_and_are_gone_after_it(
    fresh: list[Place], tmp_path: Path
) -> None:
    federate(fresh, plan(rounds=1), tmp_path / "cloud")
    for place in fresh:
        files = [f for f in (place.private / "secure_sum").rglob("*") if f.is_file()]
        assert {f.stat().st_mode & 0o077 for f in files if f.name != ".lock"} == {0}
        member = json.loads(next(f for f in files if f.name == "member.json").read_text())
        state = json.loads(member["member"])
        assert not state["channel_key"] and not state["mask_key"] and not state["self_mask"]
