"""Moment matching: public plain images undo any linear map that all blocks share (T2).

Sealed blocks are z = x·Q about mid-gray, with one orthogonal Q and the blocks left in place, as in the scheme
`orthogonal`. Then every second moment of the sealed blocks is the plain one in turned axes, Mz = Qᵀ·Mx·Q, and
public images say what Mx is like:

1. the eigenvectors of both covariances, paired by rank: Q up to a sign for each pair;
2. the signs, from the cross-covariances of neighbouring blocks (to the right, below), which the signs of both
   eigenvectors must carry over to the public ones; the sign of all from the mean block;
3. all moments together, since eigenvectors with nearly equal eigenvalues mix: Q is turned to agree best with the
   covariance, the two cross-covariances and the mean block at every place of the picture (first moments alone fix
   as many directions as there are places). Each step solves the orthogonal Procrustes problem that is linear in Q.

Source: steps 1 and 2 are principal axes matching, known from the registration of shapes; the rest is our own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.linalg import svd

from coordinator.adversary.contract import Ciphertexts, Guess, Knowledge
from crypto.cipher import MatrixCipher
from crypto.errors import CipherwardError
from crypto.kernels.blocks import to_blocks
from crypto.scheme import load

_CHUNK = 32  # images held at a time
_IMAGES = 2000  # most images on either side whose moments are taken
_MIDDLE = np.float32(127.5)
#: Eigenvalues are raised to this power before moments are compared: the few strong axes would drown the rest at 1,
#: and the noise of the weak ones would count as much as they do at 0.
_POWER = 0.7
_SMALLEST = 1e-6  # least eigenvalue that is told from 0, as a share of the largest
_STEPS, _SETTLED = 100, 0.002
#: Multiply-adds, in units of V³, that the turning of Q may cost: large blocks take fewer steps.
_WORK = 2e10


@dataclass(frozen=True)
class Moments:
    """Of blocks of V values about mid-gray, float64.

    means [N, V]: the mean block at each of the N places. covariance, right, below [V, V]: of a block with
    itself, with its right neighbour and with the one below it, about the mean of all blocks.
    """

    means: np.ndarray
    covariance: np.ndarray
    right: np.ndarray
    below: np.ndarray


def attack(knowledge: Knowledge) -> Guess:
    """Opens the rows to guess with `matrix` float32 [V, V], the part of the scheme `orthogonal`.

    Without public images, and where every image has a key of its own, it hands back the ciphertext's picture.
    Raises CipherwardError for public images of another shape than the plain ones.
    """
    pool, rows = knowledge.pool, np.asarray(knowledge.rows, np.int64)
    sealed, spec = pool.images(rows), pool.spec
    matrix, note = None, _missing(knowledge)
    idle = bool(note)
    if not idle:
        ours = moments(_chunks(pool, np.asarray(knowledge.pool_rows, np.int64)), spec.block)
        public = np.asarray(knowledge.public)
        theirs = moments(_spread(public), spec.block)
        if not ours.covariance.any() or not theirs.covariance.any():
            note = "nothing identifiable"
        else:
            matrix = match(ours, theirs, knowledge.budget.time_left)
            note = "" if knowledge.budget.left() > 0 else "truncated: out of time"
    if matrix is None:
        images, key = load(spec).picture(sealed), None
    else:
        turned = np.asarray(sealed, np.float32)  # sealed as bytes, where the scheme is another
        images, key = MatrixCipher(spec.image_shape, spec.block, matrix).decrypt(turned), {"matrix": matrix}
    return Guess(images, key, note, idle)


def _missing(knowledge: Knowledge) -> str:
    """What the attack lacks, or nothing."""
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
    if load(spec).sealed_shape != spec.image_shape:
        return "sealed images have another shape than plain ones"
    return ""


def _chunks(pool: Ciphertexts, seen: np.ndarray) -> Iterator[np.ndarray]:
    order = np.random.default_rng(0).permutation(seen)[:_IMAGES]
    for first in range(0, len(order), _CHUNK):
        yield pool.images(order[first : first + _CHUNK])


def _spread(public: np.ndarray) -> Iterator[np.ndarray]:
    order = np.random.default_rng(0).permutation(len(public))[:_IMAGES]
    for first in range(0, len(order), _CHUNK):
        yield public[order[first : first + _CHUNK]]


def moments(chunks: Iterable[np.ndarray], block: int) -> Moments:
    """Of images [n, h, w, c] of any number type, a chunk at a time. The moments of one image exist too."""
    sums: list[np.ndarray] = []
    for images in chunks:
        height, width = images.shape[1] // block, images.shape[2] // block
        blocks = to_blocks(images, block).astype(np.float32) - _MIDDLE
        grid = blocks.reshape(len(images), height, width, -1)
        new = [
            grid.sum(0, dtype=np.float64),
            _products(grid, grid),
            _products(grid[:, :, :-1], grid[:, :, 1:]),
            _products(grid[:, :-1], grid[:, 1:]),
            np.array(len(images)),
        ]
        sums = [a + b for a, b in zip(sums, new, strict=True)] if sums else new
    first, own, right, below, n = sums
    height, width, size = first.shape
    mean = first.sum((0, 1)) / (n * height * width)
    shift = np.outer(mean, mean)
    pairs = [n * height * width, n * height * (width - 1), n * (height - 1) * width]
    second = [
        part / pair - shift if pair else np.zeros((size, size))
        for part, pair in zip((own, right, below), pairs, strict=True)
    ]
    return Moments(first.reshape(-1, size) / n, *second)


def _products(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """float32 [..., V] twice → float64 [V, V], the sum of outer products."""
    size = first.shape[-1]
    return (first.reshape(-1, size).T @ second.reshape(-1, size)).astype(np.float64)


def match(sealed: Moments, plain: Moments, time_left: Callable[[], bool]) -> np.ndarray:
    """float32 [V, V], the orthogonal Q with sealed block = plain block · Q that the moments agree on best."""
    values, axes = _axes(sealed.covariance)
    plain_values, plain_axes = _axes(plain.covariance)
    signs = _signs(sealed, plain, values, plain_values, axes, plain_axes)
    q = (plain_axes * signs) @ axes.T
    ours, theirs = _flattened(sealed, values, axes), _flattened(plain, plain_values, plain_axes)
    linear = theirs[0].T @ ours[0]
    for _ in range(int(np.clip(_WORK / len(q) ** 3, 1, _STEPS))):
        if not time_left():
            break
        pull = linear.copy()
        for here, there in zip(ours[1:], theirs[1:], strict=True):
            pull += there @ q @ here.T + there.T @ q @ here
        turned = nearest_orthogonal(pull)
        change = float(np.abs(turned - q).max())
        q = turned
        if change < _SETTLED:
            break
    return np.asarray(q, np.float32)


def nearest_orthogonal(matrix: np.ndarray) -> np.ndarray:
    """The orthogonal [V, V] matrix nearest to any one: the solution of Procrustes' problem."""
    left, _, right = svd(matrix, lapack_driver="gesdd", check_finite=False)
    return np.asarray(left @ right)


