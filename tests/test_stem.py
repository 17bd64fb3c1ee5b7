"""Stems carried into a key's coordinates: the same logits, steps and federations as on plain images; what leaves."""

from __future__ import annotations

import json

import leaks
import numpy as np
import pytest
import torch
from flwr.app import Message
from local_grid import FIRST_NODE, LocalGrid
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

import parties.client_app
from coordinator import server_app
from coordinator.models import build_model, in_stem, pack, save_model, shared_names, unpack
from coordinator.plan import CARRIED, Plan, write_plan
from coordinator.rounds import Federation, run_rounds
from coordinator.torchvision_fix import timm
from coordinator.train import PlainImages, as_input, measure, probabilities, train_locally
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.keyfile import write_key
from crypto.scheme import SCHEMES, describe, load
from parties import stem
from parties.baseline import average, read_plain, run_baseline, train_plain, wrong_keys
from parties.place import Place
from parties.seal import seal, sealing
from parties.stem import CARRIES, Coordinates, carry, carry_back, coordinates

SMALL = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
SCHEME_OPTIONS = [
    ("block_pixel_shuffle", {}),
    ("value_shuffle", {}),
    ("value_shuffle", {"fixed_blocks": 6, "fixed_values": 20}),
    ("orthogonal", {}),
    ("plain", {}),
]
PERMUTING = [s for s in SCHEME_OPTIONS if s[0] != "orthogonal"]
MODELS = {
    "class token": {},
    "mean of tokens": {"class_token": False, "global_pool": "avg"},
    "registers": {"reg_tokens": 3},
    "class token without a place": {"no_embed_class": True},
    "no positions": {"pos_embed": "none"},
}


@pytest.fixture(autouse=True)
def one_core(monkeypatch):
    """Models this small are slower on several cores than on one."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


def plan(**changes) -> Plan:
    settings = {"study": "t", "parties": 2, "counts": (40, 12, 16), "image_size": 32, "block": 8}
    settings |= {"model_args": SMALL, "batch": 8, "rounds": 2, "warmup_steps": 0, "key_scope": "party"}
    settings |= {"optimizer": "sgd", "lr": 0.05, "weight_decay": 0.01, "deadline_s": 60.0, "stem": "plain"}
    return Plan.model_validate(settings | changes)


def busy(model: torch.nn.Module) -> torch.nn.Module:
    """Every weight moved, so that no part of the model is idle at its first values."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)
    return model


def pictures(channels: int, n: int = 12) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 32, 32, channels), dtype=np.uint8)


def logits(model: torch.nn.Module, images: np.ndarray) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(as_input(images))


def sealed_with(
    scheme: str, options: dict, channels: int, key: SecretKey
) -> tuple[np.ndarray, Coordinates]:
    spec = describe(scheme, (32, 32, channels), 8, "party", options)
    return load(spec).cipher(key).encrypt(pictures(channels)), coordinates(spec, key)


def test_the_plan_knows_the_schemes_that_can():
    assert set(CARRIED) == set(CARRIES) <= set(SCHEMES)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("args", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize(("scheme", "options"), SCHEME_OPTIONS)
def test_the_carried_model_reads_ciphertext_as_the_plain_one_reads_images(
    scheme, options, args, channels, key
):
    model = busy(build_model(plan(channels=channels, model_args={**SMALL, **args}), 3))
    wanted = logits(model, pictures(channels))
    sealed, where = sealed_with(scheme, options, channels, key)
    if scheme != "plain":
        assert (logits(model, sealed) - wanted).abs().max() > 1e-2
    carry(model, where)
    assert (logits(model, sealed) - wanted).abs().max() < 1e-4
    other = sealed_with(scheme, options, channels, SecretKey(bytes(range(1, 33))))[0]
    assert scheme == "plain" or (logits(model, other) - wanted).abs().max() > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
def test_a_pretrained_model_reads_sealed_mri_as_it_reads_mri(real_mri, channels, key):
    weights = real_mri.parent / "vit_tiny_patch16_224.safetensors"
    if not weights.exists():
        pytest.skip("no pretrained weights beside the real images")
    classes = sorted((real_mri / "test").iterdir())
    files = [sorted(folder.iterdir())[i] for folder in classes for i in (0, 7)]
    mode = {1: "L", 3: "RGB"}[channels]
    images = np.stack([np.asarray(Image.open(f).convert(mode)) for f in files]).reshape(
        -1, 224, 224, channels
    )
    real = {"image_size": 224, "block": 16, "model_args": {}, "weights": str(weights)}
    for scheme in CARRIED:
        p = plan(scheme=scheme, channels=channels, **real)
        model = build_model(p, 1000)
        wanted = logits(model, images)
        carry(model, coordinates(p.describe(), key))
        sealed = load(p.describe()).cipher(key).encrypt(images)
        assert (logits(model, sealed) - wanted).abs().max() < 1e-4


@pytest.mark.parametrize(("scheme", "options"), SCHEME_OPTIONS)
def test_carrying_back_undoes_carrying(scheme, options, key):
    model = busy(build_model(plan(channels=3), 3))
    before = pack(model)
    _, where = sealed_with(scheme, options, 3, key)
    carry(model, where)
    assert np.array_equal(pack(model), before) == (scheme == "plain")
    carry_back(model, where)
    assert np.abs(pack(model) - before).max() <= (1e-6 if scheme == "orthogonal" else 0)


def stepped(model, images, optimizer: str) -> dict[str, torch.Tensor]:
    """One optimiser step in float64; returns the gradients."""
    kinds = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}
    steps = kinds[optimizer](model.parameters(), 0.01, weight_decay=0.1)
    loss = torch.nn.functional.cross_entropy(
        model(as_input(images).double()), torch.arange(len(images)) % 3
    )
    loss.backward()
    steps.step()
    return {name: weight.grad for name, weight in model.named_parameters()}


