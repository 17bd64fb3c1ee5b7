"""Whether ciphertexts of an unknown scheme name their own image without any key.

Every scheme of this program declares what it leaves unchanged (crypto/schemes). Each of these invariants is compared
on ciphertexts and plain images of the unknown scheme, and the one that names most images is reported.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from coordinator.adversary.recover.unknown_scheme import models_of
from coordinator.exchange.audit.rates import LinkableRate
from crypto.scheme import load
from parties.scoring.truth import Truth, linkable_rate


def strongest_link(truths: Sequence[Truth]) -> tuple[str, list[LinkableRate]]:
    """Return the invariant that names most images over all draws, in words, and its rate in each draw.

    Args:
        truths: The draws of an unknown scheme, under `plain`, whose own invariant is among those compared.
    """
    specs = {load(spec).kept: spec for spec in (truths[0].spec, *models_of([truths[0].spec]))}
    results = []
    for kept, spec in specs.items():
        rates = [linkable_rate(dataclasses.replace(truth, spec=spec)) for truth in truths]
        known = [rate for rate in rates if rate is not None]
        if kept is not None and len(known) == len(truths):
            results.append((sum(rate.hits for rate in known), kept, known))
    _, kept, rates_of_kept = max(results, key=lambda result: result[0])
    return kept, rates_of_kept
