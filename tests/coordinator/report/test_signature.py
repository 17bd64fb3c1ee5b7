"""Scores are signed: edits, another hospital's identity and a missing signature are found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from coordinator.cli.app import app
from coordinator.exchange.audit.rates import rate_of
from coordinator.exchange.audit.scores import Scores
from coordinator.exchange.audit.scores_file import read_scores
from coordinator.exchange.audit.signature import check_signature, require_signer, scores_digest
from coordinator.exchange.manifest import write_manifest
from coordinator.exchange.plan import Plan
from coordinator.exchange.records import write_record
from coordinator.report.build import build_report
from coordinator.report.consistency import check_report
from coordinator.report.page import render
from coordinator.report.roster import require_on_roster
from coordinator.report.verdict_text import summary_lines
from crypto.errors import CipherwardError
from crypto.files import write_json
from crypto.identity import Identity
from parties.scoring.signing import sign_scores
from tests.support.manifests import identity_of, manifest_of
from tests.support.reports import make_scores
from tests.support.verdicts import HOSPITAL

Change = Callable[[dict[str, Any]], object]


def lower_every_hit(value: dict[str, Any]) -> None:
    """Turn the breaks into none, with rates and bounds that follow: no contradiction is left."""
    for draw in value["draws"]:
        if draw["set"].startswith("control-"):
            continue
        for finding in draw["findings"]:
            finding.pop("K", None)
            for letter in ("V", "R"):
                n = finding[letter]["n"]
                finding[letter] |= dict(rate_of(0, n))


def test_counts_edited_without_a_contradiction_are_found(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    write_record(path, make_scores())
    assert build_report(read_scores(path), "s").verdict.broken
    value = json.loads(path.read_text())
    lower_every_hit(value)
    write_json(path, value)
    with pytest.raises(CipherwardError, match="was changed after hospital-0 signed it"):
        read_scores(path)
    # Without the signature, the forgery would stand: what the report then says is "unsigned", first of all.
    del value["identity"], value["signature"]
    write_json(path, value)
    report = build_report(read_scores(path), "s")
    assert not report.verdict.broken and report.doubts[0].startswith("the scores are unsigned")
    assert "caveat: the scores are unsigned" in "\n".join(summary_lines(report))
    assert "unsigned" in render(report, None)


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.update(attacked_by="cloud"),
        lambda v: v.update(budget_s=1.0),
        lambda v: v["draws"][0].update(key_id="f" * 16),
        lambda v: v["draws"][0]["findings"][0].update(note="edited"),
        lambda v: v["draws"].pop(),
        lambda v: v.update(guesses_sha256="0" * 64),
        lambda v: v["draws"][0].update(role="throwaway"),
        lambda v: [draw.update(second_looks=1) for draw in v["draws"]],
    ],
)
def test_every_field_is_signed(tmp_path: Path, change: Change) -> None:
    path = tmp_path / "scores.json"
    write_record(path, make_scores())
    value = json.loads(path.read_text())
    change(value)
    write_json(path, value)
    with pytest.raises(CipherwardError, match="the signature does not fit"):
        read_scores(path)


def test_a_part_of_a_signature_is_none() -> None:
    scores = make_scores()
    for part in ("identity", "signature"):
        with pytest.raises(CipherwardError, match=r"has a signature without"):
            check_signature(scores.model_copy(update={part: None}))


def test_a_swapped_identity_shows_in_the_fingerprint() -> None:
    """Whoever signs with another key under the hospital's name is not the hospital."""
    stranger = Identity.generate("hospital-0")
    forged = sign_scores(make_scores(reach=0.0), stranger)
    assert check_signature(forged) == stranger.public != HOSPITAL.public
    with pytest.raises(CipherwardError, match="signed by another identity than hospital-0's"):
        require_signer(forged, HOSPITAL.public)
    report = build_report(forged, "s")
    assert report.signer is not None and report.signer.fingerprint == stranger.public.fingerprint
    assert stranger.public.fingerprint in render(report, None)
    # The line alone, put in place of the hospital's, verifies nothing.
    mixed = make_scores().model_copy(update={"identity": stranger.public.line})
    with pytest.raises(CipherwardError, match="was changed after"):
        check_signature(mixed)
    with pytest.raises(CipherwardError, match="is of hospital-0 and signed by hospital-1"):
        check_signature(sign_scores(make_scores(), Identity.generate("hospital-1")))
    unsigned = make_scores().model_copy(update={"identity": None, "signature": None})
    with pytest.raises(CipherwardError, match="is unsigned, but must be signed"):
        require_signer(unsigned, HOSPITAL.public)


