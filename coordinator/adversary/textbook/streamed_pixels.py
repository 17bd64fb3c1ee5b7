"""Which pixels are neighbours, though they were moved and a keystream has changed each of them.

The stream's value at a place is the same in every image. So what two places have in common over many images stays,
whatever the stream: under addition modulo 256, the difference of their values, as a turn of the circle; under XOR,
whether a parity of their bits is equal or opposite. Neighbours have much in common. The parities are those of the
Gray code, of which two near levels differ in one at most.

What all places of real pictures have in common (one picture is bright, another is dark) tells besides whether there
is a keystream at all, and of which kind: values under a nonce for every image have nothing in common.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from coordinator.adversary.textbook.pixel_graph import PixelGraph, join_nearest, nearest_others
from coordinator.adversary.time_budget import TimeLeft
from crypto.arrays import AnyArray, Float32Array, Float64Array, Int64Array, UInt8Array

#: The upper four bits of the Gray code, as sums of bits. Of 30 images they found 70 % of the nearest neighbours of
#: CIFAR-10 and of stained tissue, the highest bit alone 52 and 55 %.
_PARITIES = (128, 192, 96, 48)
#: Parities of the rough distances of large pictures, and pixels from which a picture is large: a bound on time.
_ROUGH_PARITIES, _LARGE = 2, 4096
#: Places that are compared with all others to measure what places have in common. Set once by hand; no measurement is
#: recorded.
_PLACES = 128
#: Pixels whose candidates are compared at a time: a bound on memory.
_CHUNK = 4096


def in_common(values: UInt8Array, *, is_xor: bool) -> float:
    """Return how much two places have in common over images, on average: 0 is what noise has, near 1 is all.

    Two places that are each the same in every image have all in common.

    Args:
        values: uint8 [P, c, n], every pixel's values by colour over images.
        is_xor: Whether the stream is taken as XORed. Else it is taken as added modulo 256.
    """
    count, colours, images = values.shape
    places = np.random.default_rng(0).permutation(count)[:_PLACES]
    total = np.zeros((len(places), count))
    for feature in _features(values, is_xor=is_xor):
        total += _squares(feature[places], feature)
    total[np.arange(len(places)), places] = np.nan
    features = colours * (len(_PARITIES) if is_xor else 1)
    return float(np.nanmean(total).item() / features - 1 / images)


def join_streamed_pixels(values: UInt8Array, *, is_xor: bool, time_left: TimeLeft) -> PixelGraph | None:
    """Return the graph of pixels; None if time runs out, or it falls to pieces.

    Args:
        values: uint8 [P, c, n].
        is_xor: See `in_common`.
        time_left: Asked between strips of distances.
    """
    rough = list(_features(values, is_xor=is_xor, rough=len(values) >= _LARGE))

    def unlike(strip: Int64Array) -> Float32Array:
        common = np.zeros((len(strip), len(values)), np.float32)
        for feature in rough:
            common -= _squares(feature[strip], feature)
        return common

    candidates = nearest_others(len(values), unlike, time_left)
    if candidates is None:
        return None
    return join_nearest(candidates, _candidate_distances(values, candidates, is_xor=is_xor))


def streamed_distances(values: UInt8Array, *, is_xor: bool) -> Float64Array:
    """Return how little every two pixels have in common, float64 [P, P], from 0 to 1.

    Args:
        values: uint8 [P, c, n].
        is_xor: See `in_common`.
    """
    squares = [_squares(feature, feature) for feature in _features(values, is_xor=is_xor)]
    distances: Float64Array = 1.0 - np.sqrt(np.minimum(np.mean(squares, axis=0, dtype=np.float64), 1))
    return distances


def _candidate_distances(values: UInt8Array, candidates: Int64Array, *, is_xor: bool) -> Float32Array:
    """Return the distances of every pixel to its candidates, float32 [P, candidates]."""
    shared, count = np.zeros(candidates.shape, np.float32), 0
    for feature in _features(values, is_xor=is_xor):
        count += 1
        for first in range(0, len(values), _CHUNK):
            strip = slice(first, first + _CHUNK)
            products = np.einsum("pn,pkn->pk", feature[strip].conj(), feature[candidates[strip]])
            shared[strip] += np.abs(products / feature.shape[1]) ** 2
    # Of places that are equal in all images, rounding makes it a little more than 1.
    distances: Float32Array = 1.0 - np.sqrt(np.minimum(shared / np.float32(count), 1))
    return distances


def _features(values: UInt8Array, *, is_xor: bool, rough: bool = False) -> Iterator[AnyArray]:
    """Yield what stays of every pixel's values under a stream, up to a sign or a turn: [P, n], of length 1 each.

    float32 parities, or complex64 points of the circle, for every colour.
    """
    for colour in range(values.shape[1]):
        own = values[:, colour]
        if not is_xor:
            yield np.exp((2j * np.pi / 256) * own).astype(np.complex64)
            continue
        for bits in _PARITIES[: _ROUGH_PARITIES if rough else None]:
            yield 1 - 2 * (np.bitwise_count(own & np.uint8(bits)) & 1).astype(np.float32)


def _squares(one: AnyArray, other: AnyArray) -> Float32Array:
    """Return the squared size of what features [p, n] and [P, n] have in common, float32 [p, P], from 0 to 1."""
    products = one @ other.T.conj()
    squares: Float32Array
    if np.iscomplexobj(products):
        squares = products.real**2
        squares += products.imag**2
    else:
        squares = np.square(products, out=products)
    squares /= np.float32(one.shape[1] ** 2)
    return squares
