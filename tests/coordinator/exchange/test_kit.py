"""Start-up kits: what is written is read; what was altered, added, left out or has expired is refused by name."""

from __future__ import annotations

import datetime
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from coordinator.exchange.kit import CA, MANIFEST, PLAN, SCHEMA, KitManifest, read_kit, write_kit
from crypto.errors import CipherwardError

FILES = {CA: b"certificate", PLAN: b"study: demo\n"}
DAY = datetime.timedelta(days=1)
NOW = datetime.datetime(2026, 11, 27, tzinfo=datetime.UTC)


def manifest(**changes: object) -> KitManifest:
    values = {
        "schema": SCHEMA,
        "federation": "north",
        "hospital": "hospital-0",
        "address": "fl.example.org:8443",
        "bundle_sha256": "a" * 64,
        "versions": {"cipherward": "0.1.0", "flwr": "1.42.0", "python": "3.11.9"},
        "created": NOW.isoformat(),
        "expires": (NOW + 30 * DAY).isoformat(),
        "files": {},
    }
    return KitManifest.model_validate({**values, **changes})


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    path = tmp_path / "hospital-0.kit"
    write_kit(path, manifest(), FILES)
    return path


def rewrite(path: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    """Replace a kit's members."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def test_a_kit_is_read_as_written_and_equal_kits_have_equal_bytes(kit: Path, tmp_path: Path) -> None:
    result = read_kit(kit)
    assert dict(result.files) == FILES and result.manifest.address == "fl.example.org:8443"
    again = tmp_path / "again.kit"
    assert write_kit(again, manifest(), FILES).fingerprint == result.fingerprint
    assert again.read_bytes() == kit.read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update({CA: b"another"}), "ca.crt .* is damaged"),
        (lambda m: m.pop(PLAN), "lacks plan.yaml"),
        (lambda m: m.update({"../../etc/cron.d/x": b""}), "holds what no kit has"),
        (lambda m: m.update({"study.json": b"{}"}), "does not hold the files"),
        (lambda m: m.update({MANIFEST: b"[]"}), "is damaged"),
        (lambda m: m.update({MANIFEST: b"{"}), "is damaged"),
        (lambda m: m.pop(MANIFEST), "is no kit"),
        (lambda m: m.update({PLAN: b"x" * (17 << 20)}), "too large"),
    ],
)
def test_an_altered_kit_is_refused(
    kit: Path, change: Callable[[dict[str, bytes]], None], message: str
) -> None:
    rewrite(kit, change)
    with pytest.raises(CipherwardError, match=message):
        read_kit(kit)


def test_another_address_is_another_fingerprint(kit: Path, tmp_path: Path) -> None:
    other = write_kit(tmp_path / "other.kit", manifest(address="evil.example.org:8443"), FILES)
    assert other.fingerprint != read_kit(kit).fingerprint


@pytest.mark.parametrize("text", ["not a zip", ""])
def test_what_is_no_archive_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.kit").write_text(text)
    with pytest.raises(CipherwardError, match="is no kit"):
        read_kit(tmp_path / "x.kit")
    with pytest.raises(CipherwardError, match="no kit at"):
        read_kit(tmp_path / "y.kit")


def test_a_time_that_is_none_is_refused(kit: Path) -> None:
    def change(members: dict[str, bytes]) -> None:
        members[MANIFEST] = json.dumps({**json.loads(members[MANIFEST]), "expires": "soon"}).encode()

    rewrite(kit, change)
    with pytest.raises(CipherwardError, match="is no time"):
        read_kit(kit)


def test_expiry_and_clock(kit: Path) -> None:
    result = read_kit(kit)
    result.require_current(NOW)
    with pytest.raises(CipherwardError, match="expired"):
        result.require_current(NOW + 30 * DAY)
    with pytest.raises(CipherwardError, match="in the future"):
        result.require_current(NOW - 2 * DAY)


def test_another_version_is_refused_but_a_patch_is_not(kit: Path) -> None:
    result = read_kit(kit)
    result.require_versions({"cipherward": "0.1.4", "flwr": "1.42.1", "python": "3.12.0"})
    with pytest.raises(CipherwardError, match=r"runs flwr 1\.42\.0, and this machine 1\.41\.0"):
        result.require_versions({"cipherward": "0.1.0", "flwr": "1.41.0"})
