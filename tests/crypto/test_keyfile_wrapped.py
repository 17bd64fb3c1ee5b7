"""Key files in the age format: who can open them, and a message for each defect."""

from __future__ import annotations

import base64
import getpass
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.keyfile import (
    ARMOUR_BEGIN,
    ARMOUR_END,
    forget_unwrapped_keys,
    is_wrapped,
    read_key,
    read_key_id,
    write_key,
)
from crypto.unlock import new_passphrase, write_identity
from tests.support import leaks
from tests.support.keys import PASSPHRASE, SCRYPT_BLOCK, mode_of, refusal, replace_text

#: private(name, text) writes a file in the test's folder and returns its path.
WritePrivate = Callable[[str, str], Path]

pytestmark = pytest.mark.usefixtures("no_secrets")

# The line of the fixture `key`, encrypted by the stock `age` 1.1.1 (-a -r RECIPIENT, and -a -p), and the identity.
IDENTITY = """\
# public key: age1ms203d4q3ykqwf4cap52pwayrvtmk32x9yj8ys0axf678lr7w4fqyltc2k
AGE-SECRET-KEY-1J65C8NAW0TF4DXWGCU8MZCN242R7UXMV256P742QL0YKPN99LW7SEENE79
"""


X25519_BLOCK = """\
-----BEGIN AGE ENCRYPTED FILE-----
YWdlLWVuY3J5cHRpb24ub3JnL3YxCi0+IFgyNTUxOSA0WXJ5UVNMTWlYSVZYakRJ
b042RFY4c2NEcEk4bERhbnBzS1h1bzhLazF3Cm9zcWRaek9pZnlXM21QaS91dGZn
cERGc0NhQVM3anpweDlUOGQvUTlFcTAKLS0tIFhxWHFTdHRiTTNmUWFlYWZkN1lX
ZURzMHNycFcvOE9uUHY4ZnBWam1FSjgKYMP35U4B3QoIDSosuUNvIY+3UfsdpCDn
1aT7UE/ibMbBRJWj7DGJYTapzzal4MmnDjE/qP9CK9tLYhK1bCgFRBvwr/oZNM4n
rFM2X7M3ruuWw6Dq/UwZ4rru/kazoNNteWRqBUAmn5IUy2s9c0RL
-----END AGE ENCRYPTED FILE-----
"""


@pytest.fixture
def private(tmp_path: Path) -> WritePrivate:
    """Return a function that writes a text file of mode 0600."""

    def write(name: str, text: str) -> Path:
        file = tmp_path / name
        file.write_text(text)
        file.chmod(0o600)
        return file

    return write


def wrapped(key: SecretKey, block: str) -> str:
    """Return the text of a key file with an armoured block."""
    return f"# cipherward secret key\n# id {key.id}\n{block}"


