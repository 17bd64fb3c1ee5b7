"""The section of a DICOM study: each command with its time, where every file went, and what of the tags got out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.pages.markdown import rate, table

Record = Mapping[str, Any]


def dicom_study(result: Record) -> list[str]:
    """Return the lines of the section."""
    counts, found = result["counts"], result["search"]
    lines = [
        f"A folder of {counts['files']} files as a hospital copies it from its archive, and the commands of a "
        "hospital on it, one after the other. " + _files(result["made"], result["real"]),
        "",
        *_steps(result),
        "Every file and every image is somewhere; the run fails otherwise:",
        "",
        *_counts(counts),
        *table(["what is left out", "why", "number"], _reasons(result)),
    ]
    if result["warnings"]:
        lines += ["What `check` warns of:", "", *(f"- {text}" for text in result["warnings"]), ""]
    return [
        *lines,
        f"**The hospital's audit:** {result['audit']['sentence']}",
        "",
        *_study(result["study"]),
        f"**Tags:** {found['values']:,} values of identifying attributes of all files (names, identifiers, dates, "
        f"UIDs, private attributes; {found['shortest']} characters or more), as text and as plain digests, were "
        f"searched for in all {found['files']} files that the commands wrote ({found['bytes'] / 1e6:.0f} MB; "
        f"{found['files_that_may_leave']} of them may leave a hospital), in their names, and in everything that was "
        f"printed: **{found['found']} found**. The same search finds them in the DICOM files themselves. Numbers of "
        "fewer than 8 digits stand among sealed pixels by chance, and are looked for in the headers of those files.",
        "",
    ]


def _files(made: Record, real: Record) -> str:
    """Return which files the folder holds, and what of them is made up."""
    syntaxes = made["transfer_syntaxes"]
    return (
        f"**Made:** {made['images']} real brain MRI slices (JPEG files of a public data set), written as "
        f"{made['files']} MR files of {made['patients']} made-up patients, with every identifying tag filled; "
        f"{made['multi_frame_files']} files have several frames, and {len(syntaxes)} transfer syntaxes take turns "
        f"({', '.join(syntaxes)}). **Real:** {real['files']} files as they are, pydicom's own test files, broken "
        f"ones among them; the label file names {real['named']} of them as a class `other`. Which slices are of one "
        "patient is made up, because the data set does not say it."
    )


def _steps(result: Record) -> list[str]:
    """Return the table of the commands, with their processor seconds if they were counted, and the run's remark."""
    times = {"seconds": "seconds by the clock", "cpu_seconds": "processor seconds"}
    known = {name: text for name, text in times.items() if name in result["steps"][0]}
    rows = [
        [f"`{step['command']}`", str(step["status"]), *(f"{step[name]:.1f}" for name in known)]
        for step in result["steps"]
    ]
    remark = [result["remark"], ""] if "remark" in result else []
    return [*table(["command", "status", *known.values()], rows), *remark]


def _counts(counts: Record) -> list[str]:
    """Return the table of files and images, from the folder to the sealed sets."""
    sealed = counts["sealed"]
    rows = [
        ("files in the folder", counts["files"]),
        ("… of images", counts["files_of_images"]),
        ("… ignored", counts["files_ignored"]),
        ("… refused", counts["files_refused"]),
        ("images in the files of images", counts["images"]),
        ("… refused, because their pixels cannot be decoded", counts["images_refused"]),
        ("… sealed", f"{sum(sealed.values())} ({', '.join(f'{name}: {n}' for name, n in sealed.items())})"),
        (
            "… sealed by three hospitals that share them",
            " + ".join(map(str, counts["sealed_by_hospitals"])),
        ),
        ("patients, by their tags", counts["patients"]),
    ]
    return table(["what", "number"], rows)


def _reasons(result: Record) -> list[list[str]]:
    """Return why files and images are left out."""
    return [
        [kind, reason, str(number)]
        for kind in ("ignored", "refused")
        for reason, number in result[kind].items()
    ]


def _study(study: Record) -> list[str]:
    """Return what became of the study of three hospitals."""
    plain = f"; on plain images {rate(study['plain'])}" if study["plain"] else ""
    verdict = study["verdict"]
    pool = verdict["smallest_pool"]
    broken = (
        f"broken from {pool} sealed image{'' if pool == 1 else 's'}" if verdict["broken"] else "not broken"
    )
    return [
        f"**The study of {len(study['hospitals'])} hospitals:** a pool of {study['pool']['images']} sealed images, "
        f"{broken}, controls {'valid' if study['valid'] else '**not valid**'}; a small network after "
        f"{study['rounds']} rounds has {rate(study['test'])} on sealed test images{plain}. The accuracy shows that a "
        "training runs, and nothing else: patients are made up, and the class `other` is easy.",
        "",
    ]
