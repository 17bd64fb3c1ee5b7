"""A scheme is added with one file, one line in SCHEMES and one file of vectors; nothing else is touched."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.adversary.decode.reidentify import link
from crypto.arrays import UInt8Array
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.scheme import SCHEMES, always_has_row_keys, carries_stem, describe, load
from crypto.sets.dataset import SealedDataset
from crypto.sets.writer import seal_images
from crypto.symmetry import Orbit
from parties.scoring.truth import linkable_rate
from tests.support import make_vectors, reference, scheme_checks
from tests.support.truth import make_truth

#: add(source) puts a scheme's file where a user would, and returns its file of vectors.
AddScheme = Callable[[str], Path]

NAME = "upside_down"
SOURCE = '''
"""Blocks permuted; the rows of a block reversed where its key bit is set; the right half may be negated."""

import numpy as np

from crypto.cipher import TableCipher
from crypto.kernels.table import Table
from crypto.spec import log2_factorial


class UpsideDown:
    version = 3
    source = "a test"
    options = {"negative": (False, True)}

    def __init__(self, spec):
        self.spec = spec

    def parts(self, sub):
        return {"K1": sub.permutation("K1", self.spec.blocks), "over": sub.bits("over", self.spec.blocks)}

    def cipher(self, parts):
        block, channels = self.spec.block, self.spec.image_shape[2]
        upright = np.arange(block * block).reshape(block, block)
        inner = np.stack([(upright[::-1] if over else upright).ravel() for over in parts["over"]])
        mask = np.zeros((1, block, block, channels), np.uint8)
        mask[:, :, block // 2 :] = 255 if self.spec.options["negative"] else 0
        order = parts["K1"]
        return TableCipher(
            Table(self.spec.image_shape, (block, block), order, inner, mask.reshape(1, -1), "pixel")
        )

    def formula_bits(self):
        return log2_factorial(self.spec.blocks) + self.spec.blocks
'''


def by_hand(image: UInt8Array, block: int, k1: list[int], over: list[int], negative: bool) -> UInt8Array:
    """Follow the scheme's steps, one pixel at a time."""
    out = np.zeros_like(image)
    across = image.shape[1] // block
    for i in range(len(k1)):
        for r in range(block):
            for c in range(block):
                row = block - 1 - r if over[i] else r
                value = image[k1[i] // across * block + row, k1[i] % across * block + c]
                target = (i // across * block + r, i % across * block + c)
                out[target] = 255 - value if negative and c >= block // 2 else value
    return out


def vector(shape: tuple[int, int, int], block: int, scope: str, negative: bool) -> dict[str, Any]:
    nonce = {"nonce": make_vectors.NONCE} if scope == "image" else {}
    spec = {"name": NAME, "version": 3, "image_shape": list(shape), "block": block, "key_scope": scope}
    spec = {**spec, "options": {"negative": negative, **nonce}}
    sub = reference.sub_key(make_vectors.KEY, spec, make_vectors.ROW if scope == "image" else None)
    n = shape[0] * shape[1] // block**2
    k1, over = reference.permutation(sub, "K1", n), reference.bits(sub, "over", n)
    sealed = by_hand(make_vectors.picture(shape), block, k1, over, negative)
    return {
        "spec": spec,
        "key": make_vectors.KEY.hex(),
        "row": make_vectors.ROW,
        "shape": list(shape),
        **make_vectors.answer(sealed),
    }


@pytest.fixture
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AddScheme:
    """Return a function that adds a scheme from its source."""

    def add_scheme(source: str) -> Path:
        file = tmp_path / f"{NAME}.py"
        file.write_text(source)
        module_spec = importlib.util.spec_from_file_location(NAME, file)
        assert module_spec is not None and module_spec.loader is not None
        module = importlib.util.module_from_spec(module_spec)
        module_spec.loader.exec_module(module)
        monkeypatch.setitem(SCHEMES, NAME, module.UpsideDown)
        vectors = tmp_path / f"{NAME}.json"
        settings = [((16, 24, 3), 8, "consortium", False), ((15, 10, 1), 5, "image", True)]
        make_vectors.write(vectors, [vector(*setting) for setting in settings])
        return vectors

    return add_scheme


def test_a_new_scheme_passes_every_check(add: AddScheme) -> None:
    path = add(SOURCE)
    checks = list(scheme_checks.every_check(NAME, path))
    assert len(checks) == 2 + len(scheme_checks.PROPERTIES)
    for check in checks:
        check()


@pytest.mark.parametrize("scope", ["party", "image"])
def test_a_new_scheme_seals_sets(add: AddScheme, tmp_path: Path, scope: str) -> None:
    add(SOURCE)
    images = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 1), dtype=np.uint8)
    key, spec = SecretKey(bytes(range(32))), describe(NAME, (16, 16, 1), 4, scope, {"negative": True})
    folder, labels = tmp_path / "sealed", np.arange(9) % 3
    seal_images(
        folder, images.__getitem__, labels, ["a", "b", "c"], key, spec, "a source", shard_bytes=1024
    )
    sealed = SealedDataset.open(folder)
    sealed.verify(key)
    assert sealed.spec == spec and len(sealed.manifest["shards"]) > 1
    assert (sealed.images(0, 9) != images).mean() > 0.5
    assert np.array_equal(load(sealed.spec).cipher(key).decrypt(sealed.images(0, 9)), images)
    assert np.array_equal(load(sealed.spec).cipher(key).decrypt(sealed.images(4, 7), first=4), images[4:7])


