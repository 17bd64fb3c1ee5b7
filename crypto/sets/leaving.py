"""What may leave the hospital: `sealed`. Nothing plain is written there, nor a key."""

from __future__ import annotations

import os
import re
from pathlib import Path

from crypto.errors import CipherwardError
from crypto.sets.dataset import MANIFEST

_SEALED = "sealed"
#: The names of a hospital's folders of sealed sets: that of now, and those that rotations make (rotate.py).
_NAMED = re.compile(r"sealed(-new|-[0-9a-f]{16})?")
#: What stands beside it in a hospital's folder.
_BESIDE = ("party.yaml", "secret.key", "private")


def require_stays(out: Path, what: str) -> None:
    """Check before something that must stay is written that its place is not one from which things leave.

    Args:
        out: The file or the folder to write. It need not exist.
        what: What it shows, for the message.

    Raises:
        CipherwardError: If it is in a hospital's `sealed`, or in a sealed set anywhere, also by way of a link.
    """
    # Where it is by name, and where links lead: either may be watched.
    paths = dict.fromkeys((Path(os.path.abspath(out)), out.resolve()))  # noqa: PTH100
    for folder in (folder for path in paths for folder in (path, *path.parents)):
        if _may_leave(folder):
            raise CipherwardError(
                f"{out} is in {folder}, which may leave the hospital, and {what}",
                "choose a place outside of it",
            )


def _may_leave(folder: Path) -> bool:
    """Return whether a folder is a sealed set, or a hospital's folder of them."""
    if (folder / MANIFEST).is_file() and any(folder.glob("images-*.safetensors")):
        return True
    if _NAMED.fullmatch(folder.name) and any((folder.parent / name).exists() for name in _BESIDE):
        return True
    # Behind a link nothing stands beside it, but the sets are there.
    return folder.name == _SEALED and any(folder.glob(f"*/{MANIFEST}"))
