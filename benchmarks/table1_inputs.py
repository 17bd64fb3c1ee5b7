"""What a cell of the comparison comes from besides its settings: data, weights, adaptation network.

If one of these changes, the cell's figures belong to another cell, and it is trained again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from blake3 import blake3

from benchmarks.table1_data import path_of
from benchmarks.table1_protocol import PAIRS, Section
from crypto.errors import CipherwardError
from crypto.files import blake3_file, read_json

#: A function from section and row to what `inputs_of` returns.
Inputs = Callable[[Section, str], dict[str, str | None]]


def pair_of(section: Section, row: str) -> str:
    """Return the adaptation network before the section's network. A ViT takes none."""
    return PAIRS[row] if section.network != "vit" else "none"


def inputs_of(
    folder: Path, digest: Callable[[Path], str | None], section: Section, row: str
) -> dict[str, str | None]:
    """Return what a cell comes from besides its settings. A file that is not used or missing is None."""
    weights = section.plan.get("weights")
    return {
        "pair": pair_of(section, row),
        "data": digest(path_of(folder, section.data)),
        "weights": digest(folder / weights) if weights else None,
    }


def same(kept: dict[str, str | None] | None, now: dict[str, str | None]) -> bool:
    """Return whether a cell that kept these inputs comes from the current ones, as far as both are known."""
    return kept is None or all(value in (None, kept.get(name)) for name, value in now.items())


def digest_of(path: Path) -> str | None:
    """Return the hex BLAKE3 of a file, or of the paths and bytes of a folder's images; None if it does not exist.

    Raises:
        CipherwardError: If it cannot be read.
    """
    try:
        if not path.is_dir():
            return blake3_file(path) if path.exists() else None
        digest = blake3()
        for image in sorted(p for p in path.rglob("*") if p.suffix.lower() in (".png", ".jpg", ".jpeg")):
            line = f"{image.relative_to(path)}\0{blake3_file(image)}\0"
            digest.update(line.encode(errors="surrogateescape"))
        text: str = digest.hexdigest()
        return text
    except OSError as error:
        raise CipherwardError(
            f"{path} cannot be read: {type(error).__name__}", "give this user permission to read it"
        ) from None


def inputs_at(place: Path) -> dict[str, str | None] | None:
    """Return what an unfinished cell was begun from; None if it did not keep that."""
    path = place / "inputs.json"
    return read_json(path, "inputs of a cell") if path.exists() else None
