"""The scorer against what a cloud might hand it: each forgery is refused, and figures say little of one image."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import coordinator.adversary.run.suite as suite
from coordinator.adversary.run.draws import plan_draw
from coordinator.exchange.guesses import StoredGuess, read_draws, save_guess, write_draws
from coordinator.exchange.orbit import Move, orbit_of
from crypto.errors import CipherwardError
from crypto.files import sha256_file
from crypto.key import SecretKey
from crypto.keyfile import write_key
from crypto.scheme import describe
from parties.scoring.key_share import key_share
from parties.scoring.registration import register
from parties.scoring.score import score
from parties.scoring.truth import that_count
from parties.sealing.place import Place
from parties.sealing.seal import plain_rows, seal, sealing
from parties.sources.phantom import Phantom
from tests.support.small_pictures import pictures

SETTINGS = suite.Settings(["as_is", "pooled_key_recovery"], [1, 5], rows=32, seed=4, budget_s=60.0)


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    """A hospital with its own set and one throwaway draw, and frozen guesses about both."""
    folder = tmp_path_factory.mktemp("score")
    place = Place.of(
        folder / "hospital",
        {"party": "h", "source": "phantom", "counts": [80, 4, 4], "image_size": 64, "block": 8},
    )
    place.keep()
    write_key(place.key_path, SecretKey.generate())
    sets = [seal(place, sealing(place, name)).dataset for name in ("train", "audit-1")]
    suite.run_suite(sets, folder / "guesses", SETTINGS)
    return place, folder / "guesses"


@pytest.fixture
def copy(attacked, tmp_path):
    """Guesses that a test may forge, and a hospital that has not scored yet."""
    place, guesses = attacked
    shutil.copytree(guesses, tmp_path / "guesses")
    (place.private / "score-ledger.jsonl").unlink(missing_ok=True)
    return place, tmp_path / "guesses"


def forge(guesses, change_draws=lambda draws: draws, change_tensors=None):
    """Rewrites guesses.json, and the first key recovery's tensors, with digests that fit."""
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


def test_honest_guesses_are_scored_once_and_say_little(copy):
    place, guesses = copy
    scores = score(place, guesses, 32, 64)
    assert [d["set"] for d in scores["draws"]] == ["train", "audit-1"]
    own, throwaway = scores["draws"]
    last = own["findings"][-1]
    assert last["R"]["rate"] > 0.9 and last["K"]["median_ssim"] > 0.8
    # Shares of the key are told for the throwaway key alone.
    assert all(f["key"] is None for f in own["findings"])
    assert throwaway["findings"][-1]["key"]["pixel_order"] == 1.0
    assert own["true_key_exact"] and own["rows"] == 16
    text = json.dumps([f for d in scores["draws"] for f in d["findings"]])
    assert '"max"' not in text and '"p95"' not in text
    for finding in own["findings"]:
        for name in ("ssim", "psnr", "derangement_ssim"):
            assert all(round(v, 3) == v for v in finding[name].values())
    assert score(place, guesses, 32, 64) == scores
    forge(guesses)
    draws, about = read_draws(guesses)
    about.pop("schema")
    write_draws(guesses, draws, {**about, "created": 1})
    with pytest.raises(CipherwardError, match="were scored before"):
        score(place, guesses, 32, 64)


def replaced(**changes):
    return lambda draws: [dataclasses.replace(draws[0], **changes), *draws[1:]]


def many(draws):
    extra = [dataclasses.replace(draws[0].guesses[0], pool_size=n) for n in range(2, 90)]
    return [dataclasses.replace(draws[0], guesses=[*draws[0].guesses, *extra]), *draws[1:]]


def outside(draws):
    guess = dataclasses.replace(draws[0].guesses[0], file="../../elsewhere.safetensors")
    return [dataclasses.replace(draws[0], guesses=[guess]), *draws[1:]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (replaced(rows=np.arange(40)), "names other rows than the seed draws"),
        (replaced(rows=np.zeros(40, np.int64)), "names other rows than the seed draws"),
        (replaced(key_id="0" * 16), "another scheme or key"),
        (many, "too many guesses"),
        (lambda d: [dataclasses.replace(d[0], guesses=d[0].guesses * 2), *d[1:]], "an attack twice"),
        (lambda d: [d[0], d[0]], "other rows|about one sealed set"),
        (outside, "names a file outside its folder"),
        (
            lambda d: [dataclasses.replace(x, digests=["0" * 64]) for x in d],
            "holds no guesses about images of h",
        ),
    ],
)
def test_forged_lists_are_refused(copy, change, said):
    place, guesses = copy
    forge(guesses, change)
    with pytest.raises(CipherwardError, match=said):
        score(place, guesses, 32, 64)


