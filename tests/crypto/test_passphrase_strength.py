"""New passphrases that a thief of the key file would soon guess are refused, with zxcvbn's reason."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from crypto.errors import CipherwardError
from crypto.passphrase_strength import require_strong
from crypto.unlock import new_passphrase, passphrase
from parties.cli.app import app
from tests.support.keys import PASSPHRASE

NAMES = ("St. Mary's Hospital", "hospital-0")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("aaaaaaaaaaaa", "Repeats like"),
        ("passwordpassword", "Repeats like"),
        ("abcdefghijkl", "Sequences like"),
        ("qwertyuiop12", "similar to a commonly used password"),
        ("St. Mary's Hospital", "names that a thief"),
        ("stmaryshospital", "names that a thief"),
        ("StMarysHospital2026", "names that a thief"),
        ("hospital-0 hospital-0", "Repeats like"),
        ("cipherward-secret-key", "names that a thief"),
        ("a" * 5000, "Repeats like"),
        # Separators of any kind are no strength.
        ("p.a.s.s.w.o.r.d.1.2.3", "common"),
        ("q+w+e+r+t+y+u+i+o+p", "common"),
        ("1.2.3.4.5.6.7.8.9", "common"),
        ("s.e.c.r.e.t.k.e.y", "names that a thief"),
        ("h.o.s.p.i.t.a.l.-.0", "names that a thief"),
        ("pxaxsxsxwxoxrxd", "common"),
        ("pXaXsXsXwXoXrXd", "common"),
        ("paxssxwoxrdx", "common"),
        ("pxaysxsywxoyrxdy", "common"),
        ("p.a-s.s+w.o-r.d+1.2-3", "common"),
        ("p..a..s..s..w..o..r..d", "common"),
        ("p\u200ba\u200bs\u200bs\u200bw\u200bo\u200br\u200bd", "common"),
        ("ｐａｓｓｗｏｒｄ１２３４", "common"),
    ],
)
def test_a_passphrase_that_is_easy_to_guess_is_refused_with_its_reason(text: str, reason: str) -> None:
    with pytest.raises(CipherwardError) as error:
        require_strong(text, NAMES)
    assert "easy to guess" in error.value.message and reason in error.value.message
    assert "four random words" in error.value.hint.lower()
    assert text not in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        PASSPHRASE,
        "wool ferry ladder moth",
        "x7#Kq!fw2Lpd",
        "wool ferry ladder moth " * 400,
        "wool.ferry.ladder.moth",
        "wool+ferry+ladder+moth",
        "wool1ferry2ladder3moth",
        "woolxferryxladderxmoth",
        "lnzzzxfgzygl",  # drawn letters, of which one came four times
    ],
)
def test_a_strong_passphrase_is_accepted_however_long(text: str) -> None:
    require_strong(text, NAMES)


def test_no_more_than_the_first_characters_are_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = []

    def recorded(text: str, user_inputs: list[str]) -> dict[str, object]:
        lengths.append(len(text))
        return {"score": 4}

    monkeypatch.setattr("zxcvbn.zxcvbn", recorded)
    require_strong("wool ferry ladder moth " * 10_000)
    assert lengths == [72, 72]


def test_keygen_refuses_the_hospitals_own_name_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "saint-elsewhere-clinic"
    monkeypatch.setenv("CIPHERWARD_PASSPHRASE", "SaintElsewhereClinic1")
    done = CliRunner().invoke(app, ["keygen", str(folder), "--passphrase"])
    assert isinstance(done.exception, CipherwardError) and "easy to guess" in done.exception.message
    assert not folder.exists() or list(folder.iterdir()) == []


def test_a_weak_passphrase_of_an_existing_key_still_opens_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIPHERWARD_PASSPHRASE", "aaaaaaaaaaaa")
    assert passphrase("a key file") == "aaaaaaaaaaaa"
    with pytest.raises(CipherwardError, match="easy to guess"):
        new_passphrase()


def test_no_command_loads_the_word_lists_before_a_passphrase_is_chosen() -> None:
    code = (
        "import sys, parties.cli.app, crypto.keyfile, crypto.unlock, parties.sealing.seal;"
        "assert not [m for m in sys.modules if m.startswith('zxcvbn')], 'loaded'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
