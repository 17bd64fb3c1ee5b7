"""The benchmark of a DICOM study: its files are what it says, its sums are checked, and its search finds leaks."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import UID

from benchmarks import dicom_study
from benchmarks.dicom_export import OTHER, SYNTAXES, Export, make_export, pydicom_files
from benchmarks.dicom_study import found_in
from benchmarks.identifying_values import Search, contents, identifying_values
from benchmarks.pages import inputs
from benchmarks.pages.entries import Entry
from crypto.errors import CipherwardError
from parties.sources.phantom import Phantom
from parties.sources.picture import read_picture
from parties.sources.reading import Reading
from parties.sources.walk import look

SIDE = 32


def make_pictures(folder: Path, a_class: int, side: int = SIDE) -> Path:
    """Write JPEG files of two classes, as they come in data sets on the web."""
    phantom = Phantom(side, 1, 2 * a_class, 0, "train")
    for i in range(2 * a_class):
        path = folder / "train" / ("level", "upright")[i % 2] / f"{i:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(phantom.read(i)[..., 0]).save(path, quality=95)
    return folder


def real_files(folder: Path, *names: str) -> Path:
    """Return a folder with some of pydicom's own files."""
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes((pydicom_files() / name).read_bytes())
    return folder


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    folder = tmp_path_factory.mktemp("export")
    pictures = make_pictures(folder / "pictures", 18)
    real = real_files(folder / "real", "MR_small.dcm", "CT_small.dcm", "reportsi.dcm", "test1.json")
    return make_export(folder, pictures, [real], 18)


def test_the_files_are_read_as_the_pictures_that_they_were_made_of(export: Export) -> None:
    expected = sorted(
        (export.root.parent / "pictures").rglob("*.jpg"), key=lambda p: (p.parent.name, p.name)
    )
    read, groups, syntaxes = [], Counter[str](), set()
    rows = list(csv.DictReader(export.labels.open()))
    for row in rows:
        if row["label"] == OTHER:
            continue
        parts = look(export.root, row["path"], Reading())
        groups[parts.group] += parts.count
        syntaxes.add(UID(_syntax(export.root / row["path"])))
        read += [
            read_picture(export.root / row["path"], SIDE, 1, Reading(), i)[..., 0]
            for i in range(parts.count)
        ]
    assert len(read) == len(expected) == export.made["images"] == sum(groups.values()) == 36
    for path, picture in zip(expected, read, strict=True):
        assert np.abs(picture.astype(int) - np.asarray(Image.open(path))).max() <= 1, path
    assert len(groups) == export.made["patients"] and max(groups.values()) > 1
    assert syntaxes == set(SYNTAXES) and export.made["multi_frame_files"] >= 1
    assert export.made["files"] < export.made["images"]


def _syntax(path: Path) -> str:
    from pydicom import dcmread

    return str(dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID)


def test_real_files_lie_beside_and_only_images_of_them_are_named(export: Export) -> None:
    named = {
        Path(row["path"]).name for row in csv.DictReader(export.labels.open()) if row["label"] == OTHER
    }
    assert named == {"MR_small.dcm", "CT_small.dcm"} and export.real == {"files": 4, "named": 2}
    assert export.files == export.made["files"] + 4 + 2  # a README and what a file manager leaves


def test_the_search_finds_every_form_of_a_value_and_no_number_inside_of_others() -> None:
    search = Search(["Kestrel^Anna", "19560317", "MRN000123456", "Marie9"])
    digest = hashlib.sha256(b"MRN000123456")
    for leak in (
        b"xKestrel^Annax", "name: Kestrel^Anna".encode("utf-16-le"), b"\x01" + digest.digest(),
        digest.hexdigest().encode(), b"born 19560317.5"[:13], b'"Marie9"',
    ):  # fmt: skip
        assert len(search.find(leak)) == 1, leak
    for harmless in (b"0x219560317f", b"0.19560317", b"Marie91", b"Kestrel Anna", b"", bytes(4096)):
        assert not search.find(harmless), harmless


def test_the_values_are_those_that_identify(export: Export) -> None:
    values = identifying_values(export.root.rglob("*"))
    kinds = {"MRN": 0, "HIS": 0, "ACC": 0, "private MRN": 0}
    for kind in kinds:
        kinds[kind] = sum(value.startswith(kind) for value in values)
    assert set(kinds.values()) == {export.made["patients"]}
    assert "CompressedSamples^MR1" in values  # of the real files too
    assert not any(value.startswith("1.2.840.10008.") for value in values)  # those name formats, nobody
    path = export.root / "PA000001" / "ST000001" / "SE000001" / "IM000001"
    found = set().union(*map(Search(values).find, contents(path)))
    assert len(found) > 15


