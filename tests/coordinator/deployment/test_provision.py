"""A deployment's folder: what a second run keeps, what a renewal replaces, and what is refused in time."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from coordinator.deployment.approvals import missing_approvals
from coordinator.deployment.bundle import build_bundle, bundle_digest
from coordinator.deployment.certificates import check_server
from coordinator.deployment.control import connect
from coordinator.deployment.enrolment import enrol, read_public_keys, revoke
from coordinator.deployment.folder import DeploymentFolder, read_federation
from coordinator.deployment.provision import now_utc, provision, renew
from coordinator.deployment.runs import prepare
from coordinator.deployment.status import read_status
from coordinator.exchange.kit import CA, PLAN, STUDY, read_kit
from coordinator.exchange.plan import load_plan, read_plan
from coordinator.exchange.statement import plan_digest
from crypto.errors import CipherwardError
from tests.support.deployment import provisioned, write_federation, write_keys

DAY = datetime.timedelta(days=1)


def test_a_kit_names_the_bundle_and_holds_no_private_key(tmp_path: Path) -> None:
    place = provisioned(tmp_path)
    kit = read_kit(place.kit("hospital-1"))
    settings = place.settings
    assert kit.manifest.hospital == "hospital-1" and kit.manifest.address == f"127.0.0.1:{settings.port}"
    assert (
        kit.manifest.bundle_sha256
        == bundle_digest(build_bundle())
        == bundle_digest(place.bundle.read_bytes())
    )
    assert kit.files[CA] == place.ca_certificate.read_bytes() and kit.files[PLAN] == place.plan.read_bytes()
    assert b"PRIVATE" not in place.kit("hospital-1").read_bytes()
    secrets = [place.ca_key.read_bytes(), place.secret.read_bytes(), place.server.read_bytes()]
    assert not any(secret in place.kit("hospital-1").read_bytes() for secret in secrets)
    for path in (place.ca_key, place.server, place.secret):
        assert path.stat().st_mode & 0o777 == 0o600, path
    assert place.root.stat().st_mode & 0o777 == 0o700


def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    place = provisioned(tmp_path)
    before = {path: path.read_bytes() for path in place.root.rglob("*") if path.is_file()}
    later = now_utc() + DAY
    provision(tmp_path / "federation-in.yaml", place.root, lambda: later)
    assert {path: path.read_bytes() for path in place.root.rglob("*") if path.is_file()} == before


def test_a_run_that_was_killed_is_completed(tmp_path: Path) -> None:
    place = provisioned(tmp_path)
    for path in (
        place.root / "federation.yaml",
        place.ca_certificate,
        place.server,
        place.kit("hospital-0"),
    ):
        path.unlink()
    provision(tmp_path / "federation-in.yaml", place.root)
    check_server(place.ca_certificate, place.server)
    assert read_kit(place.kit("hospital-0")).files[CA] == place.ca_certificate.read_bytes()


def test_what_the_backup_must_hold_is_enough(tmp_path: Path) -> None:
    """docs/deployment.md names four parts that cannot be made again; all else is."""
    place = provisioned(tmp_path)
    enrol(place, read_public_keys(write_keys(tmp_path / "keys", "hospital-0")[1]))
    prepare(place, None)
    place.approvals.mkdir()
    restored = DeploymentFolder(tmp_path / "restored")
    restored.root.mkdir()
    for name in ("ca", "roster.json", "approvals", "studies"):
        (place.root / name).rename(restored.root / name)
    kept = {path: path.read_bytes() for path in restored.root.rglob("*") if path.is_file()}
    assert set(provision(tmp_path / "federation-in.yaml", restored.root)) == {"hospital-0", "hospital-1"}
    assert all(path.read_bytes() == data for path, data in kept.items())
    check_server(restored.ca_certificate, restored.server)


def test_a_damaged_kit_is_written_again(tmp_path: Path) -> None:
    place = provisioned(tmp_path)
    kit = place.kit("hospital-0")
    before = read_kit(place.kit("hospital-1")).fingerprint
    kit.write_bytes(b"")
    provision(tmp_path / "federation-in.yaml", place.root)
    assert read_kit(kit).manifest.hospital == "hospital-0"
    assert read_kit(place.kit("hospital-1")).fingerprint == before


def test_a_study_manifest_that_is_no_longer_named_leaves_the_kits(tmp_path: Path) -> None:
    place = provisioned(tmp_path)
    # As an earlier FEDERATION.yaml named it, for an earlier plan.
    place.study.write_text("{}")
    kits = provision(tmp_path / "federation-in.yaml", place.root)
    assert not place.study.exists() and STUDY not in kits["hospital-0"].files


def test_a_part_that_is_gone_is_one_clear_line(tmp_path: Path) -> None:
    place = provisioned(tmp_path)
    place.bundle.unlink()
    uses: list[Callable[[], object]] = [
        lambda: read_status(place),
        lambda: missing_approvals(place),
        lambda: renew(place.root),
    ]
    for use in uses:
        with pytest.raises(CipherwardError, match=r"cannot read .*bundle\.fab: No such file") as error:
            use()
        assert error.value.hint.endswith("or provision again")
    place.ca_certificate.unlink()
    with (
        pytest.raises(CipherwardError, match=r"cannot use the CA certificate .*ca\.crt: No such file"),
        connect(tmp_path / "control.sock", place.ca_certificate),
    ):
        pass


def test_an_authority_that_was_lost_is_not_replaced_in_silence(tmp_path: Path) -> None:
    place = provisioned(tmp_path)
    place.ca_certificate.unlink()
    with pytest.raises(CipherwardError, match=r"ca\.crt is missing"):
        provision(tmp_path / "federation-in.yaml", place.root)


def test_renewing_keeps_the_authority_and_needs_its_key(tmp_path: Path) -> None:
    place = provisioned(tmp_path)
    ca, server = place.ca_certificate.read_bytes(), place.server.read_bytes()
    offline = tmp_path / "offline.key"
    place.ca_key.rename(offline)
    with pytest.raises(CipherwardError, match="private key is not at"):
        renew(place.root)
    assert place.server.read_bytes() == server
    later = now_utc() + 400 * DAY
    kits = renew(place.root, offline, lambda: later)
    check_server(place.ca_certificate, place.server)
    assert place.ca_certificate.read_bytes() == ca and place.server.read_bytes() != server
    assert kits["hospital-0"].expires == later + 365 * DAY


def test_a_revoked_hospital_gets_no_kit_until_it_is_enrolled_again(tmp_path: Path) -> None:
    place = provisioned(tmp_path)
    enrol(place, read_public_keys(write_keys(tmp_path / "keys", "hospital-1")[1]))
    assert revoke(place, "hospital-1")
    assert set(renew(place.root)) == {"hospital-0"}
    assert place.kit("hospital-0").exists() and not place.kit("hospital-1").exists()
    assert set(provision(tmp_path / "federation-in.yaml", place.root)) == {"hospital-0"}
    enrol(place, read_public_keys(write_keys(tmp_path / "new", "hospital-1")[1]))
    assert set(renew(place.root)) == {"hospital-0", "hospital-1"}


def test_a_new_address_gets_a_new_certificate(tmp_path: Path) -> None:
    place = provisioned(tmp_path)
    server = place.server.read_bytes()
    write_federation(tmp_path, address="[fl.example.org, 127.0.0.1]")
    provision(tmp_path / "federation-in.yaml", place.root)
    assert place.server.read_bytes() != server
    assert read_kit(place.kit("hospital-0")).manifest.address.startswith("fl.example.org:")


def test_a_plan_of_real_hospitals_names_no_images(tmp_path: Path) -> None:
    file = write_federation(tmp_path)
    plan = tmp_path / "plan-in.yaml"
    plan.write_text(plan.read_text().replace("phantom\ncounts: [64, 16, 16]", "folder"))
    assert set(provision(file, tmp_path / "deployment")) == {"hospital-0", "hospital-1"}
    place = DeploymentFolder.open(tmp_path / "deployment")
    study, read = prepare(place, None)
    assert read.source == "folder" and not read.images and (study / "plan.yaml").is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hospitals": "[hospital-0]"}, "names 1 hospital, and the plan is for 2"),
        ({"hospitals": "[a, A]"}, "two hospitals have the same name"),
        ({"hospitals": "[a, ../b]"}, "is no name of a hospital"),
        ({"address": "['fl example org']"}, "neither a host name nor an IP address"),
        ({"address": "[]"}, "address"),
        ({"listen": "eth0"}, "is no IP address of an interface"),
        ({"plan": "missing.yaml"}, "no plan at"),
        ({"study": "missing.json"}, "study manifest"),
        ({"prot": "1"}, "unknown key 'prot'"),
        ({"port": "1", "local_port": "1"}, "are the same"),
        ({"name": "'no\\nname'"}, "name"),
    ],
)
def test_wrong_settings_are_named_and_nothing_is_written(
    tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    file = write_federation(tmp_path, **changes)
    with pytest.raises(CipherwardError, match=message):
        provision(file, tmp_path / "deployment")
    assert not (tmp_path / "deployment").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("mine")
    with pytest.raises(CipherwardError, match="holds something else"):
        provision(write_federation(tmp_path), tmp_path / "home")
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["thesis.txt"]
    # A lock alone makes no deployment: a hospital's commands leave one, too.
    (tmp_path / "home" / ".lock").touch()
    with pytest.raises(CipherwardError, match="holds something else"):
        provision(write_federation(tmp_path), tmp_path / "home")
    assert not (tmp_path / "home" / "ca").exists()


@pytest.mark.parametrize(
    ("address", "listen", "interface", "dial"),
    [
        ("[127.0.0.1, localhost]", "''", "127.0.0.1", "127.0.0.1:"),
        ("[fl.example.org]", "''", "0.0.0.0", "fl.example.org:"),
        ("[fl.example.org]", "10.0.0.5", "10.0.0.5", "fl.example.org:"),
        ("['2001:db8::1']", "''", "0.0.0.0", "[2001:db8::1]:"),
    ],
)
def test_where_it_listens(tmp_path: Path, address: str, listen: str, interface: str, dial: str) -> None:
    settings = read_federation(write_federation(tmp_path, address=address, listen=listen))
    assert settings.interface == interface and settings.dial.startswith(dial)


def test_a_relative_weights_path_means_the_same_file_in_every_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`run` and the ServerApp have other working directories than `provision`."""
    here = tmp_path / "here"
    (here / "public").mkdir(parents=True)
    (here / "public" / "vit.safetensors").write_bytes(b"weights")
    file = write_federation(here)
    plan = here / "plan-in.yaml"
    plan.write_text(plan.read_text() + "weights: public/vit.safetensors\n")
    monkeypatch.chdir(here)
    provision(file, tmp_path / "deployment")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    place = DeploymentFolder.open(tmp_path / "deployment")
    expected = str(here / "public" / "vit.safetensors")
    assert read_plan(place.plan, needs_images=False).weights == expected
    # The plan that a run is given by name: the ServerApp reads the study's copy.
    monkeypatch.chdir(here)
    monkeypatch.setattr("coordinator.model.check_model.check_model", lambda *_: None)
    study, _ = prepare(place, plan)
    monkeypatch.chdir(elsewhere)
    assert read_plan(study / "plan.yaml", needs_images=False).weights == expected
    kit = read_kit(place.kit("hospital-0"))
    assert plan_digest(load_plan(place.plan)) == plan_digest(load_plan(plan))
    assert b"vit.safetensors" in kit.files["plan.yaml"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("missing", "is not at"),
        ("empty", "is damaged, or no such key"),
        ("folder", "cannot read the CA's private key"),
    ],
)
def test_an_authority_s_key_that_is_not_there_says_what_to_do(
    tmp_path: Path, damage: str, message: str
) -> None:
    """`renew` asks where it is. `provision` for other addresses asks for it back: `renew` knows the old ones only."""
    place = provisioned(tmp_path)
    place.ca_key.unlink()
    if damage == "empty":
        place.ca_key.touch(mode=0o600)
    elif damage == "folder":
        place.ca_key.mkdir()
    before = place.server.read_bytes()

    with pytest.raises(CipherwardError, match=message) as renewing:
        renew(place.root)
    assert "--ca-key FILE" in renewing.value.hint
    assert "if the key is lost" in renewing.value.hint
    file = tmp_path / "federation-in.yaml"
    file.write_text(file.read_text().replace("127.0.0.1", "127.0.0.2"))
    with pytest.raises(CipherwardError, match=message) as providing:
        provision(file, place.root)
    assert "put the key back there" in providing.value.hint
    assert str(place.ca_key) in providing.value.message
    assert place.server.read_bytes() == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("pipe", "is not a regular file"),
        ("link to a pipe", "is not a regular file"),
        ("device", "is not a regular file"),
        ("open to others", r"can be read by others \(mode 0644\)"),
        ("dead link", "is not at"),
    ],
)
def test_an_authority_s_key_is_looked_at_like_every_other_secret(
    tmp_path: Path, damage: str, message: str
) -> None:
    place = provisioned(tmp_path)
    before, path = place.server.read_bytes(), tmp_path / "offline.key"
    place.ca_key.rename(path)
    if damage == "open to others":
        path.chmod(0o644)
    elif damage == "device":
        path.unlink()
        path.symlink_to("/dev/zero")
    elif damage == "dead link":
        path.unlink()
        path.symlink_to(tmp_path / "nothing")
    else:
        path.unlink()
        os.mkfifo(tmp_path / "pipe")  # nobody writes to it: reading it would wait without end
        if damage == "pipe":
            (tmp_path / "pipe").rename(path)
        else:
            path.symlink_to(tmp_path / "pipe")
    with pytest.raises(CipherwardError, match=message) as error:
        renew(place.root, path)
    assert error.value.hint
    assert place.server.read_bytes() == before
