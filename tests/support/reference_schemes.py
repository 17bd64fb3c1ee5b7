"""Naive references of every scheme: the papers' steps, one image, one value at a time.

Each function takes an image uint8 [h, w, c], the block side and the parts of the key, as `Scheme.parts` names them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[Any]  # uint8, but for the sealed images of `orthogonal`
Parts = Mapping[str, NDArray[Any]]
ORDERS = ("RGB", "RBG", "GRB", "GBR", "BRG", "BGR")


def cut(image: Image, block: int) -> list[Image]:
    """Return the blocks of an image, from the upper left, row by row."""
    height, width = image.shape[:2]
    blocks = []
    for top in range(0, height, block):
        for left in range(0, width, block):
            blocks.append(image[top : top + block, left : left + block].copy())
    return blocks


def join(blocks: list[Image], height: int, width: int) -> Image:
    """Return the image of blocks: the inverse of `cut`."""
    block = blocks[0].shape[0]
    image = np.zeros((height, width, blocks[0].shape[2]), blocks[0].dtype)
    for i, piece in enumerate(blocks):
        top, left = i // (width // block) * block, i % (width // block) * block
        image[top : top + block, left : left + block] = piece
    return image


def values(piece: Image) -> list[int]:
    """Return a block's values in (row, column, channel) order."""
    rows, columns, channels = piece.shape
    return [int(piece[r, c, k]) for r in range(rows) for c in range(columns) for k in range(channels)]


