"""A new epoch: a new key, and every sealed split sealed again under it, its rows in another order.

What is sealed under the old key is opened in memory, one new shard's images at a time; no plain image is
written. A rotation first builds the new epoch beside the old one, then swaps them by renaming:

    secret-new.key  sealed-new/      private/rotation/        the new epoch, until it takes its place
    secret-OLD.key  sealed-OLD/      private/epoch-OLD/       the old one, by its key's id: set aside, not deleted

Sets under throwaway keys (audit-N, control-…) are set aside with the old epoch: they were attacked, or may be,
and a scorer answers about a set once. The key id in every manifest tells epochs apart; there is no number.

Killed at any point, a rotation is finished by asking for it again. While it swaps, no `sealed` folder and
no usable key is in place (`Place.key` says why), so that nothing works on half of each epoch.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from crypto.errors import CipherwardError
from crypto.files import disk_errors, only_one, read_json, write_json
from crypto.key import SecretKey
from crypto.keyfile import read_key, stated_id
from crypto.scheme import load, renewed
from crypto.sets.dataset import SealedDataset
from crypto.sets.resume import clear_leftovers
from crypto.sets.writer import seal_images
from parties.sealing.place import Place
from parties.sources.source import SPLITS

Progress = Callable[[int], None]
Bar = Callable[[str, int], AbstractContextManager[Progress]]


@dataclass(frozen=True)
class Rotation:
    """What a rotation does: the ids of both keys, the splits it seals again, the sets it sets aside for good."""

    old: str
    new: str
    rows: dict[str, int]
    aside: list[str]


@contextlib.contextmanager
def _silent(what: str, total: int) -> Iterator[Progress]:
    yield lambda done: None


def new_key_path(place: Place) -> Path:
    """Where the new key waits until it takes its place."""
    return place.key_path.with_name(f"{place.key_path.stem}-new{place.key_path.suffix}")


def rotate(
    place: Place,
    make_key: Callable[[Path], SecretKey],
    given: str | None = None,
    bar: Bar = _silent,
) -> Rotation:
    """Gives a hospital a new key and seals its finished splits again under it; or finishes what a kill left.

    make_key(path) writes the new key file; it is called once in a rotation's life. given: the id of the key
    that it will write, where that is fixed beforehand. bar(name, images) shows the progress of a set.
    Raises CipherwardError where a set is unfinished, altered or under another key, where the key was
    this hospital's before, and where the disk is too full.
    """
    with only_one(place.folder):
        if not place.swap_note.exists():
            plan = _build(place, make_key, given, bar)
            write_json(place.swap_note, asdict(plan))
        plan = Rotation(**read_json(place.swap_note, "rotation's note"))
        if given not in (None, plan.new):
            raise CipherwardError(
                f"a rotation of {place.folder} to key {plan.new} was interrupted",
                "finish it without --key first",
            )
        _swap(place, plan)
    return plan


def _build(place: Place, make_key: Callable[[Path], SecretKey], given: str | None, bar: Bar) -> Rotation:
    """Writes the new key and the new epoch's sets and row lists beside the old ones."""
    old, path, fresh = place.key(), new_key_path(place), place.folder / "sealed-new"
    if path.exists() and not path.stat().st_size:
        path.unlink()  # the power went between its creation and its first byte
    begun = path.exists()
    new_id = stated_id(path) if begun else given
    if given not in (None, new_id):
        raise CipherwardError(
            f"a rotation of {place.folder} to key {new_id} was interrupted",
            f"finish it without --key; or give it up: remove {path} and {fresh}",
        )
    _nothing_in_the_way(place, old.id, new_id)
    sets = _finished_splits(place, old)
    if not begun and fresh.exists():
        raise CipherwardError(f"{fresh} is left of another rotation", "remove it and rotate again")
    missing = [s for s in sets.values() if not (fresh / s.folder.name / "manifest.json").exists()]
    need = sum(int(shard["bytes"]) for s in missing for shard in s.manifest["shards"])
    if need > (free := shutil.disk_usage(place.folder).free):
        raise CipherwardError(
            f"the new epoch needs {need / 1e6:.0f} MB and {free / 1e6:.0f} MB are free", "free some space"
        )
    with disk_errors(place.rotation):
        place.rotation.mkdir(mode=0o700, exist_ok=True)
    new = read_key(path) if begun else make_key(path)
    for name, sealed in sets.items():
        with bar(name, len(sealed)) as told:
            _seal_again(place, name, sealed, old, new, told)
    present = sorted(p.name for p in (place.folder / "sealed").glob("*") if p.is_dir())
    rows = {name: len(sealed) for name, sealed in sets.items()}
    return Rotation(old.id, new.id, rows, [name for name in present if name not in sets])


