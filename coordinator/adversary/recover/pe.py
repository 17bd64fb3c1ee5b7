"""Key recovery from a pool under one pixel-based encryption (T1; T0 with one image).

Source: our own. The key flips the sign of every value about mid-gray and may reorder the colours of a pixel, but
every value stays in its pixel. Neighbours are alike in the plain images. Over a pool they therefore show:

1. for two values near each other, whether they are more alike as they are or with one flipped, and by how much;
2. all flips from these relations (values/group_synchronisation.py), up to one for the whole picture;
3. with colour_shuffle, the same for the six colour orders of two neighbouring pixels, once the flips are undone;
4. the flip of each whole colour: the one under which the colours get brighter at the same edges.

No ciphertext tells the rest, so it is chosen by what pictures usually are. The flip of the whole picture is the one
that makes the pool darker. Green is the colour most like the two others, and red is brighter than blue. With one
image all relations agree with each other, and the result is that of the leading-bit attack.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numba
import numpy as np

from coordinator.adversary.contract import Ciphertexts, Fit, Recovered
from coordinator.adversary.recover.pool_reading import image_chunks
from coordinator.adversary.sampling import evenly_spaced
from coordinator.adversary.time_budget import TimeLeft
from coordinator.adversary.values.group_synchronisation import PERMUTATIONS, SIGNS, grid_edges, synchronise
from coordinator.adversary.values.pixel_states import PixelModel, PixelStates
from coordinator.adversary.values.usual_colours import usual_order
from crypto.arrays import AnyArray, Float32Array, Int64Array, Rows, UInt8Array
from crypto.schemes.pe import Pe
from crypto.symmetry import COLOUR_ORDERS

#: Most pairs of values compared, which lowers the number of images for large pictures. Set once; not tuned further.
_COMPARED_PAIRS = 600_000_000
#: However large the pictures are, this many images are compared. Set once; not tuned further.
_LEAST_IMAGES = 4
#: Images that decide what the relations leave open. Set once; not tuned further.
_PROBE_IMAGES = 64
#: From this many pixels on, only _LEAST_IMAGES decide it, which bounds memory.
_LARGE_PICTURE = 1 << 18
#: Pairs of neighbours on which `has_similar_neighbours` decides. Set once; not tuned further.
_PROBE_PAIRS = 20_000
#: Neighbours are alike if they differ less than any two values by this many standard errors. A share of the
#: difference is no measure: in stained tissue with colour_shuffle neighbours differ by .9 to .97 of it, and suffice.
#: Six standard errors turned away pools of 5 images that are open to 99 %. Where nothing is found, the fit says so.
_STANDARD_ERRORS = 3.0
#: Most values of the images that refine the states of pixels: bounds time and memory. Set once; not tuned further.
_REFINED_VALUES = 4_000_000
#: With fewer images no model is fitted: it would explain any signs, and with one image all relations agree already.
_LEAST_REFINED_IMAGES = 3
#: Share of pixels that must be certain for the key to be believed.
_LEAST_CERTAIN = 0.8
#: A difference of d gray levels counts d^0.8. Otherwise the border of one bright shape outweighs many others. Plain
#: distances lose on MRI, and saturating and logarithmic ones on CIFAR (README.md).
_WEIGHTS: Float32Array = np.arange(256, dtype=np.float32) ** np.float32(0.8)


def recover(pool: Ciphertexts, pool_rows: Rows, time_left: TimeLeft) -> Recovered | None:
    """Recover negative bool [h, w, c] and, with colour_shuffle, order int64 [h, w].

    Args:
        pool: Sealed images under one key.
        pool_rows: int64 [n], the rows that may be used.
        time_left: Asked between steps. When it returns False, the best key so far is returned.

    Returns:
        The key, or None if neighbours are no more alike than any two values.
    """
    height, width, channels = shape = pool.spec.image_shape
    is_shuffled = bool(pool.spec.options["colour_shuffle"])
    edges = grid_edges(height, width, channels, mixed=is_shuffled)
    rows = evenly_spaced(pool_rows, max(_LEAST_IMAGES, _COMPARED_PAIRS // max(1, len(edges[0]))))
    notes = [f"from {len(rows)} of {len(pool_rows)} images"] if len(rows) < len(pool_rows) else []
    probe_images = _PROBE_IMAGES if height * width <= _LARGE_PICTURE else _LEAST_IMAGES
    probe = _by_place(pool.images(rows[:probe_images]))
    if not has_similar_neighbours(probe, *edges):
        return None
    signs = _recover_signs(pool, rows, np.arange(len(probe)), edges, time_left)
    order, place = None, np.arange(len(signs))
    if is_shuffled:
        order = _recover_colours(pool, rows, signs, time_left)
        # Once it is known which colour stands where, the flips are recovered again from like colours alone.
        place = colour_places(order)
        same_colour = grid_edges(height, width, 3, mixed=False)
        signs[place] = _recover_signs(pool, rows, place, same_colour, time_left)
        order = _recover_colours(pool, rows, signs, time_left)
        place = colour_places(order)
    fits: tuple[Fit, ...] = ()
    if len(rows) >= _LEAST_REFINED_IMAGES:
        signs, order, fit = _refine(pool, rows, signs, order, time_left)
        fits = (fit,)
    place = place if order is None else colour_places(order)
    opened = ((probe - np.float32(127.5)) * signs[:, None])[place]  # [h·w·c, r]
    signs[place] *= np.tile(colour_signs(opened.reshape(height, width, channels, -1)), height * width)
    opened = (probe - np.float32(127.5)) * signs[:, None]
    if opened.mean() > 0:
        signs, opened = -signs, -opened
    parts: dict[str, AnyArray] = {}
    negative = (signs < 0).reshape(shape)
    if order is not None:
        usual = usual_order(opened[colour_places(order)].reshape(height * width, 3, -1))
        order = PERMUTATIONS.product[order, usual].reshape(height, width)
        parts["order"] = PERMUTATIONS.inverse[order]
        negative = np.take_along_axis(negative, COLOUR_ORDERS[order], 2)
    parts["negative"] = negative
    if not time_left():
        notes.append("truncated: out of time")
    return Recovered(Pe(pool.spec).table(parts).inverse(), parts, tuple(notes), fits)


def _refine(
    pool: Ciphertexts,
    rows: Rows,
    signs: Float32Array,
    order: Int64Array | None,
    time_left: TimeLeft,
) -> tuple[Float32Array, Int64Array | None, Fit]:
    """Return the signs and orders refined with a model of the pool, and how certain they are."""
    height, width, channels = pool.spec.image_shape
    images = pool.images(evenly_spaced(rows, max(_LEAST_IMAGES, _REFINED_VALUES // len(signs))))
    sealed = (_by_place(images).astype(np.float32) - np.float32(127.5)).reshape(
        height * width, channels, -1
    )
    start = np.zeros(height * width, np.int64) if order is None else order
    model = PixelModel(sealed, (height, width), is_shuffled=order is not None)
    states = model.search(PixelStates(start, signs.reshape(-1, channels)), time_left)
    fit = Fit(
        states.certain,
        _LEAST_CERTAIN,
        "the share of pixels of which one state is far likelier than all others",
    )
    return states.signs.ravel(), None if order is None else states.order, fit


def _recover_signs(
    pool: Ciphertexts,
    rows: Rows,
    place: Int64Array,
    edges: tuple[Int64Array, Int64Array],
    time_left: TimeLeft,
) -> Float32Array:
    """Return float32 [P] of 1 and -1: the signs of the values at int64 [P] places, between which the edges run."""
    costs = np.zeros((len(edges[0]), 2), np.float32)
    for values in _value_chunks(pool, rows, time_left):
        add_sign_costs(values, place[edges[0]], place[edges[1]], costs)
    flips = synchronise(*edges, costs, len(place), SIGNS, time_left)
    return np.where(flips == 1, -1.0, 1.0).astype(np.float32)


def _recover_colours(pool: Ciphertexts, rows: Rows, signs: Float32Array, time_left: TimeLeft) -> Int64Array:
    """Return int64 [h·w] into COLOUR_ORDERS: where three colours stand in each sealed pixel, in any fixed order."""
    height, width, _ = pool.spec.image_shape
    i, j = grid_edges(height, width, 1, mixed=False)
    pairs = np.zeros((len(i), 3, 3), np.float32)
    for values in _value_chunks(pool, rows, time_left):
        add_colour_costs(values.reshape(-1, 3, values.shape[1]), signs.reshape(-1, 3), i, j, pairs)
    return synchronise(i, j, relation_costs(pairs), height * width, PERMUTATIONS, time_left)


def colour_places(order: Int64Array) -> Int64Array:
    """Return int64 [h·w·3], the flat place of every pixel's three colours, from int64 [h·w] into COLOUR_ORDERS."""
    places: Int64Array = (np.arange(len(order))[:, None] * 3 + COLOUR_ORDERS[order]).ravel()
    return places


