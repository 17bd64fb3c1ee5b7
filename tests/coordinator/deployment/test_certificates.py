"""The authority and the server's certificate, checked by Python's own TLS."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
from pathlib import Path

import pytest

from coordinator.deployment import serve
from coordinator.deployment.certificates import (
    CA_DAYS,
    NEW_AUTHORITY,
    RENEW,
    Certified,
    check_server,
    describe_expiries,
    describe_expiry,
    make_ca,
    make_server,
    read_expiry,
    read_names,
    write_private,
)
from coordinator.deployment.provision import now_utc
from crypto.errors import CipherwardError
from tests.support.deployment import provisioned

NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
DAY = datetime.timedelta(days=1)


@pytest.fixture(scope="module")
def ca() -> Certified:
    return make_ca("north", NOW)


def write(folder: Path, ca: Certified, server: Certified) -> tuple[Path, Path]:
    """Write both as a deployment's folder has them."""
    (folder / "ca.crt").write_bytes(ca.certificate)
    (folder / "server.pem").write_bytes(server.certificate + server.key)
    return folder / "ca.crt", folder / "server.pem"


def handshake(ca_certificate: Path, server: Path, name: str) -> None:
    """Connect to a server with this certificate under a name, and raise what TLS raises."""
    mine, theirs = socket.socketpair()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server)

    def answer() -> None:
        try:
            with context.wrap_socket(theirs, server_side=True):
                pass
        except OSError:
            theirs.close()

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        client = ssl.create_default_context(cafile=str(ca_certificate))
        with client.wrap_socket(mine, server_hostname=name):
            pass
    finally:
        mine.close()
        thread.join()


@pytest.mark.parametrize("name", ["fl.example.org", "10.1.2.3", "127.0.0.1", "localhost"])
def test_a_hospital_trusts_the_server_under_its_names_alone(
    tmp_path: Path, ca: Certified, name: str
) -> None:
    server = make_server(ca, ["fl.example.org", "10.1.2.3"], 30, NOW)
    paths = write(tmp_path, ca, server)
    handshake(*paths, name)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(*paths, "other.example.org")


def test_a_server_of_another_authority_or_an_expired_one_is_not_trusted(
    tmp_path: Path, ca: Certified
) -> None:
    other = make_server(make_ca("north", NOW), ["localhost"], 30, NOW)
    paths = write(tmp_path, ca, other)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(*paths, "localhost")
    with pytest.raises(CipherwardError, match="was not signed by"):
        check_server(*paths)
    paths = write(tmp_path, ca, make_server(ca, ["localhost"], 1, NOW - 2 * DAY))
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        handshake(*paths, "localhost")


def test_the_server_s_key_signs_no_certificates(tmp_path: Path, ca: Certified) -> None:
    server = make_server(ca, ["localhost"], 30, NOW)
    forged = make_server(server, ["localhost"], 30, NOW)
    (tmp_path / "server.pem").write_bytes(forged.certificate + server.certificate + forged.key)
    (tmp_path / "ca.crt").write_bytes(ca.certificate)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path / "ca.crt", tmp_path / "server.pem", "localhost")


def test_names_and_expiry_are_read_back(tmp_path: Path, ca: Certified) -> None:
    _, path = write(tmp_path, ca, make_server(ca, ["fl.example.org"], 31, NOW))
    assert read_names(path) == {"fl.example.org", "localhost", "127.0.0.1", "::1"}
    assert read_expiry(path) == NOW + 31 * DAY
    assert describe_expiry(path, "it", NOW) == ""
    assert describe_expiry(path, "it", NOW + 2 * DAY).startswith("it expires in 29 days")
    assert describe_expiry(path, "it", NOW + 31 * DAY).startswith("it expired on")


def test_a_server_that_runs_tells_what_is_about_to_expire_and_what_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, stop, lines = provisioned(tmp_path, days="20"), threading.Event(), list[str]()
    monkeypatch.setattr(serve, "_LOOK_S", 0.001)
    monkeypatch.setattr(serve, "_EXPIRY_EVERY_S", 0.0)

    def log(line: str) -> None:
        lines.append(line)
        if len(lines) == 2:
            place.server.unlink()
        if len(lines) == 3:
            stop.set()

    serve._watch(serve._Server(place, place.settings, tmp_path, log, stop))
    assert "the server's certificate expires in " in lines[0] and lines[0].endswith(RENEW)
    assert "cannot read the certificate" in lines[2]
    # No renewal makes a new authority.
    later = now_utc() + CA_DAYS * DAY
    (warning,) = describe_expiries(place.ca_certificate, place.ca_certificate, later)[1:]
    assert "renew" not in warning and warning.endswith(NEW_AUTHORITY)


def test_a_server_s_certificate_never_outlives_its_authority(tmp_path: Path, ca: Certified) -> None:
    _, path = write(tmp_path, ca, make_server(ca, ["localhost"], 3650, NOW + 3000 * DAY))
    (tmp_path / "authority.crt").write_bytes(ca.certificate)
    assert read_expiry(path) <= read_expiry(tmp_path / "authority.crt")
    with pytest.raises(CipherwardError, match="the CA certificate expired"):
        make_server(ca, ["localhost"], 30, NOW + 3651 * DAY)


def test_a_key_of_another_authority_is_refused(ca: Certified) -> None:
    other = make_ca("north", NOW)
    with pytest.raises(CipherwardError, match="does not belong to its certificate"):
        make_server(Certified(ca.certificate, other.key), ["localhost"], 30, NOW)
    with pytest.raises(CipherwardError, match="does not belong to its certificate"):
        make_server(Certified(ca.certificate, b"no key"), ["localhost"], 30, NOW)


def test_private_files_are_private_from_the_start(tmp_path: Path) -> None:
    path = tmp_path / "ca" / "ca.key"
    write_private(path, b"secret")
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700
