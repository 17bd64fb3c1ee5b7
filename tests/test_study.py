"""A whole study with the real commands: its report, a second run, a killed run, and a plain `flwr run`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]  # it has no types
import pytest
from flwr.app import Context, RecordDict
from safetensors.torch import load_file

from benchmarks.reference.outputs import differences
from coordinator.exchange.plan import read_plan
from coordinator.federation import server_app
from coordinator.model.vit import build_model
from coordinator.study.flower_run import run_flower
from crypto.errors import CipherwardError
from tests.support.command_runs import Here
from tests.support.hospitals import plan, prepare_study
from tests.support.paths import ROOT
from tests.support.study import PLAN, Study, command


def processes_of(mark: str) -> list[int]:
    """Return the process ids of all that was started with this value of the variable `CUT_STUDY`."""
    processes = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get("CUT_STUDY") == mark:
                processes.append(process.pid)
    return processes


def test_the_report_says_what_ran(study: Study) -> None:
    report = json.loads((study.folder / "report.json").read_text())
    assert report["schema"] == "cipherward.audit/1" and report["valid"], report["controls"]
    assert report["verdict"]["broken"] and "pooled_key_recovery" in report["verdict"]["broken_by"]
    assert report["pool"] == {"images": 220, "shape": [64, 64, 1], "parties": 2}
    training = report["training"]
    assert [r["round"] for r in training["rounds"]] == [1]
    assert training["rounds"][0]["parties"] == ["hospital-0", "hospital-1"]
    assert training["test"]["n"] == 24 and len(training["wrong_key"]["each"]) == 2
    assert training["plain"]["accuracy"]["n"] == 24 and 0 <= training["histogram_accuracy"] <= 1
    assert "16 scored rows a draw instead of 64" in report["doubts"]
    page = (study.folder / "report.html").read_text()
    assert "block_pixel_shuffle" in page and "data:image/png;base64," in page
    assert (study.party(0) / "private" / "report.html").exists()
    assert "verdict: Broken. pooled_key_recovery breaks block_pixel_shuffle" in study.output
    assert "Warning" not in study.output  # no library prints between the lines


def test_the_end_of_what_it_prints_is_what_the_tutorial_shows(study: Study) -> None:
    """The verdict's line is compared by its first words: another study is broken by another number of images."""
    tutorial = (ROOT / "docs" / "tutorial.md").read_text()
    _, _, rest = tutorial.partition("This is the end of what one run printed:\n\n```text\n")
    kept = rest.partition("\n```")[0].splitlines()
    assert len(kept) == 3
    # Standard output comes first. A busy machine says what it does meanwhile, in lines that break at any word.
    results = study.output.partition("\n· ")[0].splitlines()
    for line, words in zip(kept, (99, 99, 4), strict=True):
        (printed,) = (text for text in results if text.startswith(" ".join(line.split()[:2])))
        assert not differences(" ".join(line.split()[:words]), " ".join(printed.split()[:words]))


def test_details_are_in_the_log_files_and_not_in_the_talk(study: Study) -> None:
    cell = "draw-0 block_pixel_shuffle: leading_bit at 1"
    assert cell in (study.folder / "logs" / "attack.log").read_text()
    # The indented lines of a long wait say what is being done, on a slow machine this cell too.
    said = "\n".join(line for line in study.output.splitlines() if not line.startswith("  "))
    assert cell not in said and "round 1 of 1: val accuracy" in study.output
    steps = [line for line in study.output.splitlines() if line.startswith("· ")]
    assert 12 <= len(steps) <= 20


def test_the_model_that_leaves_is_the_plan_s(study: Study) -> None:
    plan = read_plan(study.folder / "plan.yaml")
    build_model(plan, 4).load_state_dict(load_file(str(study.folder / "cloud" / "model.safetensors")))


def test_a_second_run_repeats_nothing(study: Study, here: Here) -> None:
    """Up to the report, which every run writes anew."""
    before = {p: p.stat().st_mtime_ns for p in study.folder.rglob("*.safetensors")}
    words = ["simulate", study.plan, "--out", study.folder, "--until", "score"]
    done = here("cipherward-coordinator", *words)
    assert done.returncode == 0 and done.stderr.count("there already") == 5, done.stderr
    assert {p: p.stat().st_mtime_ns for p in study.folder.rglob("*.safetensors")} == before


