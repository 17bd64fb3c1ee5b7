"""Made-up reports of every kind, with scores no audit gave: for tests of what is done with a report."""

from __future__ import annotations

from typing import Any

import numpy as np

from coordinator.exchange.audit.rates import in_gallery, rate_of
from coordinator.exchange.audit.scores import (
    ChosenMove,
    ClassRates,
    DrawScores,
    Figures,
    Finding,
    Grid,
    KeyOpening,
    KeyShare,
    Scores,
    Summary,
)
from coordinator.report.build import build_report
from coordinator.report.pictures import Pictures
from coordinator.report.records import (
    Machine,
    PartyTest,
    PlainTraining,
    Report,
    Round,
    Training,
    WrongKeys,
)
from crypto.scheme import describe
from crypto.spec import SchemeSpec
from parties.scoring.signing import sign_scores
from tests.support.verdicts import HOSPITAL, linkable

#: What key recovery reaches at each pool size, from nothing (0) to the plain image (1).
REACH = {1: 0.05, 2: 0.17, 5: 0.91, 10: 0.97, 20: 1.0, 50: 1.0, 100: 1.0}


def make_figures(strength: float, wobble: float = 0.0, *, keyed: bool = False) -> Figures:
    """Return the figures of an attack that reaches `strength`, from 0 (nothing) to 1 (the plain image)."""
    level = min(1.0, max(0.0, strength + wobble))
    ssim = 0.12 + 0.88 * level
    hits = round(64 * max(0.0, (level - 0.2) / 0.8))
    return Figures(
        n=64,
        move=ChosenMove(turn=0, negative=False, order=0, down=0, across=0),
        values_right=None,
        ssim=Summary(median=ssim),
        psnr=Summary(median=9.5 + 90.5 * level**6),
        derangement_ssim=Summary(median=0.0),
        visible=rate_of(hits, 64),
        reidentified=in_gallery(rate_of(hits, 64), 1000),
        reidentified_deranged=in_gallery(rate_of(0, 64), 1000),
        classified=rate_of(round(64 * (0.25 + 0.7 * level)), 64),
        grid=_grid(level) if keyed else None,
        key_opening=KeyOpening(median_ssim=ssim, n=64, opens=ssim >= 0.9) if keyed else None,
        key=_key_share(level) if keyed else None,
    )


def _grid(level: float) -> Grid:
    return Grid(direct=level, neighbour=min(1.0, 1.1 * level), largest=min(1.0, 1.05 * level))


def _key_share(level: float) -> KeyShare:
    return KeyShare(
        block_order=level,
        block_order_unshifted=0.0,
        shift=(0, 1),
        pixel_order=min(1.0, 1.3 * level),
        neighbours=(300, 364),
        identifiable=0.95,
        bits_left=1511 * (1 - level),
    )


def _finding(attack: str, size: int, seconds: float, figures: Figures, **changes: Any) -> Finding:
    fields: dict[str, Any] = {"tier": "T1", "uses_pool": True, "note": "", "error": "", **changes}
    return Finding(attack=attack, pool_size=size, seconds=seconds, figures=figures, **fields)


def scored_draw(index: int, reach: float) -> DrawScores:
    """Return one draw. `reach` scales what key recovery gets. At two images the last draw is a lucky one."""
    single: dict[str, Any] = {"tier": "T0", "uses_pool": False}
    findings = [
        _finding("as_is", 1, 0.001, make_figures(0.02), **single),
        _finding("leading_bit", 1, 0.004, make_figures(0.0), **single),
    ]
    for n, level in REACH.items():
        wobble = {2: (-0.05, 0.0, 0.31), 5: (-0.02, 0.0, 0.03)}.get(n, (0.0, 0.01, 0.0))[index]
        figures = make_figures(level * reach if reach else 0.02, wobble * reach, keyed=True)
        note = "out of time at 600 s" if n == 100 and index == 2 and not reach else ""
        findings.append(_finding("pooled_key_recovery", n, 0.1 + 0.01 * n, figures, note=note))
    baselines = {"ciphertext": 0.131, "mean": 0.31, "other": 0.274, "nearest_histogram": 0.288}
    return DrawScores(
        draw=f"draw-{index}",
        set_name=f"audit-{index}",
        spec=describe("block_pixel_shuffle", (224, 224, 1), 16),
        key_id=f"{index}f3a9c0de{index}b71e24"[:16],
        set_digest="0" * 64,
        pool_images=1600,
        parties=3,
        rows=64,
        gallery=1000,
        pictured=(1, 3, 5, 7, 9, 11),
        true_key_ssim=1.0,
        true_key_exact=True,
        baselines={name: Summary(median=value) for name, value in baselines.items()},
        findings=tuple(findings),
        linkable=linkable(64, gallery=1000),
        classified=ClassRates(plain=rate_of(61, 64), ciphertext=rate_of(15, 64)),
    )


