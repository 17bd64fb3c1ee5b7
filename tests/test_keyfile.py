"""Key files: made once, in the age format where protected, and a message for each way of being unusable."""

from __future__ import annotations

import base64
import logging
import os
import pickle
import stat
import sys

import leaks
import pytest

from crypto import keyfile, unlock
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.keyfile import copy_key, is_wrapped, read_key, stated_id, write_key
from crypto.unlock import new_passphrase, write_identity
from parties import cli

WORDS = "correct horse battery"
# The line of the fixture `key`, encrypted by the stock `age` 1.1.1 (-a -r RECIPIENT, and -a -p), and the identity.
IDENTITY = """\
# public key: age1ms203d4q3ykqwf4cap52pwayrvtmk32x9yj8ys0axf678lr7w4fqyltc2k
AGE-SECRET-KEY-1J65C8NAW0TF4DXWGCU8MZCN242R7UXMV256P742QL0YKPN99LW7SEENE79
"""
FOR_IDENTITY = """\
-----BEGIN AGE ENCRYPTED FILE-----
YWdlLWVuY3J5cHRpb24ub3JnL3YxCi0+IFgyNTUxOSA0WXJ5UVNMTWlYSVZYakRJ
b042RFY4c2NEcEk4bERhbnBzS1h1bzhLazF3Cm9zcWRaek9pZnlXM21QaS91dGZn
cERGc0NhQVM3anpweDlUOGQvUTlFcTAKLS0tIFhxWHFTdHRiTTNmUWFlYWZkN1lX
ZURzMHNycFcvOE9uUHY4ZnBWam1FSjgKYMP35U4B3QoIDSosuUNvIY+3UfsdpCDn
1aT7UE/ibMbBRJWj7DGJYTapzzal4MmnDjE/qP9CK9tLYhK1bCgFRBvwr/oZNM4n
rFM2X7M3ruuWw6Dq/UwZ4rru/kazoNNteWRqBUAmn5IUy2s9c0RL
-----END AGE ENCRYPTED FILE-----
"""
BY_WORDS = """\
-----BEGIN AGE ENCRYPTED FILE-----
YWdlLWVuY3J5cHRpb24ub3JnL3YxCi0+IHNjcnlwdCBOUEVmQmhLZ2pqSW1MOUo3
U1NWNFJnIDE4CmsxZmJZZU1HWFQyRzJjTm5iK3hNdUVNOWoxL2MzaVV4aWNDbC9M
RWhPMFEKLS0tIC9IelVvbm91Ukh3MmZWeU96VXZTQm93dVBQWFVGTkJvSE5rUHNF
dTFNL1EKbq/W7y4/TWEQBsvMrpOUvK+nFA8oBjA/4naQdIItNzuO2a+tYMbxybyz
7BTFH+TDOfwpIm/k1qd9R/D87AAK9dgNZYkXf1p2Zhsp9Re+W+syZobCKPdYWqRG
Y3XnrQG1Yq6kQM8xY6GE0ZJeULR6
-----END AGE ENCRYPTED FILE-----
"""


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """No passphrase, no identity, no terminal, and nothing remembered of an earlier test."""
    for name in ("PASSPHRASE", "PASSPHRASE_FILE", "IDENTITY"):
        monkeypatch.delenv(f"CIPHERWARD_{name}", raising=False)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    keyfile._unwrapped.cache_clear()


@pytest.fixture
def path(tmp_path, key):
    write_key(tmp_path / "a.key", key)
    return tmp_path / "a.key"


@pytest.fixture
def private(tmp_path):
    """private(name, text) writes a file of mode 0600."""

    def write(name, text):
        file = tmp_path / name
        file.write_text(text)
        file.chmod(0o600)
        return file

    return write


def wrapped(key, block):
    return f"# cipherward secret key\n# id {key.id}\n{block}"


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def refusal(path) -> CipherwardError:
    with pytest.raises(CipherwardError) as error:
        read_key(path)
    return error.value


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