def test_a_value_in_a_written_file_a_file_name_or_a_message_is_an_error(
    export: Export, tmp_path: Path
) -> None:
    (value, *_) = (v for v in identifying_values(export.root.rglob("*")) if v.startswith("MRN"))
    (tmp_path / "cloud").mkdir()
    (tmp_path / "cloud" / "log.txt").write_text("all is well")
    assert dicom_study.search(export, tmp_path, ["well"])["files"] == 1
    with pytest.raises(CipherwardError, match="1 values of tags were printed") as error:
        dicom_study.search(export, tmp_path, [f"cannot read {value}"])
    assert value not in str(error.value)
    for path, text in (("log.txt", f"study of {value}"), (f"{value}.txt", "")):
        (tmp_path / "cloud" / path).write_text(text)
        with pytest.raises(CipherwardError, match="values of tags stand in cloud/"):
            dicom_study.search(export, tmp_path, [])
        (tmp_path / "cloud" / path).unlink()


COUNTS: dict[str, Any] = {
    "files": 30, "files_of_images": 26, "files_ignored": 3, "files_refused": 1,
    "images": 40, "images_refused": 1, "patients": 9,
    "sealed": {"level": 18, "upright": 18, OTHER: 3}, "sealed_by_hospitals": [13, 13, 13],
}  # fmt: skip


def test_a_lost_file_or_image_is_an_error() -> None:
    export = Export(Path("DICOM"), Path("labels.csv"), files=30, made={"images": 36})
    dicom_study.require_whole(COUNTS, export)
    lost: list[tuple[dict[str, Any], str]] = [
        ({"files": 29}, "files in the folder and files counted differ: 30 and 29"),
        ({"images_refused": 0}, "images announced and sealed"),
        ({"sealed": {"level": 18, "upright": 17, OTHER: 4}}, "slices written as DICOM and sealed"),
        ({"sealed_by_hospitals": [13, 13, 12]}, "by one hospital and by three"),
    ]
    for change, message in lost:
        with pytest.raises(CipherwardError, match=message):
            dicom_study.require_whole(COUNTS | change, export)


def test_what_may_leave_is_told_from_what_stays() -> None:
    leave = ("hospital/sealed/train/manifest.json", "study/report.html", "study/cloud/rounds.jsonl",
             "study/parties/hospital-0/sealed/train/0.bin", "audit/audits/x/sealed/audit-1/0.bin")  # fmt: skip
    stay = ("hospital/secret.key", "hospital/private/rows-train.json", "audit/audits/x/private/report.html",
            "study/parties/hospital-0/party.yaml", "audit/audits/x/guesses/guesses.json")  # fmt: skip
    assert all(dicom_study.may_leave(Path(path)) for path in leave)
    assert not any(dicom_study.may_leave(Path(path)) for path in stay)


@pytest.mark.slow
def test_a_folder_of_dicom_files_becomes_a_report(tmp_path: Path) -> None:
    pictures = make_pictures(tmp_path / "pictures", 90, 64)
    names = ("MR_small.dcm", "MR_small_RLE.dcm", "CT_small.dcm", "693_J2KI.dcm", "MR_truncated.dcm",
             "examples_ybr_color.dcm", "examples_overlay.dcm", "no_meta.dcm", "reportsi.dcm")  # fmt: skip
    export = make_export(tmp_path / "run", pictures, [real_files(tmp_path / "real", *names)], 90)
    small = {
        "image_size": 64, "block": 8, "rounds": 1, "warmup_steps": 0, "wrong_keys": 2, "draws": 2,
        "model_args": {"patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2},
        "audit_rows": 16, "gallery": 64, "pools": [1, 5],
    }  # fmt: skip
    audit = ("--image-size", "64", "--block", "8", "--rows", "16", "--gallery", "64", "--draws", "2")
    figures = dicom_study.measure(export, tmp_path / "run", small, (*audit, "--pools", "1,5"))
    assert [step["status"] for step in figures["steps"]] == [0] * 8
    assert figures["counts"]["files_ignored"] >= 3 and figures["counts"]["images_refused"] == 1
    assert figures["search"]["found"] == 0 and figures["search"]["values"] > 500
    assert figures["study"]["verdict"]["broken"] and "Broken." in figures["audit"]["sentence"]
    entry = Entry("41-dicom-study.json", "A DICOM study", "command", "2026-01-01",
                  {"schema": dicom_study.SCHEMA, **figures})  # fmt: skip
    page = "\n".join(inputs.page([entry]))
    assert all(f"`{step['command']}`" in page for step in figures["steps"]) and "**0 found**" in page


def test_a_short_number_among_sealed_pixels_is_chance_and_in_a_header_a_leak() -> None:
    search = Search(["113040", "19560317", "Kestrel^Anna"])
    shard, other = Path("sealed/train/images-00000.safetensors"), Path("sealed/train/manifest.json")

    def content(header: bytes, pixels: bytes) -> bytes:
        return len(header).to_bytes(8, "little") + header + pixels

    dark = content(b"{}", b"\x13\n113040\x0e")
    assert found_in(search, shard, dark) == set() and found_in(search, other, dark) == {"113040"}
    assert found_in(search, shard, content(b'{"a": "113040"}', bytes(9))) == {"113040"}
    assert found_in(search, shard, content(b"{}", b"\x13\n19560317\x0e")) == {"19560317"}
    assert found_in(search, shard, content(b"{}", b"\x13Kestrel^Anna\x0e113040\x01")) == {"Kestrel^Anna"}
