"""Federations with carried stems: those on plain images, whatever is interrupted; which stems a hospital keeps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flwr.app import Message
from safetensors.torch import load_file

from coordinator.exchange.plan import Plan
from coordinator.model.training import train_locally
from coordinator.model.vit import build_model, in_stem, pack, shared_names, unpack
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.keyfile import write_key
from parties.sealing.place import Place
from parties.training import stem
from parties.training.baseline import average, read_plain, train_plain
from tests.support.hospitals import federate, hospitals
from tests.support.hospitals import one_core as one_core  # a fixture for every test here
from tests.support.hospitals import stem_plan as plan


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
