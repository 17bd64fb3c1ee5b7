"""Checks that every scheme must pass, for a name in SCHEMES and the file of its vectors.

`run(check, name, path)` tries one of PROPERTIES on cases drawn from every setting that the scheme allows: grids and
blocks of many sizes, gray and RGB, all key scopes, and the options that its vectors use.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from crypto.arrays import Images
from crypto.cipher import Cipher
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.scheme import Scheme, describe, load, renewed, sub_key
from crypto.spec import KEY_SCOPES, SchemeSpec, log2_factorial
from tests.support import make_vectors
from tests.support.paths import VECTORS

SCHEME_VECTORS = VECTORS / "schemes"
PROFILE = settings(derandomize=True, database=None, deadline=None)
GRIDS = ((1, 1), (1, 3), (2, 2), (3, 2), (4, 4))
FIRST = (0, 1, 5, 1000)
#: Largest error of a float32 ciphertext that the order of its sums makes.
FLOAT_ERROR = 2e-3


@dataclass(frozen=True)
class Case:
    """A scheme's setting with a key, a seed for pictures, a count of them and the row of the first."""

    spec: SchemeSpec
    raw: bytes
    seed: int
    n: int
    first: int

    @property
    def scheme(self) -> Scheme:
        return load(self.spec)

    @property
    def key(self) -> SecretKey:
        return SecretKey(self.raw)

    def cipher(self, key: SecretKey | None = None) -> Cipher:
        return load(self.spec).cipher(key or self.key)

    def pictures(self, n: int | None = None) -> Images:
        """Return noise uint8 [n, h, w, c], in which no two places look alike."""
        generator = np.random.default_rng(self.seed)
        count = self.n if n is None else n
        return generator.integers(0, 256, (count, *self.spec.image_shape), dtype=np.uint8)


def vectors(path: Path) -> list[dict[str, Any]]:
    """Return the known answers of a scheme's file."""
    answers: list[dict[str, Any]] = json.loads(path.read_text())
    return answers


def file_of(name: str) -> Path:
    """Return the file of a scheme's vectors."""
    return SCHEME_VECTORS / f"{name}.json"


def with_nonce(spec: SchemeSpec, seed: object) -> SchemeSpec:
    """Return the spec with a nonce that a seed decides, if it has one: tests draw nothing at random."""
    if "nonce" not in spec.options:
        return spec
    nonce = hashlib.sha256(repr(seed).encode()).hexdigest()[:32]
    return dataclasses.replace(spec, options={**spec.options, "nonce": nonce})


@functools.cache
def settings_of(name: str, path: Path) -> tuple[SchemeSpec, ...]:
    """Return every setting in reach that the scheme allows; nonces are fixed."""
    options: list[dict[str, Any]] = []
    for vector in vectors(path):
        chosen = {k: v for k, v in vector["spec"]["options"].items() if k != "nonce"}
        if chosen not in options:
            options.append(chosen)
    specs = []
    for chosen in options:
        for block in range(2, 9):
            for down, across in GRIDS:
                for channels in (1, 3):
                    shape = (down * block, across * block, channels)
                    for scope in KEY_SCOPES:
                        try:
                            specs.append(with_nonce(describe(name, shape, block, scope, chosen), 0))
                        except CipherwardError:
                            continue  # this scheme refuses this setting
    assert len(specs) >= 10, f"{name} refuses nearly every setting"
    return tuple(specs)


def cases(name: str, path: Path, least_bits: float = 0) -> st.SearchStrategy[Case]:
    """Return a strategy for cases of a scheme, of settings whose key space has at least so many bits."""
    allowed = [s for s in settings_of(name, path) if load(s).formula_bits() >= least_bits]
    return st.builds(
        case_of, st.sampled_from(allowed), st.integers(0, 9999), st.integers(0, 3), st.sampled_from(FIRST)
    )


def case_of(spec: SchemeSpec, seed: int, n: int, first: int) -> Case:
    """Return the case with the nonce and key that a seed decides."""
    return Case(with_nonce(spec, seed), hashlib.sha256(b"%d" % seed).digest(), seed, n, first)


