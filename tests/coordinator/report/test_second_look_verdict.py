"""A verdict never reads "not broken" above pictures that can be read in the negative or turned."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coordinator.exchange.audit.consistency import ContradictionError
from coordinator.exchange.audit.scores import SCHEMA, DrawScores
from coordinator.exchange.audit.scores_file import read_scores
from coordinator.exchange.records import write_record
from coordinator.report.build import build_report
from coordinator.report.page import render, shows_patients
from coordinator.report.report_file import read_report
from coordinator.report.rows import rows_of
from coordinator.report.verdict_text import headline, second_look, summary_lines
from crypto.files import write_json
from tests.support.verdicts import (
    CONTROLS,
    SIGNS,
    looked_at,
    make_draws,
    make_finding,
    make_scores,
    measured,
    with_as_is,
)


def scores_of(*draws: DrawScores) -> Any:
    return make_scores(draws, [measured(c) for c in (*CONTROLS, SIGNS)], schema_id=SCHEMA)


def three(r: int = 0, v: int = 0, in_draws: int = 3) -> list[DrawScores]:
    """Return three draws that suite/1 does not break; in some of them the second look has hits at 20 images."""
    draws = with_as_is(*[[make_finding(pool=10), make_finding(pool=20)]] * 3)
    result = []
    for index, draw in enumerate(map(measured, draws)):
        last = looked_at(draw.findings[-1], *((r, v) if index < in_draws else (0, 0)))
        result.append(draw.model_copy(update={"findings": (*draw.findings[:-1], last)}))
    return result


@pytest.mark.parametrize("hits", [{"r": 64}, {"v": 64}, {"r": 30, "v": 40}])
def test_readable_pictures_are_not_called_unbroken(hits: dict[str, int]) -> None:
    report = build_report(scores_of(*three(**hits)), "s")
    verdict = report.verdict
    # The rule of suite/1 is as it was, and says so in its own fields.
    assert not verdict.broken and verdict.broken_at == {} and report.valid
    assert verdict.readable is True and verdict.readable_at == {"pooled_key_recovery": 20}
    line = headline(report)
    assert line.state == "broken" and line.sentence.startswith(
        "Readable. pooled_key_recovery shows pictures in"
    )
    page = render(report, None)
    for text in (page, *summary_lines(report), line.sentence):
        assert "Not broken by" not in text
    assert "pictures can be read in the negative or turned" in second_look(report)
    assert "3 of 3 readable" in page and shows_patients(report)


def test_one_lucky_draw_is_not_enough() -> None:
    report = build_report(scores_of(*three(r=64, in_draws=1)), "s")
    assert report.verdict.readable is False and headline(report).sentence.startswith(
        "Not broken by suite/1"
    )


def test_few_hits_of_many_looks_are_chance() -> None:
    report = build_report(scores_of(*three(v=7)), "s")
    assert report.verdict.readable is False
    text = second_look(report)
    assert "nothing was readable" in text and "corrected for the search" in text
    row = rows_of(report)[-1]
    assert row.second_visible is not None and row.second_visible.hits == 21 and row.readable == 0


def test_scores_without_a_second_look_say_not_measured(tmp_path: Path) -> None:
    draws = make_draws(*[[make_finding("as_is", 1), make_finding(pool=20)]] * 3)
    write_record(tmp_path / "scores.json", make_scores(draws, schema_id=SCHEMA))
    assert "second_look" not in (tmp_path / "scores.json").read_text()
    report = build_report(read_scores(tmp_path / "scores.json"), "s")
    assert report.verdict.readable is None and second_look(report).endswith("not measured.")
    assert headline(report).sentence.startswith("Not broken by suite/1")
    assert "not measured" in render(report, None)
    assert any(line.strip().endswith("not measured.") for line in summary_lines(report))


def test_a_report_of_an_earlier_version_reads_as_it_was(tmp_path: Path) -> None:
    report = build_report(make_scores(make_draws(*[[make_finding("as_is", 1)]] * 3)), "s")
    value = json.loads(json.dumps(report.to_json()))
    for name in ("readable", "readable_at"):
        del value["verdict"][name]
    for finding in value["findings"]:
        del finding["readable_by"]
    for draw in value["draws"]:
        del draw["second_looks"]
    write_json(tmp_path / "report.json", value)
    earlier = read_report(tmp_path / "report.json")
    assert json.loads(json.dumps(earlier.to_json())) == value and earlier.verdict.readable is None


def test_noise_that_is_readable_fails_its_control() -> None:
    controls = [measured(c, r=64) if c.spec.name == "noise" else measured(c) for c in (*CONTROLS, SIGNS)]
    report = build_report(make_scores(three(), controls), "s")
    assert not report.valid and report.failed_controls == ["noise"]


def test_a_second_look_that_names_other_rows_fails_the_derangement() -> None:
    draws = three()
    wrong = looked_at(draws[0].findings[-1], wrong=40)
    draws[0] = draws[0].model_copy(update={"findings": (*draws[0].findings[:-1], wrong)})
    assert build_report(scores_of(*draws), "s").failed_controls == ["derangement"]


def test_a_second_look_is_no_second_set_of_guesses() -> None:
    """The control said that twice as many sets of guesses were looked at as there were."""
    report = build_report(scores_of(*three()), "s")
    guesses = sum(len(draw.findings) for draw in scores_of(*three()).draws)
    message = report.controls["derangement"].message
    assert message.startswith(f"{guesses} sets of guesses name the images of other rows in ")
    assert message.endswith("at most, at the first look and the second")


Change = Callable[[dict[str, Any]], object]


def last_look(value: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = value["draws"][0]["findings"][-1]["second_look"]
    return result


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda v: last_look(v)["R"].update(low=0.0), "second_look.R.low"),
        (lambda v: last_look(v)["V"].update(hits=1), "second_look.V."),
        (lambda v: last_look(v)["R"].update(looks=1 << 40), "second_look.R.looks"),
        (lambda v: last_look(v)["R"].update(looks=1), "second_look.R."),
        (lambda v: v["draws"][0]["findings"][-1].pop("second_look"), "findings.2.second_look"),
        (lambda v: v["draws"][0].update(second_looks=1), "second_look"),
        (lambda v: v["draws"][0].pop("second_looks"), "second_look"),
    ],
)
def test_an_edited_second_look_is_refused(tmp_path: Path, change: Change, field: str) -> None:
    path = tmp_path / "scores.json"
    write_record(path, scores_of(*three(r=64)))
    read_scores(path)
    value = json.loads(path.read_text())
    change(value)
    write_json(path, value)
    with pytest.raises(ContradictionError) as error:
        read_scores(path)
    assert field in error.value.message


def test_an_edited_verdict_of_the_second_look_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    for field, change in (
        ("verdict.readable", {"readable": False}),
        ("verdict.readable_at", {"readable_at": {}}),
    ):
        write_record(path, build_report(scores_of(*three(r=64)), "s"))
        value = json.loads(path.read_text())
        value["verdict"].update(change)
        write_json(path, value)
        with pytest.raises(ContradictionError, match=field):
            read_report(path)
