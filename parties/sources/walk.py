"""Walk a folder: every file once, and what it holds. Its first bytes say what kind of file it is, not its name."""

from __future__ import annotations

import errno
import functools
import os
import re
import stat
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal

from coordinator.exchange.image_file import (
    HOSPITAL_FORMATS,
    SIGNATURE_BYTES,
    UnreadableFormatError,
    format_of,
    open_allowed,
    open_regular,
)
from crypto.errors import CipherwardError
from crypto.plural import counted
from parties.sources import dicom, nifti
from parties.sources.picture import UndecodableImageError, decoding_errors, read_error
from parties.sources.reading import Reading

#: Endings of pictures. Such a file is refused, not ignored, if its content is none: that shows when it is read.
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp", ".webp")
#: Endings of DICOM and NIfTI files. A file with one of them is refused, not ignored, if its content is of neither.
VOLUME_ENDINGS = (".dcm", ".dicom", ".ima", ".nii", ".nii.gz")
ARCHIVE_ENDINGS = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst")
#: Endings of images that are not read.
UNREAD_ENDINGS = (
    # photographs, graphics and video
    ".gif", ".apng", ".heic", ".heif", ".avif", ".avifs", ".jp2", ".j2k", ".jpf", ".jpx", ".jpm", ".jxl", ".psd",
    ".svg", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".pcx", ".dcx", ".tga", ".sgi", ".rgb", ".rgba", ".bw", ".ras",
    ".im", ".dib", ".ico", ".icns", ".cur", ".dds", ".xbm", ".xpm", ".eps", ".emf", ".wmf", ".exr", ".hdr", ".qoi",
    ".raw", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".mp4", ".avi", ".mov", ".mkv", ".webm", ".wmv", ".pdf",
    # volumes: Analyze, FreeSurfer, ITK, MINC, AFNI, Philips, ECAT, Bruker
    ".img", ".mgz", ".mgh", ".mha", ".mhd", ".nrrd", ".nhdr", ".mnc", ".brik", ".head", ".par", ".rec",
    ".v", ".2dseq",
    # slides and microscopes
    ".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".bif", ".czi", ".lif", ".nd2", ".oib", ".oif", ".fits", ".fit",
    # arrays
    ".npy", ".npz", ".mat", ".h5", ".hdf5",
)  # fmt: skip
# Written by file managers and archivers, not by people.
_LEFTOVER_FILES = ("thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r")
_LEFTOVER_FOLDERS = (
    *("__macosx", "$recycle.bin", "recycler", "system volume information", "lost+found"),
    # of file servers: previews, deleted files and earlier states (Synology, QNAP, NetApp)
    *("@eadir", "#recycle", "@recycle", "#snapshot", "@recently-snapshot", "~snapshot"),
)
LEFTOVER, HIDDEN = "left by an archive or a file manager", "hidden"
#: How the reasons begin.
ARCHIVE, UNREAD = "an archive, which is not unpacked", "a format that is not read"
DANGLING, IRREGULAR = "a link to nothing", "not a regular file"


# How a DICOM data set without the file header begins: a tag of group 8, and a type or a small length; of a big-endian
# one, the type. Or with a part of the header: without the 128 bytes that stand before DICM, or without these, too.
_BARE_DATA_SET = re.compile(
    rb"\x08\0[\0-\x20]\0([A-Z]{2}|.[\0\x01]\0\0)|\0\x08\0[\0-\x20][A-Z]{2}|(DICM)?\x02\0[\0-\x20]\0[A-Z]{2}",
    re.DOTALL,
)


@dataclass
class Tree:
    """What is below a folder. Paths are relative to it, with slashes.

    Attributes:
        folders: Every folder that is not ignored.
        files: Every file that is not ignored for its name.
        ignored: The other files, each with the reason.
        links: Links to folders that are listed already under another name. They are not followed.
        outside: Links to files and folders outside of the folder. They are followed.
    """

    folders: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    ignored: list[tuple[str, str]] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    outside: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Parts:
    """What a file holds: a picture, or the frames of a DICOM file, or the slices of a volume."""

    kind: Literal["picture", "DICOM", "NIfTI"] = "picture"
    count: int = 1
    group: str = ""
    may_show_names: bool = False
    is_recognizable: bool = False


