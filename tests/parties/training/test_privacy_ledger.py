"""The privacy ledger: charged before a release, durable, counted over studies, and never left out."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from crypto.errors import CipherwardError
from parties.agent.privacy_summary import summarise
from parties.sealing.place import Place
from parties.training.privacy_accounting import noise_multiplier
from parties.training.privacy_ledger import FILE, Budget, Charge, PrivacyLedger
from tests.support.paths import ROOT

#: Two rounds of five steps keep epsilon 2.
ROUND = Charge(
    study="a",
    policy="p" * 64,
    request="first",
    round=1,
    unit="patient",
    images="d" * 64,
    noise_multiplier=noise_multiplier(2.0, 1e-5, 0.2, 10),
    sample_rate=0.2,
    steps=5,
)
BUDGET = Budget(2.0, 1e-5)
NO_BUDGET = Budget(0.0, 0.0)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place.from_settings(tmp_path / "h", {"party": "h"})


@pytest.fixture
def ledger(place: Place) -> PrivacyLedger:
    place.save()
    return PrivacyLedger(place)


def lines(ledger: PrivacyLedger) -> list[str]:
    return ledger.path.read_text().splitlines() if ledger.path.exists() else []


def test_a_message_is_charged_once_until_its_reply_left(ledger: PrivacyLedger) -> None:
    ledger.charge(ROUND, BUDGET, 5)
    ledger.charge(ROUND, BUDGET, 5)  # killed before anything left, and asked again
    assert len(ledger.charges()) == 1
    ledger.release("first")
    ledger.release("first")  # the stored reply is sent again
    assert [json.loads(line)["kind"] for line in lines(ledger)] == ["charge", "release"]
    ledger.charge(
        ROUND, BUDGET, 5
    )  # the stored reply was lost after it left: another training, another charge
    assert [c.request for c in ledger.charges()] == ["first", "first"]


def test_the_budget_holds_over_rounds_and_over_studies(ledger: PrivacyLedger) -> None:
    ledger.charge(ROUND, BUDGET, 5)
    ledger.charge(replace(ROUND, request="second", round=2), BUDGET, 5)
    with pytest.raises(
        CipherwardError, match=r"round 3 of the study a would bring this hospital to epsilon 2\.\d+"
    ):
        ledger.charge(replace(ROUND, request="third", round=3), BUDGET, 5)
    other = replace(ROUND, study="b", policy="q" * 64, request="other", images="e" * 64)
    with pytest.raises(CipherwardError, match=r"round 1 of the study b .* its own budget is epsilon 2"):
        ledger.charge(other, BUDGET, 0)
    assert len(lines(ledger)) == 2
    ledger.charge(other, Budget(4.0, 1e-5), 0)
    ledger.charge(replace(other, request="more"), NO_BUDGET, 0)
    assert len(ledger.charges()) == 4


def test_what_a_plan_promises_holds_without_a_budget(ledger: PrivacyLedger) -> None:
    """A coordinator that asks again for replies that are no longer stored is not answered without end."""
    for number in (1, 2):
        ledger.charge(replace(ROUND, request=str(number), round=number), NO_BUDGET, 5, BUDGET)
        ledger.release(str(number))
    with pytest.raises(
        CipherwardError, match=r"round 1 .* and its plan promises epsilon 2 over all rounds"
    ):
        ledger.charge(replace(ROUND, request="1"), NO_BUDGET, 5, BUDGET)
    assert len(ledger.charges()) == 2
    another = replace(ROUND, study="b", policy="q" * 64)  # it has a bound of its own
    ledger.charge(another, NO_BUDGET, 5, BUDGET)


def test_a_training_that_cannot_end_within_the_budget_does_not_begin(ledger: PrivacyLedger) -> None:
    with pytest.raises(CipherwardError, match="budget"):
        ledger.charge(ROUND, BUDGET, 50)
    assert lines(ledger) == []


def test_a_torn_line_is_no_charge_and_hides_no_other(ledger: PrivacyLedger) -> None:
    ledger.charge(ROUND, NO_BUDGET, 0)
    with open(ledger.path, "a") as file:
        file.write('{"number": 1, "kind": "charge", "cha')  # killed while it was written
    ledger.charge(replace(ROUND, request="second"), NO_BUDGET, 0)
    assert [c.request for c in ledger.charges()] == ["first", "second"]


def test_a_torn_line_is_cut_off_before_the_next_one(ledger: PrivacyLedger) -> None:
    ledger.charge(ROUND, NO_BUDGET, 0)
    whole, head = ledger.path.read_bytes(), ledger.head_path.read_bytes()
    for torn in (b'{"number": 1, "kind": "charge", "cha', b"\x00" * 40, b'{"number": 1, "time": "\xc3'):
        ledger.path.write_bytes(whole + torn)
        ledger.head_path.write_bytes(head)
        assert [c.request for c in ledger.charges()] == ["first"]
        ledger.charge(replace(ROUND, request="second"), NO_BUDGET, 0)
        assert [json.loads(line)["number"] for line in lines(ledger)] == [0, 1]
        assert ledger.path.read_bytes().startswith(whole)


def test_a_charge_whose_newline_alone_is_missing_counts(ledger: PrivacyLedger) -> None:
    ledger.charge(ROUND, NO_BUDGET, 0)
    ledger.path.write_bytes(ledger.path.read_bytes().rstrip(b"\n"))
    assert len(ledger.charges()) == 1
    ledger.charge(replace(ROUND, request="second"), NO_BUDGET, 0)
    assert [json.loads(line)["number"] for line in lines(ledger)] == [0, 1]


@pytest.mark.parametrize(
    "damage", [('"number": 2', '"number" 2'), ("{", ""), ("steps", "st\xff"), ("}", "")]
)
def test_a_damaged_last_line_is_not_forgotten(ledger: PrivacyLedger, damage: tuple[str, str]) -> None:
    """A line that ends in a newline was whole when it was written: its training may have been released."""
    for i in range(3):
        ledger.charge(replace(ROUND, request=str(i)), NO_BUDGET, 0)
    *before, last = ledger.path.read_bytes().splitlines(keepends=True)
    changed = last.replace(damage[0].encode(), damage[1].encode("latin-1"))
    for torn in (b"", b'{"number": 3, "ki'):
        ledger.path.write_bytes(b"".join(before) + changed + torn)
        with pytest.raises(CipherwardError, match="cannot be believed: its last line is damaged") as caught:
            ledger.charges()
        assert "backup" in caught.value.hint
        with pytest.raises(CipherwardError, match="cannot be believed"):
            ledger.charge(replace(ROUND, request="next"), NO_BUDGET, 0)
        assert ledger.path.read_bytes() == b"".join(before) + changed + torn


def test_a_torn_line_that_an_earlier_version_ended_is_no_charge(ledger: PrivacyLedger) -> None:
    """The number of the line after it shows that it never counted."""
    for i in range(2):
        ledger.charge(replace(ROUND, request=str(i)), NO_BUDGET, 0)
    first, second = lines(ledger)
    ledger.path.write_text(f"{first}\n{second[:30]}\n{second}\n")
    assert [c.request for c in ledger.charges()] == ["0", "1"]


@pytest.mark.parametrize("spoil", ["removed", "cut", "changed"])
def test_a_ledger_that_lost_a_line_is_not_believed(ledger: PrivacyLedger, spoil: str) -> None:
    for i in range(3):
        ledger.charge(replace(ROUND, request=str(i)), NO_BUDGET, 0)
    entries = lines(ledger)
    if spoil == "removed":
        del entries[1]
    elif spoil == "cut":
        entries[1] = entries[1][:40]
    else:
        entries[1] = entries[1].replace('"steps": 5', '"step": 5')
    ledger.path.write_text("\n".join(entries) + "\n")
    with pytest.raises(CipherwardError, match="cannot be believed"):
        ledger.charges()
    with pytest.raises(CipherwardError, match="cannot be believed"):
        ledger.charge(replace(ROUND, request="next"), NO_BUDGET, 0)


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_a_ledger_whose_last_lines_were_cut_is_not_believed(
    ledger: PrivacyLedger, place: Place, kept: int
) -> None:
    for i in range(3):
        ledger.charge(replace(ROUND, request=str(i)), NO_BUDGET, 0)
    ledger.path.write_text("".join(line + "\n" for line in lines(ledger)[:kept]))
    assert ledger.is_begun
    for read in (ledger.charges, lambda: ledger.charge(ROUND, NO_BUDGET, 0), lambda: summarise(place)):
        with pytest.raises(CipherwardError, match=rf"it has {kept} entr.* says that it had 3") as error:
            read()
        assert "privacy-head.json" in error.value.hint
        assert not re.search(r"\d", error.value.outside)
    ledger.path.unlink()
    assert ledger.is_begun
    with pytest.raises(CipherwardError, match="cannot be believed"):
        ledger.charges()


@pytest.mark.parametrize("head", [None, "{", '{"entries": 3, "sha256": "00"}', '{"entries": 0}'])
def test_a_ledger_whose_head_is_lost_or_another_s_is_not_believed(
    ledger: PrivacyLedger, head: str | None
) -> None:
    for i in range(3):
        ledger.charge(replace(ROUND, request=str(i)), NO_BUDGET, 0)
    if head is None:
        ledger.head_path.unlink()
    else:
        ledger.head_path.write_text(head)
    with pytest.raises(CipherwardError, match=r"cannot be believed.*privacy-head\.json"):
        ledger.charges()


def test_ledgers_of_an_earlier_version_and_of_a_killed_charge_go_on(ledger: PrivacyLedger) -> None:
    for i in range(2):
        ledger.charge(replace(ROUND, request=str(i)), NO_BUDGET, 0)
    whole = ledger.path.read_text()
    ledger.path.write_text(whole.replace('"noted": true, ', ""))
    ledger.head_path.unlink()
    ledger.charge(replace(ROUND, request="2"), NO_BUDGET, 0)
    noted = ledger.head_path.read_bytes()
    ledger.charge(replace(ROUND, request="3"), NO_BUDGET, 0)
    ledger.head_path.write_bytes(noted)  # the kill came between the two files
    ledger.charge(replace(ROUND, request="4"), NO_BUDGET, 0)
    assert [c.request for c in ledger.charges()] == ["0", "1", "2", "3", "4"]


def test_on_a_full_disk_nothing_is_charged_as_if_it_were(
    ledger: PrivacyLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.charge(ROUND, NO_BUDGET, 0)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CipherwardError, match="the disk is full"):
        ledger.charge(replace(ROUND, request="second"), NO_BUDGET, 0)


def test_two_processes_that_charge_at_once_lose_nothing(ledger: PrivacyLedger, place: Place) -> None:
    code = """
