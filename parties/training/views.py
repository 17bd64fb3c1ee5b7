"""Augmentation of sealed images: opened, altered and sealed again, in memory and inside the hospital.

For a model that reads sealed images, an image must be altered before it is sealed. Several such views of one image,
sealed beforehand under one key, would give the cloud pairs of ciphertexts whose plain images are mirrored or shifted
copies of each other. Views are therefore never written or sent. The party that trains must hold the key: it is a
hospital, and never the provider.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coordinator.model.augmentation import alter
from crypto.arrays import AnyArray, Int64Array, Rows
from crypto.cipher import Cipher
from crypto.scheme import load
from crypto.sets.dataset import SealedDataset
from parties.sealing.place import Place


@dataclass(frozen=True, repr=False)  # the cipher is as secret as its key
class Views:
    """A sealed set with its cipher, for schemes and key scopes whose key is the same for every row."""

    sealed: SealedDataset
    cipher: Cipher

    @property
    def labels(self) -> Int64Array:
        """The class of each image, int64 [n]."""
        return self.sealed.labels

    def rows(self, rows: Rows) -> AnyArray:
        """Return the images of these rows as they were sealed: int64 [r] → [r, *sealed_shape]."""
        return self.sealed.rows(rows)

    def views(self, rows: Rows, augment: str, random: np.random.Generator) -> AnyArray:
        """Return the images of these rows, altered at random as the plan says, sealed again under the same key."""
        plain = self.cipher.decrypt(self.sealed.rows(rows))
        return np.asarray(self.cipher.encrypt(alter(np.asarray(plain), augment, random)))


def open_views(place: Place, sealed: SealedDataset) -> Views:
    """Open the hospital's key for a sealed set. Raise CipherwardError if it did not seal it, or does not open it."""
    key, scheme = place.key(), load(sealed.spec)
    scheme.require_invertible("set augment to none")
    sealed.require_key(key)
    return Views(sealed, scheme.cipher(key))
