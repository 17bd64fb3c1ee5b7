"""What reaches a terminal: no control character of a name, no traceback of a narrow encoding, no endless error."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer
from rich.table import Column, Table
from typer.testing import CliRunner

from coordinator.cli import deployment
from coordinator.exchange import console
from coordinator.exchange.command import Command
from coordinator.exchange.console import SafeConsole
from coordinator.exchange.time_left import Countdown, duration, parse_count
from crypto.asking import waiting_for_user
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.printable import MAX_CHARACTERS, printable
from crypto.scheme import describe
from crypto.sets.writer import seal_images
from tests.support.command_runs import Here
from tests.support.files import picture
from tests.support.paths import ROOT

#: Clears the screen, colours, sets the title, moves up, CSI in one byte, turns the direction of text, makes a line.
ATTACKS = [
    "\x1b[2J",
    "\x1b[31m",
    "\x1b]0;x\x07",
    "\x1b[1A",
    "\x9b2J",
    "\u202e",
    "\u2066",
    "\u200b",
    "\ufeff",
    "\U000e0041",
    "\r",
    "\n",
    "\x7f",
    "\b",
]


def is_harmless(text: str) -> bool:
    """Return whether a text has no control or format character but the ends of its lines."""
    return not any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in text if c != "\n")


def test_every_control_character_is_escaped() -> None:
    for code in range(0x3000):
        text = printable(chr(code))
        if unicodedata.category(chr(code)) in ("Cc", "Zl", "Zp"):
            assert text.startswith("\\") and text.isascii()
    for text in ATTACKS:
        assert is_harmless(printable(text)) and "\n" not in printable(text)
    assert printable("\udc80") == "\\udc80"  # a byte of a file name that is not UTF-8
    assert printable("Größe … 日本 2×2") == "Größe … 日本 2×2"


def test_a_long_text_is_cut_and_says_so() -> None:
    assert printable("a" * MAX_CHARACTERS) == "a" * MAX_CHARACTERS
    cut = printable("\x1b" * 10**6)
    assert len(cut) < MAX_CHARACTERS + 50 and cut.endswith("… (1,000,000 characters)")


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("is_terminal", [False, True])
def test_printed_names_do_not_steer_the_terminal(attack: str, is_terminal: bool) -> None:
    out = io.StringIO()
    shown = SafeConsole(file=out, force_terminal=is_terminal, highlight=False, markup=False, width=200)
    shown.print(f"glioma{attack}verdict: not broken")
    shown.print_json(json.dumps({"class": f"x{attack}"}))
    plain = SafeConsole(file=(bare := io.StringIO()), highlight=False, markup=False, width=200)
    plain.print(f"glioma{attack}verdict: not broken")
    assert is_harmless(bare.getvalue()) and bare.getvalue().count("\n") == 1
    first = out.getvalue().splitlines()[0]
    assert first == bare.getvalue().rstrip("\n")
    assert attack not in out.getvalue().replace("\n", "") or attack == "\x1b[31m"


def test_a_long_result_is_broken_between_words_on_a_terminal_and_nowhere_else() -> None:
    path = "/hospital/" + "a" * 60
    text = f"  warning: the border alone predicts the class; look at {path} and compare"
    for is_terminal in (False, True):
        out = io.StringIO()
        shown = SafeConsole(file=out, force_terminal=is_terminal, soft_wrap=True, highlight=False, width=50)
        shown.print(text)
        shown.print("short")
        lines = out.getvalue().splitlines()
        assert lines.pop() == "short"
        assert " ".join(line.strip() for line in lines) == text.strip()  # no word is broken
        assert len(lines) == (4 if is_terminal else 1)
        assert all(line.startswith("    ") for line in lines[1:])
        assert all(len(line) <= 50 for line in lines if path not in line and is_terminal)


def test_a_narrow_table_shows_all_of_every_word() -> None:
    digest, name = "41e0bdda017cedf8" * 4, "block_pixel_shuffle"
    for is_terminal in (False, True):
        out = io.StringIO()
        table = Table("", "this hospital would accept", Column("breaks", max_width=8))
        table.add_row("the whole plan", f"SHA-256 {digest}", name)
        SafeConsole(
            file=out, force_terminal=is_terminal, highlight=False, color_system=None, width=50
        ).print(table)
        rows = [[cell.strip() for cell in line.split("│")[2:4]] for line in out.getvalue().splitlines()]
        accepted, breaks = ("".join(row[i] for row in rows if len(row) == 2) for i in (0, 1))
        assert accepted.endswith(digest)
        assert breaks.endswith(name)
        assert "…" not in out.getvalue()


def test_an_error_is_escaped_wherever_it_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    app = typer.Typer()

    @app.command()
    def fail() -> None:
        raise CipherwardError("no " + "".join(ATTACKS) + "y" * 10_000, "".join(ATTACKS))

    @app.command()
    def other() -> None: ...

    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(sys, "argv", ["p", "fail"])
        console.run(app, "p")
    printed = capsys.readouterr().err
    assert end.value.code == 1 and is_harmless(printed) and printed.count("\n") == 2
    assert len(printed) < 2 * MAX_CHARACTERS
    # Flower logs the error's text itself.
    assert is_harmless(str(CipherwardError("".join(ATTACKS), "".join(ATTACKS))))
    assert len(str(CipherwardError("x" * 10**6, "y" * 10**6))) < 2 * MAX_CHARACTERS + 200


def test_progress_lines_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(
        console, "talk", SafeConsole(file=out, force_terminal=True, width=200, color_system=None)
    )
    with console.live_line() as show:
        show("hospital\x1b]0;owned\x07")
    with console.progress("set\x9b2J[red]", 2) as on_progress:
        on_progress(1)
    text = out.getvalue()
    assert "\x1b]0;" not in text and "\x07" not in text and "\x9b" not in text
    assert "hospital\\x1b]0;owned\\x07" in text and "set\\x9b2J[red]" in text


def wait_for(out: io.StringIO, text: str, times: int) -> None:
    """Wait until a text was printed so often."""
    deadline = time.monotonic() + 20
    while out.getvalue().count(text) < times and time.monotonic() < deadline:
        time.sleep(0.01)


def test_without_a_terminal_no_silence_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(console, "talk", SafeConsole(file=out, width=200, color_system=None))
    monkeypatch.setattr(console, "_BEAT_S", 0.02)
    with console.narrate() as log:
        log("round 1 is done")
        wait_for(out, "still at work", 2)
        with console.progress("train", 9) as on_progress:
            on_progress(4)
            wait_for(out, "still at work: train", 1)
    lines = out.getvalue().splitlines()
    # Each later line says that the work goes on, and names the step.
    assert lines[0] == "round 1 is done" and lines[1] == "  still at work: round 1 is done (0 s)"
    assert re.fullmatch(r"  train: 4 of 9, about 1 s left \(0 s\)", lines[3])
    assert lines[4].startswith("  still at work: train: 4 of 9")
    count = len(lines)
    time.sleep(0.1)
    assert len(out.getvalue().splitlines()) == count  # nothing goes on after the work


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_silence_ends_every_four_seconds_and_its_later_lines_are_short(
    monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    clock = [0.0]

    class Minutes:
        """An event that is set after two minutes of a clock that only it moves."""

        def wait(self, seconds: float) -> bool:
            clock[0] += seconds
            return clock[0] > 120

    class Timed(io.StringIO):
        def write(self, text: str) -> int:
            beats.extend((clock[0], line) for line in text.splitlines() if line.strip())
            return len(text)

    beats: list[tuple[float, str]] = []
    talk = SafeConsole(file=Timed(), width=200, color_system=None, force_terminal=is_terminal)
    monkeypatch.setattr(console, "talk", talk)
    monkeypatch.setattr(console, "result", SafeConsole(file=io.StringIO()))
    monkeypatch.setattr("coordinator.exchange.console.time.monotonic", lambda: clock[0])
    pulse = console._Pulse()
    pulse._texts.append(console._Text("round 1 is under way"))
    monkeypatch.setattr(pulse, "_ended", Minutes())
    pulse._beat(0.0)
    assert [seconds for seconds, _ in beats] == list(range(4, 121, 4))
    lines = [line for _, line in beats]
    assert lines[:3] == [
        "  round 1 is under way (4 s)",
        "  still at work: round 1 is under way (8 s)",
        "  still at work (12 s)",
    ]
    assert lines[-1] == "  still at work (120 s)"


def test_a_command_that_says_nothing_is_heard_but_not_while_its_user_types(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = io.StringIO()
    monkeypatch.setattr(console, "talk", SafeConsole(file=out, width=200, color_system=None))
    monkeypatch.setattr(console, "_BEAT_S", 0.02)
    app = typer.Typer()

    @app.command(cls=Command)
    def work() -> None:
        wait_for(out, "still at work", 1)
        waiting_for_user.set()
        time.sleep(0.05)
        before = out.getvalue()
        time.sleep(0.2)
        assert out.getvalue() == before
        waiting_for_user.clear()

    assert CliRunner().invoke(app, []).exit_code == 0
    assert out.getvalue().splitlines()[0] == "  at work (0 s)"


def test_a_server_is_heard_while_it_starts_and_may_be_silent_then(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = io.StringIO()
    for name in ("talk", "result"):
        printer = SafeConsole(file=out, width=200, color_system=None)
        monkeypatch.setattr(console, name, printer)
        monkeypatch.setattr(deployment, name, printer)
    monkeypatch.setattr(console, "_BEAT_S", 0.02)

    def serve(_folder: Path, _log: console.Log, on_ready: Callable[[str], None]) -> None:
        wait_for(out, "the server is starting", 1)
        wait_for(out, "still at work", 2)
        on_ready("ready")
        before = out.getvalue()
        time.sleep(0.2)
        assert out.getvalue() == before

    monkeypatch.setattr("coordinator.deployment.serve.serve", serve)
    deployment.serve(tmp_path)
    lines = out.getvalue().splitlines()
    assert lines[0] == "  the server is starting (0 s)" and lines[-2:] == [
        "ready",
        "stopped; everything is kept",
    ]


def test_a_program_whose_lines_another_reads_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(console, "talk", SafeConsole(file=out, width=200, color_system=None))
    monkeypatch.setattr(console, "_BEAT_S", 0.02)
    monkeypatch.setenv(console.BEATS, "0")
    with console.at_work():
        time.sleep(0.2)
    assert out.getvalue() == ""


@pytest.mark.parametrize(
    ("text", "shown"),
    [("draw-1: pool 20; 12 of 58, about 4 s left", (12, 58)), ("at 20", (0, None)), ("9 of 3", (0, None))],
)
def test_a_count_in_a_text_moves_a_bar(text: str, shown: tuple[int, int | None]) -> None:
    assert parse_count(text) == shown


def test_the_time_left_is_that_of_what_was_done_since_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("coordinator.exchange.time_left.time.monotonic", lambda: now[0])
    countdown = Countdown(10, done=2)  # two were there before: they took no time
    assert countdown.after(2) == "2 of 10"
    now[0] += 30
    assert countdown.after(4) == "4 of 10, about 90 s left" and countdown.after(10) == "10 of 10"
    assert [duration(s) for s in (0.2, 99, 130, 7200)] == ["1 s", "99 s", "2 min", "2 h"]


@pytest.fixture
def hostile_images(tmp_path: Path) -> Path:
    """Return a folder of images whose class and file names hold control characters."""
    for name in ("a\x1b[2J", "b\u202e"):
        for i in range(12):
            picture(tmp_path / "images" / name / f"{i}.png", seed=i)
        (tmp_path / "images" / name / "scan\x1b]0;x\x07\udcff.png").write_bytes(b"no picture")
    return tmp_path / "images"


def test_hostile_class_and_file_names_in_commands(hostile_images: Path, tmp_path: Path, here: Here) -> None:
    place = tmp_path / "h"
    here("cipherward-party", "keygen", place)
    words = ["--images", hostile_images, "--image-size", 32, "--block", 8]
    refused = here("cipherward-party", "seal", place, *words)
    assert refused.returncode == 1 and is_harmless(refused.stderr) and not (place / "sealed").exists()
    assert "holds a control character" in refused.stderr
    for name in ("a\x1b[2J", "b\u202e"):
        (hostile_images / name).rename(hostile_images / name[0])
    sealed = here("cipherward-party", "seal", place, *words)
    assert sealed.returncode == 0, sealed.stderr
    assert "\\x1b]0;x\\x07\\udcff.png" in sealed.stderr
    # A set that came from elsewhere can have any class names.
    spec, zeros = describe("block_pixel_shuffle", (32, 32, 1), 8), np.zeros((32, 32, 1), np.uint8)
    foreign = tmp_path / "foreign"
    classes = ["a\x1b[2J", "b\u202e"]
    seal_images(foreign, lambda _: zeros, np.arange(2), classes, SecretKey(bytes(32)), spec, "")
    inspected = here("cipherward-party", "inspect", foreign)
    as_json = here("cipherward-party", "inspect", foreign, "--json")
    for done in (sealed, inspected, as_json):
        assert is_harmless(done.stdout) and is_harmless(done.stderr)
    assert set(json.loads(as_json.stdout)["classes"]) == set(classes)
    lines = (place / "private" / "quarantine.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2 and all(map(is_harmless, lines))


RunAscii = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def run_ascii() -> RunAscii:
    """Return a function that runs a hospital's command where nothing but ASCII can be printed or is the default."""
    narrow = {
        "LC_ALL": "C",
        "LANG": "C",
        "PYTHONIOENCODING": "ascii",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
    }

    def run(*words: object) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "parties.cli.app", *map(str, words)]
        environment = {**os.environ, **narrow, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, env=environment, capture_output=True, check=False)

    return run


