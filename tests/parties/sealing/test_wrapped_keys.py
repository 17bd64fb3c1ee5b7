"""What protects a hospital's key protects throwaway keys, and no rotation ends under a key nobody here opens."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

import parties.sealing.seal
from crypto.errors import CipherwardError
from crypto.files import sha256_file
from crypto.key import SecretKey
from crypto.keyfile import forget_unwrapped_keys, read_key, write_key, write_throwaway_key
from crypto.unlock import write_identity
from parties.cli.app import app
from parties.sealing.place import Place
from parties.sealing.rotate import rotate
from parties.sealing.seal import plan_sealing, seal
from tests.support import leaks
from tests.support.keys import mode_of, refusal, replace_text
from tests.support.rotation import fresh_key, make_hospital


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Return a hospital whose key is wrapped for an identity that is elsewhere, with an audit set."""
    monkeypatch.setattr(parties.sealing.seal, "CONTROL_IMAGES", 8)
    recipient = write_identity(tmp_path / "identity.txt")
    monkeypatch.setenv("CIPHERWARD_IDENTITY", str(tmp_path / "identity.txt"))
    place = make_hospital(tmp_path / "hospital")
    key = place.key()
    place.key_path.unlink()
    write_key(place.key_path, key, [recipient])
    for name in ("audit-1", "control-known"):
        seal(place, plan_sealing(place, name))
    return place


def files_of(folder: Path) -> dict[str, str]:
    """Return the digests of all files below a folder but the lock."""
    return {
        str(path.relative_to(folder)): sha256_file(path)
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_a_stolen_folder_opens_no_set_of_an_audit(place: Place, tmp_path: Path) -> None:
    keys = {name: plan_sealing(place, name).key() for name in ("audit-1", "control-known")}
    stolen = tmp_path / "stolen"
    shutil.copytree(place.folder, stolen)
    texts = {str(path): path.read_bytes() for path in stolen.rglob("*.key")}
    for name, key in keys.items():
        assert leaks.find(leaks.key_forms(key, []), texts) == []
        assert mode_of(place.private / f"{name}.key") == 0o600
        place.sealed(name).verify(key)
    forget_unwrapped_keys()
    (tmp_path / "identity.txt").unlink()
    for name in keys:
        with pytest.raises(CipherwardError, match="there is no identity file"):
            read_key(stolen / "private" / f"{name}.key")


def test_a_throwaway_key_is_found_and_opened_by_its_owners_key_alone(place: Place) -> None:
    path = place.private / "audit-1.key"
    assert read_key(path) == plan_sealing(place, "audit-1").key()
    place.key_path.rename(place.folder / "elsewhere.txt")
    assert "is encrypted under the hospital's key" in refusal(path).message
    assert read_key(path, owner=place.folder / "elsewhere.txt").id == place.sealed("audit-1").key_id
    write_key(place.key_path, SecretKey.generate())
    assert "which is not here" in refusal(path).message


def test_a_throwaway_key_that_was_changed_is_damaged(tmp_path: Path) -> None:
    owner, key, other = SecretKey.generate(), SecretKey.generate(), SecretKey.generate()
    write_key(tmp_path / "secret.key", owner)
    (tmp_path / "private").mkdir()
    path = tmp_path / "private" / "audit-1.key"
    write_throwaway_key(path, key, owner)
    assert read_key(path) == key
    text = path.read_text()
    # Another key's id is another sub-key, so that no file can be passed off as another set's.
    replace_text(path, f":{key.id}:", f":{other.id}:")
    assert "is damaged" in refusal(path).message
    for broken in (text.rstrip()[:-8] + "\n", text.replace("=", "").rstrip() + "!!!!\n"):
        path.write_text(broken)
        assert "damaged" in refusal(path).message
    path.write_text(text.replace(owner.id, "../../etc"))
    assert "not here" in refusal(path).message


def test_plain_throwaway_keys_of_earlier_versions_are_read(tmp_path: Path, place: Place) -> None:
    path, key = place.private / "audit-1.key", plan_sealing(place, "audit-1").key()
    path.unlink()
    write_key(path, key)
    assert plan_sealing(place, "audit-1").key() == key


def test_a_rotation_keeps_the_throwaway_keys_openable(place: Place) -> None:
    key = plan_sealing(place, "audit-1").key()
    old = place.key().id
    rotate(place, fresh_key)
    archived = place.private / f"epoch-{old}" / "audit-1.key"
    assert read_key(archived) == key


def test_a_rotation_for_a_stranger_is_refused_before_anything_changes(place: Place, tmp_path: Path) -> None:
    stranger = write_identity(tmp_path / "stranger.txt")
    before, words = files_of(place.folder), ["rotate", str(place.folder), "--recipient", stranger]
    error = CliRunner().invoke(app, words).exception
    assert isinstance(error, CipherwardError) and "nobody here could open the new key" in error.message
    assert "--unopened" in error.hint and files_of(place.folder) == before
    # With the hospital's own identity among the recipients, or on purpose, it goes on.
    mine = write_identity(tmp_path / "mine.txt")
    (tmp_path / "identity.txt").write_text(
        (tmp_path / "identity.txt").read_text() + (tmp_path / "mine.txt").read_text()
    )
    done = CliRunner().invoke(app, [*words, "--recipient", mine])
    assert done.exit_code == 0 and place.key().id in done.output
    done = CliRunner().invoke(app, [*words, "--unopened"])
    assert done.exit_code == 0 and "no identity in" in refusal(place.key_path).message


def test_a_rotation_without_any_identity_here_is_refused(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = write_identity(tmp_path / "stranger.txt")
    key = place.key()
    place.key_path.unlink()
    write_key(place.key_path, key)
    monkeypatch.setenv("CIPHERWARD_IDENTITY", str(tmp_path / "absent.txt"))
    before = files_of(place.folder)
    error = CliRunner().invoke(app, ["rotate", str(place.folder), "--recipient", stranger]).exception
    assert isinstance(error, CipherwardError) and "there is no identity file" in error.message
    assert files_of(place.folder) == before


def test_commands_say_which_file_is_secret_and_which_is_to_hand_out(tmp_path: Path) -> None:
    """A folder with the public half holds the secret one, too."""
    hospital, run = tmp_path / "hospital", CliRunner()
    recipient = run.invoke(app, ["identity", str(tmp_path / "identity.txt")])
    assert "identity.txt: it is secret" in " ".join(recipient.output.split())
    assert "whoever copies" not in recipient.output
    age = recipient.output.split()[-1]

    made = run.invoke(app, ["keygen", str(hospital), "--recipient", age])
    assert "whoever copies" not in made.output
    beside = run.invoke(app, ["identity", str(hospital / "identity.txt")])
    assert "whoever copies" in beside.output
    (hospital / "secret.key").unlink()
    again = run.invoke(app, ["keygen", str(hospital), "--recipient", age])
    assert "whoever copies" in again.output

    Place.from_settings(hospital, {"party": "h"}).save()
    enrolled = run.invoke(app, ["enrol", str(hospital)])
    assert "this file alone; private/ and the key beside it stay here" in " ".join(enrolled.output.split())
