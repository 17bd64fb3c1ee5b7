"""Rotate a hospital's key: make a new key, and seal every finished split again under it, in another row order.

The images sealed under the old key are decrypted in memory, one new shard's images at a time. No plain image is
written to disk. The period of one key is called an epoch. A rotation first builds the new epoch beside the old one,
then swaps them by renaming:

    secret-new.key  sealed-new/      private/rotation/        the new epoch, until it takes its place
    secret-OLD.key  sealed-OLD/      private/epoch-OLD/       the old epoch (OLD: its key's id), archived, not deleted

Sets under throwaway keys (audit-N, control-…) are archived with the old epoch: they were attacked, or may be, and a
scorer answers about a set only once. The key id in each manifest distinguishes epochs; there is no epoch number.

A rotation that is killed at any point is finished by running it again; its key is then protected as the later command
says (parties/sealing/new_key.py). During the swap no `sealed` folder and no
usable key is in place (`Place.key` says why), so that no command works on half of each epoch.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from coordinator.exchange.audit.control_sets import MAY_BE_HIDDEN
from crypto.arrays import Int64Array, Rows, UInt8Array
from crypto.byte_size import size
from crypto.errors import CipherwardError
from crypto.files import disk_errors, drop_temporaries, folder_lock, read_json, write_json
from crypto.key import SecretKey
from crypto.keyfile import read_key, read_key_id
from crypto.scheme import load, renewed
from crypto.sets.dataset import SealedDataset
from crypto.sets.resume import clear_leftovers
from crypto.sets.writer import seal_images
from parties.sealing.audit_sets import map_path
from parties.sealing.place import Place
from parties.sealing.still_plain import require_hidden, sample_rows
from parties.sources.source import SPLITS

OnProgress = Callable[[int], None]
ProgressBar = Callable[[str, int], AbstractContextManager[OnProgress]]
MakeKey = Callable[[Path], SecretKey]


class BegunKey(Protocol):
    """What becomes of the new key that an interrupted attempt made."""

    def adopt(self, path: Path) -> SecretKey | None:
        """Return that key, protected as this attempt asks; None: nobody here can open it, and it is given up."""

    def protect(self, path: Path) -> None:
        """Protect that key as this attempt asks. Its sets are sealed, so it cannot be given up any more."""


@dataclass(frozen=True)
class Rotation:
    """A rotation, as its note on disk stores it.

    Attributes:
        old: Id of the old key.
        new: Id of the new key.
        rows: Number of images of each split that is sealed again.
        aside: Names of the sets that are archived and not sealed again.
    """

    old: str
    new: str
    rows: dict[str, int]
    aside: list[str]


@contextlib.contextmanager
def _no_bar(name: str, total: int) -> Iterator[OnProgress]:  # noqa: ARG001 - the signature of a progress bar
    yield lambda _: None


def new_key_path(place: Place) -> Path:
    """Return the path of the new key until it takes its place."""
    return place.key_path.with_name(f"{place.key_path.stem}-new{place.key_path.suffix}")


def archive_paths(place: Place, epoch: str) -> tuple[Path, Path, Path]:
    """Return the paths of an archived epoch: key file, sealed sets, private files."""
    key = place.key_path
    return (
        key.with_name(f"{key.stem}-{epoch}{key.suffix}"),
        place.folder / f"sealed-{epoch}",
        place.private / f"epoch-{epoch}",
    )


def rotate(
    place: Place,
    make_key: MakeKey,
    new_id: str | None = None,
    progress_bar: ProgressBar = _no_bar,
    begun: BegunKey | None = None,
) -> Rotation:
    """Give a hospital a new key and seal its finished splits again under it, or finish an interrupted rotation.

    Args:
        place: The hospital's folder.
        make_key: Writes the new key file at the given path. It is called once in a rotation's life, and again only if
            `begun` gives up the key of an interrupted attempt.
        new_id: Id of the key that `make_key` will write, if it is known beforehand.
        progress_bar: progress_bar(name, images) shows the progress of a set.
        begun: What becomes of the key of an interrupted attempt. None: it stays as it is.

    Raises:
        CipherwardError: If a set is unfinished, altered, under another key or of a scheme that no key opens, the new
            key was this hospital's before or cannot be protected as asked, or the disk is too full.
    """
    with folder_lock(place.folder):
        for path in (new_key_path(place), place.key_path):
            drop_temporaries(path.parent, path.name)  # a kill while a key was protected anew leaves a draft
        is_built = place.swap_note.exists()
        if not is_built:
            rotation = _build(place, make_key, new_id, progress_bar, begun)
            write_json(place.swap_note, asdict(rotation))
        rotation = Rotation(**read_json(place.swap_note, "rotation's note"))
        if new_id not in (None, rotation.new):
            raise CipherwardError(
                f"a rotation of {place.folder} to key {rotation.new} was interrupted",
                "finish it without --key first",
            )
        if is_built and begun is not None:
            begun.protect(_new_key_in_swap(place, rotation))
        _swap(place, rotation)
    return rotation


def _build(
    place: Place, make_key: MakeKey, new_id: str | None, progress_bar: ProgressBar, begun: BegunKey | None
) -> Rotation:
    """Write the new key and the new epoch's sets and row lists beside the old ones."""
    old = place.key()
    path = new_key_path(place)
    has_begun = _has_begun(place, new_id)
    _check_no_archive(place, old.id, read_key_id(path) if has_begun else new_id)
    sets = _finished_splits(place, old)
    _check_room(place, sets, has_begun)
    new = None
    if has_begun:
        new = read_key(path) if begun is None else begun.adopt(path)
        if new is None:
            _give_up(place)
    with disk_errors(place.rotation):
        place.rotation.mkdir(mode=0o700, exist_ok=True)
    if new is None:
        new = make_key(path)
    for name, sealed in sets.items():
        with progress_bar(name, len(sealed)) as on_progress:
            _seal_again(place, name, sealed, old, new, on_progress)
    names = sorted(p.name for p in (place.folder / "sealed").glob("*") if p.is_dir())
    rows = {name: len(sealed) for name, sealed in sets.items()}
    return Rotation(old.id, new.id, rows, [name for name in names if name not in sets])


