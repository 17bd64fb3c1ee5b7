"""A cloud that lies in a secure sum, and hospitals that send rubbish: each attempt, and what stops it."""

from __future__ import annotations

import base64
import copy
import dataclasses
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from crypto.arrays import UInt32Array
from crypto.errors import CipherwardError
from crypto.identity import Identity
from crypto.secure_sum.collector import MOST_CHOICES, Collector, choose_shares
from crypto.secure_sum.member import Member, Revelation
from crypto.secure_sum.sharing import combine, split
from crypto.secure_sum.transcript import RoundKeys, Rules
from tests.support.secure_sum import Federation, run_round

Keys = dict[str, RoundKeys]
ONES: UInt32Array = np.ones(4, np.uint32)


def to_keys(federation: Federation) -> Keys:
    """Return all hospitals' round keys."""
    return {n: m.keys() for n, m in federation.members.items()}


def to_masked(federation: Federation) -> dict[str, UInt32Array]:
    """Bring all hospitals past their masked vectors."""
    keys, rules = to_keys(federation), federation.rules
    sent = {n: m.share(keys, rules) for n, m in federation.members.items()}
    incoming = {n: {s: sent[s][n] for s in sent if s != n} for n in sent}
    return {n: m.mask(incoming[n], ONES, rules)[0] for n, m in federation.members.items()}


def to_signed(federation: Federation, survivors: list[str]) -> dict[str, bytes]:
    """Bring all survivors past their signatures."""
    to_masked(federation)
    f = federation
    return {n: f.members[n].confirm(survivors, f.identities[n], f.rules) for n in survivors}


def swap_key(keys: Keys) -> Keys:
    return keys | {"h01": dataclasses.replace(keys["h01"], mask=bytes(range(32)))}


def own_key_of_the_cloud(keys: Keys) -> Keys:
    cloud = Member.start(Identity.generate("h01"), keys["h01"].round_id)
    return keys | {"h01": cloud.keys()}


def sybil(keys: Keys) -> Keys:
    cloud = Member.start(Identity.generate("h99"), keys["h01"].round_id)
    return keys | {"h99": cloud.keys()}


def under_another_name(keys: Keys) -> Keys:
    return keys | {"h02": keys["h01"]}


def too_few(keys: Keys) -> Keys:
    return {n: keys[n] for n in ("h00", "h01", "h02")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (swap_key, "not h01's"),
        (own_key_of_the_cloud, "not h01's"),
        (sybil, "not in the agreed roster"),
        (under_another_name, "named 'h02'"),
        (too_few, "3 hospitals take part"),
    ],
)
def test_a_cloud_in_the_middle_is_refused(change: Callable[[Keys], Keys], message: str) -> None:
    federation = Federation(5)
    keys = change(to_keys(federation))
    with pytest.raises(CipherwardError, match=message):
        federation.members["h00"].share(keys, federation.rules)


@pytest.mark.parametrize(
    ("field", "value"), [("model", "00" * 32), ("attempt", "00" * 16), ("round", 2), ("study", "00" * 32)]
)
def test_another_model_or_an_old_attempt_for_one_hospital_is_noticed(field: str, value: Any) -> None:
    """Keys that a hospital really signed in another attempt, or for another model, fit no round."""
    federation = Federation(5)
    keys = to_keys(federation)
    other = dataclasses.replace(federation.round_id, **{field: value})
    keys["h03"] = Member.start(federation.identities["h03"], other).keys()
    with pytest.raises(CipherwardError, match=f"do not agree on its {field}"):
        federation.members["h00"].share(keys, federation.rules)


