"""Key files: created once, for their owner alone, and a message for each defect."""

from __future__ import annotations

import base64
import getpass
import logging
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from crypto import keyfile
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.keyfile import copy_key, is_wrapped, read_key, read_key_id, write_key
from crypto.unlock import write_identity
from tests.support import leaks
from tests.support.command_runs import Party
from tests.support.keys import PASSPHRASE, mode_of, refusal, replace_text

pytestmark = pytest.mark.usefixtures("no_secrets")


def test_written_for_its_owner_alone_and_read_back(key_path: Path, key: SecretKey) -> None:
    assert mode_of(key_path) == 0o600 and not is_wrapped(key_path) and read_key_id(key_path) == key.id
    assert read_key(key_path) == key
    copy_key(key_path, key_path.with_name("b.key"))
    assert (
        key_path.with_name("b.key").read_bytes() == key_path.read_bytes()
        and mode_of(key_path.with_name("b.key")) == 0o600
    )


def test_never_overwritten_nor_written_through_a_link(
    key_path: Path, key: SecretKey, tmp_path: Path
) -> None:
    before = key_path.read_bytes()
    (tmp_path / "link").symlink_to(tmp_path / "absent")
    writes: tuple[Callable[[Path], object], ...] = (
        lambda t: write_key(t, SecretKey.generate()),
        write_identity,
        lambda t: copy_key(key_path, t),
    )
    for target in (key_path, tmp_path / "link"):
        for write in writes:
            with pytest.raises(CipherwardError, match="never overwritten"):
                write(target)
    assert key_path.read_bytes() == before and not (tmp_path / "absent").exists()


def test_nothing_is_left_where_writing_fails(
    tmp_path: Path, key: SecretKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "no space")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CipherwardError, match="disk is full"):
        write_key(tmp_path / "a.key", key)
    assert list(tmp_path.iterdir()) == []


def test_each_defect_has_its_message(key_path: Path, key: SecretKey, tmp_path: Path) -> None:
    secret = base64.b64encode(key.reveal()).decode()
    other = SecretKey.generate()
    cases: dict[str, Callable[[Path], object]] = {
        "can be read by others (mode 0644)": lambda p: p.chmod(0o644),
        "can be read by others (mode 0640)": lambda p: p.chmod(0o640),
        "is not a cipherward key file": lambda p: p.write_text("hello\n"),
        "damaged: its id is not its key's": lambda p: replace_text(p, f":{key.id}:", ":0000000000000000:"),
        f"says id {other.id} and holds key {key.id}": lambda p: replace_text(
            p, f"# id {key.id}", f"# id {other.id}"
        ),
        "has 16 bytes, not 32": lambda p: replace_text(
            p, secret, base64.b64encode(bytes(range(16))).decode()
        ),
        "is weak": lambda p: replace_text(p, secret, base64.b64encode(bytes(range(8)) * 4).decode()),
        "weak: it is not random": lambda p: replace_text(
            p, secret, base64.b64encode(b"correct horse battery, my secret").decode()
        ),
        "is damaged": lambda p: replace_text(p, secret, "!" + secret[1:]),
    }
    intact = key_path.read_text()
    for message, spoil in cases.items():
        key_path.chmod(0o600)
        key_path.write_text(intact)
        spoil(key_path)
        error = refusal(key_path)
        assert message in error.message and error.hint, error.message
        assert leaks.find(leaks.key_forms(key, []), {"error": str(error).encode()}) == []
    with pytest.raises(CipherwardError, match="no key file at"):
        read_key(tmp_path / "absent.key")
    key_path.chmod(0o600)
    key_path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CipherwardError, match="cannot read the key file"):
        read_key(key_path)
    with pytest.raises(CipherwardError, match="no such folder"):
        write_key(tmp_path / "nowhere" / "a.key", key)


def test_a_key_in_memory_is_neither_shown_nor_pickled(key: SecretKey) -> None:
    assert (
        leaks.find(leaks.key_forms(key, []), {"repr": f"{key} {key!r} {[key]} {vars(keyfile)}".encode()})
        == []
    )
    with pytest.raises(TypeError, match="neither pickled nor copied"):
        pickle.dumps({"key": key})


