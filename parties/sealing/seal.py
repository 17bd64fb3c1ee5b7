"""Seal plain images into sealed sets. A sealing that was interrupted is resumed.

A hospital seals its splits under its own key. For an audit it also seals sets under keys made only for that:

    sealed/train  sealed/val  sealed/test      the hospital's key
    sealed/set-XXXXXXXX …                      for an audit that a cloud runs: its training images under its own key
                                                and under throwaway keys, told apart by nothing (audit_sets.py)
    sealed/audit-1  sealed/audit-2 …           where the names may tell: its training images under throwaway keys
    sealed/control-plain  …-noise …             the controls, made of phantom images, which are public
    private/controls/                           those whose copies declare the audited scheme, among sealed/set-…
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coordinator.exchange.audit import control_sets as controls
from crypto.arrays import Images, Int64Array, Rows, UInt8Array
from crypto.cores import cores
from crypto.errors import CipherwardError
from crypto.files import (
    disk_errors,
    drop_temporaries,
    write_json,
)
from crypto.key import SecretKey
from crypto.keyfile import read_key, write_key, write_throwaway_key
from crypto.scheme import describe, load
from crypto.sets.dataset import MANIFEST, SealedDataset, equal_except_nonce
from crypto.sets.resume import (
    clear_leftovers,
    drop_unfinished,
    is_unfinished,
    read_unfinished,
    sealing_identity,
)
from crypto.sets.writer import seal_images, sealed_bytes
from crypto.spec import SchemeSpec
from parties.sealing import audit_sets
from parties.sealing.disguise import can_be_declared, write_declared_copy
from parties.sealing.place import Place
from parties.sealing.quarantine import QUARANTINE, quarantine, quarantine_line
from parties.sealing.row_list import (
    is_unchanged,
    read_row_list,
    require_unchanged,
    require_unwritten,
    stamp_of,
)
from parties.sealing.still_plain import require_hidden, sample_rows
from parties.sources.phantom import Phantom
from parties.sources.picture import UndecodableImageError
from parties.sources.source import SPLITS, MiddleCrop, Share, Source

Progress = Callable[[int], None]
#: Images of a control set. Set once; not tuned.
CONTROL_IMAGES = 300
# Control sets that only some attacks need are small, whatever is audited: (images, side, block).
SMALL_CONTROL = (100, 64, 8)


@dataclass(frozen=True)
class Sealing:
    """One set to seal: its name, plain images, key file and scheme. A throwaway key is made on first use.

    It is encrypted under the hospital's own key, in `owner`; None where it is destroyed after use (local_audit.py).
    """

    name: str
    source: Source
    key_path: Path
    spec: SchemeSpec
    throwaway: bool
    owner: Path | None

    def key(self) -> SecretKey:
        """Return the set's key. Make it first if it is a throwaway key that does not exist yet."""
        if self.throwaway and not self.key_path.exists():
            if self.owner is None:
                write_key(self.key_path, SecretKey.generate())
            else:
                write_throwaway_key(self.key_path, SecretKey.generate(), read_key(self.owner))
        return read_key(self.key_path, owner=self.owner)

    @property
    def is_control(self) -> bool:
        """Whether it is a control of an audit: public images under a key made for that, which need no protection."""
        return self.name in controls.SETS

    @property
    def bytes(self) -> int:
        """Upper bound on the disk space of the sealed set, in bytes."""
        return sealed_bytes(self.spec, len(self.source))


def describe_settings(place: Place) -> SchemeSpec:
    """Return the spec under which a hospital's settings seal its images. No image is read.

    Raises:
        CipherwardError: If the scheme, its options, block, key scope and image size do not go together.
    """
    s = place.settings
    return describe(
        s.scheme, (s.image_size, s.image_size, s.channels), s.block, s.key_scope, s.scheme_options
    )


def plan_sealing(place: Place, name: str) -> Sealing:
    """Return what has to be sealed under a set's name.

    Args:
        place: The hospital's folder.
        name: A split, `set-XXXXXXXX`, `audit-N`, or a control (see coordinator/exchange/audit/control_sets.py).

    Raises:
        CipherwardError: If no set has this name, or its images or settings cannot be used.
    """
    s = place.settings
    if name in SPLITS:
        spec = describe_settings(place)
        return Sealing(name, place.plain(name), place.key_path, spec, False, place.key_path)
    if name in controls.SETS:
        return _plan_control(place, name)
    if audit_sets.is_audit_set(name):
        return _plan_audit_set(place, name)
    if match := re.fullmatch(r"audit-([1-9]\d?)", name):
        # Each draw has other images in another order: both key and pool are drawn anew.
        source = place.plain("train")
        order = np.random.default_rng([s.seed, 3, int(match[1])]).permutation(len(source))
        spec = describe_settings(place)
        rows = order[: s.audit_images] if s.audit_images else order
        return Sealing(name, Share(source, rows), place.private / f"{name}.key", spec, True, place.key_path)
    raise CipherwardError(
        f"no such sealed set: {name!r}",
        f"known: {', '.join(SPLITS + controls.SETS)}, set-XXXXXXXX, audit-N",
    )


