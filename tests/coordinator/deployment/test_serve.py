"""A real server on loopback: who reaches what, what survives a kill, and that nothing is left running."""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it has no types
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.date import now
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES

from coordinator.deployment.enrolment import enrol, read_public_keys, revoke
from coordinator.deployment.folder import DeploymentFolder
from coordinator.deployment.running import connect_to, read_serving, reconcile_running
from coordinator.deployment.status import read_status
from coordinator.exchange.end_with_us import find_processes
from crypto.errors import CipherwardError
from tests.support.deployment import provisioned, write_keys
from tests.support.paths import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("serve")]
NOBODY = 65534


def start(place: DeploymentFolder) -> subprocess.Popen[str]:
    """Start `serve` and wait for its ready line."""
    with open(place.root / "serve.err", "a") as errors:
        words = [sys.executable, "-m", "coordinator.cli.app", "serve", str(place.root)]
        server = subprocess.Popen(words, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=errors)
    assert server.stdout is not None
    line = server.stdout.readline()
    assert line.startswith("ready: hospitals connect to 127.0.0.1:"), (place.root / "serve.err").read_text()
    return server


def socket_folder(place: DeploymentFolder) -> Path:
    """Return the temporary folder that marks the server's processes."""
    return Path(str(read_serving(place)["socket"])).parent


