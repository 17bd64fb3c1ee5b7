"""The audit on several kinds of pictures: worst cases over panels, told by panel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cipherward.audit import AuditResult
from cipherward.panels import PANELS, PanelResult, audit_panels
from coordinator.exchange.audit.suite2 import SUITE
from coordinator.report.build import build_report
from coordinator.report.pictures import Pictures
from coordinator.report.reach import attacked_up_to
from coordinator.report.report_file import read_report
from crypto.arrays import AnyArray, Images
from crypto.errors import CipherwardError
from tests.support.pictures import smooth
from tests.support.verdicts import CONTROLS, SIGNS, make_finding, make_scores, measured, with_as_is

SMALL: dict[str, Any] = {"sizes": (1,), "draws": 2, "rows": 32, "block": 8, "attacks": ("as_is",)}


def negative_of_color(images: Images, key: bytes) -> AnyArray:
    """Leave gray images readable, and hide images in colour: the verdict depends on the kind of picture."""
    generator = np.random.default_rng(list(key))
    if images.shape[3] == 1:
        return np.roll(255 - images, 1 + key[0] % 5, axis=2)
    masked: Images = images ^ generator.integers(0, 256, images.shape, np.uint8)
    return masked


def result_of(size: int | None) -> AuditResult:
    """Return an audit that broke a scheme with so many images."""
    finding = make_finding(pool=size or 10, v=64 if size else 0)
    draws = [measured(draw) for draw in with_as_is(*[[finding]] * 3)]
    scores = make_scores(draws, [measured(c) for c in (*CONTROLS, SIGNS)], suite=SUITE)
    report = build_report(scores, "s")
    assert report.valid and report.verdict.smallest_pool == size
    return AuditResult(report, Pictures({}), ())


def panels_of(*sizes: int | None) -> PanelResult:
    return PanelResult(dict(zip(PANELS, map(result_of, sizes), strict=False)))


def test_the_worst_cases_are_over_all_panels() -> None:
    result = panels_of(2, 10, 5)
    assert (result.least, result.most, result.missing) == (2, 10, [])
    assert result.broken_from == {"gray scan": 2, "stained tissue": 10, "natural": 5}
    assert "2 images break block_pixel_shuffle on gray scan, and 10 images on every panel" in result.verdict
    assert "stained tissue took the most" in result.verdict
    assert "[natural]" in str(result) and str(result).startswith(result.verdict)


def test_a_panel_that_withstood_is_named() -> None:
    result = panels_of(2, None, 5)
    assert (result.least, result.most, result.broken) == (2, None, True)
    assert "no attack broke it on stained tissue" in result.verdict
    nothing = panels_of(None, None, None)
    assert not nothing.broken and "broken on no panel by suite/2, up to 10 images" in nothing.verdict
    assert "no attack broke it on stained tissue, up to 10 images" in result.verdict


def test_panels_without_an_attack_on_a_pool_are_no_success_of_the_scheme() -> None:
    report = result_of(None).report
    verdict = report.verdict.model_copy(update={"pool_attacked": False})
    untried = AuditResult(report.model_copy(update={"verdict": verdict}), Pictures({}), ())
    result = PanelResult(dict.fromkeys(PANELS, untried))
    assert result.verdict.startswith("Nothing is known about pools of block_pixel_shuffle")
    mixed = PanelResult({"gray scan": result_of(2), "natural": untried})
    assert "nothing is known of pools on natural" in mixed.verdict


def test_a_panel_where_every_pool_is_uncertain_withstood_nothing() -> None:
    finding = make_finding(pool=10, v=0, uncertain=True, fit="fit 0.40, below 0.70")
    draws = [measured(draw) for draw in with_as_is(*[[finding]] * 3)]
    report = build_report(make_scores(draws, [measured(c) for c in (*CONTROLS, SIGNS)], suite=SUITE), "s")
    doubtful = AuditResult(report, Pictures({}), ())
    assert doubtful.uncertain and attacked_up_to(report) == 0
    mixed = PanelResult({"gray scan": result_of(2), "stained tissue": doubtful, "natural": result_of(None)})
    assert (
        "no attack broke it on natural, up to 10 images; nothing is known of pools on stained"
        in mixed.verdict
    )
    assert mixed.verdict.endswith("The attacks are uncertain on stained tissue.")
    nowhere = PanelResult(dict.fromkeys(PANELS, doubtful))
    assert nowhere.verdict.startswith("Nothing is known about pools of block_pixel_shuffle")


def test_a_panel_that_was_not_audited_is_named() -> None:
    result = panels_of(2, 2)
    assert result.missing == ["natural"] and "Not audited on natural" in result.verdict
    assert "the same on every panel" in result.verdict


@pytest.mark.long
def test_a_function_is_audited_on_each_panel(tmp_path: Path) -> None:
    gray = smooth(90, 32, 32)
    colour = np.repeat(gray, 3, axis=3) // np.array([1, 2, 3], np.uint8)
    result = audit_panels(negative_of_color, {"gray scan": gray, "natural": colour}, **SMALL)
    assert result.panels["gray scan"].report.pool.shape == (32, 32, 1)
    assert result.panels["natural"].report.pool.shape == (32, 32, 3)
    assert result.missing == ["stained tissue"]
    assert not result.panels["natural"].report.verdict.broken
    pages = result.write(tmp_path)
    assert [page.parent.name for page in pages] == ["gray-scan", "natural"]
    assert read_report(tmp_path / "natural" / "report.json").suite == "suite/2"


def test_faults_name_their_panel() -> None:
    with pytest.raises(CipherwardError, match="no panel"):
        audit_panels(negative_of_color, {})
    with pytest.raises(CipherwardError, match=r"^natural: "):
        audit_panels(negative_of_color, {"natural": smooth(4, 32, 32)}, **SMALL)
    for panels, message in (
        ([smooth(4, 32, 32)], "the panels came as list"),
        ({"a/b": smooth(4, 32, 32)}, "'a/b' is no name of a panel"),
        ({"..": smooth(4, 32, 32)}, "is no name of a panel"),
        ({"a\nb": smooth(4, 32, 32)}, "is no name of a panel"),
        (
            {"gray scan": smooth(4, 32, 32), "Gray-scan": smooth(4, 32, 32)},
            "would be written into one folder",
        ),
    ):
        with pytest.raises(CipherwardError, match=message):
            audit_panels(negative_of_color, panels, **SMALL)  # type: ignore[arg-type]
    with pytest.raises(CipherwardError, match="labels"):
        audit_panels(negative_of_color, {"natural": smooth(90, 32, 32)}, labels=[0] * 90)


def test_a_panel_that_cannot_be_audited_is_named_before_another_one_is() -> None:
    """An audit of the first panel can take hours."""
    encrypted: list[Images] = []
    images = smooth(40, 32, 32)
    for last, message in (
        (images[:3], "natural: 3 images are too few"),
        (images[:, :30], "natural: blocks of 8"),
        (np.repeat(images[:4], 10, 0), "natural: 4 of 20 images of audit-1 count"),
    ):
        with pytest.raises(CipherwardError, match=message):
            audit_panels(
                lambda some, _: encrypted.append(some), {"gray scan": images, "natural": last}, **SMALL
            )
    assert not encrypted
