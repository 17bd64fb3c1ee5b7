"""The weights that a federation shares, as the cloud sees them: its stem may hold the key (T5).

Where a stem was carried into a key's coordinates, each of its columns is a column of the stem that the training began
with, which is public: a linear assignment finds which, and so the key, exactly; an orthogonal matrix comes from
Procrustes' problem. Where the stem learnt on ciphertexts instead, it is what it learnt, less what it began with, that
shows the key (stem_similarity.py). Where the public weights are not at hand, the stem itself is laid out, which
shows the key of a carried one. A stem that does not travel, or that learnt in plain coordinates, shows none.

Source: our own. That models carried into a key's coordinates give the key away beside the plain one is why
parties carry their stems back before they send them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment

from coordinator.adversary.contract import Guess, Knowledge, Recovered
from coordinator.adversary.recover.moment_matching import nearest_orthogonal
from coordinator.adversary.recover.pooled_key_recovery import as_key
from coordinator.adversary.training.observation import Observed
from coordinator.adversary.training.stem_layout import NOT_BORNE_OUT, borne_out, in_place, open_by
from coordinator.adversary.training.stem_similarity import (
    Stem,
    alike,
    fits,
    learnt,
    places_of,
    stem_in,
    stem_of,
    unfit,
    units,
)
from coordinator.model.vit import build_model
from crypto.cipher import MatrixCipher
from crypto.kernels.blocks import to_blocks
from crypto.kernels.executors import apply
from crypto.scheme import load

_LIKE = 0.5  # least cosine with the column that one was carried from
_LIKER = 0.25  # and how much more that is than with the column of its own place
_SPAN = 1e-3  # least singular value that spans anything, as a share of the largest
_ROUGH = 0.7  # most of a stem that one matrix may leave unexplained
_SMOOTH = 0.3  # least correlation of neighbouring pixels of an opened block
_IMAGES = 64  # most images that a matrix is checked on


@dataclass(frozen=True)
class Shown:
    """What the weights show: a recovered table or a matrix [V, V], at most one of them, and what to say of it.

    idle: there was nothing to try on the ciphertexts.
    """

    note: str
    table: Recovered | None = None
    matrix: np.ndarray | None = None
    idle: bool = False


def attack(knowledge: Knowledge) -> Guess:
    """Opens the rows to guess with the key that the shared stem shows; else hands back the ciphertext's picture."""
    note = unfit(knowledge)
    return guess(knowledge, Shown(note, idle=True) if note else _look(knowledge))


def guess(knowledge: Knowledge, shown: Shown) -> Guess:
    """The guess that follows from what weights show."""
    pool, rows = knowledge.pool, np.asarray(knowledge.rows, np.int64)
    scheme, sealed, key = load(pool.spec), pool.images(rows), None
    if shown.table is not None:
        key = as_key(shown.table)
        sealed = apply(shown.table.table, sealed)
    if shown.matrix is not None:
        key = {"matrix": shown.matrix}
        sealed = MatrixCipher(pool.spec.image_shape, pool.spec.block, shown.matrix).decrypt(sealed)
    return Guess(scheme.picture(sealed), key, shown.note, shown.idle)


def first_stem(observed: Observed) -> Stem | None:
    """The stem that the training began with, from the plan's public weights or seed; None where they are not here."""
    plan = observed.plan
    if plan.weights and not Path(plan.weights).is_file():
        return None
    # Whatever was shared, the stem starts the same; adapters are nobody's business here.
    return stem_in(build_model(plan.model_copy(update={"share": "all"}), observed.classes))


def _look(knowledge: Knowledge) -> Shown:
    observed, spec = knowledge.observed, knowledge.pool.spec
    assert observed is not None
    own = stem_of(observed.weights)
    if own is None:
        return Shown(f"no stem among the shared weights (stem {observed.plan.stem})", idle=True)
    if not fits(own, spec):
        return Shown("the stem's patches are not made of the scheme's blocks", idle=True)
    first = first_stem(observed)
    if first is None:
        if spec.name == "orthogonal":
            return Shown("without the public weights, a stem shows no matrix", idle=True)
        found, note = open_by(knowledge, units(own.filters, spec), places_of(own, spec.blocks))
        return Shown(_said("from the stem alone", note), found)
    if first.filters.shape != own.filters.shape:
        return Shown("the weights are of another model than the plan's", idle=True)
    carried = _turned(knowledge, first, own) if spec.name == "orthogonal" else _moved(knowledge, first, own)
    return carried or _learnt(knowledge, first, own)


