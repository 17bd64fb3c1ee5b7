"""The commands as users type them, and their errors: one line, a hint, exit status 1."""

from __future__ import annotations

import errno
import json
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crypto.arrays import UInt8Array
from crypto.files import folder_lock, write_atomic
from parties.sealing import unseal as unseal_module
from parties.sealing.place import Place
from parties.sources import folder as folder_source
from parties.sources.phantom import Phantom
from parties.sources.picture import UndecodableImageError, read_error, read_picture
from tests.support.command_runs import Here, run_here
from tests.support.study import command

PARTY, COORDINATOR = "cipherward-party", "cipherward-coordinator"


def check_refused(done: CompletedProcess[str], message: str, hint: str = "") -> None:
    """Check for one clear line, a hint, exit status 1, no traceback, and nothing on standard output."""
    assert done.returncode == 1, done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if ": error: " in line]
    assert len(errors) == 1 and message in errors[0], done.stderr
    assert hint in done.stderr.replace("\n", " "), done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a class folder of phantom pictures: four classes, 24 images each, no split."""
    folder: Path = tmp_path_factory.mktemp("images")
    source = Phantom(48, 1, 96, 0, "train")
    for row in range(len(source)):
        path = folder / source.classes[source.labels[row]] / f"patient-{row:03d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(source.read(row)[..., 0]).save(path)
    return folder


@pytest.fixture(scope="module")
def hospital(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a hospital that sealed the folder of images for an audit of two draws."""
    folder: Path = tmp_path_factory.mktemp("own") / "hospital"
    done = run_here(PARTY, "keygen", folder)
    assert done.returncode == 0 and len(done.stdout.strip()) == 16, done.stderr
    words = ["--images", images, "--image-size", 48, "--block", 8, "--audit", 2]
    done = run_here(PARTY, "seal", folder, *words)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.long
def test_your_own_folder_in_five_commands(hospital: Path, images: Path, tmp_path: Path, here: Here) -> None:
    # The fixture ran keygen and seal. These are the other three commands of the README. None has a process of its own
    # here: tests/test_study.py starts each of them in one.
    assert stat.S_IMODE((hospital / "secret.key").stat().st_mode) == 0o600
    guesses, scores = tmp_path / "guesses", tmp_path / "scores.json"
    # tests/test_blind_audit.py runs every attack that is run without --attacks.
    attacks = ["--attacks", "as_is,leading_bit,pooled_key_recovery"]
    words = ["--out", guesses, "--rows", 20, "--pools", "20", *attacks]
    done = here(COORDINATOR, "attack", hospital / "sealed", *words)
    assert done.returncode == 0, done.stderr
    done = here(PARTY, "score", hospital, guesses, "--rows", 20, "--out", scores)
    assert done.returncode == 0, done.stderr
    words = ["--guesses", guesses, "--sealed", hospital / "sealed", "--out", tmp_path / "report"]
    done = here(COORDINATOR, "report", scores, *words)
    assert "verdict" in done.stdout, done.stdout + done.stderr
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["training"] is None and report["pool"]["parties"] == 1
    assert done.returncode == (0 if report["valid"] else 1)
    done = here(PARTY, "report", hospital, scores, "--guesses", guesses)
    assert done.returncode == 0 and (hospital / "private" / "report.html").exists(), done.stderr
    # Sets of another audit are not said to be missing.
    shutil.copytree(hospital / "sealed" / "val", tmp_path / "others" / "val")
    words = ["--guesses", guesses, "--sealed", tmp_path / "others", "--out", tmp_path / "none"]
    done = here(COORDINATOR, "report", scores, *words)
    check_refused(done, "none of the sealed sets in", "that was attacked: --sealed")
    # The scorer refuses other guesses about the same images, of one attack, too.
    words = ["--out", tmp_path / "more", "--rows", 20, "--pools", "1", "--seed", 9, "--attacks", "as_is"]
    assert here(COORDINATOR, "attack", hospital / "sealed", *words).returncode == 0
    done = here(PARTY, "score", hospital, tmp_path / "more", "--rows", 20)
    check_refused(done, "were scored before", "an oracle")
    # The same guesses give the same answer.
    again = tmp_path / "again.json"
    assert here(PARTY, "score", hospital, guesses, "--rows", 20, "--out", again).returncode == 0
    assert again.read_bytes() == scores.read_bytes()
    # A guess that changed after it was frozen is not scored.
    victim = next(guesses.rglob("as_is-*.safetensors"))
    before = victim.read_bytes()
    victim.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    done = here(PARTY, "score", hospital, guesses, "--rows", 20)
    check_refused(done, "missing or altered", "frozen")


