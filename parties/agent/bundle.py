"""An app bundle (Flower's FAB, a ZIP archive): its files, and how they differ from code that the hospital knows.

Nothing is unpacked here, and nothing in a bundle runs.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import stat
import tomllib
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from coordinator.exchange.app_files import app_files
from crypto.archive import DAMAGE, read_members
from crypto.errors import CipherwardError

#: The largest bundle that is looked at, in bytes and in files. Ours has about 1 MB and 120 files.
_MAX_BYTES, _MAX_FILES = 64 << 20, 5000
_MAX_FILE_BYTES = 8 << 20
#: Flower's own list of digests inside a bundle; it says nothing about the code.
_INFO = ".info/"


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read.

    Attributes:
        sha256: hex SHA-256 of the archive's bytes. Flower and the approvals name a bundle by it.
        app: the app's name and version, as the bundle states them.
        files: the content by path, without Flower's own list.
        data: the archive's bytes.
    """

    sha256: str
    app: str
    files: Mapping[str, bytes]
    data: bytes


@dataclass(frozen=True)
class FileChange:
    """A file in which a bundle differs from other code.

    Attributes:
        path: the file's path in the bundle.
        kind: new, changed or removed.
        diff: a unified diff, without line ends; one line says so if the file is not text.
    """

    path: str
    kind: str
    diff: tuple[str, ...]


def read_bundle(path: Path) -> Bundle:
    """Read a bundle file. Raises CipherwardError if it is missing or no bundle."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
            raise CipherwardError(f"{path} is no file", "name the coordinator's .fab file")
        if path.stat().st_size > _MAX_BYTES:
            raise CipherwardError(f"{path} is too large for an app bundle", "name the .fab file")
        return parse_bundle(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise CipherwardError(f"no app bundle at {path}", "name the coordinator's .fab file") from None
    except OSError as error:
        raise CipherwardError(
            f"cannot read {path}: {type(error).__name__}",
            "name the coordinator's .fab file, and let the user who runs this command read it",
        ) from None


def parse_bundle(data: bytes, where: str) -> Bundle:
    """Return the bundle in these bytes.

    Args:
        data: the archive.
        where: what to call it in an error.

    Raises:
        CipherwardError: if it is no archive, is too large, or holds a path that leads out of its folder.
    """
    hint = "ask the coordinator for the bundle again"
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            too_large = CipherwardError(f"{where} is too large for an app bundle", hint)
            found = read_members(archive, _MAX_BYTES, _MAX_FILES, too_large)
        files = dict(found)
        if len(files) < len(found):
            raise CipherwardError(f"{where} holds a file twice", hint)
        app = tomllib.loads(files["pyproject.toml"].decode())["project"]
        name = f"{app['name']} {app['version']}"
    except KeyError:
        raise CipherwardError(f"{where} is no app bundle: it describes no app", hint) from None
    except (*DAMAGE, TypeError) as error:
        raise CipherwardError(f"{where} is no app bundle: {type(error).__name__}", hint) from None
    for path in files:
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or "\\" in path:
            raise CipherwardError(f"{where} holds a path that leads out of it: {path}", hint)
    _require_one_place_each(files, where, hint)
    own = {path: content for path, content in files.items() if not path.startswith(_INFO)}
    return Bundle(hashlib.sha256(data).hexdigest(), name[:100], own, data)


def _require_one_place_each(paths: Collection[str], where: str, hint: str) -> None:
    """Raise CipherwardError if two files would be unpacked to one place.

    What is shown of a/b.py would not be what runs if the bundle holds a/./b.py, too, or A/b.py and the disk does not
    tell large letters from small ones, or an accented letter from a letter and its accent.
    """
    for path in paths:
        if str(PurePosixPath(path)) != path:
            raise CipherwardError(f"{where} holds a path that is not written plainly: {path}", hint)
    places = Counter(map(_fold, paths))
    for path in paths:
        inside = (_fold(str(folder)) for folder in PurePosixPath(path).parents)
        if places[_fold(path)] > 1 or any(folder in places for folder in inside):
            raise CipherwardError(f"{where} holds two files of one place: {path}", hint)


def _fold(path: str) -> str:
    """Return what all paths have in common that some disk takes for one."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", path).casefold())


def build_own_bundle(root: Path) -> Bundle:
    """Build the bundle of a checkout of this program; the same code gives the same bytes.

    Raises:
        CipherwardError: if the folder holds no app that Flower can build.
    """
    if not (root / "pyproject.toml").is_file():
        raise CipherwardError(
            f"{root} is no checkout: it has no pyproject.toml", "ask the coordinator for the .fab file"
        )
    import click
    from flwr.cli.build import build_fab_from_files

    try:
        data: bytes = build_fab_from_files(app_files(root))[0]
    except (OSError, ValueError, KeyError, click.ClickException, SystemExit) as error:
        raise CipherwardError(
            f"cannot build an app bundle of {root}: {error}"[:300], "ask the coordinator for the .fab file"
        ) from None
    return parse_bundle(data, f"the bundle of {root}")


def read_own_code(root: Path, paths: Iterator[str] | list[str]) -> dict[str, bytes]:
    """Return the hospital's own files of these paths; paths without a file are left out."""
    return {path: (root / path).read_bytes() for path in paths if (root / path).is_file()}


def compare(old: Mapping[str, bytes], new: Mapping[str, bytes]) -> list[FileChange]:
    """Return the files in which `new` differs from `old`, by path."""
    changes = []
    for path in sorted(old.keys() | new.keys()):
        before, after = old.get(path), new.get(path)
        if before != after:
            kind = "new" if before is None else "removed" if after is None else "changed"
            changes.append(FileChange(path, kind, tuple(_diff(path, before or b"", after or b""))))
    return changes


def _diff(path: str, before: bytes, after: bytes) -> Iterator[str]:
    """Give the lines of a unified diff."""
    if len(before) + len(after) > _MAX_FILE_BYTES:
        yield f"{path}: too large to show"
        return
    try:
        texts = [data.decode().replace("\r\n", "\n") for data in (before, after)]
    except UnicodeDecodeError:
        yield f"{path}: not text; SHA-256 {hashlib.sha256(after).hexdigest()}"
        return
    # Not by splitlines: it also splits at characters that end no line of Python, such as U+2028, and a line that one
    # of them drew into the comment above it would look the same as before.
    old, new = (text.split("\n") for text in texts)
    lines = list(difflib.unified_diff(old, new, f"known/{path}", f"bundle/{path}", lineterm=""))
    # Line ends alone can differ, and show as nothing.
    yield from lines or [f"{path}: only its line ends differ (CR LF instead of LF, or the other way round)"]
