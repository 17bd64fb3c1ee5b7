"""The versions that two machines of a federation compare: of this program, of Flower and of Python."""

from __future__ import annotations

import importlib.metadata
import platform


def installed_versions() -> dict[str, str]:
    """Return the versions of cipherward, flwr and python on this machine; "" if a package is not installed."""
    versions = {"python": platform.python_version()}
    for name in ("cipherward", "flwr"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = ""
    return versions
