"""Plain images → sealed sets, resumable; and back.

A hospital seals its splits under its own key, and for an audit, under keys made for that alone:

    sealed/train  sealed/val  sealed/test      the hospital's key
    sealed/audit-1  sealed/audit-2 …           its training images under throwaway keys: further draws
    sealed/control-known  …-noise …             the controls, of phantom images, which are public
"""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from coordinator.exchange import control_sets as controls
from crypto.cores import cores
from crypto.errors import CipherwardError
from crypto.files import (
    disk_errors,
    drop_temporaries,
    read_json,
    write_atomic,
    write_json,
    write_text,
)
from crypto.key import SecretKey
from crypto.keyfile import read_key, write_key
from crypto.scheme import describe, load
from crypto.sets.dataset import SealedDataset, same_but_nonce
from crypto.sets.resume import begun_as, clear_leftovers, is_unfinished, unfinished
from crypto.sets.writer import seal_images, sealed_bytes
from crypto.spec import SchemeSpec
from parties.sealing.place import Place
from parties.sources.phantom import Phantom
from parties.sources.picture import Undecodable
from parties.sources.source import SPLITS, Middle, Share, Source

Progress = Callable[[int], None]
# Schemes whose keys key recovery is known to find: an audit in which it does not measures nothing. Where the audited
# scheme is one of them it is its own control, else the first is.
KNOWN_BROKEN = ("block_pixel_shuffle", "value_shuffle", "etc", "pe")
CONTROL_IMAGES = 300
# The sets that are there for some attacks alone are small whatever is audited: (images, side, block).
_SMALL = (100, 64, 8)
_QUARANTINE = "quarantine.txt"


@dataclass(frozen=True)
class Sealing:
    """One set that a place seals: its name, plain images, key file and scheme."""

    name: str
    source: Source
    key_path: Path
    spec: SchemeSpec
    throwaway: bool

    def key(self) -> SecretKey:
        """The set's key; a throwaway one is made on first use."""
        if self.throwaway and not self.key_path.exists():
            write_key(self.key_path, SecretKey.generate())
        return read_key(self.key_path)

    @property
    def bytes(self) -> int:
        """Disk that the sealed set takes at most."""
        return sealed_bytes(self.spec, len(self.source))


def sealing(place: Place, name: str) -> Sealing:
    """The set of that name: a split, `audit-N`, or a control (coordinator/exchange/control_sets.py)."""
    s = place.settings
    shape = (s.image_size, s.image_size, s.channels)
    if name in SPLITS:
        spec = describe(s.scheme, shape, s.block, s.key_scope, s.scheme_options)
        return Sealing(name, place.plain(name), place.key_path, spec, throwaway=False)
    key_path = place.private / f"{name}.key"
    if name in controls.SETS:
        return _control(place, name)
    if match := re.fullmatch(r"audit-([1-9]\d?)", name):
        # Other images in another order for each draw: key and pool are both drawn anew.
        source = place.plain("train")
        order = np.random.default_rng([s.seed, 3, int(match[1])]).permutation(len(source))
        spec = describe(s.scheme, shape, s.block, s.key_scope, s.scheme_options)
        rows = order[: s.audit_images] if s.audit_images else order
        return Sealing(name, Share(source, rows), key_path, spec, throwaway=True)
    raise CipherwardError(
        f"no such sealed set: {name!r}", f"known: {', '.join(SPLITS + controls.SETS)}, audit-N"
    )


def _control(place: Place, name: str) -> Sealing:
    s = place.settings
    kind, count, side, block = name.removeprefix(controls.PREFIX), CONTROL_IMAGES, s.image_size, s.block
    if name not in controls.ALWAYS:
        count, side, block = _SMALL
    # Their middle: where every block has texture, key recovery on `plain` has one right answer. What is public
    # beside a control is of the same source, and none of the control's own images.
    split = "val" if name == controls.PUBLIC else "test"
    phantom = Middle(Phantom(2 * side, s.channels, count, s.seed, split))
    shape, options = (side, side, s.channels), {}
    scheme = {"signs": "pe", "public": "plain"}.get(kind, kind)
    if kind == "known":
        scheme = s.scheme if s.scheme in KNOWN_BROKEN else KNOWN_BROKEN[0]
        options = s.scheme_options if s.scheme == scheme else {}
    spec = describe(scheme, shape, block, "image" if kind == "signs" else "consortium", options)
    return Sealing(name, phantom, place.private / f"{name}.key", spec, throwaway=True)


def set_names(draws: int) -> list[str]:
    """What a place seals: its splits and, for an audit of `draws` draws, the further sets."""
    audit = [f"audit-{i}" for i in range(1, draws)] + list(controls.SETS) if draws else []
    return [*SPLITS, *audit]


@dataclass(frozen=True)
class Sealed:
    """What sealing a set did. quarantined: names of the images that could not be read."""

    dataset: SealedDataset
    quarantined: list[str]
    fresh: bool