def test_an_ascii_terminal_gets_escapes_and_no_traceback(run_ascii: RunAscii, tmp_path: Path) -> None:
    done = run_ascii("unseal", tmp_path / "Größe…", "--key", tmp_path / "k", "--out", tmp_path / "out")
    assert done.returncode == 1 and b"Traceback" not in done.stderr and done.stderr.isascii()
    done = run_ascii("keygen", tmp_path / ("n" * 300))
    assert done.returncode == 1 and b"\\u2026" in done.stderr and b"is too long a name" in done.stderr
    assert run_ascii("keygen", "--help").returncode == 0


def test_reports_are_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from crypto.files import write_text; import sys;"
        "write_text(Path(sys.argv[1]), '\\u2026 \\xe4')"
    )
    narrow = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code, tmp_path / "t"], env={**os.environ, **narrow}, check=True)
    assert (tmp_path / "t").read_bytes() == "… ä".encode()


def test_without_a_terminal_a_text_is_one_line_and_no_word_becomes_a_picture(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    line = "cannot use a/scan :x: of :heart: " + "and so on " * 20 + "/a/path/that/is/long"
    console.talk.print(line)
    console.result.print(line)
    assert capsys.readouterr() == (line + "\n", line + "\n")
    screen = SafeConsole(file=io.StringIO(), force_terminal=True, width=40, emoji=False, markup=False)
    screen.print(line)  # a terminal's lines end between words
    assert isinstance(screen.file, io.StringIO)
    assert max(len(part.rstrip()) for part in screen.file.getvalue().splitlines()) <= 40


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("words", [["--version"], ["schemes", "--help"]])
def test_output_into_a_full_disk_is_one_clear_line(words: list[str]) -> None:
    with open("/dev/full", "w") as full:
        run = subprocess.run(
            [sys.executable, "-m", "parties.cli.app", *words],
            stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False,
        )  # fmt: skip
    assert run.returncode == 1
    assert run.stderr.splitlines()[0] == "cipherward-party: error: cannot write: No space left on device"
    assert len(run.stderr.splitlines()) == 2


@pytest.mark.parametrize(
    ("variable", "value"),
    [("NUMBA_NUM_THREADS", "0"), ("NUMBA_NUM_THREADS", "-2"), ("SOURCE_DATE_EPOCH", "today")],
)
def test_a_variable_that_a_library_fails_at_is_named(
    variable: str, value: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`seal` ended with a traceback of Numba after it had checked the images, and `check` with one of NumPy."""
    monkeypatch.setenv(variable, value)
    app = typer.Typer()
    app.command()(lambda: print("done"))
    monkeypatch.setattr(sys, "argv", ["program"])
    with pytest.raises(SystemExit) as ended:
        console.run(app, "program")
    assert ended.value.code == 1
    assert f"the environment variable {variable} is '{value}'" in capsys.readouterr().err
    for usable in ("", "4"):
        monkeypatch.setenv(variable, usable)
        with pytest.raises(SystemExit) as ended:
            console.run(app, "program")
        assert ended.value.code == 0