@pytest.mark.parametrize("field", ["channel", "mask"])
@pytest.mark.parametrize(
    "point", [bytes(32), (1).to_bytes(32, "little"), ((1 << 255) - 20).to_bytes(32, "little")]
)
def test_a_hospital_with_a_key_of_low_order_is_refused_by_name_and_stops_nobody(
    field: str, point: bytes
) -> None:
    """It signs them with its own identity. The cloud would pass them on, and every honest hospital would fail."""
    federation = Federation(5)
    collector = Collector(federation.round_id, 4, federation.rules)
    keys = to_keys(federation)
    changed: dict[str, Any] = {field: point}
    bad = dataclasses.replace(keys["h04"], **changed).sign(federation.identities["h04"])
    for name in ("h00", "h01", "h02", "h03"):
        collector.add_keys(name, keys[name])
    with pytest.raises(CipherwardError, match="h04 sent round keys of low order"):
        collector.add_keys("h04", bad)
    assert set(collector.close_keys()) == {"h00", "h01", "h02", "h03"}
    with pytest.raises(CipherwardError, match="h04 sent round keys of low order"):
        federation.members["h00"].share(keys | {"h04": bad}, federation.rules)


def test_the_own_keys_must_come_back_unchanged() -> None:
    federation = Federation(5)
    keys = to_keys(federation)
    keys["h00"] = Member.start(federation.identities["h00"], federation.round_id).keys()
    with pytest.raises(CipherwardError, match="own round keys"):
        federation.members["h00"].share(keys, federation.rules)


def test_every_answer_is_given_once_and_in_order() -> None:
    federation = Federation(4)
    member, rules = federation.members["h00"], federation.rules
    with pytest.raises(CipherwardError, match="asks for 'confirm'"):
        member.confirm([], federation.identities["h00"], Rules(rules.roster))
    signatures = to_signed(federation, sorted(federation.members))
    member.reveal(signatures, rules)
    for again in (
        member.keys,
        lambda: member.share({}, rules),
        lambda: member.reveal(signatures, rules),
        lambda: Member.restore(member.export()).reveal(signatures, rules),
    ):
        with pytest.raises(CipherwardError):
            again()


def test_nothing_secret_is_kept_after_the_round_nor_shown() -> None:
    federation = Federation(4)
    member = federation.members["h00"]
    before = member.export()
    to_signed_all = to_signed(federation, sorted(federation.members))
    member.reveal(to_signed_all, federation.rules)
    import json

    for name in ("channel_key", "mask_key", "self_mask"):
        assert json.loads(before)[name] and not json.loads(member.export())[name]
        assert json.loads(before)[name] not in repr(member)
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            attempt(member)


def test_a_living_hospital_named_as_dropped_reveals_nothing_to_another_list() -> None:
    """The cloud shows h00 other survivors than the rest, to get both secrets of h04."""
    federation = Federation(5)
    to_masked(federation)
    everybody, without = sorted(federation.members), ["h00", "h01", "h02", "h03"]
    f = federation
    f.members["h00"].confirm(without, f.identities["h00"], f.rules)
    others = {
        n: f.members[n].confirm(everybody, f.identities[n], f.rules) for n in ("h01", "h02", "h03", "h04")
    }
    with pytest.raises(CipherwardError, match="not h01's"):
        f.members["h00"].reveal(others, f.rules)


def test_no_hospital_shows_both_secrets_of_another() -> None:
    federation = Federation(5)
    survivors = ["h00", "h01", "h02", "h03"]
    signatures = to_signed(federation, survivors)
    for name in survivors:
        shown = federation.members[name].reveal(signatures, federation.rules)
        assert not set(shown.self_masks) & set(shown.mask_keys)
        assert set(shown.mask_keys) == {"h04"} and set(shown.self_masks) == set(survivors)


def test_too_few_signatures_and_forged_ones_unmask_nothing() -> None:
    federation = Federation(5)
    everybody = sorted(federation.members)
    signatures = to_signed(federation, everybody)
    member = federation.members["h00"]
    with pytest.raises(CipherwardError, match="3 hospitals signed"):
        member.reveal({n: signatures[n] for n in everybody[:3]}, federation.rules)
    with pytest.raises(CipherwardError, match="not h01's"):
        member.reveal(signatures | {"h01": signatures["h02"]}, federation.rules)
    assert member.reveal(signatures, federation.rules).self_masks


