"""A start-up kit: the one file that a hospital needs to join a federation. It holds nothing secret.

    hospital-0.kit                a ZIP archive, stored without compression
      manifest.json               KitManifest: what the kit is for, and the SHA-256 of every other member
      ca.crt                      the federation's CA certificate, PEM
      plan.yaml                   the plan that the coordinator proposes
      study.json                  the study manifest, if the hospitals have agreed on one

The kit is not signed: a hospital that has never met the coordinator has nothing to check a signature with. It gets
the kit's fingerprint over another channel and compares it. What the kit says about training is a proposal; the
hospital's policy decides.
"""

from __future__ import annotations

import datetime
import hashlib
import io
import stat
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from coordinator.exchange.records import Record, parse_record
from crypto.archive import DAMAGE, read_members
from crypto.errors import CipherwardError
from crypto.files import json_text, parse_json, write_bytes

SCHEMA = "cipherward.kit/1"
MANIFEST, CA, PLAN, STUDY = "manifest.json", "ca.crt", "plan.yaml", "study.json"
_REQUIRED, _OPTIONAL = (CA, PLAN), (STUDY,)
#: The largest kit, in bytes. A plan and a certificate have a few kilobytes; a study manifest has some per hospital.
_MAX_BYTES = 16 << 20
#: Files in a kit, at most.
_MAX_MEMBERS = 8
_AGAIN = "ask the coordinator for the kit again, and compare its fingerprint"
_DIGEST = r"^[0-9a-f]{64}$"
#: Members carry this date, so that equal kits have equal bytes.
_DATE = (1980, 1, 1, 0, 0, 0)


class KitManifest(Record):
    """What a kit says about itself.

    Attributes:
        federation: the federation's name.
        hospital: the hospital that the kit is for.
        address: host:port of the coordinator's Fleet API.
        bundle_sha256: hex SHA-256 of the app bundle (Flower's FAB) that the coordinator will send.
        versions: what the coordinator runs: cipherward, flwr and python.
        created: when the kit was made, ISO 8601 in UTC.
        expires: from when on no hospital should join with it, ISO 8601 in UTC.
        files: hex SHA-256 by name of every other member.
    """

    schema_name: str = Field(alias="schema", pattern=f"^{SCHEMA}$")
    federation: str = Field(min_length=1, max_length=64)
    hospital: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    address: str = Field(pattern=r"^[A-Za-z0-9.:\[\]-]+:[0-9]{1,5}$")
    bundle_sha256: str = Field(pattern=_DIGEST)
    versions: dict[str, str]
    created: str
    expires: str
    files: dict[str, str]


@dataclass(frozen=True)
class Kit:
    """A checked kit.

    Attributes:
        manifest: what it says about itself.
        files: the members' bytes by name, without the manifest.
    """

    manifest: KitManifest
    files: Mapping[str, bytes]

    @property
    def fingerprint(self) -> str:
        """What people compare over the telephone: 32 hexadecimal digits in groups of four (128 bits of SHA-256)."""
        digest = hashlib.sha256(_manifest_bytes(self.manifest)).hexdigest()[:32]
        return "-".join(digest[i : i + 4] for i in range(0, len(digest), 4))

    @property
    def expires(self) -> datetime.datetime:
        """From when on no hospital should join with this kit, in UTC."""
        return _parse_time(self.manifest.expires)

    def require_current(self, now: datetime.datetime) -> None:
        """Raise CipherwardError if the kit has expired, or if it was made in the future.

        Args:
            now: the time with a time zone.
        """
        if now >= self.expires:
            raise CipherwardError(
                f"this kit expired on {self.manifest.expires}",
                "ask the coordinator for a new one: cipherward-coordinator renew",
            )
        if _parse_time(self.manifest.created) > now + datetime.timedelta(days=1):
            raise CipherwardError(
                f"this kit was made on {self.manifest.created}, which is in the future",
                "set this machine's clock",
            )

    def require_versions(self, versions: Mapping[str, str]) -> None:
        """Raise CipherwardError if this machine runs another Flower, or another Cipherward, than the coordinator.

        Args:
            versions: this machine's, as in the manifest. The patch level and the version of Python may differ.
        """
        for name in ("cipherward", "flwr"):
            expected, actual = self.manifest.versions.get(name, ""), versions.get(name, "")
            if expected.split(".")[:2] != actual.split(".")[:2]:
                raise CipherwardError(
                    f"the coordinator runs {name} {expected or 'unknown'}, and this machine {actual or 'none'}",
                    f"install {name} {expected}",
                )


