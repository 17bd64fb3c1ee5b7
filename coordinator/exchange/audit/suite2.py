"""The rule of `suite/2`, which new scores are judged by, and the rule of a file by the name that it states.

The numbers of suite/2 are those of suite/1 (suite1.py). Three things are different (docs/suite.md):

- Every scheme is granted the negative, the eight turns and shifts by whole blocks. What a guess shows under them is a
  break, with bounds that are corrected for the search. Under suite/1 it was reported beside the verdict.
- Guesses about other images, which a guess must exceed, are moved by an element of their own, as guesses are.
- Every attack that ran states its confidence.
- K and V count only if at least MIN_SCORED_ROWS of the scored rows have texture: a median of fewer is a look at
  single images.

Files of suite/1 stay readable: they are judged by the rule that they name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.exchange.audit import suite1
from crypto.errors import CipherwardError

if TYPE_CHECKING:  # commands import the numbers when they start, and nothing else
    from coordinator.exchange.audit.scores import Figures, Finding

SUITE = "suite/2"
#: The rules that this version can judge by.
SUITES = (suite1.SUITE, SUITE)

#: The confidence of an attack from which it believes what it found (coordinator/adversary/contract.py).
BELIEVED = 0.5


def require_known(suite: str, where: str) -> None:
    """Check that this version has the rule that a file names.

    Raises:
        CipherwardError: If it does not.
    """
    if suite not in SUITES:
        raise CipherwardError(
            f"{where} was judged by {suite!r:.60}, which this version does not know: {', '.join(SUITES)}",
            "read it with the version of cipherward that wrote it, or a later one",
        )


def counts_looks(suite: str) -> bool:
    """Return whether a rule counts what is readable in the negative, turned or shifted as a break."""
    return suite != suite1.SUITE


def breaking_measures(figures: Figures, suite: str) -> tuple[str, ...]:
    """Return which of K, R and V break the scheme by the figures of one guess, under a rule.

    Under suite/2, R and V count as they are under the declared orbit, or under the second look with its corrected
    bounds, and K and V where enough rows have texture.
    """
    letters = set(suite1.breaking_measures(figures))
    if counts_looks(suite):
        letters |= set(suite1.readable_measures(figures))
        letters -= set() if shows_texture(figures) else {"K", "V"}
    return tuple(letter for letter in "KRV" if letter in letters)


def shows_texture(figures: Figures) -> bool:
    """Return whether enough scored rows have texture, so that SSIM says something of them."""
    return figures.visible.n >= suite1.MIN_SCORED_ROWS


def broken_by(finding: Finding, suite: str) -> tuple[str, ...]:
    """Return which of K, R and V break the scheme by this finding of one draw. A crashed attack breaks nothing."""
    return () if finding.error or finding.figures is None else breaking_measures(finding.figures, suite)
