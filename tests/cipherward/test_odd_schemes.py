"""Schemes of odd forms get the verdict that they deserve, or a sentence on what they do."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest

from cipherward.audit import audit
from cipherward.function import FunctionUnderAudit
from coordinator.adversary.recover import unknown_scheme
from crypto.arrays import Images
from tests.support import made_up_schemes as made_up
from tests.support.pictures import smooth

IMAGES = smooth(90, 32, 32)
AS_IS: dict[str, Any] = {"sizes": (10,), "draws": 1, "rows": 32, "block": 8, "attacks": ("as_is",)}


@pytest.fixture(autouse=True)
def quick_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try the quick key recoveries only."""
    quick = tuple(model for model in unknown_scheme.MODELS if model[0] in ("value_shuffle", "etc"))
    monkeypatch.setattr(unknown_scheme, "MODELS", quick)


def _drawn(image: Images, key: bytes) -> int:
    """Return a number that the key and the image decide."""
    return hashlib.sha256(key + image.tobytes()).digest()[0]


def some_stay_plain(images: Images, key: bytes) -> Images:
    """Encrypt all images but every twentieth."""
    sealed = made_up.stream(images, key)
    sealed[19::20] = images[19::20]
    return sealed


def test_images_that_stay_plain_are_found_wherever_they_stand() -> None:
    result = audit(some_stay_plain, IMAGES, **AS_IS)
    assert result.valid and result.broken
    assert result.defects == ("3 of 74 ciphertexts are the plain images, unchanged",)


def even_under_the_negative(images: Images, key: bytes) -> Images:
    """Encrypt how far values are from mid-gray: an image and its negative have one ciphertext."""
    return made_up.mosaic(np.abs(2 * images.astype(np.int16) - 255).astype(np.uint8), key)


def negative_by_chance(images: Images, key: bytes) -> Images:
    """Return the negatives of some images, as key and image decide: for some, the negative's is the image's."""
    return np.stack([255 - image if _drawn(image, key) & 1 else image for image in images])


def test_a_scheme_may_give_an_image_and_its_negative_one_ciphertext() -> None:
    for encrypt in (even_under_the_negative, negative_by_chance):
        function = FunctionUnderAudit(encrypt, None, 32, is_flat=False)
        for number in range(8):  # under some of these keys, an image and its negative have one ciphertext
            keys = [bytes([number]) * 32, bytes([number + 100]) * 32]
            assert not any("key" in defect for defect in function.examine(IMAGES, keys).defects)