def relation_costs(pairs: Float32Array) -> Float32Array:
    """Return [E, 6], what it costs that component a continues as component COLOUR_ORDERS[k, a], from [E, 3, 3]."""
    return np.stack([pairs[:, np.arange(3), order].sum(1) for order in COLOUR_ORDERS], 1)


def has_similar_neighbours(values: UInt8Array, i: Int64Array, j: Int64Array) -> bool:
    """Return whether neighbours are more alike than any two values in their distance from mid-gray.

    No flip changes that distance. In a pool of constant images all differences are 0, and the result is True.

    Args:
        values: uint8 [P, n].
        i: int64 [E], one end of every edge between neighbours.
        j: int64 [E], the other end.
    """
    edges = evenly_spaced(np.arange(len(i)), _PROBE_PAIRS)
    folded = np.abs(values.astype(np.float32) - 127.5)
    near = np.abs(folded[i[edges]] - folded[j[edges]]).mean(1)
    any_two = np.random.default_rng(0).integers(0, len(values), (2, len(edges)))
    far = np.abs(folded[any_two[0]] - folded[any_two[1]]).mean(1)
    error = np.sqrt((near.var() + far.var()) / len(edges))
    return bool(near.mean() < far.mean() - _STANDARD_ERRORS * error or far.mean() == 0)


