"""Inverting updates: the images behind a hospital's reply (T5).

What stands between an update and its images is the number of images in it, not the seal: under the stem modes
`private` and `plain` the update is that of plain federated learning, so what is found is the plain image, and
no key is needed.

- stem `plain`, one image: one linear solve of the stem's gradient (update_solve), the plain image;
- stem `learn`, one image: the same solve gives the ciphertext; where the pool gives its key away, that opens it;
- stems `private` and `plain`, images of one's own (`knowledge.public`): those that took part are confirmed
  (update_candidates for a step of SGD over any batch up to half the model's width; else, for one image, by
  training on it);
- what is left, one image: optimisation (update_search), within the budget.

A picture counts as found where training on it gives the update that was seen, or the candidate test says so
(update_findings). The rest is dropped, and the note says what and why. With no picture found, what optimisation
made is handed back, and called a guess.

The images of an update have no row in the pool: the guess holds one picture for each image found, not one for each
row asked for. So no audit runs this attack; tests and benchmarks/updates.py score it.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from coordinator.adversary.contract import Guess, Knowledge
from coordinator.adversary.recover import pooled_key_recovery
from coordinator.adversary.training.observation import Observed
from crypto.kernels.executors import apply
from crypto.kernels.table import Table
from crypto.scheme import load


def attack(knowledge: Knowledge) -> Guess:
    """Return the images found in the updates that were kept, in the order of the updates."""
    observed = knowledge.observed
    image_shape = knowledge.pool.spec.image_shape
    none = np.zeros((0, *image_shape), np.uint8)
    if observed is None or not observed.updates:
        note = "needs updates: a plan with keep_updates, and coordinator.adversary.training.observation.observe"
        return Guess(none, note=note)
    # torch and timm take seconds to load, and the list of attacks names this module.
    from coordinator.adversary.training.update_findings import findings

    given = findings(observed, knowledge.public, knowledge.budget.time_left)
    chosen = [i for i, f in enumerate(given) if f.found]
    notes = [f"{n} of {len(given)} updates: {why}" for why, n in Counter(f.why for f in given).items()]
    if not chosen:
        chosen = [i for i, f in enumerate(given) if len(f.images)]
        notes += ["nothing is confirmed: the pictures are guesses"] if chosen else []
    images, key = none, None
    if chosen:
        images = np.concatenate([given[i].images for i in chosen])
        if observed.plan.stem == "learn":
            images, key, said = _opened(knowledge, observed, images)
            notes.append(said)
    return Guess(images, key, "; ".join(notes))


def _opened(
    knowledge: Knowledge, observed: Observed, sealed: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray] | None, str]:
    """(uint8 [k, *image_shape], the key found, what to say): ciphertexts, opened where the pool gives its key."""
    spec, scheme = observed.plan.describe(), load(observed.plan.describe())
    pool = knowledge.pool
    if (
        len(pool)
        and len(knowledge.pool_rows)
        and (pool.spec.name, pool.spec.key_scope) == (spec.name, spec.key_scope)
    ):
        asked = Knowledge(pool, knowledge.pool_rows, np.asarray(knowledge.pool_rows[:1]), knowledge.budget)
        key = pooled_key_recovery.attack(asked).key
        if key is not None:
            table = Table.flat(scheme.sealed_shape, key["gather"], key.get("mask"))
            return (
                scheme.picture(apply(table, sealed)),
                dict(key),
                "ciphertexts, opened with the pool's key",
            )
    return scheme.picture(sealed), None, "ciphertexts: the pool gave no key to open them"
