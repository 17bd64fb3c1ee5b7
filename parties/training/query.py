"""The hospital's side of an encrypted query: images are sealed under its key before any model reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from coordinator.exchange.plan import Plan
from coordinator.model.belonging import UNKNOWN_CLASS
from coordinator.model.query import classify_images, open_model
from crypto.arrays import Images
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.scheme import load, renewed
from crypto.sets.dataset import SealedDataset
from crypto.sets.writer import seal_images
from parties.sealing.place import Place
from parties.sources.picture import read_picture
from parties.training.stem_file import load_final_model


def read_images(place: Place, paths: Sequence[Path]) -> Images:
    """Read image files as the hospital's own images are read, uint8 [n, h, w, c].

    Raises:
        CipherwardError: if a file is missing or not a usable image; the message names it.
    """
    settings = place.settings
    for path in paths:
        if not path.is_file():
            is_folder = "it is a folder: name the image files in it" if path.is_dir() else ""
            raise CipherwardError(f"no image at {path}", is_folder or "name image files")
    size, channels = settings.image_size, settings.channels
    return np.stack([read_picture(path, size, channels, place.reading) for path in paths])


def _prepare(place: Place, paths: Sequence[Path]) -> tuple[Images, SealedDataset, SecretKey]:
    """Return the images of a query, the sealed set whose settings they get, and its key.

    Raises:
        CipherwardError: if the key scope gives every image a key of its own, or the scheme leaves nothing to read.
            A scheme that puts each image's patches in an order of their own is read whatever the order, and each
            query has a fresh nonce: no order of a set's row comes again.
    """
    images = read_images(place, paths)
    sealed, key = place.sealed("train"), place.key()
    sealed.require_key(key)
    if sealed.spec.key_scope == "image" or (load(sealed.spec).row_keys and load(sealed.spec).is_control):
        raise CipherwardError(
            "every image has its own key, so no model can read a further image",
            "train under key_scope consortium or party",
        )
    return images, sealed, key


def classify(place: Place, paths: Sequence[Path], model: Path, plan: Plan | None) -> list[dict[str, Any]]:
    """Seal images and classify them from their ciphertext only.

    Args:
        place: the hospital, whose key seals the images.
        paths: image files.
        model: a study's model.safetensors.
        plan: the study's plan, for a model of stem mode `private` or `plain`, whose stem must be carried into this
            hospital's key.

    Returns:
        Class and probabilities of each image.

    Raises:
        CipherwardError: if the model belongs to another key, scheme or study, or has other classes.
    """
    images, sealed, key = _prepare(place, paths)
    # A fresh nonce: noise that is drawn for each row must not be that of the set's first rows.
    ciphertexts = load(renewed(sealed.spec)).cipher(key).encrypt(images)
    if plan is not None and plan.stem != "learn":
        final_model = load_final_model(plan, place, len(sealed.classes), model)
        return classify_images(final_model, ciphertexts, sealed.classes)
    served = open_model(model)
    served.belonging.require_match(sealed.spec, sealed.key_id, sealed.classes)
    return classify_images(served.model, ciphertexts, served.classes)


def seal_query(place: Place, paths: Sequence[Path], folder: Path) -> SealedDataset:
    """Seal images into a folder for `cipherward-coordinator classify`. Their class there is `unknown`."""
    images, sealed, key = _prepare(place, paths)
    labels = np.zeros(len(images), np.int64)
    spec = renewed(sealed.spec)
    # An interrupted query of other images must not be gone on with: its answers would be given to these.
    source = f"a query {hashlib.sha256(images.tobytes()).hexdigest()}"
    query, _ = seal_images(folder, images.__getitem__, labels, [UNKNOWN_CLASS], key, spec, source)
    return query