def both_stepped(scheme, options, optimizer, key):
    """(plain model, carried model carried back, their gradients) after a step from the same weights."""
    images = pictures(3)
    sealed, where = sealed_with(scheme, options, 3, key)
    plain, carried = (busy(build_model(plan(channels=3), 3)).double() for _ in range(2))
    ours = stepped(plain, images, optimizer)
    carry(carried, where)
    theirs = stepped(carried, sealed, optimizer)
    carry_back(carried, where)
    return plain, carried, ours, theirs


def distance(a: torch.nn.Module, b: torch.nn.Module) -> float:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return max(float((u - v).abs().max()) for u, v in pairs)


@pytest.mark.parametrize(
    ("scheme", "options", "optimizer"),
    [(*s, "sgd") for s in SCHEME_OPTIONS] + [(*s, "adamw") for s in PERMUTING],
)
def test_a_step_on_ciphertext_is_a_step_on_plain_images(scheme, options, optimizer, key):
    plain, carried, ours, theirs = both_stepped(scheme, options, optimizer, key)
    near = 1e-6 if scheme == "orthogonal" else 1e-9
    assert distance(plain, carried) < near
    assert distance(plain, busy(build_model(plan(channels=3), 3)).double()) > 1e-4
    # What a hospital sends of the encoder is what plain federated learning sends, and inverts like it.
    for name, gradient in ours.items():
        if not in_stem(name):
            assert (gradient - theirs[name]).abs().max() < near * max(1, gradient.abs().max()), name


def test_adamw_does_not_commute_with_rotations(key):
    plain, carried, *_ = both_stepped("orthogonal", {}, "adamw", key)
    assert distance(plain, carried) > 1e-4


def test_coordinates_that_do_not_fit_are_refused(key):
    model = build_model(plan(image_size=64), 2)
    small = coordinates(describe("value_shuffle", (32, 32, 1), 8), key)
    with pytest.raises(CipherwardError, match="the model has 64 patches, the key's coordinates 16"):
        carry(model, small)
    for scheme in ("value_shuffle", "orthogonal"):
        with pytest.raises(CipherwardError, match="the model has 64 values in a patch"):
            carry(model, coordinates(describe(scheme, (32, 32, 1), 16), key))
    with pytest.raises(CipherwardError, match="unknown scheme whose stem can be carried 'pe'"):
        coordinates(describe("pe", (32, 32, 1), 8), key)
    with pytest.raises(CipherwardError, match="every image has a key of its own"):
        coordinates(describe("value_shuffle", (32, 32, 1), 8, "image"), key)


# ---- federations ---------------------------------------------------------------------------------


def hospitals(folder, p: Plan) -> list[Place]:
    """The places of a plan's hospitals, sealed, each under its own key."""
    places = []
    for index in range(p.parties):
        settings = {k: getattr(p, k) for k in ("source", "counts", "image_size", "channels", "seed")}
        settings |= {k: getattr(p, k) for k in ("scheme", "block", "key_scope", "scheme_options")}
        name = f"hospital-{index}"
        place = Place.of(folder / name, settings | {"party": name, "share": (index, p.parties)})
        place.keep()
        write_key(place.key_path, SecretKey(bytes(range(index, index + 32))))
        for split in ("train", "val", "test"):
            seal(place, sealing(place, split))
        places.append(place)
    return places