def new_sets_path(place: Place) -> Path:
    """Return the folder of the new epoch's sets until they take their place."""
    return place.folder / "sealed-new"


def _new_key_in_swap(place: Place, rotation: Rotation) -> Path:
    """Return where the new key is while the swap goes on: it may have taken its place already."""
    for path in (new_key_path(place), place.key_path):
        if path.exists() and read_key_id(path) == rotation.new:
            return path
    raise CipherwardError(
        f"the new key {rotation.new} of the interrupted rotation is gone from {place.folder}",
        "restore it from a backup",
    )


def _give_up(place: Place) -> None:
    """Remove a new epoch that was never put in place. The key goes last: while it is there, the rest is its own."""
    for path in (new_sets_path(place), place.rotation):
        with disk_errors(path), contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path)
    with disk_errors(new_key_path(place)):
        new_key_path(place).unlink()


def _has_begun(place: Place, new_id: str | None) -> bool:
    """Return whether an earlier attempt made the new key. Raises if that is not the key asked for."""
    path = new_key_path(place)
    if path.exists() and not path.stat().st_size:
        path.unlink()  # a power cut between the file's creation and its first byte
    if not path.exists():
        return False
    begun_id = read_key_id(path)
    if new_id not in (None, begun_id):
        raise CipherwardError(
            f"a rotation of {place.folder} to key {begun_id} was interrupted",
            f"finish it without --key; or give it up: remove {path} and {new_sets_path(place)}",
        )
    return True


def _check_no_archive(place: Place, old: str, new: str | None) -> None:
    """Raise if the new key is the old one, or if a file stands where an epoch would be archived."""
    if new == old:
        raise CipherwardError(f"{new} is the key in use", "a rotation needs a new key")
    # What a report says of an audit's keys is public: they were there to be recovered.
    if new is not None and new in {read_key_id(path) for path in place.private.rglob("*.key")}:
        raise CipherwardError(f"{new} is a throwaway key of an audit", "a rotation needs a new key")
    for epoch in (old, new):
        for path in archive_paths(place, epoch) if epoch else ():
            if path.exists():
                raise CipherwardError(
                    f"{path} exists already: key {epoch} was this hospital's before",
                    "a rotation needs a new key" if epoch == new else "move it away",
                )


def _check_room(place: Place, sets: dict[str, SealedDataset], has_begun: bool) -> None:
    """Raise if another rotation's sets are in the way, or the disk has no room for the new ones."""
    folder = new_sets_path(place)
    if not has_begun and folder.exists():
        raise CipherwardError(f"{folder} is left from another rotation", "remove it and rotate again")
    missing = [s for s in sets.values() if not (folder / s.folder.name / "manifest.json").exists()]
    need = sum(int(shard["bytes"]) for s in missing for shard in s.manifest["shards"])
    if need > (free := shutil.disk_usage(place.folder).free):
        raise CipherwardError(
            f"the new sets need {size(need)} and {size(free)} are free", f"free {size(need - free)} more"
        )


def _finished_splits(place: Place, old: SecretKey) -> dict[str, SealedDataset]:
    """Return the splits to seal again. Raises if one is unfinished, under another key or cannot be opened."""
    sets = {}
    for name in SPLITS:
        folder = place.sealed_folder(name)
        if folder.is_dir() and any(folder.iterdir()):
            sets[name] = SealedDataset.open(folder)  # raises if its sealing was interrupted
            sets[name].require_key(old)
            load(sets[name].spec).require_invertible(
                f"set {place.key_path} and {place.folder / 'sealed'} aside, then run keygen and seal the plain images"
            )
    return sets