def test_a_forged_scheme_is_refused(copy):
    place, guesses = copy
    value = json.loads((guesses / "guesses.json").read_text())
    value["draws"][0]["spec"]["image_shape"] = [4096, 4096, 1]
    (guesses / "guesses.json").write_text(json.dumps(value))
    with pytest.raises(CipherwardError, match="another scheme or key"):
        score(place, guesses, 32, 64)


def put(name, value):
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
def test_forged_arrays_are_refused_and_index_nothing(copy, change):
    place, guesses = copy
    forge(guesses, change_tensors=change)
    with pytest.raises(CipherwardError, match="is malformed"):
        score(place, guesses, 32, 64)
    # What is refused was not scored: sound guesses about the same set still are.
    assert not (place.private / "score-ledger.jsonl").exists()


def test_too_few_rows_are_a_look_at_single_images(copy):
    place, guesses = copy
    with pytest.raises(CipherwardError, match="at least 8 are needed"):
        score(place, guesses, 8, 64)
    assert not (place.private / "score-ledger.jsonl").exists()


def damaged(change):
    def apply(guesses):
        path = guesses / "guesses.json"
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))

    return apply


@pytest.mark.parametrize(
    "change",
    [
        damaged(lambda v: v.update(seed="x")),
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
def test_damaged_lists_are_named_as_such(copy, change):
    place, guesses = copy
    change(guesses)
    with pytest.raises(CipherwardError, match="is damaged"):
        score(place, guesses, 32, 64)


# ---- the scorer as an oracle ------------------------------------------------------------------------------------

SIDE, SCORED = 32, 64  # pixels; audit rows, of which half are scored
WAVES = [(i, j) for i in range(4) for j in range(4)][1:13]


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A hospital whose images are not public, and its sealed sets."""
    folder = tmp_path_factory.mktemp("oracle")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Phantom, "public", False)
        settings = {
            "party": "h",
            "source": "phantom",
            "counts": [160, 4, 40],
            "image_size": SIDE,
            "block": 8,
        }
        place = Place.of(folder / "h", settings)
        place.keep()
        write_key(place.key_path, SecretKey(bytes(range(32))))
        for name in ("train", "test"):
            seal(place, sealing(place, name))
        yield place, folder


def wave(i, j):
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    return np.cos(np.pi * i * y / SIDE) * np.cos(np.pi * j * x / SIDE)


def crafted(place, out, name, rows, others):
    """(draw, row in it): guesses about one scored image, a wave and its negative each, among forged rows."""
    sealed = place.sealed(name)
    draw = plan_draw("draw-0", 0, [sealed], suite.Settings(["as_is"], [1], rows, 4, 60.0))
    odd = that_count(plain_rows(place, name, draw.rows), SCORED)[1::2]
    level = sealed.rows(draw.rows).mean((1, 2, 3), keepdims=True)  # which the scheme keeps
    pictures, target, stored = others(level, odd), odd[0], []
    for i, j in WAVES:
        for sign in (1, -1):
            pictures[target] = np.clip(level[target] + 40 + sign * 50 * wave(i, j)[..., None], 0, 255)
            file = f"draw-0/{i}{j}{sign}.safetensors"
            digest = save_guess(out / file, pictures.astype(np.uint8), None)
            stored.append(StoredGuess("a", "T0", False, len(stored) + 1, file, digest, 0.0, ""))
    write_draws(out, [dataclasses.replace(draw, guesses=stored)], {"seed": 4, "rows": rows})
    return draw, target


def blank(level, odd):
    return np.full((len(level), SIDE, SIDE, 1), 255.0)


def extremes(level, odd):
    """Half of the scored rows surely worse than the image in question, half surely better: it is the median."""
    noise = np.random.default_rng(0)
    pictures = level + noise.integers(-4, 5, (len(level), SIDE, SIDE, 1))
    worse = odd[1 : len(odd) // 2 + 1]
    pictures[worse] = noise.integers(225, 256, (len(worse), SIDE, SIDE, 1))
    return np.clip(pictures, 0, 255)


def leaves(value, name=""):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{name}.{key}")
    elif isinstance(value, (int, float)) and name not in (".pool_size", ".seconds"):
        yield name, float(value)


@pytest.mark.parametrize("others", [blank, extremes])
def test_no_figure_tells_one_image_s_waves(asked, tmp_path, others):
    place, _ = asked
    (place.private / "score-ledger.jsonl").unlink(missing_ok=True)
    draw, target = crafted(place, tmp_path, "train", SCORED, others)
    found = score(place, tmp_path, SCORED, 100)["draws"][0]["findings"]
    move = Move(**{**(found[0]["move"] or {}), "negative": False})
    image = plain_rows(place, "train", draw.rows[target : target + 1])[0, ..., 0].astype(float)
    moved = [move.apply(wave(i, j)[None, ..., None], 8)[0, ..., 0] for i, j in WAVES]
    true = [((image - image.mean()) * w).mean() for w in moved]
    told = [dict(leaves(f)) for f in found]
    assert len(told[0]) > 10
    for name in told[0]:
        answers = np.array([f[name] for f in told])
        gaps = answers[::2] - answers[1::2]
        few = np.count_nonzero(gaps) <= 2  # a step between two values: a yes or no, now and then
        assert few or abs(np.corrcoef(gaps, true)[0, 1]) < 0.5, name
    if others is blank:
        assert all(f["ssim"] is None and f["R"]["hits"] == f["V"]["hits"] == 0 for f in found)
        assert all("flat" in f["note"] for f in found)


def test_the_hospital_decides_how_many_rows_and_of_which_set(asked, tmp_path):
    place, _ = asked
    crafted(place, tmp_path / "few", "train", 18, blank)
    with pytest.raises(CipherwardError, match="fewer rows of train than the 64"):
        score(place, tmp_path / "few", SCORED, 100)
    crafted(place, tmp_path / "test", "test", SCORED, blank)
    with pytest.raises(CipherwardError, match="about test, whose images are not scored"):
        score(place, tmp_path / "test", SCORED, 100)


def test_one_image_does_not_choose_the_move():
    plain = pictures(24, 32)
    guesses = pictures(24, 32, seed=1)
    orbit = orbit_of(describe("block_pixel_shuffle", (32, 32, 1), 8))
    chosen = set()
    for down, across in itertools.product((-1, 0, 1), (-1, 0, 1)):
        guesses[4] = np.roll(plain[4], (8 * down, 8 * across), (0, 1))
        chosen.add(register(guesses, plain, 8, orbit))
    assert len(chosen) == 1


def test_key_shares_best_worst_and_shifted():
    truth = type("Truth", (), {})()
    truth.block, truth.gallery = 8, np.random.default_rng(0).integers(0, 255, (3, 32, 32, 1), np.uint8)
    truth.plain, truth.spec = truth.gallery, describe("block_pixel_shuffle", (32, 32, 1), 8)
    k1, k2 = np.random.default_rng(1).permutation(16), np.random.default_rng(2).permutation(16)
    parts = {"K1": k1, "K2": k2}
    best = key_share(parts, {"K1": k1, "K2": k2}, truth)
    assert best["block_order"] == best["pixel_order"] == 1.0 and best["bits_left"] == 0.0
    assert best["neighbours"] == [24, 24] and best["identifiable"] == 1.0
    down = (k1 // 4 + 1) % 4 * 4 + k1 % 4
    moved = key_share(parts, {"K1": down, "K2": k2}, truth)
    assert (
        moved["block_order"] == 1.0 and moved["block_order_unshifted"] == 0.0 and moved["shift"] == [1, 0]
    )
    random = key_share(parts, {"K1": np.random.default_rng(5).permutation(16), "K2": np.roll(k2, 1)}, truth)
    assert random["block_order"] < 0.5 and random["pixel_order"] == 0.0 and random["bits_left"] > 60
    truth.gallery = np.zeros((3, 32, 32, 1), np.uint8)
    assert key_share(parts, parts, truth)["identifiable"] == 0.0
    assert key_share(parts, {"K1": k1}, truth) is None
    truth.spec = describe("value_shuffle", (32, 32, 1), 8)  # its symmetries leave no entry to compare
    assert key_share(parts, parts, truth) is None
