"""Read the key from the weights that a federation shares: its stem may hold it (T5).

A stem is the patch embedding and the position embeddings of a Vision Transformer. The cloud sees it in four states:

- It was carried into a key's coordinates. Each of its columns is a column of the stem that the training began with,
  which is public. A linear assignment finds which one, and so the key, exactly. An orthogonal matrix comes from
  Procrustes' problem.
- It learnt on ciphertexts. What it learnt, less what it began with, shows the key (stem_similarity.py).
- The public weights are not at hand. Then the stem itself is laid out, which shows the key of a carried one.
- It does not travel, or it learnt in plain coordinates. Then it shows no key.

Source: our own. A model carried into a key's coordinates gives the key away beside the plain one. For that reason
parties carry their stems back before they send them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment

from coordinator.adversary.contract import Guess, Knowledge, Recovered
from coordinator.adversary.opened import RecoveredMatrix, open_rows
from coordinator.adversary.training.observation import Observed
from coordinator.adversary.training.stem_layout import (
    NOT_SUPPORTED,
    is_supported,
    layout_of_key,
    recover_key,
)
from coordinator.adversary.training.stem_rotation import (
    complete_rotation,
    opens_smooth_blocks,
    spanned_rotation,
)
from coordinator.adversary.training.stem_similarity import (
    Stem,
    block_positions,
    copy_stem,
    cosine_similarities,
    learnt_change,
    reads_whole_blocks,
    stem_from_weights,
    unit_weights,
    why_unusable,
)
from coordinator.model.vit import build_model
from crypto.arrays import AnyArray, Int64Array
from crypto.scheme import load

#: A carried column has at least this cosine with the column that it was carried from, and at least this much more
#: than with the column of its own place (medians). Set once; how they were chosen is not recorded. The tests hold
#: them against trained stems, whose rows stay, and random ones.
_MIN_COSINE, _MIN_COSINE_GAIN = 0.5, 0.25
#: Share of a stem that one matrix may leave unexplained. Set once; how it was chosen is not recorded.
_MAX_UNEXPLAINED = 0.7


@dataclass(frozen=True)
class StemEvidence:
    """What a stem shows.

    Attributes:
        note: what to say of it.
        key: the recovered key, or None.
        idle: True if there was nothing to try on the ciphertexts.
    """

    note: str
    key: Recovered | RecoveredMatrix | None = None
    idle: bool = False


def attack(knowledge: Knowledge) -> Guess:
    """Open the rows to guess with the key that the shared stem shows.

    Without a key, the guess is the ciphertext's picture.
    """
    note = why_unusable(knowledge)
    evidence = StemEvidence(note, idle=True) if note else _inspect_stem(knowledge)
    return guess_from(knowledge, evidence)


def guess_from(knowledge: Knowledge, evidence: StemEvidence) -> Guess:
    """Return the guess that follows from what a stem shows."""
    return open_rows(knowledge, evidence.key, evidence.note, evidence.idle)


def first_stem(observed: Observed) -> Stem | None:
    """Return the stem that the training began with, from the plan's public weights or seed.

    The result is None if the file of the public weights is missing.
    """
    plan = observed.plan
    if plan.weights and not Path(plan.weights).is_file():
        return None
    # Whatever was shared, the stem starts the same, so adapters do not matter here.
    return copy_stem(build_model(plan.model_copy(update={"share": "all"}), observed.classes))


def _inspect_stem(knowledge: Knowledge) -> StemEvidence:
    """Return what the shared stem shows."""
    observed, spec = knowledge.observed, knowledge.pool.spec
    assert observed is not None
    shared = stem_from_weights(observed.weights)
    if shared is None:
        return StemEvidence(f"no stem among the shared weights (stem {observed.plan.stem})", idle=True)
    if not reads_whole_blocks(shared, spec):
        return StemEvidence("the stem's patches are not made of the scheme's blocks", idle=True)
    first = first_stem(observed)
    if first is None:
        if spec.name == "orthogonal":
            return StemEvidence("without the public weights, a stem shows no matrix", idle=True)
        weights = unit_weights(shared.filters, spec)
        key, note = recover_key(knowledge, weights, block_positions(shared, spec.blocks))
        return StemEvidence(_join("from the stem alone", note), key)
    if first.filters.shape != shared.filters.shape:
        return StemEvidence("the weights are of another model than the plan's", idle=True)
    match_stems = _match_by_matrix if spec.name == "orthogonal" else _match_by_permutation
    return match_stems(knowledge, first, shared) or _inspect_change(knowledge, first, shared)


def _join(*parts: str) -> str:
    """Return the parts that are not empty as one note."""
    return "; ".join(part for part in parts if part)


def carried_order(carried: AnyArray, first: AnyArray) -> Int64Array | None:
    """Return the order by which rows were carried.

    A training changes rows a little and leaves each most similar to itself. Only a carried row is far more similar to
    another one.

    Args:
        carried: [m, F].
        first: [m, F], the rows before.

    Returns:
        int64 [m]: row k of `carried` was row order[k] of `first`. None if the rows stayed in place.
    """
    similarities = cosine_similarities(carried, first)
    _, order = linear_sum_assignment(-similarities)
    moved = np.flatnonzero(order != np.arange(len(order)))
    at_origin, at_place = similarities[moved, order[moved]], similarities[moved, moved]
    if not len(moved):
        return None
    if np.median(at_origin) < _MIN_COSINE or np.median(at_origin - at_place) < _MIN_COSINE_GAIN:
        return None
    result: Int64Array = order.astype(np.int64)
    return result


def _match_by_permutation(knowledge: Knowledge, first: Stem, shared: Stem) -> StemEvidence | None:
    """Return the key of a carried stem, or None if the stem was not carried."""
    pool, spec = knowledge.pool, knowledge.pool.spec
    if shared.filters.shape[1] != spec.block:
        return None
    units = unit_weights(shared.filters, spec)
    k2 = carried_order(units, unit_weights(first.filters, spec))
    before, after = block_positions(first, spec.blocks), block_positions(shared, spec.blocks)
    k1 = None if before is None or after is None else carried_order(after, before)
    if k1 is None and k2 is None:
        return None
    parts = {
        "K1": np.arange(spec.blocks) if k1 is None else k1,
        "K2": np.arange(len(units)) if k2 is None else k2,
    }
    if not is_supported(pool, knowledge.pool_rows, *layout_of_key(spec, parts["K2"])):
        return StemEvidence(NOT_SUPPORTED)
    algorithm = load(spec).algorithm
    table = algorithm.table(parts).inverse()  # type: ignore[attr-defined] # SHUFFLES: tables of K1 and K2
    return StemEvidence("a carried stem, matched with the public one", Recovered(table, parts, ()))


def _match_by_matrix(knowledge: Knowledge, first: Stem, shared: Stem) -> StemEvidence | None:
    """Return the matrix of a carried stem, or None if the stem was not carried."""
    spec = knowledge.pool.spec
    if shared.filters.shape[1] != spec.block:
        return None
    before, after = (np.asarray(s.filters.reshape(len(s.filters), -1), np.float64) for s in (first, shared))
    if np.linalg.norm(before - after) < _MIN_COSINE_GAIN * np.linalg.norm(after):
        return None
    rotation, plain, sealed = spanned_rotation(before, after)
    if np.linalg.norm(before @ rotation - after) > _MAX_UNEXPLAINED * np.linalg.norm(after):
        return None
    matrix = complete_rotation(knowledge, rotation, plain, sealed)
    if not opens_smooth_blocks(knowledge, matrix):
        return StemEvidence(NOT_SUPPORTED)
    note = f"{plain.shape[1]} of {len(rotation)} directions of a block by smoothness" if plain.size else ""
    note = _join("a carried stem, turned back onto the public one", note)
    return StemEvidence(note, RecoveredMatrix(matrix))


def _inspect_change(knowledge: Knowledge, first: Stem, shared: Stem) -> StemEvidence:
    """Return what the change of a stem shows: what it learnt, less what it began with."""
    observed, spec = knowledge.observed, knowledge.pool.spec
    assert observed is not None
    change = learnt_change(first.filters, shared.filters)
    if np.abs(change).max() <= 1e-6 * np.abs(first.filters).max():
        return StemEvidence("the shared stem is the public one: it learnt nothing", idle=True)
    if observed.plan.stem != "learn":
        note = f"the shared stem is in plain coordinates (stem {observed.plan.stem})"
        return StemEvidence(note, idle=True)
    if spec.name == "orthogonal":
        return StemEvidence("what a stem learnt on ciphertexts shows no matrix", idle=True)
    # Position embeddings learn hardly anything of their neighbours, so the seams give the order of the blocks.
    key, note = recover_key(knowledge, unit_weights(change, spec))
    return StemEvidence(_join("from what the stem learnt on ciphertexts", note), key)