def test_each_recipient_opens_it_and_nobody_else(tmp_path, key, monkeypatch):
    first, second = (write_identity(tmp_path / name) for name in ("identity.txt", "second.txt"))
    write_identity(tmp_path / "third.txt")
    assert mode(tmp_path / "identity.txt") == 0o600
    path = tmp_path / "a.key"
    write_key(path, key, [first, second])
    assert mode(path) == 0o600 and is_wrapped(path) and stated_id(path) == key.id
    assert read_key(path) == key  # by identity.txt beside it
    keyfile._unwrapped.cache_clear()
    monkeypatch.setenv("CIPHERWARD_IDENTITY", str(tmp_path / "second.txt"))
    assert read_key(path) == key
    keyfile._unwrapped.cache_clear()
    monkeypatch.setenv("CIPHERWARD_IDENTITY", str(tmp_path / "third.txt"))
    assert "no identity in" in refusal(path).message
    # The comments cut, it is an armoured age file for both: its header is in clear.
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    assert (lines[0], lines[-1]) == (keyfile._BEGIN, keyfile._END)
    header = base64.b64decode("".join(lines[1:-1])).split(b"\n---")[0].splitlines()
    assert header[0] == b"age-encryption.org/v1"
    assert sum(line.startswith(b"-> X25519 ") for line in header) == 2


def test_the_home_folder_s_identity_opens_a_key_from_elsewhere(tmp_path, key):
    (tmp_path / "home").mkdir()
    write_key(tmp_path / "a.key", key, [write_identity(tmp_path / "home" / "identity.txt")])
    assert read_key(tmp_path / "a.key", home=tmp_path / "home") == key
    assert f"no identity file at {tmp_path / 'identity.txt'}" in refusal(tmp_path / "a.key").message


def test_what_the_stock_command_wrote_is_opened(tmp_path, key, private, monkeypatch):
    private("identity.txt", IDENTITY)
    assert read_key(private("a.key", wrapped(key, FOR_IDENTITY))) == key
    private("words.txt", WORDS + "\n")
    monkeypatch.setenv("CIPHERWARD_PASSPHRASE_FILE", str(tmp_path / "words.txt"))
    assert read_key(private("b.key", wrapped(key, BY_WORDS))) == key
    write_key(
        tmp_path / "c.key",
        SecretKey.generate(),
        [IDENTITY.split()[3]],
    )
    edit(tmp_path / "c.key", stated_id(tmp_path / "c.key"), key.id)
    assert f"says id {key.id} and holds key" in refusal(tmp_path / "c.key").message


def edit(path, old, new):
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


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


def altered(block, line, new):
    """The block with one armour line of its binary content changed."""
    lines = block.splitlines()
    lines[line] = new(lines[line])
    return "\n".join(lines) + "\n"


def flip(line):
    return line[:8] + ("A" if line[8] != "A" else "B") + line[9:]


