"""Write the rounds of a study where TensorBoard or MLflow reads them.

What is written are the numbers of rounds.jsonl, which the coordinator holds anyway: no hospital's name, no weights,
no path. Both loggers are extras, `pip install cipherward[tensorboard]` and `cipherward[mlflow]`.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from coordinator.exchange.journal import finished_rounds
from coordinator.exchange.plan import FILE, load_plan
from crypto.errors import CipherwardError
from crypto.files import disk_errors, read_lines

#: Ends the names of our event files, so that an export again replaces them and no other.
_SUFFIX = ".cipherward"
#: The tags of an MLflow run that name its study, and its training by the numbers of the first round: a study that is
#: trained again from the beginning under the same name has other numbers, and is another run.
_TAG, _TRAINING_TAG = "cipherward.study", "cipherward.training"
#: Written last of each round: a round that has it is whole.
_LAST = "seconds"
#: Numbers of a round that are exported under another name.
_COUNTS = {"hospitals/answered": "parties", "hospitals/absent": "absent", "hospitals/refused": "refused"}


def read_rounds(study: Path) -> list[dict[str, Any]]:
    """Return the finished rounds of a study, or of the folder that holds its rounds.jsonl.

    Raises:
        CipherwardError: If there are none.
    """
    places = (study / "cloud" / "rounds.jsonl", study / "rounds.jsonl")
    journal = next((path for path in places if path.is_file()), places[0])
    rows = read_lines(journal) if journal.is_file() else []
    rounds = finished_rounds(row for row in rows if isinstance(row, dict) and row.get("aggregated"))
    if not rounds:
        raise CipherwardError(f"no finished round in {journal}", "name the folder of a study that trained")
    return rounds


def study_name(study: Path) -> str:
    """Return the name of the study in a folder, or of the one whose cloud folder it is.

    Raises:
        CipherwardError: If its plan is damaged.
    """
    folder = study.resolve()
    for place in (folder, folder.parent) if folder.name == "cloud" else (folder,):
        if (place / FILE).is_file():
            return load_plan(place / FILE).study
    return folder.parent.name if folder.name == "cloud" else folder.name


def without_login(uri: str) -> str:
    """Return an address without the user and the password that may stand in it."""
    try:
        login, at, host = urlsplit(uri).netloc.rpartition("@")
    except ValueError:
        return "the address"
    return uri.replace(f"{login}{at}{host}", host, 1) if at else uri


def scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a round by name, such as val/accuracy."""
    result = dict(
        _numbers("", {k: v for k, v in row.items() if k not in ("round", "attempt", "aggregated")})
    )
    return result | {name: float(len(row.get(field) or ())) for name, field in _COUNTS.items()}


def _numbers(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        # `refused` is a table by hospital's name: how many there are is told, and not who.
        if isinstance(value, Mapping) and name in ("train", "val"):
            yield from _numbers(f"{prefix}{name}/", value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{name}", float(value)


def write_tensorboard(rounds: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write rounds as TensorBoard's events. An export again into the same folder replaces the earlier one.

    Raises:
        CipherwardError: If TensorBoard is not installed, or the folder cannot be written.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise _missing("tensorboard", "tensorboard") from None
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        earlier = list(folder.glob(f"events.out.tfevents.*{_SUFFIX}"))
        writer = SummaryWriter(str(folder), filename_suffix=_SUFFIX)
        try:
            for row in rounds:
                for name, value in scalars(row).items():
                    writer.add_scalar(name, value, int(row["round"]))
        finally:
            writer.close()
        for path in earlier:
            path.unlink(missing_ok=True)


def write_mlflow(rounds: Sequence[Mapping[str, Any]], uri: str, study: str) -> int:
    """Write rounds as metrics of one MLflow run; return how many were new. Others stay as they are.

    Args:
        rounds: The rounds.
        uri: The tracking server or store, such as http://127.0.0.1:5000 or sqlite:///mlflow.db.
        study: The study's name: that of the experiment, in which an apostrophe is a typographic one.

    Raises:
        CipherwardError: If MLflow is not installed, or does not answer.
    """
    os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="true")
    try:
        from mlflow import MlflowClient
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException
    except ImportError:
        raise _missing("mlflow", "MLflow") from None
    try:
        client = MlflowClient(tracking_uri=uri)
        # The file store writes a name into a filter as it is, and refuses one with an apostrophe.
        name = study.replace("'", "’")
        experiment = client.get_experiment_by_name(name)
        number = client.create_experiment(name) if experiment is None else experiment.experiment_id
        tags = {_TAG: study, _TRAINING_TAG: _training(rounds[0])}
        runs = client.search_runs(
            [number], f"tags.`{_TRAINING_TAG}` = '{tags[_TRAINING_TAG]}'", max_results=1
        )
        run = runs[0] if runs else client.create_run(number, tags=tags, run_name=study)
        known = {metric.step for metric in client.get_metric_history(run.info.run_id, _LAST)}
        fresh = [row for row in rounds if int(row["round"]) not in known]
        now = int(time.time() * 1000)
        for row in fresh:
            step = int(row["round"])
            values = sorted(scalars(row).items(), key=lambda item: item[0] == _LAST)
            metrics = [Metric(name, value, now, step) for name, value in values]
            client.log_batch(run.info.run_id, metrics=metrics)
        client.set_terminated(run.info.run_id)
    except (MlflowException, ImportError, OSError) as error:
        raise CipherwardError(
            f"MLflow at {without_login(uri)} refuses: {_first_line(error, uri)}",
            "check the address of --mlflow",
        ) from None
    return len(fresh)


def _training(row: Mapping[str, Any]) -> str:
    """Return a name of a training: a digest of the numbers of its first round, in which no hospital is named."""
    numbers = json.dumps([row.get("round"), scalars(row)], sort_keys=True)
    return hashlib.sha256(numbers.encode()).hexdigest()[:32]


def _first_line(error: Exception, uri: str) -> str:
    """Return the first line of an error's text, without the login of the address."""
    lines = str(error).replace(uri, without_login(uri)).splitlines() or [type(error).__name__]
    login = urlsplit(uri).netloc.rpartition("@")[0] if without_login(uri) != uri else ""
    return (lines[0].replace(login, "…") if login else lines[0])[:200]


def _missing(extra: str, name: str) -> CipherwardError:
    return CipherwardError(f"{name} is not installed", f"in the checkout: pip install -e '.[{extra}]'")
