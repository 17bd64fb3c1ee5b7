"""The commands of cipherward-party about keys: making, wrapping, sharing and rotating them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coordinator.exchange.console import progress, result, talk
from crypto.errors import CipherwardError
from crypto.files import disk_errors

if TYPE_CHECKING:
    from crypto.key import SecretKey
    from parties.sealing.place import Place
    from parties.sealing.rotate import Rotation

Hospital = Annotated[Path, typer.Argument(help="The hospital's folder.", show_default=False)]
Passphrase = Annotated[bool, typer.Option("--passphrase", help="Protect the new key by a passphrase.")]
Recipients = Annotated[
    list[str] | None,
    typer.Option("--recipient", help="Wrap the key for this recipient, age1…; may be given again."),
]
Unprotected = Annotated[bool, typer.Option("--unprotected", help="Write the key as it is, not wrapped.")]


def keygen(hospital: Hospital, passphrase: Passphrase = False, recipient: Recipients = None) -> None:
    """Make the hospital's secret key (mode 0600; an existing one is never overwritten)."""
    from crypto.key import SecretKey
    from crypto.unlock import recipient as checked

    for word in recipient or ():
        checked(word)  # a bad one is told before anything is made
    key = SecretKey.generate()
    with disk_errors(hospital):
        hospital.mkdir(parents=True, exist_ok=True)
    _write_key(hospital / "secret.key", key, passphrase, recipient)
    talk.print(f"made {hospital / 'secret.key'}; keep a copy where only you can read it")
    if not (passphrase or recipient):
        talk.print("it is not protected: keygen --passphrase or --recipient age1… makes one that is")
    result.print(key.id)


def _write_key(path: Path, key: SecretKey, passphrase: bool, recipients: list[str] | None) -> None:
    from crypto.keyfile import write_key
    from crypto.unlock import new_passphrase, refuse_existing

    if passphrase and recipients:
        raise CipherwardError(
            "a key file is protected by a passphrase or for recipients, not both", "choose one of them"
        )
    refuse_existing(path, "a key file")  # before a passphrase is asked for
    write_key(path, key, recipients or (), new_passphrase() if passphrase else None)


def identity(file: Annotated[Path, typer.Argument(help="The identity file to make.")]) -> None:
    """Make an age identity (mode 0600) and print its recipient, age1…, to which others wrap keys for you."""
    from crypto.unlock import write_identity

    public = write_identity(file)
    talk.print(f"made {file}; keep it apart from the keys it opens. This is its recipient, for everybody:")
    result.print(public)


def share_key(
    key: Annotated[Path, typer.Argument(help="Your key file.")],
    to: Annotated[Path, typer.Argument(help="The file to make, for another hospital of the consortium.")],
    recipient: Recipients = None,
    unprotected: Unprotected = False,
) -> None:
    """Wrap a key for another hospital (mode 0600): its recipient alone can open the copy."""
    from crypto.keyfile import read_key

    if bool(recipient) == unprotected:
        raise CipherwardError(
            "a shared key is wrapped for its recipient, or unprotected: say which",
            "--recipient age1…, which `cipherward-party identity FILE` prints there; or --unprotected",
        )
    secret = read_key(key)
    _write_key(to, secret, False, recipient)
    if unprotected:
        talk.print(
            f"made {to}, not wrapped: whoever holds it opens every image sealed with key {secret.id}"
        )
    else:
        count = len(recipient or [])
        talk.print(
            f"made {to}, wrapped for {count} recipient{'s' if count > 1 else ''}; this is the key's id:"
        )
    result.print(secret.id)


def rotate(
    hospital: Hospital,
    key: Annotated[
        Path | None, typer.Option("--key", help="Take this new key, which another hospital shared.")
    ] = None,
    passphrase: Passphrase = False,
    recipient: Recipients = None,
    unprotected: Unprotected = False,
) -> None:
    """Make a new key and seal everything again under it, in another row order; the old key is kept.

    Plain images are never written to disk. Run it again where it was interrupted.
    """
    from crypto.key import SecretKey
    from crypto.keyfile import copy_key, is_wrapped, read_key
    from parties.sealing.place import Place
    from parties.sealing.rotate import rotate as rotate_place

    place = Place.open(hospital)
    chosen = sum([passphrase, bool(recipient), unprotected])
    if chosen > 1 or (chosen and key):
        raise CipherwardError(
            "the new key is protected in one way",
            "choose one of --key, --passphrase, --recipient, --unprotected",
        )
    given = read_key(key, home=place.folder) if key else None

    def make(path: Path) -> SecretKey:
        if key is not None and given is not None:
            copy_key(key, path)
            return given
        if not chosen and is_wrapped(place.key_path):
            raise CipherwardError(
                f"{place.key_path} is protected: say how the new key shall be",
                "--passphrase, or --recipient age1… for each who must open it, or --unprotected",
            )
        new = SecretKey.generate()
        _write_key(path, new, passphrase, recipient)
        return new

    done = rotate_place(place, make, given.id if given else None, progress)
    for line in _said(place, done):
        talk.print(line, soft_wrap=True)  # there are commands in it to paste
    result.print(done.new)


def _said(place: Place, done: Rotation) -> list[str]:
    """What the hospital must know afterwards, a line each."""
    from crypto.scheme import load
    from parties.sealing.rotate import aside_paths
    from parties.sources.source import SPLITS

    key, (kept_key, kept_sets, _) = place.key_path, aside_paths(place, done.old)
    lines = [
        f"{name}: {done.rows[name]} images sealed again, in another order"
        for name in SPLITS
        if name in done.rows
    ]
    lines.append(f"{key} holds key {done.new}; key {done.old} is kept as {kept_key.name}")
    lines.append(
        f"what was uploaded before stays readable with key {done.old}, and open to attack: "
        "a rotation does not call it back"
    )
    if kept_sets.exists():
        lines.append(f"the old sets are kept in {kept_sets}; remove them when you need them no longer")
    if done.aside:
        draws = sum(name.startswith("audit-") for name in done.aside) + 1
        lines.append(
            f"set aside with them: {', '.join(done.aside)}. For an audit of the new sets: "
            f"cipherward-party seal {place.folder} --audit {draws}"
        )
    if loss := max((load(place.sealed(name).spec).tolerance for name in done.rows), default=0.0):
        lines.append(
            f"the scheme gives images back to within {loss:g} gray levels: so far may the new ones be off"
        )
    if done.rows:
        lines.append("a model trained on the old sets does not fit the new ones: train again")
    if place.settings.key_scope == "consortium":
        lines.append(
            f"hospitals that keep key {done.old} cannot train together with this one any more. For each of them: "
            f"cipherward-party share-key {key} FOR_THEM.key --recipient age1…, and there: "
            "cipherward-party rotate THEIR_FOLDER --key FOR_THEM.key"
        )
    return lines
