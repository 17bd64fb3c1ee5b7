"""A study that is trained by processes: the same weights as by other engines, and errors that name hospitals."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from coordinator.study.processes.run import run_processes
from crypto.arrays import AnyArray
from crypto.errors import CipherwardError
from tests.support.hospitals import one_core, plan, prepare_study, read_journal, run_study
from tests.support.study import PLAN, command


def weights_of(study: Path) -> dict[str, AnyArray]:
    return dict(load_file(study / "cloud" / "model.safetensors"))


def require_equal(one: Path, other: Path) -> None:
    """Assert that two studies ended with the same weights, to the last bit."""
    a, b = weights_of(one), weights_of(other)
    assert a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


__all__ = ["one_core"]  # a fixture for all tests of this file


@pytest.mark.slow
def test_processes_train_the_weights_that_one_process_trains(tmp_path: Path) -> None:
    p, study = plan(rounds=2), tmp_path / "study"
    places = prepare_study(study, p)
    run_processes(study, 2, tmp_path / "log", 120)
    trained = json.loads((study / "cloud" / "training.json").read_text())
    assert trained["engine"] == "processes"
    for place in places:
        shutil.rmtree(place.private / "answers")
    run_study(tmp_path / "other", places, p)
    require_equal(study, tmp_path / "other")
    # What the journal counts is what travelled, but for Protobuf's own bytes and the figures of evaluations.
    sent = re.search(r"(\d+) bytes were sent to hospitals, (\d+) came back", (tmp_path / "log").read_text())
    assert sent is not None
    counted = sum(row["bytes_up"] for row in read_journal(study / "cloud"))
    assert counted <= int(sent[2]) <= 1.05 * counted


@pytest.mark.slow
def test_an_error_names_the_hospital_and_stays_out_of_its_log(tmp_path: Path) -> None:
    p, study = plan(rounds=1, grace_s=0.1), tmp_path / "study"
    places = prepare_study(study, p)
    places[1].policy_file.unlink()
    with pytest.raises(
        CipherwardError, match=r"training failed: 1 of 2 parties are usable: node-101"
    ) as error:
        run_processes(study, 2, tmp_path / "log", 120)
    assert error.value.hint == f"see {tmp_path / 'log'}"
    assert "Traceback" in (places[1].folder / "hospital.log").read_text()
    assert (places[1].folder / "hospital.log").stat().st_mode & 0o077 == 0


@pytest.mark.slow
def test_processes_train_the_weights_that_ray_trains(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(PLAN.replace("rounds: 1", "rounds: 3"))
    words = ["simulate", tmp_path / "small.yaml", "--out"]
    done = command("cipherward-coordinator", *words, tmp_path / "ray", "--until", "seal")
    assert done.returncode == 0, done.stderr
    shutil.copytree(tmp_path / "ray", tmp_path / "processes")
    for engine, workers in (("ray", []), ("processes", ["--workers", "1"])):
        options = ["--until", "train", "--engine", engine, *workers]
        done = command("cipherward-coordinator", *words, tmp_path / engine, *options)
        assert done.returncode == 0, done.stderr
        training = json.loads((tmp_path / engine / "cloud" / "training.json").read_text())
        assert training["engine"] == engine
    require_equal(tmp_path / "ray", tmp_path / "processes")