def alike(a: Any, b: Any) -> bool:
    """Return whether two ciphertexts are the same, floats to their rounding."""
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return np.array_equal(a, b) if a.dtype == np.uint8 else bool(np.allclose(a, b, 0, FLOAT_ERROR))


def check_known_answer(vector: dict[str, Any]) -> None:
    """Check that the scheme gives a vector's answer, and the answer the picture."""
    spec = SchemeSpec.from_json(vector["spec"])
    plain = make_vectors.picture(spec.image_shape)[None]
    cipher = load(spec).cipher(SecretKey(bytes.fromhex(vector["key"])))
    sealed = cipher.encrypt(plain, first=vector["row"])
    assert list(sealed.shape[1:]) == vector["shape"]
    if "values" in vector:
        assert sealed.dtype == np.float32
        assert np.allclose(sealed.ravel(), vector["values"], 0, FLOAT_ERROR)
    else:
        assert make_vectors.answer(sealed) == {k: vector[k] for k in ("sha256", "first")}
    if opens(load(spec), cipher, sealed):
        back = cipher.decrypt(sealed, first=vector["row"]).astype(int)
        assert np.abs(back - plain).max() <= load(spec).tolerance


def opens(scheme: Scheme, cipher: Cipher, sealed: Any) -> bool:
    """Return whether the scheme's key opens ciphertexts. Check that the cipher of one that does not says so."""
    if not scheme.is_invertible:
        with pytest.raises(CipherwardError, match="cannot be inverted"):
            cipher.decrypt(sealed)
    return scheme.is_invertible


def undoes(case: Case) -> None:
    """Check that decrypt undoes encrypt to the declared tolerance, with the declared shapes and dtypes."""
    scheme, plain = case.scheme, case.pictures()
    before, cipher = plain.copy(), case.cipher()
    sealed = cipher.encrypt(plain, first=case.first)
    assert isinstance(sealed, np.ndarray) and sealed.dtype == scheme.sealed_dtype
    assert sealed.shape == (case.n, *scheme.sealed_shape)
    assert np.array_equal(plain, before) and not np.shares_memory(plain, sealed)
    sealed_copy = sealed.copy()
    if opens(scheme, cipher, sealed):
        back = cipher.decrypt(sealed, first=case.first)
        assert back.dtype == np.uint8 and back.shape == plain.shape and np.array_equal(sealed, sealed_copy)
        assert np.abs(back.astype(int) - plain).max(initial=0) <= scheme.tolerance
    # The same key in another process, and images in another memory order, seal to the same.
    awkward = np.asfortranarray(plain)
    awkward.flags.writeable = False
    assert alike(case.cipher().encrypt(awkward, first=case.first), sealed)


def rows_are_independent(case: Case) -> None:
    """Check that images sealed and opened one by one are those sealed at once."""
    plain, cipher = case.pictures(), case.cipher()
    sealed = cipher.encrypt(plain, first=case.first)
    for i in range(case.n):
        assert alike(cipher.encrypt(plain[i : i + 1], first=case.first + i), sealed[i : i + 1])
    if opens(case.scheme, cipher, sealed):
        back = cipher.decrypt(sealed, first=case.first)
        for i in range(case.n):
            assert np.array_equal(cipher.decrypt(sealed[i : i + 1], first=case.first + i), back[i : i + 1])


def torch_agrees(case: Case) -> None:
    """Check that tensors are sealed as arrays are, and stay tensors, in any memory order."""
    plain, cipher = case.pictures(), case.cipher()
    sealed = cipher.encrypt(plain, first=case.first)
    for tensor in (torch.from_numpy(plain.copy()), torch.from_numpy(np.asfortranarray(plain))):
        on_torch = cipher.encrypt(tensor, first=case.first)
        assert isinstance(on_torch, torch.Tensor) and alike(on_torch.numpy(), sealed)
        assert np.array_equal(tensor.numpy(), plain)
    if not opens(case.scheme, cipher, torch.from_numpy(sealed.copy())):
        return
    back = cipher.decrypt(torch.from_numpy(sealed.copy()), first=case.first)
    assert isinstance(back, torch.Tensor) and back.dtype == torch.uint8
    assert np.array_equal(back.numpy(), cipher.decrypt(sealed, first=case.first))