def test_a_report_of_a_study_refuses_scores_that_none_of_its_hospitals_signed(tmp_path: Path) -> None:
    plan = Plan(study="s", seed=0, source="phantom", counts=(90, 90, 90), parties=2, image_size=32, block=8)
    write_manifest(tmp_path / "study.json", manifest_of(plan))

    def refusal(party: str, signer: Identity) -> str:
        scores = make_scores().model_copy(update={"party": party, "identity": None, "signature": None})
        write_record(tmp_path / "scores.json", sign_scores(scores, signer))
        words = ["report", str(tmp_path / "scores.json"), "--study", str(tmp_path)]
        absent = str(tmp_path / "absent")
        error = CliRunner().invoke(app, [*words, "--guesses", absent, "--sealed", absent]).exception
        assert isinstance(error, CipherwardError), error
        return error.message

    assert "signed by another identity than p0's" in refusal("p0", Identity.generate("p0"))
    assert "no hospital of the study manifest" in refusal("p7", Identity.generate("p7"))
    write_record(
        tmp_path / "unsigned.json",
        make_scores().model_copy(update={"party": "p0", "identity": None, "signature": None}),
    )
    words = ["report", str(tmp_path / "unsigned.json"), "--study", str(tmp_path)]
    error = CliRunner().invoke(app, [*words, "--guesses", "absent", "--sealed", "absent"]).exception
    assert isinstance(error, CipherwardError) and "is unsigned, but must be signed by p0" in error.message
    # The right signer gets past it, to the guesses that are not there.
    assert "absent" in refusal("p0", identity_of("p0"))


def test_scores_of_an_earlier_key_are_none_of_a_study(tmp_path: Path) -> None:
    """The same hospital signed them: of the sealed sets that it had before."""
    plan = Plan(study="s", seed=0, source="phantom", counts=(90, 90, 90), parties=2, image_size=32, block=8)
    manifest = manifest_of(plan)
    write_manifest(tmp_path / "study.json", manifest)
    now = manifest.statements["p0"].key_id

    def scores_under(key_id: str, **changes: Any) -> Scores:
        scores = make_scores()
        own = scores.draws[0].model_copy(update={"key_id": key_id, **changes})
        edited = {"party": "p0", "draws": (own, *scores.draws[1:]), "identity": None, "signature": None}
        return sign_scores(scores.model_copy(update=edited), identity_of("p0"))

    for own in ({"set_name": "train"}, {"set_name": "set-00000000", "role": "own_key"}):
        require_on_roster(scores_under(now, **own), tmp_path, "scores.json")
        with pytest.raises(
            CipherwardError, match="is of images under key an-earlier-one, and p0 states key"
        ):
            require_on_roster(scores_under("an-earlier-one", **own), tmp_path, "scores.json")
    require_on_roster(scores_under("a-throwaway-one", role="throwaway"), tmp_path, "scores.json")


def test_a_file_read_again_has_the_same_digest(tmp_path: Path) -> None:
    scores = make_scores()
    write_record(tmp_path / "scores.json", scores)
    assert scores_digest(read_scores(tmp_path / "scores.json")) == scores_digest(scores)


def test_a_report_with_another_fingerprint_is_refused() -> None:
    report = build_report(make_scores(), "s")
    assert report.signer is not None
    wrong = report.signer.model_copy(update={"fingerprint": "AAAA-BBBB"})
    with pytest.raises(CipherwardError, match=r"signer\.fingerprint"):
        check_report(report.model_copy(update={"signer": wrong}), "report.json")
    renamed = report.model_copy(update={"scorer": "hospital-1"})
    with pytest.raises(CipherwardError, match=r"signer\.identity"):
        check_report(renamed, "report.json")


def test_scores_of_an_earlier_version_are_read_as_unsigned(tmp_path: Path) -> None:
    value = make_scores().to_json()
    for name in ("identity", "signature", "attacked_by"):
        del value[name]
    write_json(tmp_path / "scores.json", value)
    scores: Scores = read_scores(tmp_path / "scores.json")
    assert check_signature(scores) is None
    assert "unsigned" in build_report(scores, "s").doubts[0]
