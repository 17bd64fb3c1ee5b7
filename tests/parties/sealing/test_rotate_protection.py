"""A rotation that was interrupted ends with its key protected as the command that finishes it says, or is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import parties.sealing.rotate
from crypto.key import SecretKey
from crypto.keyfile import forget_unwrapped_keys, protection_of, read_key, read_key_id, write_key
from crypto.unlock import write_identity
from parties.sealing.place import Place
from parties.sealing.rotate import new_key_path, new_sets_path
from tests.support import leaks
from tests.support.command_runs import Party
from tests.support.rotation import check_rotated, make_hospital

#: Where a rotation is stopped: with the new key made, and while the new epoch is put in place.
PHASES = {"build": "_seal_again", "swap": "_swap"}
STRONG = "wool ferry ladder moth"


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Return a hospital with sealed sets."""
    return make_hospital(tmp_path_factory.mktemp("protection") / "h", counts=[9, 3, 3])


@pytest.fixture
def place(sealed: Place, tmp_path: Path) -> Place:
    """Return a copy of the hospital."""
    shutil.copytree(sealed.folder, tmp_path / "hospital")
    return Place.open(tmp_path / "hospital")


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the recipient of an identity that is in use here, beside the hospital's folder."""
    monkeypatch.setenv("CIPHERWARD_IDENTITY", str(tmp_path / "mine.txt"))
    return write_identity(tmp_path / "mine.txt")


@pytest.fixture
def theirs(tmp_path: Path) -> str:
    """Return the recipient of an identity that is elsewhere."""
    (tmp_path / "elsewhere").mkdir()
    return write_identity(tmp_path / "elsewhere" / "theirs.txt")


def interrupt(party: Party, place: Place, phase: str, *options: object) -> str:
    """Begin a rotation that is stopped in a phase. Return its new key's id."""

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parties.sealing.rotate, PHASES[phase], stop)
        assert party("rotate", place.folder, *options)[0] != 0
    assert place.swap_note.exists() == (phase == "swap")
    new = read_key_id(new_key_path(place))
    assert new
    return new


@pytest.mark.parametrize("phase", PHASES)
def test_a_key_that_was_begun_in_clear_is_wrapped_as_asked(
    place: Place, party: Party, phase: str, mine: str
) -> None:
    old, new = place.key().id, interrupt(party, place, phase)
    clear = new_key_path(place).read_bytes()
    status, out, log = party("rotate", place.folder, "--recipient", mine)
    assert (status, out) == (0, new), log
    check_rotated(place.folder, old, new)
    assert protection_of(place.key_path) == "recipients"
    assert "was not protected" in log and "the new key's file is wrapped for named recipients" in log
    files = {str(path): path.read_bytes() for path in place.folder.rglob("*") if path.is_file()}
    forms = leaks.key_forms(place.key(), [])
    assert leaks.find(forms, files) == [] != leaks.find(forms, {"before": clear})


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.long
def test_a_passphrase_is_asked_for_judged_and_used(
    place: Place, party: Party, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = interrupt(party, place, phase)
    monkeypatch.setenv("CIPHERWARD_PASSPHRASE", "passwordpassword")
    status, _, log = party("rotate", place.folder, "--passphrase")
    assert status == 1 and "easy to guess" in log and protection_of(new_key_path(place)) == "clear"
    monkeypatch.setenv("CIPHERWARD_PASSPHRASE", STRONG)
    assert party("rotate", place.folder, "--passphrase")[:2] == (0, new)
    assert protection_of(place.key_path) == "passphrase" and place.key().id == new


@pytest.mark.parametrize("phase", PHASES)
def test_a_key_is_written_in_clear_only_if_the_last_command_says_so(
    place: Place, party: Party, phase: str, mine: str
) -> None:
    new = interrupt(party, place, phase, "--recipient", mine)
    copy = place.folder.with_name("copy")
    shutil.copytree(place.folder, copy)
    status, out, log = party("rotate", place.folder)
    assert (status, out) == (0, new) and protection_of(place.key_path) == "recipients", log
    assert party("rotate", copy, "--unprotected")[:2] == (0, new)
    assert protection_of(copy / "secret.key") == "clear"


@pytest.mark.parametrize("phase", PHASES)
def test_a_shared_key_is_copied_as_its_file_is_protected_now(
    place: Place, party: Party, phase: str, mine: str, tmp_path: Path
) -> None:
    old, key = place.key().id, SecretKey.generate()
    write_key(tmp_path / "clear.key", key)
    write_key(tmp_path / "wrapped.key", key, [mine])
    assert interrupt(party, place, phase, "--key", tmp_path / "clear.key") == key.id
    assert party("rotate", place.folder, "--key", tmp_path / "wrapped.key")[:2] == (0, key.id)
    assert place.key_path.read_text() == (tmp_path / "wrapped.key").read_text()
    check_rotated(place.folder, old, key.id)


def test_a_rotation_to_a_key_that_nobody_here_opens_is_finished_by_the_same_command(
    place: Place, party: Party, theirs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = place.key().id
    options = ("--recipient", theirs, "--unopened")
    in_swap = tmp_path / "in-swap"
    shutil.copytree(place.folder, in_swap)
    first = interrupt(party, place, "build", *options)
    (new_sets_path(place) / "train").mkdir(parents=True)
    for words in ((), ("--unprotected",)):
        status, _, log = party("rotate", place.folder, *words)
        assert status == 1 and f"remove {new_key_path(place)} and {new_sets_path(place)}" in " ".join(
            log.split()
        )
    status, second, log = party("rotate", place.folder, *options)
    assert status == 0 and second not in (first, old) and "a new one takes its place" in log
    # While the new epoch is put in place its key is not needed, and cannot be given up.
    place = Place.open(in_swap)
    third = interrupt(party, place, "swap", *options)
    status, _, log = party(
        "rotate", in_swap, "--recipient", write_identity(tmp_path / "other"), "--unopened"
    )
    assert status == 1 and f"with the key as it is: cipherward-party rotate {in_swap}" in log
    assert party("rotate", in_swap, *options)[:2] == (0, third)
    monkeypatch.setenv("CIPHERWARD_IDENTITY", str(tmp_path / "elsewhere" / "theirs.txt"))
    for folder, new in ((in_swap, third), (tmp_path / "hospital", second)):
        check_rotated(folder, old, new)


def test_another_recipient_gets_the_key_in_place_of_the_first(
    place: Place, party: Party, mine: str, theirs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = interrupt(party, place, "build", "--recipient", mine)
    both = ("--recipient", theirs, "--recipient", mine)
    with pytest.MonkeyPatch.context() as patch:  # killed once more, between the draft and its new name
        patch.setattr(Path, "replace", lambda *_: pytest.fail("killed"))
        with pytest.raises(BaseException, match="killed"):
            party("rotate", place.folder, *both)
    (place.folder / f".{new_key_path(place).name}.1.tmp").write_text("a draft that a kill left")
    assert party("rotate", place.folder, *both)[:2] == (0, new)
    assert not list(place.folder.glob(".*.tmp"))
    forget_unwrapped_keys()
    monkeypatch.setenv("CIPHERWARD_IDENTITY", str(tmp_path / "elsewhere" / "theirs.txt"))
    assert read_key(place.key_path).id == new
