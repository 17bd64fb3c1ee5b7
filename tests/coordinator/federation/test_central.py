"""Central training on the sealed images of all hospitals, and encrypted queries to the trained model."""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from coordinator.exchange.plan import Plan, write_plan
from coordinator.federation import central
from coordinator.federation.central import (
    SPLITS,
    ConcatenatedSets,
    open_hospital_sets,
    train_centrally,
)
from coordinator.model.query import answer_query, open_model
from coordinator.model.training import LabelledImages, PlainImages, predict_probabilities, train_locally
from coordinator.study import steps, study
from coordinator.study.simulate import simulate
from crypto.arrays import AnyArray
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.keyfile import write_key
from crypto.scheme import describe
from crypto.sets.dataset import SealedDataset
from crypto.sets.writer import seal_images
from crypto.spec import SchemeSpec, spec_without_nonce
from parties.sealing.place import Place
from parties.sealing.seal import plan_sealing, seal
from parties.training.baseline import train_plain
from parties.training.query import classify, seal_query
from tests.support.command_runs import Here, run_here
from tests.support.local_training import SMALL, striped_images
from tests.support.study import command

SIDE = 32


def plan(**changes: Any) -> Plan:
    settings: dict[str, Any] = {"study": "t", "train": "central", "parties": 2, "counts": (9, 9, 9)}
    settings |= {
        "image_size": SIDE,
        "block": 8,
        "model_args": SMALL,
        "batch": 8,
        "rounds": 2,
        "warmup_steps": 0,
    }
    return Plan.model_validate(settings | {"lr": 3e-3} | changes)


class KilledError(Exception):
    """Stands for a kill of the process."""


class Trained(NamedTuple):
    """A hospital, a model that reads what it seals, and its test image files."""

    place: Place
    model: Path
    files: list[Path]


def seal_two_hospitals(
    folder: Path, key: SecretKey, spec: SchemeSpec | None = None, classes: tuple[str, ...] = ("a", "b")
) -> list[Path]:
    """Seal the sets of two hospitals, and return their folders."""
    spec, folders = spec or plan().describe(), []
    for index in range(2):
        for split, count in zip(SPLITS, (24, 8, 8), strict=True):
            data = striped_images(count, 10 * index + len(split))
            place = folder / f"h{index}" / split
            seal_images(
                place,
                data.images.__getitem__,
                data.labels,
                list(classes),
                key,
                spec,
                "s",
                shard_bytes=1 << 13,
            )
        folders.append(folder / f"h{index}")
    return folders


def test_concatenated_sets_keep_the_order_of_rows(tmp_path: Path, key: SecretKey) -> None:
    sets = [SealedDataset.open(f / "train") for f in seal_two_hospitals(tmp_path, key)]
    concatenated = ConcatenatedSets(tuple(sets))
    whole = np.concatenate([s.rows(np.arange(len(s))) for s in sets])
    rows = np.array([30, 0, 23, 24, 24, 47])
    assert np.array_equal(concatenated.rows(rows), whole[rows])
    assert np.array_equal(concatenated.labels, np.concatenate([s.labels for s in sets]))


def test_it_equals_the_training_of_one_party_that_has_all_images(tmp_path: Path, key: SecretKey) -> None:
    # `plain` does not change images, so training on plain images must give the same figures.
    p = plan(scheme="plain")
    folders = seal_two_hospitals(tmp_path, key, p.describe())
    training = train_centrally(p, folders, tmp_path / "cloud")
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
    scores = predict_probabilities(model, parts["test"])
    assert training["test"]["mean"]["accuracy"] == float((scores.argmax(1) == parts["test"].labels).mean())
    assert training["val_accuracy"] == max(val)


