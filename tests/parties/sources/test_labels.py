"""Label files: the columns, the rows, and every way in which they contradict the folder or themselves."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pytest

from crypto.errors import CipherwardError
from parties.sources.catalog import Selection
from parties.sources.folder import Folder
from parties.sources.labels import read_labels
from parties.sources.layout import read_layout
from tests.support.files import picture


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Return a flat folder of 24 pictures, and one that no label file names."""
    for i in range(24):
        picture(tmp_path / "images" / f"scan{i:02d}.png", seed=i, size=(8, 8))
    picture(tmp_path / "images" / "unnamed.png")
    return tmp_path / "images"


def table(path: Path, header: str, rows: list[str]) -> Selection:
    """Write a label file, and return the selection that names it."""
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return Selection(labels=str(path))


def test_patients_splits_and_hospitals_are_taken(images: Path, tmp_path: Path) -> None:
    rows = [f"scan{i:02d},{'ab'[i % 2]},P{i // 2},{'north' if i < 20 else 'south'}" for i in range(24)]
    selection = table(tmp_path / "l.csv", "image_id,diagnosis,patient_id,site", rows)
    catalog = read_labels(images, selection)
    assert catalog.classes == ["a", "b"] and len(catalog.items) == 24 and catalog.found == 25
    assert catalog.ignored == [("unnamed.png", "not in the label file")]
    parts = [
        {i.group for i in Folder(images, 8, 1, 0, s, selection=selection).items}
        for s in ("train", "val", "test")
    ]
    assert (
        not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
        and sum(map(len, parts)) == 12
    )
    assert len(read_labels(images, Selection(labels=selection.labels, hospital="south")).items) == 4
    with pytest.raises(CipherwardError, match="no rows of the hospital 'east'") as error:
        read_labels(images, Selection(labels=selection.labels, hospital="east"))
    assert "north, south" in error.value.hint
    rows = [f"scan{i:02d}.png;{'ab'[i % 2]};{('Training', 'Valid', 'TEST')[i % 3]}" for i in range(24)]
    selection = table(tmp_path / "s.csv", "file;label;split", rows)
    assert [len(Folder(images, 8, 1, 0, s, selection=selection)) for s in ("train", "val", "test")] == [
        8,
        8,
        8,
    ]


BAD = {
    "file,x\nscan00.png,a": "has no column for the label",
    "image,MEL,NV\nscan00,1,0": "has no column for the label",
    "file,label,class\nscan00.png,a,b": "could both be the label",
    "file,label\nscan00.png,a|b\nscan01.png,c": "several labels an image",
    "file,label\nscan00.png,a\nscan00.png,b": "is named two labels",
    "file,label\nscan00.png,a\nabsent.png,b": "names 1 image that is not in the folder: absent.png",
    "file,label\nscan00.png,a\n../x.png,b": "is no path inside the folder",
    "file,label\nscan00.png,a\nscan01.png,a/b": "l.csv, line 3: class name 'a/b' cannot be a folder's name: it "
    "holds a slash or backslash",
    "file,label\nscan00.png,a\nscan01.png,a\u2028b": "l.csv, line 3: class name 'a\\u2028b' cannot",
    "file,label\nscan00.png,a\nscan01.png,\u200b\nscan02.png,\u200b": "l.csv, line 3: class name '\\u200b' cannot",
    "file,label\nscan00.png,a\nscan01.png,\u3164": "it shows nothing",
    "file,label\nscan00.png,a\nscan01.png,\u2800 \u2800": "it shows nothing",
    "file,label\nscan00.png,a\nscan01.png,   ": "l.csv, line 3: scan01.png has no label (an empty cell)",
    'file,label\nscan00.png,a\nscan01.png,"b\nc"': "l.csv, line 3: a cell holds a line break, up to line 4",
    "file,label\nscan00.png,a\nscan01.png,a": "at least two are needed",
    "file,label,split\nscan00.png,a,train\nscan01.png,b,": "1 of 2 rows has no split",
    "file,label,split\nscan00.png,a,fold1\nscan01.png,b,train": "'fold1' is no split",
    "file,label\nscan00.png": "line 2: it has 1 cell",
    "": "is empty",
    "file label\nscan00.png a\nscan01.png b": "cells are separated by commas, semicolons or tabs",
    "file,label\nscan00.png,1\nscan01.png,0\nscan02.png,1.0": "'1' and '1.0' are one number in two spellings",
    "file;label\nscan00.png;1\nscan01.png;0\nscan02.png;1,0": "'1' and '1,0' are one number in two spellings",
    "file,label\nscan00.png,10\nscan01.png,1E+01": "'10' and '1E+01' are one number in two spellings",
    "file,label\nscan00.png,1.5\nscan01.png,1.50": "'1.5' and '1.50' are one number in two spellings",
    "file,label\nscan00.png,1\nscan01.png,0\nscan02.png,01": "'01' and '1' are one number in two spellings",
    "file,label\nscan00.png,T1\nscan01.png,T2\nscan02.png,T01": "'T01' and 'T1' are one number in two spellings",
    'file,label\nscan00.png,a\nscan01.png,b\nscan02.png,a"': "line 4: the label 'a\"' holds a double quote",
    "file,label\nscan00.png,a\n/scan01.png,b": "is no path inside the folder",
    "file,label\nscan00.png,a\nC:\\data\\scan01.png,b": "line 3: 'C:/data/scan01.png' is no path inside the folder",
    "file,label\nscan00.png,a\n.//scan00.png,a": "lines 2 and 3: scan00.png is named twice",
    "file,label\nscan00.png,a\nscan01.png,b\nscan02.png,b; a": "line 4: several labels an image (b; a)",
    "file,label\nscan00.png,a, grade 4\nscan01.png,b": "line 2: it has 3 cells, and the header names 2",
    "file,label\nscan00.png,low grade\nscan01.png,b\nscan02.png,low  grade": "'low  grade' and 'low grade' differ by "
    "spaces alone",
    "file,label\nscan0\x000.png,a\nscan01.png,b": "is not UTF-8 text",
}


