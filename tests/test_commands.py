"""The commands as users type them, and what they say when something is wrong: one line, a hint, status 1."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from study import command

from parties.sources.phantom import Phantom

PARTY, COORDINATOR = "cipherward-party", "cipherward-coordinator"


def refused(done, said: str, hint: str = "") -> None:
    """One clear line, a hint, exit status 1, no traceback, nothing on standard output."""
    assert done.returncode == 1, done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if ": error: " in line]
    assert len(errors) == 1 and said in errors[0], done.stderr
    assert hint in done.stderr.replace("\n", " "), done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """A class folder of phantom pictures: four classes, 24 images each, no split."""
    folder = tmp_path_factory.mktemp("images")
    source = Phantom(48, 1, 96, 0, "train")
    for row in range(len(source)):
        path = folder / source.classes[source.labels[row]] / f"patient-{row:03d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(source.read(row)[..., 0]).save(path)
    return folder


@pytest.fixture(scope="module")
def hospital(images, tmp_path_factory) -> Path:
    """A hospital that sealed a folder of its own, for an audit of two draws."""
    folder = tmp_path_factory.mktemp("own") / "hospital"
    made = command(PARTY, "keygen", folder)
    assert made.returncode == 0 and len(made.stdout.strip()) == 16, made.stderr
    words = ["--images", images, "--image-size", 48, "--block", 8, "--audit", 2]
    done = command(PARTY, "seal", folder, *words)
    assert done.returncode == 0, done.stderr
    return folder


def test_your_own_folder_in_five_commands(hospital, images, tmp_path, here):
    # keygen and seal ran in the fixture; the other three of the README's five:
    assert stat.S_IMODE((hospital / "secret.key").stat().st_mode) == 0o600
    guesses, scores = tmp_path / "guesses", tmp_path / "scores.json"
    words = ["--out", guesses, "--rows", 40, "--pools", "1,5,20"]
    done = command(COORDINATOR, "attack", hospital / "sealed", *words)
    assert done.returncode == 0, done.stderr
    done = command(PARTY, "score", hospital, guesses, "--rows", 40, "--out", scores)
    assert done.returncode == 0, done.stderr
    words = ["--guesses", guesses, "--sealed", hospital / "sealed" / "train", "--out", tmp_path / "report"]
    done = command(COORDINATOR, "report", scores, *words)
    assert "verdict" in done.stdout, done.stdout + done.stderr
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["training"] is None and report["pool"]["parties"] == 1
    assert done.returncode == (0 if report["valid"] else 1)
    done = command(PARTY, "report", hospital, scores, "--guesses", guesses)
    assert done.returncode == 0 and (hospital / "private" / "report.html").exists(), done.stderr
    # The scorer does not answer about other guesses of the same images.
    words = ["--out", tmp_path / "more", "--rows", 40, "--pools", "1", "--seed", 9]
    assert here(COORDINATOR, "attack", hospital / "sealed", *words).returncode == 0
    done = here(PARTY, "score", hospital, tmp_path / "more", "--rows", 40)
    refused(done, "were scored before", "an oracle")
    # The same guesses give the same answer.
    again = tmp_path / "again.json"
    assert here(PARTY, "score", hospital, guesses, "--rows", 40, "--out", again).returncode == 0
    assert again.read_bytes() == scores.read_bytes()
    # A guess that changed after it was frozen is not scored.
    victim = next(guesses.rglob("as_is-*.safetensors"))
    victim.write_bytes(victim.read_bytes()[:-1] + b"\x00")
    done = here(PARTY, "score", hospital, guesses, "--rows", 40)
    refused(done, "missing or altered", "frozen")


def test_seal_again_is_quick_and_changes_nothing(hospital):
    before = {p: p.read_bytes() for p in sorted((hospital / "sealed").rglob("*")) if p.is_file()}
    done = command(PARTY, "seal", hospital, "--audit", 2)
    assert done.returncode == 0 and "0 sets to seal" in done.stderr
    assert {p: p.read_bytes() for p in sorted((hospital / "sealed").rglob("*")) if p.is_file()} == before


def test_unseal_gives_the_images_back(hospital, images, tmp_path, here):
    words = ["--key", hospital / "secret.key", "--out", tmp_path / "plain"]
    done = here(PARTY, "unseal", hospital / "sealed" / "test", *words)
    assert done.returncode == 0, done.stderr
    opened = sorted(np.asarray(Image.open(p)).tobytes() for p in (tmp_path / "plain").rglob("*.png"))
    originals = {np.asarray(Image.open(p)).tobytes() for p in images.rglob("*.png")}
    assert len(opened) == 20 and set(opened) <= originals
    refused(here(PARTY, "unseal", hospital / "sealed" / "test", *words), "not an empty folder")


def test_inspect_needs_no_key_and_names_no_patient(hospital, here):
    done = here(PARTY, "inspect", hospital / "sealed" / "train", "--json")
    facts = json.loads(done.stdout)
    assert facts["images"] == 68 and facts["scheme"]["name"] == "block_pixel_shuffle"
    assert "patient" not in done.stdout
    assert here(PARTY, "inspect", hospital / "sealed" / "train").stdout.count("\n") == len(facts)


def test_verify_tells_wrong_keys_before_any_work_and_altered_shards_by_name(hospital, tmp_path, here):
    key = ["--key", hospital / "secret.key"]
    assert "intact" in here(PARTY, "verify", hospital / "sealed" / "train", *key).stdout
    other = tmp_path / "other"
    foreign = here(PARTY, "keygen", other).stdout.strip()
    copy = tmp_path / "copy"
    shutil.copytree(hospital / "sealed" / "train", copy)
    shard = copy / "images-00000.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    # The wrong key is told although the shard is altered too: the id is compared first.
    refused(here(PARTY, "verify", copy, "--key", other / "secret.key"), f"key {foreign} did not seal")
    refused(here(PARTY, "verify", copy, *key), "images-00000.safetensors is altered")
    refused(
        here(COORDINATOR, "attack", copy, "--out", tmp_path / "g"), "images-00000.safetensors is altered"
    )
    assert not (tmp_path / "g" / "guesses.json").exists()
    shard.write_bytes(data[:-7])
    refused(here(COORDINATOR, "attack", copy, "--out", tmp_path / "g2"), "truncated or altered")
    words = [*key, "--out", tmp_path / "plain"]
    refused(here(PARTY, "unseal", copy, *words), "truncated or altered")
    assert not (tmp_path / "plain").exists()


def test_keys_are_never_overwritten_and_are_shared_by_copy(tmp_path, here):
    first = here(PARTY, "keygen", tmp_path / "a").stdout
    before = (tmp_path / "a" / "secret.key").read_bytes()
    refused(here(PARTY, "keygen", tmp_path / "a"), "never overwritten")
    assert (tmp_path / "a" / "secret.key").read_bytes() == before
    (tmp_path / "b").mkdir()
    words = ["share-key", tmp_path / "a" / "secret.key", tmp_path / "b" / "secret.key"]
    refused(here(PARTY, *words), "recipient")
    done = here(PARTY, *words, "--unprotected")
    assert done.stdout == first and stat.S_IMODE((tmp_path / "b" / "secret.key").stat().st_mode) == 0o600


def test_what_seal_says_to_bad_input(images, tmp_path, here):
    fresh = tmp_path / "h"
    refused(here(PARTY, "seal", fresh), "no party.yaml in", "--images")
    refused(here(PARTY, "seal", fresh, "--images", images), "no key in", "cipherward-party keygen")
    here(PARTY, "keygen", fresh)
    words = ["--images", images]
    refused(here(PARTY, "seal", fresh, *words, "--scheme", "caesar"), "unknown scheme 'caesar'", "noise")
    refused(here(PARTY, "seal", fresh, *words, "--image-size", 50, "--block", 8), "do not divide")
    refused(here(PARTY, "seal", fresh, "--images", tmp_path / "absent"), "no image folder")
    (tmp_path / "flat").mkdir()
    refused(
        here(PARTY, "seal", fresh, "--images", tmp_path / "flat"),
        "at least two are needed",
        "one folder a class",
    )
    assert not (fresh / "sealed").exists()
    (fresh / "secret.key").chmod(0o644)
    done = here(PARTY, "seal", fresh, *words, "--image-size", 48, "--block", 8)
    refused(done, "can be read by others (mode 0644)", "chmod 600")


def test_an_undecodable_image_is_named_and_the_rest_goes_on(images, tmp_path, here):
    spoilt = tmp_path / "spoilt"
    shutil.copytree(images, spoilt)
    victims = sorted((spoilt / "level").glob("*.png"))[:3]
    for victim in victims:
        victim.write_bytes(b"not a picture")
    folder = tmp_path / "h"
    here(PARTY, "keygen", folder)
    done = here(PARTY, "seal", folder, "--images", spoilt, "--image-size", 48, "--block", 8)
    assert done.returncode == 0, done.stderr
    listed = (folder / "private" / "quarantine.txt").read_text().splitlines()
    assert sorted(Path(line).name for line in listed) == [v.name for v in victims]
    assert all(v.name in done.stderr for v in victims)
    counted = [
        json.loads((folder / "sealed" / s / "manifest.json").read_text())["rows"]
        for s in ("train", "val", "test")
    ]
    assert sum(counted) == 93


def test_what_attack_and_simulate_say_to_bad_input(hospital, tmp_path, here):
    sealed = hospital / "sealed" / "train"
    refused(here(COORDINATOR, "attack"), "no sealed set to attack")
    refused(here(COORDINATOR, "attack", tmp_path / "absent"), "no sealed set at")
    done = here(COORDINATOR, "attack", sealed, "--attacks", "magic", "--out", tmp_path / "g")
    refused(done, "unknown attack 'magic'", "pooled_key_recovery")
    refused(here(COORDINATOR, "attack", sealed, "--pools", "x", "--out", tmp_path / "g"), "are not numbers")
    refused(here(COORDINATOR, "simulate", tmp_path / "absent.yaml"), "no plan at")
    (tmp_path / "p.yaml").write_text("study: p\ncounts: [9, 9, 9]\nimage_size: 64\nblock: 8\nepochz: 1\n")
    refused(here(COORDINATOR, "simulate", tmp_path / "p.yaml"), "unknown key 'epochz'", "local_epochs")
    refused(
        here(COORDINATOR, "simulate", tmp_path / "p.yaml", "--until", "dawn"),
        "unknown step 'dawn'",
        "seal",
    )
    refused(here(COORDINATOR, "simulate", tmp_path / "p.yaml", "--set", "x"), "is not key=value")
    (tmp_path / "file").touch()
    refused(here(PARTY, "keygen", tmp_path / "file"), "")


def test_listings_and_help():
    done = command(COORDINATOR, "attack", "--list")
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("as_is", "leading_bit", "pooled_key_recovery", "T1"))
    assert "export FLWR_TELEMETRY_ENABLED=0" in command(COORDINATOR, "env").stdout
    for program in (PARTY, COORDINATOR):
        assert command(program, "--help").returncode == 0
