"""The thresholds of `suite/1`: when one figure of one draw counts (docs/suite.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def above_chance(named: Mapping[str, Any]) -> bool:
    """Whether a share of images named in a gallery counts: its lower 95 % Wilson bound reaches max(.05, 10/G)."""
    return bool(named["low"] >= max(0.05, 10 / named["gallery"]))


def broken_by(finding: Mapping[str, Any]) -> list[str]:
    """Which of K, R and V break a scheme by this finding of one draw.

    K: the recovered key opens audit images, median SSIM at least .90. R and V: the lower 95 % Wilson bound
    reaches max(.05, 10/G) and .05.
    """
    if finding.get("error") or "V" not in finding:
        return []
    found = []
    if finding["K"] is not None and finding["K"]["opens"]:
        found.append("K")
    if above_chance(finding["R"]):
        found.append("R")
    if finding["V"]["low"] >= 0.05:
        found.append("V")
    return found