def test_seal_again_is_quick_and_changes_nothing(hospital: Path, here: Here) -> None:
    before = {p: p.read_bytes() for p in sorted((hospital / "sealed").rglob("*")) if p.is_file()}
    done = here(PARTY, "seal", hospital, "--audit", 2)
    assert done.returncode == 0 and "0 sets to seal" in done.stderr
    assert {p: p.read_bytes() for p in sorted((hospital / "sealed").rglob("*")) if p.is_file()} == before


def test_sealing_for_an_audit_needs_enough_images(images: Path, tmp_path: Path, here: Here) -> None:
    # Otherwise the cloud would find out after all sets were sealed and sent, and a simulation after its training.
    hospital, few = tmp_path / "hospital", tmp_path / "few"
    for path in [path for i, path in enumerate(sorted(images.rglob("*.png"))) if i % 5 < 2]:
        target = few / path.relative_to(images)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    assert here(PARTY, "keygen", hospital).returncode == 0
    words = ["--images", few, "--image-size", 48, "--block", 8]
    done = here(PARTY, "seal", hospital, *words, "--audit", 2)
    check_refused(done, "too few to attack some and audit others", "at least 32 images")
    assert not (hospital / "sealed").exists() and not (hospital / "party.yaml").exists()
    assert here(PARTY, "seal", hospital, *words).returncode == 0


def test_unseal_gives_the_images_back(hospital: Path, images: Path, tmp_path: Path, here: Here) -> None:
    words = ["--key", hospital / "secret.key", "--out", tmp_path / "plain"]
    done = here(PARTY, "unseal", hospital / "sealed" / "test", *words)
    assert done.returncode == 0, done.stderr
    opened = sorted(np.asarray(Image.open(p)).tobytes() for p in (tmp_path / "plain").rglob("*.png"))
    originals = {np.asarray(Image.open(p)).tobytes() for p in images.rglob("*.png")}
    assert len(opened) == 20 and set(opened) <= originals
    check_refused(here(PARTY, "unseal", hospital / "sealed" / "test", *words), "is not an empty folder")


def test_a_second_unsealing_into_a_folder_touches_nothing(
    hospital: Path, tmp_path: Path, here: Here
) -> None:
    """It dropped the temporary files of the first, and said that the folder was not there."""
    out = tmp_path / "out"
    words = ["unseal", hospital / "sealed" / "test", "--key", hospital / "secret.key", "--out", out]
    out.mkdir()
    with folder_lock(out):
        check_refused(here(PARTY, *words), "another command is at work in")
    assert [path.name for path in out.iterdir()] == [".lock"]
    assert here(PARTY, *words).returncode == 0
    assert not any(path.name.startswith(".") for path in out.iterdir()) and len([*out.rglob("*.png")]) == 20