def agree(place: Place, what: Sealing) -> SealedDataset | None:
    """The finished set of that name, if there is one. Changes nothing, and makes no key.

    Raises CipherwardError where `seal` would refuse: a scheme that seals nothing, or a set, finished or not, that was
    sealed from other images, with other settings or under another key.
    """
    source, folder = what.source, place.sealed_folder(what.name)
    if what.spec.name == "plain" and not source.public:
        raise CipherwardError(
            "the scheme plain seals nothing: these images would leave as they are", "choose another scheme"
        )
    if (folder / "manifest.json").exists():
        dataset = SealedDataset.open(folder)
        dataset.require_key(what.key())
        kept = _kept(place, what.name)
        same = kept["digest"] == dataset.digest and kept["source"] == source.fingerprint()
        if not same or not same_but_nonce(dataset.spec, what.spec):
            raise CipherwardError(
                f"{folder} was sealed from other images, or with other settings, than those of now",
                f"remove {folder} to seal again; ciphertexts that were uploaded stay with the cloud",
            )
        return dataset
    if is_unfinished(folder):
        begun = begun_as(source.labels, source.classes, what.key(), source.fingerprint())
        unfinished(folder, begun, what.spec)
    return None


def seal(place: Place, what: Sealing, progress: Progress = lambda rows: None) -> Sealed:
    """Seals one set of a place. A finished one is checked and kept; an interrupted one is continued.

    An image that cannot be decoded is named in private/quarantine.txt and left out; one that the disk or the network
    does not give stops the sealing, which goes on from there when it is run again. Raises CipherwardError there, and
    where the key is missing or not the one of an earlier sealing.
    """
    source, key = what.source, what.key()
    folder, listed = place.sealed_folder(what.name), _rows_file(place, what.name)
    for name in (listed.name, _QUARANTINE):
        drop_temporaries(place.private, name)
    if dataset := agree(place, what):
        clear_leftovers(folder)
        return Sealed(dataset, [], fresh=False)
    fingerprint = source.fingerprint()
    quarantined: list[str] = []

    def read(row: int) -> np.ndarray | None:
        try:
            picture = source.read(row)
        except Undecodable:
            return None  # named in the end, and the rest goes on; anything else stops, and loses nothing
        if picture.shape != what.spec.image_shape:
            raise ValueError(f"image {row} is of shape {picture.shape}, not {what.spec.image_shape}")
        return picture

    def keep(digest: str, rows: np.ndarray) -> None:
        names = source.names
        for row in np.setdiff1d(np.arange(len(source)), rows):
            name = names[row].encode(errors="backslashreplace").decode()
            quarantined.append(name.replace("\n", "\\n"))  # a line each
        _quarantine(place, quarantined)
        write_json(listed, {"digest": digest, "source": fingerprint, "rows": rows.tolist()})

    dataset, _ = seal_images(
        folder, read, source.labels, source.classes, key, what.spec, fingerprint, progress, keep
    )
    return Sealed(dataset, quarantined, fresh=True)


def _quarantine(place: Place, names: list[str]) -> None:
    """Adds names to the list of what could not be read, each once."""
    path = place.private / _QUARANTINE
    known = path.read_text().splitlines() if path.exists() else []
    every = list(dict.fromkeys([*known, *names]))
    if every != known:
        write_text(path, "".join(f"{name}\n" for name in every))


def disk_needed(place: Place, sets: list[Sealing]) -> int:
    """Bytes that sealing these sets will still take at most; what is on the disk already does not count."""
    need = 0
    for what in sets:
        folder = place.sealed_folder(what.name)
        if not (folder / "manifest.json").exists():
            there = sum(path.stat().st_size for path in folder.glob("images-*.safetensors"))
            need += max(0, what.bytes - there)
    return need


def _rows_file(place: Place, name: str) -> Path:
    return place.private / f"rows-{name}.json"


def _kept(place: Place, name: str) -> dict:
    kept: dict = read_json(_rows_file(place, name), "row list")
    return kept


def plain_rows(place: Place, name: str, rows: np.ndarray) -> np.ndarray:
    """uint8 [r, h, w, c]: the plain images behind rows of a sealed set, in that order.

    Raises CipherwardError where the images are not those that were sealed.
    """
    source, record = sealing(place, name).source, _kept(place, name)
    if record["source"] != source.fingerprint():
        raise CipherwardError(
            f"the plain images of {place.settings.party} are not those that {name} was sealed from",
            "bring the images back, or seal again",
        )
    kept = record["rows"]
    with ThreadPoolExecutor(cores()) as pool:
        return np.stack(list(pool.map(lambda row: source.read(int(kept[int(row)])), rows)))


def unseal(sealed: SealedDataset, key: SecretKey, out: Path, progress: Progress = lambda rows: None) -> int:
    """Decrypts a sealed set into PNG files, one folder a class; returns their number.

    The set is verified first, so that a wrong key or an altered shard writes nothing.
    """
    sealed.verify(key)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CipherwardError(
            f"{out} is there already, and not an empty folder", "unseal into a new folder"
        )
    cipher = load(sealed.spec).cipher(key)
    with disk_errors(out):
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in sealed.classes:
            (out / name).mkdir(mode=0o700, exist_ok=True)  # plain images: for their owner alone
    for start in range(0, len(sealed), 256):
        stop = min(start + 256, len(sealed))
        images = cipher.decrypt(np.asarray(sealed.images(start, stop)), first=start)
        for row, image in enumerate(images, start):
            picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
            path = out / sealed.classes[int(sealed.labels[row])] / f"{row:06d}.png"
            write_atomic(path, lambda p, im=picture: im.save(p, format="PNG"))  # type: ignore[misc]
        progress(stop)
    return len(sealed)