def grid_of(places: list[Place], tamper=lambda node, reply: reply) -> LocalGrid:
    return LocalGrid(parties.client_app.app, [{"party-dir": str(p.folder)} for p in places], tamper=tamper)


def federate(places, p: Plan, cloud, tamper=lambda node, reply: reply):
    """(final state, all messages) of a federation on ciphertext."""
    cloud.mkdir(exist_ok=True)
    grid = grid_of(places, tamper)
    model = build_model(p, 4)
    start = pack(model, shared_names(model, p))
    return run_rounds(grid, p, Federation(grid, p), start, cloud), [*grid.sent, *grid.received]


def private_on_plain_images(p: Plan, trains) -> tuple[np.ndarray, list[dict]]:
    """(what was averaged, every hospital's stem) after federated averaging with stems that stay, on plain images."""
    model = build_model(p, 4)
    names = [n for n in model.state_dict() if not in_stem(n)]
    shared = pack(model, names)
    stems = [stem.stem_of(model) for _ in trains]
    for round_ in range(1, p.rounds + 1):
        updates = []
        for i, (name, data) in enumerate(trains):
            unpack(model, shared, names)
            stem.put_stem(model, stems[i])
            train_locally(model, data, p, round_, name)
            stems[i] = stem.stem_of(model)
            updates.append(pack(model, names))
        shared = average(updates, [len(data.labels) for _, data in trains])
    return shared, stems


@pytest.mark.parametrize(
    ("scheme", "augment"),
    [("block_pixel_shuffle", "none"), ("orthogonal", "none"), ("value_shuffle", "flip_shift")],
)
def test_a_federation_with_plain_stems_is_the_one_on_plain_images(tmp_path, scheme, augment):
    p = plan(scheme=scheme, augment=augment)
    places = hospitals(tmp_path, p)
    assert len({place.key().id for place in places}) == 2
    state, _ = federate(places, p, tmp_path / "cloud")
    trains = [(place.settings.party, read_plain(place, "train")) for place in places]
    train_plain(p, trains, read_plain(places[0], "val"), 4, tmp_path / "plain.safetensors")
    wanted = load_file(str(tmp_path / "plain.safetensors"))["weights"].numpy()
    assert np.abs(wanted - pack(build_model(p, 4))).max() > 1e-2
    assert np.abs(state.weights - wanted).max() < 1e-4


@pytest.mark.parametrize("scheme", ["value_shuffle", "orthogonal"])
def test_a_federation_with_private_stems_is_the_one_on_plain_images(tmp_path, scheme):
    p = plan(scheme=scheme, stem="private")
    places = hospitals(tmp_path, p)
    state, _ = federate(places, p, tmp_path / "cloud")
    trains = [(place.settings.party, read_plain(place, "train")) for place in places]
    wanted, stems = private_on_plain_images(p, trains)
    assert len(wanted) == len(state.weights) < len(pack(build_model(p, 4)))
    assert np.abs(state.weights - wanted).max() < 1e-4
    for place, own in zip(places, stems, strict=True):
        kept = stem.own_stem(place, p, 4, 2)
        assert max(np.abs(kept[name] - own[name]).max() for name in own) < 1e-4
    names = list(stems[0])
    assert np.abs(stems[0][names[0]] - stems[1][names[0]]).max() > 1e-3  # each hospital has its own


def test_an_interrupted_round_is_trained_again_from_the_stem_before_it(tmp_path):
    p = plan(stem="private")
    places = hospitals(tmp_path, p)
    straight, _ = federate(places, p, tmp_path / "straight")
    trained = 0

    def stop(node: int, reply: Message) -> Message:
        nonlocal trained
        trained += reply.has_content() and "arrays" in reply.content
        if trained == 4:
            raise KeyboardInterrupt  # both hospitals have kept their stems of round 2
        return reply

    with pytest.raises(KeyboardInterrupt):
        federate(places, p, tmp_path / "cut", stop)
    resumed, _ = federate(places, p, tmp_path / "cut")
    assert np.array_equal(resumed.weights, straight.weights)