def test_an_unsealing_stopped_by_a_full_disk_or_a_kill_goes_on(
    hospital: Path, tmp_path: Path, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, others = tmp_path / "plain", hospital / "sealed" / "val"
    words = ["unseal", hospital / "sealed" / "test", "--key", hospital / "secret.key", "--out", out]
    written: list[Path] = []

    def fill_the_disk(path: Path, fill: Callable[[Path], None]) -> None:
        def full(_: Path) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        written.append(path)
        write_atomic(path, full if len(written) == 8 else fill)

    monkeypatch.setattr(unseal_module, "write_atomic", fill_the_disk)
    check_refused(here(PARTY, *words), "the disk is full", "run the same command again")
    monkeypatch.undo()
    (written[0].parent / f".{written[0].name}.1.tmp").write_bytes(b"half")  # as a kill leaves it
    wrong = ["unseal", others, *words[2:]]
    check_refused(here(PARTY, *wrong), "is not an empty folder")
    done = here(PARTY, *words)
    assert done.returncode == 0 and len(list(out.rglob("*.png"))) == 20, done.stderr
    assert not [path for path in out.rglob("*") if path.is_file() and path.name.startswith(".")]
    check_refused(here(PARTY, *words), "is not an empty folder")


def test_inspect_needs_no_key_and_names_no_patient(hospital: Path, here: Here) -> None:
    done = here(PARTY, "inspect", hospital / "sealed" / "train", "--json")
    facts = json.loads(done.stdout)
    assert facts["images"] == 68 and facts["scheme"]["name"] == "block_pixel_shuffle"
    assert "patient" not in done.stdout
    assert here(PARTY, "inspect", hospital / "sealed" / "train").stdout.count("\n") == len(facts)


def test_verify_reports_wrong_keys_first_and_names_altered_shards(
    hospital: Path, tmp_path: Path, here: Here
) -> None:
    key = ["--key", hospital / "secret.key"]
    assert "intact" in here(PARTY, "verify", hospital / "sealed" / "train", *key).stdout
    other = tmp_path / "other"
    foreign = here(PARTY, "keygen", other).stdout.strip()
    copy = tmp_path / "copy" / "train"
    shutil.copytree(hospital / "sealed" / "train", copy)
    shard = copy / "images-00000.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    # The error names the wrong key although the shard is altered too: the id is compared first.
    check_refused(here(PARTY, "verify", copy, "--key", other / "secret.key"), f"key {foreign} did not seal")
    check_refused(here(PARTY, "verify", copy, *key), "images-00000.safetensors is altered")
    check_refused(
        here(COORDINATOR, "attack", copy, "--out", tmp_path / "g"), "images-00000.safetensors is altered"
    )
    assert not (tmp_path / "g" / "guesses.json").exists()
    shard.write_bytes(data[:-7])
    check_refused(here(COORDINATOR, "attack", copy, "--out", tmp_path / "g2"), "truncated or altered")
    words = [*key, "--out", tmp_path / "plain"]
    check_refused(here(PARTY, "unseal", copy, *words), "truncated or altered")
    assert not (tmp_path / "plain").exists()


def test_keys_are_never_overwritten_and_are_shared_by_copy(tmp_path: Path, here: Here) -> None:
    check_refused(here(PARTY, "keygen", tmp_path / "a", "--recipient", "foo"), "not an age recipient")
    assert not (tmp_path / "a").exists()
    first = here(PARTY, "keygen", tmp_path / "a").stdout
    before = (tmp_path / "a" / "secret.key").read_bytes()
    check_refused(here(PARTY, "keygen", tmp_path / "a"), "never overwritten")
    assert (tmp_path / "a" / "secret.key").read_bytes() == before
    (tmp_path / "b").mkdir()
    words = ["share-key", tmp_path / "a" / "secret.key", tmp_path / "b" / "secret.key"]
    check_refused(here(PARTY, *words), "recipient")
    done = here(PARTY, *words, "--unprotected")
    assert done.stdout == first and stat.S_IMODE((tmp_path / "b" / "secret.key").stat().st_mode) == 0o600


def test_a_wrong_option_is_not_laid_on_a_file(images: Path, tmp_path: Path, here: Here) -> None:
    for words, key in (
        (("check", images), "fit"),
        (("audit", images, "--out", tmp_path / "a"), "key_scope"),
    ):
        done = here(PARTY, *words, f"--{key.replace('_', '-')}", "strech")
        check_refused(done, f"the hospital's settings: {key}: Input should be", "it is 'strech'")
        assert "party.yaml" not in done.stderr


def test_no_key_is_made_among_images(images: Path, tmp_path: Path, here: Here) -> None:
    flat, beside = tmp_path / "flat", tmp_path / "beside"
    shutil.copytree(next(folder for folder in images.iterdir() if folder.is_dir()), flat)
    for folder in (images, flat):
        check_refused(
            here(PARTY, "keygen", folder), "is a folder of images", "cipherward-party keygen hospital"
        )
        assert not (folder / "secret.key").exists()
    shutil.copytree(images, beside / "images")
    assert here(PARTY, "keygen", beside).returncode == 0


def test_no_key_is_made_where_the_one_is_lost_that_sealed(
    hospital: Path, tmp_path: Path, here: Here
) -> None:
    """A new key was made in silence, and `verify` then called the sealed sets another key's."""
    lost = tmp_path / "lost"
    shutil.copytree(hospital, lost)
    (lost / "secret.key").unlink()
    check_refused(here(PARTY, "seal", lost), "no key file at", "restore it from a backup")
    check_refused(here(PARTY, "keygen", lost), "is gone, which sealed the images", "from your backup")
    assert not (lost / "secret.key").exists()


def test_patients_that_were_taken_for_classes_are_told(images: Path, tmp_path: Path, here: Here) -> None:
    some_class = next(folder for folder in images.iterdir() if folder.is_dir())
    for number, path in enumerate(sorted(some_class.iterdir())):
        folder = tmp_path / "glioma" / f"patient-{number // 2}"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder)
    done = here(PARTY, "audit", tmp_path / "glioma", "--image-size", "32")
    check_refused(
        done, "12 folders were taken for classes, of 24 images in all", "one folder for each class"
    )


