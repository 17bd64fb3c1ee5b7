"""A round under secure aggregation in the cloud: the mean of those who stayed, and hospitals that send rubbish."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from coordinator.exchange.secure_sum import RECORD, TEXT, write_record
from coordinator.federation.participants import Federation
from coordinator.federation.secure_rounds import SecureOutcome, attempt_secure_round
from tests.support.fake_parties import make_grid
from tests.support.secure_parties import STEPS, SecureParties

WORDS = np.linspace(-1, 1, 50).astype(np.float32)


def messages_for(federation: Federation) -> list[Message]:
    """Return the training messages of round 1."""
    return [
        Message(
            RecordDict(
                {
                    "arrays": ArrayRecord({"model": Array(WORDS)}),
                    "config": ConfigRecord({"server-round": 1}),
                }
            ),
            dst_node_id=node,
            message_type="train",
        )
        for node in federation.get_node_ids()
    ]


def attempt(
    parties: SecureParties,
    tamper: Callable[[int, Message], Message] = lambda node, reply: reply,
    keeps_masked: bool = False,
) -> SecureOutcome:
    """Run one attempt at round 1."""
    count = len(parties.identities)
    grid = make_grid(count, parties.app(), tamper=tamper)
    federation = Federation(grid, parties.plan, parties.manifest)
    federation.gather()
    return attempt_secure_round(
        federation, parties.settings, messages_for(federation), WORDS, 1, keeps_masked
    )


def mean_of(names: list[str], value: Callable[[int], float]) -> float:
    """Return the mean over parties of what each has, weighted by its images."""
    numbers = [int(name.removeprefix("p")) for name in names]
    return sum(10 * (i + 1) * value(i) for i in numbers) / sum(10 * (i + 1) for i in numbers)


def test_the_cloud_learns_the_weighted_mean_and_the_mean_loss() -> None:
    outcome = attempt(SecureParties(4))
    names = ["p0", "p1", "p2", "p3"]
    assert outcome.error == "" and outcome.parties == names and not outcome.refused
    assert outcome.update is not None and outcome.update.shape == WORDS.shape
    assert np.allclose(outcome.update, mean_of(names, lambda i: (i + 1) / 100), atol=1e-7)
    assert outcome.loss == pytest.approx(mean_of(names, lambda i: 0.5 * (i + 1)), abs=1e-5)
    assert outcome.clipped_share == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("step", STEPS)
def test_a_hospital_that_dies_costs_the_round_nothing_but_its_update(step: str) -> None:
    parties = SecureParties(5)
    parties.dies = {2: step}
    outcome = attempt(parties)
    is_counted = step in ("confirm", "reveal")
    names = [f"p{i}" for i in range(5) if i != 2 or is_counted]
    assert outcome.error == "" and outcome.parties == names
    assert "dead" in outcome.refused["p2"]
    assert outcome.update is not None
    assert np.allclose(outcome.update, mean_of(names, lambda i: (i + 1) / 100), atol=1e-7)


@pytest.mark.parametrize("step", STEPS)
def test_below_the_threshold_nothing_is_unmasked(step: str) -> None:
    parties = SecureParties(5)
    parties.dies = {2: step, 4: step}
    outcome = attempt(parties)
    assert outcome.update is None and outcome.total is None
    assert "3 hospitals" in outcome.error


def answers(reply: Message, *fields: str) -> bool:
    """Say whether a reply is the protocol's answer with these fields."""
    text = str(dict(reply.content.get(RECORD, {})).get(TEXT, "")) if reply.has_content() else ""
    return all(f'"{field}"' in text for field in fields) and bool(text)


RUBBISH: list[Any] = [
    {RECORD: ConfigRecord({TEXT: "{"})},
    {RECORD: ConfigRecord({TEXT: "[]"})},
    {RECORD: ConfigRecord({TEXT: 5})},
    {RECORD: ConfigRecord({TEXT: "[" * 5000})},
    {RECORD: ConfigRecord({TEXT: '{"shares": {"p0": 5}}'})},
    {RECORD: ConfigRecord({TEXT: '{"shares": {}}'})},
    {RECORD: ConfigRecord({TEXT: '{"shares": {"p0": "AA==", "p9": "AA=="}}'})},
    {RECORD: ConfigRecord({"empty": []})},
    {},
]