def colour_signs(planes: Float32Array) -> Float32Array:
    """Return the sign of each colour, 1 or -1, under which the colours of most edges get brighter together.

    The values themselves do not tell: in stained tissue one colour is bright and another dark, so that the negative
    of one is nearer to the other. The first colour has sign 1.

    Args:
        planes: float32 [h, w, c, r], the signed values of r images.
    """
    channels = planes.shape[2]
    gradients = np.concatenate(
        [np.diff(planes, axis=axis).swapaxes(0, 2).reshape(channels, -1) for axis in (0, 1)], 1
    )
    scaled = gradients / np.maximum(gradients.std(1, keepdims=True), 1e-6)
    agreement = scaled @ scaled.T
    choices = np.array([(1, *rest) for rest in itertools.product((1, -1), repeat=channels - 1)], np.float32)
    best: Float32Array = max(choices, key=lambda signs: float(signs @ agreement @ signs))
    return best


def add_sign_costs(values: UInt8Array, i: Int64Array, j: Int64Array, costs: Float32Array) -> None:
    """Add to costs how much the values at the ends of the edges differ, as they are and with one flipped.

    Args:
        values: uint8 [P, n].
        i: int64 [E], one end of every edge.
        j: int64 [E], the other end.
        costs: float32 [E, 2], changed in place.
    """
    _add_sign_costs(values, i, j, _WEIGHTS, costs)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator] # numba has no types
def _add_sign_costs(
    values: UInt8Array, i: Int64Array, j: Int64Array, weights: Float32Array, costs: Float32Array
) -> None:
    for e in range(len(i)):
        same, other = np.float32(0.0), np.float32(0.0)
        for k in range(values.shape[1]):
            a, b = np.int32(values[i[e], k]), np.int32(values[j[e], k])
            same += weights[abs(a - b)]
            other += weights[abs(a + b - 255)]
        costs[e, 0] += same
        costs[e, 1] += other


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator] # numba has no types
def add_colour_costs(
    values: UInt8Array, signs: Float32Array, i: Int64Array, j: Int64Array, pairs: Float32Array
) -> None:
    """Add to pairs how much every two components at the ends of the edges differ.

    Args:
        values: uint8 [P, 3, n].
        signs: float32 [P, 3], the signs of the values.
        i: int64 [E], one end of every edge.
        j: int64 [E], the other end.
        pairs: float32 [E, 3, 3], changed in place.
    """
    middle = np.float32(127.5)
    for e in range(len(i)):
        for a in range(3):
            for b in range(3):
                total = np.float32(0.0)
                for k in range(values.shape[2]):
                    first = (np.float32(values[i[e], a, k]) - middle) * signs[i[e], a]
                    second = (np.float32(values[j[e], b, k]) - middle) * signs[j[e], b]
                    total += abs(first - second)
                pairs[e, a, b] += total


def _value_chunks(pool: Ciphertexts, rows: Rows, time_left: TimeLeft) -> Iterator[UInt8Array]:
    """Yield uint8 [P, ≤ 32], the values of some images, while there is time; at least once."""
    for images in image_chunks(pool, rows):
        yield _by_place(images)
        if not time_left():
            break


def _by_place(images: UInt8Array) -> UInt8Array:
    """Return uint8 [P, r], every value of the picture over the images, from uint8 [r, h, w, c]."""
    return np.ascontiguousarray(images.reshape(len(images), -1).T)
