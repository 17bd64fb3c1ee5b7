"""What a cloud states of the pools that it attacked, held against the sealed sets.

A verdict says "up to n", and the hospital attacks its blind controls at the pool sizes that the cloud states. A size
that no pool has would be one at which the hospital cannot look, and at which a cloud can withhold what it broke.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from coordinator.exchange.audit.guesses import Draw
from coordinator.exchange.audit.suite1 import ATTACKS, ON_POOLS
from crypto.errors import CipherwardError
from crypto.plural import agreeing, counted
from crypto.scheme import load

#: The names of attacks and of tiers: they are printed and drawn in reports.
_ATTACK, _TIER = re.compile(r"[a-z][a-z0-9_]{0,39}"), re.compile(r"T[0-5]")


def require_possible_pools(draw: Draw, set_name: str, images_of: Mapping[str, int]) -> None:
    """Check that the pool of a draw, and every guess's part of it, can be of the sets that the draw names.

    Args:
        draw: The draw, as the cloud states it. Its first set is this hospital's.
        set_name: The name of that set, for the message.
        images_of: The number of images in each sealed set of this hospital, by digest.

    Raises:
        CipherwardError: If they cannot be.
    """
    problem = _pool_problem(draw, images_of) or _guess_problem(draw)
    if problem:
        raise CipherwardError(
            f"{draw.name} is about {set_name} but names {problem}", "have it attacked again by the suite"
        )


def require_same_sizes(own: Draw, sizes: Sequence[int], folder: object) -> None:
    """Check that the hospital's own run of the attacks on a pool reached every size that the cloud states.

    Args:
        own: The hospital's own draw of one blind control. Sizes that its set does not have are left out.
        sizes: The pool sizes that the cloud states.
        folder: Where the own run is, for the message.

    Raises:
        CipherwardError: If it did not: what the cloud states of that size would stand alone.
    """
    most = 1 if load(own.spec).is_each_alone else own.images - len(own.rows)
    for attack in ON_POOLS:
        tried = {guess.pool_size for guess in own.guesses if guess.attack == attack}
        missed = sorted(size for size in set(sizes) - tried if size <= most)
        if tried and missed:
            raise CipherwardError(
                f"the hospital's own run of {attack} is not of the {counted(missed[0], 'image')} that the cloud "
                "states",
                f"remove {folder}, and score again",
            )


def _pool_problem(draw: Draw, images_of: Mapping[str, int]) -> str:
    """Return what is wrong with the pool; "" if nothing is."""
    known = [images_of[digest] for digest in draw.digests if digest in images_of]
    others = len(draw.digests) - len(known)
    # Of other hospitals' sets nothing is known here but that each holds an image.
    if draw.images < sum(known) + others or (not others and draw.images != sum(known)):
        held = "more" if others else f"{sum(known):,}"
        return f"{draw.images:,} {agreeing(draw.images, 'image', 'images')}, and its sets hold {held}"
    pool = draw.pool_rows
    if len(np.unique(pool)) < len(pool) or not np.all((pool >= 0) & (pool < draw.images)):
        return "a pool of images that its sets do not hold"
    return "a pool that holds images to be guessed" if np.isin(draw.rows, pool).any() else ""


def _guess_problem(draw: Draw) -> str:
    """Return what is wrong with what the guesses are said to be; "" if nothing is."""
    for guess in draw.guesses:
        if not _ATTACK.fullmatch(guess.attack) or not _TIER.fullmatch(guess.tier):
            return "an attack or a tier that no attack has"
        on_pool = guess.attack in ON_POOLS
        if guess.attack in ATTACKS and (guess.uses_pool != on_pool or guess.tier not in ("T0", "T1")):
            return f"{guess.attack} with what it does not need"
        # Without a pool an attack has the one image that it opens: another size would be part of the verdict's "up
        # to n". So it has where every image has a key of its own.
        most = len(draw.pool_rows) if guess.uses_pool and not load(draw.spec).is_each_alone else 1
        if not 1 <= guess.pool_size <= most:
            noun = agreeing(guess.pool_size, "image", "images")
            return f"{guess.attack} with {guess.pool_size:,} sealed {noun}, of {most:,}"
    return ""
