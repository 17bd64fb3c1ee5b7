"""The command `check`, and how `seal` shows the same checks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from coordinator.exchange.console import progress, result, talk
from crypto.errors import CipherwardError
from crypto.plural import counted
from crypto.printable import printable
from parties.cli.image_options import ImageOptions, absolute, is_npz, with_options

if TYPE_CHECKING:
    from parties.checking.report import Report, Statements
    from parties.sealing.place import Place
    from parties.sources.folder import Folder

#: Names of unusable images that are printed.
_SHOWN = 20


@with_options()
def check(
    images: Annotated[Path, typer.Argument(help="The folder of images.", show_default=False)],
    *,
    chosen: ImageOptions,
    seed: Annotated[int, typer.Option(min=0, help="The study's seed, which splits the images.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check images before they are sealed: what is in them, what is ignored, and what a model could cheat by.

    Nothing is written. Exit status 1 if `seal` would refuse the images.
    """
    from parties.checking.report import Statements
    from parties.sealing.place import Place

    kind = "npz" if is_npz(str(images)) else "folder"
    settings = {"party": "check", "source": kind, "images": str(absolute(images)), "seed": seed}
    place = Place.from_settings(Path(), settings | chosen.settings())
    s = place.settings
    statements = Statements(chosen.channels, s.allow_leak, bool(s.classes))
    report = _report_npz(place, statements) if kind == "npz" else _report_folder(place, statements)
    if as_json:
        result.print_json(json.dumps(report.to_json()))
    else:
        _print_report(report)
    if report.errors:
        raise typer.Exit(1)


def _report_folder(place: Place, statements: Statements) -> Report:
    """Return what is in a folder of images."""
    from parties.checking.check import check as run_check
    from parties.sources.folder import Folder

    s = place.settings
    channels = statements.channels or 1
    folder = Folder(Path(s.images), s.image_size, channels, s.seed, "train", place.reading, place.selection)
    items, splits = folder.catalog.items, folder.splits
    with progress("check", len(items)) as on_progress:
        return run_check(folder, items, splits, statements, on_progress=on_progress)


def _report_npz(place: Place, statements: Statements) -> Report:
    """Return what is in a MedMNIST file."""
    from parties.checking.arrays import check_npz
    from parties.sources.npz import SPLITS, Npz

    place.plain("train")  # refuses settings that such a file does not have
    path = Path(place.settings.images)
    sides = {split: Npz(path, 8, 3, split).side for split in SPLITS}
    splits = [Npz(path, side, 3, split) for split, side in sides.items()]
    with progress("check", sum(map(len, splits))) as on_progress:
        return check_npz(splits, statements, on_progress)


def _print_report(report: Report) -> None:
    """Print a report: the table of classes and splits, then what was found."""
    # A long name is folded: the ends of two names may be all that differs.
    table = Table(Column("class", overflow="fold"), *(split for split in report.counts), "all")
    for name in report.classes:
        row = [report.counts[split][name] for split in report.counts]
        table.add_row(printable(name), *map(str, row), str(sum(row)))
    sums = [sum(counts.values()) for counts in report.counts.values()]
    table.add_row("all", *map(str, sums), str(sum(sums)), style="bold")
    if report.patients:
        patients = [report.patients[split] for split in report.counts]
        table.add_row("patients", *map(str, patients), "")
    result.print(table)
    for title, counts in (("format", report.formats), ("mode", report.modes), ("size", report.sizes)):
        shown = list(counts.items())
        rest = f", and {counted(len(shown) - 6, 'other')}" if len(shown) > 6 else ""
        result.print(f"{title}: " + ", ".join(f"{count} × {name}" for name, count in shown[:6]) + rest)
    result.print(f"colour: {report.colour} of {counted(report.looked[1], 'image')}")
    for confound in report.confounds:
        result.print(
            f"{confound.what} → class: balanced accuracy {confound.score:.2f}"
            f" ({confound.low:.2f} to {confound.high:.2f}), a guess has {confound.chance:.2f}"
        )
    for line in summary_lines(report):
        result.print(line)
    names = list(report.refused_names.items())
    for name, reason in names[:_SHOWN]:
        result.print(printable(f"  cannot use {name}: {reason}"))
    if len(names) > _SHOWN:
        result.print(f"  and {counted(len(names) - _SHOWN, 'other')}; --json lists all")
    result.print("seal would refuse these images" if report.errors else "seal would take these images")