def test_it_learns_from_ciphertext_and_resumes_after_a_kill(
    tmp_path: Path, key: SecretKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    p, folders = plan(rounds=4, local_epochs=8), seal_two_hospitals(tmp_path, key)
    uninterrupted = train_centrally(p, folders, tmp_path / "uninterrupted")
    assert uninterrupted["test"]["mean"]["accuracy"] >= 0.9
    assert [r["party"] for r in uninterrupted["test"]["parties"]] == ["hospital-0", "hospital-1"]

    results: list[dict[str, float]] = []

    def die_in_third_round(
        model: torch.nn.Module, data: LabelledImages, plan_: Plan, round_: int, party: str
    ) -> dict[str, float]:
        if len(results) == 2:
            raise KilledError
        results.append(train_locally(model, data, plan_, round_, party))
        return results[-1]

    with monkeypatch.context() as patch:
        patch.setattr(central, "train_locally", die_in_third_round)
        with pytest.raises(KilledError):
            train_centrally(p, folders, tmp_path / "cut")
    assert not (tmp_path / "cut" / "training.json").exists()
    resumed = train_centrally(p, folders, tmp_path / "cut")
    assert resumed["test"] == uninterrupted["test"]
    assert resumed["best_round"] == uninterrupted["best_round"]
    models = [load_file(str(tmp_path / name / "model.safetensors")) for name in ("uninterrupted", "cut")]
    assert all(np.array_equal(value, models[1][name]) for name, value in models[0].items())


def test_sets_that_do_not_belong_together_are_refused(tmp_path: Path, key: SecretKey) -> None:
    folders = seal_two_hospitals(tmp_path / "a", key)
    with pytest.raises(CipherwardError, match="named twice"):
        train_centrally(plan(), [folders[0], folders[0]], tmp_path / "cloud")
    with pytest.raises(CipherwardError, match="was not sealed as the plan says"):
        train_centrally(plan(scheme="pe"), folders, tmp_path / "cloud")
    other = seal_two_hospitals(tmp_path / "b", key, classes=("a", "c"))
    with pytest.raises(CipherwardError, match="their classes differ"):
        train_centrally(plan(), [folders[0], other[1]], tmp_path / "cloud")
    shard = next((folders[1] / "val").glob("*.safetensors"))
    before = shard.read_bytes()
    shard.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    with pytest.raises(CipherwardError, match=f"{shard.name} is altered"):
        train_centrally(plan(), folders, tmp_path / "cloud")
    assert not (tmp_path / "cloud").exists()
    with pytest.raises(CipherwardError, match="the provider has no key"):
        plan(stem="private")


@pytest.mark.parametrize("label", [99, 2, -1])
def test_a_label_outside_the_classes_is_one_line_that_names_the_hospital(
    tmp_path: Path, key: SecretKey, here: Here, label: int
) -> None:
    folders = seal_two_hospitals(tmp_path, key)
    spoilt = folders[1] / "val"
    shutil.rmtree(spoilt)
    data = striped_images(8, 3)
    labels = data.labels.copy()
    labels[5] = label
    seal_images(spoilt, data.images.__getitem__, labels, ["a", "b"], key, plan().describe(), "s")
    with pytest.raises(CipherwardError, match=f"{spoilt} holds the label {label}, and its 2 classes"):
        train_centrally(plan(), folders, tmp_path / "cloud")
    words = ["train", write_plan(plan(), tmp_path), *folders, "--out", tmp_path / "cloud"]
    done = here("cipherward-coordinator", *words)
    assert done.returncode == 1 and f"holds the label {label}" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "cloud").exists()


@pytest.mark.parametrize("split", SPLITS)
def test_an_empty_set_is_one_line_that_names_the_hospital(
    tmp_path: Path, key: SecretKey, split: str
) -> None:
    folders = seal_two_hospitals(tmp_path, key)
    manifest = json.loads((folders[1] / split / "manifest.json").read_text())
    manifest |= {"shards": [], "rows": 0}
    (folders[1] / split / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CipherwardError, match=f"{folders[1] / split} holds no images"):
        train_centrally(plan(), folders, tmp_path / "cloud")
    assert not (tmp_path / "cloud").exists()


def test_keys_that_contradict_the_key_scope_are_refused(tmp_path: Path, key: SecretKey) -> None:
    other = SecretKey(bytes(32))
    mine = seal_two_hospitals(tmp_path / "a", key)
    theirs = seal_two_hospitals(tmp_path / "b", other)
    with pytest.raises(
        CipherwardError, match="key_scope consortium, and the hospitals' sets were sealed with"
    ):
        open_hospital_sets([mine[0], theirs[1]], plan())
    assert len(open_hospital_sets(mine, plan())) == 2
    p = plan(key_scope="party")
    mine = seal_two_hospitals(tmp_path / "c", key, p.describe())
    theirs = seal_two_hospitals(tmp_path / "d", other, p.describe())
    with pytest.raises(
        CipherwardError, match="key_scope party, and the hospitals' sets were not sealed with one"
    ):
        open_hospital_sets(mine, p)
    assert len(open_hospital_sets([mine[0], theirs[1]], p)) == 2
    shutil.rmtree(mine[0] / "val")
    shutil.copytree(theirs[0] / "val", mine[0] / "val")
    with pytest.raises(CipherwardError, match="were not sealed with one key each"):
        open_hospital_sets([mine[0], theirs[1]], p)