import sys
from dataclasses import asdict, replace
from pathlib import Path
from parties.sealing.place import Place
from parties.training.privacy_ledger import Charge, Budget, PrivacyLedger
place = Place.open(Path(sys.argv[1]))
for i in range(20):
    charge = Charge("a", "p", f"{sys.argv[2]}-{i}", 1, "image", "d", 1.0, 0.1, 5)
    PrivacyLedger(place).charge(charge, Budget(0.0, 0.0), 0)
"""
    start = [sys.executable, "-c", code, str(place.folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    runs = [subprocess.Popen([*start, name], env=environment) for name in "xy"]
    assert [run.wait(120) for run in runs] == [0, 0]
    assert len({c.request for c in ledger.charges()}) == 40


def test_a_killed_charge_leaves_a_ledger_that_can_be_read(ledger: PrivacyLedger, place: Place) -> None:
    code = """
import sys
from pathlib import Path
from parties.sealing.place import Place
from parties.training.privacy_ledger import Charge, Budget, PrivacyLedger
place = Place.open(Path(sys.argv[1]))
i = 0
while True:
    PrivacyLedger(place).charge(Charge("a", "p", str(i), 1, "image", "d", 1.0, 0.1, 5), Budget(0.0, 0.0), 0)
    print(i, flush=True)
    i += 1
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.Popen(
        [sys.executable, "-c", code, str(place.folder)], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert run.stdout is not None
    for _ in range(5):
        run.stdout.readline()
    time.sleep(0.01)
    run.kill()
    said = 5 + len(run.stdout.read().splitlines())
    run.wait()
    assert len(ledger.charges()) >= said  # whatever a caller was told is on the disk
    ledger.charge(replace(ROUND, request="after"), NO_BUDGET, 0)
    assert ledger.charges()[-1].request == "after"


def test_the_summary_states_the_total_and_what_it_leaves_out(ledger: PrivacyLedger, place: Place) -> None:
    assert summarise(place).lines[0] == "no private training was charged"
    ledger.charge(ROUND, NO_BUDGET, 0)
    ledger.charge(replace(ROUND, request="second", unit="image", study="b"), NO_BUDGET, 0)
    (place.private / "answers").mkdir()
    (place.private / "answers" / "old-study-0123456789abcdef.jsonl").write_text('{"split": "train"}\n' * 3)
    summary = summarise(place)
    # Epsilon 2 was for these two rounds together; of two units the weaker one is named.
    assert summary.lines[0].startswith("epsilon 2 at delta 1e-05 for each image, over 2 charged rounds")
    assert any("3 trainings of old-study without differential privacy" in line for line in summary.lines)
    assert any("not covered: evaluations" in line for line in summary.lines)
    assert [row[:3] for row in summary.rows] == [("a", "1", "5"), ("b", "1", "5")]


def test_the_summary_leaves_out_no_answer_whose_line_is_lost(place: Place) -> None:
    """A training that is not counted would be one that no bound covers, and that nobody is told of."""
    folder = place.private / "answers"
    folder.mkdir()
    (folder / "cut-0123456789abcdef.jsonl").write_text('{"split": "train"}\n{"split": "tra\n')
    (folder / "cut-0123456789abcdef.count").write_text("4")
    (folder / "gone-0123456789abcdef.count").write_text("1")
    (folder / "whole-0123456789abcdef.jsonl").write_text('{"split": "train"}\n')
    (folder / "whole-0123456789abcdef.count").write_text("1")
    (folder / ".lock").touch()
    lines = [line for line in summarise(place).lines if "answer" in line and "seconds" not in line]
    assert [line.partition(" of ")[0] for line in lines] == [
        "not covered: 3 answers",
        "not covered: 1 answer",
    ]
    assert "3 answers of cut whose lines are damaged or gone" in lines[0]
    assert "1 answer of gone whose line is damaged or gone" in lines[1]
    assert sum("without differential privacy" in line for line in summarise(place).lines) == 2
    (folder / "gone-0123456789abcdef.count").write_text('"1"')
    with pytest.raises(CipherwardError, match=r"count of answers .* is damaged"):
        summarise(place)


def test_the_ledger_is_closed_to_other_users(ledger: PrivacyLedger, place: Place) -> None:
    ledger.charge(ROUND, NO_BUDGET, 0)
    assert (place.private / FILE).exists() and place.private.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "line",
    [
        {"number": 0},
        {"number": 0, "kind": "release"},
        {"number": 0, "kind": "charge", "charge": asdict(ROUND) | {"noise_multiplier": "a"}},
        {"number": 0, "kind": "charge", "charge": asdict(ROUND) | {"noise_multiplier": 0}},
        {"number": 0, "kind": "charge", "charge": asdict(ROUND) | {"steps": -5}},
        {"number": 0, "kind": "charge", "charge": asdict(ROUND) | {"request": 7}},
    ],
)
def test_an_entry_that_nobody_wrote_is_not_believed(ledger: PrivacyLedger, line: dict[str, object]) -> None:
    ledger.path.parent.mkdir(exist_ok=True)
    ledger.path.write_text(json.dumps(line) + "\n")
    with pytest.raises(CipherwardError, match="cannot be believed"):
        ledger.charges()


def test_what_cannot_be_computed_tells_the_coordinator_nothing_of_other_studies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> float:
        raise CipherwardError("the bound of 1600 steps cannot be computed to within 0.0001", "")

    monkeypatch.setattr("parties.training.privacy_ledger.total_epsilon", refuse)
    with pytest.raises(CipherwardError, match="1600 steps") as error:
        Budget(0.05, 1e-5, "image").require([], "the study s")
    assert not re.search(r"\d", str(error.value.for_outside()))
