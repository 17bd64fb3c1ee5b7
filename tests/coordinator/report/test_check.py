"""`report SCORES --check REPORT`: a report.json that is not what the signed scores make is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from coordinator.cli.app import app
from coordinator.exchange.records import write_record
from coordinator.report.build import build_report
from coordinator.report.report_file import read_report
from crypto.errors import CipherwardError
from crypto.files import write_json
from crypto.identity import Identity
from parties.scoring.signing import sign_scores
from tests.support.reports import TRAINED, make_scores
from tests.support.verdicts import HOSPITAL


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with signed scores, the report of them, and the hospital's public identity."""
    write_record(tmp_path / "scores.json", make_scores())
    write_record(tmp_path / "report.json", build_report(make_scores(), "s", TRAINED))
    (tmp_path / "identity.pub").write_text(HOSPITAL.public.line)
    return tmp_path


def check(folder: Path, *words: str) -> str:
    """Return what the check prints; raise its error."""
    files = [str(folder / "scores.json"), "--check", str(folder / "report.json")]
    done = CliRunner().invoke(app, ["report", *files, *words])
    if done.exception is not None:
        raise done.exception
    return done.output


def test_a_report_is_checked_without_guesses_and_sealed_sets(folder: Path) -> None:
    text = check(folder, "--signed-by", str(folder / "identity.pub"))
    assert "makes: Broken. pooled_key_recovery breaks block_pixel_shuffle with 5 sealed images" in text
    assert f"signed by hospital-0, fingerprint {HOSPITAL.public.fingerprint}: the expected identity" in text
    assert "the whole training section" in text
    assert "compare the fingerprint with the hospital" in check(folder)


def test_a_study_without_a_manifest_names_no_expected_identity(folder: Path) -> None:
    """Whoever removes study.json must not turn any signature into the expected one."""
    (folder / "study").mkdir()
    text = check(folder, "--study", str(folder / "study"))
    assert "the expected identity" not in text and "compare the fingerprint with the hospital" in text
    with pytest.raises(CipherwardError, match="no study at"):
        check(folder, "--study", str(folder / "absent"))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda v: v.update(doubts=["all is well"]), "doubts"),
        (lambda v: v["controls"]["known"].update(said="all is well"), r"controls\.known\.said"),
        (lambda v: v["key_ids"].reverse(), r"key_ids\.0"),
        (lambda v: v["findings"][0].update(seconds=1e9), r"findings\.0\.seconds"),
        (lambda v: v.update(seed=9), "seed"),
        (lambda v: v["scheme"].update(formula_bits=9999.0), r"scheme\.formula_bits"),
        (lambda v: v["signer"].update(signature="AAAA"), r"signer\.signature"),
        (lambda v: v.update(attacked_by="cloud"), "attacked_by"),
        (lambda v: v.update(scored_at="2026-01-01T00:00:00Z"), "scored_at"),
    ],
)
def test_an_edit_that_contradicts_nothing_is_found(
    folder: Path, change: Callable[[dict[str, Any]], object], field: str
) -> None:
    path = folder / "report.json"
    value = json.loads(path.read_text())
    change(value)
    write_json(path, value)
    read_report(path)  # by itself the file is sound
    with pytest.raises(CipherwardError, match=rf"report\.json is not what .*: {field} is"):
        check(folder)


def test_a_failed_control_cannot_be_called_passed(folder: Path) -> None:
    scores = make_scores(noise=1.0)
    report = build_report(scores, "s")
    controls = {name: c.model_copy(update={"ok": True}) for name, c in report.controls.items()}
    assert not report.valid
    write_record(folder / "scores.json", scores)
    write_record(folder / "report.json", report.model_copy(update={"controls": controls, "valid": True}))
    with pytest.raises(CipherwardError, match=r"controls\.noise\.ok is True, not False"):
        check(folder)


def test_the_scores_of_somebody_else_are_refused(folder: Path) -> None:
    forged = sign_scores(make_scores(reach=0.0), Identity.generate("hospital-0"))
    write_record(folder / "scores.json", forged)
    write_record(folder / "report.json", build_report(forged, "s"))
    assert "not broken" in check(folder).lower()
    with pytest.raises(CipherwardError, match="signed by another identity than hospital-0's"):
        check(folder, "--signed-by", str(folder / "identity.pub"))


def test_a_check_needs_scores_and_nothing_else(folder: Path) -> None:
    with pytest.raises(CipherwardError, match="--check makes no report"):
        check(folder, "--guesses", "guesses")


@pytest.mark.parametrize(
    "words",
    [
        ("--signed-by", "identity.pub"),
        ("--study", "s"),
        ("--out", "o"),
        ("--public-plain", "p"),
        ("s.json",),
    ],
)
def test_what_a_comparison_would_leave_out_is_refused(folder: Path, words: tuple[str, ...]) -> None:
    """No signature was looked at, and the reports were called alike."""
    report = str(folder / "report.json")
    with pytest.raises(CipherwardError, match="--compare makes no report"):
        CliRunner().invoke(app, ["report", *words, "--compare", report, report], catch_exceptions=False)
    if words[0] in ("--out", "--public-plain"):
        with pytest.raises(CipherwardError, match="--check makes no report"):
            check(folder, *words)
