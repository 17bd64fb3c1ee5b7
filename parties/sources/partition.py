"""Which of a split's images each hospital of a simulated study holds."""

from __future__ import annotations

import numpy as np

from crypto.errors import CipherwardError


def iid(labels: np.ndarray, parties: int, seed: int) -> list[np.ndarray]:
    """int64 rows for each party: a uniform deal, so that shares differ by one image at most."""
    order = np.random.default_rng([seed, 1]).permutation(len(labels))
    return [np.sort(part) for part in np.array_split(order, parties)]


def dirichlet(
    labels: np.ndarray, parties: int, seed: int, alpha: float, least: int = 1
) -> list[np.ndarray]:
    """int64 rows for each party: each class is dealt in proportions drawn from Dirichlet(alpha).

    Source: Hsu, Qi, Brown 2019 (arXiv 1909.06335). Small alpha makes hospitals that see few classes.
    A deal that leaves a party with fewer than `least` images is drawn again, at most 100 times.
    """
    generator = np.random.default_rng([seed, 2])
    for _ in range(100):
        shares: list[list[np.ndarray]] = [[] for _ in range(parties)]
        for label in np.unique(labels):
            rows = generator.permutation(np.flatnonzero(labels == label))
            cuts = np.cumsum(generator.dirichlet(np.full(parties, alpha)))[:-1]
            for share, part in zip(shares, np.split(rows, (cuts * len(rows)).astype(int)), strict=True):
                share.append(part)
        dealt = [np.sort(np.concatenate(share)) for share in shares]
        if min(len(part) for part in dealt) >= least:
            return dealt
    raise CipherwardError(
        f"no deal of {len(labels)} images gives each of {parties} parties one at alpha {alpha}",
        "use fewer parties, more images or a larger alpha",
    )


def deal(labels: np.ndarray, parties: int, seed: int, how: str, alpha: float) -> list[np.ndarray]:
    """The named partition, `iid` or `dirichlet`."""
    if len(labels) < parties:
        raise CipherwardError(f"{len(labels)} images cannot be dealt to {parties} parties")
    return iid(labels, parties, seed) if how == "iid" else dirichlet(labels, parties, seed, alpha)
