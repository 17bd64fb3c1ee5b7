"""Made-up reports of every kind, with scores no audit gave: for tests of what is done with a report."""

from __future__ import annotations

from typing import Any

import numpy as np

from coordinator.report.build import build_report
from coordinator.report.pictures import Pictures
from crypto.scheme import describe
from parties.scoring.measures import share

# What key recovery reaches at each pool size, from nothing (0) to the plain image (1).
REACH = {1: 0.05, 2: 0.17, 5: 0.91, 10: 0.97, 20: 1.0, 50: 1.0, 100: 1.0}
SPREAD = {"median": 0.0}


def figures(strength: float, wobble: float, keyed: bool) -> dict[str, Any]:
    """A finding's scores where an attack reaches `strength`, from 0 (nothing) to 1 (the plain image)."""
    level = min(1.0, max(0.0, strength + wobble))
    ssim = 0.12 + 0.88 * level
    hits = round(64 * max(0.0, (level - 0.2) / 0.8))
    return {
        "n": 64,
        "move": {"turn": 0, "negative": False, "order": 0, "down": 0, "across": 0},
        "values_right": None,
        "ssim": {"median": ssim},
        "psnr": {**SPREAD, "median": 9.5 + 90.5 * level**6},
        "derangement_ssim": SPREAD,
        "V": share(hits, 64),
        "R": share(hits, 64) | {"gallery": 1000},
        "R_deranged": share(0, 64) | {"gallery": 1000},
        "classified": share(round(64 * (0.25 + 0.7 * level)), 64),
        "grid": {"Dc": level, "Nc": min(1.0, 1.1 * level), "Lc": min(1.0, 1.05 * level)} if keyed else None,
        "K": {"median_ssim": ssim, "n": 64, "opens": ssim >= 0.9} if keyed else None,
        "key": {
            "block_order": level,
            "block_order_unshifted": 0.0,
            "shift": [0, 1],
            "pixel_order": min(1.0, 1.3 * level),
            "neighbours": [300, 364],
            "identifiable": 0.95,
            "bits_left": 1511 * (1 - level),
        }
        if keyed
        else None,
    }


def finding(attack: str, size: int, seconds: float, scored: dict[str, Any], **more: Any) -> dict[str, Any]:
    about = {"attack": attack, "tier": "T1", "uses_pool": True, "pool_size": size, "seconds": seconds}
    return {**about, "note": "", "error": "", **scored, **more}


def draw(index: int, reach: float) -> dict[str, Any]:
    """One draw; `reach` scales what key recovery gets. At two images the last draw is a lucky one."""
    lone = {"tier": "T0", "uses_pool": False}
    every = [
        finding("as_is", 1, 0.001, figures(0.02, 0, False), **lone),
        finding("leading_bit", 1, 0.004, figures(0.0, 0, False), **lone),
    ]
    for n, level in REACH.items():
        wobble = {2: (-0.05, 0.0, 0.31), 5: (-0.02, 0.0, 0.03)}.get(n, (0.0, 0.01, 0.0))[index]
        scored = figures(level * reach if reach else 0.02, wobble * reach, True)
        more = {"note": "out of time at 600 s"} if n == 100 and index == 2 and not reach else {}
        every.append(finding("pooled_key_recovery", n, 0.1 + 0.01 * n, scored, **more))
    names = {"ciphertext": 0.131, "mean": 0.31, "other": 0.274, "nearest_histogram": 0.288}
    return {
        "draw": f"draw-{index}",
        "set": f"audit-{index}",
        "spec": describe("block_pixel_shuffle", (224, 224, 1), 16).to_json(),
        "key_id": f"{index}f3a9c0de{index}b71e24"[:16],
        "set_digest": "0" * 64,
        "pool_images": 1600,
        "parties": 3,
        "rows": 64,
        "gallery": 1000,
        "pictured": [1, 3, 5, 7, 9, 11],
        "true_key_ssim": 1.0,
        "true_key_exact": True,
        "baselines": {k: {"median": v} for k, v in names.items()},
        "findings": every,
        "linkable": share(64, 64) | {"ambiguous": 0, "none": 0, "gallery": 1000},
        "classified": {"plain": share(61, 64), "ciphertext": share(15, 64)},
    }