def _plan_audit_set(place: Place, name: str) -> Sealing:
    """Return what has to be sealed for a set that the cloud attacks without being told what it is."""
    s = place.settings
    is_own = audit_sets.role_of(place, name) == "own_key"
    source = place.plain("train")
    order = audit_sets.order_of_images(place, name, len(source))
    spec = describe_settings(place)
    key_path = place.key_path if is_own else place.private / f"{name}.key"
    rows = order[: s.audit_images] if s.audit_images else order
    return Sealing(name, Share(source, rows), key_path, spec, not is_own, place.key_path)


def _plan_control(place: Place, name: str) -> Sealing:
    """Return what has to be sealed for a control set."""
    s = place.settings
    kind, count, side, block = name.removeprefix(controls.PREFIX), CONTROL_IMAGES, s.image_size, s.block
    if name not in controls.GENERAL:
        count, side, block = SMALL_CONTROL
    elif kind != "plain" and (s.audit_images or audit_sets.is_disguised(place, name)):
        # As many as the audited sets have: their number must not tell which set is a control.
        images = len(place.plain("train"))
        count = min(s.audit_images or images, images)
    # Controls show the middle of a phantom scan, where every block has texture: without empty blocks, key recovery on
    # `plain` has one right answer. The public images come from the same source, but share no image with the controls.
    split = "val" if name == controls.PUBLIC else "test"
    source = MiddleCrop(Phantom(2 * side, s.channels, count, s.seed, split))
    scheme, options = controls.scheme_of(name, s.scheme, s.scheme_options, s.block)
    scope = "image" if kind == "signs" else "consortium"
    spec = describe(scheme, (side, side, s.channels), block, scope, options)
    return Sealing(name, source, place.private / f"{name}.key", spec, True, place.key_path)


def set_names(draws: int) -> list[str]:
    """Return the names of the sets that a hospital seals where names may tell what a set is.

    Args:
        draws: Draws of the audit. 0 means no audit: only the splits are sealed.
    """
    audit = [f"audit-{i}" for i in range(1, draws)] + list(controls.SETS) if draws else []
    return [*SPLITS, *audit]


def blind_set_names(place: Place, draws: int, *, own_key: bool = True) -> list[str]:
    """Return the names of the sets that a hospital seals for an audit that a cloud runs; see audit_sets.py."""
    audited = plan_sealing(place, "train").spec
    disguised = [
        name
        for name in controls.MAY_BE_HIDDEN
        if can_be_declared(name, plan_sealing(place, name).spec, audited)
    ]
    sets = audit_sets.ensure_map(place, draws, own_key=own_key, disguised=disguised)
    return [*SPLITS, *sorted(sets.roles), *controls.SETS]


def disguise_controls(place: Place) -> list[str]:
    """Write the copies of an audit's controls that declare the audited scheme; return the names of all its sets.

    All sets of the audit are sealed. A finished copy is kept.

    Raises:
        CipherwardError: If the disk is full.
    """
    sets = audit_sets.read_map(place)
    if sets is None:
        return []
    audited, labels = place.sealed(sorted(sets.roles)[0]), place.plain("train").labels
    for name, control in sets.controls.items():
        folder = place.sealed_folder(name)
        if not (folder / MANIFEST).exists():
            with disk_errors(folder):
                key = plan_sealing(place, control).key()
                write_declared_copy(place.sealed(control), audited, folder, labels, key)
    audit_sets.equalise_times([place.sealed_folder(name) for name in sets.names])
    return sets.names


@dataclass(frozen=True)
class Sealed:
    """The result of sealing a set.

    Attributes:
        dataset: The sealed set.
        quarantined: Names of the images that could not be decoded, each with the reason.
        fresh: False if the set was finished before.
    """

    dataset: SealedDataset
    quarantined: list[str]
    fresh: bool