def test_own_vector_left_out_strangers_and_small_sums_are_not_signed() -> None:
    federation = Federation(5)
    to_masked(federation)
    member, identity = federation.members["h00"], federation.identities["h00"]
    for survivors, message in (
        (["h01", "h02", "h03", "h04"], "did not arrive"),
        (["h00", "h01", "h02", "h03", "h77"], "cannot be counted"),
        (["h00", "h01", "h02"], "3 hospitals are counted"),
        (["h00", "h00", "h00", "h00"], "1 hospital is counted"),
    ):
        with pytest.raises(CipherwardError, match=message):
            member.confirm(survivors, identity, federation.rules)


def test_a_repeated_round_over_other_hospitals_is_refused() -> None:
    """Two sums of one round over different hospitals differ by one update."""
    federation = Federation(5)
    to_masked(federation)
    member, identity = federation.members["h00"], federation.identities["h00"]
    everybody = sorted(federation.members)
    with pytest.raises(CipherwardError, match="give one update away"):
        member.confirm(everybody[:4], identity, federation.rules, earlier=everybody)
    assert member.confirm(everybody, identity, federation.rules, earlier=everybody)


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b"", lambda b: b[::-1], lambda b: bytes(len(b))]
)
def test_damaged_shares_are_told_and_end_the_attempt_only_if_they_are_needed(
    damage: Callable[[bytes], bytes],
) -> None:
    """One hospital's shares cannot be opened by one other. They are needed if a third one is missing, too."""
    for is_needed in (False, True):
        federation = Federation(5)
        keys, rules = to_keys(federation), federation.rules
        sent = {n: dict(m.share(keys, rules)) for n, m in federation.members.items()}
        sent["h04"]["h00"] = damage(sent["h04"]["h00"])
        collector = Collector(federation.round_id, 4, rules)
        collector.keys = dict(keys)
        collector.close_keys()
        for n, shares in sent.items():
            collector.add_shares(n, shares)
        for n, incoming in collector.close_shares().items():
            masked, complaints = federation.members[n].mask(incoming, ONES, rules)
            assert complaints == (["h04"] if n == "h00" else [])
            if n != "h04" or not is_needed:
                collector.add_vector(n, masked, complaints)
        if is_needed:
            # Nothing was signed or revealed: the round can be repeated with other hospitals.
            with pytest.raises(CipherwardError, match="h04 sent shares that h00 cannot open"):
                collector.close_vectors()
            continue
        survivors = collector.close_vectors()
        for n in survivors:
            signature = federation.members[n].confirm(survivors, federation.identities[n], rules)
            collector.add_signature(n, signature)
        signatures = collector.close_signatures()
        for n in survivors:
            collector.add_revelation(n, federation.members[n].reveal(signatures, rules))
        assert (collector.unmask() == 5).all()


