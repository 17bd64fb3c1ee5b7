"""Check a MedMNIST file: what is in it, copies across splits, and colour that would be lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import blake3
import numpy as np

from parties.checking.report import Finding, Report, Statements
from parties.sources.npz import Npz


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
    report.formats, report.modes = {"npz": images}, {"RGB" if first.is_rgb else "L": images}
    report.colour = images if first.is_rgb else 0
    seen: dict[bytes, tuple[str, str]] = {}
    done = 0
    for part in splits:
        report.sizes[part.size_text] = report.sizes.get(part.size_text, 0) + len(part)
        for row, name in enumerate(part.names):
            split, other = seen.setdefault(
                blake3.blake3(part.read(row).tobytes()).digest(), (part.split, name)
            )
            if split != part.split:
                report.exact.append((other, name))
            done += 1
            on_progress(done)
    if first.is_rgb and statements.channels is None:
        report.errors.append(
            Finding(
                f"the images of {first.path} are in colour and would become gray",
                "--rgb keeps the colour; --gray says that you know",
            )
        )
    for name in (name for name, count in counts["train"].items() if not count):
        report.warnings.append(Finding(f"no training image of the class {name}"))
    if report.exact:
        report.warnings.append(
            Finding(
                f"{len(report.exact)} pictures are in two splits, such as {' and '.join(report.exact[0])}",
                "the figures of the test set say too much; nearly equal pictures are not looked for in such a file",
            )
        )
    return report
