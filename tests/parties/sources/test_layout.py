"""Folders as hospitals have them: splits, wrappers, patients, leftovers; counts that add up; what is ambiguous."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

import pytest

from crypto.errors import CipherwardError
from parties.sources.catalog import Catalog, Selection, count_reasons
from parties.sources.class_names import require_usable_names
from parties.sources.folder import Folder
from parties.sources.labels import read_labels
from parties.sources.layout import read_layout
from parties.sources.source import share_of
from tests.support.files import picture


def fill(root: Path, *folders: str, n: int = 2, ending: str = ".png") -> Path:
    """Write n pictures in each of these folders."""
    for k, folder in enumerate(folders):
        for i in range(n):
            picture(root / folder / f"{i}{ending}", seed=1000 * k + i, size=(8, 8))
    return root


def read(root: Path, **selection: object) -> Catalog:
    """Return the catalog of a folder, whose counts must add up to the files on the disk."""
    catalog = read_layout(root, Selection(**selection))  # type: ignore[arg-type]
    on_disk = sum(1 for path in root.rglob("*") if path.is_file())
    assert catalog.found == on_disk == catalog.files + len(catalog.ignored) + len(catalog.refused)
    names = [name for name, _ in (*catalog.ignored, *catalog.refused)]
    assert len({*names, *(item.path for item in catalog.items)}) == on_disk
    return catalog


@pytest.mark.parametrize(
    "names",
    [
        ("train", "val", "test"),
        ("Training", "Validation", "Testing"),
        ("TRAIN", "valid", "Test"),
        ("train", "dev", "test"),
    ],
)
def test_splits_are_known_under_their_usual_names(tmp_path: Path, names: tuple[str, ...]) -> None:
    catalog = read(fill(tmp_path, *(f"{split}/{name}" for split in names for name in "ab")))
    assert catalog.classes == ["a", "b"]
    assert Counter(item.split for item in catalog.items) == {"train": 4, "val": 4, "test": 4}


def test_splits_below_the_classes_and_in_a_wrapper(tmp_path: Path) -> None:
    below = read(fill(tmp_path / "1", *(f"{name}/{split}" for split in ("train", "test") for name in "ab")))
    assert below.classes == ["a", "b"] and {item.split for item in below.items} == {"train", "test"}
    wrapped = read(
        fill(tmp_path / "2", *(f"Data/brain/{s}/{n}" for s in ("Training", "Testing") for n in "ab"))
    )
    assert wrapped.classes == ["a", "b"] and any("Data/brain" in note for note in wrapped.notes)
    plain = read(fill(tmp_path / "3", "all/a", "all/b"))
    assert plain.classes == ["a", "b"] and {item.split for item in plain.items} == {""}


@pytest.mark.parametrize("outer", [("treino", "teste"), ("internal", "external"), ("tr", "va", "te")])
def test_folders_that_hold_the_same_words_may_be_splits_or_sites(
    tmp_path: Path, outer: tuple[str, ...]
) -> None:
    """They were the classes, and the classes in them were patients."""
    fill(tmp_path, *(f"{folder}/{name}" for folder in outer for name in ("glioma", "healthy", "Other")))
    with pytest.raises(
        CipherwardError, match="all hold glioma, healthy, other: either could be the classes"
    ):
        read(tmp_path)
    for groups in ("none", "^([^/]+)/"):
        assert read(tmp_path, groups=groups).classes == sorted(outer)
    fill(tmp_path / "2", *(f"{name}/p{i}" for name in "ab" for i in range(3)))  # patients who are in both
    assert read(tmp_path / "2").classes == ["a", "b"]


def test_a_folder_of_masks_beside_the_classes_is_none_unless_it_is_stated(tmp_path: Path) -> None:
    fill(tmp_path, "a", "b", "Masks")
    with pytest.raises(
        CipherwardError, match="the folder Masks seems to hold masks or annotations"
    ) as error:
        read(tmp_path)
    assert "--classes Masks,a,b" in error.value.hint
    assert read(tmp_path, classes=("a", "b", "Masks")).classes == ["a", "b", "Masks"]


def test_without_val_it_is_taken_from_train_by_patient(tmp_path: Path) -> None:
    for name in "ab":
        fill(tmp_path, *(f"train/{name}/p{name}{i}" for i in range(10)), n=3)
        fill(tmp_path, f"test/{name}", n=4)
    parts = {split: Folder(tmp_path, 8, 1, 0, split) for split in ("train", "val", "test")}
    assert {split: len(part) for split, part in parts.items()} == {"train": 54, "val": 6, "test": 8}
    groups = [{item.group for item in parts[split].items} for split in ("train", "val")]
    assert not groups[0] & groups[1] and any(
        "6 training images are taken" in note for note in parts["train"].notes
    )


def test_patients_are_in_one_split_each_and_every_class_in_each_split(tmp_path: Path) -> None:
    for name in "ab":
        fill(tmp_path, *(f"{name}/{name}-{i:02d}" for i in range(12)), n=4)
    parts = [Folder(tmp_path, 8, 1, seed, split) for seed in range(5) for split in ("train", "val", "test")]
    for at in range(0, 15, 3):
        train, val, test = ({item.group for item in part.items} for part in parts[at : at + 3])
        assert not (train & val or train & test or val & test) and len(train | val | test) == 24
        assert sum(len(part) for part in parts[at : at + 3]) == 96
        assert all(set(part.labels.tolist()) == {0, 1} for part in parts[at : at + 3])
        assert 56 <= len(parts[at]) <= 80
    assert parts[0].names == Folder(tmp_path, 8, 1, 0, "train").names != parts[3].names


@pytest.mark.parametrize("how", ["iid", "dirichlet"])
def test_a_patient_is_in_one_hospital_of_a_simulation(tmp_path: Path, how: str) -> None:
    for name in "ab":
        fill(tmp_path, *(f"{name}/{name}-{i:02d}" for i in range(12)), n=4)
    source = Folder(tmp_path, 8, 1, 0, "train")
    shares = [share_of(source, i, 3, 0, how, 1.0) for i in range(3)]
    groups = [{source.items[int(row)].group for row in share.rows} for share in shares]
    assert sorted(int(row) for share in shares for row in share.rows) == list(range(len(source)))
    assert sum(map(len, groups)) == len(set.union(*groups)) and all(groups)


def test_groups_can_be_stated(tmp_path: Path) -> None:
    for name in "ab":
        for i in range(40):
            picture(tmp_path / name / f"P{name}{i % 10}_slice{i}.png", seed=i, size=(8, 8))
    catalog = read(tmp_path, groups=r"^(P\w\d+)_")
    assert len({item.group for item in catalog.items}) == 20
    with pytest.raises(CipherwardError, match="is no pattern"):
        read_layout(tmp_path, Selection(groups="("))
    with pytest.raises(CipherwardError, match="'foldr' matches the path of no image") as error:
        read_layout(tmp_path, Selection(groups="foldr"))  # a pattern that would keep no patient together
    assert "did you mean folder?" in error.value.hint
    fill(tmp_path / "x", "a/1", "a/2", "b/1", "b/2")
    assert {item.group for item in read(tmp_path / "x", groups="none").items} == {""}
    # One folder inside a class folder is no patient, and patients of one name are one patient.
    fill(tmp_path / "y", "a/png", "b/png")
    assert {item.group for item in read(tmp_path / "y").items} == {""}
    assert {item.group for item in read(tmp_path / "x").items} == {"folder 1", "folder 2"}


def test_a_pattern_that_finds_nothing_but_a_place_names_no_patient(tmp_path: Path) -> None:
    """A star finds the empty text everywhere: images without a number were all of one patient."""
    for name in "ab":
        for i in range(12):
            picture(tmp_path / name / (f"{i // 2}_{i}.png" if i < 8 else f"x{i}.png"), seed=i, size=(8, 8))
    catalog = read(tmp_path, groups=r"^(\d*)")
    assert Counter(item.group for item in catalog.items) == {
        "": 8,
        **{f"pattern {i}": 4 for i in range(4)},
    }
    assert "the pattern names 4 patients; 8 images do not match it" in catalog.notes
    with pytest.raises(CipherwardError, match="matches the path of no image"):
        read_layout(tmp_path, Selection(groups=r"y*$"))


def crossing(root: Path) -> list[str]:
    """Return the patients that have images in two splits."""
    return Folder(root, 8, 1, 0, "train").crossing


def test_whether_folders_are_patients_is_decided_for_all_classes_and_splits(tmp_path: Path) -> None:
    """A class with one patient has one folder: it was taken for no patient, and was in every split."""
    given = tmp_path / "given"
    for split in ("train", "val", "test"):
        fill(given, f"{split}/a/P07", f"{split}/b/{split}1", f"{split}/b/{split}2")
    assert crossing(given) == ["folder p07"]
    shared = fill(tmp_path / "shared", "a/P07", *(f"b/P{i:02d}" for i in range(8)), n=6)
    assert {item.group for item in read(shared).items if item.label == 0} == {"folder p07"}
    parts = [Folder(shared, 8, 1, 0, split) for split in ("train", "val", "test")]
    assert sum("folder p07" in {item.group for item in part.items} for part in parts) == 1
    assert not crossing(shared) and sum(map(len, parts)) == 54
    repeated = fill(tmp_path / "repeated", "train/a/P1", "train/b/P2", "test/a/P1", "test/b/P3")
    assert crossing(repeated) == ["folder p1"]
    spelled = fill(tmp_path / "spelled", "train/a/P1", "train/a/P2", "train/b", "test/a/p1", "test/b")
    assert crossing(spelled) == ["folder p1"]  # two names to Linux only


def test_a_folder_that_may_be_a_patient_or_not_is_asked_for(tmp_path: Path) -> None:
    for name, folders in (("x", ("a/1", "b/2")), ("y", ("a/only", "b"))):
        root = fill(tmp_path / name, *folders)
        with pytest.raises(CipherwardError, match="it could be a patient, or not") as error:
            read(root)
        assert "--groups none" in error.value.hint and "'^([^/]+)/'" in error.value.hint
        assert {item.group for item in read(root, groups="none").items} == {""}
        assert all(item.group or item.label for item in read(root, groups="^([^/]+)/").items)
    # Below a wrapper that is in every class folder, folders are patients.
    catalog = read(fill(tmp_path / "z", "a/png/P1", "a/png/P2", "b/png/P3"))
    assert {item.group for item in catalog.items} == {"folder p1", "folder p2", "folder p3"}


def test_leftovers_and_other_files_are_ignored_each_with_a_reason(tmp_path: Path) -> None:
    fill(tmp_path, "a", "b")
    others = {
        "__MACOSX/a/._0.png": "left by an archive or a file manager",
        "a/._0.png": "left by an archive or a file manager",
        "a/Thumbs.db": "left by an archive or a file manager",
        "#recycle/old/1.png": "left by an archive or a file manager",
        "~snapshot/nightly/a/1.png": "left by an archive or a file manager",
        ".DS_Store": "left by an archive or a file manager",
        ".git/config": "hidden",
        "a/notes.txt": "not an image (.txt)",
        "b/old.zip": "an archive, which is not unpacked (.zip)",
        "b/film.gif": "a format that is not read (.gif)",
        "b/scan.TGA": "a format that is not read (.tga)",
        "b/volume.mnc": "a format that is not read (.mnc)",
        "a/IM000001": "the file is empty",
        "b/README": "not an image (no ending)",
    }
    for name in others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"\0\5\x16\7")
    picture(tmp_path / "cover.png")
    (tmp_path / "a" / "empty.dcm").touch()
    (tmp_path / "a" / "IM000001").write_bytes(b"")
    catalog = read(tmp_path)
    assert dict(catalog.ignored) == others | {"cover.png": "outside of the class folders"}
    assert catalog.refused == [("a/empty.dcm", "the file is empty")] and catalog.classes == ["a", "b"]
    assert count_reasons(catalog.ignored)["left by an archive or a file manager"] == 6


def test_formats_are_read_whatever_the_ending(tmp_path: Path) -> None:
    for i, ending in enumerate((".bmp", ".webp", ".tif", ".jfif", ".JPG", "")):
        for name in "ab":
            path = picture_as(tmp_path / name / f"{i}{ending}", {"": "PNG", ".jfif": "JPEG"}.get(ending))
            assert path.exists()
    assert read(tmp_path).files == 12
    splits = [Folder(tmp_path, 8, 1, 0, split) for split in ("train", "val", "test")]
    assert sum(part.read(i).shape == (8, 8, 1) for part in splits for i in range(len(part))) == 12


def picture_as(path: Path, kind: str | None) -> Path:
    """Write a gray picture in a format that the ending does not say."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), 90).save(path, format=kind)
    return path


