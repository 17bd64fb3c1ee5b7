"""How much of a key a guess holds: what it opens, and how many of its entries are right."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from coordinator.exchange.audit.guesses import StoredGuess
from coordinator.exchange.audit.scores import Grid, KeyShare
from crypto.arrays import AnyArray, Images, Int64Array, Parts
from crypto.cipher import Cipher, MatrixCipher
from crypto.errors import CipherwardError
from crypto.kernels.chaining import Chaining
from crypto.kernels.executors import apply
from crypto.kernels.table import Table
from crypto.projection_cipher import ProjectionCipher
from crypto.scheme import load
from crypto.spec import SchemeSpec, log2_factorial
from crypto.symmetry import Move
from parties.scoring.truth import Truth

#: Second entry of the seed of the random images that a key is tried on.
_PROBE_SEED = 11
_PROBE_IMAGES = 4


def open_sealed(key: Parts, sealed: AnyArray, spec: SchemeSpec) -> Images:
    """Open sealed images with a recovered key; return them as uint8 [n, h, w, c]."""
    if "chain" in key:
        is_xor, step = key["chain"].tolist()
        sealed = Chaining(bool(is_xor), step).undo(np.asarray(sealed, np.uint8))
    if "matrix" in key:
        # Moment matching gives a matrix for any scheme, and most schemes seal to bytes.
        values = np.asarray(sealed, np.float32)
        opened: Images = MatrixCipher(spec.image_shape, spec.block, key["matrix"]).decrypt(values)
        return opened
    if "matrices" in key:
        cipher = ProjectionCipher(
            spec.image_shape, spec.block, key["matrices"].astype(np.float64), key["places"]
        )
        return np.asarray(cipher.decrypt(np.asarray(sealed, np.float32) - np.float32(key["offset"][0])))
    if "stream" in key:
        return load(spec).picture(_put_in_order(np.asarray(sealed, np.uint8), key) - key["stream"])
    if "levels" in key:
        levels = key["levels"]
        moved = _put_in_order(np.asarray(sealed, np.uint8), key)
        return load(spec).picture(levels[np.arange(len(levels)), moved])
    table = Table.flat(sealed.shape[1:], key["gather"], key.get("mask"))
    return load(spec).picture(apply(table, sealed))


def _put_in_order(sealed: Images, key: Parts) -> Images:
    """Return sealed images with their pixels moved back, if the key moves them."""
    if "gather" not in key:
        return sealed
    order = key["gather"]
    return sealed.reshape(len(sealed), len(order), -1)[:, order].reshape(sealed.shape)


def can_open(key: Parts | None) -> bool:
    """Return whether a recovered key is of a form that opens images."""
    return key is not None and bool({"gather", "matrix", "matrices", "stream", "levels"} & set(key))


def require_well_formed(
    guess: StoredGuess, images: AnyArray, key: Parts | None, spec: SchemeSpec, rows: int
) -> None:
    """Check that a guess's arrays are such as an attack makes, because they index and are compared later.

    No image of the hospital is read: a refusal says nothing about one.

    Raises:
        CipherwardError: If an array has another shape, type or content.
    """
    is_well_formed = images.dtype == np.uint8 and images.shape == (rows, *spec.image_shape)
    is_well_formed = is_well_formed and all(
        _is_key_part(name, value, spec) for name, value in (key or {}).items()
    )
    if is_well_formed and key is not None and can_open(key):
        is_well_formed = _opens_black(key, spec)
    if not is_well_formed:
        raise CipherwardError(
            f"the guess {guess.file} is malformed", "its images or its key do not fit this set"
        )


def key_of_form(
    guess: StoredGuess, images: AnyArray, key: Parts | None, spec: SchemeSpec, rows: int
) -> Parts | None:
    """Return a guess's key, or None if it cannot be one of this scheme.

    It is for controls that the attacks took for the audited scheme: a key of that one opens nothing here.

    Raises:
        CipherwardError: If the images are not such as an attack makes.
    """
    require_well_formed(guess, images, None, spec, rows)
    try:
        require_well_formed(guess, images, key, spec, rows)
    except CipherwardError:
        return None
    return key


def _is_key_part(name: str, value: AnyArray, spec: SchemeSpec) -> bool:
    """Return whether an array can be the part of a key with this name. Parts that are not used may be anything."""
    height, width, channels = load(spec).sealed_shape
    pixels, values = height * width, height * width * channels
    block_values = spec.block**2 * channels
    bytes_of = {"mask": (values,), "stream": (height, width, channels), "levels": (channels, 256)}
    if name in bytes_of:
        return value.dtype == np.uint8 and value.shape == bytes_of[name]
    if name == "matrix":
        has_type = value.dtype == np.float32 and value.shape == (block_values, block_values)
        return has_type and bool(np.isfinite(value).all())
    if name == "matrices":
        size = (pixels // spec.block**2, spec.block * channels, spec.block * channels)
        return value.dtype == np.float32 and value.shape == size and bool(np.isfinite(value).all())
    if name == "offset":
        return value.dtype == np.float32 and value.shape == (1,) and bool(np.isfinite(value).all())
    if name == "chain":
        return value.dtype == np.int64 and value.tolist() in [[x, s] for x in (0, 1) for s in (1, channels)]
    return _is_order(name, value, spec)


def _is_order(name: str, value: AnyArray, spec: SchemeSpec) -> bool:
    """Return whether an array can be the order with this name. Parts that are no orders may be anything."""
    height, width, channels = load(spec).sealed_shape
    pixels, values = height * width, height * width * channels
    if name == "gather":
        return _is_permutation(value) and len(value) in (pixels, values, 2 * values)
    if name == "places" or (name == "K1" and _is_comparable(spec)):
        return _is_permutation(value) and len(value) == pixels // spec.block**2
    if name == "K2" and _is_comparable(spec):
        return _is_permutation(value)
    return True


def _opens_black(key: Parts, spec: SchemeSpec) -> bool:
    """Return whether a key opens a black ciphertext to an image of the right shape."""
    scheme = load(spec)
    black = np.zeros((1, *scheme.sealed_shape), scheme.sealed_dtype)
    try:
        return open_sealed(key, black, spec).shape[1:] == spec.image_shape
    except (ValueError, IndexError, KeyError, TypeError, np.linalg.LinAlgError, CipherwardError):
        return False


def _is_permutation(value: AnyArray) -> bool:
    is_vector = value.ndim == 1 and np.issubdtype(value.dtype, np.integer)
    return bool(is_vector and np.array_equal(np.sort(value), np.arange(len(value))))


def _is_comparable(spec: SchemeSpec) -> bool:
    """Return whether K1 and K2 can be compared entry by entry: the orbit has no moves but whole-block shifts."""
    return spec.name in ("block_pixel_shuffle", "plain")


def values_right(key: Parts, cipher: Cipher, truth: Truth, move: Move) -> float:
    """Return the share of all values that a recovered key puts right, whatever the picture.

    Random images are sealed with the true key and opened with the recovered one. One value in 256 is right by chance.
    For a matrix, right means within half a gray level.
    """
    shape = (_PROBE_IMAGES, *truth.plain.shape[1:])
    plain = np.random.default_rng([truth.seed, _PROBE_SEED]).integers(0, 256, shape, dtype=np.uint8)
    opened = move.apply(open_sealed(key, cipher.encrypt(plain), truth.spec), truth.block)
    return float((opened == plain).mean())


def assembled_grid(key: Parts, cipher: Cipher, truth: Truth, move: Move) -> Grid | None:
    """Return how well a recovered key puts the blocks of an image together.

    Blocks are followed through sealing and opening by probe images, so that the figures mean the same for every
    scheme. A block of the opened picture is the block that most of its values come from.

    Returns:
        The measures of `grid_measures`. None if the scheme leaves blocks in their places, if its steps are no table,
        or if the picture has other blocks than the ciphertext.
    """
    if {"matrix", "matrices", "stream", "levels", "chain"} & set(key) or truth.sealed.shape[
        1:
    ] != truth.plain.shape[1:]:
        return None
    height, width, channels = truth.plain.shape[1:]
    down, across = height // truth.block, width // truth.block
    numbers = np.arange(down * across).reshape(down, across)
    places = np.repeat(np.repeat(numbers, truth.block, 0), truth.block, 1)[..., None]
    # Every bit of a block's number makes an image; the black one shows what the key itself inverts.
    bits = [np.zeros_like(places), *(places >> b & 1 for b in range(int(numbers.max()).bit_length()))]
    probes = np.repeat(np.stack(bits).astype(np.uint8) * np.uint8(255), channels, 3)
    sealed = cipher.encrypt(probes)
    if np.array_equal(_majority_blocks(sealed, truth.block), numbers):
        return None
    origins = _majority_blocks(open_sealed(key, sealed, truth.spec), truth.block)
    turn = dataclasses.replace(move, negative=False, order=0, down=0, across=0)
    return grid_measures(turn.apply(origins[None, ..., None], 1)[0, ..., 0])


def _majority_blocks(probed: AnyArray, block: int) -> Int64Array:
    """Return which block most values of each place come from, by probe images: int64 [down, across]."""
    numbers = np.zeros(probed.shape[1:], np.int64)
    for b, image in enumerate(probed[1:]):
        numbers |= ((image ^ probed[0]) >> 7).astype(np.int64) << b
    rows, columns = probed.shape[1:3]
    blocks = numbers.reshape(rows // block, block, columns // block, block, -1).transpose(0, 2, 1, 3, 4)
    flat = blocks.reshape(rows // block, columns // block, -1)
    return np.array([[np.bincount(values).argmax() for values in row] for row in flat])


def grid_measures(grid: Int64Array) -> Grid:
    """Return the measures of assembled puzzles, after Cho et al. 2010 and Gallagher 2012, each from 0 to 1.

    Dc: blocks in their places, up to one shift of all, with wrap-around. Nc: pairs of adjacent places whose blocks
    are adjacent in the image in the same way. Lc: blocks in the largest part that such pairs connect.

    Args:
        grid: Which block of the image stands at each place, int64 [down, across].
    """
    down, across = grid.shape
    row, column = grid // across, grid % across
    shift = (row - np.arange(down)[:, None]) % down * across + (column - np.arange(across)) % across
    right = (np.diff(column, axis=1) == 1) & (np.diff(row, axis=1) == 0)
    below = (np.diff(row, axis=0) == 1) & (np.diff(column, axis=0) == 0)
    places = np.arange(down * across).reshape(down, across)
    first = np.concatenate([places[:, :-1][right], places[:-1][below]])
    second = np.concatenate([places[:, 1:][right], places[1:][below]])
    edges = coo_matrix((np.ones(len(first)), (first, second)), shape=(grid.size, grid.size))
    parts = connected_components(edges, directed=False)[1]
    return Grid(
        direct=float(np.bincount(shift.ravel()).max() / grid.size),
        neighbour=len(first) / max(1, _adjacent_pairs(down, across)),
        largest=float(np.bincount(parts).max() / grid.size),
    )


def _adjacent_pairs(down: int, across: int) -> int:
    """Return how many pairs of adjacent places a grid has."""
    return 2 * down * across - down - across


def key_share(parts: Parts, key: Mapping[str, AnyArray], truth: Truth) -> KeyShare | None:
    """Return how much of the true key a recovered one holds, up to one whole-block shift.

    Args:
        parts: The true key's K1 (block order) and K2 (pixel order).
        key: The recovered key.
        truth: The hospital's side of the draw.

    Returns:
        The shares; None if the keys cannot be compared entry by entry.
    """
    if not _is_comparable(truth.spec) or not {"K1", "K2"} <= set(key):
        return None
    # Recoveries of other schemes have orders of the same names, such as one for each block.
    if any(np.shape(parts[name]) != np.shape(key[name]) for name in ("K1", "K2")):
        return None
    down, across = truth.plain.shape[1] // truth.block, truth.plain.shape[2] // truth.block
    true, recovered = np.asarray(parts["K1"]), np.asarray(key["K1"])
    offsets = np.stack(
        [(recovered // across - true // across) % down, (recovered % across - true % across) % across], 1
    )
    shifts, counts = np.unique(offsets, axis=0, return_counts=True)
    right = int(counts.max())
    pixels = int((np.asarray(parts["K2"]) == key["K2"]).sum())
    # Which true block stands at each place of the guessed picture.
    picture = np.empty(len(true), np.int64)
    picture[recovered] = true
    grid = picture.reshape(down, across)
    pairs = int(((np.diff(grid, axis=1) == 1) & (grid[:, 1:] % across > 0)).sum())
    pairs += int((np.diff(grid, axis=0) == across).sum())
    # Places that are constant in every gallery image are interchangeable, and of no use.
    blocks = truth.gallery.reshape(len(truth.gallery), down, truth.block, across, truth.block, -1)
    varied = (blocks.max(axis=(2, 4, 5)) > blocks.min(axis=(2, 4, 5))).any(0)
    shift = shifts[counts.argmax()]
    return KeyShare(
        block_order=right / len(true),
        block_order_unshifted=float((recovered == true).mean()),
        shift=(int(shift[0]), int(shift[1])),
        pixel_order=pixels / len(parts["K2"]),
        neighbours=(pairs, _adjacent_pairs(down, across)),
        identifiable=float(varied.mean()),
        bits_left=log2_factorial(len(true) - right) + log2_factorial(len(parts["K2"]) - pixels),
    )
