"""What a cell of the comparison comes from beside its settings: a changed file makes its figures another cell's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from blake3 import blake3

from benchmarks.table1_data import path_of
from benchmarks.table1_protocol import PAIRS, Section
from crypto.errors import CipherwardError
from crypto.files import blake3_file, read_json
from parties.sources.folder import ENDINGS

Inputs = Callable[[Section, str], dict[str, str | None]]  # section, row → what `inputs_of` returns


def pair_of(section: Section, row: str) -> str:
    """The adaptation network before the section's network; a ViT takes none."""
    return PAIRS[row] if section.network != "vit" else "none"


def inputs_of(
    folder: Path, digest: Callable[[Path], str | None], section: Section, row: str
) -> dict[str, str | None]:
    """What a cell comes from beside its settings; None for a file that is none or not there."""
    weights = section.plan.get("weights")
    return {
        "pair": pair_of(section, row),
        "data": digest(path_of(folder, section.data)),
        "weights": digest(folder / weights) if weights else None,
    }


def same(held: dict[str, str | None] | None, now: dict[str, str | None]) -> bool:
    """Whether a cell that kept `held` comes from the inputs of now: so far as both are known."""
    return held is None or all(value in (None, held.get(name)) for name, value in now.items())


def digest_of(path: Path) -> str | None:
    """Hex BLAKE3 of a file, or of the paths and bytes of a folder's images; None where there is neither.

    Raises CipherwardError where it cannot be read.
    """
    try:
        if not path.is_dir():
            return blake3_file(path) if path.exists() else None
        whole = blake3()
        for image in sorted(p for p in path.rglob("*") if p.suffix.lower() in ENDINGS):
            about = f"{image.relative_to(path)}\0{blake3_file(image)}\0"
            whole.update(about.encode(errors="surrogateescape"))
        found: str = whole.hexdigest()
        return found
    except OSError as error:
        raise CipherwardError(
            f"{path} cannot be read: {type(error).__name__}", "see that this user may read it"
        ) from None


def inputs_at(place: Path) -> dict[str, str | None] | None:
    """What an unfinished cell was begun from; None where it did not keep that."""
    path = place / "inputs.json"
    return read_json(path, "inputs of a cell") if path.exists() else None