def check_sealing(place: Place, sealing: Sealing) -> SealedDataset | None:
    """Return the set if it is finished, after checking that it fits the settings. Changes nothing on disk.

    Raises:
        CipherwardError: If `seal` would refuse: the scheme seals nothing or has too few keys, or a set of this name,
            finished or not, was sealed from other images, with other settings or under another key.
    """
    source, folder = sealing.source, place.sealed_folder(sealing.name)
    require_protection(sealing)
    if (folder / "manifest.json").exists():
        dataset = SealedDataset.open(folder)
        dataset.require_key(sealing.key())
        record = read_row_list(place, sealing.name)
        same = record["digest"] == dataset.digest and is_unchanged(record, source)
        if not same or not equal_except_nonce(dataset.spec, sealing.spec):
            raise CipherwardError(
                f"{folder} was sealed from other images, or with other settings, than the current ones",
                f"remove {folder} to seal again; ciphertexts that were uploaded stay with the cloud",
            )
        return dataset
    if is_unfinished(folder):
        begun = sealing_identity(source.labels, source.classes, sealing.key(), _state_of(source))
        read_unfinished(folder, begun, sealing.spec)
    return None


def require_protection(sealing: Sealing) -> None:
    """Raise CipherwardError if the scheme would leave the images as they are, or all its keys can be tried."""
    if sealing.spec.name == "plain" and not sealing.source.public:
        raise CipherwardError(
            "the scheme plain seals nothing: these images would leave as they are", "choose another scheme"
        )
    if not sealing.is_control:
        load(sealing.spec).require_key_space()


def _require_hidden_sample(sealing: Sealing, key: SecretKey) -> None:
    """Raise CipherwardError if images sealed with these settings would still show: before any is written.

    An image that cannot be read is left out here; sealing it tells why.
    """
    plain = []
    for row in sample_rows(len(sealing.source)):
        with contextlib.suppress(UndecodableImageError, CipherwardError, OSError):
            image = sealing.source.read(int(row))
            if image.shape == sealing.spec.image_shape:
                plain.append(image)
    if plain and not sealing.is_control:
        images = np.stack(plain)
        require_hidden(sealing.name, sealing.spec, images, load(sealing.spec).cipher(key).encrypt(images))


def seal(place: Place, sealing: Sealing, on_progress: Progress = lambda _: None) -> Sealed:
    """Seal one set of a hospital. A finished set is checked and kept; an interrupted one is continued.

    An image that cannot be decoded is named in private/quarantine.txt, with the reason, and left out. An image that
    the disk or the network does not return stops the sealing; the next run continues from there.

    Args:
        place: The hospital's folder.
        sealing: The set, from `plan_sealing`.
        on_progress: Receives the number of images done.

    Raises:
        CipherwardError: If an image cannot be read from disk, the key is missing, a set of this name does not fit,
            the scheme has too few keys, no image of a class can be decoded, an image changed while it was sealed,
            or the sealed images still show the plain ones. Then nothing of the set is kept.
    """
    require_protection(sealing)  # before a throwaway key is made
    source, key = sealing.source, sealing.key()
    folder, rows_file = place.sealed_folder(sealing.name), place.rows_file(sealing.name)
    for name in (rows_file.name, QUARANTINE):
        drop_temporaries(place.private, name)
    if dataset := check_sealing(place, sealing):
        clear_leftovers(folder)
        return Sealed(dataset, [], fresh=False)
    _require_hidden_sample(sealing, key)
    fingerprint, states = source.fingerprint(), source.states()
    labels, classes = source.labels, source.classes
    quarantined: list[str] = []
    reasons: dict[int, str] = {}

    def read(row: int) -> UInt8Array | None:
        try:
            picture = source.read(row)
        except UndecodableImageError as error:
            reasons[row] = error.reason
            return None  # named at the end, and the rest goes on; any other error stops, and loses nothing
        if picture.shape != sealing.spec.image_shape:
            raise ValueError(f"image {row} has shape {picture.shape}, not {sealing.spec.image_shape}")
        return picture

    def note_left_out(rows: Int64Array) -> None:
        names = source.names
        for row in np.setdiff1d(np.arange(len(source)), rows):
            reasons.setdefault(int(row), _reason_of(source, int(row)))
            quarantined.append(quarantine_line(names[row], reasons[int(row)]))
        quarantine(place, quarantined, names)

    def record(digest: str, rows: Int64Array) -> None:
        if not quarantined:
            note_left_out(rows)
        files = {"stamp": stamp_of(states), "content": source.content()}
        try:
            require_unwritten(source, states)  # so what was digested just now is what was sealed
        except CipherwardError:
            drop_unfinished(folder)
            raise
        write_json(
            rows_file, {"digest": digest, "source": fingerprint, "files": files, "rows": rows.tolist()}
        )

    def inspect(sealed: SealedDataset, rows: Rows) -> None:
        require_unwritten(source, states)  # first: a half-written file is no image that cannot be decoded
        if lost := np.setdiff1d(labels, labels[rows]).tolist() if len(rows) else []:
            note_left_out(rows)
            raise _lost_class(
                classes[lost[0]], sealing.name, [reasons[int(i)] for i in np.flatnonzero(labels == lost[0])]
            )
        if not sealing.is_control and len(sealed):
            sample = sample_rows(len(sealed))
            plain = np.stack([source.read(int(row)) for row in rows[sample]])
            require_hidden(sealing.name, sealed.spec, plain, sealed.rows(sample))

    dataset, _ = seal_images(
        folder, read, labels, classes, key, sealing.spec, _state_of(source), on_progress, record, inspect
    )
    return Sealed(dataset, quarantined, fresh=True)