@pytest.mark.parametrize("liar", ["h00", "h03", "h06"])
def test_wrong_shares_of_one_hospital_are_outvoted_by_the_first_choices(
    liar: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 5 of 7 are needed, so four choices leave each hospital out once. Hundreds take minutes among 20 hospitals.
    monkeypatch.setattr("crypto.secure_sum.collector.MOST_CHOICES", 4)
    federation = Federation(7)
    everybody = sorted(federation.members)
    keys, rules = to_keys(federation), federation.rules
    sent = {n: m.share(keys, rules) for n, m in federation.members.items()}
    collector = Collector(federation.round_id, 4, rules)
    collector.keys = dict(keys)
    collector.close_keys()
    for n in everybody:
        collector.add_shares(n, sent[n])
    for n, incoming in collector.close_shares().items():
        collector.add_vector(n, federation.members[n].mask(incoming, ONES, rules)[0])
    survivors = collector.close_vectors()
    for n in everybody:
        collector.add_signature(
            n, federation.members[n].confirm(survivors, federation.identities[n], rules)
        )
    signatures = collector.close_signatures()
    for n in everybody:
        shown = federation.members[n].reveal(signatures, rules)
        if n == liar:
            shown = Revelation({v: bytes(32) for v in shown.self_masks}, {})
        collector.add_revelation(n, shown)
    assert (collector.unmask() == 7).all()


@pytest.mark.parametrize(("count", "threshold"), [(3, 3), (5, 4), (7, 5), (20, 14), (50, 34), (4, 2)])
def test_every_share_is_soon_left_out_of_a_choice(count: int, threshold: int) -> None:
    shares, spare = list(range(count)), count - threshold
    groups = -(-count // spare) if spare else 1
    first = list(itertools.islice(choose_shares(shares, threshold), groups))
    assert first[0] == shares[:threshold]
    assert all(len(set(choice)) == threshold for choice in first)
    if spare:
        assert all(any(share not in choice for choice in first) for share in shares)
    assert not list(choose_shares(shares[: threshold - 1], threshold))


def test_a_few_wrong_shares_of_many_hospitals_are_left_out_before_the_choices_end() -> None:
    choices = itertools.islice(choose_shares(range(20), 14), MOST_CHOICES)
    assert any(not {0, 9} & set(choice) for choice in choices)


@pytest.mark.parametrize(
    "vector",
    [np.ones(3, np.uint32), np.ones(4, np.int64), np.ones((2, 2), np.uint32), np.ones(4, np.float32)],
)
def test_a_vector_of_another_shape_is_refused_by_name(vector: Any) -> None:
    federation = Federation(4)
    collector = Collector(federation.round_id, 4, federation.rules)
    collector.keys = to_keys(federation)
    collector.close_keys()
    for n, m in federation.members.items():
        collector.add_shares(n, m.share(collector.keys, federation.rules))
    collector.close_shares()
    with pytest.raises(CipherwardError, match="h02 sent a masked vector"):
        collector.add_vector("h02", vector)
    assert not collector.total.any()


@pytest.mark.parametrize(
    "change",
    [
        lambda v: None,
        lambda v: [],
        lambda v: {k: x for k, x in v.items() if k != "mask"},
        lambda v: v | {"mask": "AAAA"},
        lambda v: v | {"mask": "§§"},
        lambda v: v | {"mask": 5},
        lambda v: v | {"round_id": {}},
        lambda v: v | {"round_id": v["round_id"] | {"round": "1"}},
        lambda v: v | {"round_id": v["round_id"] | {"attempt": ["a"]}},
        lambda v: v | {"signature": base64.b64encode(bytes(63)).decode()},
    ],
)
def test_malformed_round_keys_are_refused(change: Callable[[Any], Any]) -> None:
    values = Federation(3).members["h00"].keys().to_json()
    with pytest.raises(CipherwardError, match="malformed"):
        RoundKeys.from_json(change(values))


def test_fewer_than_three_hospitals_cannot_be_summed() -> None:
    public = {n: Identity.generate(n).public for n in ("a", "b")}
    with pytest.raises(CipherwardError, match="at least 3"):
        Rules(public)
    with pytest.raises(CipherwardError, match="at least"):
        Rules({n: Identity.generate(n).public for n in "abc"}, min_sum=2)


def test_shares_below_the_threshold_say_nothing() -> None:
    """Any two of three shares fit every secret: both wrong and right completions exist."""
    secret = bytes(range(32))
    shares = split(secret, 3, 5)
    assert combine([(i, shares[i]) for i in (0, 2, 4)]) == secret
    assert combine([(i, shares[i]) for i in (0, 2)]) != secret
    with pytest.raises(CipherwardError):
        combine([(0, shares[0]), (0, shares[1])])


def test_two_rounds_use_other_masks() -> None:
    """A cloud that replays last round's sum of one hospital learns nothing from the difference."""
    federation = Federation(3)
    first = to_masked(federation)["h00"]
    federation.begin()
    second = to_masked(federation)["h00"]
    assert (first != second).any()
    federation.begin()
    total, _ = run_round(federation, dict.fromkeys(federation.members, ONES))
    assert (total == 3).all()
