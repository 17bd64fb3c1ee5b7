"""Divide a split's images among the hospitals of a simulated study."""

from __future__ import annotations

import numpy as np

from crypto.arrays import Int64Array, Rows
from crypto.errors import CipherwardError
from crypto.plural import counted


def iid(labels: Int64Array, parties: int, seed: int) -> list[Rows]:
    """Deal images uniformly. Shares differ by at most one image.

    Returns:
        Each party's rows, int64, rising.
    """
    order = np.random.default_rng([seed, 1]).permutation(len(labels))
    return [np.sort(part) for part in np.array_split(order, parties)]


def dirichlet(labels: Int64Array, parties: int, seed: int, alpha: float, least: int = 1) -> list[Rows]:
    """Deal each class in proportions drawn from a Dirichlet distribution (non-IID shares).

    Source: Hsu, Qi, Brown 2019 (arXiv 1909.06335). With a small alpha, each hospital sees few classes.

    Args:
        labels: Class of each image, int64 [n].
        parties: Number of hospitals.
        seed: The study's seed.
        alpha: Concentration of the distribution.
        least: A deal that leaves a party with fewer images is drawn again, at most 100 times.

    Returns:
        Each party's rows, int64, rising.

    Raises:
        CipherwardError: If none of 100 deals gives each party enough images.
    """
    generator = np.random.default_rng([seed, 2])
    for _ in range(100):
        shares: list[list[Rows]] = [[] for _ in range(parties)]
        for label in np.unique(labels):
            rows = generator.permutation(np.flatnonzero(labels == label))
            cuts = np.cumsum(generator.dirichlet(np.full(parties, alpha)))[:-1]
            for share, part in zip(shares, np.split(rows, (cuts * len(rows)).astype(int)), strict=True):
                share.append(part)
        dealt = [np.sort(np.concatenate(share)) for share in shares]
        if min(len(part) for part in dealt) >= least:
            return dealt
    raise CipherwardError(
        f"no partition of {counted(len(labels), 'image')} gives each of {parties} parties one at alpha {alpha}",
        "use fewer parties, more images or a larger alpha",
    )


def deal(
    labels: Int64Array,
    parties: int,
    seed: int,
    partition: str,
    alpha: float,
    groups: Int64Array | None = None,
) -> list[Rows]:
    """Deal images by the named partition, `iid` or `dirichlet`, and return each party's rows.

    Args:
        labels: Class of each image, int64 [n].
        parties: Number of hospitals.
        seed: The study's seed.
        partition: `iid` or `dirichlet`.
        alpha: Concentration of the Dirichlet distribution.
        groups: Patient of each image, int64 [n], if any has several images: each patient goes to one hospital.

    Raises:
        CipherwardError: If there are fewer images, or patients, than hospitals, or no deal gives each of them one.
    """
    if groups is not None:
        _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
        if len(first) < parties:
            raise CipherwardError(
                f"{counted(len(labels), 'image')} of {counted(len(first), 'patient')} cannot be dealt to {parties} "
                "parties: each patient goes to one",
                "use fewer parties, or images of more patients; if the folders are no patients, say so: groups none",
            )
        whole = deal(labels[first], parties, seed, partition, alpha)
        return [np.flatnonzero(np.isin(inverse, part)) for part in whole]
    if len(labels) < parties:
        raise CipherwardError(
            f"{counted(len(labels), 'image')} cannot be dealt to {parties} parties",
            "use fewer parties, or more images",
        )
    return iid(labels, parties, seed) if partition == "iid" else dirichlet(labels, parties, seed, alpha)