def _said(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def carried_order(own: np.ndarray, first: np.ndarray) -> np.ndarray | None:
    """[m, F] twice → int64 [m], row k of the one was row order[k] of the other; None where rows stayed in place.

    A training changes rows a little and leaves each most like itself; only a carried row is far more like another.
    """
    likeness = alike(own, first)
    _, order = linear_sum_assignment(-likeness)
    k = np.flatnonzero(order != np.arange(len(order)))
    there, here = likeness[k, order[k]], likeness[k, k]
    if not len(k) or np.median(there) < _LIKE or np.median(there - here) < _LIKER:
        return None
    return order.astype(np.int64)


def _moved(knowledge: Knowledge, first: Stem, own: Stem) -> Shown | None:
    """The key of a carried stem, None where the stem was not carried."""
    pool, spec = knowledge.pool, knowledge.pool.spec
    if own.filters.shape[1] != spec.block:
        return None
    k2 = carried_order(units(own.filters, spec), units(first.filters, spec))
    theirs, ours = (places_of(stem, spec.blocks) for stem in (first, own))
    k1 = None if theirs is None or ours is None else carried_order(ours, theirs)
    if k1 is None and k2 is None:
        return None
    count = len(units(own.filters, spec))
    parts = {
        "K1": np.arange(spec.blocks) if k1 is None else k1,
        "K2": np.arange(count) if k2 is None else k2,
    }
    if not borne_out(pool, knowledge.pool_rows, *in_place(spec, parts["K2"])):
        return Shown(NOT_BORNE_OUT)
    algorithm = load(spec).algorithm
    found = Recovered(algorithm.table(parts).inverse(), parts, ())  # type: ignore[attr-defined]
    return Shown("a carried stem, matched with the public one", found)


def _turned(knowledge: Knowledge, first: Stem, own: Stem) -> Shown | None:
    """The matrix of a carried stem, None where it was not carried."""
    spec = knowledge.pool.spec
    if own.filters.shape[1] != spec.block:
        return None
    a, b = (np.asarray(s.filters.reshape(len(s.filters), -1), np.float64) for s in (first, own))
    if np.linalg.norm(a - b) < _LIKER * np.linalg.norm(b):
        return None
    turn, plain, sealed = spanned(a, b)
    if np.linalg.norm(a @ turn - b) > _ROUGH * np.linalg.norm(b):
        return None
    matrix = completed(knowledge, turn, plain, sealed)
    if not smooth(knowledge, matrix):
        return Shown(NOT_BORNE_OUT)
    note = f"{plain.shape[1]} of {len(turn)} directions of a block by smoothness" if plain.size else ""
    return Shown(_said("a carried stem, turned back onto the public one", note), matrix=matrix)


def spanned(first: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[D, V] twice → (turn, plain, sealed): float64 [V, V] with first @ turn nearest to own, 0 where neither says
    anything, and what is left, [V, left] each: the directions of plain and of sealed blocks that the stem ignores.
    """
    left, strength, right = np.linalg.svd(first.T @ own)
    rank = int((strength > _SPAN**2 * strength[0]).sum())
    return left[:, :rank] @ right[:rank], left[:, rank:], right[rank:].T


def completed(knowledge: Knowledge, turn: np.ndarray, plain: np.ndarray, sealed: np.ndarray) -> np.ndarray:
    """float32 [V, V]: the turn with the directions that a stem of fewer outputs than a block has values leaves open.

    Blocks are smooth, so what the turn opens of a block foretells the rest: the least rough one. The turn of the
    open directions is the one that foretells them best over the ciphertexts (Procrustes).
    """
    if not plain.shape[1]:
        return turn.astype(np.float32)
    spec = knowledge.pool.spec
    rough = roughness(spec.block, spec.image_shape[2])
    foretell = -np.linalg.solve(plain.T @ rough @ plain, plain.T @ rough)
    blocks = sealed_blocks(knowledge)
    rest = nearest_orthogonal(foretell @ (turn @ (blocks.T @ blocks)) @ sealed)
    return (turn + plain @ rest @ sealed.T).astype(np.float32)


def roughness(block: int, channels: int) -> np.ndarray:
    """float64 [V, V]: the form whose value at a block is the sum of squared differences of neighbouring pixels."""
    step = np.diff(np.eye(block), axis=0)
    line = step.T @ step
    grid = np.kron(line, np.eye(block)) + np.kron(np.eye(block), line)
    # A little of the identity, so that no direction is free.
    return np.kron(grid, np.eye(channels)) + 1e-6 * np.eye(len(grid) * channels)


def sealed_blocks(knowledge: Knowledge) -> np.ndarray:
    """float64 [blocks, V] about mid-gray, of some images of the pool."""
    sealed = knowledge.pool.images(np.asarray(knowledge.pool_rows)[:_IMAGES])
    blocks = to_blocks(sealed, knowledge.pool.spec.block).astype(np.float64)
    return blocks.reshape(len(blocks) * blocks.shape[1], -1) - 127.5


def smooth(knowledge: Knowledge, matrix: np.ndarray) -> bool:
    """Whether neighbouring pixels of blocks that a matrix opens are alike: those of a wrong one are strangers."""
    spec = knowledge.pool.spec
    opened = sealed_blocks(knowledge) @ matrix.T
    side = spec.block
    face = opened.reshape(-1, side, side, spec.image_shape[2])
    face = face - face.mean((1, 2), keepdims=True)
    down = np.corrcoef(face[:, 1:].ravel(), face[:, :-1].ravel())[0, 1]
    across = np.corrcoef(face[:, :, 1:].ravel(), face[:, :, :-1].ravel())[0, 1]
    return bool(min(down, across) > _SMOOTH)


def _learnt(knowledge: Knowledge, first: Stem, own: Stem) -> Shown:
    """What the stem learnt, less what it began with, laid out."""
    observed, spec = knowledge.observed, knowledge.pool.spec
    assert observed is not None
    change = learnt(first.filters, own.filters)
    if np.abs(change).max() <= 1e-6 * np.abs(first.filters).max():
        return Shown("the shared stem is the public one: it learnt nothing", idle=True)
    if observed.plan.stem != "learn":
        return Shown(f"the shared stem is in plain coordinates (stem {observed.plan.stem})", idle=True)
    if spec.name == "orthogonal":
        return Shown("what a stem learnt on ciphertexts shows no matrix", idle=True)
    # Positions learn hardly anything of their neighbours: the order of the blocks is left to the seams.
    found, note = open_by(knowledge, units(change, spec))
    return Shown(_said("from what the stem learnt on ciphertexts", note), found)
