"""scores.json and report.json as typed records: read and written again with the same bytes, refused where damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coordinator.exchange.audit.scores import Scores
from coordinator.exchange.audit.scores_file import read_scores
from coordinator.exchange.records import write_record
from coordinator.report.build import build_report
from coordinator.report.records import SCHEMA
from coordinator.report.report_file import parse_report, read_report
from crypto.errors import CipherwardError
from crypto.files import json_text, write_json
from tests.support.paths import ROOT
from tests.support.reports import TRAINED, make_report, make_scores
from tests.support.verdicts import make_draws, make_finding
from tests.support.verdicts import make_scores as make_small_scores


@pytest.fixture
def scores_path(tmp_path: Path) -> Path:
    """Return scores.json of an audit with every control."""
    write_record(tmp_path / "scores.json", make_scores())
    return tmp_path / "scores.json"


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Change a JSON file and return its path."""
    value = json.loads(path.read_text())
    change(value)
    write_json(path, value)
    return path


def test_scores_keep_their_bytes(scores_path: Path) -> None:
    before = scores_path.read_text()
    scores = read_scores(scores_path)
    assert scores == make_scores()
    write_record(scores_path, scores)
    assert scores_path.read_text() == before


def test_a_report_keeps_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    report = make_report(training=TRAINED)
    write_record(path, report)
    before = path.read_text()
    assert read_report(path) == report
    write_record(path, read_report(path))
    assert path.read_text() == before


def test_scores_that_were_read_give_the_report_of_those_that_were_made(scores_path: Path) -> None:
    fixed = {"created": "", "versions": {}}
    read, made = (
        build_report(scores, "s", TRAINED) for scores in (read_scores(scores_path), make_scores())
    )
    assert read.model_copy(update=fixed) == made.model_copy(update=fixed)


def test_the_reports_in_docs_keep_their_bytes() -> None:
    results = [
        json.loads(path.read_text())["result"] for path in (ROOT / "docs" / "results").glob("*.json")
    ]
    reports = [result for result in results if result.get("schema") == SCHEMA]
    assert reports
    for value in reports:
        assert json_text(parse_report(value).to_json()) == json_text(value)


def test_what_a_file_leaves_out_stays_out() -> None:
    crash = make_finding(error="MemoryError", figures=None)
    plain = make_finding()
    crashed, complete = make_small_scores(make_draws([crash, plain]), []).to_json()["draws"][0]["findings"]
    assert {"V", "R", "n", "figures", "idle"}.isdisjoint(crashed)
    assert {"V", "R", "R_deranged", "K", "n"} <= set(complete)
    assert {"figures", "degenerate", "classified", "visible"}.isdisjoint(complete)


FINDING = "draws.0.findings.2"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda v: v["draws"][0]["findings"][2]["R"].update(hits="12"), f"{FINDING}.R.hits: "),
        (lambda v: v["draws"][0]["findings"][2]["R"].update(hits=True), f"{FINDING}.R.hits: "),
        (lambda v: v["draws"][0]["findings"][2]["R"].update(hits=1.0), f"{FINDING}.R.hits: "),
        (lambda v: v["draws"][0]["findings"][2]["R"].pop("low"), f"{FINDING}.R.low: Field required"),
        (lambda v: v["draws"][0]["findings"][2].pop("R"), f"{FINDING}.R: Field required"),
        (lambda v: v["draws"][0]["findings"][2].pop("V"), f"{FINDING}.V: Field required"),
        (lambda v: v["draws"][0]["findings"][2]["K"].update(opens="yes"), f"{FINDING}.K.opens: "),
        (lambda v: v["draws"][0]["findings"][2]["key"].update(shift=[0, 1, 2]), f"{FINDING}.key.shift"),
        (lambda v: v["draws"][0]["findings"][2].update(more=1), f"{FINDING}.more: Extra inputs"),
        (lambda v: v["draws"][0]["findings"].append(7), "draws.0.findings.9: "),
        (lambda v: v["draws"][0]["findings"][2].update(seconds=-1.0), f"{FINDING}.seconds: "),
        (lambda v: v["draws"][0].update(rows=None), "draws.0.rows: "),
        (lambda v: v["draws"][0].pop("set"), "draws.0.set: Field required"),
        (lambda v: v["draws"][0].update(pictured=["1"]), "draws.0.pictured.0: "),
        (lambda v: v["draws"][0]["spec"].pop("block"), "draws.0.spec: "),
        (lambda v: v["draws"][0]["spec"].update(block=9), "draws.0.spec: "),
        (lambda v: v["draws"][0].update(spec=[]), "draws.0.spec: "),
        (lambda v: v.update(draws={}), "draws: "),
        (lambda v: v.update(budget_s="60"), "budget_s: "),
    ],
)
def test_damaged_scores_name_the_field(
    scores_path: Path, change: Callable[[dict[str, Any]], object], field: str
) -> None:
    with pytest.raises(CipherwardError) as error:
        read_scores(changed(scores_path, change))
    assert error.value.message.startswith(f"{scores_path} is damaged: {field}")


def test_a_number_that_is_none_is_refused(scores_path: Path) -> None:
    text = scores_path.read_text()
    scores_path.write_text(text.replace('"seed": 20', '"seed": 20, "budget_s": NaN'))
    with pytest.raises(CipherwardError, match="is damaged: budget_s: "):
        read_scores(scores_path)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda v: v["verdict"].update(broken="no"), "verdict.broken: "),
        (lambda v: v["verdict"]["broken_at"].update(as_is="1"), "verdict.broken_at.as_is: "),
        (lambda v: v["controls"]["noise"].pop("said"), "controls.noise.said: Field required"),
        (lambda v: v["findings"][0].update(broken_by="K"), "findings.0.broken_by: "),
        (lambda v: v["findings"][0]["V"].update(n="64"), "findings.0.V.n: "),
        (lambda v: v["training"]["rounds"][0].update(bytes_up=1.5), "training.rounds.0.bytes_up: "),
        (lambda v: v.pop("valid"), "valid: Field required"),
    ],
)
def test_a_damaged_report_names_the_field(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], field: str
) -> None:
    path = tmp_path / "report.json"
    write_record(path, make_report(training=TRAINED))
    with pytest.raises(CipherwardError) as error:
        read_report(changed(path, change))
    assert error.value.message.startswith(f"{path} is damaged: {field}")


@pytest.mark.parametrize("read", [read_scores, read_report])
@pytest.mark.parametrize("text", ["[]", "{}", '{"schema": "another/1"}'])
def test_other_files_are_refused(read: Callable[[Path], object], text: str, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(CipherwardError, match="is not a cipherward"):
        read(tmp_path / "other.json")


def test_records_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        make_scores().seed = 7  # that is the point


def test_missing_scores_are_named(tmp_path: Path) -> None:
    with pytest.raises(CipherwardError, match=r"scores\.json"):
        read_scores(tmp_path / "scores.json")
    assert Scores.model_fields["schema_id"].default == "cipherward.scores/1"
