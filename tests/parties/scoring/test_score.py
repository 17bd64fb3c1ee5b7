"""The scorer against what a cloud might give it: honest guesses are scored once, and every forgery is refused."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from coordinator.adversary.run import suite
from coordinator.exchange.audit.guesses import Draw, read_draws, write_draws
from coordinator.exchange.audit.scores_file import read_scores
from coordinator.exchange.audit.signature import check_signature
from coordinator.exchange.records import write_record
from crypto.arrays import AnyArray
from crypto.errors import CipherwardError
from crypto.files import json_text, sha256_file
from crypto.key import SecretKey
from crypto.keyfile import write_key
from crypto.sets.writer import seal_images
from parties.scoring.score import score
from parties.sealing.place import Place
from parties.sealing.seal import plan_sealing, seal
from tests.support.audits import forget_scores

SETTINGS = suite.Settings(["as_is", "pooled_key_recovery"], [1, 5], rows=32, seed=4, budget_s=60.0)
#: A hospital, and a folder of guesses about it.
Attacked = tuple[Place, Path]
ChangeDraws = Callable[[list[Draw]], list[Draw]]
ChangeTensors = Callable[[dict[str, AnyArray]], object]


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Attacked:
    """Return a hospital with its own set and one throwaway draw, and frozen guesses about both."""
    folder = tmp_path_factory.mktemp("score")
    place = Place.from_settings(
        folder / "hospital",
        {"party": "h", "source": "phantom", "counts": [80, 4, 4], "image_size": 64, "block": 8},
    )
    place.save()
    write_key(place.key_path, SecretKey.generate())
    sets = [seal(place, plan_sealing(place, name)).dataset for name in ("train", "audit-1")]
    suite.run_suite(sets, folder / "guesses", SETTINGS)
    return place, folder / "guesses"


@pytest.fixture
def copy(attacked: Attacked, tmp_path: Path) -> Attacked:
    """Return a hospital that has not scored yet, and guesses that a test may forge."""
    place, guesses = attacked
    shutil.copytree(guesses, tmp_path / "guesses")
    forget_scores(place)
    return place, tmp_path / "guesses"


def forge(
    guesses: Path,
    change_draws: ChangeDraws = lambda draws: draws,
    change_tensors: ChangeTensors | None = None,
) -> None:
    """Rewrite guesses.json, and the first key recovery's tensors, with digests that fit."""
    draws, about = read_draws(guesses)
    about.pop("schema", None)
    if change_tensors:
        target = next(g for g in draws[0].guesses if g.attack == "pooled_key_recovery")
        tensors = dict(load_file(str(guesses / target.file)))
        change_tensors(tensors)
        save_file(tensors, str(guesses / target.file))
        fixed = dataclasses.replace(target, sha256=sha256_file(guesses / target.file))
        kept = [fixed if g is target else g for g in draws[0].guesses]
        draws[0] = dataclasses.replace(draws[0], guesses=kept)
    write_draws(guesses, change_draws(draws), about)


def test_honest_guesses_are_scored_once_and_say_little(copy: Attacked) -> None:
    place, guesses = copy
    scores = score(place, guesses, 32, 64)
    assert [draw.set_name for draw in scores.draws] == ["train", "audit-1"]
    own, throwaway = scores.draws
    last = own.findings[-1].figures
    assert last is not None and last.key_opening is not None
    assert last.reidentified.rate > 0.9 and last.key_opening.median_ssim > 0.8
    # Shares of the key are told for the throwaway key only.
    assert all(finding.figures is not None and finding.figures.key is None for finding in own.findings)
    recovered = throwaway.findings[-1].figures
    assert recovered is not None and recovered.key is not None and recovered.key.pixel_order == 1.0
    assert own.true_key_exact and own.rows == 16
    text = json_text(scores.to_json())
    assert '"max"' not in text and '"p95"' not in text
    for finding in own.findings:
        figures = finding.figures
        assert figures is not None
        for summary in (figures.ssim, figures.psnr, figures.derangement_ssim):
            assert summary is not None and round(summary.median, 3) == summary.median


