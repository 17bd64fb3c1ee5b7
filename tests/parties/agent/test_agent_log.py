"""The hospital's log: every line hangs on the one before; what is changed, removed or cut is noticed."""

from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path

import pytest

from crypto.errors import CipherwardError
from crypto.files import write_json
from parties.agent import agent_log
from parties.agent.agent_log import START, AgentLog
from tests.support.agents import make_place
from tests.support.command_runs import Here


@pytest.fixture
def log(tmp_path: Path) -> AgentLog:
    """Give a log of four lines."""
    log = AgentLog(make_place(tmp_path))
    for round_ in range(1, 5):
        log.append("answered", type="train", round=round_, seconds=0.5, field=None)
    return log


def test_a_line_says_what_happened_and_hangs_on_the_line_before(log: AgentLog) -> None:
    lines = log.read()
    assert [line["n"] for line in lines] == [1, 2, 3, 4]
    assert [line["previous"] for line in lines] == [START, *(line["hash"] for line in lines[:3])]
    assert "field" not in lines[0]
    report = log.verify()
    assert (report.lines, report.head, report.torn) == (4, lines[-1]["hash"], ())
    assert log.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("number", [0, 2, 3])
def test_a_changed_line_is_found(log: AgentLog, number: int) -> None:
    lines = log.path.read_text().splitlines()
    row = json.loads(lines[number])
    row["round"] = 9
    lines[number] = json.dumps(row, sort_keys=True)
    log.path.write_text("\n".join(lines) + "\n")
    with pytest.raises(CipherwardError, match=f"line {number + 1}"):
        log.verify()


@pytest.mark.parametrize(
    ("was", "now"),
    [('"event": "answered"', '"event": "refused", "event": "answered"'), ('"round": 2', '"round":  2')],
)
def test_a_line_that_reads_the_same_to_json_alone_is_found(log: AgentLog, was: str, now: str) -> None:
    lines = log.path.read_text().splitlines()
    lines[1] = lines[1].replace(was, now)
    log.path.write_text("\n".join(lines) + "\n")
    with pytest.raises(CipherwardError, match="line 2"):
        log.verify()


def test_a_removed_and_a_moved_line_are_found(log: AgentLog) -> None:
    lines = log.path.read_text().splitlines(keepends=True)
    for changed in (lines[:1] + lines[2:], lines[1:], [lines[1], lines[0], *lines[2:]]):
        log.path.write_text("".join(changed))
        with pytest.raises(CipherwardError, match="broken at line"):
            log.verify()


def test_lines_removed_at_the_end_are_found_by_the_second_file_and_by_a_noted_head(log: AgentLog) -> None:
    head = log.verify().head
    lines = log.path.read_text().splitlines(keepends=True)
    log.path.write_text("".join(lines[:3]))
    with pytest.raises(CipherwardError, match=r"has 3 lines.*names line 4"):
        log.verify()
    # Whoever cuts both files is found by a head that was noted elsewhere, and by nothing else.
    row = json.loads(lines[2])
    log.head_path.write_text(json.dumps({"n": 3, "hash": row["hash"]}))
    assert log.verify().lines == 3
    with pytest.raises(CipherwardError, match="no line of the log"):
        log.verify(head)
    assert log.verify(row["hash"][:16]).lines == 3
    log.head_path.unlink()
    with pytest.raises(CipherwardError, match="missing"):
        log.verify()


@pytest.mark.parametrize(
    ("lines", "head"),
    [(0, None), (3, None), (4, "another"), (4, "gone"), (4, "torn"), (0, "torn")],
    ids=["emptied", "cut", "another-log", "no-head", "torn-head", "all-torn"],
)
def test_nothing_is_added_to_a_log_that_lost_lines(log: AgentLog, lines: int, head: str | None) -> None:
    """The next line would note its own hash as the last one, and nobody could see the loss any more."""
    whole = log.path.read_text().splitlines(keepends=True)
    log.path.write_text("".join(whole[:lines]))
    if head == "another":
        log.head_path.write_text(json.dumps({"n": 4, "hash": "1" * 64}))
    elif head == "gone":
        log.head_path.unlink()
    elif head == "torn":
        log.head_path.write_text('{"n": 4')
    with pytest.raises(CipherwardError) as error:
        log.append("answered")
    assert error.value.hint
    assert log.path.read_text() == "".join(whole[:lines])
    with pytest.raises(CipherwardError):
        log.verify()
    # The hint says how to go on: with both files out of the way a new log begins.
    log.path.unlink()
    log.head_path.unlink(missing_ok=True)
    assert log.append("answered") == 1 and log.verify().lines == 1


