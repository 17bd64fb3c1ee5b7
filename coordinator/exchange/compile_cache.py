"""A folder for what Numba compiles, where neither the installation nor the user's home can be written.

Numba keeps compiled functions beside their source, or else in the user's cache folder. If it can write neither, as in
a container with a read-only image and no home, it raises RuntimeError when a module of ours is imported. Then a
private folder of this process is used, and removed when the process ends: a cache is code, so nobody else may write
it. Programs that this one starts use the same folder.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
from collections.abc import MutableMapping
from pathlib import Path

import crypto

#: Matplotlib's folder. Without one that it can write, it prints two long warnings into a command's output.
MATPLOTLIB = "MPLCONFIGDIR"
#: The variable that names Numba's folder. It is read when Numba is imported.
VARIABLE = "NUMBA_CACHE_DIR"
_SOURCES = Path(next(iter(crypto.__path__))).resolve() / "kernels"


def ensure_compile_cache(environment: MutableMapping[str, str], sources: Path = _SOURCES) -> None:
    """Name a private folder for the caches of Numba and Matplotlib, if they would find none that they can write.

    Args:
        environment: The environment variables; VARIABLE and MATPLOTLIB are set in them if needed and not set.
        sources: A folder with compiled sources of ours.
    """
    home = Path(environment.get("HOME") or "/nonexistent")
    cache = Path(environment.get("XDG_CACHE_HOME") or home / ".cache")
    config = Path(environment.get("XDG_CONFIG_HOME") or home / ".config")
    usable = {
        VARIABLE: _can_make(sources / "__pycache__") or _can_make(cache / "numba"),
        MATPLOTLIB: _can_make(config / "matplotlib"),
    }
    missing = [name for name, is_usable in usable.items() if not is_usable and not environment.get(name)]
    if not missing:
        return
    with contextlib.suppress(OSError):  # nothing can be written at all: Numba says so
        folder = tempfile.mkdtemp(prefix="cipherward-compiled-")
        environment.update(dict.fromkeys(missing, folder))
        atexit.register(_remove, folder, os.getpid())


def _can_make(folder: Path) -> bool:
    """Return whether this user can write a folder, or make it."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def _remove(folder: str, owner: int) -> None:
    """Remove the folder, but not in a fork of the process that made it."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