def test_another_folder_than_a_hospital_s_is_told_with_the_right_one(
    hospital: Path, tmp_path: Path, here: Here
) -> None:
    missing, keyed = tmp_path / "hospitl", tmp_path / "keyed"
    check_refused(
        here(PARTY, "privacy", missing), "there is no such folder", "name the hospital's folder; to make"
    )
    here(PARTY, "keygen", keyed)
    check_refused(here(PARTY, "privacy", keyed), "no party.yaml in", "seal the hospital's images first")
    for inner in ("sealed", "sealed/train"):
        check_refused(
            here(PARTY, "log", hospital / inner),
            "no party.yaml in",
            f"hospital's folder, which is {hospital}",
        )


def test_seal_refuses_bad_input(images: Path, tmp_path: Path, here: Here) -> None:
    fresh = tmp_path / "h"
    check_refused(here(PARTY, "seal", fresh), "no party.yaml in", "--images")
    check_refused(here(PARTY, "seal", fresh, "--images", images), "no key in", "cipherward-party keygen")
    check_refused(
        here(PARTY, "seal", fresh, "--images", images), "no key in", f"install -m 600 FILE {fresh}"
    )
    here(PARTY, "keygen", fresh)
    words = ["--images", images]
    check_refused(
        here(PARTY, "seal", fresh, *words, "--scheme", "caesar"), "unknown scheme 'caesar'", "noise"
    )
    check_refused(here(PARTY, "seal", fresh, *words, "--image-size", 50, "--block", 8), "do not divide")
    check_refused(here(PARTY, "seal", fresh, "--images", tmp_path / "absent"), "no image folder")
    (tmp_path / "flat").mkdir()
    check_refused(
        here(PARTY, "seal", fresh, "--images", tmp_path / "flat"),
        "at least two are needed",
        "one folder for each class",
    )
    assert not (fresh / "sealed").exists()
    # The error names the setting, the kinds of value it takes, and the value it got.
    check_refused(here(PARTY, "seal", fresh, *words, "--block", 0), "block: Input should be", "it is 0")
    done = here(PARTY, "seal", fresh, *words, "--option", "mask=1.5")
    check_refused(done, "scheme_options.mask: Input should be true or false, a whole number", "it is 1.5")
    check_refused(
        here(PARTY, "seal", fresh, *words, "--option", "mask=tied"), "unknown option", "known: none"
    )
    assert not (fresh / "party.yaml").exists()
    check_refused(here(PARTY, "keygen", tmp_path / ("n" * 300)), "is too long a name", "shorter")
    (fresh / "secret.key").chmod(0o644)
    done = here(PARTY, "seal", fresh, *words, "--image-size", 48, "--block", 8)
    check_refused(done, "can be read by others (mode 0644)", "chmod 600")


def test_an_undecodable_image_is_named_and_the_others_are_sealed(
    images: Path, tmp_path: Path, here: Here
) -> None:
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
    lines = (folder / "private" / "quarantine.txt").read_text().splitlines()
    names = sorted([*(v.name for v in victims), "two\\nlines.png"])  # one line for each
    reason = ": its content is not DICOM, NIfTI, PNG, JPEG, TIFF, BMP or WEBP"
    assert sorted(Path(line.removesuffix(reason)).name for line in lines) == names
    assert all(line.endswith(reason) for line in lines)
    assert all(v.name in done.stderr for v in victims)
    counts = [
        json.loads((folder / "sealed" / s / "manifest.json").read_text())["rows"]
        for s in ("train", "val", "test")
    ]
    assert sum(counts) == 93


def test_settings_that_contradict_the_sealed_sets_are_refused_and_not_saved(
    images: Path, tmp_path: Path, here: Here
) -> None:
    folder = tmp_path / "h"
    here(PARTY, "keygen", folder)
    words = ["--images", images, "--image-size", 48, "--block", 8]
    assert here(PARTY, "seal", folder, *words).returncode == 0
    saved = (folder / "party.yaml").read_bytes()
    check_refused(
        here(PARTY, "seal", folder, "--rgb"), "was sealed from other images, or with other settings"
    )
    check_refused(here(PARTY, "seal", folder, "--scheme", "le", "--block", 4), "other settings")
    check_refused(here(PARTY, "seal", folder, "--scheme", "plain"), "seals nothing")
    check_refused(here(PARTY, "seal", folder, "--option", "mask=[1"), "is not a value", "mask=independent")
    with folder_lock(folder):
        check_refused(here(PARTY, "seal", folder, "--images", images), "another command is at work")
    assert (folder / "party.yaml").read_bytes() == saved
    assert here(PARTY, "seal", folder).returncode == 0


