"""Schemes of odd forms get the verdict that they deserve, or a sentence on what they do."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cipherward.audit import audit, audit_ciphertexts
from cipherward.function import FunctionUnderAudit
from coordinator.adversary.recover import unknown_scheme
from crypto.arrays import AnyArray, Images
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.scheme import describe, load
from tests.support import made_up_schemes as made_up
from tests.support.pictures import smooth

IMAGES = smooth(90, 32, 32)
AS_IS: dict[str, Any] = {"sizes": (10,), "draws": 1, "rows": 32, "block": 8, "attacks": ("as_is",)}
OF_SETS = {name: value for name, value in AS_IS.items() if name != "draws"}


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


@pytest.mark.long
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


def on_a_scale_of_its_own(by: float, level: float) -> Callable[[Images, bytes], AnyArray]:
    """Return a scheme on bytes whose ciphertexts are real numbers on a scale of their own."""
    return lambda images, key: (made_up.mosaic(images, key).astype(np.float32) - level) * np.float32(by)


def by_channel(images: Images, key: bytes) -> AnyArray:
    """Return colour images with another scale for each channel, as normalisation by channel leaves them."""
    colour = np.repeat(made_up.mosaic(images, key), 3, axis=3).astype(np.float32)
    return colour * np.array([0.9, 1.1, 1.3], np.float32) - np.array([1.1, 2.2, 3.3], np.float32)


def normalised(images: Images, key: bytes) -> AnyArray:
    """Shuffle images on [-1, 1], and bring the ciphertexts back to gray levels."""
    sealed = (made_up.mosaic(images, key).astype(np.float32) / 255 - np.float32(0.5)) / np.float32(0.5)
    return np.float32(127.5) * (sealed + 1)


@pytest.mark.parametrize(
    "encrypt",
    [
        normalised,
        on_a_scale_of_its_own(1, 127.5),
        on_a_scale_of_its_own(1, 128),
        on_a_scale_of_its_own(-1.7, 0),
    ],
)
def test_bytes_on_a_scale_of_their_own_are_no_real_numbers(
    encrypt: Callable[[Images, bytes], AnyArray],
) -> None:
    with pytest.raises(CipherwardError, match="levels, up to rounding, so they are bytes on another scale"):
        audit(encrypt, IMAGES, **AS_IS)
    with pytest.raises(CipherwardError, match="levels, up to rounding"):
        audit_ciphertexts([encrypt(IMAGES, bytes([key]) * 32) for key in (1, 2)], IMAGES, **OF_SETS)


def test_every_channel_may_have_a_scale_of_its_own() -> None:
    with pytest.raises(CipherwardError, match="levels, up to rounding"):
        audit_ciphertexts(by_channel(IMAGES, bytes(32)), np.repeat(IMAGES, 3, axis=3), **OF_SETS)


@pytest.mark.long
def test_real_ciphertexts_of_blocks_are_audited_as_such() -> None:
    cipher = load(describe("orthogonal", IMAGES.shape[1:], 8)).cipher(SecretKey(bytes(32)))
    assert audit_ciphertexts(np.asarray(cipher.encrypt(IMAGES)), IMAGES, **OF_SETS).report.draws


def faint(images: Images, key: bytes) -> Images:
    """Leave the picture as it is, in four gray levels of one brightness for each image."""
    return np.stack([(image >> 6) + np.uint8(_drawn(image, key) // 2) for image in images])


def test_a_picture_too_faint_to_be_measured_is_no_ciphertext() -> None:
    noise = np.random.default_rng(0).random(IMAGES.shape, np.float32) / 3
    for noisy in (0, noise):
        sealed = [faint(IMAGES, bytes([key])) + noisy for key in (1, 2)]
        with pytest.raises(
            CipherwardError, match="ciphertexts differ from one gray by 2 gray levels or less"
        ):
            audit_ciphertexts(sealed, IMAGES, **OF_SETS)
    with pytest.raises(CipherwardError, match="though somebody may see the picture"):
        audit(faint, IMAGES, **AS_IS)


def _each(image: Images, number: int) -> Images:
    """Return an image mirrored, turned and in the negative, as the bits of a number say."""
    moved = np.rot90(image[:, ::-1] if number & 1 else image, number >> 1 & 3)
    return 255 - moved if number & 8 else moved


def turned_each(images: Images, key: bytes) -> Images:
    """Turn, mirror or invert every picture, as key and image decide."""
    return np.stack([_each(image, _drawn(image, key)) for image in images])


@pytest.mark.long
def test_pictures_that_are_each_turned_or_inverted_are_broken_by_looking_at_them(tmp_path: Path) -> None:
    result = audit(turned_each, IMAGES, **AS_IS)
    assert result.valid, result
    assert "as_is_each" in result.write(tmp_path / "report").read_text()
    assert result.report.verdict.broken_at == {"as_is_each": 1} and "as_is_each breaks" in result.verdict


@pytest.mark.long
def test_a_look_at_each_image_is_told_only_where_it_shows_more() -> None:
    for encrypt, is_broken in ((made_up.identity, True), (made_up.stream, False)):
        result = audit(encrypt, IMAGES, **AS_IS)
        assert result.valid and result.broken is is_broken
        assert "as_is_each" not in str(result)
        assert not any(finding.attack == "as_is_each" for finding in result.report.findings)


@pytest.mark.long
def test_a_scheme_with_too_many_blocks_for_its_attack_is_not_called_unbroken() -> None:
    images = smooth(70, 66, 66)
    spec = describe("block_pixel", images.shape[1:], 2)

    def encrypt(images: Images, key: bytes) -> AnyArray:
        return np.asarray(load(spec).cipher(SecretKey(key)).encrypt(images))

    settings = {**AS_IS, "attacks": ("as_is", "pooled_key_recovery"), "block": 2, "family": "block_pixel"}
    result = audit(encrypt, images, **settings)
    assert result.valid and not result.broken and result.uncertain
    assert result.verdict.startswith("Attack uncertain: what pooled_key_recovery at 10 images found")
    assert "not sought: 1089 blocks of 4 values" in str(result)


@pytest.mark.long
def test_recoveries_that_run_out_of_time_are_named_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """block_pixel has an order for each of 16 blocks here, and the control's key one order of 16 pixels."""
    monkeypatch.setattr(unknown_scheme, "MODELS", (("block_pixel", {}),))
    settings = {**AS_IS, "attacks": ("as_is", "pooled_key_recovery"), "budget_s": 1e-4}
    result = audit(made_up.stream, IMAGES, **settings)
    assert not result.valid and result.verdict.startswith("INVALID")
    assert not any(f.is_complete for f in result.report.findings if f.attack == "pooled_key_recovery")
