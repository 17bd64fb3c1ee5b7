"""Faults of a hospital that wants to join: wrong certificates, keys, kits, code, plans, a replayed registration.

No study runs here. Each record quotes what the person at the hospital, or at the coordinator, reads.
"""

from __future__ import annotations

import base64
import datetime
import http.client
import re
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from benchmarks.faults.deployment import COORDINATOR, Deployment, TimedOutError, wait_until
from benchmarks.faults.record import Record
from coordinator.deployment.certificates import make_ca
from coordinator.deployment.enrolment import enrol, read_public_keys, revoke
from coordinator.deployment.provision import renew
from coordinator.deployment.running import reconcile_running
from coordinator.exchange.kit import CA, Kit, read_kit, write_kit
from crypto.errors import CipherwardError
from parties.agent.approval import approve, withdraw
from parties.agent.bundle import read_bundle
from parties.agent.enrol import node_key_path
from parties.training.policy_file import read_policy, save_policy

#: The hospital that tries, and the one whose keys are revoked.
GUEST, LEAVER = "hospital-0", "hospital-2"
_YEAR = datetime.timedelta(days=366)
_SPACE = re.compile(r"\s+")


def _change_kit(d: Deployment, name: str, change: Callable[[Kit], Kit]) -> Path:
    """Write another kit beside a hospital's, and return it."""
    kit = change(read_kit(d.folder / f"{GUEST}.kit"))
    path = d.folder / f"{name}.kit"
    write_kit(path, kit.manifest, kit.files)
    return path


def _refused_at_once(d: Deployment, kit: Path | None = None) -> str:
    """Join with a kit that must be refused before anything is sent, and return the sentence."""
    (d.folder / "out" / GUEST).unlink(missing_ok=True)
    d.start_agent(GUEST, kit)
    status = d.agents[GUEST].wait(90)
    if status != 1:
        raise AssertionError(f"join ended with status {status}: {d.output(GUEST)}")
    return "`join` ends: " + _SPACE.sub(" ", d.output(GUEST)).strip()


def _refused_by_tls_or_server(d: Deployment, kit: Path | None = None) -> str:
    """Join, wait until the agent says why it is not connected, let it leave, and return the sentence."""
    d.start_agent(GUEST, kit)
    try:
        wait_until(lambda: d.state(GUEST).get("error"), 120, f"an error of the agent: {d.output(GUEST)}")
        state = d.state(GUEST)
        assert state["connection"] != "online"
        return f"the agent says: {state['error']}"
    finally:
        d.agents[GUEST].terminate()
        d.agents[GUEST].wait(40)


def wrong_certificate(d: Deployment) -> str:
    """Join with a kit that has the certificate of another authority."""
    other = make_ca("another", datetime.datetime.now(datetime.UTC)).certificate
    return _refused_by_tls_or_server(
        d, _change_kit(d, "wrong", lambda k: Kit(k.manifest, {**k.files, CA: other}))
    )


def unregistered_key(d: Deployment) -> str:
    """Join with a SuperNode key that the coordinator does not know."""
    path = node_key_path(d.place(GUEST))
    known = path.read_bytes()
    key = ec.generate_private_key(ec.SECP384R1())
    none = serialization.NoEncryption()
    try:
        path.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, none)
        )
        return _refused_by_tls_or_server(d)
    finally:
        path.write_bytes(known)


def no_tls(d: Deployment) -> str:
    """Speak HTTP without TLS to the coordinator's port."""
    connection = http.client.HTTPConnection(d.cloud.settings.interface, d.cloud.settings.port, timeout=10)
    try:
        connection.request("POST", "/v1/fleet/pull-messages", b"")
        answer = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"the server closes the connection without an answer ({type(error).__name__})"
    finally:
        connection.close()
    raise AssertionError(f"an answer without TLS: {answer}")


def replayed_enrolment(d: Deployment) -> str:
    """Send a hospital's public keys again: under its own name, under another's, and after they were revoked."""
    file = d.place(LEAVER).folder / "enrol.pub"
    if enrol(d.cloud, read_public_keys(file)):
        raise AssertionError("the same keys were enrolled twice")
    identity, node = file.read_text().splitlines()
    own = (d.place(GUEST).folder / "enrol.pub").read_text().splitlines()[0]
    copy = d.folder / "copy.pub"
    copy.write_text(f"{own}\n{node}\n")
    said = [_error_of(lambda: enrol(d.cloud, read_public_keys(copy)))]
    revoke(d.cloud, LEAVER)
    reconcile_running(d.cloud, lambda _: None)
    copy.write_text(f"{identity}\n{node}\n")
    said.append(_error_of(lambda: enrol(d.cloud, read_public_keys(copy))))
    return f"again: no change; under another name: {said[0]}; after `revoke`: {said[1]}"