def test_each_defect_of_a_wrapped_key_has_its_message(tmp_path, key, private, monkeypatch):
    path = private("a.key", "")

    def said(block) -> str:
        path.write_text(wrapped(key, block))
        error = refusal(path)
        assert error.hint and leaks.find(leaks.key_forms(key, []), {"error": str(error).encode()}) == []
        return error.message

    assert f"there is no identity file at {tmp_path / 'identity.txt'}" in said(FOR_IDENTITY)
    identity = private("identity.txt", "AGE-SECRET-KEY-1\n")
    assert f"{identity} is not an age identity file" in said(FOR_IDENTITY)
    identity.write_text("# nothing\n")
    assert f"{identity} is not an age identity file" in said(FOR_IDENTITY)
    identity.unlink()
    write_identity(identity)
    assert f"no identity in {identity} opens the key file" in said(FOR_IDENTITY)
    identity.write_text(IDENTITY)
    identity.chmod(0o644)
    assert "the identity file" in (text := said(FOR_IDENTITY)) and "can be read by others" in text
    identity.chmod(0o600)
    cut = FOR_IDENTITY[: FOR_IDENTITY.index("rFM2X7M3")]
    for short in (cut, FOR_IDENTITY.rsplit("\n", 2)[0], FOR_IDENTITY[:60]):
        assert "is cut short" in said(short)
    for line in range(2, 7):  # in the header, its MAC, and the payload
        assert (
            "is altered" in (text := said(altered(FOR_IDENTITY, line, flip))) or "no identity in" in text
        ), line
    assert "is altered: it does not authenticate" in said(altered(FOR_IDENTITY, 6, flip))
    assert "is altered: it does not authenticate" in said(altered(FOR_IDENTITY, 5, lambda line: line[:60]))
    assert "is altered: it is not in the age format" in said(altered(FOR_IDENTITY, 1, flip))
    assert "is altered: it is not in the age format" in said(
        altered(FOR_IDENTITY, 3, lambda line: "!" + line[1:])
    )
    # By passphrase:
    assert "needs a passphrase and none was given" in said(BY_WORDS)
    monkeypatch.setenv("CIPHERWARD_PASSPHRASE", "")
    assert "is empty" in said(BY_WORDS)
    monkeypatch.setenv("CIPHERWARD_PASSPHRASE", "wrong horse battery")
    assert "wrong passphrase for the key file" in said(BY_WORDS)
    lines = BY_WORDS.splitlines()
    binary = base64.b64decode("".join(lines[1:-1])).replace(b" 18\n", b" 40\n", 1)
    text = base64.b64encode(binary).decode()
    block = "\n".join([lines[0], *(text[i : i + 64] for i in range(0, len(text), 64)), lines[-1]]) + "\n"
    assert "asks for more scrypt work" in said(block)
    monkeypatch.delenv("CIPHERWARD_PASSPHRASE")
    words = private("words.txt", WORDS)
    words.chmod(0o644)
    monkeypatch.setenv("CIPHERWARD_PASSPHRASE_FILE", str(words))
    assert f"the passphrase file {words} can be read by others" in said(BY_WORDS)
    monkeypatch.setenv("CIPHERWARD_PASSPHRASE_FILE", str(tmp_path / "absent"))
    assert "no passphrase file at" in said(BY_WORDS)


def test_a_new_passphrase_is_long_and_typed_twice_without_an_echo(monkeypatch):
    monkeypatch.setenv("CIPHERWARD_PASSPHRASE", "short")
    with pytest.raises(CipherwardError, match="has 5 characters; at least 12"):
        new_passphrase()
    monkeypatch.delenv("CIPHERWARD_PASSPHRASE")
    with pytest.raises(CipherwardError, match="none was given"):
        new_passphrase()
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    typed = iter([WORDS, WORDS, WORDS, WORDS + "x"])
    monkeypatch.setattr(unlock.getpass, "getpass", lambda prompt: next(typed))
    assert new_passphrase() == WORDS
    with pytest.raises(CipherwardError, match="differ"):
        new_passphrase()

    def echoing(prompt):
        import warnings

        warnings.warn("echo", unlock.getpass.GetPassWarning, stacklevel=1)
        return WORDS

    monkeypatch.setattr(unlock.getpass, "getpass", echoing)
    with pytest.raises(CipherwardError, match="cannot hide a passphrase"):
        new_passphrase()


def test_wrong_recipients_are_told_and_a_secret_one_is_not_shown(tmp_path, key):
    with pytest.raises(CipherwardError, match="not an age recipient: 'age1nobody'"):
        write_key(tmp_path / "a.key", key, ["age1nobody"])
    secret = IDENTITY.splitlines()[1]
    for text in (secret, f" {secret.lower()}", f"x{secret}"):
        with pytest.raises(CipherwardError) as error:
            write_key(tmp_path / "a.key", key, [text])
        assert secret[20:40].lower() not in str(error.value).lower()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError):
        write_key(tmp_path / "a.key", key, ["age1nobody"], WORDS)


def test_a_key_in_memory_is_neither_shown_nor_pickled(key):
    assert (
        leaks.find(leaks.key_forms(key, []), {"repr": f"{key} {key!r} {[key]} {vars(keyfile)}".encode()})
        == []
    )
    with pytest.raises(TypeError, match="neither pickled nor copied"):
        pickle.dumps({"key": key})


@pytest.fixture
def party(monkeypatch, capsys):
    """party(*words) runs cipherward-party in this process: (status, standard output, standard error)."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["cipherward-party", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        return end.value.code, said.out, " ".join(said.err.split())

    return run


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
