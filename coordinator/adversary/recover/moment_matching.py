"""Moment matching: public plain images undo any linear map that all blocks share (T2).

Sealed blocks are z = x·Q about mid-gray, with one orthogonal Q and the blocks left in place, as in the scheme
`orthogonal`. Every second moment of the sealed blocks is then the plain one in turned axes, Mz = Qᵀ·Mx·Q, and public
images show what Mx is like:

1. the eigenvectors of both covariances are paired by rank: Q up to a sign for each pair;
2. the signs come from the cross-covariances of neighbouring blocks (to the right, below), which the signs of both
   eigenvectors must carry over to the public ones; the sign of all comes from the mean block;
3. eigenvectors with nearly equal eigenvalues mix, so all moments are then used together: Q is turned to agree best
   with the covariance, the two cross-covariances and the mean block at every place of the picture (first moments
   alone fix as many directions as there are places). Each step solves the orthogonal Procrustes problem that is
   linear in Q.
4. how well Q fits is read from a moment that no step has used (block_moments.py).

Under `noisy_orthogonal` the same moments are taken. The noise adds σ² to the diagonal of the sealed covariance, and
nothing to the others, because neighbouring blocks have independent noise. σ² is public, and is added to the plain
covariance too. (Taking it off the sealed one leaves weak directions without a size, and opens less: SSIM .25 instead
of .41 at σ = 128.) The opened rows still bear the noise, and wiener.py takes off what public images allow to.

Source: steps 1 and 2 are principal axes matching, known from the registration of shapes; the rest is our own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from scipy.linalg import svd

from coordinator.adversary.contract import Guess, Knowledge
from coordinator.adversary.opened import RecoveredMatrix, open_rows
from coordinator.adversary.recover import row_projections, token_moments
from coordinator.adversary.recover.block_moments import (
    MID_GRAY,
    Moments,
    axes_of,
    fits_of,
    moments,
    tone_of,
)
from coordinator.adversary.recover.pool_reading import CHUNK, image_chunks, random_order
from coordinator.adversary.recover.wiener import WienerFilter
from coordinator.adversary.time_budget import TimeLeft
from crypto.arrays import Float32Array, Float64Array, Images
from crypto.errors import CipherwardError
from crypto.kernels.blocks import from_blocks, to_blocks
from crypto.scheme import load

#: Most images on either side whose moments are taken. Set once; not tuned further.
_IMAGES = 2000
#: Eigenvalues are raised to this power before moments are compared. At 1 the few strong axes would drown the rest.
#: At 0 the noise of the weak ones would count as much as the strong ones do. Set once; not tuned further.
_POWER = 0.7
#: Most steps that turn Q, and the largest change of an entry below which Q is settled. Set once; not tuned further.
_STEPS, _SETTLED = 100, 0.002
#: Multiply-adds, in units of V³, that the turning of Q may cost: large blocks take fewer steps.
_WORK = 2e10
#: Most sweeps of `agreeing_signs`, which ends earlier once no sign changes. Set once; not tuned further.
_SIGN_SWEEPS = 50


def attack(knowledge: Knowledge) -> Guess:
    """Open the rows to guess with the matrix [V, V] that public images suggest.

    Without public images, and if every image has a key of its own, the guess is the ciphertext's picture.

    Raises:
        CipherwardError: If the public images have another shape than the plain ones.
    """
    note = _reason_not_to_run(knowledge)
    if note:
        return open_rows(knowledge, None, note, idle=True)
    if knowledge.pool.spec.name == "block_projection":
        return row_projections.attack(knowledge)
    if knowledge.pool.spec.name == "neuracrypt":
        return token_moments.attack(knowledge)
    pool, block = knowledge.pool, knowledge.pool.spec.block
    pool_rows = random_order(np.asarray(knowledge.pool_rows, np.int64))[:_IMAGES]
    sealed = moments(image_chunks(pool, pool_rows), block)
    plain = moments(_public_chunks(np.asarray(knowledge.public)), block)
    if not sealed.covariance.any() or not plain.covariance.any():
        return open_rows(knowledge, None, "nothing identifiable", idle=True)
    sigma = load(pool.spec).noise_sigma
    plain = replace(plain, covariance=plain.covariance + sigma**2 * np.eye(len(plain.covariance)))
    matrix = match(sealed, plain, knowledge.budget.time_left)
    note = "" if knowledge.budget.time_left() else "truncated: out of time"
    guess = open_rows(knowledge, RecoveredMatrix(matrix, fits_of(matrix, sealed, plain)), note)
    return replace(guess, images=_without_noise(knowledge, matrix, sigma)) if sigma else guess


def _without_noise(knowledge: Knowledge, matrix: Float32Array, sigma: float) -> Images:
    """Return the rows to guess, opened with a matrix [V, V] and filtered, uint8 [r, h, w, c]."""
    pool, rows = knowledge.pool, np.asarray(knowledge.rows, np.int64)
    noise_filter = WienerFilter(np.asarray(knowledge.public), sigma)
    height, width, _ = pool.spec.image_shape
    opened = [np.zeros((0, *pool.spec.image_shape), np.uint8)]
    for images in image_chunks(pool, rows):
        blocks = to_blocks(images, pool.spec.block)
        flat = (blocks.reshape(-1, len(matrix)) - MID_GRAY) @ matrix.T + MID_GRAY
        opened.append(noise_filter.apply(from_blocks(flat.reshape(blocks.shape), height, width)))
    return np.concatenate(opened)


def _reason_not_to_run(knowledge: Knowledge) -> str:
    """Return what the attack lacks, or ""."""
    spec, public = knowledge.pool.spec, knowledge.public
    if public is None or not len(public):
        return "needs public images"
    if public.shape[1:] != spec.image_shape:
        raise CipherwardError(
            f"public images of {public.shape[1:]} cannot be matched with plain ones of {spec.image_shape}",
            "bring the public images to the size and channels of the sealed ones",
        )
    if load(spec).row_keys:
        return "every image has a key of its own"
    if not load(spec).is_invertible and spec.name != "neuracrypt":
        return f"no key opens {spec.name}, and no matrix does"
    if load(spec).sealed_shape != spec.image_shape:
        return "sealed images have another shape than plain ones"
    return ""


def _public_chunks(public: Images) -> Iterator[Images]:
    """Yield public images in a fixed random order, some at a time."""
    order = random_order(np.arange(len(public)))[:_IMAGES]
    for first in range(0, len(order), CHUNK):
        yield public[order[first : first + CHUNK]]


def match(sealed: Moments, plain: Moments, time_left: TimeLeft) -> Float32Array:
    """Return the orthogonal Q on which the moments agree best, float32 [V, V] with sealed block = plain block · Q."""
    values, axes = axes_of(sealed.covariance)
    plain_values, plain_axes = axes_of(plain.covariance)
    signs = _signs(sealed, plain, values, plain_values, axes, plain_axes)
    q = (plain_axes * signs) @ axes.T
    sealed_parts = _flattened(sealed, values, axes)
    plain_parts = _flattened(plain, plain_values, plain_axes)
    linear = plain_parts[0].T @ sealed_parts[0]
    for _ in range(int(np.clip(_WORK / len(q) ** 3, 1, _STEPS))):
        if not time_left():
            break
        gradient = linear.copy()
        for here, there in zip(sealed_parts[1:], plain_parts[1:], strict=True):
            gradient += there @ q @ here.T + there.T @ q @ here
        turned = nearest_orthogonal(gradient)
        change = float(np.abs(turned - q).max())
        q = turned
        if change < _SETTLED:
            break
    return np.asarray(q, np.float32)


def nearest_orthogonal(matrix: Float64Array) -> Float64Array:
    """Return the orthogonal [V, V] matrix nearest to a matrix [V, V]: the solution of Procrustes' problem."""
    left, _, right = svd(matrix, lapack_driver="gesdd", check_finite=False)
    return np.asarray(left @ right)


