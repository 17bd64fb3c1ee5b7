"""What attacks are given, and what they do with pools in which there is little or nothing to find."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from coordinator.adversary.contract import Budget, Guess, Knowledge, Tier
from coordinator.adversary.decode import as_is
from coordinator.adversary.registry import ATTACKS, AttackInfo
from coordinator.adversary.run import cell as cells
from coordinator.adversary.run import draws, suite
from coordinator.adversary.training import observation
from coordinator.adversary.training.observation import Observed, Update
from coordinator.exchange.audit.control_sets import PUBLIC
from coordinator.exchange.console import parse_seconds
from coordinator.exchange.plan import Plan
from coordinator.exchange.pool import MemoryPool, Pool
from crypto.arrays import Images, Int64Array
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.scheme import describe, load
from crypto.sets.dataset import SealedDataset
from tests.support.attacks import replace_attack
from tests.support.audits import MakeSealed, phantoms

SETTINGS = suite.Settings(["as_is"], [1, 5], rows=16, seed=4, budget_s=60.0)
OTHER = SecretKey(bytes(range(1, 33)))


def small_phantoms(count: int, size: int = 32) -> tuple[Images, Int64Array]:
    """Return phantom images uint8 [count, size, size, 1] and their labels."""
    return phantoms(count, size=size)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[Knowledge]:
    """Return what the attacks as_is, moment_matching and weights were given, in the order in which they ran."""
    received: list[Knowledge] = []

    def record(knowledge: Knowledge) -> Guess:
        received.append(knowledge)
        return as_is.attack(knowledge)

    monkeypatch.setattr(cells, "observe_study", lambda study: OBSERVED)
    for name, about in (
        ("as_is", ATTACKS["as_is"]),
        ("moment_matching", ATTACKS["moment_matching"]),
        ("weights", AttackInfo("weights", record, Tier.T5, "a training", "", "", study=True)),
    ):
        monkeypatch.setitem(ATTACKS, name, replace(about, attack=record))
    return received


PLAN = Plan(study="s", counts=(9, 9, 9), image_size=32, block=8)
OBSERVED = Observed(PLAN, 2, {"head": np.ones(3, np.float32)})


# ---- what an attack is given ------------------------------------------------------------------------------


def test_every_attack_gets_labels_but_only_some_get_public_images_or_the_training(
    given: list[Knowledge], make_sealed: MakeSealed, tmp_path: Path
) -> None:
    images, labels = small_phantoms(40)
    public = images[:3]
    settings = replace(
        SETTINGS, attacks=["as_is", "moment_matching", "weights"], public=public, study=tmp_path, pools=[5]
    )
    suite.run_suite([make_sealed("train", images, labels)], tmp_path / "g", settings)
    low, middle, high = given
    assert all(np.array_equal(one.labels, labels) for one in given if one.labels is not None)
    assert all(one.labels is not None for one in given)
    assert low.public is None and middle.public is public and high.public is public
    assert low.observed is None and middle.observed is None and high.observed is OBSERVED
    assert all(one.known is None and one.oracle is None for one in given)


def test_another_training_makes_another_audit(
    given: list[Knowledge], make_sealed: MakeSealed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = [make_sealed("train", *small_phantoms(40))]
    settings = replace(SETTINGS, attacks=["weights"], study=tmp_path)
    suite.run_suite(sets, tmp_path / "g", settings)
    update = Update(1, "h", np.zeros(2, np.float32), np.ones(2, np.float32), 5)
    for changed in (
        replace(OBSERVED, weights={"head": np.full(3, 2, np.float32)}),
        replace(OBSERVED, updates=(update,)),
        replace(OBSERVED, plan=PLAN.model_copy(update={"seed": 9})),
    ):
        monkeypatch.setattr(cells, "observe_study", lambda study, observed=changed: observed)
        with pytest.raises(CipherwardError, match="guesses of another audit"):
            suite.run_suite(sets, tmp_path / "g", settings)
    # A study that is named is part of the audit, whatever the attacks.
    suite.run_suite(sets, tmp_path / "h", SETTINGS)
    with pytest.raises(CipherwardError, match="guesses of another audit"):
        suite.run_suite(sets, tmp_path / "h", replace(SETTINGS, study=tmp_path))
    assert len(given) == 1 + 1


def test_a_training_is_used_only_against_draws_under_its_own_keys(
    given: list[Knowledge], make_sealed: MakeSealed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = small_phantoms(40)
    own = make_sealed("train", images, labels)
    further = make_sealed("audit-1", images, labels, key=OTHER)
    control = make_sealed("control-noise", images, labels, "noise", key=SecretKey(bytes(32)))
    settings = replace(SETTINGS, attacks=["as_is", "weights"], study=tmp_path)
    trained = replace(OBSERVED, keys=frozenset({own.key_id}))
    monkeypatch.setattr(cells, "observe_study", lambda study: trained)
    run = suite.run_suite([own, further, control], tmp_path / "g", settings)
    assert [sorted({g.attack for g in draw.guesses}) for draw in run] == [
        ["as_is", "weights"],
        ["as_is"],
        ["as_is", "weights"],
    ]
    with pytest.raises(CipherwardError, match="was under other keys than these sealed images"):
        suite.run_suite([further, control], tmp_path / "h", settings)


def test_cells_name_their_study_by_an_absolute_path(
    given: list[Knowledge], make_sealed: MakeSealed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sets = [make_sealed("train", *small_phantoms(40))]
    settings = replace(SETTINGS, attacks=["weights"], study=Path("study"))
    cell = draws.plan_cells(suite.plan_draw("draw-0", 0, sets, settings), sets, settings, None, Path("g"))[
        0
    ]
    assert cell.study == tmp_path / "study"


def test_the_study_is_read_from_its_cloud_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folders: list[Path] = []

    def observe(cloud: Path) -> Observed:
        folders.append(cloud)
        return OBSERVED

    monkeypatch.setattr(observation, "observe", observe)
    assert len(cells.study_digest(tmp_path)) == 64 and folders == [tmp_path / "cloud"]
    assert cells.study_digest(None) == ""
    cells.observe_study.cache_clear()


def test_attacks_that_are_not_part_of_an_audit_are_refused(
    make_sealed: MakeSealed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = [make_sealed("train", *small_phantoms(40))]
    monkeypatch.setitem(ATTACKS, "weights", replace(ATTACKS["weights"], in_suite=False))
    with pytest.raises(CipherwardError, match="weights is not part of an audit"):
        suite.run_suite(sets, tmp_path / "g", replace(SETTINGS, attacks=["weights"]))


def test_controls_for_single_attacks_meet_only_those(
    given: list[Knowledge], make_sealed: MakeSealed, tmp_path: Path
) -> None:
    images, labels = small_phantoms(40)
    public = make_sealed(PUBLIC, images[::-1].copy(), labels, "plain", key=SecretKey(bytes(32)))
    sets = [
        make_sealed("train", images, labels),
        make_sealed("control-orthogonal", images, labels, "orthogonal", key=OTHER),
        public,
    ]
    settings = replace(SETTINGS, attacks=["as_is", "moment_matching"], public=images[:2])
    audit, control = suite.run_suite(sets, tmp_path / "g", settings)
    assert [(g.attack, g.pool_size) for g in audit.guesses] == [
        ("as_is", 1),
        ("moment_matching", 1),
        ("moment_matching", 5),
    ]
    assert [(g.attack, g.pool_size) for g in control.guesses] == [("moment_matching", 5)]
    first, last = given[1].public, given[-1].public
    assert first is not None and np.array_equal(first, images[:2])
    assert last is not None and np.array_equal(last, images[::-1])
    # A control is not a draw unless one of its attacks runs.
    assert draws.group_by_key(sets, ["as_is"]) == [[sets[0]]]


def test_a_malformed_guess_is_a_finding(
    make_sealed: MakeSealed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = [make_sealed("train", *small_phantoms(40))]
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
def test_times_are_parsed(text: str, wanted: float) -> None:
    assert parse_seconds(text) == wanted


@pytest.mark.parametrize("text", ["", "m", "ten", "0", "-5", "nan", "inf", "10 minutes", "1e999"])
def test_other_texts_are_not_times(text: str) -> None:
    with pytest.raises(CipherwardError, match="is not a time") as error:
        parse_seconds(text)
    assert "10m" in error.value.hint


# ---- impossible pools, and pools of one image ---------------------------------------------------------------


def test_one_key_over_two_schemes_or_shapes_is_refused_and_two_keys_are_two_draws(
    make_sealed: MakeSealed, tmp_path: Path
) -> None:
    first = make_sealed("a", *small_phantoms(40))
    others = [
        make_sealed("b", *small_phantoms(20), scheme="value_shuffle"),
        make_sealed("c", *small_phantoms(20, 64)),
    ]
    for other in others:
        with pytest.raises(CipherwardError, match="do not belong to one pool") as error:
            suite.run_suite([first, other], tmp_path / "g", SETTINGS)
        assert "one at a time" in error.value.hint
    assert not (tmp_path / "g" / "guesses.json").exists()
    apart = make_sealed("d", *small_phantoms(32, 64), scheme="value_shuffle", key=OTHER)
    run = suite.run_suite([first, apart], tmp_path / "g", SETTINGS)
    assert [d.spec.name for d in run] == ["block_pixel_shuffle", "value_shuffle"]


def test_a_set_of_one_image_joins_a_pool_but_is_not_audited(
    make_sealed: MakeSealed, tmp_path: Path
) -> None:
    images, labels = small_phantoms(40)
    large, one = make_sealed("a", images, labels), make_sealed("b", images[:1], labels[:1])
    with pytest.raises(CipherwardError, match="holds 1 image: too few"):
        suite.run_suite([one], tmp_path / "g", SETTINGS)
    assert suite.run_suite([large, one], tmp_path / "g", SETTINGS)[0].images == 41


def test_labels_follow_the_names_of_the_classes(
    make_sealed: MakeSealed, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, _ = small_phantoms(4)
    first = make_sealed("a", images, np.array([0, 1, 0, 1]))
    second = make_sealed("b", images, np.array([0, 0, 1, 2]))
    monkeypatch.setattr(first, "classes", ["glioma", "none"])
    monkeypatch.setattr(second, "classes", ["none", "pituitary", "glioma"])
    pool = Pool([first, second])
    assert pool.classes == ["glioma", "none", "pituitary"]
    assert pool.labels.tolist() == [0, 1, 0, 1, 1, 1, 2, 0]


def test_labels_that_name_no_class_and_shards_without_them(
    make_sealed: MakeSealed, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make_sealed("a", *small_phantoms(12))
    monkeypatch.setattr(dataset, "classes", ["only"])
    with pytest.raises(CipherwardError, match="a label outside its 1 class"):
        Pool([dataset])
    shard = dataset.folder / "images-00000.safetensors"
    shard.write_bytes(shard.read_bytes().replace(b'"labels"', b'"lapels"'))
    with pytest.raises(CipherwardError, match=r"images-00000\.safetensors is truncated or altered"):
        Pool([SealedDataset.open(dataset.folder)])


# ---- pools with nothing to find -----------------------------------------------------------------------------


def untextured_pools(n: int, block: int, channels: int) -> dict[str, Images]:
    """Return four pools without texture, uint8 [n, 2·block, 2·block, c]."""
    tiles, side = np.random.default_rng(0).integers(0, 256, (n, 2, 2, channels), np.uint8), 2 * block
    return {
        "black": np.zeros((n, side, side, channels), np.uint8),
        "white": np.full((n, side, side, channels), 255, np.uint8),
        "flat": np.broadcast_to(tiles[:, :1, :1, :1], (n, side, side, channels)).copy(),
        "flat blocks": tiles.repeat(block, 1).repeat(block, 2),
    }


SHUFFLES = ("block_pixel_shuffle", "value_shuffle", "etc", "block_pixel")
MATRICES = ("orthogonal", "noisy_orthogonal", "block_projection")
SCHEMES = (*SHUFFLES, "patch_shuffle", "le", "pe", "ele", *MATRICES, "plain", "noise", "permuted")


#: It takes two seconds. The same scheme in gray, and the others in colour, stay among the fast ones.
LONG = ("ele", 3)


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        pytest.param(name, channels, marks=pytest.mark.slow if (name, channels) == LONG else ())
        for name in SCHEMES
        for channels in (1, 3)
    ],
)
def test_without_texture_no_attack_crashes_or_claims_a_key(name: str, channels: int) -> None:
    block, n = 4, 30 if name in ("le", "ele") else 6
    public = np.random.default_rng(1).integers(0, 256, (3, 2 * block, 2 * block, channels), np.uint8)
    for kind, plain in untextured_pools(n, block, channels).items():
        scheme = load(describe(name, plain.shape[1:], block))
        pool = MemoryPool(scheme.spec, scheme.cipher(SecretKey(bytes(range(32)))).encrypt(plain))
        for attack, about in ATTACKS.items():
            if about.tier > Tier.T2 or not about.in_suite or about.by_name or attack == "brute_force":
                continue
            knowledge = Knowledge(pool, np.arange(2, len(plain)), np.arange(2), Budget(20.0), public)
            guess = about.attack(knowledge)
            assert guess.images.shape == plain[:2].shape and guess.images.dtype == np.uint8, (kind, attack)
            if attack in ("pooled_key_recovery", "jigsaw") and name in SHUFFLES:
                assert guess.key is None, (kind, attack)
                assert "nothing identifiable" in guess.note or "no puzzle" in guess.note, (kind, attack)
                assert (guess.images == scheme.picture(pool.images(np.arange(2)))).all(), (kind, attack)