AMBIGUOUS = {
    "train/a train/b val/a val/b valid/a valid/b test/a test/b": "are both val",
    "train/a train/b test/a test/b extra/a": "beside others with images: extra",
    "test control": "beside others with images: control",
    "train/a train/b": "has a train folder but no test folder",
    "test/a test/b val/a val/b": "no train folder",
    "a/train a/test b/1 b/2": "are split into folders",
    "a/images a/masks b/images b/masks": "seems to hold masks",
    "train/a train/b test/a test/b test/c": "have other classes",
    "Glioma glioma": "one name to many file systems",
    "a\\b c": "slash or backslash",
    "a\x07 b": "control character",
    "a\udcff b": "it is not UTF-8",
    "images masks": "images and masks seem to be images and their masks",
    "Images labels": "seem to be images and their masks",
    "only": "holds 1 class folder",
    "1 01 2": "'01' and '1' are one number in two spellings",
    "1 1.0": "'1' and '1.0' are one number in two spellings",
    "grade-1 grade-01": "'grade-01' and 'grade-1' are one number in two spellings",
    "train/1 train/01 test/1 test/01": "one number in two spellings",
}


@pytest.mark.parametrize("folders", AMBIGUOUS)
def test_ambiguous_layouts_and_unusable_names_are_refused(tmp_path: Path, folders: str) -> None:
    fill(tmp_path, *folders.split(" "))
    with pytest.raises(CipherwardError, match=AMBIGUOUS[folders]):
        read_layout(tmp_path, Selection())


