"""Recognise masks and annotations by the names of files and folders: they are no images of patients.

0001.png  0001_mask.png  mask_0001.png  0001Mask.png      beside their image
glioma/images/0001.png   glioma/lung masks/0001.png       in a folder of their own, at any depth
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from crypto.errors import CipherwardError
from crypto.plural import counted
from parties.sources.catalog import Selection
from parties.sources.found import Found
from parties.sources.walk import without_ending

# Words for masks and annotations, without accents: in English, German, French, Italian, Portuguese and Spanish.
_MASKS = frozenset(
    (
        "mask",
        "masks",
        "msk",
        "maske",
        "masken",
        "masque",
        "masques",
        "mascara",
        "mascaras",
        "maschera",
        "maschere",
    )
)
_DRAWN = frozenset(
    (
        *(
            "annotation",
            "annotations",
            "segmentation",
            "segmentations",
            "groundtruth",
            "labelmap",
            "labelmaps",
        ),
        *("bbox", "contour", "contours", "heatmap", "heatmaps", "overlay", "overlays", "manual"),
    )
)
# The last word of a folder that holds them: `masks`, `lung masks`, `leftMask`, `1st_manual`.
_FOLDER_WORDS = _MASKS | _DRAWN
# Words at the beginning or the end of a mask's name; a number may follow the last: `0001_mask_2`.
_FILE_WORDS = _FOLDER_WORDS | {
    "seg",
    "segmented",
    "gt",
    "label",
    "labels",
    "annot",
    "annotated",
    "roi",
    "rois",
}
# Two words that are one.
_JOINED = {("ground", "truth"), ("label", "map"), ("label", "maps"), ("heat", "map"), ("heat", "maps")}
# Between words: a sign, a capital after a small letter (`leftMask`), a letter after a digit (`0001mask`).
_WORD_BREAK = re.compile(r"[ _.-]+|(?<=[^\W\d_A-Z])(?=[A-Z])|(?<=\d)(?=[^\W\d_])")
# What the folder of the images themselves is called beside a folder of masks.
_IMAGES = frozenset(
    ("image", "images", "img", "imgs", "scan", "scans", "picture", "pictures", "jpegimages")
)
_NUMBERED = re.compile(r"([a-z]+)(\d+)")
#: So many files that are named as others with the same word at the end are told.
_TOLD = 3


def words_of(name: str) -> tuple[str, ...]:
    """Return the words of a name, in lower case and without accents."""
    letters = unicodedata.normalize("NFKD", name.strip())
    plain = "".join(letter for letter in letters if not unicodedata.combining(letter))
    words = [word.casefold() for word in _WORD_BREAK.split(plain)]
    for i in range(len(words) - 1, 0, -1):
        if (words[i - 1], words[i]) in _JOINED:
            words[i - 1 : i + 1] = ["".join(words[i - 1 : i + 1])]
    first = _NUMBERED.fullmatch(words[0])  # mask7 beside image7
    if first and first[1] in _FILE_WORDS | _IMAGES:
        words[:1] = first.groups()
    return tuple(words)


def is_mask_folder(name: str) -> bool:
    """Return whether a folder's name says that masks or annotations are in it."""
    words = [word for word in words_of(name) if not word.isdigit()]
    return bool(words) and words[-1] in _FOLDER_WORDS


def refuse_masks_as_class(place: Path, names: list[str], selection: Selection, hint: str) -> None:
    """Raise CipherwardError if folders are no classes: `masks`, or `images` and, beside it, `labels`.

    Args:
        place: The folder that holds them.
        names: Of the class folders.
        selection: Its stated classes may have such names.
        hint: What else to do with images and their masks.
    """
    images = [name for name in names if name.casefold() in _IMAGES]
    alone = {name: words[0] for name in names if len(words := words_of(name)) == 1}
    others = [name for name in names if is_mask_folder(name) or name.casefold() in ("label", "labels")]
    if images and others:
        raise CipherwardError(
            f"{place}: the folders {images[0]} and {others[0]} seem to be images and their masks, and not classes",
            f"{hint}, or name a label file: --labels FILE.csv",
        )
    # People wear a mask.
    masks = [
        name for name, word in alone.items() if word in _FOLDER_WORDS and word not in ("mask", "manual")
    ]
    if masks and len(names) > 2 and masks[0] not in selection.classes:
        raise CipherwardError(
            f"{place}: the folder {masks[0]} seems to hold masks or annotations, and no class",
            f"move it away; if it is a class, state the classes: --classes {','.join(names)}",
        )


def refuse_masks(found: Found, folder: str) -> dict[tuple[str, ...], str]:
    """Return the images of a class folder by their own folder and the words of their names.

    Raises:
        CipherwardError: If it holds masks: in a folder of their own, or beside their images.
    """
    hint = "what is left in a class folder is sealed as images of the class"
    for name in found.images(folder):
        steps = name[len(folder) + 1 :].split("/")[:-1]
        for depth, step in enumerate(steps):
            if is_mask_folder(step):
                masks = found.root.joinpath(folder, *steps[: depth + 1])
                raise CipherwardError(
                    f"{masks} seems to hold masks or annotations beside the images", f"move it away: {hint}"
                )
    named = dict[tuple[str, ...], str]()  # the words that masks of an image may have: the image
    whole = dict[tuple[str, ...], str]()  # all words of an image
    masks_of: list[tuple[str, tuple[str, ...]]] = []
    for name in found.images(folder):
        place, _, file = without_ending(name).rpartition("/")
        words = words_of(file)
        if image := _without_mask_word(words):
            masks_of.append((name, (place, *image)))
            continue
        whole[(place, *words)] = name
        named.setdefault((place, *words), name)
        for end in range(1, len(words)):  # patient_t1 and patient_t2, of which patient_seg is a mask
            named.setdefault((place, *words[:end]), name)
        if words[0] in _IMAGES:  # image_1, of which mask_1 is one
            named.setdefault((place, *words[1:]), name)
    for name, image in masks_of:
        if image in named:
            raise CipherwardError(
                f"{found.root / name} seems to be the mask of {PurePosixPath(named[image]).name}",
                f"move the masks away: {hint}",
            )
    return whole


def _without_mask_word(words: Sequence[str]) -> tuple[str, ...]:
    """Return the words of a mask's name that name its image; empty if it is no mask's name."""
    kept = tuple(words[:-1] if len(words) > 2 and words[-1].isdigit() else words)
    if kept[-1].rstrip("0123456789") in _FILE_WORDS:
        return kept[:-1]
    return tuple(words[1:]) if words[0] in _FILE_WORDS else ()


def notes_of_companions(whole: Mapping[tuple[str, ...], str]) -> list[str]:
    """Return a line about files that are named as others, with a word at the end that no list of ours knows.

    Args:
        whole: Images by their folder and the words of their names, as `refuse_masks` returns them.
    """
    companions = defaultdict[str, list[tuple[str, str]]](list)
    for words, name in whole.items():
        if len(words) > 2 and words[-1].isalpha() and (image := whole.get(words[:-1])):
            companions[words[-1]].append((name, image))
    return [
        f"{counted(len(pairs), 'file is', 'files are')} named as others with {word!r} at the end, such as "
        f"{pairs[0][0]} beside {PurePosixPath(pairs[0][1]).name}: if they are masks or annotations, move them away"
        for word, pairs in companions.items()
        if len(pairs) >= _TOLD
    ]
