"""Where secrets lie on the disk: pipes and other users' files are refused, and a kill leaves no key behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.keyfile import copy_key, read_key, read_key_id, write_key
from crypto.unlock import identities, new_passphrase, write_identity
from parties.cli.app import app
from tests.support.keys import PASSPHRASE, mode_of

pytestmark = pytest.mark.usefixtures("no_secrets")

#: Writes a key in a process of its own, which kills itself at the named call.
KILLED = """
import os, signal, sys
from pathlib import Path
from crypto.key import SecretKey
from crypto.keyfile import write_key
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
setattr(os, sys.argv[2], die)
write_key(Path(sys.argv[1]), SecretKey(bytes(range(32))))
"""


def within_seconds(read: Callable[[], object]) -> str:
    """Return the message of the error that reading raises. Fails if it waits for a writer."""
    messages: list[str] = []

    def run() -> None:
        try:
            read()
        except CipherwardError as error:
            messages.append(f"{error.message} | {error.hint}")

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(10)
    assert messages, "it waits for a writer, or read a secret from a pipe"
    return messages[0]


def test_pipes_are_refused_at_once_and_the_hint_names_another_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    (tmp_path / "identity.txt").symlink_to(pipe)
    monkeypatch.setenv("CIPHERWARD_PASSPHRASE_FILE", str(pipe))
    readers: tuple[Callable[[], object], ...] = (
        lambda: read_key(pipe),
        lambda: read_key_id(pipe),
        lambda: copy_key(pipe, tmp_path / "copy.key"),
        lambda: identities("a key", tmp_path),
        new_passphrase,
    )
    for read in readers:
        message = within_seconds(read)
        assert "is not a regular file" in message and "/dev/shm" in message
    assert not (tmp_path / "copy.key").exists()
    # What a shell makes of <(…): a descriptor whose other end has written already.
    end, start = os.pipe()
    os.write(start, PASSPHRASE.encode())
    os.close(start)
    monkeypatch.setenv("CIPHERWARD_PASSPHRASE_FILE", f"/dev/fd/{end}")
    assert "is not a regular file" in within_seconds(new_passphrase)
    os.close(end)
    assert "is not a regular file" in within_seconds(lambda: read_key(Path("/dev/null")))
    assert "is not a regular file" in within_seconds(lambda: read_key(tmp_path))


def test_another_user_s_file_is_refused(
    tmp_path: Path, key: SecretKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.key"
    write_key(path, key)
    assert read_key(path) == key
    with monkeypatch.context() as other:
        other.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
        with pytest.raises(CipherwardError, match=r"belongs to another user \(uid \d+\)") as error:
            read_key(path)
        assert "install -m 600" in error.value.hint
    if os.geteuid() == 0:  # in truth, too
        os.chown(path, 12345, -1)
        with pytest.raises(CipherwardError, match=r"belongs to another user \(uid 12345\)"):
            read_key(path)


@pytest.mark.parametrize("moment", ["fsync", "link"])
def test_a_kill_leaves_no_file_with_the_key(tmp_path: Path, moment: str) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "secret.key"), moment]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []
    write_key(tmp_path / "secret.key", SecretKey(bytes(range(32))))
    assert mode_of(tmp_path / "secret.key") == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["secret.key"]


def test_where_files_need_names_the_next_attempt_removes_a_killed_one_s_draft(
    tmp_path: Path, key: SecretKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_open = os.open

    def open_named(path: Path, flags: int, *rest: int, **more: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "not supported")
        return real_open(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", open_named)
    (tmp_path / ".a.key.0123abcd.tmp").write_text("a key, left by a kill")
    (tmp_path / ".b.key.0123abcd.tmp").write_text("another file's")
    write_key(tmp_path / "a.key", key)
    assert read_key(tmp_path / "a.key") == key and mode_of(tmp_path / "a.key") == 0o600
    with pytest.raises(CipherwardError, match="never overwritten"):
        write_key(tmp_path / "a.key", key)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".b.key.0123abcd.tmp", "a.key"]


def test_a_new_secret_is_whole_and_private_whatever_the_umask(tmp_path: Path, key: SecretKey) -> None:
    before = os.umask(0)
    try:
        write_key(tmp_path / "a.key", key)
        write_identity(tmp_path / "identity.txt")
    finally:
        os.umask(before)
    for name in ("a.key", "identity.txt"):
        assert mode_of(tmp_path / name) == 0o600


@pytest.mark.parametrize("words", [["--passphrase"], ["--passphrase", "--recipient", "RECIPIENT"]])
def test_a_refused_keygen_leaves_no_folder(
    tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty folder reads like a hospital whose key was lost."""
    monkeypatch.setenv("CIPHERWARD_PASSPHRASE", "abc")
    public = write_identity(tmp_path / "identity.txt")
    words = [public if word == "RECIPIENT" else word for word in words]
    (tmp_path / "north").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for folder in (tmp_path / "new", tmp_path / "deep" / "er" / "new", tmp_path / "north"):
        done = CliRunner().invoke(app, ["keygen", str(folder), *words])
        assert isinstance(done.exception, CipherwardError)
        assert sorted(tmp_path.rglob("*")) == before  # and what was there stays