def replayed_activation(d: Deployment) -> str:
    """Send a SuperNode's signed request again, at once and when its signature is too old."""
    from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE

    headers, body = _sign_activation(d, 0.0)
    answers = [_post(d, headers, body), _post(d, headers, body)]
    oldest = TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE
    # The same key, so that nothing but the age is wrong.
    late = _post(d, *_sign_activation(d, oldest + 5.0))
    if answers[0] != 200 or late != 401:
        raise AssertionError(f"answers {answers}, and {late} to an old signature")
    return (
        f"again at once: {answers[1]} (whoever can copy a request has broken TLS already); after Flower's "
        f"{oldest:.0f} s: {late}"
    )


def _sign_activation(d: Deployment, age_s: float) -> tuple[dict[str, str], bytes]:
    """Return the headers and the body by which a SuperNode comes online, signed so many seconds ago."""
    from flwr.common.constant import TIMESTAMP_HEADER
    from flwr.proto.fleet_pb2 import ActivateNodeRequest
    from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
    from flwr.supercore.date import now
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
    from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE

    key = serialization.load_ssh_private_key(node_key_path(d.place(GUEST)).read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    public, stamp = (
        public_key_to_bytes(key.public_key()),
        (now() - datetime.timedelta(seconds=age_s)).isoformat(),
    )
    headers = {
        "content-type": PROTOBUF_MEDIA_TYPE,
        "accept": PROTOBUF_MEDIA_TYPE,
        FLEET_HTTP_PUBLIC_KEY_HEADER: base64.b64encode(public).decode(),
        FLEET_HTTP_SIGNATURE_HEADER: base64.b64encode(sign_message(key, stamp.encode())).decode(),
        TIMESTAMP_HEADER: stamp,
    }
    return headers, ActivateNodeRequest(public_key=public, heartbeat_interval=30.0).SerializeToString()


def _post(d: Deployment, headers: dict[str, str], body: bytes) -> int:
    """Return the status of the answer to a request."""
    settings = d.cloud.settings
    url = f"https://{settings.address[0]}:{settings.port}/v1/fleet/activate-node"
    context = ssl.create_default_context(cafile=str(d.cloud.ca_certificate))
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, body, headers), timeout=20, context=context
        ) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def expired_kit(d: Deployment) -> str:
    """Join with a kit that has expired."""
    past = (datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)).isoformat()
    return _refused_at_once(
        d,
        _change_kit(d, "old", lambda k: Kit(k.manifest.model_copy(update={"expires": past}), k.files)),
    )


def unapproved_bundle(d: Deployment) -> str:
    """Join without an approval of the kit's app bundle."""
    bundle = read_bundle(d.cloud.bundle)
    withdraw(d.place(GUEST), bundle.sha256)
    try:
        return _refused_at_once(d)
    finally:
        approve(d.place(GUEST), bundle, 90)


def other_plan(d: Deployment) -> str:
    """Join with a kit whose plan is not the accepted one."""
    place = d.place(GUEST)
    policy = read_policy(place)
    save_policy(place, policy.model_copy(update={"lr": policy.lr * 2}))
    try:
        return _refused_at_once(d)
    finally:
        save_policy(place, policy)


def expired_certificate(d: Deployment) -> str:
    """Start the server with a certificate that has expired, and renew it. The last of all: it ends the server."""
    assert d.serve is not None
    d.serve.terminate()
    d.serve.wait(40)
    then = datetime.datetime.now(datetime.UTC).replace(microsecond=0) - _YEAR
    renew(d.cloud.root, clock=lambda: then)
    (d.folder / "out" / "serve").unlink()
    d.serve = d.start("serve", COORDINATOR, "serve", d.cloud.root)
    if d.serve.wait(60) != 1:
        raise AssertionError(d.output("serve"))
    said = _SPACE.sub(" ", d.output("serve")).strip()
    renew(d.cloud.root)
    seconds = d.start_server()
    return f"`serve` ends: {said}; after `renew` it is ready in {seconds:.0f} s"


def _error_of(action: Callable[[], object]) -> str:
    """Return our own error of an action that must fail."""
    try:
        action()
    except CipherwardError as error:
        return error.message
    raise AssertionError("this must be refused")


#: What is tried, in this order: name → title and fault.
DOOR_FAULTS: dict[str, tuple[str, Callable[[Deployment], str]]] = {
    "wrong-certificate": ("another authority's certificate in the kit", wrong_certificate),
    "unregistered": ("a SuperNode key that is not enrolled", unregistered_key),
    "no-tls": ("a connection without TLS", no_tls),
    "expired-kit": ("an expired kit", expired_kit),
    "unapproved-join": ("`join` without an approval of the code", unapproved_bundle),
    "other-plan-join": ("`join` with a plan that was not accepted", other_plan),
    "replayed-enrolment": ("a replayed enrolment", replayed_enrolment),
    "replayed-request": ("a replayed registration request", replayed_activation),
    "expired-certificate": ("an expired server certificate", expired_certificate),
}


def try_door(d: Deployment, name: str) -> Record:
    """Try one fault at the door, and record what is said. One that is not refused is recorded as that."""
    try:
        return Record(happened=DOOR_FAULTS[name][1](d), data_lost="none")
    except (TimedOutError, AssertionError, subprocess.TimeoutExpired) as error:
        return Record(happened=f"NOT REFUSED: {error}", data_lost="none")
