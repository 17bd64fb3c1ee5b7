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

#: Noise of views is that of rows from here on. No sealed set has so many, and a row's number is below 2^63.
_FIRST_ROW_OF_VIEWS, _ROWS_OF_VIEWS = 1 << 40, 1 << 60


@dataclass(frozen=True, repr=False)  # the cipher is as secret as its key
class Views:
    """A sealed set with its cipher, for schemes and key scopes whose key is the same for every row.

    Attributes:
        sealed: the sealed set.
        cipher: its scheme under its key.
        has_row_noise: whether the scheme adds noise of its own to every row.
    """

    sealed: SealedDataset
    cipher: Cipher
    has_row_noise: bool = False

    @property
    def labels(self) -> Int64Array:
        """The class of each image, int64 [n]."""
        return self.sealed.labels

    def rows(self, rows: Rows) -> AnyArray:
        """Return the images of these rows as they were sealed: int64 [r] → [r, *sealed_shape]."""
        return self.sealed.rows(rows)

    def views(self, rows: Rows, augment: str, random: np.random.Generator) -> AnyArray:
        """Return the images of these rows, altered at random as the plan says, sealed again under the same key.

        A scheme that adds noise to every row draws fresh noise for every view.
        """
        views = alter(self._open(rows), augment, random)
        first = int(random.integers(_FIRST_ROW_OF_VIEWS, _ROWS_OF_VIEWS)) if self.has_row_noise else 0
        return np.asarray(self.cipher.encrypt(views, first))

    def _open(self, rows: Rows) -> AnyArray:
        """Return the plain images of these rows. Noise is taken off row by row: each has its own."""
        sealed = self.sealed.rows(rows)
        if not self.has_row_noise:
            return np.asarray(self.cipher.decrypt(sealed))
        opened = [self.cipher.decrypt(sealed[i : i + 1], int(row)) for i, row in enumerate(rows)]
        return np.concatenate([np.asarray(image) for image in opened])


def open_views(place: Place, sealed: SealedDataset) -> Views:
    """Open the hospital's key for a sealed set. Raise CipherwardError if it did not seal it, or does not open it."""
    key, scheme = place.key(), load(sealed.spec)
    scheme.require_invertible("set augment to none")
    sealed.require_key(key)
    return Views(sealed, scheme.cipher(key), scheme.has_row_noise)
