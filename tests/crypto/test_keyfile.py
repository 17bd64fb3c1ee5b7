"""Key files: made once, for their owner alone, and a message for each way of being unusable."""

from __future__ import annotations

import base64
import logging
import os
import pickle
import sys

import pytest

from crypto import keyfile, unlock
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.keyfile import copy_key, is_wrapped, read_key, stated_id, write_key
from crypto.unlock import write_identity
from tests.support import leaks
from tests.support.keys import WORDS, edit, mode, refusal
from tests.support.keys import clean as clean
from tests.support.keys import path as path


def test_written_for_its_owner_alone_and_read_back(path, key):
    assert mode(path) == 0o600 and not is_wrapped(path) and stated_id(path) == key.id
    assert read_key(path) == key
    copy_key(path, path.with_name("b.key"))
    assert (
        path.with_name("b.key").read_bytes() == path.read_bytes() and mode(path.with_name("b.key")) == 0o600
    )


def test_never_overwritten_nor_written_through_a_link(path, key, tmp_path):
    before = path.read_bytes()
    (tmp_path / "link").symlink_to(tmp_path / "absent")
    for target in (path, tmp_path / "link"):
        for write in (
            lambda t: write_key(t, SecretKey.generate()),
            write_identity,
            lambda t: copy_key(path, t),
        ):
            with pytest.raises(CipherwardError, match="never overwritten"):
                write(target)
    assert path.read_bytes() == before and not (tmp_path / "absent").exists()


def test_nothing_is_left_where_writing_fails(tmp_path, key, monkeypatch):
    def full(*_):
        raise OSError(28, "no space")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CipherwardError, match="disk is full"):
        write_key(tmp_path / "a.key", key)
    assert list(tmp_path.iterdir()) == []


def test_each_defect_has_its_message(path, key, tmp_path):
    secret = base64.b64encode(key.reveal()).decode()
    other = SecretKey.generate()
    cases = {
        "can be read by others (mode 0644)": lambda p: p.chmod(0o644),
        "can be read by others (mode 0640)": lambda p: p.chmod(0o640),
        "is not a cipherward key file": lambda p: p.write_text("hello\n"),
        "damaged: its id is not its key's": lambda p: edit(p, f":{key.id}:", ":0000000000000000:"),
        f"says id {other.id} and holds key {key.id}": lambda p: edit(
            p, f"# id {key.id}", f"# id {other.id}"
        ),
        "has 16 bytes, not 32": lambda p: edit(p, secret, base64.b64encode(bytes(range(16))).decode()),
        "is weak": lambda p: edit(p, secret, base64.b64encode(bytes(range(8)) * 4).decode()),
        "weak: it is not random": lambda p: edit(
            p, secret, base64.b64encode(b"correct horse battery, my secret").decode()
        ),
        "is damaged": lambda p: edit(p, secret, "!" + secret[1:]),
    }
    whole = path.read_text()
    for said, spoil in cases.items():
        path.chmod(0o600)
        path.write_text(whole)
        spoil(path)
        error = refusal(path)
        assert said in error.message and error.hint, error.message
        assert leaks.find(leaks.key_forms(key, []), {"error": str(error).encode()}) == []
    with pytest.raises(CipherwardError, match="no key file at"):
        read_key(tmp_path / "absent.key")
    path.chmod(0o600)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CipherwardError, match="cannot read the key file"):
        read_key(path)
    with pytest.raises(CipherwardError, match="no such folder"):
        write_key(tmp_path / "nowhere" / "a.key", key)


def test_a_key_in_memory_is_neither_shown_nor_pickled(key):
    assert (
        leaks.find(leaks.key_forms(key, []), {"repr": f"{key} {key!r} {[key]} {vars(keyfile)}".encode()})
        == []
    )
    with pytest.raises(TypeError, match="neither pickled nor copied"):
        pickle.dumps({"key": key})