@pytest.mark.parametrize("text", BAD)
def test_bad_label_files_are_named(images: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(CipherwardError, match=re.escape(BAD[text])):
        read_labels(images, Selection(labels=str(tmp_path / "l.csv")))


@pytest.mark.parametrize(
    ("classes", "fault"),
    [
        (("a", "", "b"), "class name '' cannot be a folder's name: it is empty"),
        (("a", "\u2800", "b"), "it shows nothing"),
    ],
)
def test_a_blank_name_in_the_list_of_classes_is_no_fault_of_the_label_file(
    images: Path, tmp_path: Path, classes: tuple[str, ...], fault: str
) -> None:
    rows = [f"scan{i:02d}.png,{'ab'[i % 2]}" for i in range(24)]
    labels = table(tmp_path / "l.csv", "path,label", rows).labels

    with pytest.raises(CipherwardError) as error:
        read_labels(images, Selection(labels=labels, classes=classes))

    assert error.value.message.startswith("the list of classes: ")
    assert fault in error.value.message
    assert error.value.hint


def test_settings_that_would_have_no_effect_are_refused(images: Path, tmp_path: Path) -> None:
    rows = [f"scan{i:02d}.png,{'ab'[i % 2]}" for i in range(24)]
    selection = table(images / "labels.csv", "path,label", rows)
    assert ("labels.csv", "the label file") in read_labels(images, selection).ignored
    with pytest.raises(CipherwardError, match="does not go with a label file"):
        read_labels(images, Selection(labels=selection.labels, groups="P(.)"))
    with pytest.raises(CipherwardError, match="no label file says which"):
        read_layout(images, Selection(hospital="north"))


def test_parquet_and_missing_files_are_named(images: Path, tmp_path: Path) -> None:
    with pytest.raises(CipherwardError, match="Parquet needs pyarrow"):
        read_labels(images, Selection(labels=str(tmp_path / "l.parquet")))
    with pytest.raises(CipherwardError, match=r"cannot read .*No such file"):
        read_labels(images, Selection(labels=str(tmp_path / "l.csv")))


def test_a_line_for_excel_is_skipped_and_lines_are_still_counted(images: Path, tmp_path: Path) -> None:
    rows = [f"scan{i:02d}.png;{'ab'[i % 2]}" for i in range(24)]
    selection = table(tmp_path / "l.csv", "sep=;\npath;label", rows)
    assert len(read_labels(images, selection).items) == 24
    selection = table(tmp_path / "l.csv", "sep=;\npath;label", [*rows[:5], "scan05.png;", *rows[6:]])
    with pytest.raises(CipherwardError, match=r"line 8: scan05\.png has no label"):
        read_labels(images, selection)


@pytest.mark.parametrize(
    "cell",
    [
        *("", "NaN", "null", "#N/A", "NA", "None", "?", "-", "#REF!", "#NOM?", "#NV", "###", "Err:502"),
        *(
            "(null)",
            "<NULL>",
            "\\N",
            "NaT",
            "N.A.",
            "--",
            ".",
            "[]",
            "''",
            "(blank)",
            "<none>",
            "undefined",
        ),
    ],
)
def test_a_missing_label_is_no_class(images: Path, tmp_path: Path, cell: str) -> None:
    rows = [f"scan{i:02d}.png,{cell if i == 7 else 'ab'[i % 2]}" for i in range(24)]
    with pytest.raises(CipherwardError, match=r"line 9: scan07\.png has no label"):
        read_labels(images, table(tmp_path / "l.csv", "path,label", rows))


def test_a_column_without_a_name_is_not_left_out_in_silence(images: Path, tmp_path: Path) -> None:
    """It may hold the patients, and a table of pandas begins with one."""
    rows = [f"{i},scan{i:02d}.png,{'ab'[i % 2]},P{i // 4}," for i in range(24)]
    notes = read_labels(images, table(tmp_path / "l.csv", ",path,label,,", rows)).notes
    assert "columns of l.csv that are not used: column 1, without a name, column 4, without a name" in notes


def test_words_that_may_be_classes_are_no_missing_labels(images: Path, tmp_path: Path) -> None:
    words = ["none", "na", "unknown", "blank", "HER2-", "[1]", "+"]
    rows = [f"scan{i:02d}.png,{words[i % 7]}" for i in range(24)]
    assert read_labels(images, table(tmp_path / "l.csv", "path,label", rows)).classes == sorted(words)


def test_capitals_of_a_file_count_only_where_they_tell_files_apart(images: Path, tmp_path: Path) -> None:
    """A table that was made on Windows or macOS, where capitals do not count."""
    rows = [
        f"{'SCAN' if i % 2 else 'Scan'}{i:02d}{('.PNG', '')[i // 2 % 2]},{'ab'[i % 2]}" for i in range(24)
    ]
    assert len(read_labels(images, table(tmp_path / "l.csv", "path,label", rows)).items) == 24
    picture(images / "SCAN03.png", seed=99, size=(8, 8))
    with pytest.raises(CipherwardError, match=r"sCAN03\.png may be SCAN03\.png or scan03\.png"):
        read_labels(images, table(tmp_path / "l.csv", "path,label", [*rows[:3], "sCAN03.png,b", *rows[4:]]))


@pytest.mark.parametrize("path", ["images/scan03.png", "archive/x/SCAN03.png", "%73can03.png"])
def test_the_file_that_a_row_may_mean_is_named(images: Path, tmp_path: Path, path: str) -> None:
    rows = [f"scan{i:02d}.png,{'ab'[i % 2]}" for i in range(24)]
    with pytest.raises(CipherwardError, match="1 image that is not in the folder") as error:
        read_labels(images, table(tmp_path / "l.csv", "path,label", [*rows[:3], f"{path},b", *rows[4:]]))
    assert error.value.hint.startswith("the folder holds scan03.png; paths are relative")


@pytest.mark.parametrize(
    "twin", ["Nord\u2011Klinik", "Nord_Klinik", "Nord-Klinik\u200b", "N\u043erd-Klinik"]
)
def test_one_hospital_under_two_names_is_refused(images: Path, tmp_path: Path, twin: str) -> None:
    """Its rows under the other name were left out in silence."""
    rows = [f"scan{i:02d},{'ab'[i % 2]},{(twin, 'Nord-Klinik')[i // 2 % 2]}" for i in range(24)]
    selection = table(tmp_path / "l.csv", "path,label,hospital", rows)
    with pytest.raises(CipherwardError, match="seem to be one hospital"):
        read_labels(images, Selection(labels=selection.labels, hospital="Nord-Klinik"))


@pytest.mark.parametrize(
    "spellings", [("7", "7,0"), ("P-1", "P\u20131"), ("p1", "p1\u200b"), ("p1", "\ufeffP1")]
)
def test_one_patient_in_two_spellings_is_in_one_split(
    images: Path, tmp_path: Path, spellings: tuple[str, str]
) -> None:
    rows = [f'scan{i:02d},{"ab"[i % 2]},"{spellings[i // 2 % 2] if i < 4 else 100 + i}"' for i in range(24)]
    items = read_labels(images, table(tmp_path / "l.csv", "path,label,patient", rows)).items
    assert len({item.group for item in items[:4]}) == 1 and len({item.group for item in items}) == 21


def test_two_spellings_of_one_file_are_one_file(images: Path, tmp_path: Path) -> None:
    rows = [f"scan{i:02d}.png,{'ab'[i % 2]}" for i in range(20)]
    selection = table(tmp_path / "l.csv", "path,label", [*rows, "scan03,a"])
    with pytest.raises(CipherwardError, match=r"lines 5 and 22: scan03\.png and scan03 are one file"):
        read_labels(images, selection)


def test_hospitals_that_differ_by_case_and_patients_of_two_hospitals(images: Path, tmp_path: Path) -> None:
    def rows(*hospitals: str) -> list[str]:
        return [f"scan{i:02d},{'ab'[i % 2]},P{i // 4},{hospitals[i // 2 % 2]}" for i in range(24)]

    header = "path,label,patient,hospital"
    selection = table(tmp_path / "l.csv", header, rows("North", "north"))
    with pytest.raises(CipherwardError, match="'North' and 'north' seem to be one hospital"):
        read_labels(images, Selection(labels=selection.labels, hospital="north"))
    selection = table(tmp_path / "l.csv", header, rows("north", "south"))
    notes = read_labels(images, Selection(labels=selection.labels, hospital="north")).notes
    assert any("6 patients are in rows of other hospitals too" in note for note in notes)
    assert not any("other hospitals" in note for note in read_labels(images, selection).notes)


def test_a_space_before_a_quote_is_none_of_the_cell(images: Path, tmp_path: Path) -> None:
    rows = [f'"scan{i:02d}.png", "{("left, upper", "right")[i % 2]}", "P{i // 2}"' for i in range(24)]
    catalog = read_labels(images, table(tmp_path / "l.csv", '"path", "label", "patient"', rows))
    assert catalog.classes == ["left, upper", "right"]
    assert catalog.items[0].group == "label file p0"


def test_a_stray_quote_hides_no_rows(images: Path, tmp_path: Path) -> None:
    """An open quote takes the lines up to the next one for a cell: their images were left out."""
    notes = {3: '"2 cm lesion', 20: 'fu 3"'}
    rows = [f"scan{i:02d}.png,{'ab'[i % 2]},{notes.get(i, '')}" for i in range(24)]
    with pytest.raises(CipherwardError, match="line 5: a cell holds a line break, up to line 22"):
        read_labels(images, table(tmp_path / "l.csv", "path,label,notes", rows))
    rows = [f"scan{i:02d}.png,{'ab'[i % 2]},{notes[3] if i == 9 else ''}" for i in range(24)]
    with pytest.raises(CipherwardError, match="line 12: it is no CSV: unexpected end of data"):
        read_labels(images, table(tmp_path / "l.csv", "sep=,\npath,label,notes", rows))
    rows[9] = 'scan09.png,b,"big" lesion'
    with pytest.raises(CipherwardError, match="line 11: it is no CSV") as error:
        read_labels(images, table(tmp_path / "l.csv", "path,label,notes", rows))
    assert "double quote" in error.value.hint
    rows[9] = 'scan09.png,b,"a ""big"" lesion, 2"" wide"'
    rows[10] = 'scan10.png,a,fu 3"'
    for line_end in ("\n", "\r\n", "\r"):
        text = line_end.join(("sep=,", "path,label,notes", *rows))
        (tmp_path / "l.csv").write_text(text, newline="")
        assert len(read_labels(images, Selection(labels=str(tmp_path / "l.csv"))).items) == 24


def test_images_of_other_hospitals_are_told_from_those_without_a_row(images: Path, tmp_path: Path) -> None:
    header = "path,label,hospital"
    rows = [f"scan{i:02d},{'ab'[i % 2]},{'north' if i < 16 else 'south'}" for i in range(24)]
    path = tmp_path / "l.csv"
    table(path, header, [*rows, "elsewhere.png,a,south"])
    catalog = read_labels(images, Selection(labels=str(path), hospital="north"))
    reasons = Counter(reason for _, reason in catalog.ignored)
    assert reasons == {"another hospital's row": 8, "not in the label file": 1}
    for cell in ("", "NA"):
        table(path, header, [*rows[:20], *(row.replace("south", cell) for row in rows[20:])])
        with pytest.raises(CipherwardError, match="4 of 24 rows have no hospital, such as line 22"):
            read_labels(images, Selection(labels=str(path), hospital="north"))
        assert "4 of 24 rows name no hospital" in read_labels(images, Selection(labels=str(path))).notes


def test_what_excel_writes_is_read_or_named(images: Path, tmp_path: Path) -> None:
    text = "path\tlabel\r\n" + "".join(f"scan{i:02d}.png\t{'äb'[i % 2]}\r\n" for i in range(24))
    path = tmp_path / "l.txt"
    for encoding in ("utf-16", "utf-8-sig"):
        path.write_bytes(text.encode(encoding))
        assert read_labels(images, Selection(labels=str(path))).classes == ["b", "ä"]
    for encoding in ("latin-1", "utf-16-le"):
        path.write_bytes(text.encode(encoding))
        with pytest.raises(CipherwardError, match="is not UTF-8 text"):
            read_labels(images, Selection(labels=str(path)))
    for start in (b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1"):
        path.write_bytes(start)
        with pytest.raises(CipherwardError, match="is a workbook of Excel"):
            read_labels(images, Selection(labels=str(path)))


def test_a_pipe_is_no_label_file(images: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "l.csv")  # reading it would wait for ever
    with pytest.raises(CipherwardError, match=r"cannot read .*l\.csv: not a regular file"):
        read_labels(images, Selection(labels=str(tmp_path / "l.csv")))


def test_patients_in_other_spellings_are_one_and_unused_columns_are_named(
    images: Path, tmp_path: Path
) -> None:
    cells = ("7", "7.0", "p8", "P8", "NaN", "")
    rows = [f"scan{i:02d}.png,{'ab'[i % 2]},{cells[i % 6]},61" for i in range(24)]
    catalog = read_labels(images, table(tmp_path / "l.csv", "\npath,label,Patient ID,age", rows))
    assert Counter(item.group for item in catalog.items) == {"label file 7": 8, "label file p8": 8, "": 8}
    assert "columns of l.csv that are not used: age" in catalog.notes
    assert "8 of 24 rows name no patient: each is taken for one of its own" in catalog.notes


def test_a_name_with_an_accent_is_found_in_either_form(images: Path, tmp_path: Path) -> None:
    for i in range(4):
        (images / f"scan{i:02d}.png").rename(images / f"e\u0301{i}.png")  # as macOS writes it
    rows = [f"{f'é{i}' if i < 4 else f'scan{i:02d}'}{'.png' * (i % 2)},{'ab'[i % 2]}" for i in range(24)]
    assert len(read_labels(images, table(tmp_path / "l.csv", "path,label", rows)).items) == 24


def test_an_ending_is_left_out_beside_files_of_the_same_name(images: Path, tmp_path: Path) -> None:
    """Scans often have a table of their settings beside them: the row named that, and the image was left out."""
    for i in range(24):
        (images / f"scan{i:02d}.json").write_text("{}")
    volume = nibabel.Nifti1Image(np.zeros((8, 8, 3), np.uint8), np.eye(4))  # type: ignore[no-untyped-call]
    nibabel.save(volume, images / "brain.nii.gz")
    (images / "brain.json").write_text("{}")
    rows = [*(f"scan{i:02d},{'ab'[i % 2]}" for i in range(24)), "brain,a"]
    catalog = read_labels(images, table(tmp_path / "l.csv", "path,label", rows))
    assert len(catalog.items) == 24 + 3 and catalog.refused == []
    picture(images / "scan04.bmp")
    with pytest.raises(CipherwardError, match=r"line 6: scan04 may be scan04\.bmp or scan04\.png"):
        read_labels(images, table(tmp_path / "l.csv", "path,label", rows))


def test_steps_that_lead_nowhere_are_left_out_of_a_path(images: Path, tmp_path: Path) -> None:
    """`.//scan00.png` was said to be outside of the folder, and `././scan00.png` not to be there."""
    (tmp_path / "l.csv").write_text("path,label\n././scan00.png,a\n.//scan01.png,b\n.\\.\\scan02.png,b\n")
    catalog = read_labels(images, Selection(labels=str(tmp_path / "l.csv")))
    assert [item.path for item in catalog.items] == ["scan00.png", "scan01.png", "scan02.png"]
