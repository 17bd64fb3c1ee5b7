"""A secure sum gives the weighted mean of those who stayed, and below the threshold nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crypto.errors import CipherwardError
from crypto.secure_sum.collector import weight_sum
from crypto.secure_sum.fixed_point import FixedPoint
from tests.support.secure_sum import PHASES, Federation, encode_all, run_round, weighted_mean


@st.composite
def federations(draw: st.DrawFn, most: int = 20) -> tuple[int, dict[str, str], int]:
    """Draw a number of hospitals, who dies when, and a seed for updates and numbers of images."""
    count = draw(st.integers(3, most))
    names = st.sampled_from([f"h{i:02d}" for i in range(count)])
    dies = draw(st.dictionaries(names, st.sampled_from(PHASES), max_size=count - (2 * count // 3 + 1) + 1))
    return count, dies, draw(st.integers(0, 2**32 - 1))


def check_federation(case: tuple[int, dict[str, str], int]) -> None:
    """Compare a secure sum with the plain weighted mean, or see it refused below the threshold."""
    count, dies, seed = case
    federation, rng = Federation(count), np.random.default_rng(seed)
    scale = 10.0 ** rng.uniform(-3, -1)
    updates = {name: rng.normal(0, scale, 200) for name in federation.identities}
    images = {name: int(rng.integers(1, 5000)) for name in updates}
    vectors, weights, point = encode_all(updates, images, clip=1.0)
    if count - len(dies) < federation.rules.threshold:
        with pytest.raises(CipherwardError, match="hospitals"):
            run_round(federation, vectors, dies)
        return
    total, survivors = run_round(federation, vectors, dies)
    # Who dies after its masked vector is counted: its vector is in the sum.
    counted = {n for n in updates if dies.get(n) not in PHASES[:3]}
    assert set(survivors) == counted
    got, want = (
        point.decode(total, weight_sum(weights, survivors)),
        weighted_mean(updates, images, survivors),
    )
    assert np.linalg.norm(got - want) <= 1e-5 * np.linalg.norm(want)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(federations(most=10))  # every hospital has a secret with every other: 20 take four times as long
def test_the_sum_is_the_weighted_mean_of_the_survivors(case: tuple[int, dict[str, str], int]) -> None:
    check_federation(case)


@pytest.mark.slow
@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(federations())
def test_a_thousand_federations(case: tuple[int, dict[str, str], int]) -> None:
    check_federation(case)


@pytest.mark.parametrize("phase", PHASES)
def test_three_hospitals_tolerate_no_dropout_and_five_tolerate_one(phase: str) -> None:
    three, five = Federation(3), Federation(5)
    with pytest.raises(CipherwardError, match=r"3 of 3"):
        run_round(three, dict.fromkeys(three.members, np.ones(4, np.uint32)), {"h01": phase})
    total, survivors = run_round(five, dict.fromkeys(five.members, np.ones(4, np.uint32)), {"h01": phase})
    assert (total == len(survivors)).all() and len(survivors) == (4 if phase in PHASES[:3] else 5)


def test_a_masked_vector_looks_uniform_and_never_repeats() -> None:
    federation = Federation(3)
    zeros = np.zeros(20_000, np.uint32)
    masked = []
    for _ in range(2):
        federation.begin()
        keys = {n: m.keys() for n, m in federation.members.items()}
        sent = {n: m.share(keys, federation.rules) for n, m in federation.members.items()}
        incoming = {n: sent[n]["h00"] for n in sent if n != "h00"}
        masked.append(federation.members["h00"].mask(incoming, zeros, federation.rules)[0])
    # 80,000 bytes, 256 cells: chi-square has mean 255 and deviation 22.6; 7 deviations never happen by chance.
    counts = np.bincount(masked[0].view(np.uint8), minlength=256)
    assert ((counts - 312.5) ** 2 / 312.5).sum() < 255 + 7 * 22.6
    assert (masked[0] == masked[1]).sum() < 5


@given(st.integers(1, 200), st.floats(1e-3, 8), st.integers(0, 2**32 - 1))
def test_extreme_values_of_all_hospitals_do_not_wrap(members: int, clip: float, seed: int) -> None:
    point, rng = FixedPoint(clip, members), np.random.default_rng(seed)
    values = rng.choice([-clip, clip, -2 * clip, 0], 30)
    one, saturated = point.encode(values, 1.0)
    assert saturated == (np.abs(values) > clip).sum()
    total = one * np.uint32(members)
    assert np.allclose(point.decode(total, members), np.clip(values, -clip, clip), atol=point.resolution)


@pytest.mark.parametrize("members", [3, 4, 5, 7, 10, 50])
@pytest.mark.parametrize("bits", [20, 25, 29])
def test_rounding_does_not_wrap_where_the_clip_fills_the_range(members: int, bits: int) -> None:
    """At such a clip the members' largest numbers, rounded up, were one more than the range holds: its negative."""
    exact = (2**31 - 1) / (members * 2**bits)
    for clip in (np.nextafter(exact, 0), exact, np.nextafter(exact, 9)):
        point = FixedPoint(float(clip), members)
        for sign in (1, -1):
            one, _ = point.encode(np.array([sign * clip]), 1.0)
            total = one * np.uint32(members)
            assert np.allclose(point.decode(total, members), sign * clip, atol=point.resolution)


def test_more_hospitals_than_the_range_holds_are_refused() -> None:
    with pytest.raises(CipherwardError, match="too few bits"):
        FixedPoint(1.0, 2**32)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_never_enter_a_sum(bad: float) -> None:
    with pytest.raises(CipherwardError, match="not finite"):
        FixedPoint(1.0, 3).encode(np.array([0.0, bad]), 1.0)
