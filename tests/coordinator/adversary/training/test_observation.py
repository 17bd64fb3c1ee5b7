"""What the coordinator records of a training, and what an adversary reads back: bit for bit, or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Message
from safetensors.numpy import save_file

import parties.training.client_app
from coordinator.adversary.training.observation import observe
from coordinator.exchange.manifest import StudyManifest, write_manifest
from coordinator.exchange.plan import Plan, write_plan
from coordinator.federation import server_app
from coordinator.federation.participants import Federation
from coordinator.federation.recording import read_updates, record_updates
from coordinator.federation.rounds import run_rounds
from coordinator.model.shares import shared_names
from coordinator.model.vit import build_model, pack
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.keyfile import write_key
from parties.sealing.place import Place
from parties.sealing.seal import plan_sealing, seal
from tests.support.hospitals import agree
from tests.support.local_grid import LocalGrid

SMALL = {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}


@pytest.fixture(autouse=True)
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep torch to one thread, so that runs repeat bit for bit."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


def plan(**changes: object) -> Plan:
    """Return a plan of two hospitals and three rounds that records updates."""
    settings: dict[str, object] = {
        "study": "t",
        "parties": 2,
        "counts": (10, 4, 6),
        "image_size": 32,
        "block": 8,
    }
    settings |= {"model_args": SMALL, "batch": 8, "rounds": 3, "key_scope": "party", "stem": "private"}
    return Plan.model_validate(settings | {"deadline_s": 60.0, "keep_updates": 2} | changes)


def grid_of(folder: Path, p: Plan) -> tuple[LocalGrid, StudyManifest]:
    """Return a grid with two hospitals whose sets are sealed, each under its own key, and what they agreed on."""
    places = []
    for index in range(2):
        settings = {k: getattr(p, k) for k in ("source", "counts", "image_size", "channels", "seed")}
        settings |= {k: getattr(p, k) for k in ("scheme", "block", "key_scope", "scheme_options")}
        place = Place.from_settings(
            folder / f"p{index}", settings | {"party": f"hospital-{index}", "share": (index, 2)}
        )
        place.save()
        write_key(place.key_path, SecretKey(bytes(range(index, index + 32))))
        for split in ("train", "val", "test"):
            seal(place, plan_sealing(place, split))
        places.append(place)
    nodes: list[Mapping[str, str]] = [{"party-dir": str(place.folder)} for place in places]
    return LocalGrid(parties.training.client_app.app, nodes), agree(places, p)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LocalGrid]:
    """Return the cloud folder of a finished federation, and the grid with all messages."""
    study = tmp_path_factory.mktemp("observed")
    (study / "cloud").mkdir()
    write_plan(plan(), study)
    grid, manifest = grid_of(study, plan())
    write_manifest(study / "study.json", manifest)
    server_app.run_federation(grid, study)
    return study / "cloud", grid


@pytest.fixture
def cloud(trained: tuple[Path, LocalGrid], tmp_path: Path) -> Path:
    """Return a copy of the cloud folder that a test may damage."""
    shutil.copytree(trained[0], tmp_path / "cloud")
    shutil.copy(trained[0].parent / "plan.yaml", tmp_path / "plan.yaml")
    return tmp_path / "cloud"


def messages(sent: list[Message], kind: str) -> list[Message]:
    """Return the messages of a kind that have content."""
    return [m for m in sent if m.metadata.message_type == kind and m.has_content()]


def test_what_was_sent_and_returned_is_read_back_bit_for_bit(trained: tuple[Path, LocalGrid]) -> None:
    cloud, grid = trained
    observed = observe(cloud)
    down, up = messages(grid.sent, "train"), messages(grid.received, "train")
    assert len(down) == len(up) == 6
    assert [(u.round, u.party) for u in observed.updates] == [
        (r, f"hospital-{i}") for r in (1, 2) for i in (0, 1)
    ]
    answers = {(r, m.content["about"]["party"]): m for r in (1, 2, 3) for m in up[2 * r - 2 : 2 * r]}
    for update in observed.updates:
        before, after = down[2 * update.round - 2], answers[update.round, update.party]
        assert np.array_equal(update.before, before.content["arrays"]["model"].numpy())
        assert np.array_equal(update.after, after.content["arrays"]["model"].numpy())
        assert update.images == after.content["metrics"]["num-examples"] == 5
        assert update.before.dtype == update.after.dtype == np.float32
        assert not np.array_equal(update.before, update.after)
    assert observed.plan == plan() and observed.classes == 4
    names = shared_names(build_model(plan(), 4), plan())
    assert list(observed.weights) and set(observed.weights) == set(names)


def test_the_weights_sent_are_written_once_a_round(trained: tuple[Path, LocalGrid]) -> None:
    names = sorted(p.name for p in (trained[0] / "updates").iterdir())
    expected = [
        f"round-000{r}{part}.safetensors" for r in (1, 2) for part in ("-hospital-0", "-hospital-1", "")
    ]
    assert names == sorted(expected)


def test_by_default_no_update_is_recorded(tmp_path: Path) -> None:
    p = plan(keep_updates=0, rounds=1)
    grid, manifest = grid_of(tmp_path, p)
    model = build_model(p, 4)
    run_rounds(Federation(grid, p, manifest), pack(model, shared_names(model, p)), tmp_path)
    assert not (tmp_path / "updates").exists() and read_updates(tmp_path) == []
    assert Plan.model_fields["keep_updates"].default == 0


def test_an_interrupted_round_is_ignored_and_can_be_recorded_again(tmp_path: Path) -> None:
    one, two = np.arange(4, dtype=np.float32), np.ones(4, np.float32)
    record_updates(tmp_path, 1, one, {"a": (two, 3), "b": (2 * two, 4)})
    (tmp_path / "updates" / "round-0001.safetensors").unlink()
    assert read_updates(tmp_path) == []
    record_updates(tmp_path, 1, one, {"b": (3 * two, 4)})
    [(round_, before, replies)] = read_updates(tmp_path)
    assert round_ == 1 and np.array_equal(before, one) and list(replies) == ["b"]
    assert np.array_equal(replies["b"][0], 3 * two) and replies["b"][1] == 4
    assert not (tmp_path / "updates" / "round-0001-a.safetensors").exists()


def test_the_name_of_a_party_cannot_choose_a_path(tmp_path: Path) -> None:
    name = "../../etc/x " + "y" * 300
    record_updates(tmp_path / "cloud", 12, np.zeros(2, np.float32), {name: (np.ones(2, np.float32), 1)})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cloud"]
    assert [p.name for p in (tmp_path / "cloud").iterdir()] == ["updates"]
    assert list(read_updates(tmp_path / "cloud")[0][2]) == [name]


def flip_a_bit(path: Path) -> None:
    """Flip one bit of the last value."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["round-0001.safetensors", "round-0002-hospital-1.safetensors"])