def test_class_names_are_compared_as_file_systems_do() -> None:
    for names in (["e\u0301", "\u00e9"], ["\uff21", "a"], ["STRASSE", "stra\u00dfe"]):
        with pytest.raises(CipherwardError, match="one name"):
            require_usable_names(names, "x")
    for name in ("", ".a", "a/b", " a", "a.", "x" * 101, "é" * 101):
        with pytest.raises(CipherwardError, match="cannot be a folder's name"):
            require_usable_names([name, "b"], "x")
    for names in (["0", "00"], ["\uff11", "1"], ["1e1", "10"], ["T1", "t01"]):
        with pytest.raises(CipherwardError, match=r"one name|one number"):
            require_usable_names(names, "x")
    require_usable_names(["Größe 2-3_x", "notumor"], "x")
    require_usable_names(["1", "10", "0", "01x", "1.05", "1.5", "T1.01", "T1.1"], "x")


@pytest.mark.parametrize(
    ("twin", "name", "fault"),
    [
        ("glioma", "glioma\ufe0f", "look the same"),
        ("glioma", "glioma\u200d", "look the same"),
        ("glioma", "gli\U000e0100oma", "look the same"),
        ("COVID", "\u0421OVID", "look the same"),  # a Cyrillic letter
        ("COVID-19", "COVID\u201319", "differ by a sign alone"),
        ("no tumor", "no_tumor", "differ by a sign alone"),
        ("benign", "benign - Copy", "file manager's copy"),
        ("benign", "benign - Kopie (2)", "file manager's copy"),
        ("benign", "benign (1)", "file manager's copy"),
        ("benign", "benign copy", "file manager's copy"),
    ],
)
def test_one_class_under_two_names_is_refused(tmp_path: Path, twin: str, name: str, fault: str) -> None:
    """Each made a class of its own, of a few images that were taken from the other."""
    with pytest.raises(CipherwardError, match=re.escape(fault)):
        require_usable_names([name, "other", twin], "x")
    with pytest.raises(CipherwardError, match=re.escape(fault)):
        read_layout(fill(tmp_path, twin, "other", name), Selection())


