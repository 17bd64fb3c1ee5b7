"""What the coordinator keeps of a training, and what an adversary reads back of it: bit for bit, or not at all."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import parties.training.client_app
from coordinator.adversary.training.observation import observe
from coordinator.exchange.plan import Plan, write_plan
from coordinator.federation import server_app
from coordinator.federation.recording import keep, kept
from coordinator.federation.rounds import Federation, run_rounds
from coordinator.model.vit import build_model, pack, shared_names
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.keyfile import write_key
from parties.sealing.place import Place
from parties.sealing.seal import seal, sealing
from tests.support.local_grid import LocalGrid

SMALL = {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}


@pytest.fixture(autouse=True)
def one_core(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


def plan(**changes) -> Plan:
    settings = {"study": "t", "parties": 2, "counts": (10, 4, 6), "image_size": 32, "block": 8}
    settings |= {"model_args": SMALL, "batch": 8, "rounds": 3, "key_scope": "party", "stem": "private"}
    return Plan.model_validate(settings | {"deadline_s": 60.0, "keep_updates": 2} | changes)


def grid_of(folder, p: Plan) -> LocalGrid:
    """Two hospitals, sealed, each under its own key."""
    nodes = []
    for index in range(2):
        settings = {k: getattr(p, k) for k in ("source", "counts", "image_size", "channels", "seed")}
        settings |= {k: getattr(p, k) for k in ("scheme", "block", "key_scope", "scheme_options")}
        place = Place.of(
            folder / f"p{index}", settings | {"party": f"hospital-{index}", "share": (index, 2)}
        )
        place.keep()
        write_key(place.key_path, SecretKey(bytes(range(index, index + 32))))
        for split in ("train", "val", "test"):
            seal(place, sealing(place, split))
        nodes.append({"party-dir": str(place.folder)})
    return LocalGrid(parties.training.client_app.app, nodes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(cloud folder, the grid with all messages) of a whole federation."""
    study = tmp_path_factory.mktemp("observed")
    (study / "cloud").mkdir()
    write_plan(plan(), study)
    grid = grid_of(study, plan())
    server_app._federate(grid, study)
    return study / "cloud", grid


@pytest.fixture
def cloud(trained, tmp_path):
    """A copy that a test may damage."""
    import shutil

    shutil.copytree(trained[0], tmp_path / "cloud")
    shutil.copy(trained[0].parent / "plan.yaml", tmp_path / "plan.yaml")
    return tmp_path / "cloud"


def messages(sent, kind: str):
    return [m for m in sent if m.metadata.message_type == kind and m.has_content()]


def test_what_was_sent_and_answered_is_read_back_bit_for_bit(trained):
    cloud, grid = trained
    seen = observe(cloud)
    down, up = messages(grid.sent, "train"), messages(grid.received, "train")
    assert len(down) == len(up) == 6
    assert [(u.round, u.party) for u in seen.updates] == [
        (r, f"hospital-{i}") for r in (1, 2) for i in (0, 1)
    ]
    answers = {(r, m.content["about"]["party"]): m for r in (1, 2, 3) for m in up[2 * r - 2 : 2 * r]}
    for update in seen.updates:
        before, after = down[2 * update.round - 2], answers[update.round, update.party]
        assert np.array_equal(update.before, before.content["arrays"]["model"].numpy())
        assert np.array_equal(update.after, after.content["arrays"]["model"].numpy())
        assert update.images == after.content["metrics"]["num-examples"] == 5
        assert update.before.dtype == update.after.dtype == np.float32
        assert not np.array_equal(update.before, update.after)
    assert seen.plan == plan() and seen.classes == 4
    names = shared_names(build_model(plan(), 4), plan())
    assert list(seen.weights) and set(seen.weights) == set(names)


def test_before_is_written_once_a_round(trained):
    names = sorted(p.name for p in (trained[0] / "updates").iterdir())
    wanted = [
        f"round-000{r}{part}.safetensors" for r in (1, 2) for part in ("-hospital-0", "-hospital-1", "")
    ]
    assert names == sorted(wanted)


def test_by_default_nothing_is_kept(tmp_path):
    p = plan(keep_updates=0, rounds=1)
    grid = grid_of(tmp_path, p)
    model = build_model(p, 4)
    run_rounds(grid, p, Federation(grid, p), pack(model, shared_names(model, p)), tmp_path)
    assert not (tmp_path / "updates").exists() and kept(tmp_path) == []
    assert Plan.model_fields["keep_updates"].default == 0


