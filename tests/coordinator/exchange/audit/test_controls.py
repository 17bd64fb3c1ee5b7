"""The control sets of an audit, sealed, attacked and scored as a hospital and a cloud do it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from coordinator.adversary.contract import Guess, Knowledge
from coordinator.adversary.decode import as_is
from coordinator.adversary.registry import ATTACKS
from coordinator.adversary.run import suite
from coordinator.exchange.audit.control_sets import GENERAL, PUBLIC, SETS, TARGETED, meets, positive_control
from coordinator.exchange.audit.guesses import read_draws
from coordinator.exchange.audit.scores import DrawScores
from coordinator.exchange.audit.suite2 import SUITE
from coordinator.report.control_checks import check_controls, missing_positive_controls
from crypto.key import SecretKey
from crypto.keyfile import write_key
from parties.scoring.score import score
from parties.sealing import seal as sealing_module
from parties.sealing.place import Place
from parties.sealing.seal import plan_sealing, seal, set_names
from tests.support.attacks import replace_attack
from tests.support.audits import forget_scores

ALL_ATTACKS = (
    "as_is",
    "leading_bit",
    "edge_guided",
    "minimum_difference",
    "moment_matching",
    "pooled_key_recovery",
)
SETTINGS = suite.Settings(ALL_ATTACKS, [20], rows=16, seed=4, budget_s=60.0)


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Yield a hospital that has sealed a training set and all controls."""
    folder = tmp_path_factory.mktemp("controls")
    place = Place.from_settings(
        folder / "hospital",
        {"party": "h", "source": "phantom", "counts": [80, 4, 4], "image_size": 64, "block": 8},
    )
    place.save()
    write_key(place.key_path, SecretKey.generate())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sealing_module, "CONTROL_IMAGES", 60)
        patch.setattr(sealing_module, "SMALL_CONTROL", (48, 64, 8))
        for name in ("train", *SETS):
            seal(place, plan_sealing(place, name))
        yield place


def audit(
    place: Place,
    out: Path,
    settings: suite.Settings = SETTINGS,
    sets: Sequence[str] = ("train", *SETS),
) -> tuple[DrawScores, ...]:
    """Attack and score these sets; return the scored draws."""
    forget_scores(place)
    suite.run_suite([place.sealed(name) for name in sets], out, settings)
    return score(place, out, 16, 64).draws


def settings_of(*attacks: str, pool: int = 20) -> suite.Settings:
    return suite.Settings(attacks, [pool], 16, 4, 60.0)


@pytest.mark.long
def test_every_control_has_its_required_result(hospital: Place, tmp_path: Path) -> None:
    draws = audit(hospital, tmp_path / "g")
    controls = check_controls(draws, SUITE)
    assert [name for name, control in controls.items() if not control.ok] == [], controls
    assert set(controls) == {
        *("true_key", "plain", "known", "noise", "permuted", "signs", "orthogonal", "derangement")
    }
    by_set = {draw.set_name: draw for draw in draws}
    assert set(by_set) == {"train", *GENERAL, *TARGETED}
    for name, draw in by_set.items():
        attacks = {finding.attack for finding in draw.findings}
        assert attacks == set(TARGETED.get(name, ALL_ATTACKS)), name
    # Targeted sets meet their own attacks only, at one pool size.
    assert [finding.pool_size for finding in by_set["control-orthogonal"].findings] == [20]
    assert by_set["control-signs"].spec.key_scope == "image"
    signs = [finding.figures for finding in by_set["control-signs"].findings]
    assert all(figures is not None and figures.visible.rate == 1.0 for figures in signs)
    # Histograms link plain and permuted images, and no one-time mask.
    linked = {name: draw.linkable.rate for name, draw in by_set.items() if draw.linkable is not None}
    assert linked["control-plain"] == linked["control-permuted"] == linked["control-orthogonal"] == 1.0
    assert linked["control-noise"] == 0.0


@pytest.mark.long
def test_a_scheme_with_odd_blocks_has_a_control_that_takes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing_module, "CONTROL_IMAGES", 60)
    settings = {"source": "phantom", "counts": [48, 4, 4], "image_size": 28, "block": 7, "scheme": "le"}
    place = Place.from_settings(tmp_path / "h", {"party": "h", **settings})
    place.save()
    write_key(place.key_path, SecretKey.generate())
    for name in (names := ("train", "control-known")):
        seal(place, plan_sealing(place, name))
    draws = audit(place, tmp_path / "g", settings_of("pooled_key_recovery"), names)
    assert draws[1].spec.name == "pe" and draws[1].spec.block == 7
    assert check_controls(draws, SUITE)["known"].ok


