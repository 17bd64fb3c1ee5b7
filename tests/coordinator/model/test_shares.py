"""Which weights are trained and sent (all, the head, or low-rank adapters), and what the final model is."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import parties.training.client_app
from coordinator.adversary.training.membership import membership_scores, unpack_weights
from coordinator.adversary.training.observation import observe
from coordinator.adversary.training.update_findings import invert_updates
from coordinator.exchange.plan import Plan
from coordinator.federation.central import train_centrally
from coordinator.federation.participants import Federation
from coordinator.federation.rounds import run_rounds
from coordinator.model.metrics import measure
from coordinator.model.model_input import to_model_input
from coordinator.model.query import answer_query, open_model
from coordinator.model.shares import base_digest, in_stem, merge_adapters, shared_names, variances
from coordinator.model.torchvision_fix import timm
from coordinator.model.training import PlainImages, predict_probabilities, train_locally
from coordinator.model.vit import build_model, pack, save_model
from crypto.errors import CipherwardError
from crypto.files import sha256_file
from parties.sealing.place import Place
from parties.training.baseline import concatenate, read_plain_images, train_plain
from parties.training.stem_file import load_final_model
from tests.support.hospitals import (
    CLASSES,
    SMALL,
    agree,
    make_grid,
    plan,
    read_journal,
    run_study,
    seal_hospitals,
)
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


def train(p: Plan) -> tuple[dict[str, torch.Tensor], torch.nn.Module]:
    """Train for a round on IMAGES. Return the weights before it and the model after it."""
    model = build_model(p, CLASSES)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    train_locally(model, PlainImages(IMAGES, LABELS), p, 1, "a")
    return before, model


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("share", ["head", "lora"])
@pytest.mark.parametrize(
    ("stem", "frozen"), [("learn", False), ("private", False), ("plain", False), ("plain", True)]
)
def test_only_the_share_is_trained_and_sent(share: str, stem: str, frozen: bool, optimizer: str) -> None:
    p = plan(share=share, stem=stem, stem_frozen=frozen, optimizer=optimizer, weight_decay=0.5, lr=0.01)
    before, model = train(p)
    trained = SHARED[share] | (set() if frozen else STEM)
    assert {n for n, w in model.named_parameters() if w.requires_grad} == trained
    assert {n for n, w in model.named_parameters() if w.grad is not None} == trained
    moved = {n for n, v in model.state_dict().items() if not torch.equal(v, before[n])}
    assert moved == trained
    assert set(shared_names(model, p)) == SHARED[share] | (set() if stem == "private" else STEM)


def test_share_all_trains_and_sends_everything() -> None:
    p = plan()
    _, model = train(p)
    assert all(w.requires_grad for w in model.parameters())
    assert shared_names(model, p) == list(model.state_dict())


def test_counters_of_batch_normalisation_stay_home_and_are_no_part_of_an_update(tmp_path: Path) -> None:
    p = plan(model="resnet18_small", model_args={})
    model = build_model(p, CLASSES)
    names, counters = shared_names(model, p), {n for n in model.state_dict() if n.endswith("_tracked")}
    assert counters and counters.isdisjoint(names) and counters | set(names) == set(model.state_dict())
    sent = pack(model, names)
    for name in counters:
        model.state_dict()[name].fill_(1000)
    assert np.array_equal(pack(model, names), sent)
    # The saved model is whole, and can be opened.
    save_model(model, p, list("abcd")[:CLASSES], tmp_path / "m.safetensors", key_ids={})
    assert set(load_file(str(tmp_path / "m.safetensors"))) == set(model.state_dict())
    assert open_model(tmp_path / "m.safetensors").model is not None


def test_adapters_depend_on_the_seed_and_change_no_output_at_first() -> None:
    first, again, other = (build_model(plan(share="lora", seed=s), CLASSES) for s in (1, 1, 2))
    names = sorted(ADAPTERS)
    assert np.array_equal(pack(first, names), pack(again, names))
    assert not np.array_equal(pack(first, names), pack(other, names))
    with torch.inference_mode():
        x = to_model_input(IMAGES)
        assert torch.equal(first.eval()(x), build_model(plan(seed=1), CLASSES).eval()(x))
    ranks = {first.state_dict()[n].shape[0 if "_A" in n else 1] for n in names}
    assert ranks == {4}
    assert {
        v.shape[0]
        for n, v in build_model(plan(share="lora", lora_rank=2), CLASSES).state_dict().items()
        if "lora_A" in n
    } == {2}


def test_adapters_are_where_the_plan_says() -> None:
    layers = ["attn.proj", "mlp.fc2"]
    p = plan(share="lora", lora_blocks=1, lora_layers=layers, stem="plain", stem_frozen=True, lr=0.5)
    before, model = train(p)
    adapters = {f"blocks.1.{layer}.lora_{part}.default.weight" for layer in layers for part in "AB"}
    assert {n for n, v in model.state_dict().items() if not torch.equal(v, before[n])} == HEAD | adapters
    assert set(shared_names(model, p)) - STEM == HEAD | adapters


@pytest.mark.parametrize("share", ["head", "lora"])
def test_a_private_head_begins_at_zero(share: str) -> None:
    bound = {"epsilon": 1.0, "delta": 1e-3, "unit": "image"}
    private = build_model(plan(share=share, privacy=bound), CLASSES).state_dict()
    assert all(not private[name].any() for name in HEAD)
    assert build_model(plan(share=share), CLASSES).state_dict()["head.weight"].any()
    assert build_model(plan(privacy=bound), CLASSES).state_dict()["head.weight"].any()


def test_more_blocks_with_adapters_than_the_model_has_are_refused() -> None:
    with pytest.raises(CipherwardError, match=r"lora_blocks 3: .* has 2 blocks"):
        build_model(plan(share="lora", lora_blocks=3), CLASSES)


@pytest.mark.parametrize("stem", ["learn", "private"])
@pytest.mark.parametrize("share", ["head", "lora"])
def test_head_and_adapters_are_at_least_twenty_times_smaller_than_the_model(share: str, stem: str) -> None:
    """ViT-Ti/16 at 224 on gray images, adapters of rank 4, four classes."""
    sizes = {}
    for name in ("all", share):
        p = plan(share=name, stem=stem, image_size=224, block=16, model_args={})
        model = build_model(p, 4)
        state = model.state_dict()
        sizes[name] = sum(state[n].numel() for n in shared_names(model, p))
    assert sizes["all"] > 5e6
    assert sizes["all"] >= 20 * sizes[share]


def test_the_saved_model_is_an_ordinary_model_with_merged_adapters(tmp_path: Path) -> None:
    p = plan(share="lora", lr=0.1, local_epochs=3)
    before, model = train(p)
    save_model(model, p, list("abcd"), tmp_path / "m.safetensors", key_ids={})
    other = timm.create_model(p.model, num_classes=CLASSES, in_chans=1, img_size=32, **SMALL)
    other.load_state_dict(load_file(str(tmp_path / "m.safetensors")))
    with torch.inference_mode():
        x = to_model_input(IMAGES)
        expected, loaded = model.eval()(x), other.eval()(x)
        assert (expected - loaded).abs().max() < 1e-5
        # The adapters have an effect, and the model keeps them for the next round.
        without = timm.create_model(p.model, num_classes=CLASSES, in_chans=1, img_size=32, **SMALL)
        state = other.state_dict()
        state |= {n.replace(".base_layer", ""): v for n, v in before.items() if "base_layer" in n}
        without.load_state_dict(state)
        assert (expected - without.eval()(x)).abs().max() > 1e-3
    assert set(ADAPTERS) <= set(model.state_dict())


def test_a_model_without_adapters_is_returned_unchanged() -> None:
    model = build_model(plan(share="head"), CLASSES)
    assert merge_adapters(model) is model


# ---- refusals ------------------------------------------------------------------------------------


def test_adapters_are_refused_for_other_models() -> None:
    with pytest.raises(CipherwardError, match="share lora: resnet18 is not a Vision Transformer"):
        plan(share="lora", model="resnet18", model_args={})
    p = plan(share="lora", model="mobilevit_xxs", model_args={})
    with pytest.raises(CipherwardError, match="mobilevit_xxs is not a plain Vision Transformer"):
        build_model(p, CLASSES)


def test_the_error_without_peft_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(CipherwardError, match="share lora needs PEFT") as error:
        build_model(plan(share="lora"), CLASSES)
    assert ".[lora]" in error.value.hint
    build_model(plan(share="head"), CLASSES)


def test_frozen_batch_normalisation_keeps_its_statistics() -> None:
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
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write a public weights file for three colours and seven classes, so that timm must adapt it."""
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("public") / "w.safetensors"
    save_file(
        timm.create_model("vit_tiny_patch16_224", num_classes=7, img_size=32, **SMALL).state_dict(), path
    )
    return str(path)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> list[Place]:
    """Seal two hospitals under one key, so that a model of stem `learn` reads the images of both."""
    return seal_hospitals(tmp_path_factory.mktemp("shares"), plan(key_scope="consortium"))