def test_classes_that_a_sign_or_a_number_tells_apart_are_classes() -> None:
    for names in (
        ["HER2+", "HER2-", "HER2"],
        ["grade -1", "grade 1"],
        ["photo", "photocopy"],
        ["\u03b1", "a"],
    ):
        require_usable_names(names, "x")
    require_usable_names(
        ["stage (1)", "stage (2)", "\u043d\u0435\u0442", "benign (atypical)", "benign"], "x"
    )


def test_a_zip_is_named(tmp_path: Path) -> None:
    (tmp_path / "images.zip").write_bytes(b"PK\3\4")
    with pytest.raises(CipherwardError, match="is an archive, which is not unpacked"):
        read_layout(tmp_path / "images.zip", Selection())
    with pytest.raises(CipherwardError, match=r"holds an archive and no images: images\.zip"):
        read_layout(tmp_path, Selection())
    (tmp_path / "flat").mkdir()
    for i in range(3):
        picture(tmp_path / "flat" / f"{i}.png")
    with pytest.raises(CipherwardError, match="3 images are in no class folder") as error:
        read_layout(tmp_path / "flat", Selection())
    assert "--labels" in error.value.hint


def test_an_empty_class_needs_the_consortium_s_list(tmp_path: Path) -> None:
    fill(tmp_path, "benign", "malignant", n=10)
    (tmp_path / "normal").mkdir()
    with pytest.raises(CipherwardError, match="normal holds no image") as error:
        read_layout(tmp_path, Selection())
    assert "--classes benign,malignant,normal" in error.value.hint
    stated = ("normal", "malignant", "benign", "other")
    catalog = read(tmp_path, classes=stated)
    assert catalog.classes == list(stated) and {item.label for item in catalog.items} == {1, 2}
    with pytest.raises(CipherwardError, match="none of the classes that are stated"):
        read_layout(tmp_path, Selection(classes=("benign", "normal")))
    (tmp_path / "normal" / "scan.gif").write_bytes(b"GIF89a")
    with pytest.raises(CipherwardError, match=r"1 × a format that is not read \(\.gif\)"):
        read_layout(tmp_path, Selection())


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("1_train/a", "1_train/b", "2_test/a", "2_test/b"), "1_train, 2_test seem to be splits"),
        (("xray-train/a", "xray-train/b", "xray-test/a", "xray-test/b"), "seem to be splits"),
        (("fold0/a", "fold0/b", "fold1/a", "fold1/b"), "fold0, fold1 seem to be parts of one set"),
        (("part 1/a", "part 1/b", "part 2/a", "part 2/b"), "seem to be parts of one set"),
    ],
)
def test_splits_and_parts_under_other_names_are_not_taken_for_classes(
    tmp_path: Path, folders: tuple[str, ...], message: str
) -> None:
    with pytest.raises(CipherwardError, match=message):
        read(fill(tmp_path, *folders))