def test_a_training_does_not_go_on_with_other_sets(tmp_path: Path, key: SecretKey) -> None:
    first, second = seal_two_hospitals(tmp_path / "a", key), seal_two_hospitals(tmp_path / "b", key)
    train_centrally(plan(rounds=1), first, tmp_path / "cloud")
    before = (tmp_path / "cloud" / "checkpoint.safetensors").read_bytes()
    # Sealed anew with the same key from the same images, it is another set only if its bytes are others.
    shutil.rmtree(second[0] / "train")
    shutil.copytree(first[1] / "val", second[0] / "train")
    for folders in (second, first[::-1]):
        with pytest.raises(CipherwardError, match="were trained on other sealed sets"):
            train_centrally(plan(rounds=2), folders, tmp_path / "cloud")
    assert (tmp_path / "cloud" / "checkpoint.safetensors").read_bytes() == before
    train_centrally(plan(rounds=2), first, tmp_path / "cloud")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Train a model that reads the images of one hospital."""
    tmp_path, key = tmp_path_factory.mktemp("trained"), SecretKey(bytes(range(32)))
    images = tmp_path / "images"
    for split, count in zip(SPLITS, (48, 8, 8), strict=True):
        data = striped_images(count, len(split))
        for row, (image, label) in enumerate(zip(data.images, data.labels, strict=True)):
            path = images / split / "ab"[label] / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[..., 0]).save(path)
    folder = tmp_path / "hospital"
    folder.mkdir()
    write_key(folder / "secret.key", key)
    settings = {"party": "h", "images": str(images), "image_size": SIDE, "channels": 1, "block": 8}
    place = Place.from_settings(folder, settings)
    place.save()
    for split in SPLITS:
        seal(place, plan_sealing(place, split))
    p = plan(parties=1, rounds=4, local_epochs=3)
    train_centrally(p, [folder / "sealed"], tmp_path / "cloud")
    files = sorted((images / "test").glob("*/*.png"))
    return Trained(place, tmp_path / "cloud" / "model.safetensors", files)


def test_a_query_is_answered_from_ciphertext(trained: Trained, tmp_path: Path, here: Here) -> None:
    place, model, files = trained
    answers = classify(place, files, model, None)
    correct = [a["class"] == path.parent.name for a, path in zip(answers, files, strict=True)]
    assert np.mean(correct) >= 0.9
    assert all(abs(sum(a["probabilities"]) - 1) < 1e-3 for a in answers)
    # The provider gets a folder without plain images, and gives the same answers.
    query = seal_query(place, files, tmp_path / "query")
    assert query.classes == ["unknown"]
    assert answer_query(open_model(model), query)["answers"] == answers
    words = ["classify", tmp_path / "query", "--model", model, "--out", tmp_path / "a"]
    done = here("cipherward-coordinator", *words)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "a").read_text())["answers"] == answers
    output = here("cipherward-party", "classify", place.folder, *files, "--model", model).stdout
    assert output.split() == [
        word
        for path, a in zip(files, answers, strict=True)
        for word in (str(path), a["class"], f"{a['probability']:.3f}")
    ]


def test_an_interrupted_query_goes_on_with_its_own_images_only(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, _, files = trained

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("parties.training.query.seal_images", functools.partial(seal_images, inspect=die))
        with pytest.raises(KeyboardInterrupt):
            seal_query(place, files[:2], tmp_path / "query")
    with pytest.raises(CipherwardError, match="unfinished sealing of other images"):
        seal_query(place, files[2:4], tmp_path / "query")
    assert len(seal_query(place, files[:2], tmp_path / "query")) == 2


def reading(model: Path, query: SealedDataset, target: Path) -> Path:
    """Write a copy of a model that says that it was trained under a query's key and scheme."""
    spec = json.dumps(spec_without_nonce(query.spec))
    return with_metadata(model, target, {"spec": spec, "key_ids": json.dumps({"h": query.key_id})})


