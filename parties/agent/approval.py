"""Which app bundles a hospital lets run: private/approved.json, by SHA-256, each with a date of expiry.

The agent looks a bundle up before it is unpacked, for every message (parties/agent/executor.py). Bundles that were
approved are kept in private/bundles, so that the next one can be compared with the last.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
from pathlib import Path

from pydantic import Field

from coordinator.exchange.records import Record, parse_record
from crypto.errors import CipherwardError
from crypto.files import disk_errors, folder_lock, json_text, write_atomic, write_bytes
from crypto.unlock import private_text
from parties.agent.agent_log import AgentLog
from parties.agent.approval_key import ensure_key, remove_signed, write_signed, write_trusted
from parties.agent.bundle import Bundle, read_bundle
from parties.sealing.place import Place

SCHEMA = "cipherward.approved/1"
MOST_DAYS = 730


class NotApprovedError(CipherwardError):
    """A bundle may not run here. The hospital's log names the field `code`."""

    field = "code"


class Approval(Record):
    """One bundle that may run.

    Attributes:
        sha256: hex SHA-256 of the bundle.
        app: the app's name and version.
        approved: when it was approved, ISO 8601 in UTC.
        expires: from when on it no longer runs, ISO 8601 in UTC.
    """

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    app: str
    approved: datetime.datetime = Field(strict=False)
    expires: datetime.datetime = Field(strict=False)


class _Approvals(Record):
    """The content of approved.json, oldest first."""

    schema_name: str = Field(alias="schema", pattern=f"^{SCHEMA}$")
    bundles: tuple[Approval, ...]


def approvals_path(place: Place) -> Path:
    """Return the file of a hospital's approvals."""
    return place.private / "approved.json"


def read_approvals(place: Place) -> list[Approval]:
    """Return the hospital's approvals, oldest first; none if it approved nothing.

    Raises:
        CipherwardError: if the file is damaged, or if others can read or replace it.
    """
    path = approvals_path(place)
    if not path.exists():
        return []
    text = private_text(path, "list of approved bundles")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    approvals = list(parse_record(_Approvals, value, str(path)).bundles)
    for approval in approvals:
        if approval.expires.tzinfo is None:
            raise CipherwardError(f"{path} is damaged: a date has no time zone", "approve the bundle again")
    return approvals


def require_approved(place: Place, sha256: str, now: datetime.datetime | None = None) -> Approval:
    """Return the approval of a bundle.

    Args:
        place: the hospital.
        sha256: hex SHA-256 of the bundle's bytes, computed here and never taken from a message.
        now: the time with a time zone; by default the present.

    Raises:
        NotApprovedError: if the hospital did not approve this bundle, or if its approval has expired.
        CipherwardError: if the list of approvals cannot be used.
    """
    now = now or datetime.datetime.now(datetime.UTC)
    matches = [approval for approval in read_approvals(place) if approval.sha256 == sha256]
    if not matches:
        raise NotApprovedError(
            f"the app bundle {sha256[:16]} is not approved by {place.settings.party}",
            "the hospital decides: cipherward-party approve",
        )
    if now >= matches[-1].expires:
        raise NotApprovedError(
            f"the approval of the app bundle {sha256[:16]} by {place.settings.party} expired on "
            f"{matches[-1].expires:%Y-%m-%d}",
            "the hospital decides: cipherward-party approve",
        )
    return matches[-1]


