"""Ciphers of textbooks that are no schemes of this program fall to the audit as a library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cipherward.audit import audit
from cipherward.result import AuditResult
from coordinator.adversary.recover import unknown_scheme
from crypto.arrays import Images
from crypto.scheme import describe
from tests.support.pictures import smooth
from tests.support.textbook_ciphers import (
    added,
    bits_moved,
    bits_moved_and_xored,
    chained,
    lines_moved,
    moved_and_xored,
    pixels_moved,
    planes_moved,
    substituted,
    xored,
)

IMAGES = smooth(110, 32, 32)
SETTINGS: dict[str, Any] = {
    "draws": 1,
    "rows": 32,
    "block": 8,
    "budget_s": 60.0,
    "attacks": ("as_is", "pooled_key_recovery"),
}


@pytest.fixture(autouse=True)
def quick_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try the quick key recoveries of schemes only."""
    quick = tuple(model for model in unknown_scheme.MODELS if model[0] in ("value_shuffle", "etc"))
    monkeypatch.setattr(unknown_scheme, "MODELS", quick)


def keyed(cipher: Callable[[Images, int], Images]) -> Callable[[Images, bytes], Images]:
    """Return a cipher as the audit takes it."""
    return lambda images, key: cipher(images, int.from_bytes(key))


def chained_by_a_map(images: Images, seed: int) -> Images:
    """Return images with pixels in another order, a keystream, and every value chained to the one before it."""
    return chained(moved_and_xored(images, seed))


@pytest.mark.long
@pytest.mark.parametrize(
    ("cipher", "recovery", "images"),
    [
        (xored, "keystream_recovery", 10),
        (added, "keystream_recovery", 40),
        (substituted, "substitution_recovery", 3),
        (lines_moved, "line_order_recovery", 2),
        (pixels_moved, "pixel_order_recovery", 60),
    ],
)
def test_a_cipher_of_a_textbook_is_broken_by_the_attack_on_it(
    cipher: Callable[[Images, int], Images], recovery: str, images: int
) -> None:
    check_is_broken_by(
        recovery, images, audit(keyed(cipher), IMAGES, sizes=(images,), known_pairs=20, **SETTINGS)
    )


@pytest.mark.long
@pytest.mark.parametrize(
    ("cipher", "recovery"),
    [
        (moved_and_xored, "order_and_keystream_recovery"),
        (chained_by_a_map, "chained_recovery"),
        (planes_moved, "plane_orders_recovery"),
    ],
)
def test_a_cipher_by_a_chaotic_map_is_broken_by_the_attack_on_it(
    cipher: Callable[[Images, int], Images], recovery: str
) -> None:
    images = smooth(110, 24, 24)  # the searches take seconds with more pixels
    result = audit(keyed(cipher), images, sizes=(60,), known_pairs=20, **SETTINGS)
    check_is_broken_by(recovery, 60, result)


@pytest.mark.long
def test_an_order_of_all_bits_under_a_keystream_is_broken_by_the_attack_on_it() -> None:
    images = smooth(170, 24, 24).astype(float)
    low, high = images.min((1, 2, 3), keepdims=True), images.max((1, 2, 3), keepdims=True)
    full = (255 * (images - low) / np.maximum(high - low, 1)).astype(
        np.uint8
    )  # the highest bit of each of them varies
    result = audit(keyed(bits_moved_and_xored), full, sizes=(120,), known_pairs=20, **SETTINGS)
    check_is_broken_by("bit_order_recovery", 120, result)


def check_is_broken_by(recovery: str, images: int, result: AuditResult) -> None:
    """Check that an audit is valid, and that a recovery, its choice, and pairs break the cipher."""
    assert result.valid and result.broken
    broken_at = result.report.verdict.broken_at
    assert broken_at["pooled_key_recovery"] == broken_at[recovery] == images
    chosen = [f.fit for f in result.report.findings if f.attack == "pooled_key_recovery"]
    assert all(fit.startswith(f"chosen: {recovery}; fit ") for fit in chosen)
    assert all(finding.is_break for finding in result.pairs)


