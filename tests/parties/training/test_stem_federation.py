"""Federations with carried stems: they equal those on plain images; and the stems that a hospital keeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Message
from safetensors.torch import load_file, save_file

from coordinator.exchange.plan import Plan
from coordinator.model.shares import in_stem, shared_names
from coordinator.model.training import PlainImages, train_locally
from coordinator.model.vit import build_model, pack, unpack
from crypto.arrays import AnyArray, Float32Array, Rows
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.keyfile import write_key
from crypto.scheme import load
from parties.sealing.place import Place
from parties.training import stem, stem_file
from parties.training.baseline import average, read_plain_images, train_plain
from parties.training.policy import make_policy
from parties.training.policy_file import find_policy, save_policy, stem_path
from tests.support.hospitals import (
    accept,
    federate,
    one_core,  # noqa: F401 - a fixture for every test here
    seal_hospitals,
)
from tests.support.hospitals import stem_plan as plan


def train_private_on_plain_images(
    p: Plan, trains: list[tuple[str, PlainImages]]
) -> tuple[Float32Array, list[stem.Stem]]:
    """Train on plain images with stems that stay in the hospitals. Return the average, and each hospital's stem."""
    model = build_model(p, 4)
    names = [n for n in model.state_dict() if not in_stem(n)]
    shared = pack(model, names)
    stems = [stem.copy_stem(model) for _ in trains]
    for round_ in range(1, p.rounds + 1):
        updates = []
        for i, (name, data) in enumerate(trains):
            unpack(model, shared, names)
            stem.replace_stem(model, stems[i])
            train_locally(model, data, p, round_, name)
            stems[i] = stem.copy_stem(model)
            updates.append(pack(model, names))
        shared = average(updates, [len(data.labels) for _, data in trains])
    return shared, stems


@pytest.mark.parametrize(
    ("scheme", "augment"),
    [
        ("block_pixel_shuffle", "none"),
        ("orthogonal", "none"),
        ("value_shuffle", "flip_shift"),
        ("block_pixel_shuffle", "flip_affine"),
    ],
)
def test_a_federation_with_plain_stems_equals_the_one_on_plain_images(
    tmp_path: Path, scheme: str, augment: str
) -> None:
    p = plan(scheme=scheme, augment=augment)
    places = seal_hospitals(tmp_path, p)
    assert len({place.key().id for place in places}) == 2
    state, _ = federate(places, p, tmp_path / "cloud")
    trains = [(place.settings.party, read_plain_images(place, "train")) for place in places]
    train_plain(p, trains, read_plain_images(places[0], "val"), 4, tmp_path / "plain.safetensors")
    expected = load_file(str(tmp_path / "plain.safetensors"))["weights"].numpy()
    assert np.abs(expected - pack(build_model(p, 4))).max() > 1e-2
    assert np.abs(state.weights - expected).max() < 1e-4


class Views(PlainImages):
    """Plain images of a hospital; a reference seals what it alters of them."""

    def views(self, rows: Rows, augment: str, random: np.random.Generator) -> AnyArray:
        """Return the images of these rows, altered and then sealed."""
        return self.cipher.encrypt(np.asarray(super().views(rows, augment, random)))

    def __init__(self, place: Place) -> None:
        """Read the plain images of a hospital, and open its key."""
        plain = read_plain_images(place, "train")
        super().__init__(plain.images, plain.labels)
        self.cipher = load(place.sealed("train").spec).cipher(place.key())


@pytest.mark.parametrize("scheme", ["block_pixel_shuffle", "le"])
def test_a_federation_that_learns_ciphertext_trains_on_sealed_views(tmp_path: Path, scheme: str) -> None:
    p = plan(scheme=scheme, stem="learn", key_scope="consortium", augment="flip_shift")
    places = seal_hospitals(tmp_path, p)
    state, _ = federate(places, p, tmp_path / "cloud")
    sealed = places[0].sealed("val")
    val = PlainImages(sealed.rows(np.arange(len(sealed))), np.array(sealed.labels))
    trains = [(place.settings.party, Views(place)) for place in places]
    train_plain(p, trains, val, 4, tmp_path / "reference.safetensors")
    expected = load_file(str(tmp_path / "reference.safetensors"))["weights"].numpy()
    assert np.abs(expected - pack(build_model(p, 4))).max() > 1e-2
    assert np.abs(state.weights - expected).max() < 1e-4


