"""Costs of prefixes and the spending of a bit budget: worked by hand, against slow twins, and as
properties.
"""

import math

import numpy as np
import pytest
import reference_sid
from hypothesis import given, settings
from hypothesis import strategies as st

from sidar.sid.codebooks.lengths import (
    PrefixCounts,
    allowed,
    code_bits,
    soft_entropy,
    soft_temperature,
    spend,
)
from sidar.sid.sizes import extended

CODES = np.array([[0, 0, 0], [0, 1, 0], [1, 0, 1], [1, 1, 1]])
SIZES = (2, 2, 2)


@st.composite
def codes_and_counts(draw):
    sizes = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    n = draw(st.integers(1, 40))
    return (
        rng.integers(0, sizes, (n, len(sizes))),
        sizes,
        rng.poisson(draw(st.sampled_from([0.3, 5.0])), n),
        rng,
    )


def test_by_hand():
    counts = PrefixCounts.build(CODES, SIZES)
    assert counts.of(CODES).tolist() == [[2, 1, 1]] * 4
    information = counts.information(CODES)
    assert information.tolist() == [[1, 2, 2]] * 4  # one of two first codes, then alone among four
    credit = np.log2(1.0 + np.array([3, 1, 0, 0]))  # 2, 1, 0 and 0 bits
    margin = information - credit[:, None]
    lengths, tau, paid = spend(margin, SIZES, 1, budget=8.0)  # four first codes and four more
    assert lengths.tolist() == [3, 3, 1, 1]
    assert (tau, paid) == (1, 1)
    assert code_bits(lengths, SIZES) == 8
    lengths, tau, paid = spend(
        margin, SIZES, 1, budget=9.0
    )  # one of two equal items gets the ninth code, the rule neither
    assert lengths.tolist() == [3, 3, 2, 1]
    assert (tau, paid) == (1, 2)
    assert allowed(margin, 1, tau).tolist() == [3, 3, 1, 1]
    lengths, _, _ = spend(margin, SIZES, 1, budget=9.0, first=np.array([0, 0, 0, 5]))
    assert lengths.tolist() == [3, 3, 1, 2]


def test_a_prefix_that_nobody_has_is_the_item_alone():
    counts = PrefixCounts.build(CODES[:3], SIZES)
    assert counts.of(np.array([[1, 1, 0]])).tolist() == [[1, 0, 0]]
    assert counts.information(np.array([[1, 1, 0]]))[0].tolist() == pytest.approx(
        [math.log2(3)] * 3
    )
    assert counts.information(np.array([[1, 1, 0]]), least=0)[0].tolist() == [
        math.log2(3),
        math.inf,
        math.inf,
    ]


@settings(deadline=None, max_examples=60)
@given(codes_and_counts())
def test_counts_equal_a_counter_of_tuples(made):
    codes, sizes, weight, rng = made
    strangers = rng.integers(0, sizes, (10, len(sizes)))
    for each in (None, weight):
        counts = PrefixCounts.build(codes, sizes, each)
        for some in (codes, strangers):
            want = reference_sid.prefix_counts(codes, some, each)
            np.testing.assert_array_equal(counts.of(some), want)


@settings(deadline=None, max_examples=100)
@given(codes_and_counts(), st.floats(0, 1), st.sampled_from([0.0, 1.0]))
def test_the_budget_is_kept_and_spent_to_within_one_code(made, share, kappa):
    codes, sizes, counts, _ = made
    n, levels = codes.shape
    margin = (
        PrefixCounts.build(codes, sizes).information(codes) - kappa * np.log2(1.0 + counts)[:, None]
    )
    least, most = code_bits(np.full(n, 1), sizes), code_bits(np.full(n, levels), sizes)
    budget = least + share * (most - least)
    lengths, tau, paid = spend(margin, sizes, 1, budget, counts)
    assert paid >= tau
    assert (lengths <= allowed(margin, 1, paid)).all()
    bits = code_bits(lengths, sizes)
    assert bits <= budget + 1e-6
    if (lengths < levels).any():
        assert bits + max(np.log2(sizes)) > budget - 1e-6
    # the lengths of the rule at τ never exceed those that were dealt, and the next larger margin
    # would overspend
    ruled = allowed(margin, 1, tau)
    assert (ruled <= lengths).all()
    assert ruled.tolist() == reference_sid.sarq_lengths(codes, counts, kappa, 1, tau)
    left = margin[:, 1:][np.arange(1, levels) >= ruled[:, None]]
    if len(left) and left.min() > tau:
        assert (
            code_bits(allowed(margin, 1, float(left.min())), sizes) > budget - 1e-6
            or (ruled == lengths).all()
        )


def test_sorting_finds_the_tau_of_a_bisection():
    rng = np.random.default_rng(0)
    sizes = (16, 8, 4, 2)
    codes = rng.integers(0, sizes, (500, 4))
    credit = rng.random(500) * 6  # no two margins are equal
    margin = (
        PrefixCounts.build(codes, sizes).information(codes)
        + rng.random((500, 1)) * 1e-6
        - credit[:, None]
    )
    margin[:, 2] += 1e-7
    margin[:, 3] += 2e-7
    budget = 500 * 8.0
    lengths, tau, _ = spend(margin, sizes, 1, budget)
    bisected = reference_sid.bisect_tau(margin, sizes, 1, budget)
    assert tau <= bisected
    np.testing.assert_array_equal(allowed(margin, 1, bisected), lengths)
    np.testing.assert_array_equal(allowed(margin, 1, tau), lengths)


def test_soft_entropy_equals_a_loop():
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(60, 5)).astype(np.float32)
    books = [rng.normal(size=(k, 5)).astype(np.float32) for k in (6, 4)]
    codes = reference_sid.encode(vectors, books)
    temperature = soft_temperature(vectors, codes, books)
    residual = vectors - books[0][codes[:, 0]]
    assert temperature[0] == pytest.approx(float((residual**2).sum(1).mean()), rel=1e-5)
    got = soft_entropy(vectors, codes, books, temperature)
    np.testing.assert_allclose(
        got, reference_sid.soft_entropy(vectors, codes, books, temperature), atol=1e-4
    )
    assert (np.diff(got, axis=1) >= 0).all()
    assert got.max() <= math.log2(6) + math.log2(4)


@pytest.mark.parametrize("budget", [3.9, 12.1])
def test_a_budget_that_cannot_be_met_says_what_can(budget):
    margin = PrefixCounts.build(CODES, SIZES).information(CODES)
    with pytest.raises(
        ValueError, match=r"SIDs of 1 codes take 1\.00, of 3 codes 3\.00; change sid\.sarq\.budget"
    ):
        spend(margin, SIZES, 1, budget)


def test_sizes_go_on_halving():
    assert extended((512, 256, 128), 5) == (512, 256, 128, 64, 32)
    assert extended((4, 3), 5) == (4, 3, 2, 2, 2)
    assert extended((4, 3), 2) == (4, 3)