@pytest.mark.parametrize("rubbish", RUBBISH)
@pytest.mark.parametrize("fields", [("keys",), ("shares",), ("signature",), ("self_masks",)])
def test_rubbish_from_one_hospital_stops_nobody(rubbish: Any, fields: tuple[str, ...]) -> None:
    def tamper(node: int, reply: Message) -> Message:
        if node == 103 and answers(reply, *fields):
            for name in list(reply.content):
                del reply.content[name]
            for name, record in rubbish.items():
                reply.content[name] = record
        return reply

    outcome = attempt(SecureParties(5), tamper)
    assert outcome.error == "" and "p3" in outcome.refused


@pytest.mark.parametrize(
    "vector",
    [
        np.zeros(52, np.float32),
        np.zeros(51, np.uint32),
        np.zeros((52, 1), np.uint32),
        np.zeros(0, np.uint32),
    ],
)
def test_a_wrong_vector_of_one_hospital_is_refused_by_name(vector: Any) -> None:
    def tamper(node: int, reply: Message) -> Message:
        if node == 103 and reply.content.array_records:
            reply.content["arrays"] = ArrayRecord({"model": Array(vector)})
        return reply

    outcome = attempt(SecureParties(5), tamper)
    assert outcome.error == "" and outcome.parties == ["p0", "p1", "p2", "p4"]
    assert "another length or type" in outcome.refused["p3"]


def test_more_images_than_agreed_are_refused() -> None:
    def tamper(node: int, reply: Message) -> Message:
        if node == 103 and reply.content.metric_records:
            reply.content["metrics"]["num-examples"] = 10**7
        return reply

    outcome = attempt(SecureParties(5), tamper)
    assert "p3" not in outcome.parties and "10000000 examples" in outcome.refused["p3"]


def test_what_the_cloud_keeps_of_a_round_is_masked() -> None:
    outcome = attempt(SecureParties(3), keeps_masked=True)
    assert set(outcome.masked) == {"p0", "p1", "p2"}
    for party, vector in outcome.masked.items():
        # Every update is one number in all places; masked, no two places are equal.
        assert len(set(vector.tolist())) > 45, party
    assert outcome.total is not None and len(set(outcome.total[:50].tolist())) == 1


def test_a_hospital_whose_shares_nobody_can_open_is_refused_before_anything_is_revealed() -> None:
    """Or else all hospitals would have revealed a sum with it, and would refuse every sum of the round without it."""
    parties, asked = SecureParties(7), list[str]()

    def tamper(node: int, reply: Message) -> Message:
        if reply.has_content() and answers(reply, "signature") and not answers(reply, "keys"):
            asked.append("confirm")
        if node == 106 and answers(reply, "shares"):
            rubbish = {f"p{i}": bytes(76) for i in range(6)}
            reply.content[RECORD] = write_record({"shares": rubbish})
        return reply

    grid = make_grid(7, parties.app(), tamper=tamper)
    federation = Federation(grid, parties.plan, parties.manifest)
    federation.gather()
    first = attempt_secure_round(federation, parties.settings, messages_for(federation), WORDS, 1, False)
    assert "p6 sent shares that p0, p1" in first.error and first.update is None and not asked
    assert "6 hospitals cannot open" in federation.refused[106]
    second = attempt_secure_round(federation, parties.settings, messages_for(federation), WORDS, 1, False)
    assert second.error == "" and second.parties == [f"p{i}" for i in range(6)]


def test_one_accuser_alone_gets_nobody_refused() -> None:
    parties = SecureParties(4)

    def tamper(node: int, reply: Message) -> Message:
        if node == 100 and answers(reply, "unopened"):
            reply.content[RECORD] = write_record({"unopened": ["p1"]})
        return reply

    grid = make_grid(4, parties.app(), tamper=tamper)
    federation = Federation(grid, parties.plan, parties.manifest)
    federation.gather()
    outcome = attempt_secure_round(federation, parties.settings, messages_for(federation), WORDS, 1, False)
    # Three of four can still unmask it.
    assert outcome.error == "" and not federation.refused
