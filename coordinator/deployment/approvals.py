"""Carry the hospitals' approvals of the app bundle to their SuperNodes: approvals/HOSPITAL.json.

A SuperNode with `--trusted-entities` runs an app only if a signature of a key that it trusts comes with the bundle.
Flower's own service delivers such signatures for apps of its hub. Here the hospitals' own are put into the answer to
a SuperNode's request for the bundle, so Flower's database and programs stay as they are. They are looked up at every
request: an approval that arrives during a run holds from the hospital's next message on.

The coordinator gains nothing by changing one: what does not fit is refused in the hospital.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

from coordinator.deployment.bundle import bundle_digest
from coordinator.deployment.doors import App, Receive, Scope, Send
from coordinator.deployment.folder import DeploymentFolder
from coordinator.exchange.code_approval import CodeApproval, read_approval
from crypto.errors import CipherwardError
from crypto.files import disk_errors, write_json

#: Where a SuperNode asks for the bundle.
_GET_BUNDLE = "/v1/fleet/get-fab"
#: The entry without which a SuperNode looks at no signature. Flower's own SuperLink writes "Valid" there when its hub
#: delivered signatures. This text claims no licence: it says where the signatures come from.
_MARK = ("valid_license", "signatures of the hospitals, carried by cipherward")


def carry(place: DeploymentFolder, path: Path) -> tuple[CodeApproval, bool]:
    """Keep a hospital's approval for its SuperNode; return it, and whether it is new here.

    Raises:
        CipherwardError: if it is damaged, of a hospital that the federation does not name, of another bundle, signed
            by another key than the approval of this bundle that is here, or older than that one.
    """
    approval = read_approval(path)
    hospitals = place.settings.hospitals
    if approval.hospital not in hospitals:
        raise CipherwardError(
            f"{approval.hospital} is no hospital of this federation", f"known: {', '.join(hospitals)}"
        )
    own = bundle_digest(place.read_bundle())
    if approval.bundle_sha256 != own:
        raise CipherwardError(
            f"{approval.hospital} approved the app bundle {approval.bundle_sha256[:16]}, and this federation's is "
            f"{own[:16]}",
            f"send {approval.hospital} the kit of now; it approves that, and sends approval.json again",
        )
    target = place.approval(approval.hospital)
    before = _read_kept(target)
    if before is not None and before.bundle_sha256 != own:
        before = (
            None  # of an earlier bundle: each has a key of its own, and nobody asks for that one any more
        )
    if before is not None and before.key != approval.key:
        # Anybody can sign an approval in a hospital's name: the hospital would then refuse its own code.
        raise CipherwardError(
            f"{path} is signed by {approval.key_id}, and the approval of {approval.hospital} that is here by "
            f"{before.key_id}",
            f"ask {approval.hospital} which key is its own; if it has a new one, remove {target} and carry again",
        )
    if before is not None and before.signed_at > approval.signed_at:
        raise CipherwardError(
            f"{path} is older than the approval of {approval.hospital} that is here",
            f"nothing is to be done; if {approval.hospital} wants the older one, remove {target} and carry again",
        )
    is_new = before != approval
    if is_new:
        with disk_errors(target):
            target.parent.mkdir(exist_ok=True, mode=0o700)
        write_json(target, approval.to_json())
    return approval, is_new


def _read_kept(path: Path) -> CodeApproval | None:
    """Return the approval in a file of ours, of this bundle or an earlier one; None without one that is whole."""
    try:
        return read_approval(path)
    except CipherwardError:
        return None


def read_approvals(folder: Path, bundle_sha256: str) -> dict[str, CodeApproval]:
    """Return the approvals of a bundle by hospital. Damaged files and those of other bundles are left out.

    Args:
        folder: holds HOSPITAL.json.
        bundle_sha256: hex SHA-256 of the bundle.
    """
    approvals = {}
    for path in sorted(folder.glob("*.json")):
        approval = _read_kept(path)
        if approval is not None and approval.bundle_sha256 == bundle_sha256:
            approvals[approval.hospital] = approval
    return approvals


def missing_approvals(place: DeploymentFolder) -> list[str]:
    """Return the hospitals whose approval of the provisioned bundle is not here."""
    approvals = read_approvals(place.approvals, bundle_digest(place.read_bundle()))
    return [name for name in place.settings.hospitals if name not in approvals]


class Carrier:
    """An ASGI app: the SuperLink, whose answer to a request for the bundle also has the hospitals' signatures."""

    def __init__(self, app: App, folder: Path) -> None:
        """Take the SuperLink's app and the folder of approvals."""
        self._app, self._folder = app, folder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, or the start and end of the server."""
        if scope["type"] != "http" or scope["path"] != _GET_BUNDLE:
            await self._app(scope, receive, send)
            return
        start: MutableMapping[str, Any] = {}
        body = bytearray()

        async def held(message: MutableMapping[str, Any]) -> None:
            """Keep the answer until it is whole; a bundle has about a megabyte."""
            if message["type"] == "http.response.start":
                start.update(message)
                return
            body.extend(message.get("body", b""))
            if not message.get("more_body"):
                answer = self._add(bytes(body)) if start["status"] == 200 else bytes(body)
                await send({**start, "headers": _with_length(start["headers"], len(answer))})
                await send({"type": "http.response.body", "body": answer})

        await self._app(scope, receive, held)

    def _add(self, body: bytes) -> bytes:
        """Return an answer with the signatures; as it was if no hospital approved this bundle."""
        from flwr.proto.fab_pb2 import GetFabResponse

        answer = GetFabResponse.FromString(body)
        entries = verifications(read_approvals(self._folder, answer.fab.hash_str))
        if not entries:
            return body
        answer.fab.verifications.clear()
        answer.fab.verifications.update(entries)
        return bytes(answer.SerializeToString())


def verifications(approvals: Mapping[str, CodeApproval]) -> dict[str, str]:
    """Return what stands beside the bundle, as Flower's SuperNode reads it; nothing without approvals."""
    entries = {approval.key_id: approval.verification for approval in approvals.values()}
    return dict([_MARK]) | entries if entries else {}


def _with_length(headers: Any, length: int) -> list[tuple[bytes, bytes]]:
    """Return an answer's headers with another length."""
    kept = [(name, value) for name, value in headers if name.lower() != b"content-length"]
    return [*kept, (b"content-length", str(length).encode())]
