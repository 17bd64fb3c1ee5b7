"""Every derived figure of scores.json and report.json, edited one at a time: each edit is named and refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from coordinator.cli.app import app
from coordinator.exchange.audit.consistency import ContradictionError
from coordinator.exchange.audit.scores import Scores
from coordinator.exchange.audit.scores_file import read_scores
from coordinator.exchange.records import parse_record, write_record
from coordinator.report.build import build_report
from coordinator.report.report_file import read_report
from crypto.errors import CipherwardError
from crypto.files import write_json
from parties.scoring.signing import sign_scores
from tests.support.reports import TRAINED, make_report, make_scores
from tests.support.verdicts import HOSPITAL

Change = Callable[[dict[str, Any]], object]


def edited(path: Path, change: Change) -> Path:
    """Change a JSON file and return its path."""
    value = json.loads(path.read_text())
    before = json.dumps(value)
    change(value)
    assert json.dumps(value) != before
    write_json(path, value)
    return path


@pytest.fixture
def scores_path(tmp_path: Path) -> Path:
    write_record(tmp_path / "scores.json", make_scores())
    return tmp_path / "scores.json"


@pytest.fixture
def report_path(tmp_path: Path) -> Path:
    write_record(tmp_path / "report.json", make_report(training=TRAINED))
    return tmp_path / "report.json"


def finding(value: dict[str, Any]) -> dict[str, Any]:
    """Return the first draw's key recovery at 20 images, which opens everything."""
    result: dict[str, Any] = value["draws"][0]["findings"][6]
    return result


SPOT = "draws.0.findings.6"
RATES = {f"{SPOT}.{name}": name for name in ("R", "V", "R_deranged", "classified")}
PLACES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    **{place: lambda v, name=name: finding(v)[name] for place, name in RATES.items()},  # type: ignore[misc]
    "draws.0.linkable": lambda v: v["draws"][0]["linkable"],
    "draws.1.classified.plain": lambda v: v["draws"][1]["classified"]["plain"],
    "draws.2.classified.ciphertext": lambda v: v["draws"][2]["classified"]["ciphertext"],
    "draws.4.findings.0.V": lambda v: v["draws"][4]["findings"][0]["V"],
}


@pytest.mark.parametrize("name", ["rate", "low", "high"])
@pytest.mark.parametrize("place", PLACES)
def test_an_edited_rate_or_bound_is_refused(scores_path: Path, place: str, name: str) -> None:
    rate = PLACES[place]
    shift = 0.01 if name != "high" else -0.01
    change: Change = lambda v: rate(v).update({name: rate(v)[name] + shift})  # noqa: E731
    with pytest.raises(ContradictionError) as error:
        read_scores(edited(scores_path, change))
    assert error.value.message.startswith(f"{scores_path} contradicts itself: {place}.{name}: ")
    assert "\n" not in str(error.value) and error.value.hint


@pytest.mark.parametrize("place", PLACES)
def test_edited_counts_need_other_bounds(scores_path: Path, place: str) -> None:
    """Fewer hits alone leave the rate and its bounds behind."""
    rate = PLACES[place]
    more: Change = lambda v: rate(v).update(hits=rate(v)["hits"] - 1 if rate(v)["hits"] else 1)  # noqa: E731
    with pytest.raises(ContradictionError) as error:
        read_scores(edited(scores_path, more))
    assert f" {place}." in error.value.message


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda v: finding(v)["K"].update(opens=False), f"{SPOT}.K.opens"),
        (lambda v: finding(v)["K"].update(median_ssim=0.2), f"{SPOT}.K.opens"),
        (lambda v: finding(v)["K"].update(median_ssim=7.0), f"{SPOT}.K.median_ssim"),
        (lambda v: finding(v)["K"].update(n=3), f"{SPOT}.K.n"),
        (lambda v: finding(v).update(n=63), f"{SPOT}.V.n"),
        (lambda v: finding(v)["R"].update(gallery=20), f"{SPOT}.R_deranged.n"),
        (lambda v: finding(v)["R"].update(gallery=0), f"{SPOT}.R.gallery"),
        (lambda v: v["draws"][0].update(gallery=20), "draws.0.linkable.n"),
        (lambda v: v["draws"][0].update(rows=12), "draws.0.linkable.n"),
        (lambda v: v["draws"][0]["linkable"].update(ambiguous=5), "draws.0.linkable.ambiguous"),
        (lambda v: v["draws"][0]["linkable"].update(none=-1, ambiguous=1), "draws.0.linkable.ambiguous"),
        (lambda v: finding(v)["R"].update(hits=65), f"{SPOT}.R.hits"),
        (lambda v: finding(v)["R"].update(hits=-1), f"{SPOT}.R.hits"),
        (lambda v: finding(v)["R"].update(n=1 << 70), f"{SPOT}.R.n"),
        (lambda v: finding(v).update(degenerate="flat"), f"{SPOT}.degenerate"),
        (lambda v: finding(v).update(error="MemoryError"), f"{SPOT}.error"),
        (lambda v: finding(v)["ssim"].update(median=2.0), f"{SPOT}.ssim.median"),
        (lambda v: v["draws"][0].update(true_key_ssim=1.5), "draws.0.true_key_ssim"),
        (lambda v: v["draws"][0]["baselines"]["mean"].update(median=3.0), "draws.0.baselines.mean.median"),
        (lambda v: v["draws"][1].update(draw="draw-0"), "draws"),
        (lambda v: v["draws"][0]["findings"].append(finding(v)), "draws.0.findings"),
    ],
)
def test_scores_that_contradict_themselves_name_the_field(
    scores_path: Path, change: Change, field: str
) -> None:
    with pytest.raises(ContradictionError) as error:
        read_scores(edited(scores_path, change))
    assert error.value.message.startswith(f"{scores_path} contradicts itself: {field}: ")


