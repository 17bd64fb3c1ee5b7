"""Approved code: a bundle is looked up by the digest of its bytes, until a date; comparing it runs nothing of it."""

from __future__ import annotations

import datetime
import io
import zipfile
from pathlib import Path

import pytest
import yaml
from flwr.supercore.fab import Fab
from flwr.supernode import start_client_internal
from flwr.supernode.start_client_internal import _verify_fab

from coordinator.exchange import flower_pauses
from coordinator.exchange.code_approval import read_approval
from crypto.errors import CipherwardError
from parties.agent import approval as module
from parties.agent.agent_log import AgentLog
from parties.agent.approval import (
    NotApprovedError,
    approvals_path,
    approve,
    kept_bundle,
    last_approved,
    read_approvals,
    renew_trusted,
    require_approved,
    trusted_bundles,
    withdraw,
)
from parties.agent.approval_key import APPROVAL_FILE, approval_key_path, write_trusted
from parties.agent.bundle import Bundle, build_own_bundle, compare, parse_bundle
from parties.sealing.place import Place
from tests.support.agents import make_place
from tests.support.stub_app import write_stub_app


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Give a hospital that approved nothing."""
    return make_place(tmp_path)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """Give a bundle."""
    return parse_bundle(write_stub_app(tmp_path / "app"), "the stub")


def test_nothing_is_approved_before_the_hospital_says_so(place: Place, bundle: Bundle) -> None:
    with pytest.raises(NotApprovedError, match="not approved by hospital-0"):
        require_approved(place, bundle.sha256)
    approve(place, bundle, 30)
    assert require_approved(place, bundle.sha256).app == "stub 1.0.0"
    other = parse_bundle(write_stub_app(place.folder / "other", "another client"), "another")
    with pytest.raises(NotApprovedError) as error:
        require_approved(place, other.sha256)
    assert error.value.field == "code"
    assert approvals_path(place).stat().st_mode & 0o777 == 0o600
    assert AgentLog(place).read()[-1]["event"] == "approved"


def test_an_approval_expires_and_can_be_given_again(place: Place, bundle: Bundle) -> None:
    approve(place, bundle, 1)
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1, minutes=1)
    with pytest.raises(NotApprovedError, match="expired on"):
        require_approved(place, bundle.sha256, later)
    approve(place, bundle, 30)
    assert require_approved(place, bundle.sha256, later)
    assert len(read_approvals(place)) == 1


@pytest.mark.parametrize("days", [0, -1, 100_000])
def test_a_number_of_days_must_make_sense(place: Place, bundle: Bundle, days: int) -> None:
    with pytest.raises(CipherwardError, match="--days"):
        approve(place, bundle, days)
    assert not approvals_path(place).exists()


def test_a_log_that_cannot_be_written_keeps_no_approval(place: Place, bundle: Bundle) -> None:
    approve(place, bundle, 30)
    AgentLog(place).path.write_bytes(b"")
    with pytest.raises(CipherwardError, match="the approval is withdrawn, but nothing is added to the log"):
        withdraw(place, bundle.sha256)
    with pytest.raises(NotApprovedError):
        require_approved(place, bundle.sha256)
    assert not (place.folder / APPROVAL_FILE).exists()


def test_withdrawing_ends_an_approval_at_once(place: Place, bundle: Bundle) -> None:
    approve(place, bundle, 30)
    with pytest.raises(CipherwardError, match="0 approved bundles"):
        withdraw(place, "ffff" if not bundle.sha256.startswith("ffff") else "0000")
    withdraw(place, bundle.sha256[:12])
    with pytest.raises(NotApprovedError):
        require_approved(place, bundle.sha256)
    assert AgentLog(place).read()[-1]["event"] == "withdrawn"


def test_a_signature_ends_with_its_approval_and_no_other_does(place: Place, tmp_path: Path) -> None:
    """By Flower's own check, with what a SuperNode is told to trust when it starts."""
    bundles = [parse_bundle(write_stub_app(tmp_path / name, name), name) for name in ("first", "second")]
    signed = []
    for bundle in bundles:
        approve(place, bundle, 30)
        signed.append(read_approval(place.folder / APPROVAL_FILE))

    def taken(now: datetime.datetime | None = None) -> list[bool]:
        path = write_trusted(place, tmp_path / "trusted.yaml", trusted_bundles(place, now))
        trusted = yaml.safe_load(path.read_text())
        return [
            _verify_fab(Fab(b.sha256, b.data, {a.key_id: a.verification}), trusted)
            for b, a in zip(bundles, signed, strict=True)
        ]

    assert taken() == [True, True]
    withdraw(place, bundles[0].sha256)
    assert taken() == [False, True]
    assert read_approval(place.folder / APPROVAL_FILE) == signed[1]  # it is about the other bundle
    withdraw(place, bundles[1].sha256)
    assert taken() == [False, False] and not (place.folder / APPROVAL_FILE).exists()
    approve(place, bundles[0], 30)
    assert taken() == [True, False]
    assert taken(datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=31)) == [False, False]
    assert yaml.safe_load(
        (tmp_path / "trusted.yaml").read_text()
    )  # an empty list would turn Flower's check off