@pytest.mark.parametrize(
    ("scheme", "options", "control", "attack"),
    [
        ("sub_block_etc", {"sub_block": 2}, "known", "pooled_key_recovery"),
        ("noisy_orthogonal", {"sigma": 128}, "orthogonal", "moment_matching"),
    ],
)
def test_the_audited_scheme_is_its_own_control_where_the_attack_breaks_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scheme: str,
    options: dict[str, int],
    control: str,
    attack: str,
) -> None:
    monkeypatch.setattr(sealing_module, "CONTROL_IMAGES", 60)
    monkeypatch.setattr(sealing_module, "SMALL_CONTROL", (48, 64, 8))
    settings = {"source": "phantom", "counts": [48, 4, 4], "image_size": 32, "block": 8}
    place = Place.from_settings(
        tmp_path / "h", {"party": "h", "scheme": scheme, "scheme_options": options, **settings}
    )
    place.save()
    write_key(place.key_path, SecretKey.generate())
    names = ("train", f"control-{control}", *([PUBLIC] if control == "orthogonal" else []))
    for name in names:
        seal(place, plan_sealing(place, name))
    # With 20 images, the noise leaves two directions of the pool alike now and then.
    draws = audit(place, tmp_path / "g", settings_of(attack, pool=28), names)
    assert [draw.spec.name for draw in draws] == [scheme, scheme]
    assert all(draws[1].spec.options[name] == value for name, value in options.items())
    checked = check_controls(draws, SUITE)
    assert checked[control].ok and scheme in checked[control].message
    assert not [doubt for doubt in missing_positive_controls(draws) if "none was run" in doubt]


def test_noise_that_hides_the_control_is_not_taken_for_it(tmp_path: Path) -> None:
    place = Place.from_settings(
        tmp_path / "h",
        {
            "party": "h",
            "source": "phantom",
            "counts": [48, 4, 4],
            "image_size": 32,
            "block": 8,
            "scheme": "noisy_orthogonal",
            "scheme_options": {"sigma": 256},
        },
    )
    assert plan_sealing(place, "control-orthogonal").spec.name == "orthogonal"
    assert plan_sealing(place, "control-known").spec.name == "block_pixel_shuffle"


@pytest.mark.parametrize(
    ("attack", "control"), [("leading_bit", "signs"), ("moment_matching", "orthogonal")]
)
def test_an_attack_that_does_nothing_fails_its_control(
    hospital: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: str, control: str
) -> None:
    replace_attack(monkeypatch, attack, as_is.attack)
    sets = ("train", f"control-{control}")
    controls = check_controls(audit(hospital, tmp_path / "g", settings_of(attack), sets), SUITE)
    assert not controls[control].ok and controls["true_key"].ok and controls["derangement"].ok
    assert f"{attack} does not break it" in controls[control].message


def test_an_attack_that_breaks_what_cannot_be_broken_fails_the_control(
    hospital: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attack that is given the plain images, as none may be, breaks `permuted` and `noise`."""
    plain = {
        name: np.stack([plan_sealing(hospital, name).source.read(i) for i in range(60)])
        for name in ("control-noise", "control-permuted")
    }

    def cheat(knowledge: Knowledge) -> Guess:
        guess = as_is.attack(knowledge)
        truth = plain.get(f"control-{knowledge.pool.spec.name}")
        return (
            guess if truth is None else type(guess)(**{**guess.__dict__, "images": truth[knowledge.rows]})
        )

    replace_attack(monkeypatch, "as_is", cheat)
    controls = check_controls(audit(hospital, tmp_path / "g", settings_of("as_is"), tuple(plain)), SUITE)
    for name in ("noise", "permuted"):
        assert not controls[name].ok and controls[name].message == "broken by as_is at 1"


def test_controls_of_other_attacks_are_not_attacked(hospital: Place, tmp_path: Path) -> None:
    suite.run_suite(suite.find_sets([hospital.folder / "sealed"]), tmp_path / "g", settings_of("as_is"))
    schemes = [d.spec.name for d in read_draws(tmp_path / "g")[0]]
    assert sorted(schemes) == ["block_pixel_shuffle", "block_pixel_shuffle", "noise", "permuted", "plain"]


def test_which_attack_meets_which_set() -> None:
    assert meets("as_is", "train") and meets("magic", "control-noise") and meets("magic", "audit-1")
    assert not meets("as_is", "control-signs") and meets("edge_guided", "control-signs")
    assert not any(meets(attack, PUBLIC) for attack in ATTACKS)
    assert positive_control("as_is") == "plain" and positive_control("minimum_difference") == "signs"
    assert positive_control("brute_force") == "" == positive_control("magic")
    # Every attack with a targeted control is an attack of the audit.
    assert all(ATTACKS[a].in_suite for attacks in TARGETED.values() for a in attacks)
    assert set_names(2) == ["train", "val", "test", "audit-1", *SETS] and set_names(0) == [
        "train",
        "val",
        "test",
    ]


def test_public_images_are_none_of_the_control_s_own(hospital: Place) -> None:
    def pictures(name: str) -> set[bytes]:
        source = plan_sealing(hospital, name).source
        return {source.read(i).tobytes() for i in range(len(source))}

    assert not pictures(PUBLIC) & pictures("control-orthogonal")