def test_scores_say_when_they_were_made_and_say_the_same_when_asked_again(
    copy: Attacked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a time, the scores of years ago make a report of today."""
    place, guesses = copy
    monkeypatch.setattr("parties.scoring.ledger.time.time", lambda: 1_700_000_000.5)
    first = score(place, guesses, 32, 64)
    assert first.scored_at == "2023-11-14T22:13:20Z" and first.scored_with
    assert check_signature(first.model_copy(update={"scored_at": first.scored_at})) is not None
    with pytest.raises(CipherwardError, match="was changed after"):
        check_signature(first.model_copy(update={"scored_at": "2026-01-01T00:00:00Z"}))
    monkeypatch.setattr("parties.scoring.ledger.time.time", lambda: 1_800_000_000.0)
    assert score(place, guesses, 32, 64) == first
    # Lines of an earlier version have neither a number nor a head beside them.
    (place.private / "score-ledger-head.json").unlink()
    ledger = place.private / "score-ledger.jsonl"
    older = re.sub(r'"number": \d+, "noted": true, ', "", ledger.read_text())
    ledger.write_text(re.sub(r'"time": \d+', '"time": "then"', older))
    assert score(place, guesses, 32, 64).scored_at is None


def test_a_set_is_scored_once(copy: Attacked, tmp_path: Path) -> None:
    place, guesses = copy
    scores = score(place, guesses, 32, 64)
    assert score(place, guesses, 32, 64) == scores
    write_record(tmp_path / "scores.json", scores)
    assert read_scores(tmp_path / "scores.json") == scores
    with_other_created(guesses)
    with pytest.raises(CipherwardError, match="were scored before"):
        score(place, guesses, 32, 64)


@pytest.mark.parametrize(
    ("rows", "gallery", "message"),
    [
        (34, 64, "was scored with rows 32 before, and now rows 34 is asked"),
        pytest.param(
            30,
            64,
            "was scored with rows 32 before, and now rows 30 is asked",
            marks=pytest.mark.slow,
        ),
        (32, 65, "was scored with gallery 64 before, and now gallery 65 is asked"),
    ],
)
def test_the_same_guesses_are_not_scored_over_other_rows(
    copy: Attacked, rows: int, gallery: int, message: str
) -> None:
    """Two answers about n and n + 2 rows differ by the answer about one image."""
    place, guesses = copy
    first = score(place, guesses, 32, 64)
    ledger = (place.private / "score-ledger.jsonl").read_bytes()
    with pytest.raises(CipherwardError, match=message):
        score(place, guesses, rows, gallery)
    assert (place.private / "score-ledger.jsonl").read_bytes() == ledger
    assert score(place, guesses, 32, 64) == first


def test_the_hospital_s_seed_is_part_of_the_question(copy: Attacked) -> None:
    """Another seed draws another gallery and other baselines."""
    place, guesses = copy
    score(place, guesses, 32, 64)
    other = dataclasses.replace(place, settings=place.settings.model_copy(update={"seed": 9}))
    with pytest.raises(CipherwardError, match=r"not those that|seed 0 before"):
        score(other, guesses, 32, 64)


def test_an_answer_without_recorded_settings_is_not_repeated(copy: Attacked) -> None:
    """An earlier version wrote no rows: it may have been asked about any number."""
    place, guesses = copy
    score(place, guesses, 32, 64)
    (place.private / "score-ledger-head.json").unlink()
    ledger = place.private / "score-ledger.jsonl"
    entries = [json.loads(line) for line in ledger.read_text().splitlines()]
    ledger.write_text(
        "".join(json.dumps({name: e[name] for name in ("set", "guesses", "time")}) + "\n" for e in entries)
    )
    with pytest.raises(CipherwardError, match="an unrecorded number of rows"):
        score(place, guesses, 32, 64)


def with_other_created(guesses: Path) -> None:
    """Make the same guesses another submission."""
    draws, about = read_draws(guesses)
    about.pop("schema")
    write_draws(guesses, draws, {**about, "created": 1})


def test_the_same_images_sealed_again_are_the_same_set(attacked: Attacked, tmp_path: Path) -> None:
    """Another manifest over the same key, scheme and images gives the cloud no second answer."""
    original, first = attacked
    place = Place(tmp_path / "hospital", original.settings)
    shutil.copytree(original.folder, place.folder)
    forget_scores(place)
    score(place, first, 32, 64)
    before = place.sealed("audit-1").digest
    shutil.rmtree(place.sealed_folder("audit-1"))
    plan = plan_sealing(place, "audit-1")
    rows = json.loads(place.rows_file("audit-1").read_text())
    images = np.stack([plan.source.read(row) for row in rows["rows"]])
    again, _ = seal_images(
        place.sealed_folder("audit-1"),
        images.__getitem__,
        plan.source.labels,
        plan.source.classes,
        plan.key(),
        plan.spec,
        "again",
        shard_bytes=20 * 64 * 64,
    )
    assert again.digest != before
    sets = [place.sealed("audit-1")]
    suite.run_suite(sets, tmp_path / "again", SETTINGS)
    with pytest.raises(CipherwardError, match="were scored before"):
        score(place, tmp_path / "again", 32, 64)


def test_a_copied_sealed_set_is_the_same_set(attacked: Attacked, tmp_path: Path) -> None:
    original, first = attacked
    place = Place(tmp_path / "hospital", original.settings)
    shutil.copytree(original.folder, place.folder)
    forget_scores(place)
    score(place, first, 32, 64)
    shutil.copytree(place.sealed_folder("audit-1"), place.sealed_folder("audit-7"))
    shutil.copytree(first, tmp_path / "guesses")
    with_other_created(tmp_path / "guesses")
    with pytest.raises(CipherwardError):
        score(place, tmp_path / "guesses", 32, 64)


def replaced(**changes: Any) -> ChangeDraws:
    return lambda draws: [dataclasses.replace(draws[0], **changes), *draws[1:]]


def with_many_guesses(draws: list[Draw]) -> list[Draw]:
    extra = [dataclasses.replace(draws[0].guesses[0], pool_size=n) for n in range(2, 90)]
    return [dataclasses.replace(draws[0], guesses=[*draws[0].guesses, *extra]), *draws[1:]]


def outside_the_folder(draws: list[Draw]) -> list[Draw]:
    guess = dataclasses.replace(draws[0].guesses[0], file="../../elsewhere.safetensors")
    return [dataclasses.replace(draws[0], guesses=[guess]), *draws[1:]]


def with_key_recovery(**changes: Any) -> ChangeDraws:
    """Change what the cloud states of each key recovery of the first draw."""

    def change(draws: list[Draw]) -> list[Draw]:
        guesses = [
            dataclasses.replace(g, **changes) if g.attack == "pooled_key_recovery" else g
            for g in draws[0].guesses
        ][-1:]
        return [dataclasses.replace(draws[0], guesses=guesses), *draws[1:]]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            with_key_recovery(pool_size=1_000_000),
            r"pooled_key_recovery with 1,000,000 sealed images, of \d",
        ),
        (with_key_recovery(pool_size=0), "pooled_key_recovery with 0 sealed images"),
        (with_key_recovery(uses_pool=False), "pooled_key_recovery with what it does not need"),
        (with_key_recovery(tier="T5"), "pooled_key_recovery with what it does not need"),
        (with_key_recovery(attack="<b>", uses_pool=True), "an attack or a tier that no attack has"),
        (with_key_recovery(attack="a\u202eb"), "an attack or a tier that no attack has"),
        (with_key_recovery(attack="mine", tier="T9"), "an attack or a tier that no attack has"),
        (replaced(images=1_000_000), "1,000,000 images, and its sets hold 80"),
        (replaced(pool_rows=np.arange(10**6, 10**6 + 9)), "a pool of images that its sets do not hold"),
        (replaced(pool_rows=np.zeros(9, np.int64)), "a pool of images that its sets do not hold"),
        (lambda d: replaced(pool_rows=d[0].rows)(d), "a pool that holds images to be guessed"),
    ],
)
def test_pools_that_the_sets_cannot_have_are_refused(
    copy: Attacked, change: ChangeDraws, message: str
) -> None:
    """A size that no pool has would be one at which the hospital cannot look, and part of the verdict."""
    place, guesses = copy
    forge(guesses, change)
    with pytest.raises(CipherwardError, match=message):
        score(place, guesses, 32, 64)
    assert not (place.private / "score-ledger.jsonl").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replaced(rows=np.arange(40)), "names other rows than the seed draws"),
        (replaced(rows=np.zeros(40, np.int64)), "names other rows than the seed draws"),
        (replaced(key_id="0" * 16), "another scheme or key"),
        (with_many_guesses, "too many guesses"),
        (lambda d: [dataclasses.replace(d[0], guesses=d[0].guesses * 2), *d[1:]], "an attack twice"),
        (lambda d: [d[0], d[0]], "other rows|about one sealed set"),
        (outside_the_folder, "names a file outside its folder"),
        (
            lambda d: [dataclasses.replace(x, digests=["0" * 64]) for x in d],
            "holds no guesses about images of h",
        ),
    ],
)
def test_forged_lists_are_refused(copy: Attacked, change: ChangeDraws, message: str) -> None:
    place, guesses = copy
    forge(guesses, change)
    with pytest.raises(CipherwardError, match=message):
        score(place, guesses, 32, 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            with_key_recovery(uncertain=True, confidence=0.9),
            "a confidence of 0.9, but the attack is uncertain",
        ),
        (with_key_recovery(uncertain=False, confidence=0.1), "0.1, but the attack is not uncertain"),
        (with_key_recovery(error="E", confidence=0.9), "a confidence of 0.9, but the attack crashed"),
        (with_key_recovery(seconds=-1.0), "seconds cannot be -1.0"),
        (
            lambda d: [d[0], dataclasses.replace(d[1], name=d[0].name)],
            "two draws of the guesses have one name",
        ),
    ],
)
def test_guesses_whose_scores_nobody_would_read_use_up_no_set(
    copy: Attacked, change: ChangeDraws, message: str
) -> None:
    """Scores that contradict themselves are refused by every reader, and a set has no second ones."""
    place, guesses = copy
    forge(guesses, change)
    with pytest.raises(CipherwardError, match=message):
        score(place, guesses, 32, 64)
    assert not (place.private / "score-ledger.jsonl").exists()


def test_a_forged_scheme_is_refused(copy: Attacked) -> None:
    place, guesses = copy
    value = json.loads((guesses / "guesses.json").read_text())
    value["draws"][0]["spec"]["image_shape"] = [4096, 4096, 1]
    (guesses / "guesses.json").write_text(json.dumps(value))
    with pytest.raises(CipherwardError, match="another scheme or key"):
        score(place, guesses, 32, 64)


def put(name: str, value: AnyArray) -> ChangeTensors:
    return lambda tensors: tensors.__setitem__(name, value)


@pytest.mark.parametrize(
    "change",
    [
        put("key.gather", np.full(64 * 64, 2**30, np.int32)),
        put("key.gather", np.zeros(64 * 64, np.int32)),
        put("key.gather", np.arange(9, dtype=np.int32)),
        put("key.K1", np.zeros(64, np.int64)),
        put("key.K2", np.arange(16, dtype=np.float32)),
        put("key.mask", np.zeros(7, np.uint8)),
        put("images", np.zeros((3, 64, 64, 1), np.uint8)),
        put("images", np.zeros((40, 64, 64, 1), np.float32)),
    ],
)
def test_forged_arrays_are_refused_and_index_nothing(copy: Attacked, change: ChangeTensors) -> None:
    place, guesses = copy
    forge(guesses, change_tensors=change)
    with pytest.raises(CipherwardError, match="is malformed"):
        score(place, guesses, 32, 64)
    # What is refused was not scored: sound guesses about the same set still are.
    assert not (place.private / "score-ledger.jsonl").exists()


def test_too_few_rows_are_a_look_at_single_images(copy: Attacked) -> None:
    place, guesses = copy
    with pytest.raises(CipherwardError, match="at least 8 are needed"):
        score(place, guesses, 8, 64)
    assert not (place.private / "score-ledger.jsonl").exists()


def damaged(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Return a function that changes guesses.json in a folder."""

    def apply(guesses: Path) -> None:
        path = guesses / "guesses.json"
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))

    return apply


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (damaged(lambda v: v.update(budget_s=float("inf"))), "budget_s inf, which is no time"),
        (damaged(lambda v: v.update(budget_s=float("nan"))), "budget_s nan, which is no time"),
        (damaged(lambda v: v.update(budget_s=10**400)), "budget_s 1000.*, which is no time"),
        (damaged(lambda v: v.update(budget_s=-1)), "budget_s -1, which is no time"),
        (damaged(lambda v: v.update(budget_s=True)), "budget_s True, which is no time"),
        (damaged(lambda v: v.update(budget_s="60")), "budget_s '60', which is no time"),
        (damaged(lambda v: v.pop("seed")), "does not name the seed"),
        (damaged(lambda v: v.pop("rows")), "does not name the seed"),
        (damaged(lambda v: v.update(rows=0)), "does not name the seed"),
        (damaged(lambda v: v.update(rows=2**40)), "does not name the seed"),
        # No seed, and no row that a seed would draw.
        (
            damaged(lambda v: (v.pop("seed"), v.pop("rows"), [d.update(rows=[]) for d in v["draws"]])),
            "does not name the seed",
        ),
    ],
)
def test_what_would_stop_a_score_midway_is_one_line_before_the_ledger(
    copy: Attacked, change: Callable[[Path], None], message: str
) -> None:
    place, guesses = copy
    change(guesses)
    with pytest.raises(CipherwardError, match=message) as error:
        score(place, guesses, 32, 64)
    assert "\n" not in str(error.value) and error.value.hint
    assert not (place.private / "score-ledger.jsonl").exists()