def test_a_supernode_that_runs_trusts_what_is_approved_now(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start_client_internal, "_verify_fab", _verify_fab)
    bundle = parse_bundle(write_stub_app(tmp_path / "app", "app"), "app")
    path = tmp_path / "trusted.yaml"
    approve(place, bundle, 30)
    signed = read_approval(place.folder / APPROVAL_FILE)
    renew_trusted(place, path)
    at_start = yaml.safe_load(path.read_text())
    flower_pauses.reread_trust(path)

    fab = Fab(bundle.sha256, bundle.data, {signed.key_id: signed.verification})

    def is_trusted() -> bool:
        return bool(start_client_internal._verify_fab(fab, at_start))

    assert is_trusted()
    withdraw(place, bundle.sha256)
    renew_trusted(place, path)
    assert not is_trusted() and _verify_fab(
        Fab(bundle.sha256, bundle.data, {signed.key_id: signed.verification}), at_start
    )
    approve(place, bundle, 30)
    renew_trusted(place, path)
    assert is_trusted()
    approvals_path(place).write_text("{")  # damaged: nothing is trusted
    renew_trusted(place, path)
    assert not is_trusted() and not path.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": "cipherward.approved/1"}', '{"bundles": []}'])
def test_a_damaged_list_approves_nothing(place: Place, bundle: Bundle, text: str) -> None:
    approve(place, bundle, 30)
    approvals_path(place).write_text(text)
    with pytest.raises(CipherwardError):
        require_approved(place, bundle.sha256)


def test_a_list_that_others_can_read_or_replace_is_not_used(place: Place, bundle: Bundle) -> None:
    approve(place, bundle, 30)
    approvals_path(place).chmod(0o666)
    with pytest.raises(CipherwardError):
        require_approved(place, bundle.sha256)