def test_a_log_of_one_line_whose_head_a_kill_prevented_goes_on(tmp_path: Path) -> None:
    log = AgentLog(make_place(tmp_path))
    log.append("joined")
    log.head_path.unlink()
    log.append("left")
    assert log.verify().lines == 2


@pytest.mark.parametrize("cut", [1, 20, 100])
def test_a_line_that_a_kill_cut_short_stays_and_the_log_goes_on(log: AgentLog, cut: int) -> None:
    data = log.path.read_bytes()
    log.path.write_bytes(data + data.splitlines(keepends=True)[-1][:cut])
    log.append("joined")
    report = log.verify()
    assert (report.lines, report.torn) == (5, (5,))


def test_a_whole_line_without_its_end_is_not_lost(log: AgentLog) -> None:
    log.path.write_bytes(log.path.read_bytes()[:-1])
    log.append("joined")
    report = log.verify()
    assert (report.lines, report.torn) == (5, ())


def test_a_kill_between_the_two_files_is_no_alarm(log: AgentLog) -> None:
    before = log.head_path.read_bytes()
    log.append("joined")
    log.head_path.write_bytes(before)
    assert log.verify().lines == 5


def test_a_full_disk_leaves_the_log_as_it_was(log: AgentLog, monkeypatch: pytest.MonkeyPatch) -> None:
    before, write = log.path.read_bytes(), os.write

    def half(handle: int, data: bytes) -> int:
        return write(handle, data[: len(data) // 2])

    def full(handle: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    for failing in (half, full):
        monkeypatch.setattr(os, "write", failing)
        with pytest.raises(CipherwardError, match="disk is full"):
            log.append("answered")
        monkeypatch.setattr(os, "write", write)
        assert log.path.read_bytes() == before
        assert log.verify().lines == 4


def test_a_line_whose_end_cannot_be_noted_is_taken_back(
    log: AgentLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller answers nothing then: a line `answered` would tell of what never left."""
    before = log.path.read_bytes()

    def full(_path: Path, _value: object) -> None:
        raise CipherwardError("the disk is full", "")

    def noted(path: Path, value: object) -> None:
        write_json(path, value)
        raise CipherwardError("the folder cannot be made durable", "")

    monkeypatch.setattr(agent_log, "write_json", full)
    with pytest.raises(CipherwardError, match="disk is full"):
        log.append("answered")
    assert log.path.read_bytes() == before and log.verify().lines == 4
    # A line that is noted already stays: without it, it would look as if somebody had removed it.
    monkeypatch.setattr(agent_log, "write_json", noted)
    with pytest.raises(CipherwardError, match="made durable"):
        log.append("answered")
    assert log.verify().lines == 5


def test_long_texts_are_cut(log: AgentLog) -> None:
    log.append("answered", study="x" * 100_000)
    assert len(log.read()[-1]["study"]) == 300
    log.append("left")  # the end of the file is still understood
    assert log.verify().lines == 6


def test_verifying_while_the_agent_writes_is_no_alarm(
    log: AgentLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent waits until both files were read."""
    read = AgentLog._raw_lines
    writers = []

    def read_slowly(self: AgentLog) -> list[bytes]:
        lines = read(self)
        writer = threading.Thread(target=log.append, args=("answered",))
        writer.start()
        writer.join(0.2)
        writers.append((writer, writer.is_alive()))
        return lines

    monkeypatch.setattr(AgentLog, "_raw_lines", read_slowly)
    assert log.verify().lines == 4
    [(writer, waited)] = writers
    writer.join(10)
    monkeypatch.undo()
    assert waited and log.verify().lines == 5


def test_damaged_lines_are_counted_and_numbers_of_another_kind_do_no_harm(
    log: AgentLog, here: Here
) -> None:
    log.append("answered", bytes_in="many")
    with open(log.path, "ab") as file:
        file.write(b"{torn\n")
    done = here("cipherward-party", "log", log.path.parents[1])
    assert done.returncode == 0 and done.stdout.count("answered") == 5
    assert "1 line of" in " ".join(done.stderr.split())


def test_a_pipe_in_the_place_of_the_log_is_neither_waited_for_nor_written(tmp_path: Path) -> None:
    place = make_place(tmp_path)
    log = AgentLog(place)
    log.append("joined")
    log.path.rename(tmp_path / "kept")
    os.mkfifo(log.path, 0o600)
    for act in (log.read, log.verify, log.count_lines, lambda: log.append("left")):
        with pytest.raises(CipherwardError, match="not a regular file"):
            act()
    log.path.unlink()
    (tmp_path / "kept").rename(log.path)
    log.append("left")
    assert log.verify().lines == 2
