"""The Fisher information bound of a scheme with noise, beside what the attacks measured.

Source: K. Maeng et al., "Bounding the Invertibility of Privacy-preserving Instance Encoding using Fisher Information"
(arXiv 2305.04146): no unbiased reconstruction has a mean squared error below 1/dFIL. With a keyed orthogonal matrix
and noise of σ gray levels, dFIL is 1/σ² (crypto/schemes/noisy_orthogonal.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from coordinator.report.records import Report
from coordinator.report.rows import Row
from coordinator.report.wording import images

#: The largest value of a pixel, for the PSNR in dB.
_PEAK = 255.0


def inversion_bound(report: Report, rows: Sequence[Row]) -> str:
    """Return the bound and the best measured reconstruction in a few sentences; empty for a scheme without noise."""
    sigma = report.scheme.noise_sigma
    if not sigma:
        return ""
    bound = 20 * math.log10(_PEAK / sigma)
    sentences = (
        f"Fisher information bound: noise of {sigma:g} gray levels makes dFIL = {sigma**-2:.2g}. No unbiased "
        f"reconstruction errs by less than {sigma:g} gray levels (root mean square; a PSNR of {bound:.1f} dB), even "
        "if the key's matrix is known. "
    )
    scored = [(row.psnr, row) for row in rows if row.psnr is not None]
    if not scored:
        return f"{sentences}Measured: no reconstruction was scored."
    psnr, best = max(scored, key=lambda pair: pair[0])
    sentences += f"Measured: {best.attack} reaches {psnr:.1f} dB with {images(best.size, 'sealed')}. "
    if psnr > bound:
        return (
            sentences
            + "The bound does not cover attackers who know what images look like: their estimates are biased."
        )
    return sentences + "The bound says nothing about what can be seen or linked at such an error."
