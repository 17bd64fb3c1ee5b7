"""What each scheme keeps of an image, and where its key is the same: attacks rely on both."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from crypto.arrays import AnyArray, BoolArray
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.scheme import SCHEMES, describe, kept_by, load
from tests.support.reference_schemes import cut, values, ycbcr_side_by_side
from tests.support.scheme_checks import PROFILE, Case, cases, file_of

KEY = SecretKey(bytes(range(32)))


def folded(picture: AnyArray, top: int = 255) -> AnyArray:
    """Return min(v, top - v), the same for a value and its negative."""
    smaller: AnyArray = np.minimum(picture, top - picture)
    return smaller


def nibbles(picture: AnyArray) -> AnyArray:
    """Return low and high half-bytes, uint8 [h, w, 2c]."""
    return np.concatenate([picture & 15, picture >> 4], -1)


def bags(picture: AnyArray, block: int) -> list[tuple[int, ...]]:
    """Return the values of each block, in order of size; blocks in their order."""
    return [tuple(sorted(values(piece))) for piece in cut(picture, block)]


def pixel_bags(picture: AnyArray, block: int) -> list[tuple[tuple[int, ...], ...]]:
    """Return the pixels of each block, in any order of the pixels and of their components."""
    return [
        tuple(sorted(tuple(sorted(int(v) for v in pixel)) for pixel in piece.reshape(-1, piece.shape[2])))
        for piece in cut(picture, block)
    ]


def quarters(picture: AnyArray, block: int) -> list[tuple[tuple[tuple[int, ...], ...], ...]]:
    """Return of each block its four sub-blocks in place, each as a bag of pixels."""
    return [
        tuple(
            tuple(sorted(tuple(p) for p in q.reshape(-1, q.shape[2]).tolist()))
            for q in cut(piece, block // 2)
        )
        for piece in cut(picture, block)
    ]


def keeps_block_pixel_shuffle(plain: AnyArray, sealed: AnyArray, case: Case) -> None:
    for channel in range(plain.shape[2]):
        before, after = (np.bincount(x[..., channel].ravel(), minlength=256) for x in (plain, sealed))
        assert np.array_equal(before, after)
    block = case.spec.block
    assert sorted(quarters(sealed, block)) == sorted(quarters(plain, block))


def keeps_value_shuffle(plain: AnyArray, sealed: AnyArray, case: Case) -> None:
    assert np.array_equal(np.sort(sealed.ravel()), np.sort(plain.ravel()))
    assert sorted(bags(sealed, case.spec.block)) == sorted(bags(plain, case.spec.block))


def keeps_block_pixel(plain: AnyArray, sealed: AnyArray, case: Case) -> None:
    block = case.spec.block
    assert sorted(bags(folded(sealed), block)) == sorted(bags(folded(plain), block))


def keeps_le(plain: AnyArray, sealed: AnyArray, case: Case) -> None:
    before, after = (bags(folded(nibbles(x), 15), case.spec.block) for x in (plain, sealed))
    assert after == before


def keeps_ele(plain: AnyArray, sealed: AnyArray, case: Case) -> None:
    before, after = (bags(folded(nibbles(x), 15), case.spec.block) for x in (plain, sealed))
    assert sorted(after) == sorted(before)


def keeps_pe(plain: AnyArray, sealed: AnyArray, case: Case) -> None:
    before, after = folded(plain), folded(sealed)
    if case.spec.options.get("colour_shuffle"):
        before, after = np.sort(before, -1), np.sort(after, -1)
    assert np.array_equal(after, before)


def keeps_etc(plain: AnyArray, sealed: AnyArray, case: Case) -> None:
    if case.spec.options.get("form") == "gray":
        plain = ycbcr_side_by_side(plain)
    block = case.spec.block
    assert sorted(pixel_bags(folded(sealed), block)) == sorted(pixel_bags(folded(plain), block))


def keeps_sub_block_etc(plain: AnyArray, sealed: AnyArray, case: Case) -> None:
    side = case.spec.options["sub_block"]
    assert sorted(pixel_bags(folded(sealed), side)) == sorted(pixel_bags(folded(plain), side))


def keeps_orthogonal(plain: AnyArray, sealed: AnyArray, case: Case) -> None:
    for before, after in zip(cut(plain, case.spec.block), cut(sealed, case.spec.block), strict=True):
        energy = ((before - 127.5) ** 2).sum()
        assert math.isclose(((after.astype(float) - 127.5) ** 2).sum(), energy, rel_tol=1e-4)


def keeps_noisy_orthogonal(plain: AnyArray, sealed: AnyArray, case: Case) -> None:
    for before, after in zip(cut(plain, case.spec.block), cut(sealed, case.spec.block), strict=True):
        energy, noise = ((before - 127.5) ** 2).sum(), before.size * case.scheme.noise_sigma**2
        left = max(0.0, float(((after.astype(float) - 127.5) ** 2).sum()) - noise)
        assert abs(math.sqrt(left) - math.sqrt(energy)) <= case.scheme.invariant_tolerance


def keeps_block_projection(plain: AnyArray, sealed: AnyArray, case: Case) -> None:
    if case.spec.options["matrix"] == "uniform":
        return  # nothing is known of what it keeps
    noise = case.spec.options["noise"]
    lengths = [
        sorted(math.sqrt(max(0.0, (piece**2).sum() - extra)) for piece in cut(image, case.spec.block))
        for image, extra in (
            (plain.astype(float), 0.0),
            (sealed.astype(float) - noise / 2, case.spec.block**2 * plain.shape[2] * noise**2 / 12),
        )
    ]
    assert np.abs(np.subtract(lengths[0], lengths[1])).max() <= case.scheme.invariant_tolerance


def keeps_patch_shuffle(plain: AnyArray, sealed: AnyArray, case: Case) -> None:
    block = case.spec.block
    assert sorted(piece.tobytes() for piece in cut(sealed, block)) == sorted(
        piece.tobytes() for piece in cut(plain, block)
    )


def keeps_permuted(plain: AnyArray, sealed: AnyArray, case: Case) -> None:
    assert np.array_equal(np.sort(sealed.ravel()), np.sort(plain.ravel()))


def keeps_plain(plain: AnyArray, sealed: AnyArray, case: Case) -> None:
    assert np.array_equal(sealed, plain)


CHECKS = {
    name.removeprefix("keeps_"): check for name, check in globals().items() if name.startswith("keeps_")
}


def test_every_declared_invariant_is_checked_here() -> None:
    assert set(CHECKS) == {name for name in SCHEMES if kept_by(name)} - {"noise"}


@pytest.mark.parametrize("name", CHECKS)
def test_what_a_scheme_keeps(name: str) -> None:
    @settings(PROFILE, max_examples=20)
    @given(case=cases(name, file_of(name)))
    def try_case(case: Case) -> None:
        plain = case.pictures(2)
        for before, after in zip(plain, case.cipher().encrypt(plain, first=case.first), strict=True):
            CHECKS[name](before, after, case)

    try_case()


def test_noise_keeps_no_histogram() -> None:
    spec = describe("noise", (64, 64, 1), 8)
    sealed = load(spec).cipher(KEY).encrypt(np.zeros((4, 64, 64, 1), np.uint8))
    counts = np.bincount(sealed.ravel(), minlength=256)  # chi-squared, 255 degrees: 99.99 % below 348
    assert ((counts - 64) ** 2 / 64).sum() < 348
    assert len({image.tobytes() for image in sealed}) == 4


def same_in_every_block(name: str, **options: object) -> bool:
    """Return whether a picture of one repeated block is sealed to one repeated block."""
    spec = describe(name, (32, 32, 3), 8, options=options)
    tile = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    sealed = load(spec).cipher(KEY).encrypt(np.tile(tile, (4, 4, 1))[None])[0]
    return all(np.allclose(piece, sealed[:8, :8], 0, 1e-3) for piece in cut(sealed, 8))


@pytest.mark.parametrize(
    "name", ["block_pixel_shuffle", "value_shuffle", "le", "sub_block_etc", "orthogonal"]
)
def test_one_key_serves_every_block(name: str) -> None:
    assert same_in_every_block(name)


@pytest.mark.parametrize("name", ["block_pixel", "ele", "etc", "pe", "noise", "permuted"])
def test_every_block_has_a_key_of_its_own(name: str) -> None:
    assert not same_in_every_block(name)


def test_block_pixel_shuffle_has_one_k2_for_its_sub_blocks() -> None:
    spec = describe("block_pixel_shuffle", (32, 32, 3), 8)
    tile = np.random.default_rng(1).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    sealed = load(spec).cipher(KEY).encrypt(np.tile(tile, (8, 8, 1))[None])[0]
    assert all(np.array_equal(piece, sealed[:4, :4]) for piece in cut(sealed, 4))


@pytest.mark.parametrize(
    ("fixed_blocks", "fixed_values"), [(0, 0), (5, 0), (0, 100), (12, 150), (15, 191), (16, 192)]
)
def test_restricted_permutations_leave_what_they_promise(fixed_blocks: int, fixed_values: int) -> None:
    options = {"fixed_blocks": fixed_blocks, "fixed_values": fixed_values}
    spec = describe("value_shuffle", (32, 32, 3), 8, options=options)  # 16 blocks of 192 values
    stayed: dict[str, list[BoolArray]] = {"K1": [], "K2": []}
    for i in range(200):
        parts = load(spec).parts(SecretKey(i.to_bytes(32, "big")))
        for part, rows in stayed.items():
            assert sorted(parts[part].tolist()) == list(range(len(parts[part])))
            rows.append(parts[part] == np.arange(len(parts[part])))
    for part, fixed, n in (("K1", fixed_blocks, 16), ("K2", fixed_values, 192)):
        counts = np.sum(stayed[part], 1)
        assert counts.min() >= fixed
        # A uniform permutation of the rest leaves one more in place on average, and has a variance of 1.
        expected = n if n - fixed <= 1 else fixed + 1
        assert abs(counts.mean() - expected) < 0.3
        # Which ones stay is the key's secret: every place is as likely as the others.
        share = np.mean(stayed[part], 0)
        assert np.abs(share - expected / n).max() < 0.2


@pytest.mark.parametrize("options", [{"fixed_blocks": 17}, {"fixed_values": 193}, {"fixed_blocks": -1}])
def test_more_than_all_cannot_stay(options: dict[str, Any]) -> None:
    with pytest.raises(CipherwardError):
        describe("value_shuffle", (32, 32, 3), 8, options=options)


def log2_factorial(n: int) -> float:
    """Return log2(n!) from the integer, independently of crypto.spec."""
    return math.log2(math.factorial(n))


@pytest.mark.parametrize(
    ("name", "shape", "block", "options", "bits"),
    [
        ("block_pixel_shuffle", (224, 224, 3), 16, {}, 1511),
        ("value_shuffle", (224, 224, 3), 16, {}, 7474),
        ("block_pixel", (224, 224, 3), 16, {}, 1378581),
        ("le", (32, 32, 3), 4, {"mask": "independent"}, 594),
        (
            "ele",
            (32, 32, 3),
            4,
            {"mask": "independent"},
            64 * (log2_factorial(96) + 96) + log2_factorial(64),
        ),
        ("pe", (32, 32, 3), 4, {"colour_shuffle": False}, 3072),
        ("pe", (32, 32, 3), 4, {"colour_shuffle": True}, 3072 + 1024 * math.log2(6)),
        ("etc", (32, 32, 3), 4, {"form": "colour"}, 64 * math.log2(8 * 2 * 6) + log2_factorial(64)),
        ("etc", (32, 32, 3), 8, {"form": "gray"}, 48 * math.log2(8 * 2) + log2_factorial(48)),
        ("noise", (32, 32, 1), 8, {}, 8192),
        ("permuted", (32, 32, 1), 8, {}, log2_factorial(1024)),
        ("plain", (32, 32, 1), 8, {}, 0),
    ],
)
def test_key_spaces_of_the_papers(
    name: str, shape: tuple[int, int, int], block: int, options: dict[str, Any], bits: float
) -> None:
    scheme = load(describe(name, shape, block, options=options))
    assert abs(scheme.formula_bits() - bits) < 1
    assert scheme.effective_bits() == min(256, scheme.distinct_bits()) <= scheme.formula_bits() + 1e-6


def test_what_stays_in_place_is_no_key() -> None:
    def bits(**options: int) -> float:
        return load(describe("value_shuffle", (32, 32, 3), 8, options=options)).formula_bits()

    assert bits(fixed_blocks=16, fixed_values=192) == 0
    assert bits(fixed_blocks=8) < bits() and bits(fixed_values=100) < bits()


def test_the_way_through_ycbcr_loses_one_gray_level_at_most() -> None:
    # Every fifth level of each component, the ends included: 52³ colours, as 416 × 338 pixels.
    levels = np.arange(0, 256, 5, dtype=np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, 416, 338, 3)
    scheme = load(describe("etc", (416, 338, 3), 2, options={"form": "gray"}))
    back = scheme.cipher(KEY).decrypt(scheme.cipher(KEY).encrypt(colours))
    worst = np.abs(back.astype(int) - colours).max()
    assert worst == 1 <= scheme.tolerance
