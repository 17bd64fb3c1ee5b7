"""The coordinator carries the hospitals' approvals of its bundle to whoever asks for the bundle."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import APIRouter, FastAPI
from fastapi.middleware import Middleware
from flwr.common.serde import fab_from_proto
from flwr.proto.fab_pb2 import Fab, GetFabRequest, GetFabResponse
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.supercore.protobuf.routing import ProtobufRoute
from flwr.supercore.protobuf.translation import ProtobufTranslationMiddleware
from flwr.supernode.start_client_internal import _verify_fab

from coordinator.deployment.approvals import Carrier, carry, missing_approvals
from coordinator.deployment.bundle import bundle_digest
from coordinator.deployment.folder import DeploymentFolder
from coordinator.exchange.code_approval import CodeApproval, sign_approval
from crypto.errors import CipherwardError
from tests.support.deployment import provisioned

HOSPITALS = ("hospital-0", "hospital-1")


def send_in(folder: Path, hospital: str, sha256: str) -> Path:
    """Write what a hospital sends."""
    path = folder / f"{hospital}.approval"
    approval = sign_approval(Ed25519PrivateKey.generate(), hospital, sha256, 1_800_000_000)
    path.write_text(json.dumps(approval.to_json()))
    return path


def ask_for(
    bundle: str, folder: Path, *, status: int = 200, path: str = "/v1/fleet/get-fab"
) -> tuple[Any, bytes]:
    """Ask a SuperLink that stands for Flower's for a bundle; return the headers and the body of the answer."""
    plain = GetFabResponse(fab=Fab(hash_str=bundle, content=b"code", verifications={"old": "entry"}))
    body = plain.SerializeToString()
    sent: list[MutableMapping[str, Any]] = []

    async def superlink(_scope: Any, _receive: Any, send: Any) -> None:
        headers = [
            (b"content-type", b"application/x-protobuf"),
            (b"Content-Length", str(len(body)).encode()),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body[:5], "more_body": True})
        await send({"type": "http.response.body", "body": body[5:]})

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async def receive() -> MutableMapping[str, Any]:
        return {}

    asyncio.run(Carrier(superlink, folder)({"type": "http", "path": path}, receive, send))
    assert sent[0]["status"] == status
    return dict(sent[0]["headers"]), b"".join(message["body"] for message in sent[1:])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> DeploymentFolder:
    """Give a provisioned federation of two hospitals."""
    return provisioned(tmp_path_factory.mktemp("federation"))


def test_an_approval_goes_with_its_bundle_from_the_moment_it_is_carried(
    place: DeploymentFolder, tmp_path: Path
) -> None:
    bundle = bundle_digest(place.bundle.read_bytes())
    assert missing_approvals(place) == list(HOSPITALS)
    _, body = ask_for(bundle, place.approvals)
    assert dict(GetFabResponse.FromString(body).fab.verifications) == {"old": "entry"}
    approvals: list[CodeApproval] = []
    for hospital in HOSPITALS:
        path = send_in(tmp_path, hospital, bundle)
        approval, is_new = carry(place, path)
        assert is_new and carry(place, path) == (approval, False)
        approvals.append(approval)
        headers, body = ask_for(bundle, place.approvals)
        answer = GetFabResponse.FromString(body)
        assert answer.fab.content == b"code" and answer.fab.hash_str == bundle
        assert headers == {
            b"content-type": b"application/x-protobuf",
            b"content-length": str(len(body)).encode(),
        }
        keys = {name for name in answer.fab.verifications if name != "valid_license"}
        assert keys == {approval.key_id for approval in approvals}
    assert missing_approvals(place) == []
    # Another bundle has none of them, an error and another request pass as they are.
    _, body = ask_for("0" * 64, place.approvals)
    assert dict(GetFabResponse.FromString(body).fab.verifications) == {"old": "entry"}
    for other in ({"status": 500}, {"path": "/v1/fleet/get-run"}):
        _, body = ask_for(bundle, place.approvals, **other)
        assert dict(GetFabResponse.FromString(body).fab.verifications) == {"old": "entry"}
    # A damaged file costs its hospital the approval, and nobody else.
    place.approval("hospital-0").write_text("{")
    _, body = ask_for(bundle, place.approvals)
    assert set(GetFabResponse.FromString(body).fab.verifications) == {"valid_license", approvals[1].key_id}
    assert missing_approvals(place) == ["hospital-0"]


