"""A hospital that seals other images answers about these, and every answer counts: nothing comes from before."""

from __future__ import annotations

import json
import secrets
import shutil
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from coordinator.exchange.manifest import StudyManifest
from coordinator.exchange.plan import Plan
from coordinator.model.shares import shared_names
from coordinator.model.vit import build_model, pack
from crypto.arrays import AnyArray
from crypto.key import SecretKey
from crypto.keyfile import write_key
from parties.sealing.place import Place
from parties.sealing.seal import plan_sealing, seal
from tests.support.hospitals import (
    CLASSES,
    agree,
    make_grid,
    one_core,  # noqa: F401 - a fixture
    plan,
    seal_hospitals,
)
from tests.support.local_grid import FIRST_NODE


def ask(places: list[Place], p: Plan, manifest: StudyManifest, split: str = "train") -> Message:
    """Ask the first hospital the first question of a study, and return its reply."""
    model = build_model(p, CLASSES)
    config: dict[str, str | int] = {
        "plan": p.model_dump_json(),
        "manifest": manifest.digest,
        "server-round": 1,
    }
    config |= {"best-round": 0} if split == "train" else {"split": split}
    if p.sums_securely and split == "train":
        config["attempt"] = secrets.token_hex(16)
    arrays = ArrayRecord({"model": Array(pack(model, shared_names(model, p)))})
    content = RecordDict({"arrays": arrays, "config": ConfigRecord(dict(config))})
    kind = "train" if split == "train" else "evaluate"
    [reply] = make_grid(places).send_and_receive(
        [Message(content, dst_node_id=FIRST_NODE, message_type=kind)]
    )
    return reply


def seal_anew(place: Place, **changes: object) -> Place:
    """Seal other images of a hospital under another key, and return the hospital."""
    shutil.rmtree(place.folder / "sealed")
    for rows in place.private.glob("rows-*"):
        rows.unlink()
    place.key_path.unlink()
    new = Place.from_settings(place.folder, place.settings.model_dump() | changes)
    new.save()
    first = 100 + int(place.settings.party[-1])
    write_key(new.key_path, SecretKey(bytes(range(first, first + 32))))
    for split in ("train", "val", "test"):
        seal(new, plan_sealing(new, split))
    return new


def test_other_images_are_trained_on_and_every_answer_about_them_counts(tmp_path: Path) -> None:
    p = plan(rounds=1, counts=(16, 8, 8))
    places = seal_hospitals(tmp_path, p)
    manifest = agree(places, p)
    assert not ask(places, p, manifest).has_error() and not ask(places, p, manifest, "test").has_error()
    assert not ask(places, p, manifest, "test").has_error()  # the same question again is free
    places[0] = seal_anew(places[0], seed=99)
    other = agree(places, p)
    reply = ask(places, p, other, "test")
    assert reply.has_error() and "test_reads" in reply.error.reason
    assert not ask(places, p, other).has_error()
    [answers] = (places[0].private / "answers").glob("*.jsonl")
    assert [json.loads(line)["split"] for line in answers.read_text().splitlines()] == [
        "train",
        "test",
        "train",
    ]


def stored_update(place: Place) -> AnyArray:
    [path] = place.private.glob("secure_sum/*/update.npz")
    with np.load(path) as file:
        vector: AnyArray = file["vector"]
    return vector


def test_a_secure_sum_masks_no_update_of_another_manifest(tmp_path: Path) -> None:
    """Another hospital's number of images changes the weight that an update is encoded with."""
    p = plan(parties=3, rounds=2, counts=(36, 12, 12), privacy={"secure_aggregation": True})
    places = seal_hospitals(tmp_path, p)
    assert not ask(places, p, agree(places, p)).has_error()
    before = stored_update(places[0])
    places[1] = seal_anew(places[1], seed=99, counts=(48, 12, 12))
    places[2] = seal_anew(places[2], seed=99, counts=(24, 12, 12))
    assert not ask(places, p, agree(places, p)).has_error()
    assert not np.array_equal(stored_update(places[0]), before)