@pytest.mark.parametrize(
    ("share", "stem"),
    [
        ("head", "learn"),
        ("lora", "private"),
        pytest.param("head", "private", marks=pytest.mark.slow),
        pytest.param("lora", "learn", marks=pytest.mark.slow),
    ],
)
def test_a_federation_sends_its_share_and_saves_an_ordinary_model(
    tmp_path: Path, places: list[Place], weights: str, share: str, stem: str
) -> None:
    settings: dict[str, Any] = {"study": f"t-{share}", "share": share, "stem": stem, "weights": weights}
    p = plan(**settings, key_scope="consortium", keep_updates=1, lr=0.1)
    training = run_study(tmp_path / "study", places, p)
    cloud = tmp_path / "study" / "cloud"
    tensors = load_file(str(cloud / "model.safetensors"))
    names = set(build_model(plan(), CLASSES).state_dict())
    assert set(tensors) == (names - STEM if stem == "private" else names)
    public = build_model(p.model_copy(update={"share": "all"}), CLASSES).state_dict()
    same = {n for n, v in tensors.items() if torch.equal(v, public[n])}
    assert same == {n for n in tensors if not in_stem(n) and n not in HEAD and not is_adapted(n, share)}
    # The saved model has the figures that the hospitals measured.
    for place, row in zip(places, training["test"]["parties"], strict=True):
        model = load_final_model(p, place, CLASSES, cloud / "model.safetensors")
        test = place.sealed("test")
        figures = measure(predict_probabilities(model, test), np.asarray(test.labels))
        assert figures["loss"] == pytest.approx(row["loss"], abs=1e-5)
        if stem == "learn":
            answers = answer_query(open_model(cloud / "model.safetensors"), test)["answers"]
            correct = [a["class"] == test.classes[y] for a, y in zip(answers, test.labels, strict=True)]
            assert np.mean(correct) == pytest.approx(row["accuracy"])
    sent = sum(public[n].numel() for n in HEAD)
    sent += sum(public[n].numel() for n in STEM) if stem == "learn" else 0
    sent += pack(build_model(p, CLASSES), sorted(ADAPTERS)).size if share == "lora" else 0
    row = read_journal(cloud)[0]
    assert row["bytes_up"] == pytest.approx(2 * 4 * sent, abs=2 * 400)
    # The adversary can read it too.
    observed = observe(cloud)
    assert all(len(u.after) == sent for u in observed.updates)
    results = invert_updates(observed, None, lambda: True)
    assert len(results) == 2 and all(
        f"share {share}: the update holds no gradients of" in r.reason for r in results
    )
    train_set = places[0].sealed("train")
    images, labels = train_set.rows(np.arange(len(train_set))), np.array(train_set.labels)
    first = membership_scores(
        observed, images, labels, unpack_weights(observed, observed.updates[0].before)
    )
    # The weights that a hospital received in round 1 are those that the plan starts from.
    assert np.abs(first - membership_scores(observed, images, labels)).max() < 1e-4 < np.abs(first).max()