def test_another_plan_does_not_touch_a_study(study: Study, here: Here) -> None:
    done = here("cipherward-coordinator", "simulate", study.plan, "--out", study.folder, "--set", "seed=9")
    assert done.returncode == 1 and "holds a study with another plan" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_invalid_report_ends_with_status_1(study: Study, tmp_path: Path, here: Here) -> None:
    scores = json.loads((study.folder / "scores.json").read_text())
    for draw in scores["draws"]:
        draw["true_key_exact"] = False
    del scores["identity"], scores["signature"]  # they would show the edit
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    cloud = study.folder / "cloud"
    words = ["--guesses", cloud / "guesses", "--sealed", cloud / "pool" / "hospital-0" / "train"]
    done = here("cipherward-coordinator", "report", tmp_path / "scores.json", *words, "--out", tmp_path)
    assert done.returncode == 1 and "the report is invalid: true_key" in done.stderr
    assert "INVALID" in (tmp_path / "report.html").read_text()


def test_an_unprepared_server_app_says_how_to_prepare(tmp_path: Path) -> None:
    for run_config in ({}, {"study-dir": ""}, {"study-dir": str(tmp_path)}):
        context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=run_config)
        with pytest.raises(CipherwardError, match="no prepared study") as error:
            server_app.app(None, context)
        assert "cipherward-coordinator simulate configs/demo.yaml --until seal" in error.value.hint


@pytest.mark.slow
def test_plain_flwr_run_without_a_study_says_how_to_make_one(tmp_path: Path) -> None:
    log = tmp_path / "flower.log"
    with pytest.raises(CipherwardError, match="no prepared study") as error:
        run_flower(1, {}, log, 120)
    assert "cipherward-coordinator simulate configs/demo.yaml --until seal" in log.read_text()
    assert "finished:failed" in error.value.message


@pytest.mark.slow
def test_flwr_run_with_too_few_nodes_says_so_and_ends(tmp_path: Path) -> None:
    """Flower's own default is two nodes; the plan has three hospitals."""
    p, study, log = (
        plan(parties=3, counts=(36, 12, 18), deadline_s=8.0),
        tmp_path / "study",
        tmp_path / "log",
    )
    prepare_study(study, p)
    with pytest.raises(CipherwardError, match=r"2 of 3 parties came within 8 s.*num-supernodes"):
        run_flower(2, {"study-dir": str(study)}, log, 200)
    assert "2 of 3 hospitals here; 3 are needed, and the others are waited for" in log.read_text()


@pytest.mark.slow
def test_a_killed_study_ends_its_processes_and_continues(study: Study, tmp_path: Path) -> None:
    plan = tmp_path / "small.yaml"
    plan.write_text(PLAN.replace("rounds: 1", "rounds: 2"))
    words = ["simulate", plan, "--until", "train", "--out"]
    mark = str(tmp_path)
    program = str(Path(sys.executable).parent / "cipherward-coordinator")
    running = subprocess.Popen(
        [program, *map(str, words), str(tmp_path / "cut")], env={**os.environ, "CUT_STUDY": mark}
    )
    journal = tmp_path / "cut" / "cloud" / "rounds.jsonl"
    deadline = time.monotonic() + 300
    while not journal.exists() and time.monotonic() < deadline and running.poll() is None:
        time.sleep(0.05)
    # The command, its watchdog, the server's side, the nursery, a hospital.
    assert journal.exists() and len(processes_of(mark)) >= 4
    running.send_signal(signal.SIGTERM)
    assert running.wait(60) == 143
    deadline = time.monotonic() + 30
    while processes_of(mark) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert processes_of(mark) == []
    done = command("cipherward-coordinator", *words, tmp_path / "cut")
    assert done.returncode == 0, done.stderr
    rounds = [json.loads(line)["round"] for line in journal.read_text().splitlines()]
    assert sorted(set(rounds)) == [1, 2]  # a round that was killed before its checkpoint is there twice
    weights = load_file(str(tmp_path / "cut" / "cloud" / "model.safetensors"))
    assert all(np.isfinite(v.numpy()).all() for v in weights.values())
