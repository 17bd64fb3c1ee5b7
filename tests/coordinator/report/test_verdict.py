"""The rule of suite/1 on made-up scores: what breaks, what does not, what makes a report invalid."""

from __future__ import annotations

import copy

import pytest
from typer.testing import CliRunner

from coordinator.adversary.run import cell as cells
from coordinator.cli import app as cli
from coordinator.cli.app import _require_valid, summary
from coordinator.exchange.guesses import write_draws
from coordinator.exchange.plan import Plan
from coordinator.report.build import broken_by, build_report, controls_of, doubts_of, judge
from coordinator.report.control_checks import without_control
from coordinator.report.page import headline, render
from coordinator.report.wording import linked
from crypto.errors import CipherwardError
from crypto.files import write_json
from parties.scoring.measures import share


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
        "R_deranged": share(0, n) | {"gallery": gallery},
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
            "version": 1 if scheme == "orthogonal" else 2,
            "image_shape": [64, 64, 1],
            "block": 8,
            "key_scope": "consortium",
            "options": {"nonce": "00"} if scheme in ("noise", "permuted") else {},
        },
        "parties": 3,
        "rows": 64,
        "gallery": 500,
        "pictured": [1],
        "findings": findings,
        "true_key_ssim": 1.0 if exact else 0.99,
        "true_key_exact": exact,
        "baselines": {"mean": {"median": 0.2, "p95": 0.3, "max": 0.4}},
        "linkable": linkable(0 if scheme == "noise" else 64),
    }


def linkable(hits, n=64, gallery=500):
    return share(hits, n) | {"ambiguous": 0, "none": n - hits, "gallery": gallery}


IDENTITY = {"block_order": 1.0, "pixel_order": 1.0}


def met(as_is, recovery):
    """What the attacks of an audit find on a control set."""
    return [as_is, recovery, finding("leading_bit", 1), finding("moment_matching", 100)]


CONTROLS = [
    draw(
        met(finding("as_is", 1, r=64), finding(pool=100, opens=True, key=IDENTITY)),
        "draw-3",
        "plain",
        "control-plain",
    ),
    draw(met(finding("as_is", 1), finding(pool=100, opens=False)), "draw-4", "noise", "control-noise"),
    draw(met(finding("as_is", 1), finding(pool=100, opens=True)), "draw-5", set_="control-known"),
    draw(
        met(finding("as_is", 1), finding(pool=100, opens=False)), "draw-6", "permuted", "control-permuted"
    ),
]
SIGNS = draw([finding("leading_bit", 1, v=64)], "draw-7", "pe", "control-signs")
ORTHOGONAL = draw(
    [finding("moment_matching", 50, v=64, r=64)], "draw-8", "orthogonal", "control-orthogonal"
)
ATTACKS = ("as_is", "leading_bit", "pooled_key_recovery", "moment_matching")