def test_a_damaged_update_is_refused(cloud: Path, name: str) -> None:
    observe(cloud)
    flip_a_bit(cloud / "updates" / name)
    with pytest.raises(CipherwardError, match=f"{name} is damaged: its digest differs"):
        observe(cloud)
    (cloud / "updates" / name).write_bytes(b"no tensors")
    with pytest.raises(CipherwardError, match=f"{name} cannot be read"):
        observe(cloud)


def test_a_missing_update_is_named(cloud: Path) -> None:
    (cloud / "updates" / "round-0001-hospital-0.safetensors").unlink()
    with pytest.raises(CipherwardError, match=r"round-0001-hospital-0\.safetensors is missing"):
        observe(cloud)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("training.json", None, "no finished training at"),
        ("training.json", "{", "cannot read the finished training"),
        ("training.json", "{}", "names no classes"),
        ("model.safetensors", None, "the model .* cannot be read"),
        ("model.safetensors", "damaged", "the model .* cannot be read"),
        ("../plan.yaml", None, "no plan at"),
    ],
)
def test_a_missing_or_damaged_file_is_named(cloud: Path, name: str, text: str | None, message: str) -> None:
    (cloud / name).unlink() if text is None else (cloud / name).write_text(text)
    with pytest.raises(CipherwardError, match=message):
        observe(cloud)


def test_the_plan_may_lie_in_the_cloud_folder(cloud: Path) -> None:
    text = (cloud.parent / "plan.yaml").read_text().replace("study: t", "study: nearer")
    (cloud / "plan.yaml").write_text(text)
    assert observe(cloud).plan.study == "nearer"


def test_updates_of_different_lengths_are_refused(cloud: Path) -> None:
    record_updates(cloud, 1, np.zeros(4, np.float32), {"hospital-0": (np.ones(3, np.float32), 1)})
    with pytest.raises(CipherwardError, match="has another length than what was sent"):
        observe(cloud)


def test_a_malformed_list_of_updates_is_refused(cloud: Path) -> None:
    path = cloud / "updates" / "round-0001.safetensors"
    contents: list[Any] = [{}, {"round": 1, "sha256": "0", "parties": []}, []]
    for about in contents:
        save_file({"before": np.zeros(2, np.float32)}, str(path), metadata={"json": json.dumps(about)})
        with pytest.raises(CipherwardError, match="is damaged"):
            observe(cloud)


def test_a_training_is_read_without_its_public_weights_and_with_its_key_ids(cloud: Path) -> None:
    plan_file = cloud.parent / "plan.yaml"
    text = plan_file.read_text()
    assert "weights: ''" in text
    plan_file.write_text(text.replace("weights: ''", "weights: /nowhere/vit.safetensors"))
    observed = observe(cloud)
    assert observed.plan.weights == "/nowhere/vit.safetensors"
    # Two hospitals, each under its own key.
    parties = json.loads((cloud / "training.json").read_text())["parties"]
    assert observed.keys == {p["splits"]["train"]["key_id"] for p in parties} and len(observed.keys) == 2
    without_splits = json.loads((cloud / "training.json").read_text()) | {
        "parties": [{"party": "hospital-0"}]
    }
    (cloud / "training.json").write_text(json.dumps(without_splits))
    assert observe(cloud).keys == frozenset()


def test_long_names_with_a_common_beginning_have_their_own_files(tmp_path: Path) -> None:
    names = ["x" * 100 + end for end in ("a", "b")]
    replies = {name: (np.full(2, i, np.float32), i) for i, name in enumerate(names)}
    record_updates(tmp_path, 1, np.zeros(2, np.float32), replies)
    [(_, _, stored)] = read_updates(tmp_path)
    assert [stored[name][1] for name in names] == [0, 1]
    assert [stored[name][0][0] for name in names] == [0, 1]
