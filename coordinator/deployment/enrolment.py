"""Who may join: the roster, and its agreement with what Flower's SuperLink has registered.

A hospital makes its key pairs itself and sends the public halves, in one file of two lines:

    cipherward-identity-1 hospital-0 KEY        its identity, which signs what it states
    ecdsa-sha2-nistp384 AAAA… COMMENT           its SuperNode's key, in the format of OpenSSH

The roster is the truth. `serve` registers with Flower whom the roster names, and removes whom it no longer names, so
enrolling and revoking work whether or not the SuperLink runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from coordinator.deployment.control import Control
from coordinator.deployment.folder import DeploymentFolder
from coordinator.exchange.manifest import read_manifest
from coordinator.exchange.records import Record, parse_record
from crypto.errors import CipherwardError
from crypto.files import folder_lock, read_json, read_regular, write_json
from crypto.identity import PublicIdentity

#: The largest file of public keys, in bytes. Two lines have some three hundred.
_MAX_BYTES = 4096
_CURVES = ("secp256r1", "secp384r1", "secp521r1")
_RESTORE_ROSTER = (
    "restore it from your backup; or write {} into it, let every hospital enrol again, and revoke again whom you "
    "revoked"
)
_SEND_AGAIN = "the hospital's file has two lines: its identity, and its SuperNode's public key"


class Enrolled(Record):
    """A hospital's entry in the roster.

    Attributes:
        identity: the line of its public identity.
        node_key: its SuperNode's public key, in the format of OpenSSH, without a comment.
        is_revoked: whether it was removed. The entry stays: its keys are never taken again.
    """

    identity: str
    node_key: str
    is_revoked: bool = False


@dataclass(frozen=True)
class PublicKeys:
    """What a hospital sends.

    Attributes:
        identity: its public identity.
        node_key: its SuperNode's public key.
    """

    identity: PublicIdentity
    node_key: ec.EllipticCurvePublicKey

    @property
    def entry(self) -> Enrolled:
        """The hospital's entry in the roster."""
        return Enrolled(identity=self.identity.line, node_key=_openssh(self.node_key), is_revoked=False)


def read_public_keys(path: Path) -> PublicKeys:
    """Read the file of two lines that a hospital sends.

    Raises:
        CipherwardError: if it cannot be read, if it holds something else, and above all if it holds a private key.
    """
    try:
        data = read_regular(path)
        text = data.decode("ascii")
    except FileNotFoundError:
        raise CipherwardError(f"no public keys at {path}", "name the file that the hospital sent") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CipherwardError(f"cannot read {path}: {type(error).__name__}", _SEND_AGAIN) from None
    if "PRIVATE KEY" in text or "AGE-SECRET-KEY" in text:
        raise CipherwardError(
            f"{path} holds a private key",
            "delete it; the hospital must make new keys and send the public ones",
        )
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) != 2 or len(data) > _MAX_BYTES:
        raise CipherwardError(f"{path} has not two lines", _SEND_AGAIN)
    return PublicKeys(PublicIdentity.parse(lines[0]), parse_node_key(lines[1]))