def _nothing_in_the_way(place: Place, old: str, new: str | None) -> None:
    if new == old:
        raise CipherwardError(f"{new} is the key in use", "a new epoch needs a new key")
    for epoch in (old, new):
        for path in aside_paths(place, epoch) if epoch else ():
            if path.exists():
                raise CipherwardError(
                    f"{path} is there already: key {epoch} was this hospital's before",
                    "a new epoch needs a new key" if epoch == new else "move it away",
                )


def aside_paths(place: Place, epoch: str) -> tuple[Path, Path, Path]:
    """Key file, sealed sets and private files of an epoch that was set aside."""
    key = place.key_path
    return (
        key.with_name(f"{key.stem}-{epoch}{key.suffix}"),
        place.folder / f"sealed-{epoch}",
        place.private / f"epoch-{epoch}",
    )


def _finished_splits(place: Place, old: SecretKey) -> dict[str, SealedDataset]:
    """The splits that are to be sealed again."""
    sets = {}
    for name in SPLITS:
        folder = place.sealed_folder(name)
        if folder.is_dir() and any(folder.iterdir()):
            sets[name] = SealedDataset.open(folder)  # raises where its sealing was interrupted
            sets[name].require_key(old)
    return sets


def _row_list(place: Place, name: str) -> Path:
    return place.private / f"rows-{name}.json"


def _seal_again(
    place: Place, name: str, was: SealedDataset, old: SecretKey, new: SecretKey, progress: Progress
) -> None:
    """One split of the old epoch → the same images under the new key, with the row list that belongs to them.

    Every byte of the old set is verified first: what is altered is not sealed again.
    """
    was.verify(old)
    record = read_json(_row_list(place, name), "row list")
    if record["digest"] != was.digest or len(record["rows"]) != len(was):
        raise CipherwardError(
            f"{_row_list(place, name)} is not the row list of {was.folder}", "restore it from a backup"
        )
    # Drawn from the new key: nobody without it can tell which row was which, and a resumed rotation agrees.
    order = new.permutation(f"rotation/{name}/{was.digest}", len(was))
    rows = np.asarray(record["rows"], np.int64)[order].tolist()
    note = place.rotation / f"rows-{name}.json"
    folder = place.folder / "sealed-new" / name
    if (folder / "manifest.json").exists():
        done = SealedDataset.open(folder)
        done.require_key(new)
        clear_leftovers(folder)
        noted = read_json(note, "row list")
        if noted["digest"] != done.digest or noted["rows"] != rows:
            raise CipherwardError(
                f"{folder} was made of other images than {was.folder}", f"remove {folder} and rotate again"
            )
        return
    cipher = load(was.spec).cipher(old)

    def read(row: int) -> np.ndarray:
        before = int(order[row])
        plain: np.ndarray = cipher.decrypt(was.rows(order[row : row + 1]), first=before)[0]
        return plain

    def keep(digest: str, _: np.ndarray) -> None:
        write_json(note, {**record, "digest": digest, "rows": rows})

    labels, spec = np.asarray(was.labels)[order], renewed(was.spec)
    source = f"rows of {was.digest}"
    seal_images(folder, read, labels, was.classes, new, spec, source, progress, keep)


def _swap(place: Place, plan: Rotation) -> None:
    """Puts the new epoch in the old one's place. Each move is done once, however often this is begun."""
    kept_key, kept_sets, kept_private = aside_paths(place, plan.old)
    sealed, fresh, new_key = place.folder / "sealed", place.folder / "sealed-new", new_key_path(place)
    _move(sealed, kept_sets)
    with disk_errors(kept_private):
        kept_private.mkdir(mode=0o700, exist_ok=True)
    for name in [*plan.rows, *plan.aside]:
        for file in (_row_list(place, name), place.private / f"{name}.key"):
            _move(file, kept_private / file.name)
    for name in plan.rows:
        _move(place.rotation / f"rows-{name}.json", _row_list(place, name))
    _move(place.key_path, kept_key)
    _move(new_key, place.key_path)
    _move(fresh, sealed)
    if left := [path for path in (new_key, fresh) if path.exists()]:
        raise CipherwardError(
            f"{left[0]} cannot take its place: something else is there", "move that away and rotate again"
        )
    place.swap_note.unlink()
    shutil.rmtree(place.rotation)


def _move(source: Path, target: Path) -> None:
    """Renames, unless the target is there: then an interrupted rotation did it before."""
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
