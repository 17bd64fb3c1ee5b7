"""A federation for tests on the loopback interface: certificates, kits, a SuperLink with node authentication, runs.

It stands where the coordinator's own commands stand, and uses Flower's programs alone.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # it has no types
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from coordinator.exchange.end_with_us import MARK, end_processes, ending_with_us
from coordinator.exchange.kit import CA, PLAN, Kit, KitManifest, write_kit
from coordinator.exchange.quiet import QUIET
from coordinator.exchange.versions import installed_versions
from crypto.files import write_text
from parties.sealing.place import Place

BIN = Path(sys.executable).parent
_DAY = datetime.timedelta(days=1)


def wait_until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """Wait until a condition holds and return its value; fail the test after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        time.sleep(0.2)
    return value


def free_port() -> int:
    """Return a loopback port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_certificates(folder: Path) -> None:
    """Write ca.crt, server.crt and server.key for 127.0.0.1."""
    now = datetime.datetime.now(datetime.UTC)
    ca_key, key = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])

    def build(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        start = x509.CertificateBuilder().subject_name(subject).issuer_name(ca_name).public_key(public)
        start = start.serial_number(x509.random_serial_number())
        return start.not_valid_before(now - _DAY).not_valid_after(now + 30 * _DAY)

    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    ca = build(ca_name, ca_key.public_key()).add_extension(x509.BasicConstraints(True, 0), True)
    ca = ca.add_extension(usage, True)
    identifier = x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key())
    ca = ca.add_extension(identifier, False)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    server = build(name, key.public_key()).add_extension(x509.SubjectAlternativeName([address]), False)
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    server = server.add_extension(authority, False)
    folder.mkdir(parents=True, exist_ok=True)
    pem = serialization.Encoding.PEM
    (folder / "ca.crt").write_bytes(ca.sign(ca_key, hashes.SHA384()).public_bytes(pem))
    (folder / "server.crt").write_bytes(server.sign(ca_key, hashes.SHA384()).public_bytes(pem))
    text = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "server.key").write_bytes(text)


def make_kit(
    path: Path, hospital: str, plan: str, bundle: str, address: str, ca: bytes, /, **changes: Any
) -> Kit:
    """Write a kit for a hospital, valid for ten days."""
    now = datetime.datetime.now(datetime.UTC)
    values: dict[str, Any] = {
        "schema": "cipherward.kit/1",
        "federation": "test",
        "hospital": hospital,
        "address": address,
        "bundle_sha256": bundle,
        "versions": installed_versions(),
        "created": now.isoformat(),
        "expires": (now + 10 * _DAY).isoformat(),
        "files": {},
    }
    return write_kit(path, KitManifest.model_validate(values | changes), {CA: ca, PLAN: plan.encode()})


@dataclass
class Link:
    """A running SuperLink.

    Attributes:
        folder: its files.
        fleet_port: the port for SuperNodes.
        mark: the folder that marks its processes.
    """

    folder: Path
    fleet_port: int
    mark: Path

    @property
    def address(self) -> str:
        """host:port for SuperNodes."""
        return f"127.0.0.1:{self.fleet_port}"

    @property
    def environment(self) -> dict[str, str]:
        """The environment of Flower's programs."""
        quiet = {**os.environ, **QUIET, "FLWR_HOME": str(self.folder / "home"), MARK: str(self.mark)}
        quiet.pop("PYTHONPATH", None)
        return quiet | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}

    def flwr(self, *words: object) -> dict[str, Any]:
        """Run `flwr WORDS --format json` and return its answer."""
        done = subprocess.run(
            [str(BIN / "flwr"), *map(str, words), "--format", "json"],
            env=self.environment, cwd=self.folder / "home", text=True, capture_output=True, timeout=120, check=False,
        )  # fmt: skip
        try:
            answer: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            raise AssertionError(f"flwr {words}: {done.stdout}\n{done.stderr}") from None
        return answer

    def register(self, place: Place) -> None:
        """Register a hospital's SuperNode key, from its enrol.pub."""
        line = (place.folder / "enrol.pub").read_text().splitlines()[1]
        path = self.folder / f"{place.settings.party}.pub"
        write_text(path, line + "\n")
        answer = self.flwr("supernode", "register", path, "link")
        assert answer.get("success"), answer

    def run(self, app: Path, **config: object) -> str:
        """Start a run of an app and return its id."""
        words = " ".join(f"{name.replace('_', '-')}={json.dumps(value)}" for name, value in config.items())
        extra = ("--run-config", words) if words else ()
        answer = self.flwr("run", app, "link", *extra)
        assert answer.get("success"), answer
        return str(answer["run-id"])

    def status(self, run: str) -> str:
        """Return a run's status and details."""
        row = self.flwr("ls", "link", "--run-id", run)["runs"][0]
        return f"{row['status']} {row.get('status-details', '')}"


@contextlib.contextmanager
def superlink(folder: Path) -> Iterator[Link]:
    """Keep a SuperLink with TLS and node authentication, and end it with everything it started."""
    make_certificates(folder)
    (folder / "home").mkdir()
    port = free_port()
    (folder / "home" / "config.toml").write_text(
        f'[superlink]\ndefault = "link"\n[superlink.link]\naddress = "127.0.0.1:{port}"\n'
        f'root-certificates = "{folder / "ca.crt"}"\n'
    )
    words = ["--host", "127.0.0.1", "--port", str(port), "--enable-supernode-auth"]
    words += ["--ssl-ca-certfile", str(folder / "ca.crt"), "--ssl-certfile", str(folder / "server.crt")]
    words += ["--ssl-keyfile", str(folder / "server.key"), "--database", str(folder / "state.db")]
    words += ["--disable-runtime-dependency-installation"]
    with ending_with_us() as mark, open(folder / "superlink.log", "ab") as sink:
        link = Link(folder, port, mark)
        process = subprocess.Popen(
            [str(BIN / "flower-superlink"), *words], env=link.environment, cwd=folder / "home",
            stdout=sink, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            wait_until(lambda: _accepts(port), 60, "the SuperLink's start")
            yield link
        finally:
            end_processes(mark)
            process.wait()


def _accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
        return True
    return False


def marked_processes(folder: Path) -> list[psutil.Process]:
    """Return the processes that mention a folder in their environment: whatever works for that hospital."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            block = Path(f"/proc/{process.pid}/environ").read_bytes()
            if process.pid != os.getpid() and str(folder).encode() in block:
                found.append(process)
    return found
