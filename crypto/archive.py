"""ZIP archives that come from others: no member is unpacked beyond a limit, whatever the archive says of its size."""

from __future__ import annotations

import zipfile
import zlib

from crypto.errors import CipherwardError

#: What reading a damaged or hostile archive raises, besides CipherwardError.
DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,  # an encrypted member
    NotImplementedError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
)
#: Methods whose decompressor stops at a limit. That of bzip2 and LZMA unpacks all that it is given: a few kilobytes
#: become gigabytes before the first byte is read.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def require_bounded_method(info: zipfile.ZipInfo) -> None:
    """Raise zipfile.BadZipFile if a member is packed by a method that unpacks without a limit."""
    if info.compress_type not in _METHODS:
        raise zipfile.BadZipFile("that compression method is not supported")


def read_members(
    archive: zipfile.ZipFile, most_bytes: int, most_members: int, too_large: CipherwardError
) -> list[tuple[str, bytes]]:
    """Return names and contents of an archive's files, in its order. Folders are left out.

    Args:
        archive: the archive.
        most_bytes: bytes of all files together, at most.
        most_members: files, at most.
        too_large: raised if there is more.

    Raises:
        CipherwardError: `too_large`.
        zipfile.BadZipFile, zlib.error, EOFError or another of DAMAGE: if the archive is damaged.
    """
    infos = [info for info in archive.infolist() if not info.is_dir()]
    if len(infos) > most_members or sum(info.file_size for info in infos) > most_bytes:
        raise too_large
    members, left = [], most_bytes
    for info in infos:
        require_bounded_method(info)
        with archive.open(info) as file:
            content = file.read(left + 1)
        left -= len(content)
        if left < 0:
            raise too_large
        members.append((info.filename, content))
    return members
