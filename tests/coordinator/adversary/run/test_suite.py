"""The suite: what is fixed beforehand, what survives a kill, and that attacks open sealed files only."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from coordinator.adversary.contract import Fit, Guess, Knowledge
from coordinator.adversary.registry import ATTACKS
from coordinator.adversary.run import cell as cells
from coordinator.adversary.run import draws, suite
from coordinator.adversary.stopwatch import Stopwatch
from coordinator.exchange.audit.guesses import load_guess, read_draws
from coordinator.exchange.pool import MemoryPool, Pool
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.scheme import describe, load
from crypto.sets.dataset import SealedDataset
from tests.support.attacks import replace_attack
from tests.support.audits import MakeSealed, guess_files, phantoms

SETTINGS = suite.Settings(["as_is", "pooled_key_recovery"], [1, 5, 10], rows=16, seed=4, budget_s=60.0)


@pytest.fixture
def sets(make_sealed: MakeSealed) -> list[SealedDataset]:
    """Return the sets of two hospitals under one key, and one under another key."""
    first = make_sealed("a", *phantoms(60))
    second = make_sealed("b", *phantoms(40, "val"))
    third = make_sealed("c", *phantoms(60), key=SecretKey(bytes(range(1, 33))))
    return [first, second, third]


def test_draws_rows_and_pools_are_fixed_beforehand(sets: list[SealedDataset], tmp_path: Path) -> None:
    draws = suite.run_suite(sets, tmp_path / "g", SETTINGS)
    assert [len(d.digests) for d in draws] == [2, 1] and [d.images for d in draws] == [100, 60]
    for draw in draws:
        assert len(draw.rows) == 20 and draw.rows.max() < 60  # a reserve for near-duplicates
        assert len(draw.pool_rows) == 10 and not set(draw.pool_rows) & set(draw.rows)
        assert [(g.attack, g.pool_size) for g in draw.guesses] == [
            ("as_is", 1),
            *(("pooled_key_recovery", n) for n in (1, 5, 10)),
        ]
        for guess in draw.guesses:
            images, _ = load_guess(tmp_path / "g", guess)
            assert images.shape == (20, 64, 64, 1) and images.dtype == np.uint8
    again = suite.plan_draw("draw-0", 0, sets[:2], SETTINGS)
    assert np.array_equal(again.rows, draws[0].rows) and np.array_equal(again.pool_rows, draws[0].pool_rows)
    assert read_draws(tmp_path / "g")[1]["seed"] == 4


def test_functions_are_loaded_before_the_clock_of_an_attack_starts(
    sets: list[SealedDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    class Watched(Stopwatch):
        def __enter__(self) -> Stopwatch:
            order.append("clock")
            return super().__enter__()

    monkeypatch.setattr(cells, "load_compiled", lambda attack, spec: order.append(f"load {attack}"))
    monkeypatch.setattr(cells, "Stopwatch", Watched)
    suite.run_suite(sets[2:], tmp_path / "g", SETTINGS)
    assert order == ["clock", *["load pooled_key_recovery", "clock"] * 3]


def test_the_first_set_is_the_one_audited(sets: list[SealedDataset]) -> None:
    draw = suite.plan_draw("draw-0", 0, sets[:2], SETTINGS)
    assert np.array_equal(Pool(sets[:2]).images(draw.rows), sets[0].rows(draw.rows))
    assert draw.digests[0] == sets[0].digest


def test_a_second_run_keeps_frozen_guesses_and_another_is_refused(
    sets: list[SealedDataset], tmp_path: Path
) -> None:
    suite.run_suite(sets, tmp_path / "g", SETTINGS)
    before = guess_files(tmp_path / "g")
    log: list[str] = []
    suite.run_suite(sets, tmp_path / "g", SETTINGS, log.append)
    assert log == ["the guesses are there already"] and guess_files(tmp_path / "g") == before
    other = suite.Settings(["as_is"], [1], 16, 4, 60.0)
    with pytest.raises(CipherwardError, match="holds the guesses of another audit"):
        suite.run_suite(sets, tmp_path / "g", other)
    # Frozen guesses of which one is lost are not "there already": no scorer would take them.
    next((tmp_path / "g").rglob("as_is-*.safetensors")).unlink()
    with pytest.raises(CipherwardError, match=r"1 of 8 frozen guesses in .* is missing or altered") as lost:
        suite.run_suite(sets, tmp_path / "g", SETTINGS)
    assert "attack again into another folder" in lost.value.hint


def test_a_killed_run_goes_on(
    sets: list[SealedDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "load_compiled", lambda *_: None)  # or it is the first call in a process
    calls: list[int] = []
    real = ATTACKS["pooled_key_recovery"].attack

    def dies(knowledge: Knowledge) -> Guess:
        calls.append(len(knowledge.pool_rows))
        if len(calls) == 3:
            raise KeyboardInterrupt  # what a kill looks like from inside
        return real(knowledge)

    monkeypatch.setitem(
        ATTACKS, "pooled_key_recovery", replace(ATTACKS["pooled_key_recovery"], attack=dies)
    )
    with pytest.raises(KeyboardInterrupt):
        suite.run_suite(sets, tmp_path / "g", SETTINGS)
    assert not (tmp_path / "g" / "guesses.json").exists()
    # A cell whose line was cut short by the kill runs again.
    with open(tmp_path / "g" / "progress.jsonl", "a") as file:
        file.write('{"place": "draw-0/as')
    suite.run_suite(sets, tmp_path / "g", SETTINGS)
    assert calls == [1, 5, 10, 10, 1, 5, 10]
    monkeypatch.undo()
    suite.run_suite(sets, tmp_path / "straight", SETTINGS)
    assert guess_files(tmp_path / "g") == guess_files(tmp_path / "straight")


@pytest.mark.parametrize("left", [b"", b'["cipherward.gue', b"\0" * 400, b"\xff\xfe\xc3"])
def test_a_journal_of_which_nothing_is_left_is_begun_anew(
    sets: list[SealedDataset], tmp_path: Path, left: bytes
) -> None:
    """A full disk or a power cut leaves it so; the folder was said to hold another audit."""
    (tmp_path / "progress.jsonl").write_bytes(left)
    suite.run_suite(sets, tmp_path, replace(SETTINGS, attacks=["as_is"]))
    assert (tmp_path / "guesses.json").exists() and not (tmp_path / "progress.jsonl").exists()


def test_a_journal_whose_first_line_is_lost_is_named(sets: list[SealedDataset], tmp_path: Path) -> None:
    (tmp_path / "progress.jsonl").write_text(
        '["cipherward.gue\n{"place": "draw-0/as_is-0001.safetensors"}\n'
    )
    with pytest.raises(CipherwardError, match=r"progress\.jsonl is damaged: its first line"):
        suite.run_suite(sets, tmp_path, replace(SETTINGS, attacks=["as_is"]))


def test_a_crash_tells_no_folder_of_the_machine(
    sets: list[SealedDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hospital attacks its blind controls itself, and the scores with this text go to the cloud."""
    folder = tmp_path / "Dr Meier, ward 7"
    folder.mkdir()

    def crashes(knowledge: Knowledge) -> Guess:
        return open(folder / "absent.bin")  # type: ignore[return-value] # it raises

    replace_attack(monkeypatch, "as_is", crashes)
    draws = suite.run_suite(sets[:1], tmp_path / "g", SETTINGS)
    error = draws[0].guesses[0].error
    assert error.startswith("FileNotFoundError:") and error.endswith("…/absent.bin'")