def scores(draws, controls=(*CONTROLS, SIGNS)):
    return {
        "schema": "cipherward.scores/1",
        "suite": "suite/1",
        "party": "hospital-0",
        "seed": 0,
        "draws": [*draws, *controls],
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
    """The report of an audit of four attacks with every control, after a change of its draws, by name of the set."""
    names = ("train", "audit-1", "audit-2")
    audited = [draw([finding(a) for a in ATTACKS], f"draw-{i}", set_=n) for i, n in enumerate(names)]
    value = copy.deepcopy(scores(audited, [*CONTROLS, SIGNS, ORTHOGONAL]))
    sets = {d["set"].removeprefix("control-"): d for d in value["draws"]}
    change(sets)
    return build_report({**value, "draws": list(sets.values())}, "s")


def named(hits):
    return share(hits, 64) | {"gallery": 500}


@pytest.mark.parametrize(
    ("control", "change"),
    [
        ("true_key", lambda d: d["train"].update(true_key_exact=False)),
        ("true_key", lambda d: d["train"].update(true_key_ssim=0.5)),
        ("true_key", lambda d: d["permuted"].update(true_key_exact=False)),
        ("plain", lambda d: d["plain"]["findings"].pop(0)),  # as_is
        ("plain", lambda d: d["plain"]["findings"][0].update(R=named(0))),
        ("plain", lambda d: d["plain"]["findings"][1]["key"].update(block_order=0.5)),  # the identity
        ("plain", lambda d: d["plain"]["findings"][1]["key"].update(pixel_order=0.99)),
        ("plain", lambda d: d["plain"]["findings"][1].update(key=None)),
        ("plain", lambda d: d["plain"].update(linkable=linkable(0))),
        ("plain", lambda d: d.pop("plain")),
        ("plain", lambda d: d["plain"]["findings"].pop(1)),
        ("plain", lambda d: d["plain"]["findings"].pop(2)),
        ("known", lambda d: d["known"]["findings"].pop(1)),
        ("known", lambda d: d["known"]["findings"].append({**finding(pool=50), "error": "MemoryError"})),
        ("noise", lambda d: d["noise"]["findings"].pop(1)),
        ("permuted", lambda d: d["permuted"]["findings"].pop(3)),
        ("orthogonal", lambda d: d["orthogonal"]["findings"][0].update(idle=True)),
        ("derangement", lambda d: d["audit-2"]["findings"][0].pop("R_deranged")),
        ("known", lambda d: d["known"]["findings"][1]["K"].update(opens=False)),
        ("known", lambda d: d["known"]["findings"][1].update(error="MemoryError")),
        ("known", lambda d: d.pop("known")),
        ("noise", lambda d: d["noise"]["findings"][1].update(V=share(64, 64))),
        ("noise", lambda d: d["noise"]["findings"][0].update(R=named(30))),
        ("noise", lambda d: d["noise"]["findings"].clear()),
        ("noise", lambda d: d["noise"]["findings"][1].update(error="MemoryError")),
        ("noise", lambda d: d["noise"].update(linkable=linkable(64))),
        ("noise", lambda d: d["noise"]["spec"].update(name="permuted")),
        ("noise", lambda d: d.pop("noise")),
        ("permuted", lambda d: d["permuted"]["findings"][1].update(V=share(64, 64))),
        ("permuted", lambda d: d["permuted"]["findings"][0].update(R=named(30))),
        ("permuted", lambda d: d["permuted"]["findings"][1]["K"].update(opens=True)),
        ("permuted", lambda d: d["permuted"]["findings"][0].update(error="MemoryError")),
        ("permuted", lambda d: d.pop("permuted")),
        ("signs", lambda d: d["signs"]["findings"][0].update(V=share(3, 64))),
        ("signs", lambda d: d["signs"]["findings"].clear()),
        ("signs", lambda d: d["signs"]["findings"][0].update(error="MemoryError")),
        ("signs", lambda d: d.pop("signs")),
        ("orthogonal", lambda d: d["orthogonal"]["findings"][0].update(V=share(0, 64))),  # R alone
        ("orthogonal", lambda d: d.pop("orthogonal")),
        ("derangement", lambda d: d["train"]["findings"][2].update(R_deranged=named(64))),
        ("derangement", lambda d: d["permuted"]["findings"][0].update(R_deranged=named(10))),
        ("derangement", lambda d: [f.pop("R_deranged") for x in d.values() for f in x["findings"]]),
    ],
)
def test_each_control_can_make_a_report_invalid(control, change):
    sound = spoil(lambda d: None)
    assert sound["valid"] and set(sound["controls"]) == {
        *("true_key", "plain", "known", "noise", "permuted", "signs", "orthogonal", "derangement")
    }
    report = spoil(change)
    assert not report["valid"]
    assert [k for k, v in report["controls"].items() if not v["ok"]] == [control]
    with pytest.raises(CipherwardError, match=f"the report is invalid: {control}"):
        _require_valid(report)


def test_controls_of_attacks_that_are_not_run_are_not_asked_for():
    draws = [draw([finding("as_is"), finding()], f"draw-{i}") for i in range(3)]
    report = build_report(scores(draws, CONTROLS), "s")
    assert report["valid"] and not {"signs", "orthogonal"} & set(report["controls"])


def test_attacks_without_a_positive_control_are_said():
    attacks = [*ATTACKS[:3], "brute_force", "unheard_of"]
    draws = [draw([finding(a) for a in attacks], f"draw-{i}") for i in range(3)]
    said = [f"no positive control was run for {a}" for a in ("brute_force", "unheard_of")]
    assert without_control([*draws, *CONTROLS]) == said
    assert [d for d in build_report(scores(draws), "s")["doubts"] if "control" in d] == said
    # The key recovery of another scheme than the control's is another file.
    others = [draw([finding()], f"draw-{i}", "le") for i in range(3)]
    assert without_control([*others, *CONTROLS]) == [
        "key recovery's positive control is block_pixel_shuffle: none was run for its part on le"
    ]


@pytest.mark.parametrize(
    ("hits", "gallery", "is_linkable"),
    [
        ((64, 64, 64), 1000, True),
        ((8, 8, 0), 1000, True),  # lower bound .065, in two of three draws
        ((6, 6, 6), 1000, False),  # .044
        ((64, 0, 0), 1000, False),
        ((8, 8, 8), 100, False),  # 10/G is .1
        ((0, 0, 0), 1000, False),
    ],
)
def test_linkable_is_a_level_apart(hits, gallery, is_linkable):
    draws = [
        draw([finding("as_is"), finding()], f"draw-{i}") | {"linkable": linkable(h, gallery=gallery)}
        for i, h in enumerate(hits)
    ]
    report = build_report(scores(draws, CONTROLS), "s")
    assert report["valid"] and report["verdict"]["linkable"] is is_linkable
    assert not report["verdict"]["broken"]
    assert [d["linkable"]["hits"] for d in report["draws"]] == list(hits)
    line = linked(report)
    counted = (
        f"{sum(hits)} of 192 ciphertexts name their own image among {gallery:,} by the histogram alone"
    )
    assert line.startswith(f"{'Linkable' if is_linkable else 'Not linkable'}: {counted}")
    assert f"  {line}" in summary(report)


def test_scores_from_before_linkability_say_that_it_was_not_run():
    draws = [draw([finding("as_is"), finding()], f"draw-{i}") for i in range(3)]
    for each in (*draws, *(old := copy.deepcopy(CONTROLS))):
        del each["linkable"]
    report = build_report(scores(draws, old), "s")
    assert report["valid"] and report["verdict"]["linkable"] is None
    assert linked(report) == "Linkable: not run."
    del draws[0]["findings"], report["verdict"]["linkable"]  # a report.json of then
    assert linked(report) == "Linkable: not run."


def test_images_that_fit_several_are_counted_apart():
    draws = [
        draw([finding()], f"draw-{i}") | {"linkable": linkable(0) | {"ambiguous": 64, "none": 0}}
        for i in range(3)
    ]
    said = linked(build_report(scores(draws), "s"))
    assert said.startswith("Not linkable: 0 of 192") and "192 more fit several images" in said


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


def cut(found, **changes):
    return {**found, "note": "truncated: out of time"} | changes


def crash(pool):
    return {**finding(pool=pool), "error": "MemoryError"}


def three(*at):
    """Three draws, each of these findings in turn: one list a draw."""
    return [draw([finding("as_is", 1), *each], f"draw-{i}") for i, each in enumerate(at)]


def test_a_crash_in_one_draw_erases_no_break():
    opened = finding(pool=50, opens=True)
    verdict = judge(three([opened], [opened], [crash(50)]))[1]
    assert verdict["broken"] and verdict["broken_at"] == {"pooled_key_recovery": 50}
    assert verdict["largest_pool"] == 1  # 50 was not finished in every draw
    # Two crashes of three leave one draw that fell: too few.
    assert not judge(three([opened], [crash(50)], [crash(50)]))[1]["broken"]


def test_a_time_out_or_a_crash_at_the_next_larger_pool_refutes_nothing():
    fell, stood = finding(pool=50, opens=True), finding(pool=100, opens=False)
    for late in (cut(stood), crash(100), {**stood, "idle": True}):
        verdict = judge(three([fell, late], [fell, late], [fell, late]))[1]
        assert verdict["smallest_pool"] == verdict["largest_pool"] == 50
        verdict = judge(three([fell, late], [fell, late], [fell, stood]))[1]
        assert verdict["smallest_pool"] == 50  # one that withstood leaves two that may have fallen
        assert not judge(three([fell, late], [fell, stood], [fell, stood]))[1]["broken"]
    # The next size that decides counts, past one that does not.
    late, last = cut(stood), finding(pool=200, opens=False)
    assert not judge(three(*[[fell, late, last]] * 3))[1]["broken"]
    assert judge(three(*[[cut(fell)]] * 3))[1]["broken"]  # a key that opens is no less for being late


def test_attacks_on_a_training_are_judged_by_its_own_key():
    def with_weights(name, set_, opens):
        return draw(
            [finding("as_is", 1), {**finding("weights", 20, opens=opens), "tier": "T5"}], name, set_=set_
        )

    audited = [with_weights("draw-0", "train", True), draw([finding("as_is", 1)], "draw-1", set_="audit-1")]
    audited.append(with_weights("draw-2", "audit-2", False))  # another key's: it says nothing
    verdict = judge(audited)[1]
    assert verdict["broken_at"] == {"weights": 20} and verdict["finished_at"]["weights"] == [20]
    assert verdict["of_training"] == ["weights"] and verdict["draws_needed"] == 2
    assert not judge([with_weights("draw-0", "train", False), *audited[1:]])[1]["broken"]
    # Nothing else is judged by fewer draws.
    others = [draw([finding(opens=True)]), *(draw([finding("as_is", 1)], f"draw-{i}") for i in (1, 2))]
    assert not judge(others)[1]["broken"]


def test_an_attack_that_did_nothing_withstood_nothing():
    said = "no recovery from ciphertexts alone for orthogonal"
    idle = {**finding(pool=100), "idle": True, "note": said}
    lone = {**finding("as_is", 1), "uses_pool": False}
    audited = [draw([lone, idle], f"draw-{i}", "orthogonal") for i in range(3)]
    controls = copy.deepcopy(CONTROLS)
    for control in controls:
        if control["set"] in ("control-noise", "control-permuted"):
            control["findings"][1] |= {"idle": True, "K": None}
    report = build_report(scores(audited, controls), "s")
    assert report["valid"] and report["verdict"]["largest_pool"] == 1
    assert not report["verdict"]["pool_attacked"]
    assert headline(report)[1] == "Nothing is known of a pool: no attack was run that could use one."
    assert not any("not broken" in line for line in summary(report))
    assert [d for d in report["doubts"] if said in d] == [
        f"pooled_key_recovery did not attack, 3 of 3 times: {said}"
    ]
    assert headline(build_report(scores(three(*[[finding(pool=100)]] * 3)), "s"))[1] == (
        "Not broken by suite/1 up to 100 sealed images."
    )


def test_an_audit_of_one_attack_needs_no_control_of_another():
    audited = [draw([finding("leading_bit", 1)], f"draw-{i}") for i in range(3)]
    controls = copy.deepcopy([*CONTROLS, SIGNS])
    for control in controls:
        control["findings"] = [f for f in control["findings"] if f["attack"] == "leading_bit"]
    assert build_report(scores(audited, controls), "s")["valid"]


def test_a_report_takes_the_training_that_the_attacks_watched_and_no_other(tmp_path, monkeypatch):
    audited = [draw([finding("as_is", 1), finding(opens=True)], f"draw-{i}") for i in range(3)]
    write_json(tmp_path / "scores.json", scores(audited))
    write_draws(tmp_path, [], {"study": "a" * 64})
    monkeypatch.setattr(cells, "study_digest", lambda study: "b" * 64)
    given = {"guesses": tmp_path, "sealed": tmp_path, "out": tmp_path / "out", "study": tmp_path}
    with pytest.raises(CipherwardError, match="watched another training than that in"):
        cli.report(tmp_path / "scores.json", **given)
    monkeypatch.setattr(cells, "study_digest", lambda study: "a" * 64)
    with pytest.raises(CipherwardError, match="no plan at"):  # one step further
        cli.report(tmp_path / "scores.json", **given)


@pytest.mark.parametrize("command", ["attack --rows 15", "simulate"])
def test_few_rows_are_refused(command, tmp_path):
    if command == "simulate":
        with pytest.raises(ValueError, match="audit_rows"):
            Plan(study="s", counts=(9, 9, 9), audit_rows=15)
    else:
        assert CliRunner().invoke(cli.app, command.split()).exit_code == 2


def test_a_break_is_told_on_one_core_and_with_its_budget():
    audited = [draw([finding("as_is", 1), finding(opens=True)], f"draw-{i}") for i in range(3)]
    report = build_report({**scores(audited), "budget_s": 90.0}, "s")
    assert "on one core," in headline(report)[1] and report["budget_s"] == 90.0
    assert "90 s for an attack" in render(report, None).replace("1 min 30 s", "90 s")
    assert linked(report).endswith("; it takes no key.")


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
