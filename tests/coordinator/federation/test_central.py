"""Central training on pooled sealed images, and encrypted queries to the model that came of it."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

import coordinator.federation.central
from coordinator.exchange.plan import Plan, write_plan
from coordinator.federation.central import SPLITS, Together, train_centrally
from coordinator.model.query import answer, open_model
from coordinator.model.training import PlainImages, probabilities
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.keyfile import write_key
from crypto.scheme import describe
from crypto.sets.dataset import SealedDataset
from crypto.sets.writer import seal_images
from parties.sealing.place import Place
from parties.sealing.seal import seal, sealing
from parties.training.baseline import train_plain
from parties.training.query import classify, seal_query
from tests.support.study import command

SIDE = 32
SMALL = {"patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}


def plan(**changes) -> Plan:
    settings = {"study": "t", "train": "central", "parties": 2, "counts": (9, 9, 9), "image_size": SIDE}
    settings |= {"block": 8, "model_args": SMALL, "batch": 8, "rounds": 2, "warmup_steps": 0, "lr": 3e-3}
    return Plan.model_validate(settings | changes)


def stripes(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two classes that differ in the direction of stripes: (uint8 [n, SIDE, SIDE, 1], int64 [n])."""
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    y, x = np.mgrid[:SIDE, :SIDE]
    images = [128 + 90 * np.sin((y if k else x) * 0.8 + generator.uniform(0, 6)) for k in labels]
    return np.stack(images).astype(np.uint8)[..., None], labels


def hospitals(folder, key, spec=None, classes=("a", "b"), counts=(24, 8, 8)) -> list:
    """Two hospitals' folders of sealed sets."""
    spec, made = spec or plan().describe(), []
    for index in range(2):
        for split, count in zip(SPLITS, counts, strict=True):
            images, labels = stripes(count, 10 * index + len(split))
            place = folder / f"h{index}" / split
            seal_images(
                place, images.__getitem__, labels, list(classes), key, spec, "s", shard_bytes=1 << 13
            )
        made.append(folder / f"h{index}")
    return made


def test_sets_read_together_are_in_order(tmp_path, key):
    sets = [SealedDataset.open(f / "train") for f in hospitals(tmp_path, key)]
    together = Together(tuple(sets))
    whole = np.concatenate([s.rows(np.arange(len(s))) for s in sets])
    rows = np.array([30, 0, 23, 24, 24, 47])
    assert np.array_equal(together.rows(rows), whole[rows])
    assert np.array_equal(together.labels, np.concatenate([s.labels for s in sets]))


def test_it_is_the_training_of_one_party_that_holds_all(tmp_path, key):
    # `plain` seals nothing, so that training in the clear by the hospitals' lines must come to the same figures.
    p = plan(scheme="plain")
    folders = hospitals(tmp_path, key, p.describe())
    made = train_centrally(p, folders, tmp_path / "cloud")
    parts = {
        split: PlainImages(
            np.concatenate([SealedDataset.open(f / split).images(0, 99) for f in folders]),
            np.concatenate([SealedDataset.open(f / split).labels for f in folders]),
        )
        for split in SPLITS
    }
    model, val, _ = train_plain(
        p, [("provider", parts["train"])], parts["val"], 2, tmp_path / "c.safetensors"
    )
    rows = [json.loads(line) for line in (tmp_path / "cloud" / "rounds.jsonl").read_text().splitlines()]
    assert [r["val"]["accuracy"] for r in rows] == val
    scores = probabilities(model, parts["test"])
    assert made["test"]["mean"]["accuracy"] == float((scores.argmax(1) == parts["test"].labels).mean())
    assert made["val_accuracy"] == max(val)


def test_it_learns_from_ciphertext_and_goes_on_where_it_stopped(tmp_path, key, monkeypatch):
    p, folders = plan(rounds=4, local_epochs=8), hospitals(tmp_path, key)
    whole = train_centrally(p, folders, tmp_path / "whole")
    assert whole["test"]["mean"]["accuracy"] >= 0.9
    assert [r["party"] for r in whole["test"]["parties"]] == ["hospital-0", "hospital-1"]

    class Killed(Exception):
        pass

    real, done = coordinator.federation.central.train_locally, []

    def dies(*words):
        if len(done) == 2:
            raise Killed
        done.append(real(*words))
        return done[-1]

    with monkeypatch.context() as patch:
        patch.setattr(coordinator.federation.central, "train_locally", dies)
        with pytest.raises(Killed):
            train_centrally(p, folders, tmp_path / "cut")
    assert not (tmp_path / "cut" / "training.json").exists()
    again = train_centrally(p, folders, tmp_path / "cut")
    assert again["test"] == whole["test"] and again["best_round"] == whole["best_round"]
    models = [load_file(str(tmp_path / name / "model.safetensors")) for name in ("whole", "cut")]
    assert all(np.array_equal(value, models[1][name]) for name, value in models[0].items())


