"""A command's --out costs no other file: keys, identities and settings stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coordinator.exchange.plan import write_plan
from crypto.errors import CipherwardError
from crypto.sets.leaving import require_stays
from parties.sealing.place import Place
from tests.support.command_runs import Here
from tests.support.hospitals import plan
from tests.support.rotation import make_hospital

PARTY, COORDINATOR = "cipherward-party", "cipherward-coordinator"


def write_images(folder: Path) -> Path:
    """Write pictures of two classes, and return their folder."""
    for row in range(40):
        path = folder / "ab"[row % 2] / f"{row:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        gray = np.random.default_rng(row).integers(0, 256, (32, 32), dtype=np.uint8)
        Image.fromarray(gray).save(path)
    return folder


@pytest.fixture
def hospital(tmp_path: Path, here: Here) -> Path:
    """Return a hospital that has a key."""
    Place.from_settings(
        tmp_path / "h", {"party": "h", "images": str(tmp_path), "image_size": 32, "block": 8}
    ).save()
    assert here(PARTY, "keygen", tmp_path / "h").returncode == 0
    return tmp_path / "h"


def test_no_output_replaces_a_key(hospital: Path, tmp_path: Path, here: Here) -> None:
    key, folder = hospital / "secret.key", write_plan(plan(), tmp_path)
    before = key.read_bytes()
    calls: list[tuple[str, list[object]]] = [
        (PARTY, ["report", hospital, "scores.json", "--guesses", "guesses", "--out", key]),
        (PARTY, ["declare", hospital, "--out", key]),
        (PARTY, ["score", hospital, "guesses", "--out", key]),
        (PARTY, ["baseline", hospital, "--plan", folder, "--out", key]),
        (COORDINATOR, ["manifest", folder, "statement.json", "--out", key]),
        (COORDINATOR, ["classify", "query", "--model", "model.safetensors", "--out", key]),
    ]
    for program, words in calls:
        done = here(program, *words)
        assert done.returncode == 1, words
        assert "secret.key is there, and is no earlier output" in " ".join(done.stderr.split()), done.stderr
    for name in ("report.html", "report.json"):
        (tmp_path / name).write_bytes(before)
        words = ["report", "scores.json", "--guesses", "g", "--sealed", "s", "--out", tmp_path]
        done = here(COORDINATOR, *words)
        assert f"{name} is there, and is no earlier output" in " ".join(done.stderr.split()), done.stderr
        (tmp_path / name).unlink()
    assert key.read_bytes() == before


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("attacks: [known_pairs]", "known_pairs is not part of an audit"),
        ("attacks: [nonesuch]", "unknown attack 'nonesuch'"),
        ('images: "\\0x"', "is no path"),
        ('weights: "\\ud800"', "is no path"),
    ],
)
def test_a_plan_that_would_end_after_its_training_ends_before_it(
    tmp_path: Path, here: Here, line: str, message: str
) -> None:
    (tmp_path / "p.yaml").write_text(
        f"study: s\nsource: phantom\nimage_size: 32\nblock: 8\ncounts: [9, 9, 9]\n{line}\n"
    )
    done = here(COORDINATOR, "simulate", tmp_path / "p.yaml", "--out", tmp_path / "study")
    assert done.returncode == 1 and message in " ".join(done.stderr.split()), done.stderr
    assert not (tmp_path / "study").exists()
    done = here(COORDINATOR, "manifest", tmp_path / "p.yaml", "statement.json")
    assert done.returncode == 1 and message in " ".join(done.stderr.split()), done.stderr


def test_nothing_plain_and_no_key_is_written_where_things_leave_the_hospital(
    tmp_path: Path, here: Here
) -> None:
    hospital = make_hospital(tmp_path / "h").folder
    sealed, key = hospital / "sealed", hospital / "secret.key"
    (tmp_path / "outbox").mkdir()
    moved = tmp_path / "outbox" / "sealed"  # a share that is watched, behind a link
    moved.symlink_to(sealed)
    (tmp_path / "link").symlink_to(sealed / "train")
    scores = ["scores.json", "--guesses", "guesses"]
    images = tmp_path / "scans"
    images.mkdir()
    for inside in (sealed / "opened", sealed / "train" / "x", sealed, moved / "x", tmp_path / "link" / "x"):
        for words in (
            ["unseal", sealed / "train", "--key", key, "--out", inside],
            ["audit", images, "--out", inside],
            ["keygen", inside],
            ["share-key", key, inside / "copy.key", "--unprotected"],
            ["identity", inside / "identity.txt"],
        ):
            done = here(PARTY, *words)
            assert done.returncode == 1 and "which may leave the hospital" in " ".join(done.stderr.split())
    folder = make_hospital(
        tmp_path / "g", source="folder", images=str(write_images(tmp_path / "images"))
    ).folder
    done = here(PARTY, "report", folder, *scores, "--out", folder / "sealed" / "report.html")
    assert done.returncode == 1 and "which may leave the hospital" in " ".join(done.stderr.split())
    assert sorted(path.name for path in sealed.iterdir()) == ["test", "train", "val"]
    assert {path.name for path in sealed.rglob("*") if path.is_file()} == {
        "images-00000.safetensors",
        "manifest.json",
    }


def test_guesses_and_a_report_are_not_written_where_things_leave_the_hospital(
    tmp_path: Path, here: Here
) -> None:
    """They may show what attacks recovered of patients' images."""
    sealed = make_hospital(tmp_path / "h").folder / "sealed"
    before = sorted(sealed.rglob("*"))
    for inside in (sealed, sealed / "guesses", sealed / "train" / "x"):
        for words in (
            ["attack", sealed, "--out", inside, "--pools", "1"],
            ["report", "scores.json", "--guesses", "guesses", "--sealed", sealed, "--out", inside],
        ):
            done = here(COORDINATOR, *words)
            assert done.returncode == 1 and "which may leave the hospital" in " ".join(done.stderr.split())
    assert sorted(sealed.rglob("*")) == before


