"""The control sets of an audit, sealed, attacked and scored as a hospital and a cloud do it."""

from __future__ import annotations

import numpy as np
import pytest

import coordinator.adversary.run.suite as suite
from coordinator.adversary.decode import as_is
from coordinator.adversary.registry import ATTACKS
from coordinator.exchange.control_sets import ALWAYS, FOR, PUBLIC, SETS, meets, positive_control
from coordinator.exchange.guesses import read_draws
from coordinator.report.control_checks import controls_of
from crypto.key import SecretKey
from crypto.keyfile import write_key
from parties.scoring.score import score
from parties.sealing import seal as sealing_module
from parties.sealing.place import Place
from parties.sealing.seal import seal, sealing, set_names
from tests.support.attacks import replace_attack

EVERY = (
    "as_is",
    "leading_bit",
    "edge_guided",
    "minimum_difference",
    "moment_matching",
    "pooled_key_recovery",
)
SETTINGS = suite.Settings(EVERY, [20], rows=16, seed=4, budget_s=60.0)


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    """A hospital that has sealed a training set and all controls."""
    folder = tmp_path_factory.mktemp("controls")
    place = Place.of(
        folder / "hospital",
        {"party": "h", "source": "phantom", "counts": [80, 4, 4], "image_size": 64, "block": 8},
    )
    place.keep()
    write_key(place.key_path, SecretKey.generate())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sealing_module, "CONTROL_IMAGES", 60)
        patch.setattr(sealing_module, "_SMALL", (48, 64, 8))
        for name in ("train", *SETS):
            seal(place, sealing(place, name))
        yield place


def audited(place, out, settings=SETTINGS, sets=("train", *SETS)):
    """The scored draws of guesses about these sets."""
    (place.private / "score-ledger.jsonl").unlink(missing_ok=True)
    suite.run_suite([place.sealed(name) for name in sets], out, settings)
    return score(place, out, 16, 64)["draws"]


def few(*attacks):
    return suite.Settings(attacks, [20], 16, 4, 60.0)


def test_every_control_comes_out_as_it_must(hospital, tmp_path):
    draws = audited(hospital, tmp_path / "g")
    found = controls_of(draws)
    assert [k for k, v in found.items() if not v["ok"]] == [], found
    assert set(found) == {
        *("true_key", "plain", "known", "noise", "permuted", "signs", "orthogonal", "derangement")
    }
    by_set = {d["set"]: d for d in draws}
    assert set(by_set) == {"train", *ALWAYS, *FOR}
    for name, draw in by_set.items():
        attacks = {f["attack"] for f in draw["findings"]}
        assert attacks == set(FOR.get(name, EVERY)), name
    # Alone with what they are for, and at one size.
    assert [f["pool_size"] for f in by_set["control-orthogonal"]["findings"]] == [20]
    assert by_set["control-signs"]["spec"]["key_scope"] == "image"
    assert all(f["V"]["rate"] == 1.0 for f in by_set["control-signs"]["findings"])
    # Histograms link plain and permuted images, and no one-time mask.
    linked = {name: draw["linkable"]["rate"] for name, draw in by_set.items()}
    assert linked["control-plain"] == linked["control-permuted"] == linked["control-orthogonal"] == 1.0
    assert linked["control-noise"] == 0.0


@pytest.mark.parametrize(
    ("attack", "control"), [("leading_bit", "signs"), ("moment_matching", "orthogonal")]
)
def test_an_attack_that_does_nothing_fails_its_control(hospital, tmp_path, monkeypatch, attack, control):
    replace_attack(monkeypatch, attack, as_is.attack)
    sets = ("train", f"control-{control}")
    found = controls_of(audited(hospital, tmp_path / "g", few(attack), sets))
    assert not found[control]["ok"] and found["true_key"]["ok"] and found["derangement"]["ok"]
    assert f"{attack} does not break it" in found[control]["said"]


def test_an_attack_that_breaks_what_cannot_be_broken_fails_the_control(hospital, tmp_path, monkeypatch):
    """An attack that knows the truth, as none may, breaks `permuted` and `noise`."""
    plain = {
        name: np.stack([sealing(hospital, name).source.read(i) for i in range(60)])
        for name in ("control-noise", "control-permuted")
    }

    def cheats(knowledge):
        guess = as_is.attack(knowledge)
        truth = plain.get(f"control-{knowledge.pool.spec.name}")
        return (
            guess if truth is None else type(guess)(**{**guess.__dict__, "images": truth[knowledge.rows]})
        )

    replace_attack(monkeypatch, "as_is", cheats)
    found = controls_of(audited(hospital, tmp_path / "g", few("as_is"), tuple(plain)))
    for name in ("noise", "permuted"):
        assert not found[name]["ok"] and found[name]["said"] == "broken by as_is at 1"


def test_controls_that_nobody_needs_are_not_attacked(hospital, tmp_path):
    suite.run_suite(suite.find_sets([hospital.folder / "sealed"]), tmp_path / "g", few("as_is"))
    schemes = [d.spec.name for d in read_draws(tmp_path / "g")[0]]
    assert sorted(schemes) == ["block_pixel_shuffle", "block_pixel_shuffle", "noise", "permuted", "plain"]


def test_what_meets_what():
    assert meets("as_is", "train") and meets("magic", "control-noise") and meets("magic", "audit-1")
    assert not meets("as_is", "control-signs") and meets("edge_guided", "control-signs")
    assert not any(meets(attack, PUBLIC) for attack in ATTACKS)
    assert positive_control("as_is") == "plain" and positive_control("minimum_difference") == "signs"
    assert positive_control("brute_force") == "" == positive_control("magic")
    # Whatever a control is made for is an attack of the audit.
    assert all(ATTACKS[a].in_suite for attacks in FOR.values() for a in attacks)
    assert set_names(2) == ["train", "val", "test", "audit-1", *SETS] and set_names(0) == [
        "train",
        "val",
        "test",
    ]


def test_public_images_are_none_of_the_control_s_own(hospital):
    def pictures(name):
        source = sealing(hospital, name).source
        return {source.read(i).tobytes() for i in range(len(source))}

    assert not pictures(PUBLIC) & pictures("control-orthogonal")
