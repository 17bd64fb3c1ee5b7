"""What attacks are given, and what comes of pools in which there is little or nothing to find."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import coordinator.adversary.run.suite as suite
from coordinator.adversary.contract import Budget, Guess, Knowledge, Tier
from coordinator.adversary.decode import as_is
from coordinator.adversary.registry import ATTACKS, AttackInfo
from coordinator.adversary.run import cell as cells
from coordinator.adversary.run import draws
from coordinator.adversary.training import observation as observed
from coordinator.adversary.training.observation import Observed, Update
from coordinator.exchange.console import seconds
from coordinator.exchange.control_sets import PUBLIC
from coordinator.exchange.plan import Plan
from coordinator.exchange.pool import MemoryPool, Pool
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.scheme import describe, load
from crypto.sets.dataset import SealedDataset
from parties.sources.phantom import Phantom
from tests.support.attacks import replace_attack

SETTINGS = suite.Settings(["as_is"], [1, 5], rows=16, seed=4, budget_s=60.0)
OTHER = SecretKey(bytes(range(1, 33)))


def phantoms(count: int, size: int = 32, channels: int = 1):
    source = Phantom(size, channels, count, 0, "train")
    return np.stack([source.read(i) for i in range(count)]), source.labels


@pytest.fixture
def given(monkeypatch) -> list[Knowledge]:
    """What the attacks named as_is, moment_matching and weights were given, in the order in which they ran."""
    seen: list[Knowledge] = []

    def takes(knowledge: Knowledge) -> Guess:
        seen.append(knowledge)
        return as_is.attack(knowledge)

    monkeypatch.setattr(cells, "_observed", lambda study: OBSERVED)
    for name, about in (
        ("as_is", ATTACKS["as_is"]),
        ("moment_matching", ATTACKS["moment_matching"]),
        ("weights", AttackInfo("weights", takes, Tier.T5, "a training", "", "", study=True)),
    ):
        monkeypatch.setitem(ATTACKS, name, replace(about, attack=takes))
    return seen


PLAN = Plan(study="s", counts=(9, 9, 9), image_size=32, block=8)
OBSERVED = Observed(PLAN, 2, {"head": np.ones(3, np.float32)})


# ---- what an attack is given ------------------------------------------------------------------------------


def test_labels_for_all_public_images_from_t2_and_the_training_for_attacks_on_it(
    given, make_sealed, tmp_path
):
    images, labels = phantoms(40)
    public = images[:3]
    settings = replace(
        SETTINGS, attacks=["as_is", "moment_matching", "weights"], public=public, study=tmp_path, pools=[5]
    )
    suite.run_suite([make_sealed("train", images, labels)], tmp_path / "g", settings)
    low, middle, high = given
    assert all((one.labels == labels).all() for one in given)
    assert low.public is None and middle.public is public and high.public is public
    assert low.observed is None and middle.observed is None and high.observed is OBSERVED
    assert all(one.known is None and one.oracle is None for one in given)


def test_another_training_makes_another_audit(given, make_sealed, tmp_path, monkeypatch):
    sets = [make_sealed("train", *phantoms(40))]
    settings = replace(SETTINGS, attacks=["weights"], study=tmp_path)
    suite.run_suite(sets, tmp_path / "g", settings)
    update = Update(1, "h", np.zeros(2, np.float32), np.ones(2, np.float32), 5)
    for changed in (
        replace(OBSERVED, weights={"head": np.full(3, 2, np.float32)}),
        replace(OBSERVED, updates=(update,)),
        replace(OBSERVED, plan=PLAN.model_copy(update={"seed": 9})),
    ):
        monkeypatch.setattr(cells, "_observed", lambda study, seen=changed: seen)
        with pytest.raises(CipherwardError, match="guesses of another audit"):
            suite.run_suite(sets, tmp_path / "g", settings)
    # A training that is named is part of the audit, whatever the attacks.
    suite.run_suite(sets, tmp_path / "h", SETTINGS)
    with pytest.raises(CipherwardError, match="guesses of another audit"):
        suite.run_suite(sets, tmp_path / "h", replace(SETTINGS, study=tmp_path))
    assert len(given) == 1 + 1


def test_a_training_under_other_keys_is_refused_and_its_own_draw_alone_is_attacked_by_it(
    given, make_sealed, tmp_path, monkeypatch
):
    images, labels = phantoms(40)
    own = make_sealed("train", images, labels)
    further = make_sealed("audit-1", images, labels, key=OTHER)
    control = make_sealed("control-noise", images, labels, "noise", key=SecretKey(bytes(32)))
    settings = replace(SETTINGS, attacks=["as_is", "weights"], study=tmp_path)
    trained = replace(OBSERVED, keys=frozenset({own.key_id}))
    monkeypatch.setattr(cells, "_observed", lambda study: trained)
    made = suite.run_suite([own, further, control], tmp_path / "g", settings)
    assert [sorted({g.attack for g in draw.guesses}) for draw in made] == [
        ["as_is", "weights"],
        ["as_is"],
        ["as_is", "weights"],
    ]
    with pytest.raises(CipherwardError, match="was under other keys than these sealed images"):
        suite.run_suite([further, control], tmp_path / "h", settings)


def test_cells_name_their_study_by_a_whole_path(given, make_sealed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sets = [make_sealed("train", *phantoms(40))]
    settings = replace(SETTINGS, attacks=["weights"], study=Path("study"))
    cell = draws.cells_of(suite.plan_draw("draw-0", 0, sets, settings), sets, settings, None, Path("g"))[0]
    assert cell.study == tmp_path / "study"


def test_the_study_is_read_from_its_cloud_folder(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(observed, "observe", lambda cloud: asked.append(cloud) or OBSERVED)
    assert len(cells.study_digest(tmp_path)) == 64 and asked == [tmp_path / "cloud"]
    assert cells.study_digest(None) == ""
    cells._observed.cache_clear()


def test_attacks_that_are_no_part_of_an_audit_are_refused(make_sealed, tmp_path, monkeypatch):
    sets = [make_sealed("train", *phantoms(40))]
    monkeypatch.setitem(ATTACKS, "weights", replace(ATTACKS["weights"], in_suite=False))
    with pytest.raises(CipherwardError, match="weights is no part of an audit"):
        suite.run_suite(sets, tmp_path / "g", replace(SETTINGS, attacks=["weights"]))


def test_controls_made_for_some_attacks_meet_those_alone(given, make_sealed, tmp_path):
    images, labels = phantoms(40)
    public = make_sealed(PUBLIC, images[::-1].copy(), labels, "plain", key=SecretKey(bytes(32)))
    made = [
        make_sealed("train", images, labels),
        make_sealed("control-orthogonal", images, labels, "orthogonal", key=OTHER),
        public,
    ]
    settings = replace(SETTINGS, attacks=["as_is", "moment_matching"], public=images[:2])
    audit, control = suite.run_suite(made, tmp_path / "g", settings)
    assert [(g.attack, g.pool_size) for g in audit.guesses] == [
        ("as_is", 1),
        ("moment_matching", 1),
        ("moment_matching", 5),
    ]
    assert [(g.attack, g.pool_size) for g in control.guesses] == [("moment_matching", 5)]
    assert (given[1].public == images[:2]).all() and (given[-1].public == images[::-1]).all()
    # Without an attack that it is for, a control is no draw.
    assert draws.draws_of(made, ["as_is"]) == [[made[0]]]


def test_what_is_no_guess_is_a_finding(make_sealed, tmp_path, monkeypatch):
    sets = [make_sealed("train", *phantoms(40))]
    right = as_is.attack

    def wide(knowledge: Knowledge) -> Guess:
        return replace(right(knowledge), images=right(knowledge).images.astype(np.float32))

    def short(knowledge: Knowledge) -> Guess:
        return replace(right(knowledge), images=right(knowledge).images[1:])

    for name, attack in (("wide", wide), ("short", short)):
        replace_attack(monkeypatch, "as_is", attack)
        guess = suite.run_suite(sets, tmp_path / name, SETTINGS)[0].guesses[0]
        assert guess.error.startswith("TypeError: the guess is") and not guess.file


@pytest.mark.parametrize(
    ("text", "wanted"), [("600", 600.0), ("0.5", 0.5), ("90s", 90.0), ("10m", 600.0), ("1.5h", 5400.0)]
)
def test_times(text, wanted):
    assert seconds(text) == wanted


@pytest.mark.parametrize("text", ["", "m", "ten", "0", "-5", "nan", "inf", "10 minutes", "1e999"])
def test_what_is_no_time(text):
    with pytest.raises(CipherwardError, match="is no time") as error:
        seconds(text)
    assert "10m" in error.value.hint


# ---- pools that cannot be, and pools of one ---------------------------------------------------------------


def test_one_key_over_two_schemes_or_shapes_is_refused_and_two_keys_are_two_draws(make_sealed, tmp_path):
    first = make_sealed("a", *phantoms(40))
    others = [make_sealed("b", *phantoms(20), scheme="value_shuffle"), make_sealed("c", *phantoms(20, 64))]
    for other in others:
        with pytest.raises(CipherwardError, match="do not belong to one pool") as error:
            suite.run_suite([first, other], tmp_path / "g", SETTINGS)
        assert "one at a time" in error.value.hint
    assert not (tmp_path / "g" / "guesses.json").exists()
    apart = make_sealed("d", *phantoms(32, 64), scheme="value_shuffle", key=OTHER)
    made = suite.run_suite([first, apart], tmp_path / "g", SETTINGS)
    assert [d.spec.name for d in made] == ["block_pixel_shuffle", "value_shuffle"]


def test_a_set_of_one_image_joins_a_pool_but_is_not_audited(make_sealed, tmp_path):
    images, labels = phantoms(40)
    whole, one = make_sealed("a", images, labels), make_sealed("b", images[:1], labels[:1])
    with pytest.raises(CipherwardError, match="holds 1 images: too few"):
        suite.run_suite([one], tmp_path / "g", SETTINGS)
    assert suite.run_suite([whole, one], tmp_path / "g", SETTINGS)[0].images == 41


def test_labels_follow_the_names_of_the_classes(make_sealed, monkeypatch):
    images, _ = phantoms(4)
    first = make_sealed("a", images, np.array([0, 1, 0, 1]))
    second = make_sealed("b", images, np.array([0, 0, 1, 2]))
    monkeypatch.setattr(first, "classes", ["glioma", "none"])
    monkeypatch.setattr(second, "classes", ["none", "pituitary", "glioma"])
    pool = Pool([first, second])
    assert pool.classes == ["glioma", "none", "pituitary"]
    assert pool.labels.tolist() == [0, 1, 0, 1, 1, 1, 2, 0]


def test_labels_that_name_no_class_and_shards_without_them(make_sealed, monkeypatch):
    dataset = make_sealed("a", *phantoms(12))
    monkeypatch.setattr(dataset, "classes", ["only"])
    with pytest.raises(CipherwardError, match="a label outside its 1 classes"):
        Pool([dataset])
    shard = dataset.folder / "images-00000.safetensors"
    shard.write_bytes(shard.read_bytes().replace(b'"labels"', b'"lapels"'))
    with pytest.raises(CipherwardError, match=r"images-00000\.safetensors is truncated or altered"):
        Pool([SealedDataset.open(dataset.folder)])


# ---- pools with nothing to find -----------------------------------------------------------------------------


def kinds(n: int, block: int, channels: int) -> dict[str, np.ndarray]:
    """Four pools of uint8 [n, 2·block, 2·block, c]."""
    tiles, side = np.random.default_rng(0).integers(0, 256, (n, 2, 2, channels), np.uint8), 2 * block
    return {
        "black": np.zeros((n, side, side, channels), np.uint8),
        "white": np.full((n, side, side, channels), 255, np.uint8),
        "flat": np.broadcast_to(tiles[:, :1, :1, :1], (n, side, side, channels)).copy(),
        "flat blocks": tiles.repeat(block, 1).repeat(block, 2),
    }


SHUFFLES = ("block_pixel_shuffle", "value_shuffle", "etc", "block_pixel")
EVERY = (*SHUFFLES, "le", "pe", "ele", "orthogonal", "plain", "noise", "permuted")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", EVERY)
def test_images_without_texture_crash_no_attack_and_make_none_claim_a_key(name, channels):
    block, n = 4, 30 if name in ("le", "ele") else 6
    public = np.random.default_rng(1).integers(0, 256, (3, 2 * block, 2 * block, channels), np.uint8)
    for kind, plain in kinds(n, block, channels).items():
        scheme = load(describe(name, plain.shape[1:], block))
        pool = MemoryPool(scheme.spec, scheme.cipher(SecretKey(bytes(range(32)))).encrypt(plain))
        for attack, about in ATTACKS.items():
            if about.tier > Tier.T2 or not about.in_suite or about.by_name or attack == "brute_force":
                continue
            knowledge = Knowledge(pool, np.arange(2, len(plain)), np.arange(2), Budget(20.0), public)
            guess = ATTACKS[attack].attack(knowledge)
            assert guess.images.shape == plain[:2].shape and guess.images.dtype == np.uint8, (kind, attack)
            if attack in ("pooled_key_recovery", "jigsaw") and name in SHUFFLES:
                assert guess.key is None, (kind, attack)
                assert "nothing identifiable" in guess.note or "no puzzle" in guess.note, (kind, attack)
                assert (guess.images == scheme.picture(pool.images(np.arange(2)))).all(), (kind, attack)
