"""K and V are medians and shares of rows with texture: of too few rows they decide nothing."""

from __future__ import annotations

import pytest

from coordinator.exchange.audit.rates import rate_of
from coordinator.exchange.audit.scores import Finding
from coordinator.exchange.audit.suite2 import SUITE, broken_by
from coordinator.report.doubts import doubts_of
from tests.support.verdicts import make_finding, with_as_is


def finding_on(textured: int) -> Finding:
    """Return a finding that opens, shows and names every image, of which so many have texture."""
    finding = make_finding(v=64, r=64, opens=True)
    assert finding.figures is not None
    figures = finding.figures.model_copy(update={"visible": rate_of(textured, textured)})
    return finding.model_copy(update={"figures": figures})


@pytest.mark.parametrize(("textured", "letters"), [(64, "KRV"), (8, "KRV"), (7, "R"), (1, "R"), (0, "R")])
def test_only_enough_rows_with_texture_count(textured: int, letters: str) -> None:
    assert broken_by(finding_on(textured), SUITE) == tuple(letters)


@pytest.mark.parametrize(("textured", "is_doubted"), [(8, False), (7, True), (0, True)])
def test_the_report_says_where_they_do_not_count(textured: int, is_doubted: bool) -> None:
    draws = with_as_is(*[[finding_on(textured)]] * 3)
    words = f"{textured} of the scored rows of a draw have texture: K and V do not count there"
    assert (words in doubts_of(draws, SUITE)) == is_doubted
