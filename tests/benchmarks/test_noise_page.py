"""The page of noisy orthogonal blocks says where the ciphertext alone breaks the scheme."""

from __future__ import annotations

from typing import Any

from benchmarks.pages.noise import noise_bound


def test_a_sigma_that_the_ciphertext_alone_breaks_is_said_to_be_so() -> None:
    def line(sigma: int, broken: int) -> dict[str, Any]:
        pool = {"pool": 10, "draws": 3, "broken": 3, "R": 0.9, "V": 0.5, "ssim": 0.4, "psnr": 12.0}
        control = {"pool": 1, "draws": 3, "broken": broken, "R": 0.2}
        figures = {"dfil": 1.0, "bound_psnr": 10.0, "snr_db": 3.0, "smallest_pool": 10}
        return {"sigma": sigma, "pools": [pool], "as_is": control, **figures}

    result = {
        "rows": [line(8, 1), line(16, 2)],
        "linear_accuracy": {"0": 0.7, "8": 0.7, "16": 0.6},
        "pixel_deviation": 50.0,
    }
    text = "\n".join(noise_bound(result))
    assert "For σ = 16 one image is enough, without an attack" in text
    assert "| 8 | 3 of 3 broken: R 0.90, V 0.50, SSIM 0.40 | 1 of 3 broken from 1: R 0.20 |" in text
