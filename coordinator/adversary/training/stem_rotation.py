"""Find the orthogonal matrix by which a stem was carried, from the stem before and after (T5).

Procrustes' problem gives the matrix on the directions that the stem spans. The smoothness of plain blocks fills in
the rest, and checks the result on ciphertexts.

Source: our own.
"""

from __future__ import annotations

import numpy as np

from coordinator.adversary.contract import Knowledge
from coordinator.adversary.recover.moment_matching import nearest_orthogonal
from crypto.arrays import Float32Array, Float64Array
from crypto.kernels.blocks import to_blocks

#: A direction is spanned if its singular value is at least this share of the largest. Set once; not tuned further.
_MIN_SPANNED = 1e-3
#: Correlation that neighbouring pixels of an opened block must exceed. Set once; how it was chosen is not recorded.
_MIN_PIXEL_CORRELATION = 0.3
#: At most so many images check a matrix. Set by hand; not tuned further.
_CHECKED_IMAGES = 64


def spanned_rotation(
    first: Float64Array, carried: Float64Array
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Solve Procrustes' problem on the directions that the stems span.

    Args:
        first: [D, V], the filters before.
        carried: [D, V], the filters after.

    Returns:
        The rotation, float64 [V, V], for which first @ rotation is nearest to carried; it is 0 on all other
        directions. Then the directions of plain blocks and those of sealed blocks that the stems ignore, float64
        [V, left] each.
    """
    left, strengths, right = np.linalg.svd(first.T @ carried)
    rank = int((strengths > _MIN_SPANNED**2 * strengths[0]).sum())
    return left[:, :rank] @ right[:rank], left[:, rank:], right[rank:].T


def complete_rotation(
    knowledge: Knowledge, rotation: Float64Array, plain: Float64Array, sealed: Float64Array
) -> Float32Array:
    """Fill in the directions that a stem leaves open because it has fewer outputs than a block has values.

    Blocks are smooth, so the known part of an opened block predicts the rest: the least rough one. The rotation of
    the open directions is the one that predicts them best over the ciphertexts (Procrustes).

    Args:
        knowledge: what the attack was given.
        rotation: [V, V], see `spanned_rotation`.
        plain: [V, left], the open directions of plain blocks.
        sealed: [V, left], the open directions of sealed blocks.

    Returns:
        The whole matrix, float32 [V, V].
    """
    if not plain.shape[1]:
        return rotation.astype(np.float32)
    spec = knowledge.pool.spec
    rough = roughness(spec.block, spec.image_shape[2])
    prediction = -np.linalg.solve(plain.T @ rough @ plain, plain.T @ rough)
    blocks = centred_blocks(knowledge)
    rest = nearest_orthogonal(prediction @ (rotation @ (blocks.T @ blocks)) @ sealed)
    matrix: Float32Array = (rotation + plain @ rest @ sealed.T).astype(np.float32)
    return matrix


def roughness(block: int, channels: int) -> Float64Array:
    """Return the quadratic form of a block's roughness, float64 [V, V].

    Its value at a block is the sum of squared differences of neighbouring pixels.
    """
    step = np.diff(np.eye(block), axis=0)
    line = step.T @ step
    grid = np.kron(line, np.eye(block)) + np.kron(np.eye(block), line)
    # A little of the identity, so that no direction is free.
    return np.kron(grid, np.eye(channels)) + 1e-6 * np.eye(len(grid) * channels)


def centred_blocks(knowledge: Knowledge) -> Float64Array:
    """Return the sealed blocks of some images of the pool, less mid-gray, float64 [blocks, V]."""
    sealed = knowledge.pool.images(np.asarray(knowledge.pool_rows)[:_CHECKED_IMAGES])
    blocks = to_blocks(sealed, knowledge.pool.spec.block).astype(np.float64)
    flat: Float64Array = blocks.reshape(len(blocks) * blocks.shape[1], -1) - 127.5
    return flat


def opens_smooth_blocks(knowledge: Knowledge, matrix: Float32Array) -> bool:
    """Return whether neighbouring pixels of blocks that a matrix opens correlate. Under a wrong one they do not."""
    spec = knowledge.pool.spec
    opened = centred_blocks(knowledge) @ matrix.T
    side = spec.block
    blocks = opened.reshape(-1, side, side, spec.image_shape[2])
    blocks = blocks - blocks.mean((1, 2), keepdims=True)
    down = np.corrcoef(blocks[:, 1:].ravel(), blocks[:, :-1].ravel())[0, 1]
    across = np.corrcoef(blocks[:, :, 1:].ravel(), blocks[:, :, :-1].ravel())[0, 1]
    return bool(min(down, across) > _MIN_PIXEL_CORRELATION)
