"""Naive references of the schemes' parts, from a raw key and the scheme's public parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support import reference

Shape = tuple[int, int, int]
Options = Mapping[str, Any]
#: Schemes that draw something for every row whatever the key scope.
NONCED = ("noise", "permuted", "noisy_orthogonal", "block_projection", "neuracrypt", "patch_shuffle")


def sub_key_of(key: bytes, spec: Mapping[str, Any], row: int) -> bytes:
    """Return the sub-key of a spec (as JSON) for an image in that row."""
    has_row_keys = spec["key_scope"] == "image" or spec["name"] in NONCED
    return reference.sub_key(key, spec, row if has_row_keys else None)


def shared_key_of(key: bytes, spec: Mapping[str, Any], row: int) -> bytes:
    """Return the sub-key of what rows share beside their noise: without nonce and row, unless keys are per row."""
    if spec["key_scope"] == "image":
        return sub_key_of(key, spec, row)
    options = {name: value for name, value in spec["options"].items() if name != "nonce"}
    return reference.sub_key(key, {**spec, "options": options}, None)


def _blocks(shape: Shape, block: int) -> int:
    return (shape[0] // block) * (shape[1] // block)


def _values(shape: Shape, block: int) -> int:
    return block * block * shape[2]


def _bits(key: bytes, label: str, *shape: int) -> NDArray[np.bool_]:
    return np.array(reference.bits(key, label, math.prod(shape)), bool).reshape(shape)


def plain(key: bytes, shape: Shape, block: int, options: Options) -> dict[str, Any]:
    return {}


def noise(key: bytes, shape: Shape, block: int, options: Options) -> dict[str, Any]:
    stream = reference.keystream(key, "mask", math.prod(shape))
    return {"mask": np.array(list(stream), np.uint8).reshape(shape)}


def block_pixel_shuffle(key: bytes, shape: Shape, block: int, options: Options) -> dict[str, Any]:
    return {
        "K1": reference.permutation(key, "K1", _blocks(shape, block)),
        "K2": reference.permutation(key, "K2", (block // 2) ** 2),
    }


def _restricted(key: bytes, label: str, n: int, fixed: int) -> list[int]:
    """Return a permutation of n in which `fixed` chosen places keep what they have."""
    if not fixed:
        return reference.permutation(key, label, n)
    drawn = reference.permutation(key, f"{label}/moving", n)
    free = sorted(drawn[fixed:])
    order = reference.permutation(key, label, n - fixed)
    result = list(range(n))
    for place, source in zip(free, order, strict=True):
        result[place] = free[source]
    return result


def value_shuffle(key: bytes, shape: Shape, block: int, options: Options) -> dict[str, Any]:
    return {
        "K1": _restricted(key, "K1", _blocks(shape, block), options.get("fixed_blocks", 0)),
        "K2": _restricted(key, "K2", _values(shape, block), options.get("fixed_values", 0)),
    }


def permuted(key: bytes, shape: Shape, block: int, options: Options) -> dict[str, Any]:
    return {"values": reference.permutation(key, "values", shape[0] * shape[1] * shape[2])}


def block_pixel(key: bytes, shape: Shape, block: int, options: Options) -> dict[str, Any]:
    n, v = _blocks(shape, block), _values(shape, block)
    return {
        "K1": reference.permutation(key, "K1", n),
        "K2": reference.permutations(key, "K2", n, v),
        "mask": _bits(key, "mask", n, v),
    }


def le(key: bytes, shape: Shape, block: int, options: Options) -> dict[str, Any]:
    v = _values(shape, block)
    p = reference.permutation(key, "key", 2 * v)
    if options.get("mask", "tied") == "tied":
        return {"key": p, "reversal": [j > v for j in p]}
    return {"key": p, "reversal": _bits(key, "reversal", 2 * v)}


def ele(key: bytes, shape: Shape, block: int, options: Options) -> dict[str, Any]:
    n, v = _blocks(shape, block), _values(shape, block)
    keys = reference.permutations(key, "key", n, 2 * v)
    tied = options.get("mask", "tied") == "tied"
    reversal = [[j > v for j in p] for p in keys] if tied else _bits(key, "reversal", n, 2 * v)
    return {"keys": keys, "reversal": reversal, "K1": reference.permutation(key, "K1", n)}


def pe(key: bytes, shape: Shape, block: int, options: Options) -> dict[str, Any]:
    h, w, c = shape
    parts: dict[str, Any] = {"negative": _bits(key, "negative", h, w, c)}
    if options.get("colour_shuffle"):
        parts["order"] = np.array(reference.integers(key, "order", h * w, 6)).reshape(h, w)
    return parts


def etc(key: bytes, shape: Shape, block: int, options: Options) -> dict[str, Any]:
    gray = options.get("form") == "gray"
    n = _blocks(shape, block) * (3 if gray else 1)
    parts: dict[str, Any] = {
        "K1": reference.permutation(key, "K1", n),
        "turn": reference.integers(key, "turn", n, 8),
        "negative": _bits(key, "negative", n),
    }
    if shape[2] == 3 and not gray:
        parts["order"] = reference.integers(key, "order", n, 6)
    return parts


def sub_block_etc(key: bytes, shape: Shape, block: int, options: Options) -> dict[str, Any]:
    count = (block // options["sub_block"]) ** 2
    parts: dict[str, Any] = {
        "K1": reference.permutation(key, "K1", count),
        "turn": reference.integers(key, "turn", count, 8),
        "negative": _bits(key, "negative", count),
        "K5": reference.permutation(key, "K5", _blocks(shape, block)),
    }
    if shape[2] == 3:
        parts["order"] = reference.integers(key, "order", count, 6)
    return parts


def orthogonal(key: bytes, shape: Shape, block: int, options: Options) -> dict[str, Any]:
    matrix = reference.orthogonal(key, "matrix", _values(shape, block))
    return {"matrix": matrix.astype(np.float32)}


def noisy_orthogonal(key: bytes, shape: Shape, block: int, options: Options) -> dict[str, Any]:
    """Return the noise of a row; the matrix is `orthogonal`'s, under another sub-key."""
    drawn = np.array(reference.normals(key, "noise", math.prod(shape))).reshape(shape)
    return {"noise": (options["sigma"] * drawn).astype(np.float32)}


