"""Key recovery from a pool of ciphertexts under one key (T1; T0 with one image), for every scheme that shares one.

Each scheme's recovery is a file in recover/; all work on second-order statistics of sealed images, and none
needs a plain one. Where every image has a key of its own, each image to guess is a pool of one: for shuffled
blocks that is the jigsaw attack (jigsaw.py).
"""

from __future__ import annotations

import numpy as np

from coordinator.adversary.contract import Guess, Knowledge, Recovered
from coordinator.adversary.recover import block_pixel, block_pixel_shuffle, ele, etc, le, pe, value_shuffle
from coordinator.adversary.recover.jigsaw import Recover, each_alone
from crypto.kernels.executors import apply
from crypto.scheme import load

RECOVER: dict[str, Recover] = {
    "block_pixel_shuffle": block_pixel_shuffle.recover,
    "value_shuffle": value_shuffle.recover,
    "block_pixel": block_pixel.recover,
    "etc": etc.recover,
    "le": le.recover,
    "ele": ele.recover,
    "pe": pe.recover,
}
_NOTHING = "nothing identifiable"


def attack(knowledge: Knowledge) -> Guess:
    """Opens the rows to guess with the key found from the rows seen.

    Guess.key holds the flat table that opens (gather, mask) and the scheme's parts, or is None where every block
    is constant or every image has a key of its own. Schemes without a recovery of their own, the controls, are
    taken for block_pixel_shuffle.
    """
    pool, rows = knowledge.pool, np.asarray(knowledge.rows, np.int64)
    scheme, recover = load(pool.spec), RECOVER.get(pool.spec.name, block_pixel_shuffle.recover)
    if scheme.sealed_dtype != np.uint8:
        images, note = (
            scheme.picture(pool.images(rows)),
            f"no recovery from ciphertexts alone for {pool.spec.name}",
        )
        return Guess(images, note=note, idle=True)
    if pool.spec.key_scope == "image":
        images, note, idle = each_alone(recover, knowledge, rows)
        return Guess(images, note=note, idle=idle)
    found = recover(pool, np.asarray(knowledge.pool_rows, np.int64), knowledge.budget.time_left)
    sealed, key, note = pool.images(rows), None, _NOTHING
    if found is not None:
        sealed, note = apply(found.table, sealed), "; ".join(found.notes)
        key = as_key(found)
    return Guess(scheme.picture(sealed), key, note)


def as_key(found: Recovered) -> dict[str, np.ndarray]:
    """What Guess.key holds of a recovered key: the flat table that opens (gather, mask) and the scheme's parts."""
    gather, mask = found.table.flattened()
    # The flat mask takes the place of a part of that name: it is what opens.
    parts = {name: part for name, part in found.parts.items() if name != "mask"}
    return {**parts, "gather": gather, **({} if mask is None else {"mask": mask})}