def write_kit(path: Path, manifest: KitManifest, files: Mapping[str, bytes]) -> Kit:
    """Write a kit, atomically, and return it.

    Args:
        path: the file.
        manifest: what the kit says about itself; its `files` are replaced by the digests of these.
        files: the members' bytes by name.
    """
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    full = manifest.model_copy(update={"files": digests})
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, data in ((MANIFEST, _manifest_bytes(full)), *sorted(files.items())):
            archive.writestr(zipfile.ZipInfo(name, _DATE), data)
    write_bytes(path, stream.getvalue())
    return Kit(full, dict(files))


def read_kit(path: Path) -> Kit:
    """Read a kit and check every member.

    Raises:
        CipherwardError: if it is missing, no kit, too large, damaged, or holds a member that no kit has.
    """
    try:
        too_large = CipherwardError(f"{path} is too large for a kit", _AGAIN)
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
            raise CipherwardError(f"{path} is no file", "name the file that the coordinator sent")
        if path.stat().st_size > _MAX_BYTES:
            raise too_large
        with zipfile.ZipFile(path) as archive:
            found = read_members(archive, _MAX_BYTES, _MAX_MEMBERS, too_large)
    except FileNotFoundError:
        raise CipherwardError(f"no kit at {path}", "name the file that the coordinator sent") from None
    except DAMAGE as error:
        raise CipherwardError(f"{path} is no kit: {type(error).__name__}", _AGAIN) from None
    members = dict(found)
    if len(members) < len(found) or MANIFEST not in members:
        raise CipherwardError(f"{path} is no kit", _AGAIN)
    manifest = _parse_manifest(members.pop(MANIFEST), path)
    _check_members(manifest, members, path)
    return Kit(manifest, members)


def _parse_manifest(data: bytes, path: Path) -> KitManifest:
    """Return the manifest in these bytes. Raise CipherwardError if they hold none, or impossible times."""
    try:
        value = parse_json(data)
    except (ValueError, RecursionError):
        raise CipherwardError(f"the manifest of {path} is damaged", _AGAIN) from None
    manifest = parse_record(KitManifest, value, f"the manifest of {path}")
    for text in (manifest.created, manifest.expires):
        _parse_time(text)
    return manifest


def _check_members(manifest: KitManifest, members: Mapping[str, bytes], path: Path) -> None:
    """Raise CipherwardError unless the members are those that the manifest lists, each with its digest."""
    if missing := set(_REQUIRED) - members.keys():
        raise CipherwardError(f"{path} lacks {', '.join(sorted(missing))}", _AGAIN)
    if foreign := (members.keys() | manifest.files.keys()) - {*_REQUIRED, *_OPTIONAL}:
        raise CipherwardError(f"{path} holds what no kit has: {', '.join(sorted(foreign))}", _AGAIN)
    if members.keys() != manifest.files.keys():
        raise CipherwardError(f"{path} does not hold the files that its manifest lists", _AGAIN)
    for name, data in members.items():
        if hashlib.sha256(data).hexdigest() != manifest.files[name]:
            raise CipherwardError(f"{name} in {path} is damaged: its digest differs", _AGAIN)


def _manifest_bytes(manifest: KitManifest) -> bytes:
    return json_text(manifest.to_json()).encode()


def _parse_time(text: str) -> datetime.datetime:
    """Return a time with a time zone. Raise CipherwardError if the text is none."""
    try:
        time = datetime.datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise CipherwardError(f"{text!r} in the kit is no time", _AGAIN)
    return time
