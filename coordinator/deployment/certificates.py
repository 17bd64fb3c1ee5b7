"""The federation's certificate authority, and the certificate of its server.

    ca.key  ──signs──▶  server.crt (with server.key)        hospitals trust ca.crt, and nothing else

The CA signs the server's certificate and no other: hospitals do not log in by certificates, but by keys that are
registered (enrolment.py). Its private key is needed to renew, and for nothing else, so it may be kept offline.
Keys are NIST P-384 and P-256, which every TLS library of the field takes.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from crypto.errors import CipherwardError
from crypto.files import disk_errors, read_regular, write_atomic
from crypto.plural import counted

#: Years that the CA lasts. Hospitals get a new CA certificate by a new kit, so it should outlast a study.
CA_DAYS = 3650
#: Names by which the coordinator's own programs reach the server.
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
#: A certificate is valid from a little before it was made: clocks differ.
_CLOCK_SKEW = datetime.timedelta(minutes=10)
#: What helps before the end of the server's certificate, and of the authority's, which `renew` cannot replace.
RENEW = "run: cipherward-coordinator renew"
NEW_AUTHORITY = "provision a new folder, and send every hospital its new kit"
#: Days before its end from which on a certificate is called due. Chosen by hand.
WARN_DAYS = 30


@dataclass(frozen=True)
class Certified:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes


def make_ca(federation: str, now: datetime.datetime) -> Certified:
    """Return a new certificate authority that can sign servers' certificates, but no further authority."""
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{federation} federation CA"[:64])])
    certificate = (
        _builder(name, name, key.public_key(), now, CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA384())
    )
    return Certified(_pem(certificate), _pem_key(key))


def make_server(ca: Certified, addresses: Sequence[str], days: int, now: datetime.datetime) -> Certified:
    """Return a new key and certificate of the server.

    Args:
        ca: the authority that signs it.
        addresses: host names and IP addresses that hospitals dial.
        days: how long it is valid, at most as long as the authority.
        now: the time with a time zone.

    Raises:
        CipherwardError: if the authority is damaged, has expired, or does not belong to its key.
    """
    authority, signer = _read_ca(ca)
    if authority.not_valid_after_utc <= now:
        raise CipherwardError(
            f"the CA certificate expired on {authority.not_valid_after_utc.date()}", NEW_AUTHORITY
        )
    key = ec.generate_private_key(ec.SECP256R1())
    names = [_general_name(text) for text in dict.fromkeys((*addresses, *_LOCAL_NAMES))]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, addresses[0][:64])])
    days = min(days, (authority.not_valid_after_utc - now).days)
    issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    certificate = (
        _builder(subject, authority.subject, key.public_key(), now, days)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(issuer_id, critical=False)
        .sign(signer, hashes.SHA384())
    )
    return Certified(_pem(certificate), _pem_key(key))


def read_expiry(path: Path) -> datetime.datetime:
    """Return the end of a certificate's validity, in UTC. Raise CipherwardError if the file holds none."""
    return _load(_read(path, "certificate"), str(path)).not_valid_after_utc


def read_names(path: Path) -> set[str]:
    """Return the host names and IP addresses that a server's certificate is for."""
    certificate = _load(_read(path, "server certificate"), str(path))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(name.value) for name in names}


def describe_expiry(path: Path, what: str, now: datetime.datetime, remedy: str = RENEW) -> str:
    """Return a sentence that a certificate has expired or is about to, or "" while it has more than 30 days."""
    end = read_expiry(path)
    if end <= now:
        return f"{what} expired on {end.date()}: no hospital can connect; {remedy}"
    if (days := (end - now).days) < WARN_DAYS:
        return f"{what} expires in {counted(days, 'day')}, on {end.date()}; {remedy}"
    return ""


def describe_expiries(ca_certificate: Path, server_certificate: Path, now: datetime.datetime) -> list[str]:
    """Return what `describe_expiry` says of a server's certificate and of its authority's, if anything."""
    return [
        text
        for text in (
            describe_expiry(server_certificate, "the server's certificate", now),
            describe_expiry(ca_certificate, "the CA certificate", now, NEW_AUTHORITY),
        )
        if text
    ]


def check_server(ca_certificate: Path, server_certificate: Path) -> None:
    """Raise CipherwardError unless this authority signed this server's certificate."""
    authority = _load(_read(ca_certificate, "CA certificate"), str(ca_certificate))
    server = _load(_read(server_certificate, "server certificate"), str(server_certificate))
    try:
        server.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        raise CipherwardError(
            f"{server_certificate} was not signed by {ca_certificate}",
            "restore both from your backup, or run: cipherward-coordinator renew",
        ) from None


def is_private_key(data: bytes) -> bool:
    """Return whether a file's bytes are a private key of the kind that an authority has, without a password."""
    return _parse_key(data) is not None


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner may read, atomically."""

    def fill(draft: Path) -> None:
        draft.touch(mode=0o600)
        draft.write_bytes(data)

    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomic(path, fill)


def _parse_key(data: bytes) -> ec.EllipticCurvePrivateKey | None:
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, ec.EllipticCurvePrivateKey) else None


def _read(path: Path, what: str) -> bytes:
    try:
        return read_regular(path)
    except OSError as error:
        raise CipherwardError(
            f"cannot read the {what} {path}: {error.strerror}",
            "restore it from your backup, and let the user who runs this command read it",
        ) from None


def _load(data: bytes, where: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(data)
    except ValueError:
        raise CipherwardError(f"{where} is no certificate", "restore it from your backup") from None


def _read_ca(ca: Certified) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Return an authority's certificate and key. Raise CipherwardError if they are no pair."""
    certificate = _load(ca.certificate, "the CA certificate")
    key = _parse_key(ca.key)
    if key is None or key.public_key() != certificate.public_key():
        raise CipherwardError(
            "the CA's private key does not belong to its certificate", "name the right one: --ca-key"
        )
    return certificate, key


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime.datetime, days: int
) -> x509.CertificateBuilder:
    """Return the part that both kinds of certificate share."""
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(text: str) -> x509.GeneralName:
    """Return an IP address or a host name, as it stands in a certificate."""
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _pem_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