def test_a_folder_of_something_else_takes_no_output(tmp_path: Path, here: Here) -> None:
    """Folders of guesses, hospitals and keys among images were taken for classes by the next command."""
    images, hospital = write_images(tmp_path / "images"), make_hospital(tmp_path / "h").folder
    file = write_plan(plan(source="folder", images=str(images)), tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for out, message in ((images, "is in the folder of the images"), (hospital, "holds something else: ")):
        for program, *words in (
            (COORDINATOR, "simulate", file, "--out", out),
            (PARTY, "audit", images, "--out", out, "--image-size", "32", "--gray", "--block", "8"),
        ):
            expected = "holds audits of other images" if (program, out) == (PARTY, hospital) else message
            done = here(program, *words)
            assert done.returncode == 1 and expected in " ".join(done.stderr.split()), done.stderr
    done = here(COORDINATOR, "attack", hospital / "sealed", "--out", images, "--pools", "1")
    assert done.returncode == 1 and "images holds something else: a" in " ".join(done.stderr.split())
    done = here(
        PARTY, "audit", images, "--out", images / "x", "--image-size", "32", "--gray", "--block", "8"
    )
    assert done.returncode == 1 and "is in the folder of the images" in " ".join(done.stderr.split())
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("kept")
    done = here(
        PARTY, "audit", images, "--out", tmp_path / "notes", "--image-size", "32", "--gray", "--block", "8"
    )
    assert done.returncode == 1 and "notes holds something else: mine.txt" in " ".join(done.stderr.split())
    assert sorted({*tmp_path.rglob("*")} - {tmp_path / "notes", tmp_path / "notes" / "mine.txt"}) == before


def test_a_set_that_was_moved_keeps_plain_images_out_of_its_folder(tmp_path: Path, here: Here) -> None:
    hospital = make_hospital(tmp_path / "h").folder
    (tmp_path / "upload").mkdir()
    (hospital / "sealed").rename(tmp_path / "upload" / "sealed")
    key, away = hospital / "secret.key", tmp_path / "upload" / "sealed"
    for out in (away / "opened", away / "train" / "opened"):
        done = here(PARTY, "unseal", away / "test", "--key", key, "--out", out)
        assert done.returncode == 1 and "which may leave the hospital" in " ".join(done.stderr.split())
    done = here(PARTY, "unseal", away / "test", "--key", key, "--out", tmp_path / "upload" / "opened")
    assert done.returncode == 0, done.stderr


def test_a_folder_that_is_named_sealed_and_belongs_to_no_hospital_is_any_folder(tmp_path: Path) -> None:
    require_stays(tmp_path / "sealed" / "x", "nothing")
    require_stays(tmp_path / "sealed" / ".." / "x", "nothing")
    (tmp_path / "private").mkdir()
    require_stays(tmp_path / "sealed" / ".." / "x", "nothing")
    require_stays(
        tmp_path / "sealed-trial" / "hospital-a", "nothing"
    )  # what rotations make is called otherwise
    for name in ("sealed", "sealed-new", "sealed-0123456789abcdef"):
        with pytest.raises(CipherwardError, match="which may leave the hospital"):
            require_stays(tmp_path / name / "x", "it is plain")
