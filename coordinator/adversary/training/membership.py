"""Was a candidate image trained on? A federation's weights before and after say so, more or less (T5, T2).

A loss-based test of membership, calibrated by the weights from before: what training on an image does to it is
a rise of the confidence in its own label, log(p / (1 − p)), beyond what its ease explains. That is LiRA's score
(Carlini et al. 2022, arXiv 2112.03570) with a single reference model, the one sent out, in place of shadow
models; Yeom et al. 2018 (arXiv 1709.01604) is the loss alone, Watson et al. 2022 (arXiv 2111.08440) the
calibration.

It hands back a figure for a candidate, no picture. Candidates are given as the model reads them: plain images
under stem `plain`, and under `private` through the public stem; ciphertexts under `learn`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import binomtest, norm, rankdata
from torch import nn

from coordinator.adversary.training.observation import Observed
from coordinator.adversary.training.update_steps import as_input
from coordinator.model.shares import in_stem, merged
from coordinator.model.vit import build_model, shared_names, unpack

_CHUNK = 32


@dataclass(frozen=True)
class Membership:
    """How well members are told from others.

    auc: with 95 % bounds (Hanley & McNeil 1982); .5 is chance. tpr: the share of members whose score exceeds
    that of all but `fpr` of the others, with 95 % Wilson bounds; fpr: the share of others that did, at most
    1 %.
    """

    auc: float
    auc_low: float
    auc_high: float
    tpr: float
    tpr_low: float
    tpr_high: float
    fpr: float
    members: int
    others: int


def membership(
    observed: Observed,
    images: np.ndarray,
    labels: np.ndarray,
    members: np.ndarray,
    before: Mapping[str, np.ndarray] | None = None,
) -> Membership:
    """Scores candidates by the final weights against those of `before`, and judges the scores by the truth.

    images: uint8 or float32 [n, h, w, c] as the model reads them. labels: int64 [n]. members: bool [n], the
    truth, used for the figures alone. before: weights by name; the model that the plan starts from where none
    are given. Raises ValueError where there are no members or no others.
    """
    return judge(scores(observed, images, labels, before), members)


def scores(
    observed: Observed,
    images: np.ndarray,
    labels: np.ndarray,
    before: Mapping[str, np.ndarray] | None = None,
) -> np.ndarray:
    """float64 [n]: by how much training raised the confidence in each candidate's label; members' more."""
    # Final weights have their adapters merged.
    model = build_model(observed.plan.model_copy(update={"share": "all"}), observed.classes)
    if before is not None:
        _put(model, before)
    first = confidence(model, images, labels)
    _put(model, observed.weights)
    return confidence(model, images, labels) - first


def weights_of(observed: Observed, vector: np.ndarray) -> dict[str, np.ndarray]:
    """An update's packed vector as weights by name: one hospital's, for `weights` or `before`.

    Under share `lora` those of the whole encoder, with the adapters merged; that needs the plan's public weights.
    """
    plan = observed.plan
    whole = plan.share == "lora"
    model = build_model(plan if whole else plan.model_copy(update={"weights": ""}), observed.classes)
    names = shared_names(model, plan)
    unpack(model, vector, names)
    if whole:
        model = merged(model)
        names = [name for name in model.state_dict() if plan.stem != "private" or not in_stem(name)]
    state = model.state_dict()
    return {name: state[name].numpy().copy() for name in names}


def _put(model: nn.Module, weights: Mapping[str, np.ndarray]) -> None:
    names = list(weights)
    unpack(model, np.concatenate([np.ravel(weights[n]) for n in names]).astype(np.float32), names)


@torch.inference_mode()
def confidence(model: nn.Module, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """float64 [n]: log(p / (1 − p)) of each label, from the logits, so that it does not saturate."""
    model.eval()
    parts = []
    for start in range(0, len(images), _CHUNK):
        some = images[start : start + _CHUNK]
        logits = model(as_input(some)).double()
        own = torch.from_numpy(np.asarray(labels[start : start + _CHUNK], np.int64))[:, None]
        others = logits.scatter(1, own, -torch.inf).logsumexp(1)
        parts.append((logits.gather(1, own)[:, 0] - others).numpy())
    return np.concatenate(parts)


def judge(scores: np.ndarray, members: np.ndarray) -> Membership:
    """Figures of float [n] scores against the truth bool [n]."""
    members = np.asarray(members, bool)
    inside, outside = scores[members], scores[~members]
    m, n = len(inside), len(outside)
    if not m or not n:
        raise ValueError(f"{m} members and {n} others: both are needed")
    auc = float((rankdata(scores)[members].sum() - m * (m + 1) / 2) / (m * n))
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    spread = np.sqrt((auc * (1 - auc) + (m - 1) * (q1 - auc**2) + (n - 1) * (q2 - auc**2)) / (m * n))
    reach = float(norm.ppf(0.975) * spread)
    bar = np.sort(outside)[n - 1 - int(0.01 * n)]
    hits = int((inside > bar).sum())
    bounds = binomtest(hits, m).proportion_ci(0.95, method="wilson")
    return Membership(
        auc=auc,
        auc_low=max(0.0, auc - reach),
        auc_high=min(1.0, auc + reach),
        tpr=hits / m,
        tpr_low=float(bounds.low),
        tpr_high=float(bounds.high),
        fpr=float((outside > bar).mean()),
        members=m,
        others=n,
    )
