"""Masks and annotations are recognised by the names that data sets give them, and images keep theirs."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from crypto.errors import CipherwardError
from parties.sources.catalog import Selection
from parties.sources.layout import read_layout
from parties.sources.masks import is_mask_folder, words_of


def fill(root: Path, *names: str) -> Path:
    """Write a picture under each name."""
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), number % 256).save(root / name, format="PNG")
    return root


@pytest.mark.parametrize(
    "mask",
    [
        "7_roi",
        "7_contour",
        "7_labelmap",
        "7_label_map",
        "7_ground_truth",
        "7_GroundTruth",
        "7_manual1",
        "7_msk",
        "7_annotated",
        "7_bbox",
        "7Mask",
        "7mask",
        "7_overlay",
        "7_Maske",
        "7_máscara",
        "mask7",
    ],
)
def test_masks_beside_their_image_are_refused_under_the_names_of_data_sets(
    tmp_path: Path, mask: str
) -> None:
    root = fill(tmp_path, "a/1.png", "a/2.png", "b/7.png", f"b/{mask}.png")
    with pytest.raises(CipherwardError, match=r"seems to be the mask of 7\.png"):
        read_layout(root, Selection())


@pytest.mark.parametrize(
    "folder",
    [
        "lung masks",
        "infection_masks",
        "leftMask",
        "Ground truth",
        "1st_manual",
        "máscaras",
        "contours",
        "Masken",
        "masks512",
    ],
)
def test_folders_of_masks_are_no_patients(tmp_path: Path, folder: str) -> None:
    names = [
        f"{kind}/{inner}/{i}.png" for kind in "ab" for inner in ("images", folder, "more") for i in range(3)
    ]
    for groups in ("folder", "none"):
        with pytest.raises(CipherwardError, match="seems to hold masks or annotations beside the images"):
            read_layout(fill(tmp_path, *names), Selection(groups=groups))


def test_files_named_as_others_with_an_unknown_word_are_told(tmp_path: Path) -> None:
    """A data set has its own word for annotations (`_HL`); views of one patient have such names, too."""
    names = [f"{kind}/{i}{end}.png" for kind in "ab" for i in range(3) for end in ("", "_HL")]
    (note,) = (n for n in read_layout(fill(tmp_path, *names), Selection()).notes if "at the end" in n)
    assert note.startswith(
        "6 files are named as others with 'hl' at the end, such as a/0_HL.png beside 0.png"
    )


def test_names_of_images_are_no_masks(tmp_path: Path) -> None:
    names = [
        "IM001.png",
        "p1L.png",
        "p1R.png",
        "3d.png",
        "p2_left.png",
        "roi_7.png",
        "manual.png",
        "masked man.png",
    ]
    catalog = read_layout(fill(tmp_path, "a/1.png", "a/2.png", *(f"b/{n}" for n in names)), Selection())
    assert len(catalog.items) == 10 and not any("at the end" in note for note in catalog.notes)
    assert words_of("leftMask") == ("left", "mask") and words_of("T1.Label_Map") == ("t1", "labelmap")
    assert not any(map(is_mask_folder, ("patient-07", "masked", "images", "seg", "p1_gt", "unmask")))