def test_a_new_scheme_need_not_declare_public_facts(add: AddScheme) -> None:
    add(SOURCE)
    scheme = load(describe(NAME, (16, 16, 1), 4))
    assert scheme.orbit == Orbit(shifts=True) and scheme.unit_layout is None and not scheme.moves_blocks
    assert scheme.kept is None and scheme.invariant_tolerance == 0
    assert not carries_stem(NAME) and not always_has_row_keys(NAME)


def test_nothing_unknown_is_claimed_of_a_new_scheme(add: AddScheme) -> None:
    add(SOURCE)
    images = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 1), dtype=np.uint8)
    truth = make_truth(images[:20], images[20:], NAME, block=4)
    assert linkable_rate(truth) is None
    with pytest.raises(CipherwardError, match="not known what upside_down leaves"):
        link(truth.spec, lambda rows: truth.sealed[rows], np.arange(4), images)


CHECKS = {check.__name__: check for check in scheme_checks.PROPERTIES}


@pytest.mark.parametrize(
    ("right", "wrong", "caught_by"),
    [
        ("upright[::-1]", "upright[:, ::-1]", "known answers"),
        ('sub.permutation("K1"', 'sub.permutation("k1"', "known answers"),
        ('sub.bits("over", self.spec.blocks)}', "np.zeros(self.spec.blocks, bool)}", "known answers"),
        ("block // 2 :", "block // 2 + 1 :", "known answers"),
        ("version = 3", "version = 4", "known answers"),
        ("(upright[::-1] if", "(0 * upright if", "undoes"),
        ("order = parts", "order = 0 * parts", "undoes"),
        ("return {", "sub = type(sub)(bytes(32)); return {", "wrong_key_fails"),
        ("return {", "sub = type(sub)(bytes(32)); return {", "scopes_hold"),
    ],
)
def test_a_wrong_one_is_caught(add: AddScheme, right: str, wrong: str, caught_by: str) -> None:
    assert SOURCE.count(right) == 1
    path = add(SOURCE.replace(right, wrong))
    with pytest.raises((AssertionError, CipherwardError)):
        if caught_by in CHECKS:
            scheme_checks.run(CHECKS[caught_by], NAME, path, is_shrunk=False)
        else:
            for known in scheme_checks.vectors(path):
                scheme_checks.check_known_answer(known)