def with_tensors(data: bytes) -> Callable[[Path], None]:
    """Return a function that makes the first key recovery's file these bytes, under the right digest."""

    def apply(guesses: Path) -> None:
        draws, about = read_draws(guesses)
        about.pop("schema")
        target = next(g for g in draws[0].guesses if g.attack == "pooled_key_recovery")
        (guesses / target.file).write_bytes(data)
        fixed = dataclasses.replace(target, sha256=sha256_file(guesses / target.file))
        stored = [fixed if g is target else g for g in draws[0].guesses]
        write_draws(guesses, [dataclasses.replace(draws[0], guesses=stored), *draws[1:]], about)

    return apply


def tensors_of(header: bytes | dict[str, Any], data: bytes = b"", length: int | None = None) -> bytes:
    """Return a safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(dtype: str, shape: list[int], size: int) -> dict[str, Any]:
    return {"images": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tensors_of(b"{}", length=2**63), "cannot be read"),
        (tensors_of(b"{}", length=10**8), "cannot be read"),
        (tensors_of(b"[" * 900_000), "cannot be read"),
        (tensors_of(tensor("U8", [2**31, 2**31], 4), bytes(4)), "cannot be read"),
        (tensors_of(tensor("U8", [2**62, 2**62, 0], 0)), "cannot be read|is malformed"),
        (tensors_of(tensor("BF16", [2], 4), bytes(4)), "cannot be read|is malformed"),
        (tensors_of(tensor("F8_E4M3", [4], 4), bytes(4)), "cannot be read|is malformed"),
        (tensors_of(tensor("O", [1], 8), bytes(8)), "cannot be read"),
        # Sound, and far more than a guess about this set has.
        (tensors_of(tensor("U8", [1 << 25], 1 << 25), bytes(1 << 25)), "is larger than the"),
    ],
    # Without names, an id would hold the data: 128 MB of it.
    ids=["length", "long", "nested", "huge", "empty", "bfloat16", "float8", "object", "sound"],
)
def test_crafted_tensors_are_one_line_and_little_memory(copy: Attacked, data: bytes, message: str) -> None:
    place, guesses = copy
    with_tensors(data)(guesses)
    tracemalloc.start()
    with pytest.raises(CipherwardError, match=message):
        score(place, guesses, 32, 64)
    assert tracemalloc.get_traced_memory()[1] < 1 << 25
    tracemalloc.stop()
    assert not (place.private / "score-ledger.jsonl").exists()


@pytest.mark.parametrize(
    "change",
    [
        damaged(lambda v: v.update(seed="x")),
        damaged(lambda v: v.update(seed=10**400)),
        damaged(lambda v: v["draws"][0].update(images=10**400)),
        damaged(lambda v: v["draws"][0]["guesses"][0].update(note="a" * 5000)),
        damaged(lambda v: v["draws"][0]["guesses"][0].update(note="\ud800")),
        damaged(lambda v: v.update(rows=True)),
        damaged(lambda v: v.update(draws={"a": 1})),
        damaged(lambda v: v["draws"][0].update(digests=[])),
        damaged(lambda v: v["draws"][0].update(digests=[7])),
        damaged(lambda v: v["draws"][0].update(rows=[2**70])),
        damaged(lambda v: v["draws"][0].update(rows=["1"])),
        damaged(lambda v: v["draws"][0].update(images="10")),
        damaged(lambda v: v["draws"][0]["guesses"][0].update(attack=[1])),
        damaged(lambda v: v["draws"][0]["guesses"][0].update(pool_size="10")),
        damaged(lambda v: v["draws"][0]["guesses"][0].update(seconds=float("nan"))),
        damaged(lambda v: v["draws"][0]["guesses"][0].update(file=7)),
        damaged(lambda v: v["draws"][0]["guesses"][0].update(file="a\0")),
        damaged(lambda v: v["draws"][0]["guesses"][0].update(more=1)),
    ],
)
def test_damaged_lists_are_named_as_such(copy: Attacked, change: Callable[[Path], None]) -> None:
    place, guesses = copy
    change(guesses)
    with pytest.raises(CipherwardError, match="is damaged"):
        score(place, guesses, 32, 64)