def test_classes_whose_names_are_like_splits_and_parts_are_classes(tmp_path: Path) -> None:
    names = ["fold", "part1", "stress test", "trained"]
    assert read(fill(tmp_path, *names)).classes == names
    assert read(fill(tmp_path / "1", "part1", "part2")).classes == ["part1", "part2"]  # images, no folders


@pytest.mark.parametrize("ending", ["_mask", "_Segmentation", "-mask"])
def test_a_mask_beside_its_image_is_no_image(tmp_path: Path, ending: str) -> None:
    root = fill(tmp_path, "a", "b")
    picture(root / "b" / f"other{ending}.png")  # without an image of its own it may be one
    assert read(root).files == 5
    picture(root / "b" / f"1{ending}.png")
    with pytest.raises(CipherwardError, match=f"1{ending}.png seems to be the mask of 1.png"):
        read(root)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("1.png", "1_mask_2.png"),  # several masks of one image
        ("1.png", "1_mask2.png"),
        ("1.png", "mask_1.png"),
        ("image_1.png", "mask_1.png"),
        ("p1_t1.png", "p1_seg.png"),  # one mask of several sequences
        ("p1.nii.gz", "p1_seg.nii.gz"),
        ("p1/1.png", "p1/masks/1.png"),
    ],
)
def test_masks_are_found_under_their_usual_names(tmp_path: Path, image: str, mask: str) -> None:
    root = fill(tmp_path, "a", "b")
    for name in (image, mask):
        picture(root / "b" / f"{name}.png")
        (root / "b" / f"{name}.png").rename(root / "b" / name)
    with pytest.raises(CipherwardError, match=r"seems to (be the mask of|hold masks)"):
        read(root, groups="none")


