"""The hospital's side of an encrypted query: images are sealed under its key before anybody is asked about them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from coordinator.exchange.plan import Plan
from coordinator.model.query import open_model, predictions
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.scheme import load
from crypto.sets.dataset import SealedDataset
from crypto.sets.writer import seal_images
from parties.sealing.place import Place
from parties.sources.picture import read_picture
from parties.training.stem import final_model


def read_images(place: Place, paths: Sequence[Path]) -> np.ndarray:
    """uint8 [n, h, w, c] of image files, as the hospital's own are read. Raises CipherwardError naming a bad one."""
    settings = place.settings
    for path in paths:
        if not path.is_file():
            raise CipherwardError(f"no image at {path}", "name PNG or JPEG files")
    return np.stack([read_picture(path, settings.image_size, settings.channels) for path in paths])


def _asked(place: Place, paths: Sequence[Path]) -> tuple[np.ndarray, SealedDataset, SecretKey]:
    """The images of a query, the set whose settings they are sealed by, and its key.

    Raises CipherwardError where every row has a key of its own: no model can read a further image, and row 0 of a
    query under the set's nonce would be sealed by the key that sealed row 0 of the set.
    """
    images = read_images(place, paths)
    sealed, key = place.sealed("train"), place.key()
    sealed.require_key(key)
    if load(sealed.spec).row_keys:
        raise CipherwardError(
            "where every image has a key of its own, no model can read a further one",
            "train under key_scope consortium or party",
        )
    return images, sealed, key


def classify(place: Place, paths: Sequence[Path], model: Path, plan: Plan | None) -> list[dict[str, Any]]:
    """Class and probabilities of each image, by the model, from its ciphertext alone.

    plan: the study's, for a model of stem mode `private` or `plain`, whose stem is carried into this hospital's
    key. Raises CipherwardError where the model reads other images than this hospital seals.
    """
    images, sealed, key = _asked(place, paths)
    ciphertexts = load(sealed.spec).cipher(key).encrypt(images)
    if plan is not None and plan.stem != "learn":
        return predictions(
            final_model(plan, place, len(sealed.classes), model), ciphertexts, sealed.classes
        )
    served = open_model(model)
    if (served.scheme, served.shape) != (sealed.spec.name, sealed.sealed_shape):
        raise CipherwardError(
            f"{model} reads {served.scheme} of {served.shape}, this hospital seals {sealed.spec.name} "
            f"of {sealed.sealed_shape}",
            "name the model that was trained on these images",
        )
    return predictions(served.model, ciphertexts, served.classes)


def seal_query(place: Place, paths: Sequence[Path], folder: Path) -> SealedDataset:
    """Seals images into a folder for `cipherward-coordinator classify`; their class in it is `unknown`."""
    images, sealed, key = _asked(place, paths)
    labels = np.zeros(len(images), np.int64)
    made, _ = seal_images(folder, images.__getitem__, labels, ["unknown"], key, sealed.spec, "a query")
    return made