def control(name: str, strength: float) -> dict[str, Any]:
    base = draw(0, 0.0)
    pooled = finding("pooled_key_recovery", 20, 0.3, figures(strength, 0, True))
    if strength == 1:
        pooled["key"]["pixel_order"] = 1.0
    found = [
        finding("as_is", 1, 0.001, figures(strength, 0, False)),
        finding("leading_bit", 1, 0.001, figures(strength, 0, False)),
        pooled,
    ]
    linked = (
        base["linkable"] if name != "noise" else share(0, 64) | {"ambiguous": 0, "none": 64, "gallery": 300}
    )
    spec = {**base["spec"], "name": name}
    return {**base, "set": f"control-{name}", "spec": spec, "findings": found, "linkable": linked}


def rounds(n: int) -> list[dict[str, Any]]:
    return [
        {
            "round": i + 1,
            "val_accuracy": 0.86 - 0.5 * 0.6**i,
            "val_auc": 0.95 - 0.3 * 0.6**i,
            "val_loss": 0.4 + 0.9 * 0.6**i,
            "train_loss": 0.3 + 1.0 * 0.6**i,
            "seconds": 212.4 + i,
            "bytes_down": 66_300_000,
            "bytes_up": 66_300_000,
            "parties": ["hospital-0", "hospital-1", "hospital-2"][: 2 if i == 3 else 3],
            "absent": ["hospital-2"] if i == 3 else [],
            "refused": {"hospital-1": "weights that are not finite"} if i == 4 else {},
        }
        for i in range(n)
    ]


TRAINED: dict[str, Any] = {
    "model": "vit_tiny_patch16_224",
    "weights": "vit_tiny_patch16_224.safetensors",
    "stem": "learn",
    "strategy": "fedavg",
    "classes": ["glioma", "meningioma", "notumor", "pituitary"],
    "rounds": rounds(8),
    "best_round": 7,
    "test_accuracy": 0.853,
    "test_auc": 0.958,
    "test": share(512, 600),
    "per_party": [{"party": f"hospital-{i}", "accuracy": 0.85, "auc": 0.95, "n": 200} for i in range(3)],
    "plain": {
        "accuracy": share(576, 600),
        "rounds": [0.7, 0.88, 0.92, 0.94, 0.95, 0.95, 0.96, 0.96],
        "seconds": 900.0,
    },
    "plain_accuracy": 0.96,
    "wrong_key": {"mean": 0.262, "low": 0.211, "high": 0.313, "each": [0.25, 0.31, 0.22, 0.24, 0.29]},
    "linear_accuracy": 0.701,
    "histogram_accuracy": 0.829,
}
BARE = {"rounds": [{"round": 1, "val_accuracy": 0.5}], "test_accuracy": 0.5, "best_round": 1}


def report(
    reach: float = 1.0,
    training: dict[str, Any] | None = None,
    study: str = "brain-mri",
    plain: float = 1.0,
    noise: float = 0.0,
    draws: int = 3,
) -> dict[str, Any]:
    scores = {
        "suite": "suite/1",
        "party": "hospital-0",
        "seed": 20,
        "draws": [
            *(draw(i, reach) for i in range(draws)),
            control("plain", plain),
            control("noise", noise),
            control("permuted", 0.0),
            control("signs", 1.0),
            {**control("known", 1.0), "spec": draw(0, 0.0)["spec"]},
        ],
    }
    machine = {"cores": 2, "memory_gib": 7.8, "system": "Linux"}
    fixed = {"created": "2026-01-15T08:30:00Z", "machine": machine}
    return {**build_report(scores, study, training), **fixed}


def pictures(plain: bool = False, side: int = 32, channels: int = 1) -> Pictures:
    generator = np.random.default_rng(3)
    names = ["sealed", "as_is", "pooled_key_recovery, 2 sealed", *(["plain"] if plain else [])]
    shape = (4, side, side, channels)
    return Pictures({name: generator.integers(0, 256, shape, np.uint8) for name in names})
