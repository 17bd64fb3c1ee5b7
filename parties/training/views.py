"""Fresh views of a hospital's sealed images: opened, altered and sealed again, in memory and inside the hospital.

An image altered before it was sealed is what augmentation means for a model that reads sealed images. Several such
views of one image, sealed beforehand under one key, would hand who holds the pool pairs of ciphertexts whose plain
images are known to be each other's mirror or shift; so none is ever written or sent. Who trains must hold the
key, which is so under stem modes `private` and `plain` alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coordinator.model.training import flip_shift
from crypto.cipher import Cipher
from crypto.scheme import load
from crypto.sets.dataset import SealedDataset
from parties.sealing.place import Place


@dataclass(frozen=True, repr=False)  # holds a cipher, which is as secret as its key
class Views:
    """A sealed set with its cipher. For schemes and key scopes whose keys are the same for every row."""

    sealed: SealedDataset
    cipher: Cipher

    @property
    def labels(self) -> np.ndarray:
        """int64 [n]"""
        return self.sealed.labels

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """int64 [r] → [r, *sealed_shape], as they were sealed."""
        return self.sealed.rows(rows)

    def views(self, rows: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """int64 [r] → [r, *sealed_shape]: the images mirrored and moved at random, sealed under the same key."""
        plain = self.cipher.decrypt(self.sealed.rows(rows))
        return np.asarray(self.cipher.encrypt(flip_shift(np.asarray(plain), random)))


def views_of(place: Place, sealed: SealedDataset) -> Views:
    """Those of a hospital's sealed set: opens its key. Raises CipherwardError where it is not that set's key."""
    key = place.key()
    sealed.require_key(key)
    return Views(sealed, load(sealed.spec).cipher(key))
