"""Recognise how a folder of images is laid out: where its splits, its classes and its patients are.

    glioma/0001.jpg                  a folder for each class
    glioma/patient-07/0001.jpg       a folder inside it is a patient (patients.py)
    Training/glioma/…  Testing/…     splits above the classes, under their usual names, in any case
    glioma/train/…                   or below them
    brain-mri/Training/…             all of it inside a single folder

A layout that could mean two things is refused by name.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from crypto.errors import CipherwardError
from crypto.plural import agreeing, counted
from parties.sources.catalog import Catalog, Item, Selection
from parties.sources.class_names import normalized, require_usable_names
from parties.sources.found import Found
from parties.sources.masks import is_mask_folder, notes_of_companions, refuse_masks, refuse_masks_as_class
from parties.sources.patients import FOLDER_PATTERN, NAME_PATTERN, Grouper, note_of_names
from parties.sources.reading import Reading
from parties.sources.walk import (
    ARCHIVE,
    ARCHIVE_ENDINGS,
    DANGLING,
    UNREAD,
    doubts_of_recognizable,
    note_of_links,
    walk,
)

#: The names of split folders, in lower case.
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "trainset", "train_set"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "val_set"), "val"),
    **dict.fromkeys(("test", "testing", "testset", "test_set"), "test"),
}
_FOLD = re.compile(r"(cv|fold|part|batch|chunk|shard)[ _-]?\d+")
#: A class is told of which more than this share of the files is in a format that is not read. Chosen by hand.
_UNREAD_SHARE = 0.1
_HINT = "put the images into one folder for each class"


def require_folder(path: Path) -> None:
    """Raise CipherwardError if a path is no folder; an archive is named."""
    if path.is_file():
        if path.name.lower().endswith(ARCHIVE_ENDINGS):
            raise CipherwardError(
                f"{path} is an archive, which is not unpacked", "unpack it, and name its folder"
            )
        raise CipherwardError(f"{path} is a file, not a folder", "name the folder that holds the images")
    if not path.is_dir():
        raise CipherwardError(
            f"no image folder at {path}", "name a folder that holds one folder of images for each class"
        )


def read_layout(root: Path, selection: Selection) -> Catalog:
    """Return the catalog of a folder of class folders.

    Raises:
        CipherwardError: If the layout is not recognised, or could mean two things; if a class name cannot be used, or
            a class has no image and is not stated as one of the consortium.
    """
    require_folder(root)
    if selection.hospital:
        raise CipherwardError(
            "a hospital is named, and no label file says which images are its own",
            "name one: --labels FILE.csv",
        )
    found = Found(root, walk(root), Reading(allow_burned_in=selection.allow_burned_in))
    found.look_at_all()
    top = _unwrap(found)
    folders = _class_folders(found, top, selection)  # (split, class name, folder)
    _check_links(found, top, folders)
    classes = _check_classes(found, top, folders, selection)
    items: list[Item] = []
    group_of = Grouper(found, selection, [folder for _, _, folder in folders])
    for split, name, folder in folders:
        for image in found.images(folder):
            parts, group = found.parts[image], group_of(image)
            for part in range(parts.count) if parts.kind != "picture" else (-1,):
                items.append(Item(image, classes.index(name), split, group, part))
    listed = {item.path for item in items}
    found.ignored += [(name, "outside of the class folders") for name in found.parts if name not in listed]
    found.notes += note_of_links(found.tree, sorted(listed))
    found.notes += group_of.notes()
    if selection.groups in ("folder", "tags"):
        remedy = f"If they are patients: --groups {NAME_PATTERN}; if not: --groups none"
        found.notes += note_of_names((item.path for item in items if not item.group), remedy)
    silent = sum(parts.may_show_names for name, parts in found.parts.items() if name in listed)
    doubts = _doubts(found, top, folders)
    doubts += doubts_of_recognizable(parts for name, parts in found.parts.items() if name in listed)
    return Catalog(root, classes, items, found.ignored, found.refused, found.notes, silent, doubts)


def _doubts(found: Found, top: str, folders: list[tuple[str, str, str]]) -> list[tuple[str, str]]:
    """Return what may be missing among the classes, each with what to do about it.

    An archive or a link to nothing beside the class folders may be a class. A class of which a part has another
    format is smaller than the hospital thinks.
    """
    places = {top, *(folder.rpartition("/")[0] for _, _, folder in folders)}
    doubts = []
    for name, reason in sorted(found.ignored):
        if name.rpartition("/")[0] in places and reason.startswith((ARCHIVE, DANGLING)):
            what = "an archive, which is not unpacked," if reason.startswith(ARCHIVE) else reason
            doubts.append(
                (
                    f"{name} is {what} beside the class folders",
                    "if it is a class, or a part of one, unpack or mend it; otherwise take it away",
                )
            )
    for _, _, folder in folders:
        unread = [
            reason
            for name, reason in found.ignored
            if name.startswith(f"{folder}/") and reason.startswith((ARCHIVE, UNREAD, DANGLING))
        ]
        total = len(unread) + len(found.images(folder))
        if len(unread) > _UNREAD_SHARE * total:
            reasons = ", ".join(f"{count} × {reason}" for reason, count in Counter(unread).most_common(3))
            left_out = f"{len(unread)} of {counted(total, 'file')} in {folder}"
            doubts.append(
                (
                    f"{left_out} {agreeing(len(unread), 'is', 'are')} left out: {reasons}",
                    "convert or unpack them, if they are images of the class",
                )
            )
    return doubts


def _check_links(found: Found, top: str, folders: list[tuple[str, str, str]]) -> None:
    """Say which links are not followed. Raises CipherwardError if one stands where a class or a split is expected."""
    places = {top, *(folder.rpartition("/")[0] for _, _, folder in folders)}
    for link in found.tree.links:
        if link.rpartition("/")[0] in places:
            raise CipherwardError(
                f"{found.path(link)} is a link to a folder that is read under another name already",
                "remove the link: each class and each split needs a folder of its own",
            )
    if links := found.tree.links:
        what = counted(
            len(links),
            "link to a folder that is read already is",
            "links to folders that are read already are",
        )
        found.notes.append(f"{what} not followed, such as {links[0]}")


def _unwrap(found: Found) -> str:
    """Return the folder that holds the splits or the classes: the root, or the only folder in it."""
    top = ""
    while True:
        names = found.children(top)
        is_wrapper = (
            len(names) == 1 and names[0].casefold() not in SPLIT_NAMES and not found.direct_images(top)
        )
        inner = f"{top}/{names[0]}".lstrip("/") if names else ""
        if not is_wrapper or not found.children(inner) or found.direct_images(inner):
            break
        top = inner
    if top:
        found.notes.append(f"the images are in the folder {top}")
    return top


def _class_folders(found: Found, top: str, selection: Selection) -> list[tuple[str, str, str]]:
    """Return (split, class name, folder) of every class folder; the split is empty if the folders do not say it."""

    def below(folder: str) -> list[tuple[str, str]]:
        return [(normalized(name), f"{folder}/{name}".lstrip("/")) for name in found.children(folder)]

    splits = [(SPLIT_NAMES[n.casefold()], f) for n, f in below(top) if n.casefold() in SPLIT_NAMES]
    if splits:
        others = [f for n, f in below(top) if n.casefold() not in SPLIT_NAMES and found.images(f)]
        _check_splits(found, top, splits, others)
        return [(split, name, inner) for split, folder in splits for name, inner in below(folder)]
    _refuse_alike(found, top)
    inside = {folder: below(folder) for _, folder in below(top)}
    if not any(n.casefold() in SPLIT_NAMES for names in inside.values() for n, _ in names):
        if selection.groups == "folder":
            _refuse_equal_inside(found, top)
        return [("", name, folder) for name, folder in below(top)]
    result = []
    for name, folder in below(top):
        inner_splits = [(SPLIT_NAMES.get(n.casefold(), ""), f) for n, f in inside[folder]]
        if found.direct_images(folder) or not inner_splits or not all(split for split, _ in inner_splits):
            raise CipherwardError(
                f"some classes of {found.path(top)} are split into folders, {found.path(folder)} is not",
                f"make train, val and test folders with the same class folders, or {_HINT}",
            )
        _check_splits(found, folder, inner_splits, [])
        result += [(split, name, inner) for split, inner in inner_splits]
    return sorted(result, key=lambda row: row[0] != "train")


def _refuse_alike(found: Found, top: str) -> None:
    """Raise CipherwardError if folders are no classes by their names: `1_train` and `2_test`, `fold0` and `fold1`."""
    names = [name for name in found.children(top) if found.images(f"{top}/{name}".lstrip("/"))]
    words = {name: set(re.findall(r"[a-z]+", name.casefold())) for name in names}
    splits = {name: {SPLIT_NAMES[word] for word in words[name] & SPLIT_NAMES.keys()} for name in names}
    if {"train", "test"} <= set().union(*splits.values()):
        first = next(name for name in names if splits[name])
        raise CipherwardError(
            f"{found.path(top)}: the folders {', '.join(names[:5])} seem to be splits, and not classes",
            f"rename {first} to {min(splits[first])}, and the others likewise: train, val and test",
        )
    folds = [name for name in names if _FOLD.fullmatch(name.casefold())]
    if len(folds) == len(names) > 1 and any(found.children(f"{top}/{name}".lstrip("/")) for name in folds):
        raise CipherwardError(
            f"{found.path(top)}: the folders {', '.join(folds[:5])} seem to be parts of one set, and not classes",
            "join them, or make train, val and test folders of them; class folders come next",
        )


def _refuse_equal_inside(found: Found, top: str) -> None:
    """Raise CipherwardError if folders all hold the same folders of words: they may be splits or sites, not classes.

    Patients' folders have numbers, or are others in each class. The inner ones, which may be the classes, would be
    taken for patients.
    """
    inside = {
        name: {n.casefold() for n in found.children(name) if found.images(f"{name}/{n}")}
        for folder in found.children(top)
        if found.images(name := f"{top}/{folder}".lstrip("/"))
    }
    words = set.intersection(*inside.values()) if inside else set[str]()
    has_number = any(letter.isdigit() for word in words for letter in word)
    is_equal = len(inside) > 1 and len(words) > 1 and set.union(*inside.values()) == words
    are_masks = any(
        is_mask_folder(n) for f in found.children(top) for n in found.children(f"{top}/{f}".lstrip("/"))
    )
    if is_equal and not has_number and not are_masks:  # masks are refused by their own name
        outer, inner = (", ".join(sorted(names)[:5]) for names in (inside, words))
        raise CipherwardError(
            f"{found.path(top)}: the folders {outer} all hold {inner}: either could be the classes",
            "call splits train, val and test; if the outer folders are the classes, --groups none says that the "
            f"inner ones are no patients, --groups {FOLDER_PATTERN} that they are",
        )


def _check_splits(found: Found, top: str, splits: list[tuple[str, str]], others: list[str]) -> None:
    """Raise CipherwardError if split folders are ambiguous or one is missing."""
    count = Counter(split for split, _ in splits)
    for split, times in count.items():
        if times > 1:
            names = " and ".join(folder.rsplit("/", 1)[-1] for name, folder in splits if name == split)
            raise CipherwardError(
                f"{found.path(top)}: the folders {names} are both {split}", "join them, or rename one"
            )
    if others:
        raise CipherwardError(
            f"{found.path(top)} holds a folder named {splits[0][1].rsplit('/', 1)[-1]} beside others with images: "
            f"{', '.join(name.rsplit('/', 1)[-1] for name in others[:5])}",
            "keep only train, val and test folders there, or only class folders; rename a class that is called so",
        )
    for needed in ("train", "test"):
        if needed not in count:
            there = ", ".join(folder.rsplit("/", 1)[-1] for _, folder in splits)
            raise CipherwardError(
                f"{found.path(top)} has a {there} folder but no {needed} folder",
                "make train, val and test folders, or none of them: then the images are split automatically",
            )


def _check_classes(
    found: Found, top: str, folders: list[tuple[str, str, str]], selection: Selection
) -> list[str]:
    """Return the class names in their order. Raises CipherwardError if the folders do not make labelled images."""
    by_split: dict[str, dict[str, str]] = {}
    for split, name, folder in folders:
        by_split.setdefault(split, {})[name] = folder
    reference = next((s for s in ("train", "") if s in by_split), "")
    names = sorted(by_split.get(reference, {}))
    first = next((folder for split, _, folder in folders if split == reference), top)
    place = found.path(first).parent if reference else found.path(top)
    require_usable_names([name for split, name, _ in folders if split == reference], str(place))
    if selection.classes:
        require_usable_names(selection.classes, "the list of classes")
        for _, name, folder in folders:
            if name not in selection.classes:
                raise CipherwardError(
                    f"{found.path(folder)} is none of the classes that are stated: {', '.join(selection.classes)}",
                    "remove or rename the folder, or state the consortium's classes with --classes",
                )
        names = list(selection.classes)
    if len(names) < 2:
        raise _too_few_classes(found, top, names)
    named: dict[tuple[str, ...], str] = {}
    for split, inner in by_split.items():
        if not selection.classes and sorted(inner) != names:
            raise CipherwardError(
                f"{found.path(top)}: {split} and {reference} have other classes: {', '.join(sorted(inner))} against "
                f"{', '.join(names)}",
                "every split needs the same class folders, otherwise labels do not mean the same",
            )
        for folder in inner.values():
            if not selection.classes and not found.images(folder):
                rest = found.describe_rest(folder)
                raise CipherwardError(
                    f"{found.path(folder)} holds no image that is read" + (f": {rest}" if rest else ""),
                    "add images to the folder, or remove it; if other hospitals have images of the class, "
                    f"state the consortium's classes: --classes {','.join(names)}",
                )
            named |= refuse_masks(found, folder)
    found.notes += notes_of_companions(named)
    refuse_masks_as_class(place, names, selection, _HINT)
    return names


def _too_few_classes(found: Found, top: str, names: list[str]) -> CipherwardError:
    archives = [n for n, _ in found.ignored if n.lower().endswith(ARCHIVE_ENDINGS)]
    if archives and not found.parts:
        return CipherwardError(
            f"{found.root} holds an archive and no images: {archives[0]}", "unpack it, and name its folder"
        )
    flat = len(found.direct_images(top))
    return CipherwardError(
        f"{found.path(top)} holds {counted(len(names), 'class folder')}; at least two are needed"
        + (f" ({counted(flat, 'image is', 'images are')} in no class folder)" if flat else ""),
        f"{_HINT}, such as {found.path(top)}/tumor and {found.path(top)}/healthy"
        + (", or name a label file: --labels FILE.csv" if flat else ""),
    )
