"""Scores that a hospital takes for its own: signed by its identity, and of the sets of the audit they lie in."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from coordinator.exchange.records import write_record
from coordinator.report.build import build_report
from crypto.errors import CipherwardError
from crypto.files import write_json
from crypto.identity import Identity
from parties.agent.identity_file import ensure_identity, identity_path
from parties.cli.app import app
from parties.scoring.local_audit import AuditSettings, audit_place, run_local_audit
from parties.scoring.signing import sign_scores
from parties.sealing.place import Place
from tests.support.reports import make_scores


@pytest.fixture
def home(tmp_path: Path) -> Place:
    """Return a hospital with made images."""
    settings = {
        "party": "hospital-0",
        "source": "phantom",
        "counts": [90, 4, 4],
        "image_size": 32,
        "block": 8,
    }
    place = Place.from_settings(tmp_path / "hospital", settings)
    place.save()
    return place


def test_scores_of_another_audit_are_none_of_this_one(home: Place) -> None:
    """The hospital signed both, so a backup that is put into the wrong folder would be this audit's verdict."""
    settings = AuditSettings(rows=16, gallery=16, pools=(1,), draws=1)
    place, identity = audit_place(home, settings, {}), ensure_identity(home)
    scores = sign_scores(make_scores(), identity)
    place.save()
    write_record(place.folder / "scores.json", scores)
    write_record(place.folder / "report.json", build_report(scores, "hospital-0"))
    first = scores.draws[0]
    rows = place.rows_file(first.set_name)
    write_json(rows, {"digest": "another", "rows": [], "source": place.plain("train").fingerprint()})
    with pytest.raises(CipherwardError, match=f"is of another audit: its {first.set_name} is not the set"):
        run_local_audit(home, settings, {})
    (place.folder / "report.json").unlink()
    with pytest.raises(CipherwardError, match="is of another audit") as error:
        run_local_audit(home, settings, {})
    assert "restore it from a copy" in error.value.hint
    assert not (place.folder / "report.json").exists()


def test_a_hospital_that_lost_its_identity_shows_no_scores_of_whoever_has_its_name(home: Place) -> None:
    ensure_identity(home)
    path = home.folder / "scores.json"
    write_record(path, sign_scores(make_scores(), Identity.generate("hospital-0")))
    words = ["report", str(home.folder), str(path), "--guesses", str(home.folder / "absent")]
    error = CliRunner().invoke(app, words).exception
    assert isinstance(error, CipherwardError) and "signed by another identity" in error.message
    identity_path(home).unlink()
    error = CliRunner().invoke(app, words).exception
    assert isinstance(error, CipherwardError) and "no identity at" in error.message
    assert "restore it from your backup" in error.hint