def test_impossible_queries_are_refused(trained: Trained, tmp_path: Path, here: Here) -> None:
    place, model, files = trained
    with pytest.raises(CipherwardError, match="no image at"):
        classify(place, [tmp_path / "none.png"], model, None)
    with pytest.raises(CipherwardError, match="no model at"):
        classify(place, files, tmp_path / "none.safetensors", None)
    (tmp_path / "bad.safetensors").write_bytes(b"x" * 99)
    with pytest.raises(CipherwardError, match="is not a model of Cipherward"):
        open_model(tmp_path / "bad.safetensors")
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(CipherwardError, match="is not a regular file"):  # not waited for
        open_model(tmp_path / "pipe.safetensors")
    spec = describe("pe", (SIDE, SIDE, 1), 8)
    data = striped_images(4, 0)
    seal_images(
        tmp_path / "pe", data.images.__getitem__, data.labels, ["a", "b"], SecretKey.generate(), spec, "s"
    )
    with pytest.raises(
        CipherwardError, match="its name is 'block_pixel_shuffle', that of these images is 'pe'"
    ):
        answer_query(open_model(model), SealedDataset.open(tmp_path / "pe"))
    by_row = tmp_path / "by-row"
    shutil.copytree(place.folder, by_row)
    shutil.rmtree(by_row / "sealed")
    row_keys = Place.from_settings(by_row, place.settings.model_dump() | {"key_scope": "image"})
    seal(row_keys, plan_sealing(row_keys, "train"))
    # Row 0 of a query would be sealed by the key of the set's row 0.
    with pytest.raises(CipherwardError, match="no model can read a further image"):
        seal_query(row_keys, files, tmp_path / "q")
    assert not (tmp_path / "q").exists()
    # Patches in an order of their own for each image are read in any order.
    shuffled = Place.from_settings(
        tmp_path / "shuffled",
        {**place.settings.model_dump(), "scheme": "patch_shuffle", "block": 4},
    )
    shuffled.save()
    write_key(shuffled.key_path, SecretKey.generate())
    seal(shuffled, plan_sealing(shuffled, "train"))
    query = seal_query(shuffled, files, tmp_path / "shuffled-query")
    assert query.spec.options["nonce"] != shuffled.sealed("train").spec.options["nonce"]
    assert len(
        answer_query(open_model(reading(model, query, tmp_path / "m.safetensors")), query)["answers"]
    ) == len(files)
    shutil.copytree(place.folder / "sealed", tmp_path / "other" / "sealed")
    write_key(tmp_path / "other" / "secret.key", SecretKey.generate())
    with pytest.raises(CipherwardError, match="did not seal"):
        classify(Place(tmp_path / "other", place.settings), files, model, None)
    done = here("cipherward-party", "classify", place.folder, files[0])
    assert done.returncode == 1 and "no model to ask" in done.stderr


def with_metadata(model: Path, target: Path, changes: dict[str, str | None]) -> Path:
    """Write a copy of a model whose metadata is changed; None removes an entry."""
    with safe_open(str(model), framework="numpy") as file:
        metadata = {**(file.metadata() or {}), **changes}
    save_file(load_file(str(model)), target, {k: v for k, v in metadata.items() if v is not None})
    return target