def test_a_crash_is_a_finding_not_the_end(
    sets: list[SealedDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crashes(knowledge: Knowledge) -> Guess:
        raise ZeroDivisionError("in the attack")

    replace_attack(monkeypatch, "as_is", crashes)
    draws = suite.run_suite(sets[:1], tmp_path / "g", SETTINGS)
    assert draws[0].guesses[0].error == "ZeroDivisionError: in the attack"
    assert not draws[0].guesses[1].error


def test_a_cell_that_failed_is_run_again_after_a_kill(
    sets: list[SealedDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, fails = ATTACKS["as_is"].attack, [True]

    def attack(knowledge: Knowledge) -> Guess:
        if fails:
            raise MemoryError
        return right(knowledge)

    def killed(knowledge: Knowledge) -> Guess:
        if fails:
            raise KeyboardInterrupt
        return right(knowledge)

    replace_attack(monkeypatch, "as_is", attack)
    monkeypatch.setitem(
        ATTACKS, "pooled_key_recovery", replace(ATTACKS["pooled_key_recovery"], attack=killed)
    )
    with pytest.raises(KeyboardInterrupt):
        suite.run_suite(sets[:1], tmp_path / "g", SETTINGS)
    fails.clear()
    # Entries that are damaged, or of another version, are cells that run again.
    with open(tmp_path / "g" / "progress.jsonl", "a") as journal:
        for entry in (
            {"place": "draw-0/as_is-0001.safetensors"},
            {"guess": {"new": 1}, "place": "x"},
            3,
            ["x"],
        ):
            journal.write(json.dumps(entry) + "\n")
    draws = suite.run_suite(sets[:1], tmp_path / "g", SETTINGS)
    assert not any(g.error for g in draws[0].guesses)


def test_an_attack_named_twice_runs_once_and_too_many_guesses_are_refused_beforehand(
    sets: list[SealedDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    right = ATTACKS["as_is"].attack

    def counted(knowledge: Knowledge) -> Guess:
        ran.append("as_is")
        return right(knowledge)

    replace_attack(monkeypatch, "as_is", counted)
    twice = replace(SETTINGS, attacks=["as_is", "as_is"])
    draws = suite.run_suite(sets[:1], tmp_path / "g", twice)
    assert len(ran) == len(draws[0].guesses) == 1
    ran.clear()
    many = replace(SETTINGS, attacks=["as_is", "pooled_key_recovery"], pools=range(1, 36))
    monkeypatch.setattr(suite, "MOST_GUESSES", 35)
    with pytest.raises(CipherwardError, match="36 guesses about one draw: a scorer takes 35 at most"):
        suite.run_suite(sets[:1], tmp_path / "h", many)
    assert not ran


def test_idle_attacks_and_the_budget_are_recorded(
    sets: list[SealedDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = ATTACKS["as_is"].attack
    monkeypatch.setitem(
        ATTACKS,
        "as_is",
        replace(ATTACKS["as_is"], attack=lambda knowledge: replace(right(knowledge), idle=True)),
    )
    settings = replace(SETTINGS, attacks=["as_is", "leading_bit"])
    suite.run_suite(sets[:1], tmp_path / "g", settings)
    draws, about = read_draws(tmp_path / "g")
    assert [g.idle for g in draws[0].guesses] == [True, False] and about["budget_s"] == 60.0
    with pytest.raises(CipherwardError, match="guesses of another audit"):
        suite.run_suite(sets[:1], tmp_path / "g", replace(settings, budget_s=61.0))
    # Older files do not have the field.
    path = tmp_path / "g" / "guesses.json"
    path.write_text(re.sub(r'"idle": (true|false),', "", path.read_text()))
    assert not any(g.idle for g in read_draws(tmp_path / "g")[0][0].guesses)


@pytest.mark.parametrize("value", [0.4, 0.9, float("nan")])
def test_a_poor_fit_is_stored_as_uncertain(
    sets: list[SealedDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    right, fit = ATTACKS["as_is"].attack, Fit(value, 0.7, "the share of good seams")
    replace_attack(monkeypatch, "as_is", lambda knowledge: replace(right(knowledge), fits=(fit,)))
    suite.run_suite(sets[:1], tmp_path / "g", replace(SETTINGS, attacks=["as_is"]))
    guess = read_draws(tmp_path / "g")[0][0].guesses[0]
    assert guess.uncertain == (value != 0.9) == ("attack uncertain" in guess.fit)
    assert "the share of good seams" in guess.fit


@pytest.mark.parametrize(
    "name", ["pooled_key_recovery", "moment_matching", "gan", "sia_gan", "itn", "weights"]
)
def test_attacks_that_lack_what_they_need_are_idle(name: str) -> None:
    images, _ = phantoms(40)
    scheme = load(describe("orthogonal", images.shape[1:], 8))
    pool = MemoryPool(scheme.spec, scheme.cipher(SecretKey(bytes(range(32)))).encrypt(images))
    guess = ATTACKS[name].attack(Knowledge(pool, np.arange(8, 40), np.arange(8)))
    assert guess.idle and guess.note
    assert (guess.images == scheme.picture(pool.images(np.arange(8)))).all()


def test_attacks_that_tried_something_are_not_idle() -> None:
    images, _ = phantoms(40)
    public = images[:16]
    for name, attack in (("orthogonal", "moment_matching"), ("block_pixel_shuffle", "pooled_key_recovery")):
        scheme = load(describe(name, images.shape[1:], 8))
        pool = MemoryPool(scheme.spec, scheme.cipher(SecretKey(bytes(range(32)))).encrypt(images))
        knowledge = Knowledge(pool, np.arange(16, 40), np.arange(8), public=public)
        assert not ATTACKS[attack].attack(knowledge).idle


def test_guesses_do_not_depend_on_the_truth(make_sealed: MakeSealed, tmp_path: Path) -> None:
    """The canary: if the key and the plain images change or disappear, every guess stays bit-identical."""
    folder = tmp_path / "hospital"
    sealed = make_sealed("hospital/sealed/train", *phantoms(40))
    (folder / "secret.key").write_text("the key")
    np.save(folder / "plain.npy", phantoms(40)[0])
    suite.run_suite(suite.find_sets([folder / "sealed"]), tmp_path / "g1", SETTINGS)
    (folder / "secret.key").write_text("another key")
    np.save(folder / "plain.npy", 255 - phantoms(40)[0])
    suite.run_suite(suite.find_sets([folder / "sealed"]), tmp_path / "g2", SETTINGS)
    (folder / "secret.key").unlink()
    (folder / "plain.npy").unlink()
    suite.run_suite(suite.find_sets([sealed.folder]), tmp_path / "g3", SETTINGS)
    assert (
        guess_files(tmp_path / "g1") == guess_files(tmp_path / "g2") == guess_files(tmp_path / "g3") != {}
    )


def test_an_attack_opens_only_sealed_files(sets: list[SealedDataset], tmp_path: Path) -> None:
    opened: list[str] = []
    listening = [True]  # an audit hook stays until the process ends

    def hook(event: str, args: tuple[object, ...]) -> None:
        if listening and event == "open":
            opened.append(str(args[0]))

    sys.addaudithook(hook)
    suite.run_suite(sets[:1], tmp_path / "g", SETTINGS)
    listening.clear()
    read = {p for p in opened if p.startswith(str(tmp_path)) and not p.startswith(str(tmp_path / "g"))}
    assert read and all(p.startswith(str(sets[0].folder)) for p in read), read


def test_a_set_named_twice_is_refused(sets: list[SealedDataset], tmp_path: Path) -> None:
    with pytest.raises(CipherwardError, match="named twice"):
        suite.run_suite([sets[0], sets[0]], tmp_path / "g", SETTINGS)


def test_attacks_get_only_knowledge() -> None:
    import inspect

    for name, attack in ATTACKS.items():
        assert list(inspect.signature(attack.attack).parameters) == ["knowledge"], name
    fields = {"pool", "pool_rows", "rows", "budget", "public", "known", "oracle", "labels", "observed"}
    assert set(Knowledge.__dataclass_fields__) == fields
    # The suite gives what a cloud holds: no known pair, and no oracle that encrypts for it.
    for module in (suite, cells, draws):
        source = inspect.getsource(module)
        assert "known=" not in source and "oracle" not in source


def test_pools_that_do_not_belong_together(sets: list[SealedDataset]) -> None:
    with pytest.raises(CipherwardError, match="do not belong to one pool"):
        Pool(sets)
    with pytest.raises(CipherwardError, match="the pool is empty"):
        Pool([])


def test_sets_too_small_and_unknown_attacks(make_sealed: MakeSealed, tmp_path: Path) -> None:
    small = make_sealed("small", *phantoms(31))
    with pytest.raises(CipherwardError, match="holds 31 images: too few"):
        suite.run_suite([small], tmp_path / "g", SETTINGS)
    with pytest.raises(CipherwardError, match="unknown attack 'magic'"):
        suite.run_suite([small], tmp_path / "g", suite.Settings(["magic"], [1], 16, 0, 1.0))


def test_a_folder_of_sets_stands_for_those_to_attack(
    sets: list[SealedDataset], make_sealed: MakeSealed, tmp_path: Path
) -> None:
    for name in ("val", "test"):
        make_sealed(name, *phantoms(8))
    assert [s.folder.name for s in suite.find_sets([tmp_path])] == ["a", "b", "c"]
    with pytest.raises(CipherwardError, match="no sealed set at"):
        suite.find_sets([tmp_path / "absent"])


def test_a_pool_reads_rows_across_sets_in_any_order(sets: list[SealedDataset]) -> None:
    pool = Pool(sets[:2])
    rows = np.array([99, 0, 60, 59, 0])
    expected = np.concatenate([sets[0].images(0, 60), sets[1].images(0, 40)])[rows]
    assert np.array_equal(pool.images(rows), expected) and len(pool) == 100


def test_guesses_of_another_format_are_refused(sets: list[SealedDataset], tmp_path: Path) -> None:
    suite.run_suite(sets[:1], tmp_path / "g", SETTINGS)
    path = tmp_path / "g" / "guesses.json"
    value = json.loads(path.read_text())
    path.write_text(json.dumps({**value, "schema": "other/1"}))
    with pytest.raises(CipherwardError, match=r"is not a cipherward\.guesses/1 file"):
        read_draws(tmp_path / "g")