def summary_lines(report: Report) -> list[str]:
    """Return the lines that `check` and `seal` both print: counts that add up, notes, warnings, errors."""
    refused = sum(report.refused.values())
    ignored = sum(report.ignored.values())
    lines = [
        f"{counted(report.found, 'file')}: {report.files} of images ({counted(report.images, 'image')}), "
        f"{ignored} ignored,"
        f" {report.found - report.files - ignored} refused unread"
    ]
    lines += [f"  ignored: {count} × {reason}" for reason, count in report.ignored.items()]
    lines += (
        [f"  cannot be used: {count} × {reason}" for reason, count in report.refused.items()]
        if refused
        else []
    )
    lines += report.notes
    for word, findings in (("warning", report.warnings), ("refused", report.errors)):
        for finding in findings:
            lines.append(f"{word}: {finding.message}" + (f" ({finding.hint})" if finding.hint else ""))
    return lines


def check_before_sealing(place: Place, channels_stated: bool) -> None:
    """Print the summary of a quick check of a hospital's images.

    Raises:
        CipherwardError: If the images are refused.
    """
    from parties.checking.report import Statements

    s = place.settings
    statements = Statements(
        s.channels if channels_stated else None, s.allow_leak, bool(s.classes), s.share is not None
    )
    if s.source == "npz":
        _check_npz(place, statements)
    elif s.source == "folder":
        _check_folder(place, statements)


def _check_folder(place: Place, statements: Statements) -> None:
    from parties.checking.check import check as run_check
    from parties.sealing.quarantine import forget_absent, quarantine, quarantine_line
    from parties.sources.folder import Folder
    from parties.sources.source import SPLITS, Share

    items, splits = [], []
    folder: Folder | None = None
    for split in SPLITS:
        source = place.plain(split)
        whole = source.source if isinstance(source, Share) else source
        if not isinstance(whole, Folder):
            return
        folder = folder or whole
        rows = source.rows if isinstance(source, Share) else range(len(whole))
        items += [whole.items[int(i)] for i in rows]
        splits += [split] * len(rows)
    if folder is None:
        return
    report = run_check(folder, items, splits, statements, is_sample=True)
    for line in summary_lines(report):
        if not line.startswith("refused: "):
            talk.print(line)
    talk.print(
        f"a quick look: {counted(report.looked[1], 'picture')} of {counted(report.images, 'image')}, copies by "
        "file only; "
        "cipherward-party check compares all pictures, and finds more of what predicts the class"
    )
    for finding in report.errors[1:]:
        talk.print(f"refused: {finding.message} ({finding.hint})")
    if report.errors:
        first = report.errors[0]
        raise CipherwardError(first.message, first.hint)
    names = [name for name, _ in folder.catalog.refused]
    forget_absent(place, [*(item.name for item in folder.catalog.items), *names])
    if refused := folder.catalog.refused:  # the others are listed when they are sealed
        quarantine(place, [quarantine_line(name, reason) for name, reason in refused], names)
        for name, reason in refused[:_SHOWN]:
            talk.print(f"  cannot use {name}: {reason}")
        talk.print(
            f"{counted(len(refused), 'file is', 'files are')} refused, and listed in "
            f"{place.private / 'quarantine.txt'}"
        )


def _check_npz(place: Place, statements: Statements) -> None:
    """Print what a MedMNIST file says before any image is read. Raises CipherwardError if the images are refused."""
    from parties.checking.arrays import find_in_facts
    from parties.checking.report import Report
    from parties.sources.npz import Npz
    from parties.sources.source import SPLITS, Share

    sources = [place.plain(split) for split in SPLITS]
    wholes = [source.source if isinstance(source, Share) else source for source in sources]
    splits = [whole for whole in wholes if isinstance(whole, Npz)]
    report = Report(splits[0].classes, {}, {}, found=1, files=1, images=sum(map(len, splits)), ignored={})
    find_in_facts(report, splits, statements)
    for finding in report.warnings:
        talk.print(f"warning: {finding.message}")
    for finding in report.errors[1:]:
        talk.print(f"refused: {finding.message} ({finding.hint})")
    if report.errors:
        raise CipherwardError(report.errors[0].message, report.errors[0].hint)