def piece_of(flat: list[Any], like: Image, dtype: Any = np.uint8) -> Image:
    """Return the block whose values are `flat`."""
    rows, columns, channels = like.shape
    piece = np.zeros((rows, columns, channels), dtype)
    for i, value in enumerate(flat):
        piece[i // (columns * channels), i // channels % columns, i % channels] = value
    return piece


def plain(image: Image, block: int, parts: Parts) -> Image:
    """Return the image."""
    return image.copy()


def noise(image: Image, block: int, parts: Parts) -> Image:
    """XOR every byte with the mask's."""
    masked = [v ^ m for v, m in zip(values(image), values(parts["mask"]), strict=True)]
    return piece_of(masked, image)


def permuted(image: Image, block: int, parts: Parts) -> Image:
    """Permute all values: value i of the result is the one that the permutation names."""
    before = values(image)
    return piece_of([before[int(p)] for p in parts["values"]], image)


def block_pixel_shuffle(image: Image, block: int, parts: Parts) -> Image:
    """Follow Qi et al. 2022, section III, steps 1 to 6."""
    k1, k2, half = parts["K1"].tolist(), parts["K2"].tolist(), block // 2
    blocks = cut(image, block)  # step 1
    moved = [blocks[k1[i]].copy() for i in range(len(blocks))]  # step 2
    for piece in moved:
        for top in (0, half):  # step 3: four sub-blocks
            for left in (0, half):
                vector = []  # step 4: flatten
                for r in range(half):
                    for c in range(half):
                        vector.append(piece[top + r, left + c].copy())
                shuffled = [vector[k2[k]] for k in range(half * half)]  # step 5
                for k in range(half * half):  # step 6
                    piece[top + k // half, left + k % half] = shuffled[k]
    return join(moved, *image.shape[:2])


def value_shuffle(image: Image, block: int, parts: Parts) -> Image:
    """Follow Qi et al., but step 5 permutes all values of a block, colours mixed."""
    blocks, moved = cut(image, block), []
    for i in range(len(blocks)):
        vector = values(blocks[int(parts["K1"][i])])
        moved.append(piece_of([vector[int(k)] for k in parts["K2"]], blocks[i]))
    return join(moved, *image.shape[:2])


def block_pixel(image: Image, block: int, parts: Parts) -> Image:
    """Follow our reading of Al Amin et al. 2024: permute blocks, then apply each position's permutation and mask."""
    blocks, moved = cut(image, block), []
    for i in range(len(blocks)):
        vector = values(blocks[int(parts["K1"][i])])
        out = []
        for k in range(len(vector)):
            value = vector[int(parts["K2"][i, k])]
            out.append(255 - value if parts["mask"][i, k] else value)
        moved.append(piece_of(out, blocks[i]))
    return join(moved, *image.shape[:2])


def le_block(piece: Image, key: NDArray[Any], reversal: NDArray[Any]) -> Image:
    """Follow Tanaka 2018, as the author's program does it, on one block."""
    flat = values(piece)
    nibbles = [value % 16 for value in flat] + [value // 16 for value in flat]  # low first, then high
    for j in range(len(nibbles)):
        if reversal[j]:
            nibbles[j] = 15 - nibbles[j]
    nibbles = [nibbles[int(key[j])] for j in range(len(nibbles))]
    for j in range(len(nibbles)):
        if reversal[j]:
            nibbles[j] = 15 - nibbles[j]
    return piece_of([nibbles[b] + 16 * nibbles[b + len(flat)] for b in range(len(flat))], piece)


def le(image: Image, block: int, parts: Parts) -> Image:
    """Follow Tanaka 2018: the same key for every block."""
    sealed = [le_block(piece, parts["key"], parts["reversal"]) for piece in cut(image, block)]
    return join(sealed, *image.shape[:2])


def ele(image: Image, block: int, parts: Parts) -> Image:
    """Follow Madono et al. 2020: LE under each block's own key, then permute the blocks."""
    blocks = cut(image, block)
    sealed = [le_block(blocks[i], parts["keys"][i], parts["reversal"][i]) for i in range(len(blocks))]
    return join([sealed[int(parts["K1"][i])] for i in range(len(blocks))], *image.shape[:2])


def reorder(pixel: list[int], order: int) -> list[int]:
    """Return a pixel's components in the order of a name such as BRG."""
    return [pixel["RGB".index(letter)] for letter in ORDERS[order]]


def pe(image: Image, block: int, parts: Parts) -> Image:
    """Follow Sirichotedumrong and Kiya 2019: negative-positive by value, then any colour order by pixel."""
    out = image.copy()
    for r in range(image.shape[0]):
        for c in range(image.shape[1]):
            pixel = [
                int(image[r, c, k]) ^ (255 if parts["negative"][r, c, k] else 0)
                for k in range(image.shape[2])
            ]
            if "order" in parts:
                pixel = reorder(pixel, int(parts["order"][r, c]))
            for k, value in enumerate(pixel):
                out[r, c, k] = value
    return out


def turned(piece: Image, turn: int) -> Image:
    """Turn a block by `turn % 4` quarter turns to the left; from 4 on, mirror the result left to right."""
    side = piece.shape[0]
    for _ in range(turn % 4):
        before = piece
        piece = np.zeros_like(before)
        for r in range(side):
            for c in range(side):
                piece[r, c] = before[c, side - 1 - r]
    if turn >= 4:
        before = piece
        piece = np.zeros_like(before)
        for r in range(side):
            for c in range(side):
                piece[r, c] = before[r, side - 1 - c]
    return piece


def etc(image: Image, block: int, parts: Parts) -> Image:
    """Follow Chuman et al. 2018 on an RGB or a gray picture: permute, turn, negate, then any colour order."""
    blocks, moved = cut(image, block), []
    for i in range(len(blocks)):
        piece = turned(blocks[int(parts["K1"][i])], int(parts["turn"][i])).copy()
        for r in range(block):
            for c in range(block):
                pixel = [int(value) for value in piece[r, c]]
                if parts["negative"][i]:
                    pixel = [255 - value for value in pixel]
                if "order" in parts:
                    pixel = reorder(pixel, int(parts["order"][i]))
                for k, value in enumerate(pixel):
                    piece[r, c, k] = value
        moved.append(piece)
    return join(moved, *image.shape[:2])


def sub_block_etc(image: Image, block: int, parts: Parts) -> Image:
    """Follow Hamano et al. 2023: `etc` inside every main block under one key, then main blocks change places."""
    inner = {name: part for name, part in parts.items() if name != "K5"}
    side = block // round(len(parts["K1"]) ** 0.5)
    sealed = [etc(piece, side, inner) for piece in cut(image, block)]
    return join([sealed[int(source)] for source in parts["K5"]], *image.shape[:2])


def rounded(value: Fraction) -> int:
    """Round to the nearest of 0..255; halves go up."""
    return min(255, max(0, (2 * value.numerator + value.denominator) // (2 * value.denominator)))


def ycbcr_side_by_side(image: Image) -> Image:
    """Return the planes Y, Cb, Cr of full-range BT.601 (JFIF 1.02), exactly: uint8 [h, w, 3] → [h, 3w, 1]."""
    height, width, _ = image.shape
    gray = np.zeros((height, 3 * width, 1), np.uint8)
    for r in range(height):
        for c in range(width):
            red, green, blue = (int(value) for value in image[r, c])
            luma = Fraction(299 * red + 587 * green + 114 * blue, 1000)
            gray[r, c, 0] = rounded(luma)
            gray[r, width + c, 0] = rounded(128 + (blue - luma) / Fraction(1772, 1000))
            gray[r, 2 * width + c, 0] = rounded(128 + (red - luma) / Fraction(1402, 1000))
    return gray


def orthogonal(image: Image, block: int, parts: Parts) -> Image:
    """Multiply each flattened block, less 127.5, by the matrix; add 127.5: float64 [h, w, c]."""
    matrix, blocks, sealed = parts["matrix"].astype(np.float64).tolist(), cut(image, block), []
    for piece in blocks:
        vector = [value - 127.5 for value in values(piece)]
        size = range(len(vector))
        out = [127.5 + sum(vector[i] * matrix[i][j] for i in size) for j in size]
        sealed.append(piece_of(out, piece, np.float64))
    return join(sealed, *image.shape[:2])


def noisy_orthogonal(image: Image, block: int, parts: Parts) -> Image:
    """Do as `orthogonal`, then add the row's noise: float64 [h, w, c]."""
    sealed = orthogonal(image, block, parts)
    for place in np.ndindex(*sealed.shape):
        sealed[place] += float(parts["noise"][place])
    return sealed


def block_projection(image: Image, block: int, parts: Parts) -> Image:
    """Multiply the rows of each block by its place's matrix, move the blocks, add the noise: float64 [h, w, c]."""
    blocks, projected = cut(image, block), []
    for place, piece in enumerate(blocks):
        matrix = parts["matrices"][place if len(parts["matrices"]) > 1 else 0].astype(np.float64).tolist()
        flat = values(piece)
        size = len(matrix)
        out = []
        for start in range(0, len(flat), size):
            for j in range(size):
                out.append(sum(flat[start + i] * matrix[i][j] for i in range(size)))
        projected.append(piece_of(out, piece, np.float64))
    sealed = join([projected[int(source)] for source in parts["K1"]], *image.shape[:2])
    for index in np.ndindex(*sealed.shape):
        sealed[index] += float(parts["noise"][index])
    return sealed


def neuracrypt(image: Image, block: int, parts: Parts) -> Image:
    """Follow the authors' PrivateEncoder on a batch of one image, in plain Python: float64 [h, w, c]."""
    pieces = cut(image, block)

    def linear(vector: list[float], weights: NDArray[Any], biases: NDArray[Any]) -> list[float]:
        rows, columns = weights.astype(np.float64).tolist(), range(weights.shape[1])
        return [
            float(biases[j]) + sum(v * row[j] for v, row in zip(vector, rows, strict=True)) for j in columns
        ]

    vectors = []
    for piece in pieces:
        normalised = [(value / 255 - 0.2023) / 0.2576 for value in values(piece)]
        vectors.append([max(v, 0.0) for v in linear(normalised, parts["embed"], parts["embed_bias"])])
    for weights, biases in zip(parts["layers"], parts["layer_biases"], strict=True):
        vectors = [linear(vector, weights, biases) for vector in vectors]
        for unit in range(len(biases)):
            over = [vector[unit] for vector in vectors]
            mean = sum(over) / len(over)
            variance = sum((v - mean) ** 2 for v in over) / len(over)
            for vector in vectors:
                vector[unit] = max((vector[unit] - mean) / (variance + 1e-5) ** 0.5, 0.0)
    tokens = []
    for vector, position in zip(vectors, parts["positions"].tolist(), strict=True):
        placed = [max(v + p, 0.0) for v, p in zip(vector, position, strict=True)]
        tokens.append([127.5 * (1 + v) for v in linear(placed, parts["mix"], parts["mix_bias"])])
    shuffled = [tokens[int(patch)] for patch in parts["order"]]
    return join(
        [piece_of(token, piece, np.float64) for token, piece in zip(shuffled, pieces, strict=True)],
        *image.shape[:2],
    )


def patch_shuffle(image: Image, block: int, parts: Parts) -> Image:
    """Put the patches in the row's order."""
    blocks = cut(image, block)
    return join([blocks[int(patch)] for patch in parts["K1"]], *image.shape[:2])


def encrypt(name: str, image: Image, block: int, parts: Parts, options: Mapping[str, Any]) -> Image:
    """Return an image sealed under the scheme of that name."""
    if name == "etc" and options.get("form") == "gray":
        image = ycbcr_side_by_side(image)
    return REFERENCES[name](image, block, parts)


REFERENCES: dict[str, Callable[[Image, int, Parts], Image]] = {
    "block_pixel_shuffle": block_pixel_shuffle,
    "value_shuffle": value_shuffle,
    "block_pixel": block_pixel,
    "le": le,
    "ele": ele,
    "pe": pe,
    "etc": etc,
    "sub_block_etc": sub_block_etc,
    "orthogonal": orthogonal,
    "noisy_orthogonal": noisy_orthogonal,
    "block_projection": block_projection,
    "neuracrypt": neuracrypt,
    "patch_shuffle": patch_shuffle,
    "noise": noise,
    "permuted": permuted,
    "plain": plain,
}
