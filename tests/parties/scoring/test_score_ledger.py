"""The score ledger: a line that is gone would let a cloud ask about its set again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crypto.errors import CipherwardError
from parties.scoring.local_audit import AuditSettings, run_local_audit
from parties.scoring.score_ledger import ScoreLedger
from parties.sealing.place import Place


@pytest.fixture
def ledger(tmp_path: Path) -> ScoreLedger:
    """Return a ledger of three entries."""
    place = Place.from_settings(tmp_path / "h", {"party": "h"})
    place.save()
    ledger = ScoreLedger(place)
    for name in "abc":
        ledger.append({"set": name})
    return ledger


def names(ledger: ScoreLedger) -> list[str]:
    return [entry["set"] for entry in ledger.entries()]


def refuse(ledger: ScoreLedger, message: str) -> None:
    """Check that such a ledger is neither read nor written."""
    before = ledger.path.read_bytes() if ledger.path.exists() else None
    with pytest.raises(CipherwardError, match=message) as error:
        ledger.entries()
    assert "backup" in error.value.hint and "seal new audit sets" in error.value.hint
    with pytest.raises(CipherwardError, match=message):
        ledger.append({"set": "d"})
    assert (ledger.path.read_bytes() if ledger.path.exists() else None) == before


def test_entries_have_a_number_and_a_time(ledger: ScoreLedger) -> None:
    assert [entry["number"] for entry in ledger.entries()] == [0, 1, 2]
    assert all(entry["time"] > 0 for entry in ledger.entries())


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_last_lines_that_were_cut_are_noticed(ledger: ScoreLedger, kept: int) -> None:
    ledger.path.write_text("".join(ledger.path.read_text().splitlines(keepends=True)[:kept]))
    refuse(ledger, r"says that it had 3")
    ledger.path.unlink()
    refuse(ledger, r"it has 0 entries, and score-ledger-head\.json says that it had 3")


@pytest.mark.parametrize("line", [0, 1])
def test_a_line_that_was_removed_or_damaged_is_noticed(ledger: ScoreLedger, line: int) -> None:
    lines = ledger.path.read_text().splitlines(keepends=True)
    ledger.path.write_text("".join(lines[:line] + lines[line + 1 :]))
    refuse(ledger, "a line is missing or damaged")
    lines[line] = lines[line][:20] + "\n"
    ledger.path.write_text("".join(lines))
    refuse(ledger, "missing or damaged|says that it had 3")


def test_a_line_that_was_changed_is_noticed(ledger: ScoreLedger) -> None:
    ledger.path.write_text(ledger.path.read_text().replace('"set": "b"', '"set": "x"'))
    refuse(ledger, "it is not the one that")


def test_a_head_that_is_gone_or_damaged_is_noticed(ledger: ScoreLedger) -> None:
    ledger.head_path.write_text("[]")
    refuse(ledger, r"score-ledger-head\.json is damaged")
    ledger.head_path.unlink()
    refuse(ledger, r"score-ledger-head\.json is missing")


def test_a_ledger_of_an_earlier_version_goes_on(ledger: ScoreLedger) -> None:
    ledger.head_path.unlink()
    ledger.path.write_text('{"set": "a", "ti\n{"set": "a", "time": 1}\n{"set": "b"}\n{"se')
    ledger.append({"set": "c"})
    assert names(ledger) == ["a", "b", "c"]
    ledger.path.write_text(ledger.path.read_text().replace('{"set": "b"}\n', ""))
    refuse(ledger, "a line is missing or damaged")


def test_an_audit_of_the_hospital_s_own_asks_for_a_whole_ledger_before_its_work(tmp_path: Path) -> None:
    home = Place.from_settings(
        tmp_path / "h",
        {"party": "h", "source": "phantom", "counts": [200, 4, 4], "image_size": 64, "block": 8},
    )
    home.save()
    ledger = ScoreLedger(home)
    ledger.append({"set": "a"})
    ledger.path.write_text("")
    with pytest.raises(CipherwardError, match="cannot be believed"):
        run_local_audit(home, AuditSettings(rows=16, gallery=16, draws=1), {})
    assert not (home.folder / "audits").exists()


def test_a_kill_between_or_within_the_two_files_is_no_loss(ledger: ScoreLedger, tmp_path: Path) -> None:
    head = ledger.head_path.read_bytes()
    ledger.append({"set": "d"})
    ledger.head_path.write_bytes(head)
    with open(ledger.path, "a") as file:
        file.write(json.dumps({"number": 4, "set": "e"})[:12])
    ledger.append({"set": "f"})
    assert names(ledger) == ["a", "b", "c", "d", "f"]
    first = ScoreLedger(Place.from_settings(tmp_path / "h2", {"party": "h"}))
    first.append({"set": "a"})
    first.head_path.unlink()
    first.append({"set": "b"})
    assert names(first) == ["a", "b"]