@pytest.mark.parametrize("scheme", ["value_shuffle", "orthogonal"])
def test_a_federation_with_private_stems_equals_the_one_on_plain_images(
    tmp_path: Path, scheme: str
) -> None:
    p = plan(scheme=scheme, stem="private")
    places = seal_hospitals(tmp_path, p)
    state, _ = federate(places, p, tmp_path / "cloud")
    trains = [(place.settings.party, read_plain_images(place, "train")) for place in places]
    expected, stems = train_private_on_plain_images(p, trains)
    assert len(expected) == len(state.weights) < len(pack(build_model(p, 4)))
    assert np.abs(state.weights - expected).max() < 1e-4
    for place, own in zip(places, stems, strict=True):
        kept = stem_file.read_own_stem(place, p, 4, 2)
        assert max(np.abs(kept[name] - own[name]).max() for name in own) < 1e-4
    names = list(stems[0])
    assert np.abs(stems[0][names[0]] - stems[1][names[0]]).max() > 1e-3  # each hospital has another stem


def test_an_interrupted_round_starts_again_from_the_previous_stem(tmp_path: Path) -> None:
    p = plan(stem="private")
    places = seal_hospitals(tmp_path, p)
    uninterrupted, _ = federate(places, p, tmp_path / "uninterrupted")
    trained = 0

    def stop(node: int, reply: Message) -> Message:
        nonlocal trained
        trained += int(reply.has_content() and "arrays" in reply.content)
        if trained == 4:
            raise KeyboardInterrupt  # both hospitals have kept their stems of round 2
        return reply

    with pytest.raises(KeyboardInterrupt):
        federate(places, p, tmp_path / "cut", stop)
    resumed, _ = federate(places, p, tmp_path / "cut")
    assert np.array_equal(resumed.weights, uninterrupted.weights)


def test_a_frozen_stem_stays_the_public_stem(tmp_path: Path) -> None:
    p = plan(stem="private", stem_frozen=True)
    places = seal_hospitals(tmp_path, p)
    state, _ = federate(places, p, tmp_path / "cloud")
    model = build_model(p, 4)
    assert np.abs(state.weights - pack(model, shared_names(model, p))).max() > 1e-3
    assert not (places[0].private / "stems").exists()
    assert all(
        np.array_equal(v, stem.copy_stem(model)[k])
        for k, v in stem_file.read_own_stem(places[0], p, 4, 2).items()
    )
    # With one stem for all, private and plain are the same federation.
    whole, _ = federate(places, p.model_copy(update={"stem": "plain"}), tmp_path / "plain")
    unpack(model, whole.weights)
    assert np.array_equal(pack(model, shared_names(model, p)), state.weights)
    first = build_model(p, 4)
    assert all(np.array_equal(v, stem.copy_stem(first)[k]) for k, v in stem.copy_stem(model).items())


