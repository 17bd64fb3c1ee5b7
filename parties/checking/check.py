"""Check a source of images before it is sealed: what is in it, and what would make a model or its test worthless.

`cipherward-party check` looks at every image. `seal` runs the same checks on a sample (SAMPLE), so that they cost
little beside sealing, and refuses what `Report.errors` names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from crypto.arrays import Int64Array
from crypto.plural import agreeing, counted
from parties.checking.blank import find_blank
from parties.checking.confounds import measure
from parties.checking.copies import Copies, exact_copies, near_copies
from parties.checking.glance import Header, Look, look
from parties.checking.report import Finding, Report, Statements, same_under_two_classes
from parties.checking.seen import Seen, features_of, look_at, looks_of
from parties.sources.catalog import SPLITS, Item, count_reasons, group_numbers
from parties.sources.folder import Folder
from parties.sources.grouping import why_too_few

#: Images that `seal` looks at: so many headers, and so many pictures. Files that may be copies are read up to so many
#: bytes. Sealing reads every image anyway; the reasons of those that cannot be decoded come from there.
SAMPLE = (600, 200, 1 << 26)
#: `seal` refuses to make more than this share of the images gray unless it is stated: fewer are marks on gray scans.
COLOUR_REFUSED = 0.05
#: Sides that differ by a rounding of the pixels' size are equal.
SQUARE = 1.0001
_EVERYTHING = (1 << 40, 1 << 40, 1 << 40)


def check(
    folder: Folder,
    items: Sequence[Item],
    splits: Sequence[str],
    statements: Statements,
    is_sample: bool = False,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Report:
    """Return what is in a folder of images.

    Args:
        folder: The folder, of any split.
        items: The images to check: all of the folder's, or a hospital's share of them.
        splits: The split of each.
        statements: What the user has stated.
        is_sample: Look at SAMPLE of the images only, and compare no pictures.
        on_progress: Receives the number of pictures that were looked at.
    """
    report = _count(folder, items, splits, statements)
    sample = SAMPLE if is_sample else _EVERYTHING
    seen = look_at(folder, items, splits, sample, on_progress)
    _describe(report, seen)
    _find_lost_classes(report, folder, seen)
    _find_in_pixels(report, statements)
    find_blank(report, folder, seen)
    labels = _labels(items)
    exact = exact_copies(folder.path, items, splits, sample[2])
    near = Copies[int]() if is_sample else near_copies(looks_of(seen), splits, labels)
    report.exact = exact.in_two_splits
    report.near = [(items[a].name, items[b].name) for a, b in near.in_two_splits]
    report.two_classes = _under_two_classes(items, exact, near)
    report.complete = exact.is_complete and near.is_complete
    report.confounds = measure(features_of(seen), labels, group_numbers(items), is_quick=is_sample)
    _warn(report, folder, is_sample)
    return report


def _labels(items: Sequence[Item]) -> Int64Array:
    return np.array([item.label for item in items], np.int64)


def _under_two_classes(
    items: Sequence[Item], exact: Copies[str], near: Copies[int]
) -> list[tuple[str, str]]:
    """Return the pairs of pictures under two classes. Neighbouring slices of one patient are no copies."""
    pairs = {second: first for first, second in exact.under_two_classes}
    for a, b in near.under_two_classes:
        if items[b].path not in pairs and (not items[a].group or items[a].group != items[b].group):
            pairs[items[b].name] = items[a].name
    return [(first, second) for second, first in pairs.items()]


def _count(folder: Folder, items: Sequence[Item], splits: Sequence[str], statements: Statements) -> Report:
    """Return a report with what the catalog says."""
    catalog = folder.catalog
    counts = {split: dict.fromkeys(catalog.classes, 0) for split in SPLITS}
    for item, split in zip(items, splits, strict=True):
        counts[split][catalog.classes[item.label]] += 1
    named = [(item.group, s) for item, s in zip(items, splits, strict=True) if item.names_patient]
    patients = {split: len({group for group, s in named if s == split}) for split in SPLITS}
    report = Report(
        classes=catalog.classes,
        counts=counts,
        patients=patients if any(patients.values()) else {},
        found=catalog.found,
        files=catalog.files,
        images=len(items),
        ignored=count_reasons(catalog.ignored),
        ignored_names=dict(catalog.ignored),
        refused=count_reasons(catalog.refused),
        refused_names=dict(catalog.refused),
        notes=folder.notes,
    )
    _find_in_counts(report, folder, statements)
    return report


def _find_in_counts(report: Report, folder: Folder, statements: Statements) -> None:
    """Add what the counts show: classes without images, and patients in two splits."""
    empty = [name for name in report.classes if not report.counts["train"][name]]
    if empty and not statements.is_share:
        if statements.classes:
            report.notes.append(
                f"no training image of the classes {', '.join(empty)}, which the stated list names"
            )
        else:
            report.errors.append(
                Finding(
                    f"no training image of the class {empty[0]}",
                    "add images of more patients; if other hospitals have images of it, state the classes: --classes",
                )
            )
    for split in SPLITS[1:]:
        if not any(report.counts[split].values()) and not statements.is_share:
            report.errors.append(Finding(*why_too_few(folder.catalog.items, split)))
    if not statements.is_share:
        _find_untested(report, folder)
    report.crossing = len(folder.crossing)
    if report.crossing:
        text = (
            f"{counted(report.crossing, 'patient has', 'patients have')} images in two splits, so the test "
            "figures would say too much"
        )
        if statements.allow_leak:
            report.warnings.append(Finding(text, "it is allowed by allow_leak"))
        else:
            hint = "divide by patient; --groups none if the folders are no patients; --allow-leak seals them anyway"
            report.errors.append(Finding(text, hint))


def _find_untested(report: Report, folder: Folder) -> None:
    """Add the classes that training has and the test does not."""
    if not any(report.counts["test"].values()):
        return
    for label, name in enumerate(report.classes):
        if report.counts["test"][name] or not report.counts["train"][name]:
            continue
        groups = [item.group for item in folder.catalog.items if item.label == label]
        few = (
            f": its {counted(len(groups), 'image is', 'images are')} of {counted(len(set(groups)), 'patient')}"
            if all(groups)
            else ""
        )
        report.warnings.append(
            Finding(
                f"no test image of the class {name}{few}",
                "the test says nothing about it; add images of more patients, or --groups none if the folders are"
                " no patients",
            )
        )


def _describe(report: Report, seen: Seen) -> None:
    """Add formats, sizes, modes, and the images that cannot be used."""
    headers = [entry for entry in seen.headers if isinstance(entry, Header)]
    looks = [entry for entry in seen.looks if isinstance(entry, Look)]
    report.looked = (len(headers), len(looks))
    report.formats = dict(Counter(h.format for h in headers).most_common())
    report.modes = dict(Counter(h.mode for h in headers).most_common())
    report.sizes = dict(Counter(f"{h.width}×{h.height}" for h in headers).most_common())
    report.colour = sum(entry.is_colour for entry in looks)
    ratios = [header.stretch for header in headers]
    report.not_square = sum(ratio > SQUARE for ratio in ratios)
    report.stretch = max(ratios, default=1.0)
    for item, header, picture in zip(seen.items, seen.headers, seen.looks, strict=True):
        reason = next((entry for entry in (picture, header) if isinstance(entry, str)), "")
        if reason and item.name not in report.refused_names:
            report.refused_names[item.name] = reason
            report.refused[reason] = report.refused.get(reason, 0) + 1


def _find_lost_classes(report: Report, folder: Folder, seen: Seen) -> None:
    """Add the classes whose images cannot be used, none of them."""
    for split in SPLITS:
        for label, name in enumerate(report.classes):
            rows = [
                i for i, item in enumerate(seen.items) if item.label == label and seen.splits[i] == split
            ]
            usable = [i for i in rows if isinstance(seen.looks[i], Look)]
            if not rows or usable:
                continue
            reasons: Counter[str] = Counter()
            for i in rows:
                entry = seen.looks[i] or look(folder.path, seen.items[i], folder.reading)
                if isinstance(entry, Look):
                    break
                reasons[entry] += 1
            else:
                listed = "; ".join(f"{count} × {reason}" for reason, count in reasons.most_common(3))
                report.errors.append(
                    Finding(
                        f"no image of the class {name} in {split} can be used: {listed}",
                        "convert the images, state how to read them, or take these files away: then others are drawn",
                    )
                )


def _find_in_pixels(report: Report, statements: Statements) -> None:
    """Add transparency without a background, and colour that would be lost."""
    clear = [name for name, reason in report.refused_names.items() if "--background" in reason]
    report.transparent = len(clear)
    if clear:
        report.errors.append(
            Finding(
                f"{counted(len(clear), 'image is', 'images are')} transparent, such as {clear[0]}, and no "
                "background is stated",
                "state the gray value behind them: --background 0 (black) to 255 (white)",
            )
        )
    looked = report.looked[1]
    if report.colour > COLOUR_REFUSED * looked and statements.channels is None:
        report.errors.append(
            Finding(
                f"{report.colour} of {counted(looked, 'image')} {agreeing(report.colour, 'is', 'are')} in colour "
                "and would become gray",
                "--rgb keeps the colour; --gray says that you know",
            )
        )
    elif report.colour and statements.channels != 3:
        said = ", as stated" if statements.channels else ""
        report.warnings.append(
            Finding(
                f"{report.colour} of {counted(looked, 'image')} "
                f"{agreeing(report.colour, 'is in colour and becomes', 'are in colour and become')} gray{said}"
            )
        )
    elif not report.colour and looked and statements.channels == 3:
        report.warnings.append(
            Finding(
                f"none of {counted(looked, 'image')} is in colour; they are sealed with three equal channels, as "
                "stated"
            )
        )


def _count_copies(exact: int, near: int) -> str:
    """Return how many files, and how many pictures, are in two splits; what there is none of is not named."""
    parts = [f"{counted(exact, 'file is', 'files are')} in two splits"] if exact else []
    return ", and ".join(
        parts
        + ([f"{counted(near, 'picture is', 'pictures are')} nearly the same in two splits"] if near else [])
    )


def _warn(report: Report, folder: Folder, is_sample: bool) -> None:
    """Add what should be looked into."""
    add = report.warnings.append
    for text, hint in folder.catalog.doubts:
        add(Finding(text, hint))
    if report.refused and not is_sample:
        add(
            Finding(
                f"{counted(sum(report.refused.values()), 'image')} cannot be used; the reasons are listed"
            )
        )
    if folder.reading.fit == "stretch" and report.stretch > 1.02:
        add(
            Finding(
                f"{report.not_square} of {counted(report.looked[0], 'image')} "
                f"{agreeing(report.not_square, 'is', 'are')} not square; stretching changes their aspect"
                f" ratio by up to {report.stretch:.2f}",
                "--fit pad keeps the ratio and adds a border; --fit crop keeps the middle",
            )
        )
    if report.exact or report.near:
        example = (report.exact or report.near)[0]
        add(
            Finding(
                f"{_count_copies(len(report.exact), len(report.near))}, such as {example[0]} and {example[1]}",
                "the figures of the test set say too much; remove the copies, or divide again",
            )
        )
    if report.two_classes:
        add(same_under_two_classes(report.two_classes))
    if not report.complete:
        add(Finding("not all possible copies were compared: there are too many"))
    for confound in report.confounds:
        if confound.is_telling:
            removed = " (sealing removes it)" if confound.what in ("file format", "mode") else ""
            add(
                Finding(
                    f"the {confound.what} alone predicts the class: balanced accuracy {confound.score:.2f}"
                    f" ({confound.low:.2f} to {confound.high:.2f}), a guess has {confound.chance:.2f}{removed}",
                    "a model may learn this instead of the disease; see where the classes' files come from",
                )
            )
    if folder.catalog.may_show_names:
        add(
            Finding(
                f"{counted(folder.catalog.may_show_names, 'DICOM file is', 'DICOM files are')} of a kind whose "
                f"pixels often hold names, and {agreeing(folder.catalog.may_show_names, 'does', 'do')} not"
                " say whether they do",
                "look at them; nothing that is written in the pixels is removed",
            )
        )