def wrong_key_fails(case: Case) -> None:
    """Check that another key, one bit away, leaves the picture sealed."""
    plain = case.pictures(2)
    sealed = case.cipher().encrypt(plain, first=case.first)
    other = SecretKey(case.raw[:-1] + bytes([case.raw[-1] ^ 1]))
    if case.scheme.is_invertible:
        assert (case.cipher(other).decrypt(sealed, first=case.first) != plain).mean() > 0.1
    assert not alike(case.cipher(other).encrypt(plain, first=case.first), sealed)


def scopes_hold(case: Case) -> None:
    """Check key scopes: with a key an image no row and no sealing repeats one; a shared key seals all rows alike."""
    same = np.repeat(case.pictures(1), 3, 0)
    sealed = case.cipher().encrypt(same, first=case.first)
    has_row_keys = "nonce" in case.spec.options
    if case.spec.key_scope != "image" and draws_nothing_by_row(case.spec):
        return
    assert has_row_keys or case.spec.key_scope != "image"
    for i in (1, 2):
        assert alike(sealed[i], sealed[0]) != has_row_keys
    again = dataclasses.replace(case, spec=renewed(case.spec))
    assert alike(again.cipher().encrypt(same, first=case.first), sealed) != has_row_keys
    next_row = dataclasses.replace(case, first=case.first + 1)
    assert alike(next_row.cipher().encrypt(same[:2], first=next_row.first), sealed[1:])
    # The scope is part of every sub-key: what one sealing gives away opens no sealing of another scope.
    keys = set()
    for scope in KEY_SCOPES:
        spec = describe(
            case.spec.name, case.spec.image_shape, case.spec.block, scope, plain_options(case.spec)
        )
        keys.add(sub_key(with_nonce(spec, case.seed), case.key, case.first).id)
    assert len(keys) == 3


def draws_nothing_by_row(spec: SchemeSpec) -> bool:
    """Return whether the options leave nothing that is drawn for each row, or only orders that agree by chance."""
    options, few = spec.options, log2_factorial(spec.blocks) < 40
    return options.get("noise") == 0 or (spec.name == "neuracrypt" and (few or not options["shuffle"]))


def plain_options(spec: SchemeSpec) -> dict[str, Any]:
    """Return the options of a spec without its nonce."""
    return {name: value for name, value in spec.options.items() if name != "nonce"}


def spec_travels(case: Case) -> None:
    """Check that a spec that went through JSON seals to the same."""
    spec = SchemeSpec.from_json(json.loads(json.dumps(case.spec.to_json())))
    assert spec == case.spec
    other = dataclasses.replace(case, spec=spec)
    plain = case.pictures()
    assert alike(
        other.cipher().encrypt(plain, first=case.first), case.cipher().encrypt(plain, first=case.first)
    )


#: Each with the bits of key space that a setting must have, or two keys may do the same by chance.
PROPERTIES: dict[Callable[[Case], None], int] = {
    undoes: 0,
    rows_are_independent: 0,
    torch_agrees: 0,
    spec_travels: 0,
    wrong_key_fails: 40,
    scopes_hold: 40,
}


def run(
    check: Callable[[Case], None], name: str, path: Path, examples: int = 20, is_shrunk: bool = True
) -> None:
    """Try a property on cases of a scheme. The properties of keys do not apply to `plain`, which has none.

    A failing case is made as small as possible, unless `is_shrunk` is false: for tests that expect a failure.
    """
    least = PROPERTIES[check]
    if least and name == "plain":
        return

    phases = [phase for phase in Phase if is_shrunk or phase not in (Phase.shrink, Phase.explain)]

    @settings(PROFILE, max_examples=examples, phases=phases)
    @given(case=cases(name, path, least))
    def try_case(case: Case) -> None:
        check(case)

    try_case()


def every_check(name: str, path: Path) -> Iterator[Callable[[], None]]:
    """Yield all checks that a scheme must pass, its known answers first."""
    for vector in vectors(path):
        yield functools.partial(check_known_answer, vector)
    for check in PROPERTIES:
        yield functools.partial(run, check, name, path)
