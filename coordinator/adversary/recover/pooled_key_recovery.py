"""Key recovery from a pool of ciphertexts under one key (T1; T0 with one image): a ciphertext-only attack.

The recovery of each scheme is a file in this folder (methods.py lists them). All of them work on second-order
statistics of sealed images, and none needs a plain image. Where every image has a key of its own, each image to guess
is a pool of one. For shuffled blocks that is the jigsaw attack (jigsaw.py).
"""

from __future__ import annotations

import numpy as np

from coordinator.adversary.contract import Guess, Knowledge
from coordinator.adversary.opened import open_rows
from coordinator.adversary.recover.jigsaw import open_each_alone
from coordinator.adversary.recover.methods import METHODS
from crypto.scheme import load


def attack(knowledge: Knowledge) -> Guess:
    """Open the rows to guess with the key recovered from the pool's rows.

    `Guess.key` is None if every block is constant or every image has a key of its own. The guess is idle if the pool
    has fewer images than the recovery needs, or holds nothing that identifies a key. That says nothing about the
    scheme's strength.
    """
    spec = knowledge.pool.spec
    method = METHODS.get(spec.name)
    if method is None:
        note = f"no recovery from ciphertexts alone for {spec.name}"
        return open_rows(knowledge, None, note, idle=True)
    if load(spec).is_each_alone:
        return open_each_alone(method.recover, knowledge)
    pool_rows = np.asarray(knowledge.pool_rows, np.int64)
    if len(pool_rows) < method.least_images:
        note = f"nothing is tried with fewer than {method.least_images} images"
        return open_rows(knowledge, None, note, idle=True)
    recovered = method.recover(knowledge.pool, pool_rows, knowledge.budget.time_left)
    if recovered is None:
        return open_rows(knowledge, None, "nothing identifiable", idle=not method.none_is_failure)
    return open_rows(knowledge, recovered, "; ".join(recovered.notes))