def _seal_again(
    place: Place, name: str, old_set: SealedDataset, old: SecretKey, new: SecretKey, on_progress: OnProgress
) -> None:
    """Seal one split's images under the new key, and write the matching row list.

    Every byte of the old set is verified first: an altered set is not sealed again.
    """
    load(old_set.spec).require_key_space()
    old_set.verify(old)
    record = _old_rows(place, name, old_set)
    # The order is drawn from the new key. Without that key nobody can match old and new rows, and a resumed rotation
    # draws the same order.
    order = new.permutation(f"rotation/{name}/{old_set.digest}", len(old_set))
    rows = np.asarray(record["rows"], np.int64)[order].tolist()
    rows_file = place.rotation / f"rows-{name}.json"
    folder = new_sets_path(place) / name
    if (folder / "manifest.json").exists():
        _check_sealed_again(folder, new, old_set, rows_file, rows)
        return
    cipher = load(old_set.spec).cipher(old)

    def read(row: int) -> UInt8Array:
        old_row = int(order[row])
        plain: UInt8Array = cipher.decrypt(old_set.rows(order[row : row + 1]), first=old_row)[0]
        return plain

    def write_rows(digest: str, _: Rows) -> None:
        write_json(rows_file, {**record, "digest": digest, "rows": rows})

    labels: Int64Array = np.asarray(old_set.labels)[order]

    def inspect(sealed: SealedDataset, _: Rows) -> None:
        if len(sealed):
            sample = sample_rows(len(sealed))
            plain = np.stack([read(int(row)) for row in sample])
            require_hidden(name, sealed.spec, plain, sealed.rows(sample))

    source, spec = f"rows of {old_set.digest}", renewed(old_set.spec)
    classes = old_set.classes
    seal_images(folder, read, labels, classes, new, spec, source, on_progress, write_rows, inspect)


def _old_rows(place: Place, name: str, old_set: SealedDataset) -> dict[str, Any]:
    """Return the row list of the old set. Raises if the file is not the row list of this set."""
    path = place.rows_file(name)
    record: dict[str, Any] = read_json(path, "row list")
    if record["digest"] != old_set.digest or len(record["rows"]) != len(old_set):
        raise CipherwardError(f"{path} is not the row list of {old_set.folder}", "restore it from a backup")
    return record


def _check_sealed_again(
    folder: Path, new: SecretKey, old_set: SealedDataset, rows_file: Path, rows: list[int]
) -> None:
    """Check a set that an earlier attempt finished. Raises if it holds other images, or another key sealed it."""
    dataset = SealedDataset.open(folder)
    dataset.require_key(new)
    clear_leftovers(folder)
    record = read_json(rows_file, "row list")
    if record["digest"] != dataset.digest or record["rows"] != rows:
        raise CipherwardError(
            f"{folder} was made from other images than {old_set.folder}",
            f"remove {folder} and rotate again",
        )


def _swap(place: Place, rotation: Rotation) -> None:
    """Put the new epoch in the old one's place. Each move happens once, however often the swap is restarted."""
    archived_key, archived_sets, archived_private = archive_paths(place, rotation.old)
    sealed, new_sets, new_key = place.folder / "sealed", new_sets_path(place), new_key_path(place)
    move_once(sealed, archived_sets)
    with disk_errors(archived_private):
        archived_private.mkdir(mode=0o700, exist_ok=True)
    for name in [*rotation.rows, *rotation.aside]:
        for file in (place.rows_file(name), place.private / f"{name}.key"):
            move_once(file, archived_private / file.name)
    # The map, and controls that it hides, belong to the sets that are set aside; new ones get new names.
    for name in MAY_BE_HIDDEN if place.hidden_controls.exists() else ():
        for file in (place.rows_file(name), place.private / f"{name}.key"):
            move_once(file, archived_private / file.name)
    move_once(place.hidden_controls, archived_private / place.hidden_controls.name)
    move_once(map_path(place), archived_private / map_path(place).name)
    for name in rotation.rows:
        move_once(place.rotation / f"rows-{name}.json", place.rows_file(name))
    move_once(place.key_path, archived_key)
    move_once(new_key, place.key_path)
    move_once(new_sets, sealed)
    if leftover := [path for path in (new_key, new_sets) if path.exists()]:
        raise CipherwardError(
            f"{leftover[0]} cannot take its place: another file is there", "move that away and rotate again"
        )
    place.swap_note.unlink()
    shutil.rmtree(place.rotation)


def move_once(source: Path, target: Path) -> None:
    """Rename a file durably. Do nothing if the target exists: then an interrupted rotation moved it before."""
    if target.exists() or not source.exists():
        return
    with disk_errors(target):
        source.rename(target)
        for folder in {source.parent, target.parent}:
            handle = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
