"""TensorBoard and MLflow get the numbers of rounds.jsonl, once each, and no hospital's name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coordinator.study.loggers import (
    _first_line,
    read_rounds,
    scalars,
    study_name,
    without_login,
    write_mlflow,
    write_tensorboard,
)
from crypto.errors import CipherwardError


def row(number: int, *, aggregated: bool = True) -> dict[str, object]:
    return {
        "round": number,
        "attempt": 0,
        "parties": ["Charité", "Hôpital"],
        "absent": ["Klinik"],
        "refused": {},
        "aggregated": aggregated,
        "bytes_up": 1000 * number,
        "train": {"loss": 1.0 / number},
        "val": {"accuracy": 0.5 + number / 100},
        "seconds": 2.5,
    }


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Return a study's folder with two finished rounds and one without a quorum."""
    (tmp_path / "s" / "cloud").mkdir(parents=True)
    rows = [row(1), row(2, aggregated=False), row(2)]
    text = "".join(json.dumps(r) + "\n" for r in rows)
    (tmp_path / "s" / "cloud" / "rounds.jsonl").write_text(text, encoding="utf-8")
    return tmp_path / "s"


def test_a_round_s_numbers_have_names_and_hospitals_are_counted(study: Path) -> None:
    rounds = read_rounds(study)
    assert [r["round"] for r in rounds] == [1, 2]
    assert scalars(rounds[0]) == {
        "bytes_up": 1000.0,
        "train/loss": 1.0,
        "val/accuracy": 0.51,
        "seconds": 2.5,
        "hospitals/answered": 2.0,
        "hospitals/absent": 1.0,
        "hospitals/refused": 0.0,
    }


def test_a_round_that_was_made_twice_counts_once_by_its_later_line(study: Path) -> None:
    """A kill between journal and checkpoint, and a checkpoint that was removed to train anew, repeat rounds."""
    journal = study / "cloud" / "rounds.jsonl"
    again = [row(2) | {"seconds": 7.0}, row(3), row(1) | {"seconds": 8.0}, row(2) | {"seconds": 9.0}]
    for count, seconds in ((1, [2.5, 7.0]), (2, [2.5, 7.0, 2.5]), (3, [8.0]), (4, [8.0, 9.0])):
        with open(journal, "a", encoding="utf-8") as file:
            file.write(json.dumps(again[count - 1]) + "\n")
        rounds = read_rounds(study)
        assert [r["round"] for r in rounds] == list(range(1, len(seconds) + 1))
        assert [r["seconds"] for r in rounds] == seconds


def test_a_study_without_rounds_is_named(tmp_path: Path) -> None:
    with pytest.raises(CipherwardError, match="no finished round"):
        read_rounds(tmp_path)


def test_tensorboard_reads_each_round_once_however_often_it_is_exported(
    study: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard", reason="the extra `tensorboard` is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "events"
    for _ in range(2):
        write_tensorboard(read_rounds(study), folder)
    reader = EventAccumulator(str(folder))
    reader.Reload()
    events = reader.Scalars("val/accuracy")
    assert [(e.step, round(e.value, 4)) for e in events] == [(1, 0.51), (2, 0.52)]
    assert len(list(folder.iterdir())) == 1
    assert b"Charit" not in next(folder.iterdir()).read_bytes()


def test_a_study_trained_again_is_a_run_of_its_own(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri, name = (tmp_path / "store").as_uri(), """l'étude "2" (a)"""
    first = read_rounds(study)
    again = [{**r, "val": {"accuracy": 0.9}} for r in first]
    assert [write_mlflow(rounds, uri, name) for rounds in (first, again, again)] == [2, 2, 0]
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("""l’étude "2" (a)""")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.data.metrics["val/accuracy"] for run in runs) == [0.52, 0.9]


def test_mlflow_gets_new_rounds_only(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "store").as_uri()
    rounds = read_rounds(study)
    assert [write_mlflow(rounds[:1], uri, "demo"), write_mlflow(rounds, uri, "demo")] == [1, 1]
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("demo")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(run.info.run_id, "val/accuracy")
    assert sorted((m.step, m.value) for m in history) == [(1, 0.51), (2, 0.52)]
    stored = b"".join(p.read_bytes() for p in (tmp_path / "store").rglob("*") if p.is_file())
    assert "Charité".encode() not in stored


def test_a_study_that_is_trained_again_is_another_run_and_loses_no_round(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "store").as_uri()
    rounds = read_rounds(study)
    assert write_mlflow(rounds, uri, "demo") == 2
    again = [{**row, "train": {"loss": 7.0}} for row in rounds]
    assert write_mlflow(again, uri, "demo") == 2
    assert write_mlflow(rounds, uri, "demo") == write_mlflow(again, uri, "demo") == 0


def test_the_cloud_folder_of_a_training_has_its_study_s_name(study: Path) -> None:
    assert study_name(study) == study_name(study / "cloud") == "s"


def test_a_password_in_an_address_is_not_printed() -> None:
    assert without_login("http://ann:secret@host:5000/x") == "http://host:5000/x"
    assert without_login("sqlite:///m@n.db") == "sqlite:///m@n.db"
    assert "secret" not in _first_line(OSError("http://ann:secret@host/api"), "http://ann:secret@host")
