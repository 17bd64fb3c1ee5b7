"""One keystream for all images (T1): every image is XORed with it, or it is added modulo 256.

Textbook: the two-time pad. A keystream that seals one image is a one-time pad; from the second image on, the
differences of ciphertexts are those of images. Here the stream is sought directly (keystream_search.py), because
neighbouring values of pictures are alike.

Under XOR, each colour is found up to its negative; the colours are brought together by their correlation. The fit is
measured on images that were held back: a stream that was fitted to noise smooths the images that it was fitted to,
and no others.
"""

from __future__ import annotations

import numpy as np

from coordinator.adversary.contract import Ciphertexts, Fit, Recovered
from coordinator.adversary.opened import Key, RecoveredStream
from coordinator.adversary.recover.neighbour_agreement import colour_agreement
from coordinator.adversary.recover.pool_reading import random_order
from coordinator.adversary.textbook.keystream_search import search_stream
from coordinator.adversary.time_budget import TimeLeft, always
from crypto.arrays import Images, Rows, UInt8Array
from crypto.kernels.table import Table

#: Places of all images together that a stream is sought in, and the fewest and most images: a bound on time.
_PLACES, _FEWEST_IMAGES, _MOST_IMAGES = 1_200_000, 24, 100
#: Images that are held back to measure the fit, and the most of the pool that they may be.
_HELD_BACK, _HELD_BACK_SHARE = 8, 0.5
#: Side of the middle of the picture in which XOR and addition are compared. Chosen by hand.
_MIDDLE = 48
#: Fewer images that a stream is added to than this are opened to the difference of two images, which is smooth, too:
#: the fit must be nearly 1 there.
_FEW_ADDED, _LEAST_FIT_OF_FEW = 5, 0.95
#: Images of which it is measured how much neighbouring values agree as they are. If that is so much, they must agree
#: more by the gain when they are opened, for a keystream to be there.
_LOOKED_AT, _AS_IT_IS, _GAIN = 16, 0.5, 0.1
#: Smallest side of a picture in pixels: smaller ones are smooth by chance.
_LEAST_SIDE = 4
#: Least agreement of the images that were held back. Streams that named their images had .5 to .9, noise at most .02.
_LEAST_FIT = 0.5
_FIT = "the correlation of neighbouring pixels in images that the keystream was not sought in"
_WAYS = {True: "the keystream is XORed", False: "the keystream is added modulo 256"}


def recover(pool: Ciphertexts, pool_rows: Rows, time_left: TimeLeft) -> Key | None:
    """Recover the keystream.

    Args:
        pool: Sealed images, uint8.
        pool_rows: int64 [n], the rows that may be used.
        time_left: Asked between the passes of a search.

    Returns:
        The key; None from one image, which has a one-time pad, from pictures of a few pixels, or if neighbouring
        values agree as much as they are.
    """
    height, width, channels = shape = pool.spec.image_shape
    most = int(np.clip(_PLACES // (height * width), _FEWEST_IMAGES, _MOST_IMAGES))
    images = pool.images(np.sort(random_order(pool_rows)[:most]))
    if len(images) < 2 or min(height, width) < _LEAST_SIDE:
        return None
    held_back = min(_HELD_BACK, int(len(images) * _HELD_BACK_SHARE))
    seen, unseen = images[held_back:], images[:held_back]
    is_xor, agreement = _way(seen, unseen)
    as_it_is = colour_agreement(images[:_LOOKED_AT])
    if as_it_is >= _AS_IT_IS and agreement < as_it_is + _GAIN:
        return None
    checked = find_stream(seen, is_xor=is_xor, time_left=time_left)
    least = _LEAST_FIT if is_xor or len(seen) >= _FEW_ADDED else _LEAST_FIT_OF_FEW
    fit = Fit(_agreement(unseen, checked, is_xor=is_xor), least, f"{_FIT}; {_WAYS[is_xor]}")
    stream = find_stream(images, is_xor=is_xor, time_left=time_left) if time_left() else checked
    if not is_xor:
        return RecoveredStream(stream, (fit,))
    table = Table.flat(shape, np.arange(height * width * channels), stream.ravel())
    return Recovered(table, {}, (), (fit,))


def open_values(images: Images, stream: UInt8Array, *, is_xor: bool) -> Images:
    """Return images uint8 [n, h, w, c] opened under a stream uint8 [h, w, c]."""
    return images ^ stream if is_xor else images - stream


def _agreement(images: Images, stream: UInt8Array, *, is_xor: bool) -> float:
    return colour_agreement(open_values(images, stream, is_xor=is_xor))


def _way(seen: Images, unseen: Images) -> tuple[bool, float]:
    """Return which way of sealing opens the middle of images better that were held back, and how smooth it is."""
    height, width = seen.shape[1:3]
    top, left = max(0, (height - _MIDDLE) // 2), max(0, (width - _MIDDLE) // 2)
    middle = (slice(None), slice(top, top + _MIDDLE), slice(left, left + _MIDDLE))
    agreements = {
        is_xor: _agreement(
            unseen[middle], find_stream(seen[middle], is_xor=is_xor, time_left=always), is_xor=is_xor
        )
        for is_xor in (True, False)
    }
    is_xor = agreements[True] >= agreements[False]
    return is_xor, agreements[is_xor]


def find_stream(images: Images, *, is_xor: bool, time_left: TimeLeft) -> UInt8Array:
    """Return the stream of images uint8 [n, h, w, c], uint8 [h, w, c], its colours brought together.

    Args:
        images: The ciphertexts, their pixels in order.
        is_xor: Whether the stream is XORed. Else it is added modulo 256.
        time_left: Asked between the passes of a search.
    """
    colours = [
        search_stream(images[..., c].transpose(1, 2, 0), is_xor=is_xor, time_left=time_left)
        for c in range(images.shape[3])
    ]
    opened = open_values(images, np.stack(colours, 2), is_xor=is_xor).astype(np.float64)
    opened -= opened.mean((1, 2), keepdims=True)
    for c in range(1, len(colours)):
        if is_xor and (opened[..., 0] * opened[..., c]).sum() < 0:
            colours[c] ^= np.uint8(255)
    return np.stack(colours, 2)