def test_an_unlogged_approval_does_not_hold(
    place: Place, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> int:
        raise CipherwardError("the disk is full")

    monkeypatch.setattr(AgentLog, "append", fail)
    with pytest.raises(CipherwardError, match="disk is full"):
        approve(place, bundle, 30)
    with pytest.raises(NotApprovedError):
        require_approved(place, bundle.sha256)


def test_the_last_approved_bundle_is_kept_and_an_altered_copy_is_not_used(
    place: Place, bundle: Bundle
) -> None:
    assert last_approved(place) is None
    approve(place, bundle, 30)
    other = parse_bundle(write_stub_app(place.folder / "other", "another client"), "another")
    approve(place, other, 30)
    last = last_approved(place)
    assert last is not None
    assert last.sha256 == other.sha256
    (change,) = compare(bundle.files, last.files)
    assert (change.path, change.kind) == ("stub/client.py", "changed")
    assert '+"""another client"""' in change.diff
    copy = place.private / "bundles" / f"{other.sha256}.fab"
    copy.write_bytes(bundle.data)
    assert kept_bundle(place, other.sha256) is None
    assert last_approved(place) == bundle


@pytest.mark.parametrize(
    "separator", ["\u2028", "\u2029", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\r"]
)
def test_a_line_that_became_part_of_the_comment_above_it_is_shown(separator: str) -> None:
    """`str.splitlines` splits at these, Python's own parser does not: the check below would no longer run."""
    known = b"# The plan is checked.\nrefuse_unless_accepted()\nanswer()\n"
    bundle = known.decode().replace("checked.\n", f"checked.{separator}").encode()
    (change,) = compare({"guard.py": known}, {"guard.py": bundle})
    assert "-refuse_unless_accepted()" in change.diff
    assert f"+# The plan is checked.{separator}refuse_unless_accepted()" in change.diff


def test_new_removed_binary_and_line_ends_are_differences() -> None:
    old = {"a.py": b"x = 1\n", "b.py": b"y\n", "c.bin": b"\xff\x00", "d.py": b"z\r\n"}
    new = {"a.py": b"x = 1\n", "c.bin": b"\xff\x01", "d.py": b"z\n", "e.py": b"new\n"}
    changes = {change.path: change for change in compare(old, new)}
    assert {path: change.kind for path, change in changes.items()} == {
        "b.py": "removed",
        "c.bin": "changed",
        "d.py": "changed",
        "e.py": "new",
    }
    assert "SHA-256" in changes["c.bin"].diff[0]
    assert "line ends" in changes["d.py"].diff[0]
    assert "+new" in changes["e.py"].diff


def pack(files: dict[str, str]) -> bytes:
    """Return an archive of these files."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return stream.getvalue()


PROJECT = '[project]\nname = "a"\nversion = "1"\n'


@pytest.mark.parametrize(
    "files",
    [{}, {"pyproject.toml": ""}, {"pyproject.toml": "["}, {"pyproject.toml": PROJECT, "../x.py": ""},
     {"pyproject.toml": PROJECT, "/x.py": ""}, {"pyproject.toml": PROJECT, "a\\..\\x.py": ""}],
)  # fmt: skip
def test_what_is_no_bundle_is_named_and_not_unpacked(files: dict[str, str]) -> None:
    with pytest.raises(CipherwardError):
        parse_bundle(pack(files), "it")


@pytest.mark.parametrize(
    "other", ["a/./b.py", "a//b.py", "./a/b.py", "A/b.py", "a/B.py", "a", "a/b.py/c.py"]
)
def test_what_is_shown_of_a_file_is_what_is_unpacked_there(other: str) -> None:
    """The second of two files of one place is the one that runs, and the first is the one that looks unchanged."""
    files = {"pyproject.toml": PROJECT, "a/b.py": "shown"}
    assert parse_bundle(pack(files), "it").files["a/b.py"] == b"shown"
    for bad in ({**files, other: "runs"}, {"pyproject.toml": PROJECT, other: "", "a/b.py": ""}):
        with pytest.raises(CipherwardError, match=r"not written plainly|two files of one place"):
            parse_bundle(pack(bad), "it")


def test_two_spellings_of_an_accent_are_two_files_of_one_place() -> None:
    files = {"pyproject.toml": PROJECT, "caf\u00e9.py": "shown", "cafe\u0301.py": "runs"}
    with pytest.raises(CipherwardError, match="two files of one place"):
        parse_bundle(pack(files), "it")


def test_bytes_that_are_no_archive_are_no_bundle() -> None:
    with pytest.raises(CipherwardError, match="no app bundle"):
        parse_bundle(b"PK\x03\x04 and nothing", "it")


def test_an_own_bundle_needs_a_checkout(tmp_path: Path) -> None:
    with pytest.raises(CipherwardError, match=r"pyproject\.toml"):
        build_own_bundle(tmp_path)
    data = write_stub_app(tmp_path / "app")
    assert build_own_bundle(tmp_path / "app").data == data


def test_an_approval_that_cannot_be_signed_or_handed_out_approves_nothing(
    place: Place, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = approval_key_path(place)
    key.write_text("damaged")
    key.chmod(0o600)
    with pytest.raises(CipherwardError, match="key for approvals"):
        approve(place, bundle, 30)
    assert AgentLog(place).read() == []
    key.unlink()

    def full(*_words: object) -> None:
        raise CipherwardError("the disk is full", "")

    monkeypatch.setattr(module, "write_signed", full)
    with pytest.raises(CipherwardError, match="full"):
        approve(place, bundle, 30)
    with pytest.raises(NotApprovedError):
        require_approved(place, bundle.sha256)