def without_ending(name: str) -> str:
    """Return a file's path without its ending. `.nii.gz` is one ending."""
    if name.lower().endswith(".nii.gz"):
        return name[: -len(".nii.gz")]
    return str(PurePosixPath(name).with_suffix(""))


def _leftover(name: str, is_folder: bool) -> str:
    """Return why a file or folder is ignored for its name; empty if it is not."""
    if name.casefold() in (_LEFTOVER_FOLDERS if is_folder else _LEFTOVER_FILES) or name.startswith("._"):
        return LEFTOVER
    if name == ".DS_Store":
        return LEFTOVER
    return HIDDEN if name.startswith(".") else ""


def _no_file(path: Path) -> str:
    """Return why a path that is listed as a file is none; empty if it is one, or the system does not say."""
    try:
        return "" if stat.S_ISREG(path.stat().st_mode) else IRREGULAR
    except OSError as error:
        return DANGLING if error.errno in (errno.ENOENT, errno.ELOOP) else ""


def walk(root: Path) -> Tree:
    """Return what is below a folder, in a fixed order. Links are followed, each folder once.

    Raises:
        CipherwardError: If a folder cannot be listed.
    """
    tree, visited, inside = Tree(), set[tuple[int, int]](), root.resolve()
    reasons: dict[str, str] = {}  # of the ignored folders

    def stop(error: OSError) -> None:
        raise read_error(Path(error.filename), error) from None

    for path, subfolders, names in os.walk(root, onerror=stop, followlinks=True):
        status = Path(path).stat()
        prefix = "" if path == str(root) else path[len(str(root).rstrip("/")) + 1 :] + "/"
        if (status.st_dev, status.st_ino) in visited:  # reached by another link: count once, and end loops
            if not reasons.get(prefix):
                tree.links.append(prefix[:-1])
            subfolders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        subfolders.sort()
        inherited = reasons.get(prefix, "")
        if prefix and not inherited:
            tree.folders.append(prefix[:-1])
        for name in subfolders:
            if reason := inherited or _leftover(name, True):
                reasons[f"{prefix}{name}/"] = reason
        for name in (*subfolders, *names):
            place = Path(path, name)
            # Path.resolve raises at a link to itself.
            if place.is_symlink() and not Path(os.path.realpath(place)).is_relative_to(inside):
                tree.outside.add(prefix + name)
        for name in names:
            if reason := inherited or _leftover(name, False) or _no_file(Path(path, name)):
                tree.ignored.append((prefix + name, reason))
            else:
                tree.files.append(prefix + name)
    tree.files.sort(key=lambda name: name.split("/"))
    tree.ignored.sort(key=lambda entry: entry[0].split("/"))
    tree.folders.sort(key=lambda name: name.split("/"))
    return tree


def note_of_links(tree: Tree, images: Iterable[str]) -> list[str]:
    """Return a line about the links by which images outside of the folder are read; none if there is no such link."""
    if not tree.outside:
        return []
    used = set[str]()
    for name in images:
        steps = name.split("/")
        used |= tree.outside.intersection("/".join(steps[:end]) for end in range(1, len(steps) + 1))
    if not used:
        return []
    return [
        f"{counted(len(used), 'link leads', 'links lead')} out of the folder, such as {min(used)}: "
        "the images there are read, too"
    ]


def doubts_of_recognizable(parts: Iterable[Parts]) -> list[tuple[str, str]]:
    """Return how many DICOM files say that their patient can be recognised, and what to do; nothing if none does."""
    if not (count := sum(part.is_recognizable for part in parts)):
        return []
    files = counted(count, "DICOM file says", "DICOM files say")
    return [
        (
            f"{files} that the patient can be recognised in the picture, such as by the face "
            "(RecognizableVisualFeatures)",
            "whoever opens such a sealed image sees who it is; remove the faces, or leave these images out",
        )
    ]