def _signs(
    sealed: Moments,
    plain: Moments,
    values: Float64Array,
    plain_values: Float64Array,
    axes: Float64Array,
    plain_axes: Float64Array,
) -> Float64Array:
    """Return ±1 [V]: which sealed axes point the other way, by the neighbouring blocks' cross-covariances."""
    unit = np.sqrt(values * plain_values)
    agree = np.zeros((len(values), len(values)))
    for here, there in ((sealed.right, plain.right), (sealed.below, plain.below)):
        agree += (axes.T @ here @ axes) * (plain_axes.T @ there @ plain_axes) / np.outer(unit, unit)
    signs = agreeing_signs(agree + agree.T)
    both = (sealed.means.mean(0) @ axes) * signs * (plain.means.mean(0) @ plain_axes)
    return signs if both.sum() >= 0 else -signs


def agreeing_signs(agree: Float64Array) -> Float64Array:
    """Return signs that make the sum of agree[i, j]·s_i·s_j large, up to the sign of all.

    The signs of the leading eigenvector are taken first. Then single signs are flipped while that helps.

    Args:
        agree: float64 [V, V], symmetric.

    Returns:
        ±1 [V].
    """
    agree = agree - np.diag(np.diag(agree))
    signs = np.where(np.linalg.eigh(agree)[1][:, -1] >= 0, 1.0, -1.0)
    for _ in range(_SIGN_SWEEPS):
        before = signs.copy()
        for i in range(len(signs)):
            signs[i] = 1.0 if agree[i] @ signs >= 0 else -1.0
        if (signs == before).all():
            break
    return signs


def _flattened(moment: Moments, values: Float64Array, axes: Float64Array) -> list[Float64Array]:
    """Return means, covariance, right and below with strong axes scaled down, each of norm 1 (or 0)."""
    tone = tone_of(values, axes, _POWER)
    parts = [moment.means @ tone]
    parts += [tone @ part @ tone for part in (moment.covariance, moment.right, moment.below)]
    return [part / max(float(np.linalg.norm(part)), 1e-300) for part in parts]
