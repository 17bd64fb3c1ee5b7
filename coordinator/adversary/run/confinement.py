"""Confine this process, and all that it starts, to the files that attacks need: Linux's Landlock, without privileges.

A hospital that attacks its own sealed sets (`cipherward-party audit`) starts the attacks in a process that is given
no key and no path to one. Landlock makes the kernel enforce it: every file outside of an allow-list can no longer be
opened, TCP can be neither bound nor connected, and other processes can be neither traced nor signalled. Capabilities
are given up as well: with them, root could read the memory of other processes nevertheless. Where the kernel has no
Landlock, or on another system, `confine` says so and changes nothing.

Kernel documentation: https://docs.kernel.org/userspace-api/landlock.html
"""

from __future__ import annotations

import ctypes
import os
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path

# Landlock's system calls have these numbers on every architecture but alpha.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG = 1
_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38
#: Version 3 of the interface of capset(2).
_CAPABILITIES_3 = 0x20080522

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
#: Rights to files that each version of Landlock can withhold: bits 0 to n-1.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
#: Rights that a rule about a file, not a folder, may name.
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_READ = _EXECUTE | _READ_FILE | _READ_DIR
#: Versions from which TCP, and signals and abstract sockets, can be withheld.
_WITH_TCP, _WITH_SCOPES = 4, 6
_BOTH_TCP_RIGHTS, _BOTH_SCOPES = 3, 3
#: What Python and its libraries read of a Linux system.
_SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/etc", "/proc", "/sys")

_PACKAGES = Path(__file__).resolve().parents[3]


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("tcp", ctypes.c_uint64), ("scopes", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("rights", ctypes.c_uint64), ("folder", ctypes.c_int32))


def landlock_version() -> int:
    """Return the version of Landlock that the kernel has; 0 if it has none."""
    if sys.platform != "linux":
        return 0
    version = ctypes.CDLL(None, use_errno=True).syscall(_CREATE_RULESET, None, 0, _VERSION_FLAG)
    return max(0, int(version))


def confine(read: Sequence[Path], write: Sequence[Path]) -> bool:
    """Let this process, and all that it starts from now on, open nothing but what attacks need.

    It must be called before the process has other threads: they would stay free.

    Args:
        read: Folders that may be read, besides Python, its libraries, this program's public packages and the system.
        write: Folders that may be read and written.

    Returns:
        Whether the kernel enforces it.

    Raises:
        OSError: If the kernel has Landlock and refuses nevertheless.
    """
    version = landlock_version()
    if not version:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    every_right = (1 << _FILE_RIGHTS.get(version, 16)) - 1
    ruleset = _Ruleset(
        every_right,
        _BOTH_TCP_RIGHTS if version >= _WITH_TCP else 0,
        _BOTH_SCOPES if version >= _WITH_SCOPES else 0,
    )
    # Earlier kernels know a shorter struct.
    size = 24 if version >= _WITH_SCOPES else 16 if version >= _WITH_TCP else 8
    handle = _checked(libc.syscall(_CREATE_RULESET, ctypes.byref(ruleset), ctypes.c_size_t(size), 0))
    try:
        for path in [*_libraries(), *map(Path, _SYSTEM), *_package_folders(), *read]:
            _allow(libc, handle, path, _READ & every_right)
        _allow(libc, handle, _PACKAGES, _READ_DIR)  # to find the packages; no file beneath can be read
        for path in [*_bytecode_folders(), Path("/dev"), *write]:
            _allow(libc, handle, path, every_right)
        _checked(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        header, none = (ctypes.c_uint32 * 2)(_CAPABILITIES_3, 0), (ctypes.c_uint32 * 6)()
        _checked(libc.capset(header, none))
        _checked(libc.syscall(_RESTRICT_SELF, handle, 0))
    finally:
        os.close(handle)
    return True


def _allow(libc: ctypes.CDLL, ruleset: int, path: Path, rights: int) -> None:
    """Add a rule for what lies at or beneath a path; do nothing if there is nothing."""
    try:
        folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        rule = _PathBeneath(rights if path.is_dir() else rights & _OF_FILES, folder)
        _checked(libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0))
    finally:
        os.close(folder)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"Landlock: {os.strerror(number)}")
    return int(result)


def _libraries() -> Iterable[Path]:
    """Yield where Python and its installed packages are."""
    places = {sys.prefix, sys.base_prefix, sys.exec_prefix, *sysconfig.get_paths().values()}
    # A checkout in use as a package is not read whole: a hospital's folder may lie in it.
    return sorted(
        {Path(place) for place in places} | {p for p in map(Path, sys.path) if p.name == "site-packages"}
    )


def _package_folders() -> list[Path]:
    """Return the folders of the packages that an attack imports. `parties` is none of them."""
    return [_PACKAGES / "crypto", _PACKAGES / "coordinator"]


def _bytecode_folders() -> Iterable[Path]:
    """Return the folders in which Python and Numba keep what they compiled, after making those that are missing."""
    folders = []
    for package in _package_folders():
        for source in sorted({path.parent for path in package.rglob("*.py")}):
            folder = source / "__pycache__"
            try:
                folder.mkdir(exist_ok=True)
            except OSError:  # an installation that this user cannot change
                continue
            folders.append(folder)
    if own := os.environ.get("NUMBA_CACHE_DIR"):
        folders.append(Path(own))
    return folders