@pytest.mark.long
def test_the_commands_and_that_none_shows_a_key(
    tmp_path: Path, party: Party, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    a, b, c = (tmp_path / name for name in "abc")
    printed: list[str] = []
    prompts: list[str] = []

    def run(*words: object, status: int = 0) -> tuple[str, str]:
        result = party(*words)
        assert result[0] == status, result
        printed.append(f"{result[1]} {result[2]}")
        return result[1].strip(), " ".join(result[2].split())

    def answer(prompt: str) -> str:
        prompts.append(prompt)
        return PASSPHRASE

    first, output = run("keygen", a)
    assert "it is not protected" in output and mode_of(a / "secret.key") == 0o600
    assert "never overwritten" in run("keygen", a, status=1)[1]
    b.mkdir()
    recipient, _ = run("identity", b / "identity.txt")
    assert recipient.startswith("age1") and mode_of(b / "identity.txt") == 0o600
    assert "never overwritten" in run("identity", b / "identity.txt", status=1)[1]
    assert (
        "choose how to protect the shared key"
        in run("share-key", a / "secret.key", b / "secret.key", status=1)[1]
    )
    words = ["share-key", a / "secret.key", b / "secret.key", "--recipient", recipient]
    assert (
        "choose how to protect the shared key" in run(*words, "--unprotected", status=1)[1]
        and not (b / "secret.key").exists()
    )
    out, output = run(*words)
    # The terminal folds long paths, so spaces do not count.
    expected = f"made {b / 'secret.key'}, wrapped for 1 recipient"
    assert out == first and "".join(expected.split()) in "".join(output.split())
    assert "install -m 600 FILE HOSPITAL/secret.key" in output and "rotate HOSPITAL --key FILE" in output
    assert is_wrapped(b / "secret.key") and read_key(b / "secret.key") == read_key(a / "secret.key")
    # On from there: the receiver wraps it for two more, and hands it out unwrapped only when told to.
    third = write_identity(tmp_path / "third.txt")
    assert run(
        "share-key", b / "secret.key", tmp_path / "two.key", "--recipient", recipient, "--recipient", third
    )
    monkeypatch.setenv("CIPHERWARD_IDENTITY", str(tmp_path / "third.txt"))
    assert read_key(tmp_path / "two.key") == read_key(a / "secret.key")
    monkeypatch.delenv("CIPHERWARD_IDENTITY")
    out, output = run("share-key", b / "secret.key", tmp_path / "bare.key", "--unprotected")
    assert out == first and "not wrapped" in output and read_key(tmp_path / "bare.key").id == first
    assert "choose one" in run("keygen", c, "--passphrase", "--recipient", recipient, status=1)[1]
    assert "none was given" in run("keygen", c, "--passphrase", status=1)[1]
    # By a passphrase, which a terminal is asked for twice when it is new and once when it opens.
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(getpass, "getpass", answer)
    by_words, output = run("keygen", c, "--passphrase")
    assert (
        "not protected" not in output
        and is_wrapped(c / "secret.key")
        and mode_of(c / "secret.key") == 0o600
    )
    assert len(prompts) == 2
    assert run("share-key", c / "secret.key", c / "b.key", "--recipient", recipient)[0] == by_words
    assert prompts[2:] == [f"passphrase of the key file {c / 'secret.key'}: "]
    assert read_key(c / "secret.key").id == by_words and len(prompts) == 3
    # Neither key, nor identity, nor passphrase, in anything that was printed or logged.
    forms = leaks.key_forms(read_key(a / "secret.key"), []) | {"words": PASSPHRASE.encode()}
    forms |= {f"other {k}": v for k, v in leaks.key_forms(read_key(c / "secret.key"), []).items()}
    for file in (b / "identity.txt", tmp_path / "third.txt"):
        forms[file.name] = file.read_text().splitlines()[-1].encode()
    outputs = {"printed": "\n".join(printed).encode(), "logged": caplog.text.encode()}
    assert len(printed) > 12 and leaks.find(forms, outputs) == []
    # Nor in the wrapped files; in the unwrapped ones they are, so the search can find them.
    files = leaks.files(tmp_path)
    matches = leaks.find({k: v for k, v in forms.items() if k == "key, base64"}, files)
    assert {line.split(" in ")[1] for line in matches} == {"a/secret.key", "bare.key"}
