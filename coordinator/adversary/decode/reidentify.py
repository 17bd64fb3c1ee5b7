"""Re-identification without a key (T2): which image of a gallery is this ciphertext?

Source: our own. What a scheme cannot change it leaves in every ciphertext, under any key
(coordinator/exchange/audit/linking.py). A candidate whose invariants equal the ciphertext's is confirmed. Nothing is
decrypted: a guess is a copy out of the gallery, which is `knowledge.public` here. A ciphertext whose image is not in
the gallery stays sealed and is counted as not linked. The attack shows linkability, which an audit reports apart from
its verdict. It says nothing about how well a picture can be recovered.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from coordinator.adversary.contract import Guess, Knowledge
from coordinator.adversary.time_budget import TimeLeft, always
from coordinator.exchange.audit.linking import candidates
from crypto.arrays import AnyArray, Images, Int64Array, Rows
from crypto.errors import CipherwardError
from crypto.scheme import load
from crypto.spec import SchemeSpec

#: What `link` gives for a row without a matching image, and for one that time did not reach.
NO_MATCH, OUT_OF_TIME = -1, -2


def attack(knowledge: Knowledge) -> Guess:
    """Return the gallery's image for every row that has one, the sealed picture for the others.

    Rows that time does not reach stay sealed.

    Raises:
        CipherwardError: If the gallery's images have another shape than the plain ones.
    """
    pool, rows, gallery = knowledge.pool, np.asarray(knowledge.rows, np.int64), knowledge.public
    images = load(pool.spec).picture(pool.images(rows)).copy()
    if gallery is None or not len(gallery):
        return Guess(images, note="needs a gallery of plain images", idle=True)
    if gallery.shape[1:] != pool.spec.image_shape:
        raise CipherwardError(
            f"a gallery of {gallery.shape[1:]} holds no plain images of {pool.spec.image_shape}",
            "bring the gallery to the size and channels of the sealed images",
        )
    matches, counts = link(pool.spec, pool.images, rows, gallery, knowledge.budget.time_left)
    images[matches >= 0] = gallery[matches[matches >= 0]]
    note = f"{(matches >= 0).sum()} of {len(rows)} linked in a gallery of {len(gallery)}"
    if (counts > 1).any():
        note += f", {(counts > 1).sum()} of them to several images"
    late = int((matches == OUT_OF_TIME).sum())
    if late:
        note += f"; truncated: out of time in {late} of {len(rows)} images"
    return Guess(images, note=note)


def link(
    spec: SchemeSpec,
    sealed: Callable[[Rows], AnyArray],
    rows: Rows,
    gallery: Images,
    time_left: TimeLeft = always,
) -> tuple[Int64Array, Int64Array]:
    """Look for the plain image of every row in a gallery.

    Args:
        spec: The scheme.
        sealed: Returns the sealed images of rows.
        rows: int64 [r], the rows to link.
        gallery: uint8 [m, *image_shape], the candidates.
        time_left: Asked between steps.

    Returns:
        int64 [r], the first gallery image that could be each row, NO_MATCH or OUT_OF_TIME; and int64 [r], how many
        gallery images could be each row.
    """
    lists = candidates(spec, sealed, rows, gallery, time_left)
    first = [OUT_OF_TIME if c is None else int(c[0]) if len(c) else NO_MATCH for c in lists]
    return np.array(first, np.int64), np.array([0 if c is None else len(c) for c in lists], np.int64)
