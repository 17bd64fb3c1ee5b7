"""Another user of the machine plants links, pipes and devices where a command reads or writes."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from coordinator.cli.audit import _read_line
from coordinator.deployment.certificates import read_expiry
from coordinator.deployment.enrolment import read_public_keys
from coordinator.deployment.folder import read_part
from coordinator.exchange.plan import Plan, read_plan
from coordinator.study.study import Study, Talk, hospital_log_file, run_command
from crypto.errors import CipherwardError
from crypto.files import (
    append_line,
    folder_lock,
    open_log,
    read_every_line,
    read_lines,
    write_atomic,
    write_text,
)


def _other_users_file(folder: Path) -> Path:
    path = folder / "thesis.tex"
    path.write_text("years of work")
    return path


@pytest.mark.parametrize("kind", ["link", "dangling", "pipe", "socket"])
def test_a_lock_follows_no_link_and_waits_for_no_pipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Whoever may write a shared folder could let a command empty any file of its user, or hang."""
    folder, victim = tmp_path / "shared", _other_users_file(tmp_path)
    folder.mkdir()
    monkeypatch.chdir(folder)  # a socket's path has 100 characters at most
    if kind == "pipe":
        os.mkfifo(".lock")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(".lock")
    else:
        Path(".lock").symlink_to(victim if kind == "link" else tmp_path / "new")
    with pytest.raises(CipherwardError, match=r"\.lock is not a regular file"), folder_lock(folder):
        pass
    assert victim.read_text() == "years of work"
    assert not (tmp_path / "new").exists()


def test_nobody_can_guess_the_name_that_a_file_is_written_under(tmp_path: Path) -> None:
    """A link that another user put there would be followed, and the file behind it overwritten."""
    victim, names = _other_users_file(tmp_path), list[str]()
    for name in (f".out.json.{os.getpid()}.tmp", f".out.json.{os.getpid()}.draft.tmp"):
        (tmp_path / name).symlink_to(victim)
    write_text(tmp_path / "out.json", "{}")

    def fill(draft: Path) -> None:
        names.append(draft.name)
        draft.write_text("{}")

    for _ in range(2):
        write_atomic(tmp_path / "out.json", fill)
    assert victim.read_text() == "years of work"
    assert len(set(names)) == 2


def test_a_link_in_the_place_of_an_output_is_replaced_and_not_followed(tmp_path: Path) -> None:
    victim = _other_users_file(tmp_path)
    (tmp_path / "soft.json").symlink_to(victim)
    os.link(victim, tmp_path / "hard.json")
    for name in ("soft.json", "hard.json"):
        write_text(tmp_path / name, "{}")
        assert (tmp_path / name).read_text() == "{}"
        assert not (tmp_path / name).is_symlink()
    assert victim.read_text() == "years of work"


@pytest.mark.parametrize(
    "read",
    [read_plan, read_public_keys, read_expiry, read_part, _read_line],
)
def test_a_pipe_or_a_device_that_is_named_as_a_file_is_refused_at_once(
    tmp_path: Path, read: Callable[[Path], object]
) -> None:
    """Opening a pipe waits for its writer, and reading /dev/zero ends when the memory is full."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(CipherwardError, match="is not a regular file"):
            read(path)


def test_settings_of_a_size_that_none_have_are_refused_unread(tmp_path: Path) -> None:
    with open(tmp_path / "plan.yaml", "wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(CipherwardError, match="has 1074 MB; none has more than 17 MB"):
        read_plan(tmp_path / "plan.yaml")


def test_a_log_follows_no_link_and_waits_for_no_pipe(tmp_path: Path) -> None:
    """What a study's programs print was written into the file behind the link, and its mode was changed."""
    victim = _other_users_file(tmp_path)
    victim.chmod(0o644)
    (tmp_path / "link.log").symlink_to(victim)
    os.mkfifo(tmp_path / "pipe.log")
    for name in ("link.log", "pipe.log"):
        with pytest.raises(CipherwardError, match=f"{name} is not a regular file"):
            run_command("parties.cli.app", ["schemes", "--help"], tmp_path / name, print)
    hospital_log_file(tmp_path, 0).parent.mkdir(parents=True)
    hospital_log_file(tmp_path, 0).symlink_to(victim)
    with pytest.raises(CipherwardError, match=r"hospital\.log is not a regular file"):
        Study(Plan(study="s", counts=(9, 9, 9)), tmp_path, Talk(print)).hospital_log(0)
    assert victim.read_text() == "years of work" and victim.stat().st_mode & 0o777 == 0o644


def test_a_pipe_in_the_place_of_a_journal_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rounds.jsonl")
    for use in (read_lines, read_every_line, lambda path: append_line(path, "{}")):
        with pytest.raises(CipherwardError, match=r"rounds\.jsonl is not a regular file"):
            use(tmp_path / "rounds.jsonl")


def test_a_log_goes_on_where_it_ended(tmp_path: Path) -> None:
    for line in (b"first\n", b"second\n"):
        with open_log(tmp_path / "a.log", 0o600) as file:
            file.write(line)
    assert (tmp_path / "a.log").read_bytes() == b"first\nsecond\n"
    assert (tmp_path / "a.log").stat().st_mode & 0o777 == 0o600