def test_images_whose_names_are_like_those_of_masks_are_images(tmp_path: Path) -> None:
    root = fill(tmp_path, "a", "b")
    for name in ("label_7.png", "mask.png", "p1_2.png", "p2_gt.png", "seg/1.png"):
        picture(root / "b" / name)
    assert len(read(root, groups="none").items) == 9


def test_links_to_nothing_and_pipes_are_ignored_with_their_reason(tmp_path: Path) -> None:
    root = fill(tmp_path / "images", "a", "b")
    (root / "a" / "gone.png").symlink_to("nothing.png")
    (root / "a" / "itself.png").symlink_to("itself.png")
    (root / "b" / "up").symlink_to(root)
    os.mkfifo(root / "b" / "pipe.png")
    catalog = read_layout(root, Selection())
    assert catalog.files == 4 and catalog.found == 7
    assert count_reasons(catalog.ignored) == {"a link to nothing": 2, "not a regular file": 1}
    assert "1 link to a folder that is read already is not followed, such as b/up" in catalog.notes
    picture(tmp_path / "there.png")
    (root / "a" / "linked.png").symlink_to(tmp_path / "there.png")
    assert read_layout(root, Selection()).files == 5


def test_links_that_lead_out_of_the_folder_are_followed_and_told(tmp_path: Path) -> None:
    """A link to a whole archive brought its images in without a word."""
    root = fill(tmp_path / "images", "a", "b")
    (root / "a" / "within.png").symlink_to(root / "b" / "0.png")
    assert not any("out of the folder" in note for note in read_layout(root, Selection()).notes)
    for i in range(3):
        picture(tmp_path / "archive" / "p1" / f"{i}.png", seed=90 + i)
    (root / "b" / "archive").symlink_to(tmp_path / "archive")
    (root / "b" / "one.png").symlink_to(tmp_path / "archive" / "p1" / "0.png")
    (root / "b" / "notes.txt").symlink_to("/dev/null")
    note = "2 links lead out of the folder, such as b/archive: the images there are read, too"
    assert note in read_layout(root, Selection()).notes
    (tmp_path / "l.csv").write_text("path,label\na/0.png,a\nb/archive/p1/1.png,b\n")
    notes = read_labels(root, Selection(labels=str(tmp_path / "l.csv"))).notes
    assert note.replace("2 links lead", "1 link leads") in notes


@pytest.mark.parametrize("classes", ["", "train/", "wrapper/"])
def test_a_class_that_is_a_link_to_another_is_not_left_out_in_silence(tmp_path: Path, classes: str) -> None:
    root = fill(
        tmp_path, f"{classes}a", f"{classes}b", *(("test/a", "test/b") if classes == "train/" else ())
    )
    (root / classes / "c").symlink_to(root / classes / "a")
    with pytest.raises(CipherwardError, match="c is a link to a folder that is read under another name"):
        read_layout(root, Selection())


def test_classes_called_mask_are_classes(tmp_path: Path) -> None:
    assert read(fill(tmp_path, "mask", "no mask")).classes == ["mask", "no mask"]