def test_a_frozen_stem_stays_the_public_one(tmp_path):
    p = plan(stem="private", stem_frozen=True)
    places = hospitals(tmp_path, p)
    state, _ = federate(places, p, tmp_path / "cloud")
    model = build_model(p, 4)
    assert np.abs(state.weights - pack(model, shared_names(model, p))).max() > 1e-3
    assert not (places[0].private / stem.FILE).exists()
    assert all(
        np.array_equal(v, stem.stem_of(model)[k]) for k, v in stem.own_stem(places[0], p, 4, 2).items()
    )
    # With one stem for all, private and plain are the same federation.
    whole, _ = federate(places, p.model_copy(update={"stem": "plain"}), tmp_path / "plain")
    unpack(model, whole.weights)
    assert np.array_equal(pack(model, shared_names(model, p)), state.weights)
    first = build_model(p, 4)
    assert all(np.array_equal(v, stem.stem_of(first)[k]) for k, v in stem.stem_of(model).items())


def test_stems_are_kept_by_round_and_study(tmp_path):
    p = plan(stem="private")
    place = Place.of(tmp_path / "h", {"party": "a"})
    place.keep()
    model = build_model(p, 4)
    name = "pos_embed"

    def train_to(round_: int, best: int) -> None:
        with torch.no_grad():
            model.state_dict()[name].fill_(round_)
        stem.keep_stem(place, p, model, round_, best)

    def kept(round_: int, of: Plan = p) -> float:
        return float(stem.own_stem(place, of, 4, round_)[name].mean())

    first = kept(0)
    assert abs(first) < 0.1
    for round_, best in ((1, 0), (2, 1), (3, 2), (4, 2), (5, 2)):
        train_to(round_, best)
    assert [kept(r) for r in (5, 4, 3, 2)] == [5, 4, 2, 2]  # the last two, and the best
    assert kept(1) == first
    train_to(5, 2)  # asked for again
    assert [kept(r) for r in (5, 4, 2)] == [5, 4, 2]
    assert abs(kept(5, plan(stem="private", study="another"))) < 0.1
    (place.private / stem.FILE).write_bytes(b"\x00" * 30)
    with pytest.raises(CipherwardError, match=r"the hospital's stem .* cannot be read"):
        kept(5)


def test_a_stem_of_another_model_and_missing_weights_are_told(tmp_path):
    model = build_model(plan(), 4)
    with pytest.raises(CipherwardError, match="is another model's"):
        stem.put_stem(model, {"pos_embed": np.zeros((1, 2, 3), np.float32)})
    place = Place.of(tmp_path / "h", {"party": "a"})
    place.keep()
    lacking = plan(stem="private").model_copy(update={"weights": str(tmp_path / "none.safetensors")})
    with pytest.raises(CipherwardError, match="starts from the plan's public weights"):
        stem.own_stem(place, lacking, 4, 0)


def test_another_key_than_the_sealing_s_is_refused(tmp_path):
    p = plan()
    [place, _] = hospitals(tmp_path, p)
    place.key_path.unlink()
    write_key(place.key_path, SecretKey(bytes(range(100, 132))))
    with pytest.raises(CipherwardError, match="did not seal"):
        stem.coordinates_of(place, place.sealed("train"))


# ---- what leaves ---------------------------------------------------------------------------------


def content_of(message: Message) -> bytes:
    """Everything that a message carries, as bytes."""
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
    """Pieces of a stem as they would stand in a message: of each filter, of each position, of where two meet."""
    rows: dict[str, bytes] = {}
    for part, width in (("patch_embed.proj.weight", 64), ("pos_embed", 32)):
        table = weights[part].reshape(-1, width)
        for i, row in enumerate(table):
            rows[f"{name} {part} {i}"] = row[:16].tobytes()
            rows[f"{name} {part} {i}, float64"] = row[:16].astype(np.float64).tobytes()
    for i, seam in enumerate(np.concatenate([table[:-1, -8:], table[1:, :8]], 1)):
        rows[f"{name} pos_embed {i} and {i + 1}"] = seam.tobytes()
    return rows