def test_a_round_cut_short_is_none_and_run_again_is_whole(tmp_path):
    one, two = np.arange(4, dtype=np.float32), np.ones(4, np.float32)
    keep(tmp_path, 1, one, {"a": (two, 3), "b": (2 * two, 4)})
    (tmp_path / "updates" / "round-0001.safetensors").unlink()
    assert kept(tmp_path) == []
    keep(tmp_path, 1, one, {"b": (3 * two, 4)})
    [(round_, before, replies)] = kept(tmp_path)
    assert round_ == 1 and np.array_equal(before, one) and list(replies) == ["b"]
    assert np.array_equal(replies["b"][0], 3 * two) and replies["b"][1] == 4
    assert not (tmp_path / "updates" / "round-0001-a.safetensors").exists()


def test_a_party_s_name_chooses_no_path(tmp_path):
    name = "../../etc/x " + "y" * 300
    keep(tmp_path / "cloud", 12, np.zeros(2, np.float32), {name: (np.ones(2, np.float32), 1)})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cloud"]
    assert [p.name for p in (tmp_path / "cloud").iterdir()] == ["updates"]
    assert list(kept(tmp_path / "cloud")[0][2]) == [name]


def flip(path) -> None:
    """One bit of the last value."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["round-0001.safetensors", "round-0002-hospital-1.safetensors"])
def test_a_damaged_update_is_refused(cloud, name):
    observe(cloud)
    flip(cloud / "updates" / name)
    with pytest.raises(CipherwardError, match=f"{name} is damaged: its digest differs"):
        observe(cloud)
    (cloud / "updates" / name).write_bytes(b"no tensors")
    with pytest.raises(CipherwardError, match=f"{name} cannot be read"):
        observe(cloud)


def test_a_missing_update_is_named(cloud):
    (cloud / "updates" / "round-0001-hospital-0.safetensors").unlink()
    with pytest.raises(CipherwardError, match=r"round-0001-hospital-0\.safetensors is missing"):
        observe(cloud)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("training.json", None, "no finished training at"),
        ("training.json", "{", "cannot read the finished training"),
        ("training.json", "{}", "names no classes"),
        ("model.safetensors", None, "the model .* cannot be read"),
        ("model.safetensors", "damaged", "the model .* cannot be read"),
        ("../plan.yaml", None, "no plan at"),
    ],
)
def test_a_cloud_folder_that_lacks_something_is_told(cloud, name, text, said):
    (cloud / name).unlink() if text is None else (cloud / name).write_text(text)
    with pytest.raises(CipherwardError, match=said):
        observe(cloud)


def test_the_plan_may_lie_in_the_cloud_folder(cloud):
    text = (cloud.parent / "plan.yaml").read_text().replace("study: t", "study: nearer")
    (cloud / "plan.yaml").write_text(text)
    assert observe(cloud).plan.study == "nearer"


def test_vectors_of_different_lengths_do_not_belong_together(cloud):
    keep(cloud, 1, np.zeros(4, np.float32), {"hospital-0": (np.ones(3, np.float32), 1)})
    with pytest.raises(CipherwardError, match="has another length than what was sent"):
        observe(cloud)


def test_a_list_that_is_not_one_is_refused(cloud):
    from safetensors.numpy import save_file

    path = cloud / "updates" / "round-0001.safetensors"
    for about in ({}, {"round": 1, "sha256": "0", "parties": []}, []):
        save_file({"before": np.zeros(2, np.float32)}, str(path), metadata={"json": json.dumps(about)})
        with pytest.raises(CipherwardError, match="is damaged"):
            observe(cloud)


def test_a_training_is_read_without_its_public_weights_and_with_its_keys(cloud):
    plan_file = cloud.parent / "plan.yaml"
    text = plan_file.read_text()
    assert "weights: ''" in text
    plan_file.write_text(text.replace("weights: ''", "weights: /nowhere/vit.safetensors"))
    seen = observe(cloud)
    assert seen.plan.weights == "/nowhere/vit.safetensors"
    # Two hospitals, each under its own key.
    parties = json.loads((cloud / "training.json").read_text())["parties"]
    assert seen.keys == {p["splits"]["train"]["key_id"] for p in parties} and len(seen.keys) == 2
    told = json.loads((cloud / "training.json").read_text()) | {"parties": [{"party": "hospital-0"}]}
    (cloud / "training.json").write_text(json.dumps(told))
    assert observe(cloud).keys == frozenset()


def test_long_names_that_begin_alike_keep_their_own_files(tmp_path):
    names = ["x" * 100 + end for end in ("a", "b")]
    replies = {name: (np.full(2, i, np.float32), i) for i, name in enumerate(names)}
    keep(tmp_path, 1, np.zeros(2, np.float32), replies)
    [(_, _, read)] = kept(tmp_path)
    assert (
        [read[name][1] for name in names] == [0, 1]
        and read[names[0]][0][0] == 0
        and read[names[1]][0][0] == 1
    )