def test_an_edited_rate_was_a_forged_verdict(scores_path: Path) -> None:
    """Lower bounds decide the verdict: without the check, this edit turns "broken" into "not broken"."""

    def lower(value: dict[str, Any]) -> None:
        for draw in value["draws"][:3]:
            for each in draw["findings"]:
                each["R"]["low"] = each["V"]["low"] = 0.0
                if each["K"]:
                    each["K"]["opens"] = False

    assert build_report(read_scores(scores_path), "s").verdict.broken
    forged = parse_record(Scores, json.loads(edited(scores_path, lower).read_text()), "unchecked")
    assert not build_report(sign_scores(forged, HOSPITAL), "s").verdict.broken
    with pytest.raises(ContradictionError, match=r"draws\.0\.findings\.\d\.[RV]\.low"):
        read_scores(scores_path)


def test_the_report_command_refuses_edited_scores(scores_path: Path, tmp_path: Path) -> None:
    edited(scores_path, lambda v: finding(v)["V"].update(low=0.0))
    words = ["report", scores_path, "--guesses", tmp_path, "--sealed", tmp_path, "--out", tmp_path / "out"]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert isinstance(done.exception, ContradictionError) and f"{SPOT}.V.low" in done.exception.message
    assert not (tmp_path / "out").exists()


def of_verdict(**changes: Any) -> Change:
    return lambda value: value["verdict"].update(changes)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (of_verdict(broken=False), "verdict.broken"),
        (of_verdict(broken_by=[]), "verdict.broken_by"),
        (of_verdict(broken_at={"pooled_key_recovery": 50}), "verdict.broken_at"),
        (of_verdict(smallest_pool=100), "verdict.smallest_pool"),
        (of_verdict(smallest_pool=None), "verdict.smallest_pool"),
        (of_verdict(largest_pool=1000), "verdict.largest_pool"),
        (of_verdict(finished_at={}), "verdict.finished_at"),
        (of_verdict(pool_attacked=False), "verdict.pool_attacked"),
        (of_verdict(of_training=["as_is"]), "verdict.of_training"),
        (of_verdict(seconds=1e6), "verdict.seconds"),
        (of_verdict(draws=30), "verdict.draws"),
        (of_verdict(draws_needed=3), "verdict.draws_needed"),
        (of_verdict(linkable=False), "verdict.linkable"),
        (of_verdict(linkable_draws=0), "verdict.linkable_draws"),
        (lambda v: v.update(valid=False), "valid"),
        (lambda v: v["controls"]["noise"].update(ok=False), "valid"),
        (lambda v: v.update(controls={}), "controls"),
        (lambda v: v["findings"][6].update(broken_by=["K"]), "findings.6.broken_by"),
        (lambda v: v["findings"][6].update(broken=False), "findings.6.broken"),
        (lambda v: v["findings"][6]["baseline_ssim"].update(mean=0.9), "findings.6.baseline_ssim"),
        (lambda v: v["findings"][6]["V"].update(low=0.0), "findings.6.V.low"),
        (lambda v: v["findings"][6]["R"].update(rate=0.5), "findings.6.R.rate"),
        (lambda v: v["findings"][6]["K"].update(opens=False), "findings.6.K.opens"),
        (lambda v: v["findings"][6].update(draw="draw-9"), "findings.6.draw"),
        (lambda v: v["findings"].append(v["findings"][6]), "findings"),
        (lambda v: v["draws"][0]["linkable"].update(low=0.0), "draws.0.linkable.low"),
        (lambda v: v["draws"].pop(), "findings.18.draw"),
        (lambda v: v["key_ids"].pop(), "key_ids"),
        (lambda v: v["training"].update(test_accuracy=0.99), "training.test_accuracy"),
        (lambda v: v["training"]["test"].update(high=0.99), "training.test.high"),
        (lambda v: v["training"].update(plain_accuracy=0.5), "training.plain_accuracy"),
        (lambda v: v["training"].update(confusion=[[600, 0], [0, 0]]), "training.confusion"),
    ],
)
def test_a_report_that_contradicts_itself_names_the_field(
    report_path: Path, change: Change, field: str
) -> None:
    with pytest.raises(ContradictionError) as error:
        read_report(edited(report_path, change))
    assert error.value.message.startswith(f"{report_path} contradicts itself: {field}: ")
    assert isinstance(error.value, CipherwardError) and len(str(error.value)) < 900


@pytest.mark.parametrize("reach", [0.0, 1.0])
@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_reports_as_they_are_written_agree(tmp_path: Path, reach: float, noise: float) -> None:
    for draws in (1, 2, 3):
        report = make_report(reach, TRAINED, noise=noise, draws=draws)
        write_record(tmp_path / "report.json", report)
        assert read_report(tmp_path / "report.json") == report


@pytest.mark.parametrize("size", [0, 1601])
def test_a_pool_that_holds_more_than_the_sets_is_refused(scores_path: Path, size: int) -> None:
    edited(scores_path, lambda value: finding(value).update(pool_size=size))
    with pytest.raises(ContradictionError, match=rf"{SPOT}.pool_size: {size} sealed images"):
        read_scores(scores_path)