def test_strangers_and_stale_approvals_are_refused_and_replace_nothing(
    place: DeploymentFolder, tmp_path: Path
) -> None:
    bundle = bundle_digest(place.bundle.read_bytes())
    place.approval("hospital-0").unlink(missing_ok=True)
    carry(place, send_in(tmp_path, "hospital-0", bundle))
    before = place.approval("hospital-0").read_bytes()
    with pytest.raises(CipherwardError, match="no hospital of this federation"):
        carry(place, send_in(tmp_path, "hospital-9", bundle))
    with pytest.raises(CipherwardError, match="and this federation's is"):
        carry(place, send_in(tmp_path, "hospital-0", "0" * 64))
    with pytest.raises(CipherwardError):
        carry(place, tmp_path / "nothing")
    assert place.approval("hospital-0").read_bytes() == before
    assert not place.approval("hospital-9").exists()


def test_flower_s_supernode_takes_what_flower_s_own_routes_answer_through_the_carrier(
    tmp_path: Path,
) -> None:
    """The real route, translation and check of Flower; only the node's login and the network are left out."""
    code = b"code of an app"
    sha256 = hashlib.sha256(code).hexdigest()
    router = APIRouter(prefix="/v1/fleet", route_class=ProtobufRoute)

    @router.post("/get-fab")
    def get_fab() -> GetFabResponse:
        return GetFabResponse(fab=Fab(hash_str=sha256, content=code))

    app = FastAPI(middleware=[Middleware(ProtobufTranslationMiddleware)])
    app.include_router(router)
    key = Ed25519PrivateKey.generate()
    approval = sign_approval(key, "hospital-0", sha256, 1_800_000_000)

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=Carrier(app, tmp_path))
        async with httpx.AsyncClient(transport=transport, base_url="http://superlink") as client:
            question = GetFabRequest(hash_str=sha256).SerializeToString()
            media = {"content-type": PROTOBUF_MEDIA_TYPE, "accept": PROTOBUF_MEDIA_TYPE}
            return await client.post("/v1/fleet/get-fab", content=question, headers=media)

    def is_taken() -> bool:
        answer = asyncio.run(ask())
        assert answer.status_code == 200 and int(answer.headers["content-length"]) == len(answer.content)
        fab = fab_from_proto(GetFabResponse.FromString(answer.content).fab)
        assert fab.content == code
        return bool(fab.verifications.get("valid_license")) and _verify_fab(
            fab, {approval.key_id: approval.key}
        )

    assert not is_taken()
    (tmp_path / "hospital-0.json").write_text(json.dumps(approval.to_json()))
    assert is_taken()


def test_an_approval_that_a_stranger_signed_does_not_replace_the_hospital_s_own(
    place: DeploymentFolder, tmp_path: Path
) -> None:
    bundle = bundle_digest(place.bundle.read_bytes())
    place.approval("hospital-1").unlink(missing_ok=True)
    carry(place, send_in(tmp_path, "hospital-1", bundle))
    before = place.approval("hospital-1").read_bytes()
    with pytest.raises(CipherwardError, match="is signed by fpk_") as error:
        carry(place, send_in(tmp_path, "hospital-1", bundle))
    assert str(place.approval("hospital-1")) in error.value.hint
    assert place.approval("hospital-1").read_bytes() == before


def test_an_older_approval_does_not_replace_a_newer_one(place: DeploymentFolder, tmp_path: Path) -> None:
    bundle, key = bundle_digest(place.bundle.read_bytes()), Ed25519PrivateKey.generate()
    place.approval("hospital-1").unlink(missing_ok=True)
    path = tmp_path / "hospital-1.approval"

    def send(signed_at: int, sha256: str = bundle) -> Path:
        path.write_text(json.dumps(sign_approval(key, "hospital-1", sha256, signed_at).to_json()))
        return path

    carry(place, send(1_800_000_000))
    with pytest.raises(CipherwardError, match="is older than the approval of hospital-1 that is here"):
        carry(place, send(1_700_000_000))
    assert json.loads(place.approval("hospital-1").read_text())["signed_at"] == 1_800_000_000
    assert carry(place, send(1_900_000_000))[1]
    # What is here is of an earlier bundle, whose key is another: it stands in nobody's way.
    other = sign_approval(Ed25519PrivateKey.generate(), "hospital-1", "0" * 64, 1_950_000_000)
    place.approval("hospital-1").write_text(json.dumps(other.to_json()))
    assert carry(place, send(1_900_000_000))[1] and "hospital-1" not in missing_approvals(place)