def test_rounds_with_a_private_stem_carry_neither_key_nor_stem(tmp_path):
    p = plan(stem="private")
    places = hospitals(tmp_path, p)
    _, sent = federate(places, p, tmp_path / "cloud")
    assert len(sent) == 20  # hello, and two rounds of training and evaluating, and the answers, twice
    messages = {f"message {i}": content_of(m) for i, m in enumerate(sent)}
    messages |= leaks.files(tmp_path / "cloud")
    forms: dict[str, bytes] = {}
    for place in places:
        spec, name = place.sealed("train").spec, place.settings.party
        where = coordinates(spec, place.key())
        for form, secret in leaks.key_forms(place.key(), [spec]).items():
            forms[f"{name} {form}"] = secret
        for round_ in range(3):
            model = build_model(p, 4)
            stem.put_stem(model, stem.own_stem(place, p, 4, round_))
            forms |= rows_of(f"{name} round {round_}", stem.stem_of(model))
            carry(model, where)
            forms |= rows_of(f"{name} round {round_}, carried", stem.stem_of(model))
    assert len(forms) > 1000
    assert leaks.find(forms, messages) == []
    # The same search finds a row where there is one.
    form, row = next((f, r) for f, r in forms.items() if "carried patch_embed" in f)
    assert leaks.find(forms, {"a message": b"x" + row + b"x"}) == [f"{form} in a message"]


def test_a_plain_stem_leaves_in_plain_coordinates(tmp_path):
    # Steps so small that a stem stays where it was: which coordinates it left in is plain to see.
    p = plan(lr=1e-7, rounds=1)
    places = hospitals(tmp_path, p)
    _, sent = federate(places, p, tmp_path / "cloud")
    first = build_model(p, 4)
    nodes = {FIRST_NODE, FIRST_NODE + 1}
    updates = [m for m in sent if m.metadata.dst_node_id not in nodes and "arrays" in m.content]
    forms: dict[str, bytes] = {}
    for place, update in zip(places, updates, strict=True):
        left, carried = build_model(p, 4), build_model(p, 4)
        unpack(left, update.content["arrays"]["model"].numpy())
        assert 0 < distance(left, first) < 1e-5
        where = coordinates(place.sealed("train").spec, place.key())
        for form, secret in leaks.key_forms(place.key(), [place.sealed("train").spec]).items():
            forms[f"{place.settings.party} {form}"] = secret
        for model, name in ((carried, "first"), (left, "trained")):
            plain = rows_of("", stem.stem_of(model)).values()
            carry(model, where)
            rows = rows_of(f"{place.settings.party}, {name}, carried", stem.stem_of(model))
            # Positions are the same rows in another order: only where two meet tells the coordinates.
            forms |= {form: row for form, row in rows.items() if row not in plain}
        assert distance(carried, first) > 1e-2
    assert len(forms) > 300 and any("pos_embed" in form for form in forms)
    messages = {f"message {i}": content_of(m) for i, m in enumerate(sent)} | leaks.files(tmp_path / "cloud")
    assert leaks.find(forms, messages) == []
    assert leaks.find(rows_of("plain", stem.stem_of(first)), messages)  # which did leave, as it should


# ---- the final model -----------------------------------------------------------------------------


def finished(tmp_path, p: Plan, tamper=lambda node, reply: reply) -> list[Place]:
    """A whole federation by the server's own program; tmp_path/cloud holds what it wrote."""
    places = hospitals(tmp_path, p)
    (tmp_path / "cloud").mkdir()
    write_plan(p, tmp_path)
    server_app._federate(grid_of(places, tamper), tmp_path)
    return places


def test_the_final_plain_stem_model_reads_plain_images_in_timm(tmp_path):
    p = plan(lr=0.1, rounds=3)
    places = finished(tmp_path, p)
    path = tmp_path / "cloud" / "model.safetensors"
    model = timm.create_model(p.model, num_classes=4, in_chans=1, img_size=32, **SMALL)
    model.load_state_dict(load_file(str(path)))
    with safe_open(str(path), framework="pt") as file:
        about = file.metadata()
    assert about["stem"] == about["images"] == "plain" and about["lacks"] == ""
    said = json.loads((tmp_path / "cloud" / "training.json").read_text())["test"]["parties"]
    for place, row in zip(places, said, strict=True):
        test = read_plain(place, "test")
        mine = probabilities(stem.final_model(p, place, 4, path), place.sealed("test"))
        assert np.abs(probabilities(model, test) - mine).max() < 1e-4
        assert measure(mine, test.labels)["loss"] == pytest.approx(row["loss"], abs=1e-4)