def end(server: subprocess.Popen[str], number: int = signal.SIGTERM) -> int:
    """Send a signal and wait for the end."""
    server.send_signal(number)
    try:
        return server.wait(20)
    finally:
        server.kill()
        assert server.stdout is not None
        server.stdout.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> DeploymentFolder:
    return provisioned(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def keys(place: DeploymentFolder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Enrol both hospitals, and make the key of one that is not; return the SuperNodes' private keys."""
    folder = tmp_path_factory.mktemp("keys")
    result = {}
    for name in ("hospital-0", "hospital-1", "stranger"):
        result[name], public = write_keys(folder, name)
        if name != "stranger":
            enrol(place, read_public_keys(public))
    return result


@pytest.fixture(scope="module")
def running(place: DeploymentFolder, keys: dict[str, Path]) -> Iterator[subprocess.Popen[str]]:
    server = start(place)
    yield server
    end(server)


def request(place: DeploymentFolder, path: str, *, port: int = 0, method: str = "POST", body: bytes = b"",
            headers: dict[str, str] | None = None) -> int:  # fmt: skip
    """Return the status of an answer, as someone gets it who has the CA certificate."""
    url = f"https://127.0.0.1:{port or place.settings.port}{path}"
    everything = {"content-type": PROTOBUF_MEDIA_TYPE, "accept": PROTOBUF_MEDIA_TYPE, **(headers or {})}
    context = ssl.create_default_context(cafile=str(place.ca_certificate))
    asked = urllib.request.Request(url, body if method == "POST" else None, everything, method=method)
    try:
        with urllib.request.urlopen(asked, timeout=20, context=context) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def activate(place: DeploymentFolder, key_file: Path, timestamp: str = "") -> int:
    """Return the status of the answer to a SuperNode with this key that wants to come online."""
    key = serialization.load_ssh_private_key(key_file.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    public, timestamp = public_key_to_bytes(key.public_key()), timestamp or now().isoformat()
    headers = {
        FLEET_HTTP_PUBLIC_KEY_HEADER: base64.b64encode(public).decode(),
        FLEET_HTTP_SIGNATURE_HEADER: base64.b64encode(
            sign_message(key, timestamp.encode("ascii"))
        ).decode(),
        TIMESTAMP_HEADER: timestamp,
    }
    body = ActivateNodeRequest(public_key=public, heartbeat_interval=30.0).SerializeToString()
    return request(place, "/v1/fleet/activate-node", body=body, headers=headers)


def test_a_stranger_with_the_ca_certificate_gets_nowhere(
    place: DeploymentFolder, running: subprocess.Popen[str]
) -> None:
    for method, path in PROTOBUF_REQUEST_TYPES:
        expected = 401 if path.startswith("/v1/fleet/") else 404
        assert request(place, path, method=method) == expected, path
    for path in ("/health", "/docs", "/openapi.json", "/v1/responses", "/v1/fleet/../control/start-run"):
        assert request(place, path) == request(place, path, method="GET") == 404, path
    for path in ("/v1/control/start-run", "/v1/fleet/pull-messages", "/docs", "/health"):
        assert request(place, path, port=place.settings.local_port) == 404, path
    with connect_to(place) as control:
        assert control.runs() == [] and len(control.nodes()) == 2


def test_the_runtime_api_wants_the_secret(place: DeploymentFolder, running: subprocess.Popen[str]) -> None:
    for path in ("/v1/runtime/acquire-task", "/v1/runtime/pull-task-input", "/v1/runtime/push-object"):
        assert request(place, path, port=place.settings.local_port) in (401, 403), path


def test_no_tls_and_another_ca_get_no_answer(
    place: DeploymentFolder, running: subprocess.Popen[str], tmp_path: Path
) -> None:
    url = f"http://127.0.0.1:{place.settings.port}/v1/fleet/pull-messages"
    with pytest.raises(OSError, match=r"closed|reset|Remote end|Connection"):
        urllib.request.urlopen(urllib.request.Request(url, b""), timeout=5)
    other = provisioned(tmp_path)
    context = ssl.create_default_context(cafile=str(other.ca_certificate))
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        urllib.request.urlopen(url.replace("http", "https"), b"", timeout=5, context=context)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")
def test_another_user_of_the_machine_gets_nowhere(
    place: DeploymentFolder, running: subprocess.Popen[str], tmp_path: Path
) -> None:
    ca = Path("/tmp") / f"ca-{os.getpid()}.crt"
    ca.write_bytes(place.ca_certificate.read_bytes())
    ca.chmod(0o644)
    port = place.settings.local_port
    program = f"""
import socket, ssl, urllib.request, urllib.error
context = ssl.create_default_context(cafile={str(ca)!r})
try:
    urllib.request.urlopen("https://127.0.0.1:{port}/v1/runtime/acquire-task", b"", timeout=20, context=context)
except urllib.error.HTTPError as error:
    print(error.code)
try:
    socket.socket(socket.AF_UNIX).connect({str(read_serving(place)["socket"])!r})
except PermissionError:
    print("no permission")
try:
    open({str(place.database)!r})
except PermissionError:
    print("no permission")
"""
    try:
        done = subprocess.run(
            ["/usr/bin/env", "python3", "-c", program],
            user=NOBODY, group=NOBODY, extra_groups=[], cwd="/", text=True, capture_output=True, check=False,
        )  # fmt: skip
    finally:
        ca.unlink()
    assert done.stdout.split("\n")[:3] == ["403", "no permission", "no permission"], done.stderr


def test_only_registered_keys_come_in_and_a_revoked_one_no_longer(
    place: DeploymentFolder, running: subprocess.Popen[str], keys: dict[str, Path]
) -> None:
    assert activate(place, keys["stranger"]) >= 400
    assert activate(place, keys["hospital-0"], "2026-01-01T00:00:00+00:00") == 401
    assert activate(place, keys["hospital-0"]) == activate(place, keys["hospital-1"]) == 200
    states = {h["hospital"]: h["state"] for h in read_status(place)["hospitals"]}
    assert states == {"hospital-0": "online", "hospital-1": "online"}
    revoke(place, "hospital-1")
    assert reconcile_running(place, lambda _: None)
    assert activate(place, keys["hospital-1"]) >= 400
    states = {h["hospital"]: h["state"] for h in read_status(place)["hospitals"]}
    assert states == {"hospital-0": "online", "hospital-1": "revoked"}


def test_one_folder_has_one_server(place: DeploymentFolder, running: subprocess.Popen[str]) -> None:
    words = [sys.executable, "-m", "coordinator.cli.app", "serve", str(place.root)]
    done = subprocess.run(words, cwd=ROOT, text=True, capture_output=True, timeout=60, check=False)
    assert done.returncode == 1 and "another command is at work" in done.stderr
    assert len(read_status(place)["hospitals"]) == 2 and running.poll() is None


def test_a_killed_superlink_comes_back_with_its_registrations(
    place: DeploymentFolder, running: subprocess.Popen[str]
) -> None:
    before = read_serving(place)["nodes"]
    [link] = [
        p
        for p in psutil.Process(running.pid).children()
        if "coordinator.deployment.superlink" in p.cmdline()
    ]
    shutil.rmtree(socket_folder(place))  # as cleaners of /tmp do with what is old
    link.kill()
    deadline = time.monotonic() + 60
    while link.is_running() and link.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.05)
    while True:
        with contextlib.suppress(CipherwardError):
            if read_status(place)["server"] == "running":
                break
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert read_serving(place)["nodes"] == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_it_nothing_is_left_and_it_starts_again(tmp_path: Path, number: int) -> None:
    place = provisioned(tmp_path)
    private, public = write_keys(tmp_path, "hospital-0")
    enrol(place, read_public_keys(public))
    server = start(place)
    folder, nodes = socket_folder(place), read_serving(place)["nodes"]
    assert len(find_processes(folder)) >= 2
    assert end(server, number) == (-signal.SIGKILL if number == signal.SIGKILL else 0)
    deadline = time.monotonic() + 20
    while find_processes(folder) or folder.exists():
        assert time.monotonic() < deadline, find_processes(folder)
        time.sleep(0.1)
    assert read_status(place)["server"].startswith("no server is running")
    again = start(place)
    try:
        assert read_serving(place)["nodes"] == nodes and activate(place, private) == 200
    finally:
        end(again)


@pytest.mark.parametrize("damage", ["lost", "emptied"])
def test_a_server_whose_state_was_lost_starts_and_knows_its_hospitals(tmp_path: Path, damage: str) -> None:
    place = provisioned(tmp_path)
    private, public = write_keys(tmp_path, "hospital-0")
    enrol(place, read_public_keys(public))
    if damage == "lost":
        shutil.rmtree(place.state)
    else:
        place.secret.write_bytes(b"")
    server = start(place)
    try:
        assert activate(place, private) == 200
        assert place.secret.stat().st_size == 32 and place.secret.stat().st_mode & 0o777 == 0o600
    finally:
        end(server)
    assert "SuperExec ended" not in (place.root / "serve.err").read_text()


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    import socket

    place = provisioned(tmp_path)
    with socket.create_server(("127.0.0.1", place.settings.port)):
        words = [sys.executable, "-m", "coordinator.cli.app", "serve", str(place.root)]
        done = subprocess.run(words, cwd=ROOT, text=True, capture_output=True, timeout=60, check=False)
    assert done.returncode == 1 and f"cannot listen on 127.0.0.1 port {place.settings.port}" in done.stderr