def parse_node_key(line: str) -> ec.EllipticCurvePublicKey:
    """Return the SuperNode's public key in a line of OpenSSH's format. Raise CipherwardError for any other key."""
    try:
        key = serialization.load_ssh_public_key(line.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise CipherwardError("the SuperNode's key is no public key of OpenSSH", _SEND_AGAIN) from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        raise CipherwardError(
            "the SuperNode's key is not on a NIST curve, which Flower asks for",
            "ssh-keygen -t ecdsa -b 384",
        )
    return key


def _openssh(key: ec.EllipticCurvePublicKey) -> str:
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def node_key_pem(node_key: str) -> bytes:
    """Return a roster's SuperNode key as Flower stores it."""
    return parse_node_key(node_key).public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def read_roster(place: DeploymentFolder) -> dict[str, Enrolled]:
    """Return the roster: entries by the hospital's name, the revoked ones too.

    Raises:
        CipherwardError: if the file is missing or damaged. Without it nobody would be enrolled, and nobody revoked:
            a server would shut every hospital out, and a revoked key be taken again.
    """
    if not place.roster.exists():
        raise CipherwardError(
            f"the roster {place.roster} is missing",
            f"{_RESTORE_ROSTER}; in a folder of an earlier version, `provision` makes one if nobody was enrolled",
        )
    value = read_json(place.roster, "roster", remedy=_RESTORE_ROSTER)
    if not isinstance(value, dict):
        raise CipherwardError(
            f"the roster {place.roster} is damaged: it is no JSON object", _RESTORE_ROSTER
        )
    return {name: parse_record(Enrolled, entry, str(place.roster)) for name, entry in value.items()}


def provide_roster(place: DeploymentFolder) -> None:
    """Make an empty roster in a new folder, unless there is one.

    Raises:
        CipherwardError: if there is none, and what is in the folder shows that hospitals were enrolled.
    """
    if place.roster.exists():
        return
    used = [path for path in (place.approvals, place.studies) if path.is_dir() and any(path.iterdir())]
    if used or place.database.exists():
        raise CipherwardError(
            f"the roster {place.roster} is missing, and this federation was in use: "
            f"{(used or [place.database])[0]} is there",
            _RESTORE_ROSTER,
        )
    write_json(place.roster, {})


def enrol(place: DeploymentFolder, keys: PublicKeys) -> bool:
    """Add a hospital to the roster, and say whether it is new there.

    Args:
        place: the deployment's folder.
        keys: what the hospital sent.

    Raises:
        CipherwardError: if the federation does not name the hospital, if it is enrolled with other keys, if another
            hospital uses one of these, or if the study manifest names another identity.
    """
    name, entry = keys.identity.name, keys.entry
    hospitals = place.settings.hospitals
    if name not in hospitals:
        raise CipherwardError(f"{name} is no hospital of this federation", f"known: {', '.join(hospitals)}")
    if place.study.exists():
        stated = read_manifest(place.study).roster.get(name)
        if stated is not None and stated.line != keys.identity.line:
            raise CipherwardError(
                f"the identity of {name} is not the one in the study manifest ({stated.fingerprint})",
                f"call {name} and compare the fingerprint: {keys.identity.fingerprint}",
            )
    with folder_lock(place.root):
        roster = read_roster(place)
        for other, known in roster.items():
            _refuse_conflict(name, entry, other, known)
        if roster.get(name) == entry:
            return False
        write_json(place.roster, {n: e.to_json() for n, e in {**roster, name: entry}.items()})
    return True


def _refuse_conflict(name: str, entry: Enrolled, other: str, known: Enrolled) -> None:
    """Raise CipherwardError if an entry of the roster forbids this one."""
    same_node_key = known.node_key == entry.node_key
    if other != name:
        if same_node_key or known.identity.split()[2] == entry.identity.split()[2]:
            raise CipherwardError(f"{other} uses the same key", "every hospital makes keys of its own")
    elif known.is_revoked and same_node_key:
        raise CipherwardError(
            f"this SuperNode key of {name} was revoked",
            "the hospital makes a new key pair and sends the public half",
        )
    elif not known.is_revoked and known != entry:
        raise CipherwardError(
            f"{name} is enrolled with other keys",
            f"call {name} and compare the fingerprint; if it is theirs: cipherward-coordinator revoke, then enrol",
        )


def revoke(place: DeploymentFolder, hospital: str) -> bool:
    """Remove a hospital from those who may join, and say whether it was among them.

    Raises:
        CipherwardError: if it was never enrolled.
    """
    with folder_lock(place.root):
        roster = read_roster(place)
        if hospital not in roster:
            raise CipherwardError(f"{hospital} is not enrolled", f"known: {', '.join(roster) or 'none'}")
        if roster[hospital].is_revoked:
            return False
        roster[hospital] = roster[hospital].model_copy(update={"is_revoked": True})
        write_json(place.roster, {n: e.model_dump() for n, e in roster.items()})
    return True


def reconcile(roster: dict[str, Enrolled], control: Control, log: Callable[[str], None]) -> dict[int, str]:
    """Register with Flower whom the roster names, remove whom it does not, and return the hospitals by node id."""
    expected = {node_key_pem(e.node_key): name for name, e in roster.items() if not e.is_revoked}
    names: dict[int, str] = {}
    for node in control.nodes():
        if node.public_key in expected:
            names[node.node_id] = expected.pop(node.public_key)
        else:
            control.unregister(node.node_id)
            log(f"node-{node.node_id} is removed: the roster does not name it")
    for key, name in expected.items():
        names[control.register(key, name)] = name
        log(f"{name} is registered")
    return names
