"""Whether ciphertexts of an unknown scheme name their own image without any key.

Every scheme of this program declares what it leaves unchanged (crypto/schemes), and a substitution of gray levels, as
textbooks have it, leaves how often levels occur. Each of these invariants is compared on ciphertexts and plain images
of the unknown scheme, and the one that names most images is reported.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from coordinator.adversary.recover.unknown_scheme import models_of
from coordinator.exchange.audit.linking import matching
from coordinator.exchange.audit.rates import LinkableRate
from crypto.invariants import sorted_histograms
from crypto.scheme import load
from parties.scoring.truth import Truth, linkable_rate, rate_of_links

#: What a substitution of gray levels leaves of an image, in words.
_SORTED = "the sorted histogram"


def links_of(truth: Truth) -> dict[str, LinkableRate]:
    """Return how many ciphertexts of a draw name their own image by each invariant, by the invariant in words.

    Args:
        truth: A draw of an unknown scheme. The invariant of the scheme that stands for it is among those compared.
    """
    specs = {load(spec).kept: spec for spec in (truth.spec, *models_of([truth.spec]))}
    rates = {kept: linkable_rate(dataclasses.replace(truth, spec=spec)) for kept, spec in specs.items()}
    links = {kept: rate for kept, rate in rates.items() if kept is not None and rate is not None}
    if truth.sealed.dtype == np.uint8:
        found = matching(sorted_histograms, lambda rows: truth.sealed[rows], truth.odd, truth.gallery)
        links[_SORTED] = rate_of_links(found, truth)
    return links


def strongest_link(draws: Sequence[Mapping[str, LinkableRate]]) -> tuple[str, list[LinkableRate]]:
    """Return the invariant that names most images over all draws, in words, and its rate in each draw."""
    kept = max(draws[0], key=lambda kept: sum(draw[kept].hits for draw in draws))
    return kept, [draw[kept] for draw in draws]
