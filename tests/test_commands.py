"""The commands as users type them, and what they say when something is wrong: one line, a hint, status 1."""

from __future__ import annotations

import errno
import json
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crypto.files import only_one
from parties.sealing.place import Place
from parties.sources import folder as folder_source
from parties.sources.phantom import Phantom
from parties.sources.picture import Undecodable, unreadable
from tests.support.study import command

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
    refused(here(PARTY, "keygen", tmp_path / "a", "--recipient", "foo"), "not an age recipient")
    assert not (tmp_path / "a").exists()
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
    # What is wrong with a setting, and what it was: a value that may be of several kinds is no "valid boolean".
    refused(here(PARTY, "seal", fresh, *words, "--block", 0), "block: Input should be", "it is 0")
    done = here(PARTY, "seal", fresh, *words, "--option", "mask=1.5")
    refused(done, "scheme_options.mask: Input should be true or false, a whole number", "it is 1.5")
    refused(here(PARTY, "seal", fresh, *words, "--option", "mask=tied"), "unknown option", "known: none")
    assert not (fresh / "party.yaml").exists()
    refused(here(PARTY, "keygen", tmp_path / ("n" * 300)), "is too long a name", "shorter")
    (fresh / "secret.key").chmod(0o644)
    done = here(PARTY, "seal", fresh, *words, "--image-size", 48, "--block", 8)
    refused(done, "can be read by others (mode 0644)", "chmod 600")


def test_an_undecodable_image_is_named_and_the_rest_goes_on(images, tmp_path, here):
    spoilt = tmp_path / "spoilt"
    shutil.copytree(images, spoilt)
    victims = sorted((spoilt / "level").glob("*.png"))[:3]
    for victim in victims:
        victim.write_bytes(b"not a picture")
    (spoilt / "level" / "two\nlines.png").write_bytes(b"not a picture")
    folder = tmp_path / "h"
    here(PARTY, "keygen", folder)
    done = here(PARTY, "seal", folder, "--images", spoilt, "--image-size", 48, "--block", 8)
    assert done.returncode == 0, done.stderr
    listed = (folder / "private" / "quarantine.txt").read_text().splitlines()
    names = sorted([*(v.name for v in victims), "two\\nlines.png"])  # each of them on one line
    assert sorted(Path(line).name for line in listed) == names
    assert all(v.name in done.stderr for v in victims)
    counted = [
        json.loads((folder / "sealed" / s / "manifest.json").read_text())["rows"]
        for s in ("train", "val", "test")
    ]
    assert sum(counted) == 93


def test_settings_that_do_not_fit_what_is_there_are_refused_and_not_kept(images, tmp_path, here):
    folder = tmp_path / "h"
    here(PARTY, "keygen", folder)
    words = ["--images", images, "--image-size", 48, "--block", 8]
    assert here(PARTY, "seal", folder, *words).returncode == 0
    kept = (folder / "party.yaml").read_bytes()
    refused(here(PARTY, "seal", folder, "--rgb"), "was sealed from other images, or with other settings")
    refused(here(PARTY, "seal", folder, "--scheme", "le", "--block", 4), "other settings")
    refused(here(PARTY, "seal", folder, "--scheme", "plain"), "seals nothing")
    refused(here(PARTY, "seal", folder, "--option", "mask=[1"), "is no value", "mask=independent")
    with only_one(folder):
        refused(here(PARTY, "seal", folder, "--images", images), "another command is at work")
    assert (folder / "party.yaml").read_bytes() == kept
    assert here(PARTY, "seal", folder).returncode == 0


def test_a_disk_that_fails_stops_a_sealing_which_then_goes_on(images, tmp_path, here, monkeypatch):
    folder, whole = tmp_path / "h", tmp_path / "whole"
    here(PARTY, "keygen", folder)
    shutil.copytree(folder, whole)
    words = ["--images", images, "--image-size", 48, "--block", 8]
    real, victim = folder_source.read_picture, sorted((images / "level").glob("*.png"))[5]

    def fails(path, size, channels):
        if path == victim:
            raise unreadable(path, OSError(errno.EIO, "Input/output error"))
        return real(path, size, channels)

    monkeypatch.setattr(folder_source, "read_picture", fails)
    refused(here(PARTY, "seal", folder, *words), f"cannot read {victim}: Input/output error", "goes on")
    assert not (folder / "private" / "quarantine.txt").exists()
    # And where not one image could be decoded, nothing is left that would pass for done.
    monkeypatch.setattr(folder_source, "read_picture", undecodable)
    refused(here(PARTY, "seal", whole, *words), "not one image for train could be read")
    monkeypatch.undo()
    for place in (folder, whole):
        done = here(PARTY, "seal", place)
        assert done.returncode == 0 and "96 images in 3 sets" in done.stdout, done.stderr
    one, other = (
        (p / "sealed" / "train" / "images-00000.safetensors").read_bytes() for p in (folder, whole)
    )
    assert one == other


def undecodable(path, size, channels):
    raise Undecodable(f"cannot decode {path}")


def test_plain_images_are_for_their_owner_alone(hospital, tmp_path, here):
    out = tmp_path / "plain"
    out.mkdir(mode=0o755)
    words = ["--key", hospital / "secret.key", "--out", out]
    assert here(PARTY, "unseal", hospital / "sealed" / "test", *words).returncode == 0
    assert {stat.S_IMODE(p.stat().st_mode) for p in out.iterdir()} == {0o700}
    (hospital / "private").chmod(0o755)
    assert Place.open(hospital).private.stat().st_mode & 0o077 == 0


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