def test_the_final_private_model_lacks_the_stem_and_says_so(tmp_path):
    p = plan(stem="private", scheme="value_shuffle", lr=0.1, rounds=3, wrong_keys=2, baseline=False)
    places = finished(tmp_path, p)
    path = tmp_path / "cloud" / "model.safetensors"
    names = set(load_file(str(path)))
    assert names and not any(in_stem(n) for n in names) and "cls_token" in names
    training = json.loads((tmp_path / "cloud" / "training.json").read_text())
    with safe_open(str(path), framework="pt") as file:
        about = file.metadata()
    assert about["stem"] == "private" and about["lacks"] == "patch_embed.*, pos_embed"
    assert about["round"] == str(training["best_round"])
    # A hospital's own stem of the best round completes it.
    for place, row in zip(places, training["test"]["parties"], strict=True):
        mine = probabilities(stem.final_model(p, place, 4, path), place.sealed("test"))
        assert measure(mine, place.sealed("test").labels)["loss"] == pytest.approx(row["loss"], abs=1e-5)
    figures = run_baseline(p, places, path)
    assert len(figures["wrong_key"]["each"]) == 2 and figures["plain"] is None


def test_the_test_is_read_with_the_stems_of_the_best_round(tmp_path):
    p = plan(stem="private", lr=0.1, rounds=4)
    trained, evaluated, then = 0, 0, []

    def worse_after_round_2(node: int, reply: Message) -> Message:
        nonlocal trained, evaluated
        if "arrays" in reply.content:
            trained += 1
            if trained == 2 * 2:
                then.extend(
                    stem.own_stem(Place.open(tmp_path / f"hospital-{i}"), p, 4, 2) for i in range(2)
                )
        elif "metrics" in reply.content:
            evaluated += 1
            if evaluated <= 2 * p.rounds:  # val; what follows is the test
                n = reply.content["metrics"]["num-examples"]
                right = n if trained == 2 * 2 else 0
                reply.content["metrics"]["accuracy"] = right / n
                reply.content["tables"]["confusion"] = [right, n - right, *[0] * 14]
                reply.content["tables"]["bin_counts"] = [0] * 9 + [n]
                reply.content["tables"]["bin_hits"] = [0] * 9 + [right]
                reply.content["tables"]["bin_confidence"] = [0.0] * 9 + [0.95 * n]
        return reply

    places = finished(tmp_path, p, worse_after_round_2)
    training = json.loads((tmp_path / "cloud" / "training.json").read_text())
    assert training["best_round"] == 2
    model = build_model(p, 4)
    tensors = load_file(str(tmp_path / "cloud" / "model.safetensors"))
    for place, own, row in zip(places, then, training["test"]["parties"], strict=True):
        last = stem.own_stem(place, p, 4, 4)
        assert all(np.array_equal(stem.own_stem(place, p, 4, 2)[k], own[k]) for k in own)
        losses = []
        for weights in (own, last):
            model.load_state_dict({**tensors, **{k: torch.from_numpy(v) for k, v in weights.items()}})
            test = read_plain(place, "test")
            losses.append(measure(probabilities(model, test), test.labels)["loss"])
        assert row["loss"] == pytest.approx(losses[0], abs=1e-5)
        assert abs(losses[1] - losses[0]) > 1e-4


def test_a_wrong_key_is_measured_on_the_carried_model(tmp_path):
    p = plan(scheme="value_shuffle")
    [place, _] = hospitals(tmp_path, p)
    test = read_plain(place, "test")
    model = busy(build_model(p, 4))
    with torch.no_grad():
        model.head.bias -= logits(model, test.images).mean(0)
    said = PlainImages(test.images, logits(model, test.images).argmax(1).numpy())
    assert len(set(said.labels)) > 1
    save_model(model, p, list("abcd"), tmp_path / "m.safetensors")
    carried = stem.final_model(p, place, 4, tmp_path / "m.safetensors")
    right = PlainImages(place.sealed("test").rows(np.arange(len(said.labels))), said.labels)
    assert measure(probabilities(carried, right), right.labels)["accuracy"] == 1.0
    assert max(wrong_keys(carried, place, said, 4)["each"]) < 1.0


def test_bytes_of_a_private_round_are_fewer(tmp_path):
    p = plan(rounds=1)
    places = hospitals(tmp_path, p)
    rows = {}
    for mode in ("plain", "private"):
        federate(places, p.model_copy(update={"stem": mode}), tmp_path / mode)
        rows[mode] = json.loads((tmp_path / mode / "rounds.jsonl").read_text())
    weights = sum(v.nbytes for v in stem.stem_of(build_model(p, 4)).values())
    for way in ("bytes_up", "bytes_down"):
        assert rows["plain"][way] - rows["private"][way] == pytest.approx(2 * weights, abs=20)
