"""Re-identification without a key (T2): which image of a gallery is this ciphertext?

Source: our own. What a scheme cannot change it leaves in every ciphertext, under any key (coordinator/exchange/linking.py):
a candidate whose invariants equal the ciphertext's is confirmed. Nothing is decrypted: a guess is a copy out of the
gallery, which `knowledge.public` must hold here, and a ciphertext whose image is not in it stays sealed and is
counted as none. It shows linkability, which an audit tells apart from its verdict, and says nothing of how well a
picture can be recovered.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from coordinator.adversary.contract import Guess, Knowledge
from coordinator.exchange.linking import candidates
from crypto.errors import CipherwardError
from crypto.scheme import load
from crypto.spec import SchemeSpec


def attack(knowledge: Knowledge) -> Guess:
    """The gallery's image for every row that has one, the sealed picture for the others.

    Rows that were not reached in time stay sealed. Raises CipherwardError for a gallery of another shape.
    """
    pool, rows, gallery = knowledge.pool, np.asarray(knowledge.rows, np.int64), knowledge.public
    images, note = load(pool.spec).picture(pool.images(rows)).copy(), "needs a gallery of plain images"
    if gallery is not None and len(gallery):
        if gallery.shape[1:] != pool.spec.image_shape:
            raise CipherwardError(
                f"a gallery of {gallery.shape[1:]} holds no plain images of {pool.spec.image_shape}",
                "bring the gallery to the size and channels of the sealed images",
            )
        found, equals = link(pool.spec, pool.images, rows, gallery, knowledge.budget.time_left)
        images[found >= 0] = gallery[found[found >= 0]]
        note = f"{(found >= 0).sum()} of {len(rows)} linked in a gallery of {len(gallery)}"
        if (equals > 1).any():
            note += f", {(equals > 1).sum()} of them to several images"
        if (found == _LATE).any():
            note += f"; truncated: out of time in {(found == _LATE).sum()} of {len(rows)} images"
    return Guess(images, note=note)


NONE, _LATE = -1, -2


def link(
    spec: SchemeSpec,
    sealed: Callable[[np.ndarray], np.ndarray],
    rows: np.ndarray,
    gallery: np.ndarray,
    time_left: Callable[[], bool] = lambda: True,
) -> tuple[np.ndarray, np.ndarray]:
    """(int64 [r] first gallery image that could be each row, -1 none, -2 out of time; int64 [r] how many could)."""
    every = candidates(spec, sealed, rows, gallery, time_left)
    found = [_LATE if c is None else int(c[0]) if len(c) else NONE for c in every]
    return np.array(found, np.int64), np.array([0 if c is None else len(c) for c in every], np.int64)