def block_projection(key: bytes, shape: Shape, block: int, options: Options) -> dict[str, Any]:
    """Return the noise of a row; the rest is `projection`'s, under another sub-key."""
    drawn = np.array(reference.uniforms(key, "noise", math.prod(shape))).reshape(shape)
    return {"noise": (options["noise"] * drawn).astype(np.float32)}


def projection(key: bytes, shape: Shape, block: int, options: Options) -> dict[str, Any]:
    """Return the matrices of block_projection, drawn again while they are too near to a singular one, and K1."""
    n, v = _blocks(shape, block), block * shape[2]
    matrices = []
    for place in range(n if options["matrices"] == "place" else 1):
        if options["matrix"] == "orthogonal":
            matrices.append(
                reference.orthogonal(key, f"matrix/{place}", v).astype(np.float32).astype(float)
            )
            continue
        for draw in range(1000):
            matrix = np.array(reference.uniforms(key, f"matrix/{place}/{draw}", v * v)).reshape(v, v)
            if min(np.linalg.svd(matrix)[1]) >= 0.02:
                matrices.append(matrix)
                break
    order = reference.permutation(key, "K1", n) if options["shuffle"] else list(range(n))
    return {"matrices": matrices, "K1": order}


def neuracrypt(key: bytes, shape: Shape, block: int, options: Options) -> dict[str, Any]:
    """Return the order of a row; the network is `network`'s, under another sub-key."""
    n = _blocks(shape, block)
    return {"order": reference.permutation(key, "order", n) if options["shuffle"] else list(range(n))}


def network(key: bytes, shape: Shape, block: int, options: Options) -> dict[str, Any]:
    """Return neuracrypt's weights: PyTorch's uniform ones, and Gaussian positions."""
    v, w, depth = _values(shape, block), options["width"], options["depth"]

    def layer(label: str, inputs: int, outputs: int) -> NDArray[np.float32]:
        drawn = reference.uniforms(key, label, (inputs + 1) * outputs)
        return np.array([(2 * u - 1) / math.sqrt(inputs) for u in drawn], np.float32).reshape(-1, outputs)

    inner = np.array([layer(f"layer/{i}", w, w) for i in range(depth)], np.float32).reshape(depth, w + 1, w)
    positions = np.array(reference.normals(key, "positions", _blocks(shape, block) * w), np.float32)
    embed, mix = layer("embed", v, w), layer("mix", w, v)
    return {
        "embed": embed[:-1],
        "embed_bias": embed[-1],
        "layers": inner[:, :-1],
        "layer_biases": inner[:, -1],
        "positions": positions.reshape(-1, w),
        "mix": mix[:-1],
        "mix_bias": mix[-1],
    }


def patch_shuffle(key: bytes, shape: Shape, block: int, options: Options) -> dict[str, Any]:
    return {"K1": reference.permutation(key, "K1", _blocks(shape, block))}


def parts(key: bytes, spec: Mapping[str, Any], row: int) -> dict[str, NDArray[Any]]:
    """Return the parts of a raw 32-byte key under a spec (as JSON), for an image in that row."""
    shape = (int(spec["image_shape"][0]), int(spec["image_shape"][1]), int(spec["image_shape"][2]))
    result = PARTS[spec["name"]](sub_key_of(key, spec, row), shape, spec["block"], spec["options"])
    if spec["name"] in SHARED:
        shared = SHARED[spec["name"]]
        result |= shared(shared_key_of(key, spec, row), shape, spec["block"], spec["options"])
    return {name: np.array(value) for name, value in result.items()}


PARTS: dict[str, Callable[[bytes, Shape, int, Options], dict[str, Any]]] = {
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

#: What the rows of a set share, of schemes that draw something for every row beside it.
SHARED: dict[str, Callable[[bytes, Shape, int, Options], dict[str, Any]]] = {
    "noisy_orthogonal": orthogonal,
    "block_projection": projection,
    "neuracrypt": network,
}
