"""The commands of cipherward-party about keys: make, wrap, share and rotate them."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coordinator.exchange.console import progress, result, talk
from crypto.errors import CipherwardError
from crypto.files import disk_errors, new_folder
from crypto.plural import counted

if TYPE_CHECKING:
    from parties.sealing.place import Place
    from parties.sealing.rotate import Rotation

#: Files and folders of a new hospital's folder that are looked at, at most.
_LOOKED_AT = 1000
Hospital = Annotated[Path, typer.Argument(help="The hospital's folder.", show_default=False)]
Passphrase = Annotated[bool, typer.Option("--passphrase", help="Protect the new key with a passphrase.")]
Recipients = Annotated[
    list[str] | None,
    typer.Option(
        "--recipient",
        help="Wrap the key for this recipient (age1…). Can be repeated.",
        show_default="none",
    ),
]
Unprotected = Annotated[bool, typer.Option("--unprotected", help="Write the key in the clear.")]


def keygen(hospital: Hospital, passphrase: Passphrase = False, recipient: Recipients = None) -> None:
    """Make the hospital's secret key (mode 0600). An existing key is never overwritten."""
    from crypto.key import SecretKey
    from crypto.ownership import require_own_folder
    from crypto.sets.leaving import require_stays
    from crypto.unlock import recipient as parse_recipient
    from parties.sealing.new_key import OPENS, write_new_key

    for text in recipient or ():
        parse_recipient(text)  # reports a bad recipient before anything is made
    require_stays(hospital, OPENS)
    _require_no_images(hospital)
    _require_nothing_sealed(hospital)
    key = SecretKey.generate()
    with new_folder(hospital):
        with disk_errors(hospital):
            require_own_folder(hospital)
        write_new_key(hospital / "secret.key", key, passphrase, recipient)
    talk.print(f"made {hospital / 'secret.key'}; keep a copy where only you can read it")
    if recipient and (hospital / "identity.txt").exists():
        talk.print(_warn_of_folder(hospital))
    if not (passphrase or recipient):
        talk.print(
            "it is not protected; keygen --passphrase or keygen --recipient age1… makes a protected key"
        )
    result.print(key.id)


def _warn_of_folder(hospital: Path) -> str:
    """Return the warning that a wrapped key and what opens it are in one folder."""
    return (
        f"whoever copies {hospital} has its key and the identity that may open it; keep the identity elsewhere, "
        "and name it in CIPHERWARD_IDENTITY"
    )


def _require_no_images(hospital: Path) -> None:
    """Raise CipherwardError if the folder for a new key is one of images: they lie in it, or in two folders of it.

    Who copies images takes a key along that lies among them, and `audit` takes their folder for a hospital's. One
    folder of images beside the key is no mistake.
    """
    from parties.sources.walk import PICTURE_ENDINGS

    where: set[Path] = set()
    inside = itertools.chain.from_iterable(hospital.glob(level) for level in ("*", "*/*", "*/*/*"))
    for path in itertools.islice(inside, _LOOKED_AT):
        if path.suffix.lower() in PICTURE_ENDINGS:
            where.add(hospital / path.relative_to(hospital).parts[0])
        if len(where) > 1 or path in where:
            raise CipherwardError(
                f"{hospital} is a folder of images, and a key does not belong among them",
                "name another folder for the key and the sealed sets, for example: cipherward-party keygen hospital",
            )


def _require_nothing_sealed(hospital: Path) -> None:
    """Raise CipherwardError if the folder's key is gone that sealed its images: a new one would hide the loss."""
    key = hospital / "secret.key"
    sealed = next(hospital.glob("sealed/*/manifest.json"), None)
    if sealed is not None and not os.path.lexists(key):  # one that is there is never overwritten
        raise CipherwardError(
            f"{key} is gone, which sealed the images in {sealed.parent}, and a new key opens none of them",
            "restore it from your backup; or make a key in another folder, and seal there",
        )


def identity(file: Annotated[Path, typer.Argument(help="The identity file to make.")]) -> None:
    """Make an age identity (mode 0600) and print its recipient (age1…). Others wrap keys for that recipient."""
    from crypto.sets.leaving import require_stays
    from crypto.unlock import write_identity

    require_stays(file, "the identity opens wrapped keys")
    public = write_identity(file)
    talk.print(f"made {file}: it is secret, for it opens every key that is wrapped for its recipient")
    if (file.parent / "secret.key").exists():
        talk.print(_warn_of_folder(file.parent))
    talk.print(f"hand out its recipient alone, never {file.name}:")
    result.print(public)


def share_key(
    key: Annotated[Path, typer.Argument(help="Your key file.")],
    to: Annotated[Path, typer.Argument(help="The file to make, for another hospital of the consortium.")],
    recipient: Recipients = None,
    unprotected: Unprotected = False,
) -> None:
    """Wrap a key for another hospital (mode 0600). Only the recipient can open the copy."""
    from crypto.keyfile import read_key
    from parties.sealing.new_key import write_new_key

    if bool(recipient) == unprotected:
        raise CipherwardError(
            "choose how to protect the shared key: wrapped for a recipient, or unprotected",
            "--recipient age1… (the other hospital gets it from `cipherward-party identity FILE`), or --unprotected",
        )
    secret = read_key(key)
    write_new_key(to, secret, False, recipient)
    if unprotected:
        talk.print(
            f"made {to}, not wrapped: anyone who holds it can open every image sealed with key {secret.id}"
        )
    else:
        talk.print(f"made {to}, wrapped for {counted(len(recipient or []), 'recipient')}; the key's id:")
    result.print(secret.id)
    if not unprotected:
        talk.print(
            "in the other hospital, instead of keygen: install -m 600 FILE HOSPITAL/secret.key; where images are "
            "sealed already: cipherward-party rotate HOSPITAL --key FILE"
        )


