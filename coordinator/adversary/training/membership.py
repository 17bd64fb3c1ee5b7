"""Test whether candidate images were trained on, from a federation's weights before and after: membership inference.

The attack needs a federation's weights (T5) and candidate images (T2). It is a loss-based membership test,
calibrated by the weights from before. Training on an image raises the confidence in its own label, log(p / (1 −
p)), beyond what the ease of the image explains. That is LiRA's score (Carlini et al. 2022, arXiv 2112.03570) with a
single reference model, the one sent out, in place of shadow models. Yeom et al. 2018 (arXiv 1709.01604) is the loss
alone, Watson et al. 2022 (arXiv 2111.08440) the calibration.

The result is a figure for every candidate, not a picture. Candidates are given as the model reads them: plain images
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
from coordinator.model.model_input import to_model_input
from coordinator.model.shares import in_stem, merge_adapters, shared_names
from coordinator.model.vit import build_model, unpack
from crypto.arrays import AnyArray, BoolArray, Float32Array, Float64Array, Int64Array

#: Candidates that run through the model at a time. Set by hand, to bound memory.
_CANDIDATES_AT_A_TIME = 32


@dataclass(frozen=True)
class Membership:
    """How well the scores tell members from non-members.

    Attributes:
        auc: area under the ROC curve; .5 is chance.
        auc_low: lower 95 % bound of `auc` (Hanley & McNeil 1982).
        auc_high: upper 95 % bound of `auc`.
        tpr: share of members whose score exceeds that of all but `fpr` of the non-members.
        tpr_low: lower 95 % Wilson bound of `tpr`.
        tpr_high: upper 95 % Wilson bound of `tpr`.
        fpr: share of non-members above the same limit, at most 1 %.
        members: how many.
        non_members: how many.
    """

    auc: float
    auc_low: float
    auc_high: float
    tpr: float
    tpr_low: float
    tpr_high: float
    fpr: float
    members: int
    non_members: int


def measure_membership(
    observed: Observed,
    images: AnyArray,
    labels: Int64Array,
    is_member: BoolArray,
    before: Mapping[str, AnyArray] | None = None,
) -> Membership:
    """Score candidates, and compare the scores with the truth.

    Args:
        observed: the training, with its final weights.
        images: candidates, uint8 or float32 [n, h, w, c] as the model reads them.
        labels: their classes, int64 [n].
        is_member: the truth, bool [n]. It is used for the figures alone.
        before: weights by name to compare the final ones with; None for the model that the plan starts from.

    Raises:
        ValueError: there are no members or no non-members.
    """
    return evaluate_scores(membership_scores(observed, images, labels, before), is_member)


def membership_scores(
    observed: Observed,
    images: AnyArray,
    labels: Int64Array,
    before: Mapping[str, AnyArray] | None = None,
) -> Float64Array:
    """Return by how much training raised the confidence in each candidate's label, float64 [n].

    Members' scores are higher. For the arguments see `measure_membership`.
    """
    # Final weights have their adapters merged, so the model has none.
    model = build_model(observed.plan.model_copy(update={"share": "all"}), observed.classes)
    if before is not None:
        _load_weights(model, before)
    first = label_confidence(model, images, labels)
    _load_weights(model, observed.weights)
    return label_confidence(model, images, labels) - first


def unpack_weights(observed: Observed, vector: Float32Array) -> dict[str, AnyArray]:
    """Return an update's packed vector as weights by name.

    They are one hospital's, for `Observed.weights` or `before`. Under share `lora` they are those of the whole
    encoder, with the adapters merged. That needs the plan's public weights.
    """
    plan = observed.plan
    has_adapters = plan.share == "lora"
    model = build_model(plan if has_adapters else plan.model_copy(update={"weights": ""}), observed.classes)
    names = shared_names(model, plan)
    unpack(model, vector, names)
    if has_adapters:
        model = merge_adapters(model)
        names = [name for name in model.state_dict() if plan.stem != "private" or not in_stem(name)]
    state = model.state_dict()
    return {name: state[name].numpy().copy() for name in names}


def _load_weights(model: nn.Module, weights: Mapping[str, AnyArray]) -> None:
    """Put weights by name into a model."""
    names = list(weights)
    unpack(model, np.concatenate([np.ravel(weights[n]) for n in names]).astype(np.float32), names)


@torch.inference_mode()
def label_confidence(model: nn.Module, images: AnyArray, labels: Int64Array) -> Float64Array:
    """Return log(p / (1 − p)) of each image's label, float64 [n].

    It is computed from the logits, so that it does not saturate.
    """
    model.eval()
    parts = []
    for start in range(0, len(images), _CANDIDATES_AT_A_TIME):
        stop = start + _CANDIDATES_AT_A_TIME
        logits = model(to_model_input(images[start:stop])).double()
        label = torch.from_numpy(np.asarray(labels[start:stop], np.int64))[:, None]
        others = logits.scatter(1, label, -torch.inf).logsumexp(1)
        parts.append((logits.gather(1, label)[:, 0] - others).numpy())
    return np.concatenate(parts)


def evaluate_scores(scores: Float64Array, is_member: BoolArray) -> Membership:
    """Return the figures of scores [n] against the truth, bool [n].

    Raises:
        ValueError: there are no members or no non-members.
    """
    is_member = np.asarray(is_member, bool)
    inside, outside = scores[is_member], scores[~is_member]
    m, n = len(inside), len(outside)
    if not m or not n:
        raise ValueError(f"{m} members and {n} non-members: both are needed")
    auc = float((rankdata(scores)[is_member].sum() - m * (m + 1) / 2) / (m * n))
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    deviation = np.sqrt((auc * (1 - auc) + (m - 1) * (q1 - auc**2) + (n - 1) * (q2 - auc**2)) / (m * n))
    half_width = float(norm.ppf(0.975) * deviation)
    limit = np.sort(outside)[n - 1 - int(0.01 * n)]
    hits = int((inside > limit).sum())
    bounds = binomtest(hits, m).proportion_ci(0.95, method="wilson")
    return Membership(
        auc=auc,
        auc_low=max(0.0, auc - half_width),
        auc_high=min(1.0, auc + half_width),
        tpr=hits / m,
        tpr_low=float(bounds.low),
        tpr_high=float(bounds.high),
        fpr=float((outside > limit).mean()),
        members=m,
        non_members=n,
    )