def test_a_model_of_another_key_is_refused_and_not_asked(
    trained: Trained, tmp_path: Path, here: Here
) -> None:
    place, model, files = trained
    rotated = tmp_path / "rotated"
    shutil.copytree(place.folder, rotated)
    shutil.rmtree(rotated / "sealed")
    (rotated / "secret.key").unlink()
    write_key(rotated / "secret.key", SecretKey(bytes(range(100, 132))))
    after = Place(rotated, place.settings)
    for split in SPLITS:
        seal(after, plan_sealing(after, split))
    query = seal_query(after, files, tmp_path / "query")
    for done in (
        here("cipherward-party", "classify", rotated, files[0], "--model", model),
        here("cipherward-coordinator", "classify", tmp_path / "query", "--model", model),
    ):
        assert done.returncode == 1 and not done.stdout, done.stdout
        assert "was trained under another key" in done.stderr and query.key_id in done.stderr
    # Without the check it answers all the same, from images that mean nothing to it.
    blind = open_model(with_metadata(model, tmp_path / "m", {"key_ids": json.dumps({"h": query.key_id})}))
    answers = answer_query(blind, query)["answers"]
    assert len(answers) == len(files) and answers != classify(place, files, model, None)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("spec", None, "was saved by an earlier version"),
        ("key_ids", None, "was saved by an earlier version"),
        ("study", None, "was saved by an earlier version"),
        ("key_ids", "{}", "was trained under another key"),
        ("key_ids", "[1]", "is damaged"),
        ("spec", "{", "is damaged"),
        ("spec", "{}", "reads images of another sealing: its block is None"),
        ("classes", '["b", "a"]', "the classes of"),
        ("model", "hf-hub:attacker/beacon", "is not the name of a network"),
        ("model_args", '{"img_size": [32, 32], "checkpoint_path": "/etc/passwd"}', "is set by the study"),
        ("model_args", '{"img_size": [32, 32], "cache_dir": "/tmp/x"}', "is set by the study"),
        ("model_args", '{"img_size": [32, 32], "unheard_of": "/tmp/x"}', "is not an argument"),
    ],
)
def test_a_model_that_does_not_belong_is_refused_on_both_sides(
    trained: Trained, tmp_path: Path, field: str, value: str | None, message: str
) -> None:
    place, model, files = trained
    other = with_metadata(model, tmp_path / "m.safetensors", {field: value})
    with pytest.raises(CipherwardError, match=message):
        classify(place, files, other, None)
    with pytest.raises(CipherwardError, match=message):
        # A set with class names: those of a query are not known.
        answer_query(open_model(other), place.sealed("test"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda bias: bias * np.float32(np.nan), "outputs for these images are not finite"),
        (lambda bias: bias.astype(np.int8), "the tensor head.bias is of type int8"),
        (
            lambda bias: np.zeros(len(bias) + 1, np.float32),
            "holds another model: size mismatch for head.bias",
        ),
    ],
)
def test_a_model_whose_weights_cannot_answer_is_refused_on_both_sides(
    trained: Trained, tmp_path: Path, here: Here, change: Callable[[AnyArray], AnyArray], message: str
) -> None:
    place, model, files = trained
    tensors, damaged = load_file(str(model)), tmp_path / "m.safetensors"
    with safe_open(str(model), framework="numpy") as file:
        save_file({**tensors, "head.bias": change(tensors["head.bias"])}, damaged, file.metadata())
    seal_query(place, files, tmp_path / "query")
    answers = tmp_path / "answers.json"
    for done in (
        here("cipherward-party", "classify", place.folder, files[0], "--model", damaged),
        here(
            "cipherward-coordinator", "classify", tmp_path / "query", "--model", damaged, "--out", answers
        ),
    ):
        assert done.returncode == 1 and not done.stdout and message in done.stderr, done.stderr
        assert "Traceback" not in done.stderr and not answers.exists()


def whole_study() -> Plan:
    """Return the plan of a small study that a provider trains."""
    return plan(parties=2, counts=(40, 8, 8), image_size=SIDE, baseline=True, wrong_keys=2, rounds=1)


def check_result(study: Path) -> None:
    baseline = json.loads((study / "baseline.json").read_text())
    training = json.loads((study / "cloud" / "training.json").read_text())
    assert training["best_round"] == 1 and len(baseline["plain"]["rounds"]) == 1


def test_a_whole_study_trains_centrally(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The study's commands, with their arguments, are run in this process: each start takes two seconds."""
    programs = {"parties.cli.app": "cipherward-party", "coordinator.cli.app": "cipherward-coordinator"}
    commands = []

    def run(module: str, words: Sequence[str], log_file: Path, on_line: Callable[[str], None]) -> None:
        commands.append(words[0])
        done = run_here(programs[module], *words)
        assert done.returncode == 0, done.stdout + done.stderr

    for module in (study, steps):
        monkeypatch.setattr(module, "run_command", run)
    simulate(whole_study(), tmp_path / "run", "baseline", lambda line: None)
    assert commands == ["keygen", "seal", "share-key", "seal", "train", "baseline"]
    check_result(tmp_path / "run")
    # Its 20 images of a hospital are too few to attack, which is said before a training.
    with pytest.raises(CipherwardError, match="holds 20 images: too few to attack"):
        simulate(whole_study(), tmp_path / "another", "report", lambda line: None)
    assert commands[6:] == ["keygen", "seal", "share-key", "seal"]


@pytest.mark.slow
def test_a_whole_study_trains_centrally_in_processes(tmp_path: Path) -> None:
    path = write_plan(whole_study(), tmp_path)
    words = ["simulate", path, "--out", tmp_path / "run", "--until", "baseline"]
    done = command("cipherward-coordinator", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    check_result(tmp_path / "run")
