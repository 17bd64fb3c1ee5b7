"""Which images are of one patient, where folders, DICOM tags and a label file each say something about it."""

from __future__ import annotations

import gzip
import json
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from crypto.errors import CipherwardError
from parties.sources.catalog import Selection
from parties.sources.folder import Folder
from parties.sources.labels import read_labels
from parties.sources.layout import read_layout
from parties.sources.picture import read_picture
from parties.sources.reading import Reading
from parties.sources.walk import look
from tests.support.command_runs import Party
from tests.support.dicom_files import dicom_file, scan
from tests.support.files import picture


def visits(root: Path, tags: Callable[[int, int], dict[str, str]]) -> Path:
    """Write two classes of ten patient folders with four files each, with tags(patient, visit); {} for a picture."""
    for kind, name in enumerate("ab"):
        for i in range(40):
            path, own = root / name / f"{name}{i // 4}" / f"{i % 4}", tags(10 * kind + i // 4, i % 4)
            if own:
                dicom_file(path, scan(i, kind=kind), **own, WindowCenter=0, WindowWidth=600)
            else:
                picture(path.with_suffix(".png"), seed=100 * kind + i)
    return root


def splits_of_folders(root: Path, groups: str = "folder") -> dict[str, set[str]]:
    """Return the splits in which each patient folder has images."""
    folder = Folder(root, 32, 1, 0, "train", selection=Selection(groups=groups))
    where: dict[str, set[str]] = {}
    for item, split in zip(folder.catalog.items, folder.splits, strict=True):
        where.setdefault(item.path.split("/")[1], set()).add(split)
    return where


def test_a_study_does_not_go_before_the_patient_s_folder(tmp_path: Path, party: Party) -> None:
    """De-identified files of one patient have a study for each visit."""
    root = visits(tmp_path / "x", lambda p, v: {"PatientID": "", "StudyInstanceUID": f"1.2.{p}.{v}"})
    assert [len(splits) for splits in splits_of_folders(root).values()] == [1] * 20
    status, out, _ = party("check", root, "--json")
    assert status == 0 and sum(json.loads(out)["patients"].values()) == 20
    # Without folders a study stands for a patient in the splits, and is not counted as one.
    status, out, _ = party("check", root, "--json", "--groups", "tags")
    report = json.loads(out)
    assert status == 0 and report["patients"] == {}
    assert any("80 DICOM files name no patient" in note for note in report["notes"])


def test_a_folder_and_a_patient_id_join_their_images(tmp_path: Path) -> None:
    """Half of a patient's files are pictures without tags; two folders hold one patient."""
    root = visits(tmp_path / "x", lambda p, v: {"PatientID": f"P{p // 2}"} if v % 2 else {})
    where = splits_of_folders(root)
    assert [len(splits) for splits in where.values()] == [1] * 20
    assert all(where[f"{name}{i}"] == where[f"{name}{i + 1}"] for name in "ab" for i in range(0, 10, 2))


def test_a_patient_id_in_other_spellings_is_one_patient(tmp_path: Path) -> None:
    """Two machines write one PatientID in two ways."""

    def spelled(p: int, v: int) -> dict[str, str]:
        return {"PatientID": (f"p 00{p}", f"P  00{p}", f" P 00{p} ", f"P 00{p}")[v]}

    where = splits_of_folders(visits(tmp_path / "x", spelled), groups="tags")
    assert [len(splits) for splits in where.values()] == [1] * 20
    numbers = visits(tmp_path / "y", lambda p, v: {"PatientID": f"{p + 1:0{1 + v}d}"})
    assert [len(splits) for splits in splits_of_folders(numbers, groups="tags").values()] == [1] * 20


def test_a_patient_id_without_its_issuer_is_of_each_patient_that_has_it(tmp_path: Path) -> None:
    def issued(p: int, v: int) -> dict[str, str]:
        return {"PatientID": f"P{p // 2}", "IssuerOfPatientID": "" if p < 4 and v == 0 else f"H{p % 2}"}

    groups = defaultdict[str, set[str]](set)
    for item in read_layout(visits(tmp_path / "x", issued), Selection(groups="tags")).items:
        groups[item.path.split("/")[1]].add(item.group)
    assert all(len(found) == 1 for found in groups.values())
    assert groups["a0"] == groups["a1"] and groups["a2"] == groups["a3"]  # a file leaves the issuer out
    assert (
        len(set.union(*groups.values())) == 18
    )  # the others are two patients where two issuers gave one number


def test_one_patient_id_for_all_files_is_named(tmp_path: Path, party: Party) -> None:
    root = visits(tmp_path / "x", lambda p, v: {"PatientID": "ANONYMOUS"})
    status, out, _ = party("check", root)
    text = " ".join(out.split())
    assert status == 1 and "too few images for a test split: 80 files name one patient" in text
    assert "--groups REGEX" in text
    assert [len(s) for s in splits_of_folders(root, groups="^([^/]+)/").values()] == [1] * 20


def test_folders_of_several_patients_are_named_and_tags_alone_can_be_stated(tmp_path: Path) -> None:
    for kind, name in enumerate("ab"):
        for i in range(24):
            path = tmp_path / name / f"T{i % 2}" / f"{i}.dcm"
            dicom_file(
                path, scan(i, kind=kind), PatientID=f"{name}{i // 2}", WindowCenter=0, WindowWidth=600
            )
    catalog = read_layout(tmp_path, Selection())
    assert len({item.group for item in catalog.items}) == 1
    assert any("2 of these folders hold files of several PatientIDs" in note for note in catalog.notes)
    assert len({item.group for item in read_layout(tmp_path, Selection(groups="tags")).items}) == 24


def test_a_dicom_file_under_a_picture_s_name_keeps_its_patient(tmp_path: Path, party: Party) -> None:
    """Viewers export DICOM files under such names: their patients were in train and in test."""
    for kind, name in enumerate("ab"):
        for i in range(40):
            path = tmp_path / "x" / name / f"{i:02d}{('.png', '.JPG', '.tif', '')[i % 4]}"
            tags = {"PatientID": f"{name}{i // 4}", "Modality": "US", "WindowCenter": 0, "WindowWidth": 600}
            dicom_file(path, scan(i, kind=kind), **tags)
    status, out, _ = party("check", tmp_path / "x", "--json")
    report = json.loads(out)
    assert status == 0 and sum(report["patients"].values()) == 20 and report["formats"] == {"DICOM": 80}
    assert any(
        "80 DICOM files are of a kind whose pixels often hold names" in w["message"]
        for w in report["warnings"]
    )


def test_what_a_file_holds_is_told_by_its_content(tmp_path: Path) -> None:
    names = {
        "volume.png": "NIfTI",
        "brain": "NIfTI",
        "brain.img": "NIfTI",
        "packed.jpg": "NIfTI",
        "p.dcm": "picture",
    }
    image = nibabel.Nifti1Image(np.zeros((8, 8, 5), np.uint8), np.eye(4))  # type: ignore[no-untyped-call]
    nibabel.save(image, tmp_path / "v.nii")
    picture(tmp_path / "p.png")
    data = {"NIfTI": (tmp_path / "v.nii").read_bytes(), "picture": (tmp_path / "p.png").read_bytes()}
    for name, kind in names.items():
        content = gzip.compress(data[kind]) if name == "packed.jpg" else data[kind]
        (tmp_path / name).write_bytes(content)
        parts = look(tmp_path, name, Reading())
        assert (parts.kind, parts.count) == (kind, 5 if kind == "NIfTI" else 1), name
        assert read_picture(tmp_path / name, 8, 1, part=4 if kind == "NIfTI" else -1).shape == (8, 8, 1)
    (tmp_path / "text.png").write_bytes(gzip.compress(b"text" * 1000))
    assert look(tmp_path, "text.png", Reading()).kind == "picture"  # refused when it is read
    (tmp_path / "text.gz").write_bytes(gzip.compress(b"text" * 1000))
    with pytest.raises(CipherwardError, match=r"an archive, which is not unpacked \(\.gz\)"):
        look(tmp_path, "text.gz", Reading())


def test_a_row_without_a_patient_is_of_the_patient_whose_tags_it_has(tmp_path: Path) -> None:
    rows = ["path,label,patient"]
    for i in range(12):
        who = {"PatientID": f"P{i // 3}" if i < 9 else "", "StudyInstanceUID": f"1.2.{i // 3}"}
        dicom_file(tmp_path / "x" / f"{i}.dcm", scan(i), **who, WindowCenter=0, WindowWidth=600)
        rows.append(f"{i}.dcm,{'ab'[i % 2]},{'' if i % 3 == 0 else f'case{i // 3}'}")
    (tmp_path / "l.csv").write_text("\n".join(rows))
    catalog = read_labels(tmp_path / "x", Selection(labels=str(tmp_path / "l.csv")))
    assert Counter(item.group for item in catalog.items) == {f"label file case{i}": 3 for i in range(4)}
    assert any("4 are grouped by DICOM tags" in note for note in catalog.notes)


@pytest.mark.parametrize("name", ["{:08d}_{:03d}.png", "P{}-slice {}.png", "study 7_{}_{}.png"])
def test_patients_that_stand_in_file_names_alone_are_told(tmp_path: Path, name: str) -> None:
    """Each file was a patient of its own, in whatever split, and nothing was said."""
    names = [(kind, name.format(i // 3, i % 3)) for kind in "ab" for i in range(12)]
    for i, (kind, file) in enumerate(names):
        picture(tmp_path / "images" / kind / file, seed=i)
    root = tmp_path / "images"
    (note,) = (line for line in read_layout(root, Selection()).notes if "file names seem" in line)
    first = name.format(0, 0).rpartition("_" if "_" in name else " ")[0]
    assert note.startswith(
        f"24 file names seem to be of 4 patients, such as 6 that begin with {first}; nothing"
    )
    pattern = note.partition("--groups '")[2].partition("'")[0]
    catalog = read_layout(root, Selection(groups=pattern))
    assert len({item.group for item in catalog.items}) == 4
    assert not any("file names seem" in line for line in catalog.notes)
    assert not any("file names seem" in line for line in read_layout(root, Selection(groups="none")).notes)
    for header, patient in (("path,label", ""), ("path,label,patient", ",p1")):
        rows = [f"{kind}/{file},{kind}{patient}" for kind, file in names]
        (tmp_path / "l.csv").write_text("\n".join([header, *rows]) + "\n")
        notes = read_labels(root, Selection(labels=str(tmp_path / "l.csv"))).notes
        assert any("file names seem" in line for line in notes) is (not patient)


@pytest.mark.parametrize(
    "name", ["{1:03d}.png", "Te-gl_{1:04d}.png", "IM-0001-{1:04d}.png", "glioma ({1}).png"]
)
def test_numbers_of_a_series_are_not_told_as_patients(tmp_path: Path, name: str) -> None:
    for kind in "ab":
        for i in range(12):
            picture(tmp_path / kind / name.format(kind, i), seed=i)
    assert not any("file names seem" in line for line in read_layout(tmp_path, Selection()).notes)
