"""What of a model is trained and travels: all, the head, or low-rank adapters; and what comes out at the end."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import parties.training.client_app
from coordinator.adversary.training.membership import scores, weights_of
from coordinator.adversary.training.observation import observe
from coordinator.adversary.training.update_findings import findings
from coordinator.exchange.plan import Plan
from coordinator.federation.central import train_centrally
from coordinator.federation.rounds import Federation, run_rounds
from coordinator.model.query import answer, open_model
from coordinator.model.shares import base_digest, merged
from coordinator.model.torchvision_fix import timm
from coordinator.model.training import PlainImages, as_input, measure, probabilities, train_locally
from coordinator.model.vit import build_model, in_stem, pack, save_model, shared_names
from crypto.errors import CipherwardError
from parties.training.baseline import read_plain, together, train_plain
from parties.training.stem import final_model
from tests.support.hospitals import CLASSES, SMALL, finished, grid_of, hospitals, journal, plan
from tests.support.updates import plan as one_step
from tests.support.updates import trained as update_of

STEM = {"pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}
HEAD = {"head.weight", "head.bias"}
LAYERS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
ADAPTERS = {
    f"blocks.{b}.{layer}.lora_{part}.default.weight" for b in (0, 1) for layer in LAYERS for part in "AB"
}
SHARED = {"head": HEAD, "lora": HEAD | ADAPTERS}
IMAGES = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 1), dtype=np.uint8)
LABELS = np.arange(12) % CLASSES


def train(p: Plan) -> tuple[dict, torch.nn.Module]:
    """(the weights before, the model after) one round on IMAGES."""
    model = build_model(p, CLASSES)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    train_locally(model, PlainImages(IMAGES, LABELS), p, 1, "a")
    return before, model


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("share", ["head", "lora"])
@pytest.mark.parametrize(
    ("stem", "frozen"), [("learn", False), ("private", False), ("plain", False), ("plain", True)]
)
def test_what_the_share_names_is_trained_and_travels_and_nothing_else_moves(share, stem, frozen, optimizer):
    p = plan(share=share, stem=stem, stem_frozen=frozen, optimizer=optimizer, weight_decay=0.5, lr=0.01)
    before, model = train(p)
    trains = SHARED[share] | (set() if frozen else STEM)
    assert {n for n, w in model.named_parameters() if w.requires_grad} == trains
    assert {n for n, w in model.named_parameters() if w.grad is not None} == trains
    moved = {n for n, v in model.state_dict().items() if not torch.equal(v, before[n])}
    assert moved == trains
    assert set(shared_names(model, p)) == SHARED[share] | (set() if stem == "private" else STEM)


def test_share_all_is_as_it_was():
    p = plan()
    _, model = train(p)
    assert all(w.requires_grad for w in model.parameters())
    assert shared_names(model, p) == list(model.state_dict())


def test_adapters_start_from_the_seed_and_change_nothing_at_first():
    first, again, other = (build_model(plan(share="lora", seed=s), CLASSES) for s in (1, 1, 2))
    names = sorted(ADAPTERS)
    assert np.array_equal(pack(first, names), pack(again, names))
    assert not np.array_equal(pack(first, names), pack(other, names))
    with torch.inference_mode():
        x = as_input(IMAGES)
        assert torch.equal(first.eval()(x), build_model(plan(seed=1), CLASSES).eval()(x))
    ranks = {first.state_dict()[n].shape[0 if "_A" in n else 1] for n in names}
    assert ranks == {4}
    assert {
        v.shape[0]
        for n, v in build_model(plan(share="lora", lora_rank=2), CLASSES).state_dict().items()
        if "lora_A" in n
    } == {2}


@pytest.mark.parametrize("stem", ["learn", "private"])
@pytest.mark.parametrize("share", ["head", "lora"])
def test_a_round_of_the_common_model_is_twenty_times_smaller(share, stem):
    """ViT-Ti/16 at 224 on gray images, adapters of rank 4, four classes."""
    sizes = {}
    for name in ("all", share):
        p = plan(share=name, stem=stem, image_size=224, block=16, model_args={})
        model = build_model(p, 4)
        state = model.state_dict()
        sizes[name] = sum(state[n].numel() for n in shared_names(model, p))
    assert sizes["all"] > 5e6
    assert sizes["all"] >= 20 * sizes[share]


def test_the_saved_model_is_an_ordinary_one_with_its_adapters_merged(tmp_path):
    p = plan(share="lora", lr=0.1, local_epochs=3)
    before, model = train(p)
    save_model(model, p, list("abcd"), tmp_path / "m.safetensors")
    other = timm.create_model(p.model, num_classes=CLASSES, in_chans=1, img_size=32, **SMALL)
    other.load_state_dict(load_file(str(tmp_path / "m.safetensors")))
    with torch.inference_mode():
        x = as_input(IMAGES)
        ours, theirs = model.eval()(x), other.eval()(x)
        assert (ours - theirs).abs().max() < 1e-5
        # The adapters weigh more than rounding, and the model keeps them for the next round.
        without = timm.create_model(p.model, num_classes=CLASSES, in_chans=1, img_size=32, **SMALL)
        state = other.state_dict()
        state |= {n.replace(".base_layer", ""): v for n, v in before.items() if "base_layer" in n}
        without.load_state_dict(state)
        assert (ours - without.eval()(x)).abs().max() > 1e-3
    assert set(ADAPTERS) <= set(model.state_dict())


def test_a_model_without_adapters_is_its_own_merged_one():
    model = build_model(plan(share="head"), CLASSES)
    assert merged(model) is model


# ---- refusals ------------------------------------------------------------------------------------


def test_adapters_are_refused_where_they_cannot_go():
    with pytest.raises(CipherwardError, match="share lora: resnet18 is not a Vision Transformer"):
        plan(share="lora", model="resnet18", model_args={})
    p = plan(share="lora", model="mobilevit_xxs", model_args={})
    with pytest.raises(CipherwardError, match="mobilevit_xxs is not a plain Vision Transformer"):
        build_model(p, CLASSES)


def test_without_peft_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(CipherwardError, match="share lora needs PEFT") as error:
        build_model(plan(share="lora"), CLASSES)
    assert ".[lora]" in error.value.hint
    build_model(plan(share="head"), CLASSES)


def test_frozen_batch_normalisation_keeps_its_statistics():
    p = plan(share="head", model="mobilevit_xxs", model_args={})
    model = build_model(p, CLASSES)
    assert shared_names(model, p) == ["head.fc.weight", "head.fc.bias"]
    before = {n: v.clone() for n, v in model.state_dict().items() if "running" in n or "batches" in n}
    assert before
    train_locally(model, PlainImages(IMAGES, LABELS), p, 1, "a")
    assert all(torch.equal(v, model.state_dict()[n]) for n, v in before.items())
    whole = build_model(p.model_copy(update={"share": "all"}), CLASSES)
    train_locally(whole, PlainImages(IMAGES, LABELS), p, 1, "a")
    assert any(not torch.equal(v, whole.state_dict()[n]) for n, v in before.items())


# ---- federations ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    """A public weights file: of three colours and seven classes, so that building on it adapts."""
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("public") / "w.safetensors"
    save_file(
        timm.create_model("vit_tiny_patch16_224", num_classes=7, img_size=32, **SMALL).state_dict(), path
    )
    return str(path)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    # One key for all: a model of stem `learn` reads the images of both.
    return hospitals(tmp_path_factory.mktemp("shares"), plan(key_scope="consortium"))


@pytest.mark.parametrize("stem", ["learn", "private"])
@pytest.mark.parametrize("share", ["head", "lora"])
def test_a_federation_sends_its_share_and_ends_in_an_ordinary_model(tmp_path, places, weights, share, stem):
    p = plan(share=share, stem=stem, weights=weights, key_scope="consortium", keep_updates=1, lr=0.1)
    training = finished(tmp_path / "study", places, p)
    cloud = tmp_path / "study" / "cloud"
    tensors = load_file(str(cloud / "model.safetensors"))
    names = set(build_model(plan(), CLASSES).state_dict())
    assert set(tensors) == (names - STEM if stem == "private" else names)
    public = build_model(p.model_copy(update={"share": "all"}), CLASSES).state_dict()
    same = {n for n, v in tensors.items() if torch.equal(v, public[n])}
    assert same == {n for n in tensors if not in_stem(n) and n not in HEAD and not _adapted(n, share)}
    # What the hospitals measured is what the saved model does on their images.
    for place, row in zip(places, training["test"]["parties"], strict=True):
        model = final_model(p, place, CLASSES, cloud / "model.safetensors")
        test = place.sealed("test")
        figures = measure(probabilities(model, test), np.asarray(test.labels))
        assert figures["loss"] == pytest.approx(row["loss"], abs=1e-5)
        if stem == "learn":
            said = answer(open_model(cloud / "model.safetensors"), test)["answers"]
            right = [a["class"] == test.classes[y] for a, y in zip(said, test.labels, strict=True)]
            assert np.mean(right) == pytest.approx(row["accuracy"])
    sent = sum(public[n].numel() for n in HEAD)
    sent += sum(public[n].numel() for n in STEM) if stem == "learn" else 0
    sent += pack(build_model(p, CLASSES), sorted(ADAPTERS)).size if share == "lora" else 0
    row = journal(cloud)[0]
    assert row["bytes_up"] == pytest.approx(2 * 4 * sent, abs=2 * 400)
    # The adversary reads it, too.
    seen = observe(cloud)
    assert all(len(u.after) == sent for u in seen.updates)
    given = findings(seen, None, lambda: True)
    assert len(given) == 2 and all(
        f"share {share}: the update holds no gradients of" in f.why for f in given
    )
    own = places[0].sealed("train")
    images, labels = own.rows(np.arange(len(own))), np.array(own.labels)
    first = scores(seen, images, labels, weights_of(seen, seen.updates[0].before))
    # Weights that a hospital was sent in round 1 are those that the plan starts from.
    assert np.abs(first - scores(seen, images, labels)).max() < 1e-4 < np.abs(first).max()


def _adapted(name: str, share: str) -> bool:
    return share == "lora" and name.endswith(".weight") and any(layer in name for layer in LAYERS)


def test_a_hospital_without_the_public_weights_says_so(tmp_path, places, weights):
    p = plan(share="head", weights=weights, key_scope="consortium", retries=0)
    gone = p.model_copy(update={"weights": "/nowhere/w.safetensors"})
    with pytest.raises(
        CipherwardError,
        match=r"share head starts from the plan's public weights, and /nowhere/w\.safetensors",
    ):
        parties.training.client_app._built(gone.model_dump_json(), CLASSES)
    parties.training.client_app._built(p.model_dump_json(), CLASSES)
    whole = gone.model_copy(update={"share": "all"})
    parties.training.client_app._built(whole.model_dump_json(), CLASSES)  # all of it travels


@pytest.mark.parametrize("share", ["head", "lora"])
def test_a_hospital_with_another_encoder_is_refused_by_name(tmp_path, places, weights, share):
    p = plan(share=share, weights=weights, key_scope="consortium", retries=0, rounds=1)
    model = build_model(p, CLASSES)
    grid = grid_of(places)
    federation = Federation(grid, p)
    federation.base = base_digest(model, p)
    start = pack(model, shared_names(model, p))
    (tmp_path / "same").mkdir()
    assert run_rounds(grid, p, federation, start, tmp_path / "same").round == 1
    federation.base = base_digest(build_model(p.model_copy(update={"weights": "", "seed": 9}), CLASSES), p)
    with pytest.raises(CipherwardError, match=f"starts from under share {share} is not the coordinator's"):
        run_rounds(grid, p, federation, start, tmp_path)
    assert base_digest(model, p.model_copy(update={"share": "all"})) == ""


@pytest.mark.parametrize("share", ["head", "lora"])
def test_central_and_plain_training_train_the_share_alone(tmp_path, places, weights, share):
    p = plan(share=share, weights=weights, train="central", key_scope="consortium", rounds=1)
    folders = [place.folder / "sealed" for place in places]
    made = train_centrally(p, folders, tmp_path / "cloud")
    tensors = load_file(str(tmp_path / "cloud" / "model.safetensors"))
    public = build_model(p.model_copy(update={"share": "all"}), CLASSES).state_dict()
    wanted = {n for n in tensors if not in_stem(n) and n not in HEAD and not _adapted(n, share)}
    assert {n for n, v in tensors.items() if torch.equal(v, public[n])} == wanted
    assert np.sum(made["test"]["confusion"]) == sum(r["num-examples"] for r in made["test"]["parties"])
    assert 0 <= made["test"]["calibration"]["ece"] <= 1
    parts = [(place.settings.party, read_plain(place, "train")) for place in places]
    val = together([read_plain(place, "val") for place in places])
    model, _, _ = train_plain(p, parts, val, CLASSES, tmp_path / "plain.safetensors")
    state = merged(model).state_dict()
    assert {n for n, v in state.items() if torch.equal(v, public[n])} == wanted


# ---- the adversary -------------------------------------------------------------------------------


@pytest.mark.parametrize("share", ["head", "lora"])
@pytest.mark.parametrize("stem", ["plain", "private"])
def test_attacks_on_updates_say_what_the_share_keeps_from_them(share, stem):
    p = one_step(share=share, stem=stem)
    [several] = findings(update_of(p, IMAGES[:3], [0, 1, 2]), IMAGES, lambda: True)
    what = "the patch embedding or the encoder" if stem == "private" else "the encoder"
    assert f"share {share}: the update holds no gradients of {what}'s own weights" in several.why
    assert not several.found
    [one] = findings(update_of(p, IMAGES[:1], [0]), IMAGES[:4], lambda: True)
    # A candidate is still confirmed by training on it, and a stem that travels is still solved.
    assert one.found and np.array_equal(one.images, IMAGES[:1])


def test_attacks_on_updates_without_the_public_weights_say_so(weights):
    p = one_step(share="head", stem="learn", weights=weights)
    seen = update_of(p, IMAGES[:1], [0])
    gone = p.model_copy(update={"weights": "/nowhere/w.safetensors"})
    [found] = findings(replace(seen, plan=gone), None, lambda: True)
    assert not found.found and "w.safetensors, which is not here" in found.why
