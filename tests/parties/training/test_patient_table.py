"""The table of `cipherward-party patients` tells patients apart as a label file does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.keyfile import write_key
from parties.sealing.place import Place
from parties.sealing.seal import plan_sealing, seal
from parties.sources.catalog import Selection
from parties.sources.labels import read_labels
from parties.training.patients import read_patient_table, record_patients
from tests.support.files import picture

SPELLINGS = ("7", "007", "7.0", "p1", "P1", "p1 ", "e\u0301", "\u00e9", "0x7")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Return a hospital that sealed 18 training images; one has the file name of a test image."""
    folder = tmp_path_factory.mktemp("hospital")
    for number in range(30):
        split = ("train", "train", "train", "val", "test")[number // 6]
        name = "scan00.png" if number == 24 else f"scan{number:02d}.png"
        picture(folder / "images" / split / "ab"[number % 2] / name, seed=number, size=(32, 32))
    settings = {"party": "north", "images": str(folder / "images"), "image_size": 32, "block": 8}
    place = Place.from_settings(folder / "north", settings)
    place.save()
    write_key(place.key_path, SecretKey.generate())
    seal(place, plan_sealing(place, "train"))
    return place


def test_spellings_of_one_patient_are_one_as_in_a_label_file(place: Place, tmp_path: Path) -> None:
    """Each spelling was a patient of its own: the noise protected less than a patient."""
    names = place.plain("train").names
    lines = [f"{name},{SPELLINGS[i % 9]}" for i, name in enumerate(names)]
    (tmp_path / "t.csv").write_text("\n".join(["image,patient", *lines]))
    stated = read_patient_table(place, tmp_path / "t.csv")
    assert record_patients(place, stated) == len(set(stated)) == 4
    (tmp_path / "l.csv").write_text("\n".join(["path,patient,label", *(f"{x},{x[6]}" for x in lines)]))
    images = Path(place.settings.images)
    catalog = read_labels(images, Selection(labels=str(tmp_path / "l.csv")))
    groups = {item.path: item.group for item in catalog.items}
    assert [groups[name] for name in names] == ["label file " + patient for patient in stated]


@pytest.mark.parametrize(
    ("header", "line", "encoding"),
    [
        ("image;patient", "{name};p{i}", "utf-8"),
        ("image\tpatient", "{name}\tp{i}", "utf-16"),
        ("sep=,\nFile Name,Patient ID,age", "{windows},p{i},40", "utf-8-sig"),
        ("path,subject", "{stem},p{i}", "utf-8"),
    ],
)
def test_a_table_is_read_as_a_label_file_is(
    place: Place, tmp_path: Path, header: str, line: str, encoding: str
) -> None:
    lines = [header]
    for i, name in enumerate(place.plain("train").names):
        windows, stem = ".\\" + name.replace("/", "\\"), name.removesuffix(".png")
        lines.append(line.format(name=name, windows=windows, stem=stem, i=i % 5))
    (tmp_path / "t.csv").write_bytes("\n".join(lines).encode(encoding))
    assert len(set(read_patient_table(place, tmp_path / "t.csv"))) == 5


def test_what_says_nothing_of_a_patient_is_refused(place: Place, tmp_path: Path) -> None:
    names, table = place.plain("train").names, tmp_path / "t.csv"

    def refused(rows: list[str], match: str) -> None:
        table.write_text("\n".join(["image,patient", *rows]))
        with pytest.raises(CipherwardError, match=match):
            read_patient_table(place, table)

    rows = [f"{name},p{i // 3}" for i, name in enumerate(names)]
    for cell in ("NA", "", "nan", "?"):
        refused([*rows[:4], f"{names[4]},{cell}", *rows[5:]], f"line 6: {names[4]} has no patient")
    refused([*rows[:4], f'{names[4]},"p1', *rows[5:]], "line 6: it is no CSV")
    # A path and a file's name are two spellings of one image.
    refused(
        [*rows, f"{Path(names[0]).name},p0", f"{Path(names[3]).name},p9"],
        "lines 5 and 21: the image .* of two",
    )
    # A test image has this file's name too.
    refused(["scan00.png,p1", *rows[1:]], "does not say whose the image train/a/scan00.png is, and 1 of 18")
    os.mkfifo(tmp_path / "pipe.csv")  # reading it would wait for ever
    with pytest.raises(CipherwardError, match="not a regular file"):
        read_patient_table(place, tmp_path / "pipe.csv")