def test_each_recipient_opens_it_and_nobody_else(
    tmp_path: Path, key: SecretKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (write_identity(tmp_path / name) for name in ("identity.txt", "second.txt"))
    write_identity(tmp_path / "third.txt")
    assert mode_of(tmp_path / "identity.txt") == 0o600
    path = tmp_path / "a.key"
    write_key(path, key, [first, second])
    assert mode_of(path) == 0o600 and is_wrapped(path) and read_key_id(path) == key.id
    assert read_key(path) == key  # by identity.txt beside it
    forget_unwrapped_keys()
    monkeypatch.setenv("CIPHERWARD_IDENTITY", str(tmp_path / "second.txt"))
    assert read_key(path) == key
    forget_unwrapped_keys()
    monkeypatch.setenv("CIPHERWARD_IDENTITY", str(tmp_path / "third.txt"))
    assert "no identity in" in refusal(path).message
    # The comments cut, it is an armoured age file for both: its header is in clear.
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    assert (lines[0], lines[-1]) == (ARMOUR_BEGIN, ARMOUR_END)
    header = base64.b64decode("".join(lines[1:-1])).split(b"\n---")[0].splitlines()
    assert header[0] == b"age-encryption.org/v1"
    assert sum(line.startswith(b"-> X25519 ") for line in header) == 2


def test_the_home_folder_s_identity_opens_a_key_from_elsewhere(tmp_path: Path, key: SecretKey) -> None:
    (tmp_path / "home").mkdir()
    write_key(tmp_path / "a.key", key, [write_identity(tmp_path / "home" / "identity.txt")])
    assert read_key(tmp_path / "a.key", home=tmp_path / "home") == key
    assert f"no identity file at {tmp_path / 'identity.txt'}" in refusal(tmp_path / "a.key").message


def test_what_the_stock_command_wrote_is_opened(
    tmp_path: Path, key: SecretKey, private: WritePrivate, monkeypatch: pytest.MonkeyPatch
) -> None:
    private("identity.txt", IDENTITY)
    assert read_key(private("a.key", wrapped(key, X25519_BLOCK))) == key
    private("words.txt", PASSPHRASE + "\n")
    monkeypatch.setenv("CIPHERWARD_PASSPHRASE_FILE", str(tmp_path / "words.txt"))
    assert read_key(private("b.key", wrapped(key, SCRYPT_BLOCK))) == key
    write_key(
        tmp_path / "c.key",
        SecretKey.generate(),
        [IDENTITY.split()[3]],
    )
    other_id = read_key_id(tmp_path / "c.key")
    assert other_id is not None
    replace_text(tmp_path / "c.key", other_id, key.id)
    assert f"says id {key.id} and holds key" in refusal(tmp_path / "c.key").message


def altered(block: str, number: int, change: Callable[[str], str]) -> str:
    """Return the block with one armour line of its binary content changed."""
    lines = block.splitlines()
    lines[number] = change(lines[number])
    return "\n".join(lines) + "\n"


def flip(line: str) -> str:
    """Return an armour line with its ninth character changed."""
    return line[:8] + ("A" if line[8] != "A" else "B") + line[9:]


def test_each_defect_of_a_wrapped_key_has_its_message(
    tmp_path: Path, key: SecretKey, private: WritePrivate, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = private("a.key", "")

    def message_for(block: str) -> str:
        path.write_text(wrapped(key, block))
        error = refusal(path)
        assert error.hint and leaks.find(leaks.key_forms(key, []), {"error": str(error).encode()}) == []
        return error.message

    assert f"there is no identity file at {tmp_path / 'identity.txt'}" in message_for(X25519_BLOCK)
    identity = private("identity.txt", "AGE-SECRET-KEY-1\n")
    assert f"{identity} is not an age identity file" in message_for(X25519_BLOCK)
    identity.write_text("# nothing\n")
    assert f"{identity} is not an age identity file" in message_for(X25519_BLOCK)
    identity.unlink()
    write_identity(identity)
    assert f"no identity in {identity} opens the key file" in message_for(X25519_BLOCK)
    identity.write_text(IDENTITY)
    identity.chmod(0o644)
    assert "the identity file" in (text := message_for(X25519_BLOCK)) and "can be read by others" in text
    identity.chmod(0o600)
    cut = X25519_BLOCK[: X25519_BLOCK.index("rFM2X7M3")]
    for short in (cut, X25519_BLOCK.rsplit("\n", 2)[0], X25519_BLOCK[:60]):
        assert "is cut short" in message_for(short)
    for line in range(2, 7):  # in the header, its MAC, and the payload
        assert (
            "is altered" in (text := message_for(altered(X25519_BLOCK, line, flip)))
            or "no identity in" in text
        ), line
    assert "is altered: it does not authenticate" in message_for(altered(X25519_BLOCK, 6, flip))
    assert "is altered: it does not authenticate" in message_for(
        altered(X25519_BLOCK, 5, lambda line: line[:60])
    )
    assert "is altered: it is not in the age format" in message_for(altered(X25519_BLOCK, 1, flip))
    assert "is altered: it is not in the age format" in message_for(
        altered(X25519_BLOCK, 3, lambda line: "!" + line[1:])
    )
    # By passphrase:
    assert "needs a passphrase and none was given" in message_for(SCRYPT_BLOCK)
    monkeypatch.setenv("CIPHERWARD_PASSPHRASE", "")
    assert "is empty" in message_for(SCRYPT_BLOCK)
    monkeypatch.setenv("CIPHERWARD_PASSPHRASE", "wrong horse battery")
    assert "wrong passphrase for the key file" in message_for(SCRYPT_BLOCK)
    lines = SCRYPT_BLOCK.splitlines()
    binary = base64.b64decode("".join(lines[1:-1])).replace(b" 18\n", b" 40\n", 1)
    text = base64.b64encode(binary).decode()
    block = "\n".join([lines[0], *(text[i : i + 64] for i in range(0, len(text), 64)), lines[-1]]) + "\n"
    assert "asks for more scrypt work" in message_for(block)
    monkeypatch.delenv("CIPHERWARD_PASSPHRASE")
    words = private("words.txt", PASSPHRASE)
    words.chmod(0o644)
    monkeypatch.setenv("CIPHERWARD_PASSPHRASE_FILE", str(words))
    assert f"the passphrase file {words} can be read by others" in message_for(SCRYPT_BLOCK)
    monkeypatch.setenv("CIPHERWARD_PASSPHRASE_FILE", str(tmp_path / "absent"))
    assert "no passphrase file at" in message_for(SCRYPT_BLOCK)


def test_a_new_passphrase_is_long_and_typed_twice_without_an_echo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIPHERWARD_PASSPHRASE", "short")
    with pytest.raises(CipherwardError, match="has 5 characters; at least 12"):
        new_passphrase()
    monkeypatch.delenv("CIPHERWARD_PASSPHRASE")
    with pytest.raises(CipherwardError, match="none was given"):
        new_passphrase()
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    typed = iter([PASSPHRASE, PASSPHRASE, PASSPHRASE, PASSPHRASE + "x"])
    monkeypatch.setattr(getpass, "getpass", lambda prompt: next(typed))
    assert new_passphrase() == PASSPHRASE
    with pytest.raises(CipherwardError, match="differ"):
        new_passphrase()

    def echoing(prompt: str) -> str:
        warnings.warn("echo", getpass.GetPassWarning, stacklevel=1)
        return PASSPHRASE

    monkeypatch.setattr(getpass, "getpass", echoing)
    with pytest.raises(CipherwardError, match="cannot hide a passphrase"):
        new_passphrase()


def test_wrong_recipients_are_named_and_a_secret_one_is_not_shown(tmp_path: Path, key: SecretKey) -> None:
    with pytest.raises(CipherwardError, match="not an age recipient: 'age1nobody'"):
        write_key(tmp_path / "a.key", key, ["age1nobody"])
    secret = IDENTITY.splitlines()[1]
    for text in (secret, f" {secret.lower()}", f"x{secret}"):
        with pytest.raises(CipherwardError) as error:
            write_key(tmp_path / "a.key", key, [text])
        assert secret[20:40].lower() not in str(error.value).lower()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError):
        write_key(tmp_path / "a.key", key, ["age1nobody"], PASSPHRASE)


def test_a_passphrase_that_is_not_text_is_one_line_that_shows_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.key"
    path.write_text(wrapped(SecretKey.generate(), SCRYPT_BLOCK))
    path.chmod(0o600)
    words = tmp_path / "words.txt"
    words.write_bytes(b"pa\xdfwort der Klinik")
    words.chmod(0o600)

    def type_latin1(_: str) -> str:
        return words.read_bytes().decode("ascii")

    def check_refused(what: str) -> None:
        with pytest.raises(CipherwardError) as for_a_new_key:
            new_passphrase()
        for error in (refusal(path), for_a_new_key.value):
            assert what in error.message and error.__cause__ is None and error.__suppress_context__
            assert not any(part in str(error) for part in ("wort", "xdf", "dcdf", "position", "may read"))

    monkeypatch.setenv("CIPHERWARD_PASSPHRASE_FILE", str(words))
    check_refused(f"cannot read the passphrase file {words}: it is not text in UTF-8")
    monkeypatch.setenv("CIPHERWARD_PASSPHRASE", os.fsdecode(words.read_bytes()))
    check_refused("is not text in UTF-8")
    for name in ("CIPHERWARD_PASSPHRASE", "CIPHERWARD_PASSPHRASE_FILE"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(getpass, "getpass", type_latin1)
    check_refused("is not text in this terminal's encoding")