def test_stems_are_kept_by_round_and_study(tmp_path: Path) -> None:
    p = plan(stem="private")
    [place, _] = seal_hospitals(tmp_path, p)
    model = build_model(p, 4)
    name = "pos_embed"

    def train_to(round_: int, best: int) -> None:
        with torch.no_grad():
            model.state_dict()[name].fill_(round_)
        stem_file.write_own_stem(place, find_policy(place, p), stem.copy_stem(model), round_, best)

    def kept(round_: int, of: Plan = p) -> float:
        return float(stem_file.read_own_stem(place, of, 4, round_)[name].mean())

    first = kept(0)
    assert abs(first) < 0.1
    for round_, best in ((1, 0), (2, 1), (3, 2), (4, 2), (5, 2)):
        train_to(round_, best)
    assert [kept(r) for r in (5, 4, 3, 2)] == [5, 4, 2, 2]  # the last two, and the best
    assert kept(1) == first
    train_to(5, 2)  # the round is repeated
    assert [kept(r) for r in (5, 4, 2)] == [5, 4, 2]
    # A second study has stems of its own, and the first one's are not lost.
    another = plan(stem="private", study="another", lr=0.01)
    with pytest.raises(CipherwardError, match="this plan says study another"):
        kept(5, another)
    accept([place], another)
    assert abs(kept(5, another)) < 0.1
    with torch.no_grad():
        model.state_dict()[name].fill_(9)
    stem_file.write_own_stem(place, find_policy(place, another), stem.copy_stem(model), 5, 5)
    assert [kept(r, another) for r in (5, 4)] == [9, first] and [kept(r) for r in (5, 4, 2)] == [5, 4, 2]
    path = stem_path(place, find_policy(place, p))
    (theirs,) = (place.private / "stems" / "another").iterdir()
    own = path.read_bytes()
    path.write_bytes(theirs.read_bytes())
    with pytest.raises(CipherwardError, match="were trained under another policy than t's"):
        kept(5)
    path.write_bytes(b"\x00" * 30)
    with pytest.raises(CipherwardError, match=r"the hospital's stem .* cannot be read"):
        kept(5)
    path.write_bytes(own)
    assert kept(5) == 5


def test_a_study_of_the_same_name_does_not_take_over_the_stems(tmp_path: Path) -> None:
    p = plan(stem="private")
    [place, _] = seal_hospitals(tmp_path, p)
    stem_file.write_own_stem(place, find_policy(place, p), stem.copy_stem(build_model(p, 4)), 1, 0)
    other = plan(stem="private", lr=0.01)
    with pytest.raises(CipherwardError, match="keeps stems of the study t that were trained under another"):
        accept([place], other)
    # The client refuses as well, if the policy got there by another way.
    save_policy(place, make_policy(other, place.sealed("train").classes, len(place.sealed("train"))))
    with pytest.raises(CipherwardError, match="keeps stems of the study t that were trained under another"):
        stem_file.read_own_stem(place, other, 4, 0)
    assert stem_file.read_own_stem(place, p, 4, 1)


def test_a_stem_of_an_earlier_version_is_refused_by_name(tmp_path: Path) -> None:
    p = plan(stem="private")
    [place, _] = seal_hospitals(tmp_path, p)
    (place.private / "stem.safetensors").write_bytes(b"")
    with pytest.raises(CipherwardError, match=r"private/stem\.safetensors was kept by an earlier") as error:
        stem_file.read_own_stem(place, p, 4, 0)
    assert "move it out of the hospital's folder" in error.value.hint


def test_a_stem_of_another_model_and_missing_weights_are_errors(tmp_path: Path) -> None:
    model = build_model(plan(), 4)
    with pytest.raises(CipherwardError, match="belongs to another model"):
        stem.replace_stem(model, {"pos_embed": np.zeros((1, 2, 3), np.float32)})
    weights = tmp_path / "w.safetensors"
    save_file(model.state_dict(), weights)
    p = plan(stem="private", weights=str(weights))
    [place, _] = seal_hospitals(tmp_path, p)
    kept = stem_file.read_own_stem(place, p, 4, 0)
    assert all(np.array_equal(v, model.state_dict()[k].numpy()) for k, v in kept.items())
    # Other weights under the same name are noticed, and so is a missing file. (The common stem is built once.)
    save_file(build_model(plan(seed=5), 4).state_dict(), weights)
    again = p.model_copy(update={"quorum": 1})
    with pytest.raises(CipherwardError, match="is not the file that this hospital accepted"):
        stem_file.read_own_stem(place, again, 4, 0)
    weights.unlink()
    with pytest.raises(CipherwardError, match="starts from the plan's public weights"):
        stem_file.read_own_stem(place, again, 4, 0)


def test_a_key_that_did_not_seal_the_set_is_refused(tmp_path: Path) -> None:
    p = plan()
    [place, _] = seal_hospitals(tmp_path, p)
    place.key_path.unlink()
    write_key(place.key_path, SecretKey(bytes(range(100, 132))))
    with pytest.raises(CipherwardError, match="did not seal"):
        stem.hospital_coordinates(place, place.sealed("train"))