def control_draw(name: str, scheme: str, strength: float) -> DrawScores:
    """Return a control set on which every attack reaches `strength`."""
    recovery = make_figures(strength, keyed=True)
    findings = (
        _finding("as_is", 1, 0.001, make_figures(strength)),
        _finding("leading_bit", 1, 0.001, make_figures(strength)),
        _finding("pooled_key_recovery", 20, 0.3, recovery),
    )
    base = scored_draw(0, 0.0)
    spec = SchemeSpec(scheme, base.spec.version, base.spec.image_shape, base.spec.block)
    linked = linkable(0, gallery=1000) if scheme == "noise" else base.linkable
    changes = {"draw": f"draw-{name}", "set_name": f"control-{name}", "spec": spec}
    return base.model_copy(update={**changes, "findings": findings, "linkable": linked})


def make_rounds(n: int) -> tuple[Round, ...]:
    """Return the rounds of a training; one party is absent in the fourth, and one is refused in the fifth."""
    parties = ("hospital-0", "hospital-1", "hospital-2")
    return tuple(
        Round(
            round=i + 1,
            val_accuracy=0.86 - 0.5 * 0.6**i,
            val_auc=0.95 - 0.3 * 0.6**i,
            val_loss=0.4 + 0.9 * 0.6**i,
            train_loss=0.3 + 1.0 * 0.6**i,
            seconds=212.4 + i,
            bytes_down=66_300_000,
            bytes_up=66_300_000,
            parties=parties[: 2 if i == 3 else 3],
            absent=parties[2:] if i == 3 else (),
            refused={"hospital-1": "weights that are not finite"} if i == 4 else {},
        )
        for i in range(n)
    )


TRAINED = Training(
    model="vit_tiny_patch16_224",
    weights="vit_tiny_patch16_224.safetensors",
    stem="learn",
    strategy="fedavg",
    classes=("glioma", "meningioma", "notumor", "pituitary"),
    rounds=make_rounds(8),
    best_round=7,
    test_accuracy=512 / 600,
    test_auc=0.958,
    test=rate_of(512, 600),
    per_party=tuple(PartyTest(party=f"hospital-{i}", accuracy=0.85, auc=0.95, n=200) for i in range(3)),
    plain=PlainTraining(
        accuracy=rate_of(576, 600),
        rounds=(0.7, 0.88, 0.92, 0.94, 0.95, 0.95, 0.96, 0.96),
        seconds=900.0,
    ),
    plain_accuracy=0.96,
    wrong_key=WrongKeys(mean=0.262, low=0.211, high=0.313, each=(0.25, 0.31, 0.22, 0.24, 0.29)),
    linear_accuracy=0.701,
    histogram_accuracy=0.829,
)
#: The least that a training of an earlier version kept.
BARE = Training(rounds=(Round(round=1, val_accuracy=0.5),), test_accuracy=0.5, best_round=1)


def make_scores(reach: float = 1.0, plain: float = 1.0, noise: float = 0.0, draws: int = 3) -> Scores:
    """Return scores with all controls.

    Args:
        reach: How much of REACH key recovery gets; 0 for a scheme that it does not break.
        plain: What attacks reach on plain images.
        noise: What they reach on noise; 1 makes the audit invalid.
        draws: How many draws are audited.
    """
    known = control_draw("known", "block_pixel_shuffle", 1.0)
    scores = Scores(
        schema_id="cipherward.scores/1",
        attacked_by="hospital",
        suite="suite/1",
        party="hospital-0",
        seed=20,
        draws=(
            *(scored_draw(i, reach) for i in range(draws)),
            control_draw("plain", "plain", plain),
            control_draw("noise", "noise", noise),
            control_draw("permuted", "permuted", 0.0),
            control_draw("signs", "pe", 1.0),
            known,
        ),
    )
    return sign_scores(scores, HOSPITAL)


def make_report(
    reach: float = 1.0,
    training: Training | None = None,
    study: str = "brain-mri",
    plain: float = 1.0,
    noise: float = 0.0,
    draws: int = 3,
) -> Report:
    """Return the report of such scores, written at a fixed time on a fixed machine."""
    report = build_report(make_scores(reach, plain, noise, draws), study, training)
    machine = Machine(cores=2, memory_gib=7.8, system="Linux")
    return report.model_copy(update={"created": "2026-01-15T08:30:00Z", "machine": machine})


def make_pictures(plain: bool = False, side: int = 32, channels: int = 1) -> Pictures:
    """Return columns of four random pictures."""
    generator = np.random.default_rng(3)
    names = ["sealed", "as_is", "pooled_key_recovery, 2 sealed", *(["plain"] if plain else [])]
    shape = (4, side, side, channels)
    return Pictures({name: generator.integers(0, 256, shape, np.uint8) for name in names})
