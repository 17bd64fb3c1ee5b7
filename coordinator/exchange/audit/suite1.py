"""The numbers of `suite/1`, each with its meaning, and its rule for one finding (docs/suite.md).

suite/2 has the same numbers, and its own rule in suite2.py: new scores are judged by that. The rule for a whole
audit, over its draws and pool sizes, is `coordinator/report/verdict.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from crypto.errors import CipherwardError
from crypto.plural import counted

if TYPE_CHECKING:  # commands import the numbers when they start, and nothing else
    from coordinator.exchange.audit.rates import GalleryRate
    from coordinator.exchange.audit.scores import Figures, Finding

SUITE = "suite/1"

# ---- what is attacked ---------------------------------------------------------------------------

#: Attacks that every audit runs.
ATTACKS = ("as_is", "leading_bit", "pooled_key_recovery")
#: Those of them that use a pool. Where one was left out, nothing is known of pools by the suite.
ON_POOLS = ("pooled_key_recovery",)
#: Every attack that there is, in the suite or not: a hospital refuses another name before it seals anything. The
#: registry itself is the cloud's.
ATTACK_NAMES = (
    *ATTACKS,
    "brute_force",
    "chosen_plaintext",
    "edge_guided",
    "gan",
    "itn",
    "jigsaw",
    "known_pairs",
    "learned_stem",
    "match_tokens",
    "minimum_difference",
    "moment_matching",
    "reidentify",
    "sia_gan",
    "updates",
    "weights",
)
#: Those of them that use public images.
PUBLIC_ATTACKS = ("gan", "itn", "match_tokens", "moment_matching", "reidentify", "sia_gan")
#: Pool sizes: how many sealed images under one key an attack is given.
POOLS = (1, 2, 5, 10, 20, 50, 100)
#: The pool sizes as an option takes them.
POOLS_TEXT = ",".join(map(str, POOLS))
#: Draws of key and pool that an audit should have.
DRAWS = 3
#: The most that can be asked for: each is a sealed set of its own, under a key of its own.
MAX_DRAWS = 99
#: Blind controls of an audit that a cloud runs: further draws, which the hospital attacks as well. Chosen by hand: a
#: cloud that withholds its successes on two of five draws at random meets a control in 7 of 10 cases.
BLIND_CONTROLS = 2
#: Audit rows of a draw, unless a plan or a command says otherwise. Even rows register, odd rows are scored.
AUDIT_ROWS = 128
#: Plain images of a gallery, unless a plan or a command says otherwise.
GALLERY_IMAGES = 1000
#: Scored rows that a draw should have.
ROWS = 64
#: Plain images that a gallery should have, and must have.
GALLERY = 200
MIN_GALLERY = 8
#: Seconds that an attack may take at one pool size, at least.
MIN_BUDGET_S = 0.01
#: Images that a sealed set needs to be audited: half of fewer images gives no figures.
MIN_SET_IMAGES = 32
#: Rows that must be scored: fewer would be a look at single images.
MIN_SCORED_ROWS = 8
#: Audit rows that can be asked for: half of them are scored.
MIN_AUDIT_ROWS = 2 * MIN_SCORED_ROWS
#: Rows that are guessed for each row that is scored, because near-duplicates are dropped.
SPARE_ROWS = 1.25
#: Largest share of a set that is guessed, as a divisor, and rows that are guessed of the smallest sets nevertheless.
MAX_SET_PART = 2
MIN_GUESSED_ROWS = 4
#: Rows that a report shows as pictures.
PICTURED = 6

# ---- when a figure counts -----------------------------------------------------------------------

#: K: median SSIM from which a recovered key opens audit images.
OPENS = 0.90
#: V: SSIM by which a guess must beat every baseline of its row.
MARGIN = 0.10
#: R and V: least value of the lower 95 % Wilson bound.
FLOOR = 0.05
#: R: the lower bound must also reach this many times chance, 1 / gallery.
TIMES_CHANCE = 10
#: The share of draws in which a break must show: numerator and denominator.
QUORUM = (2, 3)

# ---- how guesses and images are measured --------------------------------------------------------

#: SSIM: window side in pixels.
WINDOW = 7
#: Standard deviation in gray levels: flatter windows score high whatever the guess, so they do not count.
TEXTURE = 2.0
#: Correlation of 32×32 thumbnails above which two images are near-duplicates, and count once.
NEAR_DUPLICATE = 0.97
#: Share of the rows that must have a guess of their own, neither flat nor repeated.
MIN_DISTINCT = 0.75

# ---- figures of images that are not public ------------------------------------------------------

#: Step of SSIM figures.
SSIM_STEP = 0.01
#: Step of PSNR figures, in dB.
PSNR_STEP = 1.0
#: Steps of a rate that decides nothing: twentieths, that is .05.
RATE_STEPS = 20


def require_public_use(names: Sequence[str]) -> None:
    """Raise CipherwardError if all these attacks are known and none uses public images, which would be left out."""
    if all(name in ATTACK_NAMES and name not in PUBLIC_ATTACKS for name in names):
        verb = "uses" if len(names) == 1 else "use"
        raise CipherwardError(
            f"--public: {', '.join(names)} {verb} no public images",
            f"leave --public out, or name an attack that uses some: {', '.join(PUBLIC_ATTACKS)}",
        )


def require_enough_to_audit(images: int, what: str) -> None:
    """Raise CipherwardError if a set has too few images to attack some of them and audit others.

    Args:
        images: how many it has.
        what: which set, in words that "holds N images" follows.
    """
    if images < MIN_SET_IMAGES:
        raise CipherwardError(
            f"{what} holds {counted(images, 'image')}: too few to attack some and audit others",
            f"an audit needs at least {MIN_SET_IMAGES} images, and says little below 128",
        )


def is_above_chance(rate: GalleryRate) -> bool:
    """Return whether a share of named images counts: its lower bound reaches max(.05, 10/G)."""
    return rate.low >= max(FLOOR, TIMES_CHANCE / rate.gallery)


def breaking_measures(figures: Figures) -> tuple[str, ...]:
    """Return which of K, R and V break the scheme by the figures of one guess.

    K: the recovered key opens audit images, median SSIM at least .90. R: the lower 95 % Wilson bound reaches
    max(.05, 10/G). V: it reaches .05.
    """
    letters = []
    if figures.key_opening is not None and figures.key_opening.opens:
        letters.append("K")
    if is_above_chance(figures.reidentified):
        letters.append("R")
    if figures.visible.low >= FLOOR:
        letters.append("V")
    return tuple(letters)


def readable_by(finding: Finding) -> tuple[str, ...]:
    """Return by which of R and V the second look of a finding shows pictures; a crashed attack shows nothing."""
    return () if finding.error or finding.figures is None else readable_measures(finding.figures)


def readable_measures(figures: Figures) -> tuple[str, ...]:
    """Return by which of R and V a second look shows pictures in the negative, turned or shifted.

    The thresholds are those of `breaking_measures`, the bounds are corrected for the search. suite/1 reports it
    beside its verdict, without shifts; under suite/2 it is a break.
    """
    look = figures.second_look
    if look is None:
        return ()
    letters = {"R": is_above_chance(look.reidentified), "V": look.visible.low >= FLOOR}
    return tuple(letter for letter, holds in letters.items() if holds)


def draws_needed(draws: int) -> int:
    """Return how many of so many draws make two thirds."""
    return math.ceil(QUORUM[0] * draws / QUORUM[1])