@pytest.mark.long
@pytest.mark.parametrize("cipher", [xored, added])
def test_pairs_and_chosen_images_give_a_keystream(cipher: Callable[[Images, int], Images]) -> None:
    attacks = {**SETTINGS, "attacks": ("as_is",)}
    result = audit(keyed(cipher), IMAGES, sizes=(1,), known_pairs=1, chosen_plaintext=True, **attacks)
    assert [finding.is_break for finding in result.pairs] == [True, True]
    assert all("one keystream for all images" in str(finding) for finding in result.pairs)


@pytest.mark.long
def test_pairs_and_chosen_images_give_a_substitution() -> None:
    attacks = {**SETTINGS, "attacks": ("as_is",)}
    result = audit(keyed(substituted), IMAGES, sizes=(1,), known_pairs=8, chosen_plaintext=True, **attacks)
    assert [finding.is_break for finding in result.pairs] == [True, True]
    assert all("one substitution of gray levels" in str(finding) for finding in result.pairs)


@pytest.mark.long
def test_chosen_images_give_an_order_of_all_bits() -> None:
    attacks = {**SETTINGS, "attacks": ("as_is",)}
    result = audit(keyed(bits_moved), smooth(110, 16, 16), sizes=(1,), chosen_plaintext=True, **attacks)
    [finding] = result.pairs
    assert finding.is_break and finding.pairs == 40
    assert "one order of all bits" in str(finding) and not result.broken


@pytest.mark.long
@pytest.mark.parametrize("cipher", [moved_and_xored, chained_by_a_map])
def test_more_images_are_chosen_where_two_leave_the_order_of_gray_pixels_open(
    cipher: Callable[[Images, int], Images],
) -> None:
    attacks = {**SETTINGS, "attacks": ("as_is",)}
    result = audit(keyed(cipher), smooth(110, 16, 16), sizes=(1,), chosen_plaintext=True, **attacks)
    [finding] = result.pairs
    assert finding.is_break and finding.pairs == 8


@pytest.mark.long
def test_a_slow_recovery_is_tried_only_if_no_other_is_sound() -> None:
    candidates = unknown_scheme.candidates_of([describe("plain", IMAGES.shape[1:], 8)])
    assert [c.name for c in candidates if c.is_slow] == [
        "pixel_order_recovery",
        "order_and_keystream_recovery",
        "order_and_table_recovery",
        "plane_orders_recovery",
        "bit_order_recovery",
        "chained_recovery",
    ]
    result = audit(keyed(lines_moved), IMAGES, sizes=(4,), **SETTINGS)
    assert (
        "not tried, because another was sound: bit_order_recovery, chained_recovery, order_and_keystream_recovery, "
        "order_and_table_recovery, pixel_order_recovery, plane_orders_recovery" in str(result)
    )


@pytest.mark.long
def test_a_recovery_that_tried_nothing_has_no_row_where_the_ciphertext_shows_its_image() -> None:
    def near_lines_moved(images: Images, key: bytes) -> Images:
        rng = np.random.default_rng(int.from_bytes(key))
        rows, columns = (
            np.concatenate([i + rng.permutation(8) for i in range(0, 32, 8)]) for _ in range(2)
        )
        return images[:, rows][:, :, columns]

    result = audit(near_lines_moved, IMAGES, sizes=(4,), **SETTINGS)
    broken_at = result.report.verdict.broken_at
    assert broken_at["as_is"] == 1 and broken_at["line_order_recovery"] == 4
    assert {finding.attack for finding in result.report.findings} == {*broken_at}
    assert "not tried, because another was sound: bit_order_recovery, chained_recovery" in str(result)


def test_an_order_of_bits_is_sought_in_gray_pictures_alone() -> None:
    def names(channels: int) -> list[str]:
        return [c.name for c in unknown_scheme.candidates_of([describe("plain", (32, 32, channels), 8)])]

    assert set(names(1)) - set(names(3)) >= {"bit_order_recovery"}
    assert "plane_orders_recovery" in names(3)


def test_real_ciphertexts_are_taken_for_no_cipher() -> None:
    assert unknown_scheme.candidates_of([describe("orthogonal", IMAGES.shape[1:], 8)]) == []
