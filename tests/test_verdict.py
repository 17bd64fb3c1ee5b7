"""The rule of suite/1 on made-up scores: what breaks, what does not, what makes a report invalid."""

from __future__ import annotations

import copy

import pytest

from coordinator.report.audit import broken_by, build_report, controls_of, doubts_of, judge
from crypto.errors import CipherwardError
from parties.measures import share


def finding(attack="pooled_key_recovery", pool=10, v=0, r=0, opens=None, n=64, gallery=500, key=None):
    k = None if opens is None else {"median_ssim": 1.0 if opens else 0.2, "n": n, "opens": opens}
    return {
        "attack": attack,
        "tier": "T1",
        "uses_pool": True,
        "pool_size": pool,
        "seconds": 0.5,
        "note": "",
        "error": "",
        "n": n,
        "move": {"turn": 0, "negative": False, "order": 0, "down": 0, "across": 0},
        "values_right": None,
        "K": k,
        "key": key,
        "ssim": {"median": 0.1, "p95": 0.2, "max": 0.3},
        "psnr": {"median": 9.0, "p95": 9.0, "max": 9.0},
        "derangement_ssim": {"median": 0.1, "p95": 0.1, "max": 0.1},
        "V": share(v, n),
        "R": share(r, n) | {"gallery": gallery},
    }


def draw(findings, name="draw-0", scheme="block_pixel_shuffle", set_="train", exact=True):
    return {
        "draw": name,
        "set": set_,
        "key_id": "0" * 16,
        "set_digest": "d",
        "pool_images": 200,
        "spec": {
            "name": scheme,
            "version": 2,
            "image_shape": [64, 64, 1],
            "block": 8,
            "key_scope": "consortium",
            "options": {"nonce": "00"} if scheme == "noise" else {},
        },
        "parties": 3,
        "rows": 64,
        "gallery": 500,
        "pictured": [1],
        "findings": findings,
        "true_key_ssim": 1.0 if exact else 0.99,
        "true_key_exact": exact,
        "baselines": {"mean": {"median": 0.2, "p95": 0.3, "max": 0.4}},
    }


IDENTITY = {"block_order": 1.0, "pixel_order": 1.0}
CONTROLS = [
    draw(
        [finding("as_is", 1, r=64), finding(pool=100, opens=True, key=IDENTITY)],
        "draw-3",
        "plain",
        "control-plain",
    ),
    draw([finding("as_is", 1), finding(pool=100, opens=False)], "draw-4", "noise", "control-noise"),
    draw([finding("as_is", 1), finding(pool=100, opens=True)], "draw-5", set_="control-known"),
]


def scores(draws):
    return {
        "schema": "cipherward.scores/1",
        "suite": "suite/1",
        "party": "hospital-0",
        "seed": 0,
        "draws": [*draws, *CONTROLS],
    }


@pytest.mark.parametrize(
    ("what", "by"),
    [
        (finding(), []),
        (finding(opens=True), ["K"]),
        (finding(opens=False, v=64, r=64), ["R", "V"]),
        (finding(v=6), []),  # lower bound 0.044
        (finding(v=7), ["V"]),  # 0.054
        (finding(r=8, gallery=20), []),  # 10/G = 0.5
        (finding(r=45, gallery=20), ["R"]),
        ({**finding(opens=True), "error": "MemoryError"}, []),
    ],
)
def test_what_breaks(what, by):
    assert broken_by(what) == by


def audit(at: dict[int, int], draws: int = 3):
    """Draws in which key recovery opens at pool n in the first at[n] draws."""
    made = [
        draw([finding(pool=n, opens=i < hits) for n, hits in at.items()], f"draw-{i}") for i in range(draws)
    ]
    return judge(made)[1]


def test_two_of_three_draws_and_the_next_larger_pool():
    verdict = audit({1: 1, 2: 2, 5: 3, 10: 3})
    assert verdict["broken"] and verdict["smallest_pool"] == 2 and verdict["seconds"] == 0.5
    # Two of three at 2, but not again at 5: a lucky draw is no break.
    assert audit({1: 0, 2: 2, 5: 1, 10: 3})["smallest_pool"] == 10
    assert not audit({1: 1, 2: 1, 5: 1})["broken"]
    assert audit({100: 2})["smallest_pool"] == 100
    assert audit({1: 1}, draws=1)["broken"]


def test_broken_by_lists_the_smallest_pool_first():
    made = [
        draw([finding("b", 5, r=64), finding("b", 10, r=64), finding("a", 10, opens=True)], f"draw-{i}")
        for i in range(3)
    ]
    verdict = judge(made)[1]
    assert verdict["broken_by"] == ["b", "a"] and verdict["broken_at"] == {"b": 5, "a": 10}