def _lost_class(name: str, split: str, reasons: list[str]) -> CipherwardError:
    """Return the error for a class of which no image could be read."""
    counts = Counter(reasons).most_common(3)
    listed = "; ".join(f"{count} × {reason or 'unknown reason'}" for reason, count in counts)
    return CipherwardError(
        f"no image of the class {name} in {split} could be read: {listed}",
        "nothing of the set is kept; private/quarantine.txt lists the images. Convert them, or take them away",
    )


def _reason_of(source: Source, row: int) -> str:
    """Return why an image that an interrupted run left out cannot be decoded."""
    try:
        source.read(row)
    except UndecodableImageError as error:
        return error.reason
    except CipherwardError:
        pass
    return ""


def disk_needed(place: Place, sealings: Sequence[Sealing]) -> int:
    """Return an upper bound on the bytes that these sets still need. Bytes already on disk do not count."""
    need = 0
    for sealing in sealings:
        folder = place.sealed_folder(sealing.name)
        if not (folder / "manifest.json").exists():
            on_disk = sum(path.stat().st_size for path in folder.glob("images-*.safetensors"))
            need += max(0, sealing.bytes - on_disk)
    return need


def disk_of_copies(place: Place, sealings: Sequence[Sealing]) -> int:
    """Return an upper bound on the bytes of the copies that an audit's controls still need (`disguise_controls`)."""
    sets = audit_sets.read_map(place)
    audited = [sealing.bytes for sealing in sealings if sets is not None and sealing.name in sets.roles]
    copies = sets.controls if sets is not None and audited else {}
    return sum(audited[0] for name in copies if not (place.sealed_folder(name) / MANIFEST).exists())


def _state_of(source: Source) -> str:
    """Return what an interrupted sealing must find again: no file was written meanwhile, whatever it holds."""
    return f"{source.fingerprint()} {stamp_of(source.states())}"


class DecodedImages:
    """Images that were decoded already, within a limit of memory: several sets are sealed from the same ones."""

    def __init__(self, limit: int = 256 << 20) -> None:
        """Start with none. limit: bytes of images that are kept, at most."""
        self._images: dict[tuple[str, int], UInt8Array] = {}
        self._room = limit

    def read(self, source: Source, fingerprint: str, row: int) -> UInt8Array:
        """Return a row of a source, uint8 [h, w, c], decoded on first use."""
        image = self._images.get((fingerprint, row))
        if image is None:
            image = source.read(row)
            if image.nbytes <= self._room:
                self._room -= image.nbytes
                self._images[fingerprint, row] = image
        return image


def plain_rows(place: Place, name: str, rows: Rows, decoded: DecodedImages | None = None) -> Images:
    """Return the plain images behind rows of a sealed set, uint8 [r, h, w, c], in the order of `rows`.

    Args:
        place: The hospital.
        name: The sealed set.
        rows: int64 [r].
        decoded: What was decoded before; it is added to.

    Raises:
        CipherwardError: If the images are not the ones that were sealed.
    """
    source, decoded = plan_sealing(place, name).source, decoded or DecodedImages(0)
    fingerprint, states = source.fingerprint(), source.states()
    source_rows = require_unchanged(place, name, source)["rows"]
    with ThreadPoolExecutor(cores()) as pool:
        read = pool.map(lambda row: decoded.read(source, fingerprint, int(source_rows[int(row)])), rows)
        images = np.stack(list(read))
    if source.states() != states:
        require_unchanged(place, name, source)
    return images