def test_sets_that_do_not_belong_together_are_refused(tmp_path, key):
    folders = hospitals(tmp_path / "a", key)
    with pytest.raises(CipherwardError, match="named twice"):
        train_centrally(plan(), [folders[0], folders[0]], tmp_path / "cloud")
    with pytest.raises(CipherwardError, match="was not sealed as the plan says"):
        train_centrally(plan(scheme="pe"), folders, tmp_path / "cloud")
    other = hospitals(tmp_path / "b", key, classes=("a", "c"))
    with pytest.raises(CipherwardError, match="their classes differ"):
        train_centrally(plan(), [folders[0], other[1]], tmp_path / "cloud")
    shard = next((folders[1] / "val").glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"\1")
    with pytest.raises(CipherwardError, match=f"{shard.name} is altered"):
        train_centrally(plan(), folders, tmp_path / "cloud")
    assert not (tmp_path / "cloud").exists()
    with pytest.raises(CipherwardError, match="the provider has no key"):
        plan(stem="private")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(a hospital's place, the plan, the model, image files): a model that reads what the hospital seals."""
    tmp_path, key = tmp_path_factory.mktemp("trained"), SecretKey(bytes(range(32)))
    images = tmp_path / "images"
    for split, count in zip(SPLITS, (48, 8, 8), strict=True):
        made, labels = stripes(count, len(split))
        for row, (image, label) in enumerate(zip(made, labels, strict=True)):
            path = images / split / "ab"[label] / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[..., 0]).save(path)
    folder = tmp_path / "hospital"
    folder.mkdir()
    write_key(folder / "secret.key", key)
    settings = {"party": "h", "images": str(images), "image_size": SIDE, "channels": 1, "block": 8}
    place = Place.of(folder, settings)
    place.keep()
    for split in SPLITS:
        seal(place, sealing(place, split))
    p = plan(parties=1, rounds=4, local_epochs=3)
    train_centrally(p, [folder / "sealed"], tmp_path / "cloud")
    files = sorted((images / "test").glob("*/*.png"))
    return place, p, tmp_path / "cloud" / "model.safetensors", files


def test_a_query_is_answered_from_ciphertext(trained, tmp_path, here):
    place, _, model, files = trained
    answers = classify(place, files, model, None)
    right = [found["class"] == path.parent.name for found, path in zip(answers, files, strict=True)]
    assert np.mean(right) >= 0.9
    assert all(abs(sum(f["probabilities"]) - 1) < 1e-3 for f in answers)
    # By way of a folder, as the provider gets it: the same answers, and nothing plain in it.
    query = seal_query(place, files, tmp_path / "query")
    assert query.classes == ["unknown"]
    assert answer(open_model(model), query)["answers"] == answers
    words = ["classify", tmp_path / "query", "--model", model, "--out", tmp_path / "a"]
    done = here("cipherward-coordinator", *words)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "a").read_text())["answers"] == answers
    said = here("cipherward-party", "classify", place.folder, *files, "--model", model).stdout
    assert said.split() == [
        word
        for path, found in zip(files, answers, strict=True)
        for word in (str(path), found["class"], f"{found['probability']:.3f}")
    ]


def test_queries_that_cannot_be_asked(trained, tmp_path, here):
    place, _, model, files = trained
    with pytest.raises(CipherwardError, match="no image at"):
        classify(place, [tmp_path / "none.png"], model, None)
    with pytest.raises(CipherwardError, match="no model at"):
        classify(place, files, tmp_path / "none.safetensors", None)
    (tmp_path / "bad.safetensors").write_bytes(b"x" * 99)
    with pytest.raises(CipherwardError, match="is not a model of ours"):
        open_model(tmp_path / "bad.safetensors")
    spec = describe("pe", (SIDE, SIDE, 1), 8)
    images, labels = stripes(4, 0)
    seal_images(tmp_path / "pe", images.__getitem__, labels, ["a", "b"], SecretKey.generate(), spec, "s")
    with pytest.raises(CipherwardError, match="the model reads block_pixel_shuffle"):
        answer(open_model(model), SealedDataset.open(tmp_path / "pe"))
    by_row = tmp_path / "by-row"
    shutil.copytree(place.folder, by_row)
    shutil.rmtree(by_row / "sealed")
    own = Place.of(by_row, place.settings.model_dump() | {"key_scope": "image"})
    seal(own, sealing(own, "train"))
    # A query's row 0 would be sealed by the key of the set's row 0.
    with pytest.raises(CipherwardError, match="no model can read a further one"):
        seal_query(own, files, tmp_path / "q")
    assert not (tmp_path / "q").exists()
    shutil.copytree(place.folder / "sealed", tmp_path / "other" / "sealed")
    write_key(tmp_path / "other" / "secret.key", SecretKey.generate())
    with pytest.raises(CipherwardError, match="did not seal"):
        classify(Place(tmp_path / "other", place.settings), files, model, None)
    done = here("cipherward-party", "classify", place.folder, files[0])
    assert done.returncode == 1 and "nobody to ask" in done.stderr


def test_a_whole_study_trains_centrally(tmp_path):
    settings = plan(parties=2, counts=(40, 8, 8), image_size=SIDE, baseline=True, wrong_keys=2, rounds=1)
    path = write_plan(settings, tmp_path)
    words = ["simulate", path, "--out", tmp_path / "run", "--until", "baseline"]
    done = command("cipherward-coordinator", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    beside = json.loads((tmp_path / "run" / "baseline.json").read_text())
    made = json.loads((tmp_path / "run" / "cloud" / "training.json").read_text())
    assert made["best_round"] == 1 and len(beside["plain"]["rounds"]) == 1