def test_a_sound_report_is_valid():
    every = [finding("as_is", 1), finding("leading_bit", 1), finding(opens=True)]
    report = build_report(scores([draw(every, f"draw-{i}") for i in range(3)]), "s")
    assert report["valid"] and report["verdict"]["broken"] and report["doubts"] == []
    assert round(report["scheme"]["effective_bits"]) == min(256, round(report["scheme"]["formula_bits"]))
    assert len(report["findings"]) == 9 and report["training"] is None


def spoil(change):
    value = copy.deepcopy(scores([draw([finding()], f"draw-{i}") for i in range(3)]))
    change(value["draws"])
    return build_report(value, "s")


@pytest.mark.parametrize(
    ("control", "change"),
    [
        ("true_key", lambda d: d[0].update(true_key_exact=False)),
        ("true_key", lambda d: d[0].update(true_key_ssim=0.5)),
        ("plain", lambda d: d[3]["findings"].pop(0)),
        ("plain", lambda d: d[3]["findings"][0].update(R=share(0, 64) | {"gallery": 500})),
        ("plain", lambda d: d[3]["findings"][1].update(key={"block_order": 0.5, "pixel_order": 1.0})),
        ("plain", lambda d: d[3]["findings"][1].update(key=None)),
        ("plain", lambda d: d.pop(3)),
        ("noise", lambda d: d[4]["findings"][1].update(V=share(64, 64))),
        ("noise", lambda d: d[4]["findings"][0].update(R=share(30, 64) | {"gallery": 500})),
        ("noise", lambda d: d[4]["findings"].clear()),
        ("noise", lambda d: d[4]["findings"][1].update(error="MemoryError")),
        ("known", lambda d: d[5]["findings"][1].update(K={"median_ssim": 0.1, "n": 64, "opens": False})),
        ("known", lambda d: d[5]["findings"][1].update(error="MemoryError")),
        ("known", lambda d: d.pop(5)),
        ("noise", lambda d: d.pop(4)),
    ],
)
def test_each_control_can_make_a_report_invalid(control, change):
    assert spoil(lambda d: None)["valid"]
    report = spoil(change)
    assert not report["valid"]
    assert [k for k, v in report["controls"].items() if not v["ok"]] == [control]


def test_a_real_set_under_plain_is_no_control():
    assert not controls_of([draw([finding("as_is", 1, r=64)], scheme="plain")])["plain"]["ok"]


def test_doubts_are_said():
    small = draw([{**finding(), "note": "truncated"}, {**finding(), "error": "ValueError: x"}])
    small |= {"rows": 8, "gallery": 40}
    said = " | ".join(doubts_of([small]))
    for part in (
        "1 draw of key",
        "8 scored rows",
        "gallery of 40",
        "truncated",
        "crashed in draw-0: ValueError",
    ):
        assert part in said


def test_unequal_pools_and_crashes_are_no_resistance():
    def with_pools(name, *found):
        return draw([finding("as_is", 1), finding("leading_bit", 1), *found], name)

    # One draw went to 100, the others to 50: judged at what all of them reached.
    uneven = [
        with_pools("draw-0", finding(pool=50, opens=True), finding(pool=100, opens=False)),
        *(with_pools(f"draw-{i}", finding(pool=50, opens=True)) for i in (1, 2)),
    ]
    verdict = judge(uneven)[1]
    assert verdict["broken"] and verdict["smallest_pool"] == 50 and verdict["largest_pool"] == 50
    crashed = [with_pools(f"draw-{i}", {**finding(pool=100), "error": "MemoryError"}) for i in range(3)]
    verdict = judge(crashed)[1]
    assert not verdict["broken"] and verdict["largest_pool"] == 1
    assert any("pooled_key_recovery finished at no pool size" in d for d in doubts_of(crashed))
    left_out = [draw([finding("as_is", 1)], f"draw-{i}") for i in range(3)]
    assert any("pooled_key_recovery, which suite/1 runs, was not run" in d for d in doubts_of(left_out))


def test_draws_of_two_schemes_get_no_common_verdict():
    mixed = [draw([finding()]), draw([finding()], "draw-1", scheme="plain", set_="audit-1")]
    with pytest.raises(CipherwardError, match="different schemes"):
        build_report(scores(mixed), "s")


def test_controls_alone_are_no_audit():
    with pytest.raises(CipherwardError, match="controls only"):
        build_report(scores([]), "s")
