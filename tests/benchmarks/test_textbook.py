"""The benchmark of ciphers of textbooks: what a cell measures, and what the page says of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.pages.textbook import textbook
from benchmarks.textbook import NOISE, measure, measure_noise, summarise
from benchmarks.textbook_ciphers import CIPHERS
from tests.support.pictures import smooth

IMAGES = smooth(140, 32, 32)


@pytest.mark.long
@pytest.mark.parametrize(("cipher", "size"), [("xor", 12), ("lines", 4)])
def test_a_broken_cipher_names_and_shows_its_images(cipher: str, size: int) -> None:
    cell = measure(cipher, "cifar 32", IMAGES, size, 0)
    assert cell["has_key"] and cell["named"] >= 0.75 and cell["shown"] >= 0.75 and cell["ssim"] > 0.7


def test_a_cipher_that_nothing_was_tried_on_has_no_key() -> None:
    cell = measure("pixels", "cifar 32", IMAGES, 2, 0)
    assert not cell["has_key"] and cell["uncertain"] and cell["named"] == cell["right"] == 0.0


def test_noise_is_not_believed_to_be_opened() -> None:
    for attack in ("keystream", "line_order"):
        assert measure_noise(attack, 5, 0)["uncertain"]


@pytest.mark.parametrize("cipher", list(CIPHERS))
def test_a_cipher_seals_all_images_by_its_key(cipher: str) -> None:
    seal = CIPHERS[cipher][1]
    sealed = seal(IMAGES[:3], b"one")
    assert sealed.shape == IMAGES[:3].shape and sealed.dtype == np.uint8
    assert np.array_equal(sealed, seal(IMAGES[:3], b"one"))
    assert not np.array_equal(sealed, seal(IMAGES[:3], b"other"))
    assert np.array_equal(sealed[1:], seal(IMAGES[1:3], b"one"))


def _cell(pool: int, draw: int, **figures: Any) -> dict[str, Any]:
    cell = {"cipher": "lines", "kind": "cifar 32", "pool": pool, "draw": draw, "has_key": True}
    known = {"right": 1.0, "ssim": 0.95, "named": 1.0, "shown": 1.0, "uncertain": False}
    return {**cell, **known, "seconds": 0.1, "cpu_seconds": 0.1, "fits": [0.4], **figures}


def test_the_page_tells_the_smallest_pool_that_two_thirds_of_the_draws_broke() -> None:
    failed = {"right": 0.1, "ssim": 0.2, "named": 0.1, "shown": 0.0}
    cells = [_cell(1, draw, **(failed if draw else {})) for draw in range(3)]
    cells += [_cell(2, draw, **({} if draw else failed)) for draw in range(3)]
    cells += [_cell(5, draw, **failed, has_key=False, uncertain=True) for draw in range(3)]
    noise = [
        {"cipher": "keystream", "kind": NOISE, "pool": 5, "draw": d, "uncertain": d > 0, "seconds": 0.1}
        for d in range(4)
    ]
    result = {
        **summarise(cells + noise),
        "kinds": {"cifar 32": "small pictures"},
        "ciphers": {"lines": "an order"},
    }
    page = "\n".join(textbook(result))
    row = next(line for line in page.splitlines() if line.startswith("| an order"))
    assert "| **2** | **2** |" in row or "| 2 | 2 |" in row
    assert "1: 1 of 3; 2: 2 of 3; 5: 0 of 3 (not tried)" in row
    assert "Of 4 pools of noise" in page and "opened 1." in page
