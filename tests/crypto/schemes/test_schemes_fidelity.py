"""Every scheme against naive references written from the papers' steps, and against naive key derivation."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.key import SecretKey
from crypto.scheme import SCHEMES, describe, load
from tests.support import make_vectors, reference, reference_parts, reference_schemes, scheme_checks
from tests.support.scheme_checks import FLOAT_ERROR, PROFILE, Case, cases, file_of


def test_every_scheme_has_a_reference() -> None:
    assert set(SCHEMES) == set(reference_schemes.REFERENCES) == set(reference_parts.PARTS)


@pytest.mark.parametrize("name", reference_schemes.REFERENCES)
def test_encrypt_follows_the_steps(name: str) -> None:
    # The naive product of large matrices takes a second.
    @settings(PROFILE, max_examples=8 if "orthogonal" in name else 25)
    @given(case=cases(name, file_of(name)))
    def try_case(case: Case) -> None:
        spec, plain = case.spec, case.pictures(2)
        sealed = case.cipher().encrypt(plain, first=case.first)
        for i in range(2):
            parts = case.scheme.parts(case.key, case.first + i)
            expected = reference_schemes.encrypt(name, plain[i], spec.block, parts, spec.options)
            if expected.dtype == np.uint8:
                assert np.array_equal(sealed[i], expected)
            else:
                assert np.allclose(sealed[i], expected, 0, FLOAT_ERROR)

    try_case()


@pytest.mark.parametrize("name", reference_schemes.REFERENCES)
def test_parts_come_from_the_key_as_described(name: str) -> None:
    @settings(PROFILE, max_examples=6)
    @given(case=cases(name, file_of(name)))
    def try_case(case: Case) -> None:
        parts = case.scheme.parts(case.key, case.first)
        naive_parts = reference_parts.parts(case.raw, case.spec.to_json(), case.first)
        assert set(naive_parts) <= set(parts)
        for part, expected in naive_parts.items():
            assert parts[part].shape == expected.shape and parts[part].dtype == expected.dtype, part
            assert np.allclose(parts[part], expected, 0, 1e-5 if expected.dtype.kind == "f" else 0), part

    try_case()


@pytest.mark.parametrize("name", make_vectors.CASES)
def test_vector_files_are_the_references_answers(name: str) -> None:
    vectors = scheme_checks.vectors(file_of(name))
    specs = make_vectors.specs(name)
    assert [vector["spec"] for vector in vectors] == specs
    for vector, spec in zip(vectors, specs, strict=True):
        assert make_vectors.vector(spec) == vector


@settings(PROFILE, max_examples=15)
@given(
    raw=st.binary(min_size=32, max_size=32),
    count=st.integers(0, 5),
    n=st.integers(0, 40),
    label=st.text(max_size=6),
)
def test_permutations_are_the_reference_s(raw: bytes, count: int, n: int, label: str) -> None:
    drawn = SecretKey(raw).permutations(label, count, n)
    assert drawn.shape == (count, n) and drawn.dtype == np.int64
    assert drawn.tolist() == reference.permutations(raw, label, count, n)


@settings(PROFILE, max_examples=15)
@given(
    raw=st.binary(min_size=32, max_size=32),
    n=st.integers(0, 99),
    below=st.sampled_from([1, 2, 6, 8, 255, 1000]),
)
def test_integers_and_bits_are_the_reference_s(raw: bytes, n: int, below: int) -> None:
    drawn = SecretKey(raw).integers("x", n, below)
    assert drawn.shape == (n,) and drawn.dtype == np.int64
    assert drawn.tolist() == reference.integers(raw, "x", n, below)
    assert SecretKey(raw).bits("x", n).tolist() == [bool(b) for b in reference.bits(raw, "x", n)]


@pytest.mark.parametrize("n", [1, 2, 12, 48])
def test_orthogonal_matrices_are_the_reference_s(n: int) -> None:
    raw = hashlib.sha256(bytes([n])).digest()
    drawn = SecretKey(raw).orthogonal("x", n)
    assert drawn.shape == (n, n) and drawn.dtype == np.float32
    assert np.allclose(drawn, reference.orthogonal(raw, "x", n), 0, 1e-6)
    assert np.allclose(drawn.T.astype(float) @ drawn, np.eye(n), 0, 1e-5)


def test_integers_are_uniform() -> None:
    # 6,000 dice: chi-squared with 5 degrees of freedom, 99.99 % below 26.
    counts = np.bincount(SecretKey(bytes(range(32))).integers("dice", 6000, 6), minlength=6)
    assert len(counts) == 6 and ((counts - 1000) ** 2 / 1000).sum() < 26


@pytest.mark.parametrize("shape", [(32, 32, 3), (16, 24, 1)])
@pytest.mark.parametrize("name", ["le", "ele"])
def test_the_tied_mask_is_the_permutation_s(name: str, shape: tuple[int, int, int]) -> None:
    key = SecretKey(bytes(range(32)))
    for mask in ("tied", "independent"):
        spec = describe(name, shape, 4, options={"mask": mask})
        parts = load(spec).parts(key)
        p = parts["key" if name == "le" else "keys"]
        tied = p > 16 * shape[2]  # 48 for colour blocks of 4 × 4, as in the author's program
        assert np.array_equal(parts["reversal"], tied) == (mask == "tied")
        assert 0.3 < parts["reversal"].mean() < 0.7
    assert describe(name, shape, 4).options.get("mask", "tied") == "tied"  # the published form


@pytest.mark.parametrize("word", [0, 255])
def test_a_draw_that_would_favour_some_is_rejected_whole(
    monkeypatch: pytest.MonkeyPatch, word: int
) -> None:
    key, honest = SecretKey(bytes(range(32))), SecretKey.keystream
    first_is_bad = lambda self, label, n: (  # noqa: E731
        np.full(n, word, np.uint8) if label.endswith("/0") else honest(self, label, n)
    )
    monkeypatch.setattr(SecretKey, "keystream", first_is_bad)
    drawn = key.permutations("x", 3, 5).tolist()
    assert drawn == reference.permutations(key.reveal(), "x", 3, 5, draw=1)
    draw = 1 if word == 255 else 0  # 2^64 - 1 lies above the last multiple of 6; 0 favours nothing
    expected = reference.integers(key.reveal(), "x", 9, 6, draw=1) if draw else [0] * 9
    assert key.integers("x", 9, 6).tolist() == expected