def is_adapted(name: str, share: str) -> bool:
    return share == "lora" and name.endswith(".weight") and any(layer in name for layer in LAYERS)


def test_a_hospital_without_the_public_weights_gets_a_clear_error(
    tmp_path: Path, places: list[Place], weights: str
) -> None:
    p = plan(share="head", weights=weights, key_scope="consortium", retries=0)
    missing = p.model_copy(update={"weights": "/nowhere/w.safetensors"})
    build = parties.training.client_app.build_base_model
    digest = sha256_file(Path(weights))
    with pytest.raises(
        CipherwardError,
        match=r"share head starts from the plan's public weights, and /nowhere/w\.safetensors",
    ):
        build(missing.model_dump_json(), CLASSES, digest)
    with pytest.raises(CipherwardError, match="is not the file that this hospital accepted"):
        build(p.model_dump_json(), CLASSES, digest[::-1])
    build(p.model_dump_json(), CLASSES, digest)
    whole = missing.model_copy(update={"share": "all"})
    build(whole.model_dump_json(), CLASSES, digest)  # all weights are sent


def test_the_variances_of_batch_normalisation_are_known_in_the_vector_that_travels() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 1), torch.nn.BatchNorm2d(3), torch.nn.Linear(2, 2))
    names = [name for name in model.state_dict() if not name.endswith("tracked")]
    model.state_dict()["1.running_var"].fill_(7.0)
    found = variances(model, names)
    assert found.sum() == 3 and (pack(model, names)[found] == 7).all()
    assert not variances(build_model(plan(), CLASSES), ["head.weight", "head.bias"]).any()


