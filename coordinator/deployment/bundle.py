"""The app bundle: the code that Flower sends to every hospital, built from this checkout.

Flower builds equal bundles from equal files, so a hospital computes the same digest from its own checkout.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from coordinator.exchange.app_files import app_files
from coordinator.study.flower_run import APP
from crypto.errors import CipherwardError


def build_bundle(app: Path = APP) -> bytes:
    """Return the bundle of an app's folder, as `flwr build` makes it.

    Raises:
        CipherwardError: if the folder is no Flower app.
    """
    # Flower's command line is slow to import.
    from flwr.cli.build import build_fab_from_files

    if not (app / "pyproject.toml").is_file():
        raise CipherwardError(
            f"{app} is no checkout: it has no pyproject.toml",
            "the app is sent from a checkout; install with: pip install -e .",
        )
    try:
        bundle: bytes = build_fab_from_files(app_files(app))[0]
    except Exception as error:  # click's and Flower's own, of several kinds
        raise CipherwardError(
            f"cannot build the app bundle of {app}: {error}",
            "undo the changes to its pyproject.toml and its code, or name a fresh checkout",
        ) from None
    return bundle


def bundle_digest(bundle: bytes) -> str:
    """Return the hex SHA-256 by which hospitals approve a bundle."""
    return hashlib.sha256(bundle).hexdigest()
