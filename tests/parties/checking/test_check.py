"""The check before sealing, and what `seal` refuses: each finding is planted, and clean images have none."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crypto.arrays import UInt8Array
from parties.checking.confounds import measure
from tests.support.command_runs import Party
from tests.support.dicom_files import dicom_file
from tests.support.paths import ROOT


def wave(seed: int, kind: int, size: tuple[int, int] = (32, 32)) -> UInt8Array:
    """Return a noisy wave on a border of black, uint8 [h, w]: its direction is the class."""
    rng, (y, x) = np.random.default_rng(seed), np.mgrid[: size[1], : size[0]]
    gray = 127 + 60 * np.sin((x if kind else y) / 3 + rng.uniform(0, 6)) + rng.normal(0, 15, x.shape)
    gray[:3], gray[-3:], gray[:, :3], gray[:, -3:] = 0, 0, 0, 0
    pixels: UInt8Array = gray.clip(0, 255).astype(np.uint8)
    return pixels


def fill(root: Path, count: int = 30, save: Any = None) -> Path:
    """Write `count` waves in each of two class folders; save(kind, i, gray, path) may write them in its own way."""
    for kind, name in enumerate("ab"):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            gray, path = wave(1000 * kind + i, kind), root / name / f"{i:03d}.png"
            if save is None or not save(kind, i, gray, path):
                Image.fromarray(gray).save(path)
    return root


def checked(party: Party, root: Path, *words: object) -> tuple[int, dict[str, Any]]:
    """Return the exit status and the JSON of `check`."""
    status, out, _ = party("check", root, "--json", *words)
    return status, json.loads(out)


def seal(party: Party, place: Path, root: Path, *words: object) -> tuple[int, str]:
    """Return the exit status and the messages of `seal`."""
    if not place.exists():
        party("keygen", place)
    status, _, err = party("seal", place, "--images", root, "--image-size", 32, "--block", 8, *words)
    return status, err


def test_clean_images_have_no_finding(tmp_path: Path, party: Party) -> None:
    root = fill(tmp_path / "images")
    status, report = checked(party, root)
    assert status == 0 and report["errors"] == report["warnings"] == []
    assert report["counts"]["train"] == {"a": 21, "b": 21} and report["found"] == report["images"] == 60
    assert (
        report["formats"] == {"PNG": 60}
        and report["sizes"] == {"32×32": 60}
        and report["modes"] == {"L": 60}
    )
    status, out, _ = party("check", root)
    assert status == 0 and "60 files: 60 of images (60 images), 0 ignored, 0 refused unread" in out
    assert "seal would take these images" in out
    assert not list(tmp_path.glob("*/party.yaml")) and not (root / "party.yaml").exists()


def test_counts_of_seal_add_up_and_every_reason_is_told(tmp_path: Path, party: Party) -> None:
    root = fill(tmp_path / "images")
    (root / "a" / "empty.png").touch()
    (root / "a" / "page.jpg").write_text("<html>404</html>")
    (root / "b" / "cut.png").write_bytes((root / "b" / "000.png").read_bytes()[:200])
    Image.fromarray(wave(1, 1).astype(np.uint16) * 16).save(root / "b" / "deep.png")
    (root / "b" / "notes.txt").touch()
    (root / "b" / "scan.dcm").write_bytes(bytes(200))
    status, report = checked(party, root)
    assert status == 0 and report["found"] == 66 and sum(report["ignored"].values()) == 1
    names = ["a/empty.png", "a/page.jpg", "b/cut.png", "b/deep.png", "b/scan.dcm"]
    assert sorted(report["refused_names"]) == names and sum(report["refused"].values()) == 5
    status, err = seal(party, tmp_path / "h", root)
    assert status == 0 and "64 images: 60 sealed, 4 left out" in err
    lines = (tmp_path / "h" / "private" / "quarantine.txt").read_text().splitlines()
    told = dict(line.split(": ", 1) for line in lines)
    assert told.keys() == report["refused_names"].keys()
    assert told["a/empty.png"] == "the file is empty" and "--window" in told["b/deep.png"]
    assert "is not" in told["a/page.jpg"] and told["b/cut.png"] and "no DICM" in told["b/scan.dcm"]


def test_what_was_mended_or_removed_leaves_the_list_when_its_set_is_sealed_anew(
    tmp_path: Path, party: Party
) -> None:
    root, listed = fill(tmp_path / "images"), tmp_path / "h" / "private" / "quarantine.txt"
    victims = [root / "a" / f"{row:03d}.png" for row in range(6)]
    kept = [path.read_bytes() for path in victims]
    for path in victims:
        path.write_bytes(b"not a picture")
    (root / "b" / "scan.dcm").write_bytes(bytes(200))
    (root / "b" / "gone.dcm").write_bytes(bytes(200))
    assert seal(party, tmp_path / "h", root)[0] == 0
    assert len(listed.read_text().splitlines()) == 8
    for path, content in zip(victims[:4], kept, strict=False):
        path.write_bytes(content)
    (root / "b" / "gone.dcm").unlink()
    shutil.rmtree(tmp_path / "h" / "sealed")
    assert seal(party, tmp_path / "h", root)[0] == 0
    names = sorted(line.partition(":")[0] for line in listed.read_text().splitlines())
    assert names == ["a/004.png", "a/005.png", "b/scan.dcm"]


def test_pictures_of_one_gray_value_are_counted_and_a_class_of_them_is_refused(
    tmp_path: Path, party: Party
) -> None:
    def write(kind: int, i: int, gray: UInt8Array, path: Path) -> bool:
        """Write every third picture of a class blank, or all but one of the last ones."""
        if is_blank := (i % 3 == 0 if not is_lost else bool(kind) and i != but):
            Image.new("L", (32, 32), 7 * (i % 30)).save(path)
        return is_blank

    is_lost, but = False, -1
    root = fill(tmp_path / "some", save=write)
    status, report = checked(party, root)
    (warning,) = (w for w in report["warnings"] if "one gray value" in w["message"])
    assert status == 0 and report["blank"] == 20
    assert warning["message"] == "20 of 60 pictures have one gray value, such as a/000.png"
    assert "empty masks" in warning["hint"]
    status, err = seal(party, tmp_path / "h", root)
    assert status == 0 and "20 of 60 pictures have one gray value" in err
    is_lost = True
    root = fill(tmp_path / "class", save=write)
    status, report = checked(party, root)
    (error,) = report["errors"]
    assert status == 1 and error["message"] == "every picture of b has one gray value, such as b/000.png"
    assert "empty masks" in error["hint"]
    status, err = seal(party, tmp_path / "g", root)
    assert status == 1 and "every picture of b has one gray value" in err
    assert not (tmp_path / "g" / "sealed").exists()
    # The quick look of `seal` takes samples; it refuses nothing before it has looked at all of the class.
    but = 100
    root = fill(tmp_path / "one", 240, save=write)
    status, err = seal(party, tmp_path / "f", root)
    assert status == 0 and "pictures have one gray value" in err


def test_pixels_that_are_not_square_change_the_ratio(tmp_path: Path, party: Party) -> None:
    def write(kind: int, i: int, gray: UInt8Array, path: Path) -> bool:
        if kind:
            dicom_file(path.with_suffix(".dcm"), gray, PixelSpacing=[4, 1])
        return bool(kind)

    root = fill(tmp_path / "images", save=write)
    _, report = checked(party, root)
    ratio = "30 of 60 images are not square; stretching changes their aspect ratio by up to 4.00"
    assert ratio in [w["message"] for w in report["warnings"]]
    _, report = checked(party, root, "--fit", "pad")
    assert not [w for w in report["warnings"] if "not square" in w["message"]]


def deep(kind: int, i: int, gray: UInt8Array, path: Path) -> bool:
    """Write the images of class b with 16 bits."""
    if kind:
        Image.fromarray(gray.astype(np.uint16) * 256).save(path)
    return bool(kind)


def test_a_class_that_loses_all_its_images_is_refused_before_sealing(tmp_path: Path, party: Party) -> None:
    root = fill(tmp_path / "images", save=deep)
    status, err = seal(party, tmp_path / "h", root)
    assert status == 1 and "no image of the class b in train can be used: 21 × more than 8 bits" in err
    assert not (tmp_path / "h" / "sealed").exists() and not (tmp_path / "h" / "party.yaml").exists()
    assert seal(party, tmp_path / "h", root, "--window", "full")[0] == 0


def test_a_class_whose_loss_shows_only_while_sealing_is_refused(
    tmp_path: Path, party: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = fill(tmp_path / "images", save=deep)
    monkeypatch.setattr("parties.cli.sealing.check_before_sealing", lambda *_: None)
    status, err = seal(party, tmp_path / "h", root)
    assert status == 1 and "no image of the class b in train could be read: 21 × more than 8 bits" in err
    assert not list((tmp_path / "h" / "sealed").rglob("*.*"))
    assert len((tmp_path / "h" / "private" / "quarantine.txt").read_text().splitlines()) == 21


def coloured(kind: int, i: int, gray: UInt8Array, path: Path) -> bool:
    """Write images that differ in hue."""
    pixels = np.stack([gray] * 3, 2).astype(int)
    pixels[..., 0] += 60 * (1 - 2 * kind)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return True


def test_colour_becomes_gray_only_if_it_is_stated(tmp_path: Path, party: Party) -> None:
    root = fill(tmp_path / "images", save=coloured)
    status, err = seal(party, tmp_path / "h", root)
    assert status == 1 and "60 of 60 images are in colour" in err and "--rgb keeps the colour" in err
    status, err = seal(party, tmp_path / "h", root, "--gray")
    assert status == 0 and "become gray, as stated" in err
    assert seal(party, tmp_path / "rgb", root, "--rgb")[0] == 0
    (tmp_path / "few").mkdir()
    few = fill(tmp_path / "few", save=lambda kind, i, gray, path: i == 0 and coloured(kind, i, gray, path))
    status, err = seal(party, tmp_path / "h2", few)
    assert status == 0 and "2 of 60 images are in colour and become gray" in err
    status, err = seal(party, tmp_path / "h3", fill(tmp_path / "gray"), "--rgb")
    assert status == 0 and "none of 60 images is in colour" in err


def test_transparency_needs_a_background(tmp_path: Path, party: Party) -> None:
    def clear(kind: int, i: int, gray: UInt8Array, path: Path) -> bool:
        if i == 7:
            Image.fromarray(np.stack([gray, gray // 2], 2)).save(path)
        return i == 7

    root = fill(tmp_path / "images", save=clear)
    status, err = seal(party, tmp_path / "h", root)
    assert status == 1 and "2 images are transparent" in err and "--background" in err
    assert seal(party, tmp_path / "h", root, "--background", 0)[0] == 0


def test_patients_and_copies_across_splits(tmp_path: Path, party: Party) -> None:
    root = tmp_path / "images"
    for split, first in (("train", 0), ("val", 100), ("test", 200)):
        for kind, name in enumerate("ab"):
            for patient in range(first, first + 6):
                for i in range(2):
                    path = root / split / name / f"p{name}{patient}" / f"{i}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(wave(1000 * kind + 10 * patient + i, kind)).save(path)
    assert checked(party, root)[1]["errors"] == []
    shutil.copytree(root / "train" / "a" / "pa0", root / "test" / "a" / "pa0")
    near = np.asarray(Image.open(root / "train" / "b" / "pb1" / "0.png")).astype(int) + 1
    Image.fromarray(near.clip(0, 255).astype(np.uint8)).save(root / "test" / "b" / "pb201" / "0.png")
    status, report = checked(party, root)
    assert status == 1 and report["crossing"] == 1 and len(report["exact"]) == 2
    assert ["train/b/pb1/0.png", "test/b/pb201/0.png"] in [sorted(p, reverse=True) for p in report["near"]]
    status, err = seal(party, tmp_path / "h", root)
    assert (
        status == 1
        and "1 patient has images in two splits" in err
        and not (tmp_path / "h" / "sealed").exists()
    )
    status, err = seal(party, tmp_path / "h", root, "--allow-leak")
    assert status == 0 and "allowed by allow_leak" in err and "2 files are in two splits" in err
    assert "0 pictures" not in err  # what there is none of is not named


def test_pictures_under_two_classes_are_told_in_whatever_split(tmp_path: Path, party: Party) -> None:
    """Only copies in two splits were looked for: one picture with two labels in train was not."""
    root = tmp_path / "images"
    for split, first in (("train", 0), ("val", 100), ("test", 200)):
        for kind, name in enumerate("ab"):
            for i in range(first, first + 12):
                path = root / split / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(wave(1000 * kind + i, kind)).save(path)
    for i in (3, 4):
        shutil.copy(root / "train" / "a" / f"{i}.png", root / "train" / "b" / f"{i}.png")
    near = np.asarray(Image.open(root / "train" / "a" / "5.png")).astype(int) + 1
    Image.fromarray(near.clip(0, 255).astype(np.uint8)).save(root / "train" / "b" / "5.png")
    _, report = checked(party, root)
    assert report["exact"] == report["near"] == []
    assert sorted(report["two_classes"]) == [[f"train/a/{i}.png", f"train/b/{i}.png"] for i in (3, 4, 5)]
    assert any(w["message"].startswith("3 pictures are under two classes") for w in report["warnings"])
    status, err = seal(party, tmp_path / "h", root)
    assert status == 0 and "warning: 2 pictures are under two classes, such as train/a/3.png" in err


def test_neighbouring_slices_of_one_patient_may_have_two_classes(tmp_path: Path, party: Party) -> None:
    root = tmp_path / "images"
    for patient in range(12):
        for kind, name in enumerate("ab"):
            for i in range(2):
                gray = wave(patient, 0).astype(int) + 2 * kind + i
                path = root / name / f"P{patient}" / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(gray.clip(0, 255).astype(np.uint8)).save(path)
    assert checked(party, root)[1]["two_classes"] == []
    shutil.copy(root / "a" / "P3" / "0.png", root / "b" / "P3" / "0.png")  # but not one picture
    assert checked(party, root)[1]["two_classes"] == [["a/P3/0.png", "b/P3/0.png"]]


def test_confounds_are_found_and_chance_is_not(tmp_path: Path, party: Party) -> None:
    def format_by_class(kind: int, i: int, gray: UInt8Array, path: Path) -> bool:
        if kind:
            Image.fromarray(np.pad(gray, ((0, 0), (0, 16)))).save(path.with_suffix(".bmp"))
        return bool(kind)

    _, report = checked(party, fill(tmp_path / "images", save=format_by_class))
    telling = {c["what"] for c in report["confounds"] if c["is_telling"]}
    assert {"file format", "size", "aspect ratio"} <= telling
    assert any(
        "stretching changes their aspect ratio by up to 1.50" in w["message"] for w in report["warnings"]
    )
    assert all(c["low"] <= c["score"] <= c["high"] for c in report["confounds"])
    rng = np.random.default_rng(0)
    alarms = {True: 0, False: 0}
    for _ in range(40):  # nothing to find
        labels, discrete = rng.integers(0, 3, 90), rng.integers(0, 4, (90, 1)).astype(float)
        for is_quick in alarms:
            for values in (rng.normal(size=(90, 2)), discrete):
                (score,) = measure({"x": values}, labels, np.arange(90), is_quick)
                alarms[is_quick] += score.is_telling
    assert alarms[True] <= 2 and alarms[False] <= 2


@pytest.mark.parametrize("is_quick", [True, False])
def test_confounds_are_not_learned_from_the_patient_itself(is_quick: bool) -> None:
    """Each patient has a border of its own: it tells the patient, and nothing about the class of others."""
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(60), 5)
    labels = rng.integers(0, 2, 60)[groups]
    own = rng.normal(size=(60, 3))[groups] + rng.normal(size=(300, 3)) / 100
    (score,) = measure({"border": own}, labels, groups, is_quick)
    assert not score.is_telling and score.score < 0.65
    ring = np.where(labels[:, None] == 1, 1.0, 3.0) * np.exp(1j * rng.uniform(0, 6.28, (300, 1)))
    values = (
        np.concatenate([ring.real, ring.imag], 1) + rng.normal(size=(300, 2)) / 10
    )  # no line divides them
    (score,) = measure({"border": values}, labels, groups, is_quick)
    assert score.is_telling and score.low > 0.85
    size = np.where(labels == 1, 512.0, 640.0)[:, None]
    (score,) = measure({"size": size}, labels, groups, is_quick)
    assert score.score == 1.0


def test_seal_imports_no_statistics(tmp_path: Path, party: Party) -> None:
    """Their imports took as long as sealing hundreds of images."""
    root, place = fill(tmp_path / "images", count=10), tmp_path / "h"
    party("keygen", place)
    words = ["seal", place, "--images", root, "--image-size", 32, "--block", 8]
    code = (
        "import sys; from parties.cli.app import main; sys.argv = ['cipherward-party', *sys.argv[1:]]\n"
        "try: main()\nexcept SystemExit as end: assert not end.code, end.code\n"
        "print(sorted(m for m in sys.modules if m in ('sklearn', 'scipy.stats', 'torch', 'pydicom', 'nibabel')))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert run.stdout.splitlines()[-1] == "[]", run.stdout


def test_a_stated_class_list_lets_a_hospital_without_a_class_join(tmp_path: Path, party: Party) -> None:
    root = fill(tmp_path / "images")
    (root / "normal").mkdir()
    status, err = seal(party, tmp_path / "h", root)
    assert status == 1 and "--classes a,b,normal" in err and not (tmp_path / "h" / "sealed").exists()
    status, err = seal(party, tmp_path / "h", root, "--classes", "a,b,normal")
    assert status == 0 and "no training image of the classes normal" in err
    manifest = json.loads((tmp_path / "h" / "sealed" / "train" / "manifest.json").read_text())
    assert manifest["classes"] == ["a", "b", "normal"]
    assert "# the classes of the consortium" in (tmp_path / "h" / "party.yaml").read_text()
    assert seal(party, tmp_path / "h", root)[0] == 0  # the second run changes nothing


def test_settings_of_reading_belong_to_the_sealed_set(tmp_path: Path, party: Party) -> None:
    root = fill(tmp_path / "images")
    assert seal(party, tmp_path / "h", root, "--fit", "pad")[0] == 0
    status, err = seal(party, tmp_path / "h", root, "--fit", "crop")
    assert status == 1 and "with other settings" in err
    assert "fit: pad" in (tmp_path / "h" / "party.yaml").read_text()


def test_a_medmnist_file_is_checked(tmp_path: Path, party: Party) -> None:
    def write(name: str, channels: int, shared: int = 0, **arrays: Any) -> Path:
        values: dict[str, Any] = {}
        for k, split in enumerate(("train", "val", "test")):
            images = np.stack([wave(0 if i < shared else 100 * k + i, i % 2) for i in range(12)])
            values[f"{split}_images"] = np.stack([images] * 3, 3) if channels == 3 else images
            values[f"{split}_labels"] = np.arange(12) % 2
        np.savez(tmp_path / name, **(values | arrays))
        return tmp_path / name

    status, report = checked(party, write("gray.npz", 1))
    assert status == 0 and report["errors"] == report["warnings"] == [] and report["images"] == 36
    assert report["counts"]["test"] == {"0": 6, "1": 6} and report["sizes"] == {"32×32": 36}
    _, report = checked(party, write("shared.npz", 1, shared=1))
    assert len(report["exact"]) == 2 and "2 pictures are in two splits" in report["warnings"][0]["message"]
    _, report = checked(party, write("two.npz", 1, shared=1, test_labels=(np.arange(12) + 1) % 2))
    assert len(report["two_classes"]) == 1 and "under two classes" in report["warnings"][1]["message"]
    status, report = checked(party, write("untested.npz", 1, test_labels=np.zeros(12, int)))
    assert status == 0 and [w["message"] for w in report["warnings"]] == ["no test image of the class 1"]
    flat = np.full((12, 32, 32), 9, np.uint8)
    status, report = checked(party, write("flat.npz", 1, val_images=flat, val_labels=np.arange(12) % 2))
    assert status == 0 and report["blank"] == 12
    assert "12 of 36 pictures have one gray value" in report["warnings"][0]["message"]
    status, report = checked(party, write("rgb.npz", 3))
    assert status == 1 and "would become gray" in report["errors"][0]["message"]
    assert checked(party, write("rgb.npz", 3), "--rgb")[0] == 0
    test_only = write("rgb.npz", 1, test_images=np.zeros((12, 32, 32, 3), np.uint8))
    status, report = checked(party, test_only)
    assert status == 1 and report["colour"] == 12 and "would become gray" in report["errors"][0]["message"]
    gap: dict[str, Any] = {f"{split}_labels": np.arange(12) % 2 * 2 for split in ("train", "val", "test")}
    assert party("keygen", tmp_path / "h")[0] == 0
    for path, message in (
        (test_only, "would become gray"),
        (write("gap.npz", 1, **gap), "no training image of the class 1"),
    ):
        assert checked(party, path)[0] == 1
        status, err = seal(party, tmp_path / "h", path)
        assert status == 1 and message in err and not (tmp_path / "h" / "sealed").exists()
    named = write("named.npz", 1, **gap, classes=np.array(["a", "b", "c"]))
    status, report = checked(party, named)
    assert status == 0 and "class b, which the file names" in report["warnings"][0]["message"]
    for arrays, message in (
        ({"train_images": np.zeros((12, 8, 8, 8), np.uint8)}, "images are uint8"),
        ({"test_labels": np.zeros((12, 14), int)}, "several labels an image"),
    ):
        status, _, err = party("check", write("bad.npz", 1, **arrays))
        assert status == 1 and message in err
    status, _, err = party("check", write("gray.npz", 1), "--window", "auto")
    assert status == 1 and "leave these settings out" in err


def test_a_split_without_images_is_refused_by_both(tmp_path: Path, party: Party) -> None:
    root = fill(tmp_path / "images", count=2)
    status, report = checked(party, root)
    assert status == 1 and any("too few images for a test split" in e["message"] for e in report["errors"])
    status, err = seal(party, tmp_path / "h", root)
    assert status == 1 and "too few images for a" in err


def test_what_may_be_a_lost_class_or_a_part_of_one_is_warned_of(tmp_path: Path, party: Party) -> None:
    """An archive beside the class folders, and a class of GIF files, were in the counts alone."""
    root = fill(tmp_path / "images")
    (root / "a" / "notes.txt").touch()
    (root / "a" / "one.zip").write_bytes(b"PK\3\4")
    assert checked(party, root)[1]["warnings"] == []  # one of 31 files
    (root / "c.zip").write_bytes(b"PK\3\4")
    (root / "d").symlink_to("nowhere")
    for i in range(10):
        Image.fromarray(wave(5000 + i, 1)).save(root / "b" / f"new-{i}.gif")
    said = [warning["message"] for warning in checked(party, root)[1]["warnings"]]
    assert said == [
        "c.zip is an archive, which is not unpacked, beside the class folders",
        "d is a link to nothing beside the class folders",
        "10 of 40 files in b are left out: 10 × a format that is not read (.gif)",
    ]
    assert said[0] in seal(party, tmp_path / "h", root)[1]
