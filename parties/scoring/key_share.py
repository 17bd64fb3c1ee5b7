"""How much of a key a guess holds: what it opens, and how many of its entries are right."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from coordinator.exchange.guesses import StoredGuess
from coordinator.exchange.orbit import Move
from crypto.cipher import Cipher, MatrixCipher
from crypto.errors import CipherwardError
from crypto.kernels.executors import apply
from crypto.kernels.table import Table
from crypto.scheme import load
from crypto.spec import SchemeSpec, log2_factorial
from parties.scoring.truth import Truth


def opened_by(key: Mapping[str, np.ndarray], sealed: np.ndarray, spec: SchemeSpec) -> np.ndarray:
    """uint8 [n, h, w, c]: sealed images, opened with a guessed key."""
    if "matrix" in key:
        # Moment matching gives a matrix for any scheme, and most schemes seal to bytes.
        values = np.asarray(sealed, np.float32)
        opened: np.ndarray = MatrixCipher(spec.image_shape, spec.block, key["matrix"]).decrypt(values)
        return opened
    table = Table.flat(sealed.shape[1:], key["gather"], key.get("mask"))
    return load(spec).picture(apply(table, sealed))


def must_be_sound(
    guess: StoredGuess,
    images: np.ndarray,
    key: Mapping[str, np.ndarray] | None,
    spec: SchemeSpec,
    rows: int,
) -> None:
    """Raises CipherwardError for arrays that no attack makes: they index and are compared further on.

    It looks at no image of the hospital's: what it refuses says nothing of one.
    """
    scheme = load(spec)
    sound = images.dtype == np.uint8 and images.shape == (rows, *spec.image_shape)
    height, width, channels = scheme.sealed_shape
    pixels, values = height * width, height * width * channels
    across = spec.block**2 * channels
    for name, value in (key or {}).items():
        if name == "mask":
            sound = sound and value.dtype == np.uint8 and value.shape == (values,)
        elif name == "matrix":
            sound = sound and value.dtype == np.float32 and value.shape == (across, across)
            sound = sound and bool(np.isfinite(value).all())
        elif name == "gather":
            sound = sound and _permutation(value) and len(value) in (pixels, values, 2 * values)
        elif name == "K1" and _comparable(spec):
            sound = sound and _permutation(value) and len(value) == pixels // spec.block**2
        elif name == "K2" and _comparable(spec):
            sound = sound and _permutation(value)
    if sound and key and {"gather", "matrix"} & set(key):
        try:  # on a black ciphertext: whether it can be opened with at all
            shape = opened_by(key, np.zeros((1, height, width, channels), scheme.sealed_dtype), spec).shape
            sound = shape[1:] == spec.image_shape
        except (ValueError, IndexError, KeyError, TypeError, CipherwardError):
            sound = False
    if not sound:
        raise CipherwardError(
            f"the guess {guess.file} is malformed", "its images or key are not of this set"
        )


def _permutation(value: np.ndarray) -> bool:
    whole = value.ndim == 1 and np.issubdtype(value.dtype, np.integer)
    return bool(whole and np.array_equal(np.sort(value), np.arange(len(value))))


def _comparable(spec: SchemeSpec) -> bool:
    """Whether K1 and K2 can be compared entry by entry: no symmetry is left open but whole-block shifts."""
    return spec.name in ("block_pixel_shuffle", "plain")


def values_right(key: Mapping[str, np.ndarray], cipher: Cipher, truth: Truth, move: Move) -> float:
    """Share of all values that a guessed key puts right, whatever the picture: of random images, sealed and opened.

    One in 256 comes out right by chance. For a matrix, right is within half a gray level.
    """
    shape = (4, *truth.plain.shape[1:])
    plain = np.random.default_rng([truth.seed, 11]).integers(0, 256, shape, dtype=np.uint8)
    opened = move.apply(opened_by(key, cipher.encrypt(plain), truth.spec), truth.block)
    return float((opened == plain).mean())


def assembled(
    key: Mapping[str, np.ndarray], cipher: Cipher, truth: Truth, move: Move
) -> dict[str, float] | None:
    """How well a guessed key puts the blocks of an image together: Dc, Nc and Lc of `grid_share`.

    Blocks are followed through sealing and opening by probe images, so that it says the same of every scheme; a block
    of the opened picture is what most of its values are. None where the scheme leaves blocks in their places,
    where its steps are no table, and where the picture is cut otherwise than the ciphertext.
    """
    if "matrix" in key or truth.sealed.shape[1:] != truth.plain.shape[1:]:
        return None
    height, width, channels = truth.plain.shape[1:]
    down, across = height // truth.block, width // truth.block
    where = np.arange(down * across).reshape(down, across)
    places = np.repeat(np.repeat(where, truth.block, 0), truth.block, 1)[..., None]
    # Every bit of a block's number makes an image; the black one shows what the key itself flips.
    bits = [np.zeros_like(places), *(places >> b & 1 for b in range(int(where.max()).bit_length()))]
    probes = np.repeat(np.stack(bits).astype(np.uint8) * np.uint8(255), channels, 3)
    sealed = cipher.encrypt(probes)
    if np.array_equal(_mostly(sealed, truth.block), where):
        return None
    origins = _mostly(opened_by(key, sealed, truth.spec), truth.block)
    turned = dataclasses.replace(move, negative=False, order=0, down=0, across=0)
    return grid_share(turned.apply(origins[None, ..., None], 1)[0, ..., 0])


def _mostly(probed: np.ndarray, block: int) -> np.ndarray:
    """int64 [down, across]: the number of the block that most values of each place come from, of probe images."""
    numbers = np.zeros(probed.shape[1:], np.int64)
    for b, image in enumerate(probed[1:]):
        numbers |= ((image ^ probed[0]) >> 7).astype(np.int64) << b
    rows, columns = probed.shape[1:3]
    apart = numbers.reshape(rows // block, block, columns // block, block, -1).transpose(0, 2, 1, 3, 4)
    flat = apart.reshape(rows // block, columns // block, -1)
    return np.array([[np.bincount(values).argmax() for values in row] for row in flat])


def grid_share(grid: np.ndarray) -> dict[str, float]:
    """The measures of assembled puzzles, after Cho et al. 2010 and Gallagher 2012, each a share from 0 to 1.

    grid: int64 [down, across], which block of the image stands at each place. Dc: blocks in their places, up to
    one shift of all, wrapping. Nc: pairs of adjacent places whose blocks are adjacent in the image likewise.
    Lc: blocks in the largest part that hangs together by such pairs.
    """
    down, across = grid.shape
    row, column = grid // across, grid % across
    moved = (row - np.arange(down)[:, None]) % down * across + (column - np.arange(across)) % across
    right = (np.diff(column, axis=1) == 1) & (np.diff(row, axis=1) == 0)
    below = (np.diff(row, axis=0) == 1) & (np.diff(column, axis=0) == 0)
    places = np.arange(down * across).reshape(down, across)
    first = np.concatenate([places[:, :-1][right], places[:-1][below]])
    second = np.concatenate([places[:, 1:][right], places[1:][below]])
    edges = coo_matrix((np.ones(len(first)), (first, second)), shape=(grid.size, grid.size))
    parts = connected_components(edges, directed=False)[1]
    return {
        "Dc": float(np.bincount(moved.ravel()).max() / grid.size),
        "Nc": len(first) / max(1, 2 * down * across - down - across),
        "Lc": float(np.bincount(parts).max() / grid.size),
    }


def key_share(
    parts: Mapping[str, np.ndarray], guess: Mapping[str, np.ndarray], truth: Truth
) -> dict[str, Any] | None:
    """How much of the true key a guessed one holds, modulo one whole-block shift; None where not comparable.

    block_order and pixel_order: shares of K1 and K2 that are right. identifiable: share of block places
    that are not constant in every gallery image; the rest are interchangeable and of no use. bits_left:
    log2 of the orders still open if one knew which entries are wrong. neighbours: pairs of adjacent
    blocks put side by side, of all adjacent pairs.
    """
    if not _comparable(truth.spec) or not {"K1", "K2"} <= set(guess):
        return None
    if len(parts["K2"]) != len(guess["K2"]):
        return None
    down, across = truth.plain.shape[1] // truth.block, truth.plain.shape[2] // truth.block
    true, found = np.asarray(parts["K1"]), np.asarray(guess["K1"])
    moved = np.stack(
        [(found // across - true // across) % down, (found % across - true % across) % across], 1
    )
    kinds, counts = np.unique(moved, axis=0, return_counts=True)
    right = int(counts.max())
    pixels = int((np.asarray(parts["K2"]) == guess["K2"]).sum())
    # Which true block stands at each place of the guessed picture.
    picture = np.empty(len(true), np.int64)
    picture[found] = true
    grid = picture.reshape(down, across)
    pairs = int(((np.diff(grid, axis=1) == 1) & (grid[:, 1:] % across > 0)).sum())
    pairs += int((np.diff(grid, axis=0) == across).sum())
    blocks = truth.gallery.reshape(len(truth.gallery), down, truth.block, across, truth.block, -1)
    varied = (blocks.max(axis=(2, 4, 5)) > blocks.min(axis=(2, 4, 5))).any(0)
    return {
        "block_order": right / len(true),
        "block_order_unshifted": float((found == true).mean()),
        "shift": kinds[counts.argmax()].tolist(),
        "pixel_order": pixels / len(parts["K2"]),
        "neighbours": [pairs, 2 * down * across - down - across],
        "identifiable": float(varied.mean()),
        "bits_left": log2_factorial(len(true) - right) + log2_factorial(len(parts["K2"]) - pixels),
    }
