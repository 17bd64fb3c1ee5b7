"""Folders and settings that other users of the machine could change are refused."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from crypto import ownership
from crypto.errors import CipherwardError
from crypto.ownership import is_shared, require_access, require_own_folder
from parties.cli.keys import keygen
from parties.sealing.place import Place
from tests.support.agents import make_place
from tests.support.command_runs import Here
from tests.support.deployment import provisioned
from tests.support.rotation import make_hospital


def _other_uid(path: Path) -> int:
    return path.stat().st_uid + 1


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o757, 0o775])
def test_a_hospital_in_which_others_could_swap_files_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    """They could move private/ away, and with it what was scored and how much of the budget is spent."""
    monkeypatch.setattr(ownership, "_is_own_group", lambda _gid: False)
    place = make_place(tmp_path)
    place.folder.chmod(mode)
    uses: tuple[Callable[[], object], ...] = (
        lambda: Place.open(place.folder),
        place.save,
        lambda: keygen(place.folder),
    )
    for use in uses:
        with pytest.raises(CipherwardError, match=f"can swap the files in .*mode {mode:04o}") as refused:
            use()
        assert f"chmod go-w {place.folder}" in refused.value.hint
    assert not (place.folder / "secret.key").exists()
    place.folder.chmod(0o755)
    Place.open(place.folder)


def test_settings_that_others_can_write_are_refused(tmp_path: Path) -> None:
    """They say which images are read, which key is used and how they are sealed."""
    place = make_place(tmp_path)
    (place.folder / "party.yaml").chmod(0o666)
    with pytest.raises(CipherwardError, match=r"other users of this machine can change .*party\.yaml"):
        Place.open(place.folder)


def test_what_belongs_to_another_user_is_refused_but_root_may_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make_place(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: _other_uid(tmp_path))
    if tmp_path.stat().st_uid:  # what root owns, root could change in any case
        with pytest.raises(CipherwardError, match="belongs to another user"):
            require_own_folder(place.folder)
    status = os.stat_result((0o100644, 1, 1, 1, 4711, 1, 0, 0, 0, 0))
    with pytest.raises(CipherwardError, match=r"belongs to another user \(uid 4711\)"):
        ownership.require_own_file(place.folder / "party.yaml", status)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    require_own_folder(place.folder)
    ownership.require_own_file(place.folder / "party.yaml", status)


@pytest.mark.parametrize(
    ("name", "members", "gid", "shared"),
    [
        ("ann", [], 500, False),
        ("ann", ["ann"], 500, False),
        ("ann", ["bob"], 500, True),
        ("staff", [], 500, True),
        ("ann", [], 501, True),
    ],
)
def test_a_group_of_the_user_alone_shares_nothing(
    monkeypatch: pytest.MonkeyPatch, name: str, members: list[str], gid: int, shared: bool
) -> None:
    """Ubuntu gives every user such a group, and lets it write every new folder."""
    monkeypatch.setattr(pwd, "getpwuid", lambda _uid: SimpleNamespace(pw_name="ann", pw_gid=500))
    monkeypatch.setattr(grp, "getgrgid", lambda _gid: SimpleNamespace(gr_name=name, gr_mem=members))
    assert is_shared(os.stat_result((0o40775, 1, 1, 2, 500, gid, 0, 0, 0, 0))) is shared
    assert not is_shared(os.stat_result((0o40755, 1, 1, 2, 500, gid, 0, 0, 0, 0)))


def test_a_user_or_group_without_a_name_has_no_group_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_name(_uid: int) -> None:
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", no_name)
    assert is_shared(os.stat_result((0o40775, 1, 1, 2, 500, 500, 0, 0, 0, 0)))


def test_a_folder_that_another_user_closed_is_named_with_its_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: Here
) -> None:
    """What root made was taken for missing, with the hint to restore it, or ended in a traceback."""
    place = make_hospital(tmp_path / "h")
    deployment = provisioned(tmp_path)
    require_access(tmp_path, "absent")
    closed = {str(place.private), str(deployment.root / "state")}
    monkeypatch.setattr(os, "access", lambda path, *_: str(path) not in closed)
    for words in (
        ["log", "verify"],
        ["privacy"],
        ["agent", "approvals"],
        ["agent", "status"],
        ["seal"],
        ["audit"],
    ):
        done = here("cipherward-party", *words, place.folder)
        assert done.returncode == 1 and "private is closed to this user" in " ".join(done.stderr.split())
    for word in ("status", "stop", "run", "serve"):
        done = here("cipherward-coordinator", word, deployment.root)
        assert done.returncode == 1 and "state is closed to this user" in " ".join(done.stderr.split())
        assert "restore" not in done.stderr and f"uid {os.getuid()}" in " ".join(done.stderr.split())


def test_whoever_asks_for_an_agent_makes_no_folder(tmp_path: Path, here: Here) -> None:
    place = make_hospital(tmp_path / "h")
    done = here("cipherward-party", "agent", "status", place.folder)
    assert "no agent of" in done.stdout + done.stderr
    assert not (place.folder / "private" / "agent").exists()