def test_a_sealing_stopped_by_a_disk_error_can_be_continued(
    images: Path, tmp_path: Path, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, whole = tmp_path / "h", tmp_path / "whole"
    here(PARTY, "keygen", folder)
    shutil.copytree(folder, whole)
    words = ["--images", images, "--image-size", 48, "--block", 8]
    victim = sorted((images / "level").glob("*.png"))[5]

    def failing_read(path: Path, *how: Any) -> UInt8Array:
        if path == victim:
            raise read_error(path, OSError(errno.EIO, "Input/output error"))
        return read_picture(path, *how)

    monkeypatch.setattr(folder_source, "read_picture", failing_read)
    check_refused(
        here(PARTY, "seal", folder, *words), f"cannot read {victim}: Input/output error", "continues"
    )
    assert not (folder / "private" / "quarantine.txt").exists()
    # If no image can be decoded, nothing is left that looks like a finished set.
    monkeypatch.setattr(folder_source, "read_picture", undecodable)
    check_refused(here(PARTY, "seal", whole, *words), "not one image for train could be read")
    monkeypatch.undo()
    for place in (folder, whole):
        done = here(PARTY, "seal", place)
        assert done.returncode == 0 and "96 images in 3 sets" in done.stdout, done.stderr
    one, other = (
        (p / "sealed" / "train" / "images-00000.safetensors").read_bytes() for p in (folder, whole)
    )
    assert one == other


def undecodable(path: Path, *_: Any) -> UInt8Array:
    raise UndecodableImageError(f"cannot decode {path}")


def test_only_the_owner_can_read_plain_images(hospital: Path, tmp_path: Path, here: Here) -> None:
    out = tmp_path / "plain"
    out.mkdir(mode=0o755)
    words = ["--key", hospital / "secret.key", "--out", out]
    assert here(PARTY, "unseal", hospital / "sealed" / "test", *words).returncode == 0
    assert {stat.S_IMODE(p.stat().st_mode) for p in out.iterdir()} == {0o700}
    (hospital / "private").chmod(0o755)
    assert Place.open(hospital).private.stat().st_mode & 0o077 == 0


def test_attack_and_simulate_refuse_bad_input(hospital: Path, tmp_path: Path, here: Here) -> None:
    sealed = hospital / "sealed" / "train"
    check_refused(here(COORDINATOR, "attack"), "no sealed set to attack")
    check_refused(here(COORDINATOR, "attack", tmp_path / "absent"), "no sealed set at")
    done = here(COORDINATOR, "attack", sealed, "--attacks", "magic", "--out", tmp_path / "g")
    check_refused(done, "unknown attack 'magic'", "pooled_key_recovery")
    check_refused(
        here(COORDINATOR, "attack", sealed, "--pools", "x", "--out", tmp_path / "g"), "are not numbers"
    )
    check_refused(here(COORDINATOR, "simulate", tmp_path / "absent.yaml"), "no plan at")
    (tmp_path / "p.yaml").write_text("study: p\ncounts: [9, 9, 9]\nimage_size: 64\nblock: 8\nepochz: 1\n")
    check_refused(
        here(COORDINATOR, "simulate", tmp_path / "p.yaml"), "unknown key 'epochz'", "local_epochs"
    )
    check_refused(
        here(COORDINATOR, "simulate", tmp_path / "p.yaml", "--until", "dawn"),
        "unknown step 'dawn'",
        "seal",
    )
    check_refused(here(COORDINATOR, "simulate", tmp_path / "p.yaml", "--set", "x"), "is not key=value")
    (tmp_path / "file").touch()
    check_refused(here(PARTY, "keygen", tmp_path / "file"), "")


def test_listings_and_help() -> None:
    done = command(COORDINATOR, "attack", "--list")
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("as_is", "leading_bit", "pooled_key_recovery", "T1"))
    assert "export FLWR_TELEMETRY_ENABLED=0" in command(COORDINATOR, "env").stdout
    for program in (PARTY, COORDINATOR):
        assert command(program, "--help").returncode == 0
