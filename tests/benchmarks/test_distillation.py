"""Students on ciphertext that imitate a teacher on plain images."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import recipes
from benchmarks.distillation import TEMPERATURE, Pairs, distance, divergence, imitate, seen_tokens, summary
from benchmarks.pages.recipes import recipes as page
from benchmarks.recipe_list import FEATURES, TAUGHT, plan_of
from benchmarks.recipes import run
from coordinator.model.model_input import to_model_input
from coordinator.model.training import PlainImages, predict_probabilities, train_locally
from coordinator.model.vit import build_model, pack
from crypto.cipher import Cipher
from crypto.errors import CipherwardError
from crypto.files import read_json
from crypto.key import SecretKey
from crypto.scheme import describe, load
from parties.training.stem import carry, key_coordinates
from tests.support.local_training import SMALL, plan, striped_images


def cipher() -> Cipher:
    """Return a cipher of block and pixel shuffling for images of 32×32."""
    return load(describe("block_pixel_shuffle", (32, 32, 1), 8)).cipher(SecretKey(bytes(32)))


def test_the_divergence_is_that_of_softened_distributions() -> None:
    generator = np.random.default_rng(0)
    student, teacher = generator.normal(size=(2, 5, 3)) * 4
    total = 0.0
    for s, t in zip(student / TEMPERATURE, teacher / TEMPERATURE, strict=True):
        p, q = np.exp(t) / np.exp(t).sum(), np.exp(s) / np.exp(s).sum()
        total += float((p * np.log(p / q)).sum()) * TEMPERATURE**2
    found = divergence(torch.tensor(student), torch.tensor(teacher))
    assert float(found) == pytest.approx(total / 5)
    assert float(divergence(torch.tensor(teacher), torch.tensor(teacher))) == pytest.approx(0, abs=1e-12)


def test_tokens_are_compared_without_their_order() -> None:
    generator = np.random.default_rng(0)
    taught = [torch.tensor(generator.normal(size=(5, 7, 6))) for _ in range(3)]
    order = torch.tensor([0, *(1 + generator.permutation(6))])
    assert float(distance([tokens[:, order] for tokens in taught], taught)) == pytest.approx(0, abs=1e-9)
    learnt = [torch.tensor(generator.normal(size=(5, 7, 6))) for _ in range(3)]
    total = []
    for s, t in zip(learnt, taught, strict=True):
        for one, other in ((s[:, 0], t[:, 0]), (s[:, 1:].mean(1), t[:, 1:].mean(1))):
            a, b = (
                (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
                for x in (one, other)
            )
            total.append(float(((a - b) ** 2).mean()))
    assert float(distance(learnt, taught)) == pytest.approx(np.mean(total), rel=1e-5)
    assert summary(taught[0].bfloat16()).dtype == torch.float32


def test_a_teacher_in_the_coordinates_of_the_key_is_at_no_distance_from_itself() -> None:
    images, p = striped_images(8), plan(model_args={**SMALL, "depth": 3})
    key = SecretKey(bytes(32))
    teacher, student = build_model(p, 2), build_model(p, 2)
    plain = to_model_input(images.images)
    sealed = to_model_input(load(p.describe()).cipher(key).encrypt(images.images))
    found = []
    for _ in range(2):
        with torch.no_grad(), seen_tokens(teacher) as taught, seen_tokens(student) as learnt:
            teacher(plain), student(sealed)
        assert [len(taught), len(learnt)] == [3, 3]
        found.append(float(distance(learnt, taught)))
        carry(student, key_coordinates(p.describe(), key))
    assert found[0] > 1e-3 and found[1] == pytest.approx(0, abs=1e-6)
    kept = len(taught)
    with torch.no_grad():
        teacher(plain)
    assert len(taught) == kept == 3  # nothing is kept any more


def test_only_the_blocks_of_a_vision_transformer_can_be_compared() -> None:
    with pytest.raises(TypeError, match="Linear"), seen_tokens(torch.nn.Linear(2, 2)):
        pass


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_student_of_features_comes_nearer_to_its_teachers_tokens(precision: str) -> None:
    images, key = striped_images(48), cipher()
    p = plan(local_epochs=6, rounds=1, precision=precision)
    teacher = build_model(p, 2)
    train_locally(teacher, images, p, 1, "a")
    sealed, distances = to_model_input(key.encrypt(images.images)), {}
    for features in (False, True):
        student = build_model(p.model_copy(update={"seed": 5}), 2)
        imitate(student, teacher, Pairs(images, key.encrypt), p, 1, "a", features)
        with torch.no_grad(), seen_tokens(teacher) as taught, seen_tokens(student) as learnt:
            teacher(to_model_input(images.images)), student(sealed)
        distances[features] = float(distance(learnt, taught))
    assert distances[True] < 0.5 * distances[False]


@pytest.mark.long
def test_a_student_learns_from_ciphertext_what_its_teacher_says_of_the_plain_images() -> None:
    images, key = striped_images(96), cipher()
    p = plan(local_epochs=12, rounds=1, mixup=0.2)
    teacher = build_model(p, 2)
    train_locally(teacher, images, p, 1, "a")
    taught, before = predict_probabilities(teacher, images).argmax(1), pack(teacher)
    assert (taught == images.labels).mean() > 0.9
    student = build_model(p.model_copy(update={"seed": 5}), 2)
    # The teacher's classes are all that the student can know: the labels that it gets are wrong.
    wrong = PlainImages(images.images, 1 - images.labels)
    imitate(student, teacher, Pairs(wrong, key.encrypt), p, 1, "a")
    sealed = PlainImages(key.encrypt(images.images), images.labels)
    assert (predict_probabilities(student, sealed).argmax(1) == taught).mean() > 0.8
    assert np.array_equal(pack(teacher), before)


def test_image_and_ciphertext_are_altered_and_mixed_alike() -> None:
    images, key = striped_images(16), cipher()
    p = plan(local_epochs=1, rounds=1, batch=8, mixup=1.0, augment="flip_shift")
    seen: dict[str, list[torch.Tensor]] = {"teacher": [], "student": []}
    models = {who: build_model(p, 2) for who in seen}
    for who, model in models.items():
        model.register_forward_pre_hook(lambda _, inputs, who=who: seen[who].append(inputs[0].clone()))
    imitate(models["student"], models["teacher"], Pairs(images, key.encrypt), p, 1, "a")
    assert len(seen["teacher"]) == len(seen["student"]) == 2
    # Opening a mixture of ciphertexts gives the mixture of the images: the scheme moves values and alters none.
    high, low = np.divmod(np.arange(32 * 32).reshape(1, 32, 32, 1), 256)
    places = 256 * key.encrypt(high.astype(np.uint8)).astype(np.int64) + key.encrypt(low.astype(np.uint8))
    for plain, sealed in zip(seen["teacher"], seen["student"], strict=True):
        flat = plain.reshape(len(plain), -1)[:, torch.from_numpy(places.ravel())]
        torch.testing.assert_close(sealed.reshape(len(sealed), -1), flat)
    stored = {bytes(image) for image in images.images}
    assert not any(
        bytes((127.5 * (x + 1)).round().byte().numpy().tobytes()) in stored for x in seen["teacher"][0]
    )


@pytest.mark.parametrize("student", TAUGHT)
def test_a_taught_recipe_needs_its_teacher_and_is_shown_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, student: str
) -> None:
    def read(folder: Path, name: str, size: int, counts: tuple[int, int, int]) -> dict[str, PlainImages]:
        return {s: striped_images(n, seed=n) for s, n in (("train", 24), ("val", 8))}

    def small(name: str, seed: int, data: Path) -> Any:
        whole = plan_of(name, seed, data)
        changes = {"image_size": 32, "block": 8, "model_args": SMALL, "weights": "", "rounds": 2}
        return whole.model_copy(update=changes)

    monkeypatch.setattr(recipes, "read", read)
    monkeypatch.setattr(recipes, "plan_of", small)
    asked: list[bool] = []

    def observed(*arguments: Any) -> None:
        asked.append(arguments[-1])
        imitate(*arguments)

    monkeypatch.setattr(recipes, "imitate", observed)
    teacher = TAUGHT[student]
    options = argparse.Namespace(test=[], seeds=1, hours=1.0, folder=tmp_path, out=tmp_path / "out")
    options.json, options.recipes = tmp_path / "figures.json", [student]
    with pytest.raises(CipherwardError, match="has to be kept") as refused:
        run(options)
    assert teacher in str(refused.value)
    options.recipes = [teacher, student]
    run(options)
    result = read_json(options.json, "figures")
    assert [line.get("teacher") for line in result["recipes"]] == [None, teacher]
    assert student in "\n".join(page(result))
    assert set(asked) == {student in FEATURES} == {"features" in student}
