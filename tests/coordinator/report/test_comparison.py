"""What differs between two reports."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.cli.audit import report as command
from coordinator.exchange.records import write_record
from coordinator.report.comparison import cautions, compare
from crypto.errors import CipherwardError
from tests.support.reports import TRAINED, make_report


def test_what_differs_is_said_and_what_is_the_same_is_not_hidden() -> None:
    facts = {f.name: f for f in compare(make_report(training=TRAINED), make_report(reach=0.0))}
    assert facts["images to break"].first == "5 images"
    assert facts["images to break"].second == "not broken up to 100 images"
    assert facts["accuracy, sealed"].second == "no training"
    assert not facts["scheme"].differs and not facts["linkable"].differs


def test_an_invalid_report_has_no_figures_to_compare() -> None:
    facts = {f.name: f for f in compare(make_report(noise=1.0), make_report())}
    assert facts["images to break"].first == facts["linkable"].first == "no verdict: invalid"


def test_reports_by_different_attackers_carry_a_caution() -> None:
    cloud = make_report().model_copy(update={"attacked_by": "cloud"})
    assert any("withhold" in line for line in cautions(make_report(), cloud))
    assert not any("withhold" in line for line in cautions(make_report(), make_report()))


def test_the_command_prints_what_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_record(tmp_path / "a.json", make_report())
    write_record(tmp_path / "b.json", make_report(reach=0.0))
    command(compare=(tmp_path / "a.json", tmp_path / "b.json"))
    printed = capsys.readouterr().out
    assert "images to break" in printed and "the same in both:" in printed
    with pytest.raises(CipherwardError, match="needs scores"):
        command()


def test_reports_that_say_the_same_have_no_empty_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_record(tmp_path / "a.json", make_report())
    command(compare=(tmp_path / "a.json", tmp_path / "a.json"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "The two reports do not differ in anything that is compared."
    assert lines[1].startswith("the same in both: study, created,")