def rotate(
    hospital: Hospital,
    key: Annotated[
        Path | None,
        typer.Option(
            "--key", help="Use this new key, which another hospital shared.", show_default="make one"
        ),
    ] = None,
    passphrase: Passphrase = False,
    recipient: Recipients = None,
    unprotected: Unprotected = False,
    unopened: Annotated[
        bool,
        typer.Option(
            "--unopened",
            help="Accept recipients whose identities are elsewhere: nobody here can open the new key.",
        ),
    ] = False,
) -> None:
    """Make a new key and seal everything again under it, in another row order. The old key is kept.

    Plain images are never written to disk. Run it again to finish an interrupted rotation. Its key is then protected
    as the options of that run say; without any, it stays as it is.
    """
    from crypto.keyfile import read_key
    from crypto.unlock import require_openable
    from parties.sealing.new_key import NewKey
    from parties.sealing.place import Place
    from parties.sealing.rotate import rotate as rotate_place

    place = Place.open(hospital)
    protections = sum([passphrase, bool(recipient), unprotected])
    if protections > 1 or (protections and key):
        raise CipherwardError(
            "choose only one way to protect the new key",
            "choose one of --key, --passphrase, --recipient, --unprotected",
        )
    if recipient and not unopened:
        require_openable(recipient, place.folder)  # before anything is sealed again
    shared = read_key(key, home=place.folder) if key else None
    new_key = NewKey(
        place, key, shared, passphrase, tuple(recipient or ()), unprotected, unopened, talk.print
    )
    rotation = rotate_place(place, new_key.make, shared.id if shared else None, progress, new_key)
    for line in _describe_rotation(place, rotation):
        talk.print(line, soft_wrap=True)  # some lines hold commands to paste
    result.print(rotation.new)


def _describe_rotation(place: Place, rotation: Rotation) -> list[str]:
    """Return what the hospital must know after a rotation, one line each."""
    from parties.sealing.new_key import describe_protection
    from parties.sealing.rotate import archive_paths
    from parties.sources.source import SPLITS

    archived_key, archived_sets, _ = archive_paths(place, rotation.old)
    lines = [
        f"{name}: {counted(rotation.rows[name], 'image')} sealed again, in another order"
        for name in SPLITS
        if name in rotation.rows
    ]
    lines.append(
        f"{place.key_path} holds key {rotation.new}; key {rotation.old} is kept as {archived_key.name}"
    )
    lines.append(f"the new key's file is {describe_protection(place.key_path)}")
    lines.append(
        f"images uploaded before the rotation stay readable with key {rotation.old}, and exposed to attacks on it; "
        "a rotation does not call them back"
    )
    if archived_sets.exists():
        lines.append(f"the old sets are kept in {archived_sets}; remove them when you no longer need them")
    if rotation.aside:
        draws = _draws_of(place, rotation)
        lines.append(
            f"set aside with them: {', '.join(rotation.aside)}. To audit the new sets: "
            f"cipherward-party seal {place.folder} --audit {draws}"
        )
    return [*lines, *_describe_consequences(place, rotation)]


def _draws_of(place: Place, rotation: Rotation) -> int:
    """Return how many draws an audit had, by the names of its sets and its map, which are archived."""
    from coordinator.exchange.audit.suite1 import BLIND_CONTROLS
    from parties.sealing.audit_sets import is_audit_set, map_path, read_map
    from parties.sealing.rotate import archive_paths

    blind = sum(map(is_audit_set, rotation.aside))
    if not blind:
        return sum(name.startswith("audit-") for name in rotation.aside) + 1
    sets = read_map(place, archive_paths(place, rotation.old)[2] / map_path(place).name)
    return blind - BLIND_CONTROLS - (0 if sets is None else len(sets.controls))


def _describe_consequences(place: Place, rotation: Rotation) -> list[str]:
    """Return what a rotation changes for the images, the models and the other hospitals, one line each."""
    from crypto.scheme import load

    lines = []
    tolerance = max((load(place.sealed(name).spec).tolerance for name in rotation.rows), default=0.0)
    if tolerance:
        lines.append(
            f"the scheme returns images to within {tolerance:g} gray levels; the new images may differ by that much"
        )
    if rotation.rows:
        lines.append("a model trained on the old sets does not fit the new ones: train again")
        if place.policy_file.exists():
            lines.append(
                "a study that this hospital takes part in needs its new statement, and the agreement of all: "
                f"cipherward-party declare {place.folder}"
            )
    if place.settings.key_scope == "consortium":
        lines.append(
            f"hospitals that keep key {rotation.old} can no longer train together with this one. For each of them, "
            f"run here: cipherward-party share-key {place.key_path} FOR_THEM.key --recipient age1…, and there: "
            "cipherward-party rotate THEIR_FOLDER --key FOR_THEM.key"
        )
    return lines