def look(root: Path, name: str, reading: Reading) -> Parts:
    """Return what a file holds. Its first bytes are read whatever its name: a DICOM file's tags name a patient.

    Raises:
        UnreadableFormatError: If the file is none that is read; its text is the reason to ignore it.
        UndecodableImageError: If it is one, and cannot be used.
        CipherwardError: If the system cannot read it.
    """
    path = f"{root}/{name}"  # a Path for each picture would take as long as all the rest
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError as error:
        raise read_error(Path(path), error) from None
    return _look_inside(path, status.st_size, status.st_mtime_ns, reading)


_PICTURE = Parts()


@functools.lru_cache(maxsize=1 << 18)  # three splits list the same files
def _look_inside(place: str, _size: int, _time: int, reading: Reading) -> Parts:
    path, start = Path(place), b""
    with decoding_errors(path):
        name = path.name.lower()
        try:
            with open_regular(path) as file:
                start = file.read(SIGNATURE_BYTES)
                kind = format_of(start, HOSPITAL_FORMATS)
                if kind == "NIfTI" and not name.endswith((".nii", ".nii.gz")) and _is_archive(start, file):
                    raise UnreadableFormatError("a compressed file that holds no NIfTI volume")
        except UnreadableFormatError as error:
            if name.endswith(PICTURE_ENDINGS):
                return _PICTURE
            is_bare = _BARE_DATA_SET.match(start) is not None
            if is_bare or name.endswith(VOLUME_ENDINGS):
                raise _no_volume(path, str(error), is_bare) from None
            raise _IgnoredError(_why_ignored(path.name, str(error))) from None
        if kind not in ("DICOM", "NIfTI"):
            return _PICTURE
        with open_allowed(path, HOSPITAL_FORMATS) as (_, file):
            if kind == "DICOM":
                try:
                    header = dicom.read_header(file, reading)
                except dicom.DirectoryError as error:
                    raise _IgnoredError(str(error)) from None
                return Parts(
                    "DICOM", header.frames, header.group, header.may_show_names, header.is_recognizable
                )
            return Parts("NIfTI", nifti.slice_count(file)[0])


def _is_archive(start: bytes, file: BinaryIO) -> bool:
    """Return whether a file is compressed, and its content does not begin as a NIfTI volume.

    Args:
        start: Its first SIGNATURE_BYTES.
        file: What follows them.
    """
    if not start.startswith(b"\x1f\x8b"):
        return False
    try:
        data = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(
            start + file.read(1 << 12), SIGNATURE_BYTES
        )
        return data.startswith(b"\x1f\x8b") or format_of(data, ("NIfTI",)) != "NIfTI"
    except (zlib.error, UnreadableFormatError):
        return True


class _IgnoredError(CipherwardError):
    """A file that is no image. Its message is the reason."""


def ignored_reason(error: CipherwardError) -> str:
    """Return the reason of an error of `look` that means that the file is no image; empty for other errors."""
    return error.message if isinstance(error, _IgnoredError) else ""


def _no_volume(path: Path, reason: str, is_bare: bool) -> UndecodableImageError:
    is_dicom = path.name.lower().endswith((".dcm", ".dicom", ".ima"))
    if is_bare or (is_dicom and "empty" not in reason and "LFS" not in reason):
        reason = (
            "no DICM after 128 bytes: not a DICOM file, or a data set without file header; export it again"
        )
    return UndecodableImageError(f"cannot decode {path}: {reason}", reason)


def _why_ignored(name: str, reason: str) -> str:
    """Return the reason to ignore a file, in words that many files share."""
    ending = PurePosixPath(name).suffix.lower()
    if ending in ARCHIVE_ENDINGS:
        return f"{ARCHIVE} ({ending})"
    if ending in UNREAD_ENDINGS:
        return f"{UNREAD} ({ending})"
    if "not a regular file" in reason or "empty" in reason:
        return reason
    return f"not an image ({ending or 'no ending'})"
