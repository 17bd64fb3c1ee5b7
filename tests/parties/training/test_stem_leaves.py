"""What a hospital that carries its stem sends: no key and no private stem; and what the final model is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Message
from safetensors import safe_open
from safetensors.torch import load_file

from coordinator.model.metrics import measure
from coordinator.model.shares import in_stem
from coordinator.model.torchvision_fix import timm
from coordinator.model.training import PlainImages, predict_probabilities
from coordinator.model.vit import build_model, save_model, unpack
from parties.sealing.place import Place
from parties.training import stem, stem_file
from parties.training.baseline import measure_wrong_keys, read_plain_images, run_baseline
from parties.training.stem import carry, key_coordinates
from tests.support import leaks
from tests.support.hospitals import (
    SMALL,
    compute_logits,
    distance,
    federate,
    one_core,  # noqa: F401 - a fixture for every test here
    perturb,
    run_study,
    seal_hospitals,
)
from tests.support.hospitals import stem_plan as plan
from tests.support.local_grid import FIRST_NODE


def message_bytes(message: Message) -> bytes:
    """Return everything that a message contains, as bytes."""
    assert message.has_content(), message.error.reason
    parts = [repr(message.metadata).encode()]
    for record in message.content.values():
        for key, value in record.items():
            parts += [
                key.encode(),
                value.numpy().tobytes() if hasattr(value, "numpy") else repr(value).encode(),
            ]
    return b"|".join(parts)


def rows_of(name: str, weights: stem.Stem) -> dict[str, bytes]:
    """Return pieces of a stem as a message would contain them: of filters, positions and pairs of positions."""
    rows: dict[str, bytes] = {}
    for part, width in (("patch_embed.proj.weight", 64), ("pos_embed", 32)):
        table = weights[part].reshape(-1, width)
        for i, row in enumerate(table):
            rows[f"{name} {part} {i}"] = row[:16].tobytes()
            rows[f"{name} {part} {i}, float64"] = row[:16].astype(np.float64).tobytes()
    for i, seam in enumerate(np.concatenate([table[:-1, -8:], table[1:, :8]], 1)):
        rows[f"{name} pos_embed {i} and {i + 1}"] = seam.tobytes()
    return rows


def test_messages_with_a_private_stem_contain_neither_key_nor_stem(tmp_path: Path) -> None:
    p = plan(stem="private")
    places = seal_hospitals(tmp_path, p)
    _, grid = federate(places, p, tmp_path / "cloud")
    sent = [*grid.sent, *grid.received]
    assert (
        len(sent) == 20
    )  # for 2 hospitals: hello, and 2 rounds of training and evaluation, with the replies
    messages = {f"message {i}": message_bytes(m) for i, m in enumerate(sent)}
    messages |= leaks.files(tmp_path / "cloud")
    forms: dict[str, bytes] = {}
    for place in places:
        spec, name = place.sealed("train").spec, place.settings.party
        coordinates = key_coordinates(spec, place.key())
        for form, secret in leaks.key_forms(place.key(), [spec]).items():
            forms[f"{name} {form}"] = secret
        for round_ in range(3):
            model = build_model(p, 4)
            stem.replace_stem(model, stem_file.read_own_stem(place, p, 4, round_))
            forms |= rows_of(f"{name} round {round_}", stem.copy_stem(model))
            carry(model, coordinates)
            forms |= rows_of(f"{name} round {round_}, carried", stem.copy_stem(model))
    assert len(forms) > 1000
    assert leaks.find(forms, messages) == []
    # The same search finds a row that is there.
    form, row = next((f, r) for f, r in forms.items() if "carried patch_embed" in f)
    assert leaks.find(forms, {"a message": b"x" + row + b"x"}) == [f"{form} in a message"]


def test_a_plain_stem_is_sent_in_plain_coordinates(tmp_path: Path) -> None:
    # With tiny steps the sent stem is almost the first one, which shows the coordinates that it is in.
    p = plan(lr=1e-7, rounds=1)
    places = seal_hospitals(tmp_path, p)
    _, grid = federate(places, p, tmp_path / "cloud")
    sent = [*grid.sent, *grid.received]
    first = build_model(p, 4)
    nodes = {FIRST_NODE, FIRST_NODE + 1}
    updates = [m for m in sent if m.metadata.dst_node_id not in nodes and "arrays" in m.content]
    forms: dict[str, bytes] = {}
    for place, update in zip(places, updates, strict=True):
        sent_model, carried = build_model(p, 4), build_model(p, 4)
        unpack(sent_model, update.content["arrays"]["model"].numpy())
        assert 0 < distance(sent_model, first) < 1e-5
        coordinates = key_coordinates(place.sealed("train").spec, place.key())
        for form, secret in leaks.key_forms(place.key(), [place.sealed("train").spec]).items():
            forms[f"{place.settings.party} {form}"] = secret
        for model, name in ((carried, "first"), (sent_model, "trained")):
            plain = rows_of("", stem.copy_stem(model)).values()
            carry(model, coordinates)
            rows = rows_of(f"{place.settings.party}, {name}, carried", stem.copy_stem(model))
            # Positions are the same rows in another order: only adjacent pairs show the coordinates.
            forms |= {form: row for form, row in rows.items() if row not in plain}
        assert distance(carried, first) > 1e-2
    assert len(forms) > 300 and any("pos_embed" in form for form in forms)
    messages = {f"message {i}": message_bytes(m) for i, m in enumerate(sent)} | leaks.files(
        tmp_path / "cloud"
    )
    assert leaks.find(forms, messages) == []
    assert leaks.find(
        rows_of("plain", stem.copy_stem(first)), messages
    )  # these are sent, as they should be


def test_the_final_plain_stem_model_reads_plain_images_in_timm(tmp_path: Path) -> None:
    p = plan(lr=0.1, rounds=3)
    places = seal_hospitals(tmp_path, p)
    run_study(tmp_path, places, p)
    path = tmp_path / "cloud" / "model.safetensors"
    model = timm.create_model(p.model, num_classes=4, in_chans=1, img_size=32, **SMALL)
    model.load_state_dict(load_file(str(path)))
    with safe_open(str(path), framework="pt") as file:
        about = file.metadata()
    assert about["stem"] == about["images"] == "plain" and about["lacks"] == ""
    rows = json.loads((tmp_path / "cloud" / "training.json").read_text())["test"]["parties"]
    for place, row in zip(places, rows, strict=True):
        test = read_plain_images(place, "test")
        probabilities = predict_probabilities(
            stem_file.load_final_model(p, place, 4, path), place.sealed("test")
        )
        assert np.abs(predict_probabilities(model, test) - probabilities).max() < 1e-4
        assert measure(probabilities, test.labels)["loss"] == pytest.approx(row["loss"], abs=1e-4)


def test_the_final_private_model_lacks_the_stem_and_its_metadata_says_so(tmp_path: Path) -> None:
    p = plan(stem="private", scheme="value_shuffle", lr=0.1, rounds=3, wrong_keys=2, baseline=False)
    places = seal_hospitals(tmp_path, p)
    run_study(tmp_path, places, p)
    path = tmp_path / "cloud" / "model.safetensors"
    names = set(load_file(str(path)))
    assert names and not any(in_stem(n) for n in names) and "cls_token" in names
    training = json.loads((tmp_path / "cloud" / "training.json").read_text())
    with safe_open(str(path), framework="pt") as file:
        about = file.metadata()
    assert about["stem"] == "private" and about["lacks"] == "patch_embed.*, pos_embed"
    assert about["round"] == str(training["best_round"])
    # A hospital completes it with its own stem of the best round.
    for place, row in zip(places, training["test"]["parties"], strict=True):
        probabilities = predict_probabilities(
            stem_file.load_final_model(p, place, 4, path), place.sealed("test")
        )
        assert measure(probabilities, place.sealed("test").labels)["loss"] == pytest.approx(
            row["loss"], abs=1e-5
        )
    figures = run_baseline(p, places, path)
    assert len(figures["wrong_key"]["each"]) == 2 and figures["plain"] is None


def test_the_test_is_read_with_the_stems_of_the_best_round(tmp_path: Path) -> None:
    p = plan(stem="private", lr=0.1, rounds=4)
    trained, evaluated = 0, 0
    best_stems: list[stem.Stem] = []

    def worsen_after_round_2(node: int, reply: Message) -> Message:
        nonlocal trained, evaluated
        if "arrays" in reply.content:
            trained += 1
            if trained == 2 * 2:
                best_stems.extend(
                    stem_file.read_own_stem(Place.open(tmp_path / f"hospital-{i}"), p, 4, 2)
                    for i in range(2)
                )
        elif "metrics" in reply.content:
            evaluated += 1
            if evaluated <= 2 * p.rounds:  # on val; the test comes last
                n = reply.content["metrics"]["num-examples"]
                correct = n if trained == 2 * 2 else 0
                reply.content["metrics"]["accuracy"] = correct / n
                reply.content["tables"]["confusion"] = [correct, n - correct, *[0] * 14]
                reply.content["tables"]["bin_counts"] = [0] * 9 + [n]
                reply.content["tables"]["bin_hits"] = [0] * 9 + [correct]
                reply.content["tables"]["bin_confidence"] = [0.0] * 9 + [0.95 * n]
        return reply

    places = seal_hospitals(tmp_path, p)
    training = run_study(tmp_path, places, p, worsen_after_round_2)
    assert training["best_round"] == 2
    model = build_model(p, 4)
    tensors = load_file(str(tmp_path / "cloud" / "model.safetensors"))
    for place, own, row in zip(places, best_stems, training["test"]["parties"], strict=True):
        last = stem_file.read_own_stem(place, p, 4, 4)
        assert all(np.array_equal(stem_file.read_own_stem(place, p, 4, 2)[k], own[k]) for k in own)
        losses = []
        for weights in (own, last):
            model.load_state_dict({**tensors, **{k: torch.from_numpy(v) for k, v in weights.items()}})
            test = read_plain_images(place, "test")
            losses.append(measure(predict_probabilities(model, test), test.labels)["loss"])
        assert row["loss"] == pytest.approx(losses[0], abs=1e-5)
        assert abs(losses[1] - losses[0]) > 1e-4


def test_a_wrong_key_is_measured_on_the_carried_model(tmp_path: Path) -> None:
    p = plan(scheme="value_shuffle")
    [place, _] = seal_hospitals(tmp_path, p)
    test = read_plain_images(place, "test")
    model: Any = perturb(build_model(p, 4))
    with torch.no_grad():
        model.head.bias -= compute_logits(model, test.images).mean(0)
    labelled = PlainImages(test.images, compute_logits(model, test.images).argmax(1).numpy())
    assert len(set(labelled.labels)) > 1
    save_model(model, p, place.sealed("test").classes, tmp_path / "m.safetensors", key_ids={})
    carried = stem_file.load_final_model(p, place, 4, tmp_path / "m.safetensors")
    sealed = PlainImages(place.sealed("test").rows(np.arange(len(labelled.labels))), labelled.labels)
    assert measure(predict_probabilities(carried, sealed), sealed.labels)["accuracy"] == 1.0
    assert max(measure_wrong_keys(carried, place, labelled, 4)["each"]) < 1.0


def test_a_private_round_sends_fewer_bytes(tmp_path: Path) -> None:
    p = plan(rounds=1)
    places = seal_hospitals(tmp_path, p)
    rows = {}
    for mode in ("plain", "private"):
        federate(places, p.model_copy(update={"stem": mode}), tmp_path / mode)
        rows[mode] = json.loads((tmp_path / mode / "rounds.jsonl").read_text())
    weights = sum(v.nbytes for v in stem.copy_stem(build_model(p, 4)).values())
    for way in ("bytes_up", "bytes_down"):
        assert rows["plain"][way] - rows["private"][way] == pytest.approx(2 * weights, abs=20)
