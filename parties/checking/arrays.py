"""Check a MedMNIST file: what is in it, copies across splits, and colour that would be lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import blake3
import numpy as np

from crypto.plural import counted
from parties.checking.blank import warn_of_blank
from parties.checking.report import Finding, Report, Statements, same_under_two_classes
from parties.sources.npz import Npz


def find_in_facts(report: Report, splits: Sequence[Npz], statements: Statements) -> None:
    """Add what shows before any image is read: colour that would be lost, and classes without training images.

    Args:
        report: The report to add to.
        splits: Train, val and test of one file.
        statements: What the user has stated.
    """
    if statements.channels is None and any(part.is_rgb for part in splits):
        report.errors.append(
            Finding(
                f"the images of {splits[0].path} are in colour and would become gray",
                "--rgb keeps the colour; --gray says that you know",
            )
        )
    train = next(part for part in splits if part.split == "train")
    counts = np.bincount(train.labels, minlength=len(train.classes))
    for name, count in zip(train.classes, counts, strict=True):
        if count or statements.is_share:
            continue
        if train.names_classes:
            report.warnings.append(Finding(f"no training image of the class {name}, which the file names"))
        else:
            report.errors.append(
                Finding(
                    f"no training image of the class {name}",
                    "number the classes from 0 without gaps; if other hospitals have images of it, name all classes"
                    " in the array classes",
                )
            )
    test = next(part for part in splits if part.split == "test")
    tested = np.bincount(test.labels, minlength=len(test.classes))
    for name, trained, count in zip(train.classes, counts, tested, strict=True):
        if trained and not count and not statements.is_share:
            hint = "the test says nothing about it; add images of the class to the test"
            report.warnings.append(Finding(f"no test image of the class {name}", hint))


def check_npz(
    splits: Sequence[Npz], statements: Statements, on_progress: Callable[[int], None] = lambda _: None
) -> Report:
    """Return what is in a MedMNIST file. Its layout, classes and labels were checked when it was opened.

    Args:
        splits: Train, val and test of one file, at the size of its own pictures.
        statements: What the user has stated.
        on_progress: Receives the number of pictures that were looked at.

    Raises:
        CipherwardError: If the images of a split are damaged.
    """
    first, images = splits[0], sum(map(len, splits))
    counts = {
        part.split: dict(
            zip(part.classes, np.bincount(part.labels, minlength=len(part.classes)).tolist(), strict=True)
        )
        for part in splits
    }
    report = Report(first.classes, counts, {}, found=1, files=1, images=images, ignored={})
    report.looked = (images, images)
    report.formats, report.colour = {"npz": images}, sum(len(part) for part in splits if part.is_rgb)
    report.modes = {m: n for m, n in (("RGB", report.colour), ("L", images - report.colour)) if n}
    seen: dict[bytes, tuple[str, str, int]] = {}
    done, blank = 0, ""
    for part in splits:
        report.sizes[part.size_text] = report.sizes.get(part.size_text, 0) + len(part)
        for row, name in enumerate(part.names):
            picture = part.read(row)
            if (picture == picture[0, 0]).all():
                report.blank, blank = report.blank + 1, blank or name
            own = (part.split, name, int(part.labels[row]))
            split, other, label = seen.setdefault(blake3.blake3(picture.tobytes()).digest(), own)
            if split != part.split:
                report.exact.append((other, name))
            if label != own[2]:
                report.two_classes.append((other, name))
            done += 1
            on_progress(done)
    find_in_facts(report, splits, statements)
    if report.blank:
        warn_of_blank(report, images, blank)
    if report.exact:
        report.warnings.append(
            Finding(
                f"{counted(len(report.exact), 'picture is', 'pictures are')} in two splits, such as "
                f"{' and '.join(report.exact[0])}",
                "the figures of the test set say too much; nearly equal pictures are not looked for in such a file",
            )
        )
    if report.two_classes:
        report.warnings.append(same_under_two_classes(report.two_classes))
    return report