def test_the_commands_and_that_none_shows_a_key(tmp_path, party, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    a, b, c = (tmp_path / name for name in "abc")
    said = []

    def ran(*words, status=0):
        done = party(*words)
        assert done[0] == status, done
        said.append(f"{done[1]} {done[2]}")
        return done[1].strip(), " ".join(done[2].split())

    first, told = ran("keygen", a)
    assert "it is not protected" in told and mode(a / "secret.key") == 0o600
    assert "never overwritten" in ran("keygen", a, status=1)[1]
    b.mkdir()
    recipient, _ = ran("identity", b / "identity.txt")
    assert recipient.startswith("age1") and mode(b / "identity.txt") == 0o600
    assert "never overwritten" in ran("identity", b / "identity.txt", status=1)[1]
    assert "say which" in ran("share-key", a / "secret.key", b / "secret.key", status=1)[1]
    words = ["share-key", a / "secret.key", b / "secret.key", "--recipient", recipient]
    assert "say which" in ran(*words, "--unprotected", status=1)[1] and not (b / "secret.key").exists()
    out, told = ran(*words)
    # The terminal folds long paths, so spaces do not count.
    wanted = f"made {b / 'secret.key'}, wrapped for 1 recipient"
    assert out == first and "".join(wanted.split()) in "".join(told.split())
    assert is_wrapped(b / "secret.key") and read_key(b / "secret.key") == read_key(a / "secret.key")
    # On from there: the receiver wraps it for two more, and hands it out unwrapped only when told to.
    third = write_identity(tmp_path / "third.txt")
    assert ran(
        "share-key", b / "secret.key", tmp_path / "two.key", "--recipient", recipient, "--recipient", third
    )
    monkeypatch.setenv("CIPHERWARD_IDENTITY", str(tmp_path / "third.txt"))
    assert read_key(tmp_path / "two.key") == read_key(a / "secret.key")
    monkeypatch.delenv("CIPHERWARD_IDENTITY")
    out, told = ran("share-key", b / "secret.key", tmp_path / "bare.key", "--unprotected")
    assert out == first and "not wrapped" in told and read_key(tmp_path / "bare.key").id == first
    assert "choose one" in ran("keygen", c, "--passphrase", "--recipient", recipient, status=1)[1]
    assert "none was given" in ran("keygen", c, "--passphrase", status=1)[1]
    # By a passphrase, which a terminal is asked for twice when it is new and once when it opens.
    asked = []
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(unlock.getpass, "getpass", lambda prompt: asked.append(prompt) or WORDS)
    by_words, told = ran("keygen", c, "--passphrase")
    assert "not protected" not in told and is_wrapped(c / "secret.key") and mode(c / "secret.key") == 0o600
    assert len(asked) == 2
    assert ran("share-key", c / "secret.key", c / "b.key", "--recipient", recipient)[0] == by_words
    assert asked[2:] == [f"passphrase of the key file {c / 'secret.key'}: "]
    assert read_key(c / "secret.key").id == by_words and len(asked) == 3
    # Neither key, nor identity, nor passphrase, in anything that was printed or logged.
    forms = leaks.key_forms(read_key(a / "secret.key"), []) | {"words": WORDS.encode()}
    forms |= {f"other {k}": v for k, v in leaks.key_forms(read_key(c / "secret.key"), []).items()}
    for file in (b / "identity.txt", tmp_path / "third.txt"):
        forms[file.name] = file.read_text().splitlines()[-1].encode()
    printed = {"printed": "\n".join(said).encode(), "logged": caplog.text.encode()}
    assert len(said) > 12 and leaks.find(forms, printed) == []
    # Nor in the wrapped files; in the unwrapped ones they are, so the search can find them.
    files = leaks.files(tmp_path)
    found = leaks.find({k: v for k, v in forms.items() if k == "key, base64"}, files)
    assert {line.split(" in ")[1] for line in found} == {"a/secret.key", "bare.key"}
