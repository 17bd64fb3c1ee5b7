"""Invert a hospital's updates: recover the images behind a reply, a gradient inversion attack (T5).

The number of images behind an update protects them, not the seal. Under the stem modes `private` and `plain` the
update is that of plain federated learning. So what is found is the plain image, and no key is needed.

- Stem `plain`, one image: one linear solve of the stem's gradient (update_solve) gives the plain image.
- Stem `learn`, one image: the same solve gives the ciphertext. If the pool gives its key away, that key opens it.
- Stems `private` and `plain`, with images of the adversary's own (`knowledge.public`): those that took part are
  confirmed. For a step of SGD over any batch up to half the model's width, update_candidates does it; otherwise, for
  one image, training on it does.
- One image in any other case: optimisation (update_search), within the budget.

A picture counts as found if training on it gives the observed update, or if the candidate test says so
(update_findings). The attack drops all others, and the note says which and why. If no picture is found, the attack
returns what optimisation gave, and calls it a guess.

The images of an update have no row in the pool. The guess holds one picture for each image found, not one for each
row asked for. So no audit runs this attack; tests and benchmarks/updates.py score it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from coordinator.adversary.contract import Guess, Knowledge
from coordinator.adversary.recover import pooled_key_recovery
from coordinator.adversary.training.observation import Observed
from crypto.arrays import AnyArray, Images
from crypto.kernels.executors import apply
from crypto.kernels.table import Table
from crypto.scheme import load


def attack(knowledge: Knowledge) -> Guess:
    """Return the images found in the recorded updates, in the order of the updates."""
    observed = knowledge.observed
    images: AnyArray = np.zeros((0, *knowledge.pool.spec.image_shape), np.uint8)
    if observed is None or not observed.updates:
        note = "needs updates: a plan with keep_updates, and coordinator.adversary.training.observation.observe"
        return Guess(images, note=note, idle=True)
    # torch and timm take seconds to load, and the list of attacks names this module.
    from coordinator.adversary.training.update_findings import invert_updates

    findings = invert_updates(observed, knowledge.public, knowledge.budget.time_left)
    counts = Counter(finding.reason for finding in findings)
    notes = [f"{count} of {len(findings)} updates: {reason}" for reason, count in counts.items()]
    chosen = [finding for finding in findings if finding.is_confirmed]
    if not chosen:
        chosen = [finding for finding in findings if len(finding.images)]
        notes += ["nothing is confirmed: the pictures are guesses"] if chosen else []
    key: Mapping[str, AnyArray] | None = None
    if chosen:
        images = np.concatenate([finding.images for finding in chosen])
        if observed.plan.stem == "learn":
            images, key, note = _open_ciphertexts(knowledge, observed, images)
            notes.append(note)
    return Guess(images, key, "; ".join(notes))


def _open_ciphertexts(
    knowledge: Knowledge, observed: Observed, sealed: AnyArray
) -> tuple[Images, Mapping[str, AnyArray] | None, str]:
    """Open ciphertexts with the key that the pool gives away, if it does.

    Returns:
        uint8 [k, *image_shape], the key or None, and a note.
    """
    scheme = load(observed.plan.describe())
    key = _pool_key(knowledge, observed)
    if key is None:
        return scheme.picture(sealed), None, "ciphertexts: the pool gave no key to open them"
    table = Table.flat(scheme.sealed_shape, key["gather"], key.get("mask"))
    return scheme.picture(apply(table, sealed)), dict(key), "ciphertexts, opened with the pool's key"


def _pool_key(knowledge: Knowledge, observed: Observed) -> Mapping[str, AnyArray] | None:
    """Recover the pool's key, if the pool is not empty and of the training's scheme and key scope."""
    spec, pool = observed.plan.describe(), knowledge.pool
    is_same_scheme = (pool.spec.name, pool.spec.key_scope) == (spec.name, spec.key_scope)
    if not len(pool) or not len(knowledge.pool_rows) or not is_same_scheme:
        return None
    rows = np.asarray(knowledge.pool_rows[:1])
    return pooled_key_recovery.attack(Knowledge(pool, knowledge.pool_rows, rows, knowledge.budget)).key
