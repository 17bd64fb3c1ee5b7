"""Orthogonal blocks with noise: the Fisher information bound beside what was reached, and what the noise costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.pages.markdown import percent, table
from coordinator.exchange.audit.suite1 import draws_needed

Record = Mapping[str, Any]


def noise_bound(result: Record) -> list[str]:
    """Return the table of the bound and the measured break by sigma, and the table of the noise's cost."""
    lines = [line for line in result["rows"] if any(pool["draws"] for pool in line["pools"])]
    sizes = [pool["pool"] for pool in lines[0]["pools"]] if lines else []
    breaks = [
        [str(line["sigma"]), *(_reached(pool) for pool in line["pools"]), _control(line)] for line in lines
    ]
    costs = [
        [
            str(line["sigma"]),
            f"{line['dfil']:.2g}",
            f"{line['bound_psnr']:.1f}",
            _best_psnr(line),
            f"{line['snr_db']:.1f}",
            percent(result["linear_accuracy"][str(line["sigma"])]),
        ]
        for line in lines
    ]
    unbroken = [str(line["sigma"]) for line in lines if line["smallest_pool"] is None]
    verdict = (
        f"Not broken at these pool sizes: σ = {', '.join(unbroken)}."
        if unbroken
        else f"Broken at every σ that was tried, up to {lines[-1]['sigma'] if lines else 0} gray levels."
    )
    untouched = [str(line["sigma"]) for line in lines if _is_broken_as_it_is(line)]
    if untouched:
        verdict += (
            f" For σ = {', '.join(untouched)} one image is enough, without an attack: the ciphertext as it is names "
            "its image among others (R)."
        )
    return [
        "`noisy_orthogonal` on brain MRI, blocks of 16, attacked by `moment_matching` with public images of the same "
        "source. σ is the noise's standard deviation in gray levels.",
        "",
        f"**{verdict}**",
        "",
        *table(["σ", *(f"{size} sealed images" for size in sizes), "ciphertext as it is"], breaks),
        "The *bound* is the PSNR that no unbiased reconstruction exceeds, even if the matrix is known. The attack "
        "exceeds it where it knows more of images than the noise hides: such estimates are biased. *SNR* is the "
        f"pixels' variance (standard deviation {result['pixel_deviation']:.1f}) over the noise's. The linear model "
        "(ridge regression on all pixels, trained and tested under the same noise) reaches "
        f"{percent(result['linear_accuracy']['0'])} % without noise.",
        "",
        *table(["σ", "dFIL", "bound, dB", "attack's PSNR, dB", "SNR, dB", "linear model, %"], costs),
    ]


def _reached(pool: Record) -> str:
    """Return how many draws one pool size broke, with the attack's R, V and SSIM."""
    if not pool["draws"]:
        return "not run"
    counts = f"{pool['broken']} of {pool['draws']}"
    return f"{counts} broken: R {pool['R']:.2f}, V {pool['V']:.2f}, SSIM {pool['ssim']:.2f}"


def _control(line: Record) -> str:
    control = line["as_is"]
    if not control["draws"]:
        return "not run"
    return f"{control['broken']} of {control['draws']} broken from {control['pool']}: R {control['R']:.2f}"


def _is_broken_as_it_is(line: Record) -> bool:
    control = line["as_is"]
    return bool(control["draws"]) and control["broken"] >= draws_needed(control["draws"])


def _best_psnr(line: Record) -> str:
    return f"{max(pool['psnr'] for pool in line['pools'] if pool['psnr'] is not None):.1f}"