def _axes(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(eigenvalues [V], eigenvectors as columns [V, V]), the strongest first, none below a small share of it."""
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values[::-1], values[-1] * _SMALLEST)
    return values, vectors[:, ::-1]


def _signs(
    sealed: Moments,
    plain: Moments,
    values: np.ndarray,
    plain_values: np.ndarray,
    axes: np.ndarray,
    plain_axes: np.ndarray,
) -> np.ndarray:
    """±1 [V]: which sealed axes point the other way, by the neighbouring blocks' cross-covariances."""
    unit = np.sqrt(values * plain_values)
    agree = np.zeros((len(values), len(values)))
    for here, there in ((sealed.right, plain.right), (sealed.below, plain.below)):
        agree += (axes.T @ here @ axes) * (plain_axes.T @ there @ plain_axes) / np.outer(unit, unit)
    signs = agreeing_signs(agree + agree.T)
    both = (sealed.means.mean(0) @ axes) * signs * (plain.means.mean(0) @ plain_axes)
    return signs if both.sum() >= 0 else -signs


def agreeing_signs(agree: np.ndarray) -> np.ndarray:
    """±1 [V], up to the sign of all, that make the sum of agree[i, j]·s_i·s_j large; agree is symmetric.

    The leading eigenvector's signs, then flips of one at a time.
    """
    agree = agree - np.diag(np.diag(agree))
    signs = np.where(np.linalg.eigh(agree)[1][:, -1] >= 0, 1.0, -1.0)
    for _ in range(50):
        before = signs.copy()
        for i in range(len(signs)):
            signs[i] = 1.0 if agree[i] @ signs >= 0 else -1.0
        if (signs == before).all():
            break
    return signs


def _flattened(moment: Moments, values: np.ndarray, axes: np.ndarray) -> list[np.ndarray]:
    """Means, covariance, right and below with strong axes toned down, each of norm 1 (or 0)."""
    tone = (axes * values ** ((_POWER - 1.0) / 2.0)) @ axes.T
    whole = [moment.means @ tone]
    whole += [tone @ part @ tone for part in (moment.covariance, moment.right, moment.below)]
    return [part / max(float(np.linalg.norm(part)), 1e-300) for part in whole]
