"""What the true key does with the scored rows: the control that truth, key and ciphertexts belong together."""

from __future__ import annotations

import numpy as np

from crypto.arrays import Rows
from crypto.key import SecretKey
from crypto.scheme import Scheme
from parties.scoring.measures import ssims, summarise
from parties.scoring.truth import Truth


def check_true_key(scheme: Scheme, key: SecretKey, truth: Truth, rows: Rows) -> tuple[float | None, bool]:
    """Return the median SSIM of the scored rows as the true key opens them, and whether it is exact.

    If no key opens the scheme, the plain rows are sealed again instead: the SSIM is None, and exact means that they
    give the very ciphertexts, up to the scheme's rounding.

    Args:
        scheme: The scheme.
        key: The true key.
        truth: The hospital's side of the draw.
        rows: Row in the sealed set of each row of `truth`, int64 [r]. A row may have a key of its own.
    """
    cipher, plain = scheme.cipher(key), truth.plain[truth.odd]
    if not scheme.is_invertible:
        again = np.concatenate(
            [np.asarray(cipher.encrypt(truth.plain[i : i + 1], first=int(rows[i]))) for i in truth.odd]
        )
        sealed = truth.sealed[truth.odd]
        difference = np.abs(again.astype(np.float64) - sealed)
        return None, again.dtype == sealed.dtype and bool((difference <= scheme.sealing_tolerance).all())
    opened = np.concatenate(
        [np.asarray(cipher.decrypt(truth.sealed[i : i + 1], first=int(rows[i]))) for i in truth.odd]
    )
    error, values = np.abs(opened.astype(np.int16) - plain), ssims(opened, plain)
    # Images without texture have no SSIM. Opened to the last value they are what they were.
    median = 1.0 if not (error.any() or np.isfinite(values).any()) else summarise(values).median
    return median, bool((error <= scheme.tolerance).all())