def approve(place: Place, bundle: Bundle, days: int) -> Approval:
    """Record that a bundle may run for so many days; log it, and keep the bundle for the next comparison.

    approval.json gets the signed approval, which the coordinator carries to this hospital's SuperNode.

    Raises:
        CipherwardError: if the number of days is no number that makes sense, or if a file cannot be written.
    """
    if not 1 <= days <= MOST_DAYS:
        raise CipherwardError(
            f"--days {days} is not from 1 to {MOST_DAYS}", "approve again when an approval has expired"
        )
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    expires = now + datetime.timedelta(days=days)
    approval = Approval(sha256=bundle.sha256, app=bundle.app, approved=now, expires=expires)
    folder = _bundles(place)
    with disk_errors(folder):
        folder.mkdir(mode=0o700, exist_ok=True)
    with folder_lock(folder):
        # First of all: a command that fails for want of a key must leave no approval behind.
        ensure_key(place)
        others = [a for a in read_approvals(place) if a.sha256 != bundle.sha256]
        write_bytes(folder / f"{bundle.sha256}.fab", bundle.data)
        # The log comes first: no approval holds that is not in it.
        AgentLog(place).append("approved", code=bundle.sha256, app=bundle.app, expires=expires.isoformat())
        write_signed(place, bundle.sha256)
        # The last step is the one from which on the code runs: a command that failed has approved nothing.
        _write(place, [*others, approval])
    return approval


def withdraw(place: Place, sha256: str) -> Approval:
    """Remove the approval of the bundle whose digest begins so, at once, and approval.json if it is about it.

    The agent refuses every message of it from now on. A SuperNode that runs learns it within a second or two from the
    agent, and trusts the bundle's signature in no further run.

    Raises:
        CipherwardError: if none or several begin so, or if it is withdrawn and cannot be logged.
    """
    folder = _bundles(place)
    with disk_errors(folder):
        folder.mkdir(mode=0o700, exist_ok=True)
    with folder_lock(folder):
        approvals = read_approvals(place)
        matches = [a for a in approvals if sha256 and a.sha256.startswith(sha256)]
        if len(matches) != 1:
            raise CipherwardError(
                f"{len(matches)} approved bundles have a digest that begins with {sha256[:64]!r}",
                "see: cipherward-party agent approvals",
            )
        _write(place, [a for a in approvals if a.sha256 != matches[0].sha256])
        remove_signed(place, matches[0].sha256)
        # The log comes last here: one that cannot be written must keep no code running.
        try:
            AgentLog(place).append("withdrawn", code=matches[0].sha256, app=matches[0].app)
        except CipherwardError as error:
            raise CipherwardError(f"the approval is withdrawn, but {error.message}", error.hint) from None
    return matches[0]


def trusted_bundles(place: Place, now: datetime.datetime | None = None) -> list[str]:
    """Return the hex SHA-256 of each bundle whose approval holds now.

    Args:
        place: the hospital.
        now: the time with a time zone; by default the present.

    Raises:
        CipherwardError: if the list of approvals cannot be used.
    """
    now = now or datetime.datetime.now(datetime.UTC)
    return [approval.sha256 for approval in read_approvals(place) if now < approval.expires]


def renew_trusted(place: Place, path: Path) -> None:
    """Bring the file for the SuperNode's `--trusted-entities` up to date with the approvals that hold now.

    Where the list of approvals or the key cannot be used, no signature is trusted: the file is removed.
    """
    try:
        write_trusted(place, path, trusted_bundles(place))
    except CipherwardError:
        with contextlib.suppress(OSError):
            path.unlink()


def last_approved(place: Place) -> Bundle | None:
    """Return the bundle that was approved last, if the hospital still has it."""
    for approval in reversed(read_approvals(place)):
        bundle = kept_bundle(place, approval.sha256)
        if bundle is not None:
            return bundle
    return None


def kept_bundle(place: Place, sha256: str) -> Bundle | None:
    """Return the hospital's copy of an approved bundle; None if it is not there, or is not that bundle any more."""
    path = _bundles(place) / f"{sha256}.fab"
    bundle = read_bundle(path) if path.is_file() else None
    return bundle if bundle is not None and bundle.sha256 == sha256 else None


def _bundles(place: Place) -> Path:
    return place.private / "bundles"


def _write(place: Place, approvals: list[Approval]) -> None:
    """Write approved.json with mode 0600."""
    content = _Approvals(schema=SCHEMA, bundles=tuple(approvals))
    text = json_text(content.model_dump(mode="json", by_alias=True))

    def fill(draft: Path) -> None:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)

    write_atomic(approvals_path(place), fill)