@pytest.mark.parametrize("share", ["head", "lora"])
def test_a_hospital_with_another_encoder_is_refused(
    tmp_path: Path, places: list[Place], weights: str, share: str
) -> None:
    p = plan(share=share, weights=weights, key_scope="consortium", retries=0, rounds=1)
    model = build_model(p, CLASSES)
    grid = make_grid(places)
    federation = Federation(grid, p, agree(places, p))
    federation.base = base_digest(model, p)
    start = pack(model, shared_names(model, p))
    (tmp_path / "same").mkdir()
    assert run_rounds(federation, start, tmp_path / "same").round == 1
    federation.base = base_digest(build_model(p.model_copy(update={"weights": "", "seed": 9}), CLASSES), p)
    with pytest.raises(CipherwardError, match=f"starts from under share {share} is not the coordinator's"):
        run_rounds(federation, start, tmp_path)
    assert base_digest(model, p.model_copy(update={"share": "all"})) == ""


@pytest.mark.parametrize("share", ["head", "lora"])
def test_central_and_plain_training_train_only_the_share(
    tmp_path: Path, places: list[Place], weights: str, share: str
) -> None:
    p = plan(share=share, weights=weights, train="central", key_scope="consortium", rounds=1)
    folders = [place.folder / "sealed" for place in places]
    training = train_centrally(p, folders, tmp_path / "cloud")
    tensors = load_file(str(tmp_path / "cloud" / "model.safetensors"))
    public = build_model(p.model_copy(update={"share": "all"}), CLASSES).state_dict()
    frozen = {n for n in tensors if not in_stem(n) and n not in HEAD and not is_adapted(n, share)}
    assert {n for n, v in tensors.items() if torch.equal(v, public[n])} == frozen
    assert np.sum(training["test"]["confusion"]) == sum(
        r["num-examples"] for r in training["test"]["parties"]
    )
    assert 0 <= training["test"]["calibration"]["ece"] <= 1
    parts = [(place.settings.party, read_plain_images(place, "train")) for place in places]
    val = concatenate([read_plain_images(place, "val") for place in places])
    model, _, _ = train_plain(p, parts, val, CLASSES, tmp_path / "plain.safetensors")
    state = merge_adapters(model).state_dict()
    assert {n for n, v in state.items() if torch.equal(v, public[n])} == frozen


# ---- the adversary -------------------------------------------------------------------------------


@pytest.mark.parametrize("share", ["head", "lora"])
@pytest.mark.parametrize("stem", ["plain", "private"])
def test_attacks_on_updates_report_what_the_share_hides(share: str, stem: str) -> None:
    p = one_step(share=share, stem=stem)
    [several] = invert_updates(update_of(p, IMAGES[:3], [0, 1, 2]), IMAGES, lambda: True)
    what = "the patch embedding or the encoder" if stem == "private" else "the encoder"
    assert f"share {share}: the update holds no gradients of {what}'s own weights" in several.reason
    assert not several.is_confirmed
    [one] = invert_updates(update_of(p, IMAGES[:1], [0]), IMAGES[:4], lambda: True)
    # A candidate is still confirmed by training on it, and a stem that is sent is still solved.
    assert one.is_confirmed and np.array_equal(one.images, IMAGES[:1])


def test_attacks_on_updates_without_the_public_weights_report_it(weights: str) -> None:
    p = one_step(share="head", stem="learn", weights=weights)
    observed = update_of(p, IMAGES[:1], [0])
    missing = p.model_copy(update={"weights": "/nowhere/w.safetensors"})
    [result] = invert_updates(replace(observed, plan=missing), None, lambda: True)
    assert not result.is_confirmed and "w.safetensors, which is not here" in result.reason
