import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidar.evaluate import (
    PairedTest,
    bootstrap_interval,
    holm,
    paired_test,
    smallest_detectable,
    verdict,
)
from sidar.evaluate.stats import standard_error


def test_interval_of_a_mean_agrees_with_normal_theory():
    values = np.random.default_rng(1).normal(0.3, 1.0, 2000)
    low, high = bootstrap_interval(values, seed=0, samples=4000)
    half = 1.96 * values.std(ddof=1) / np.sqrt(2000)
    assert low == pytest.approx(values.mean() - half, abs=0.004)
    assert high == pytest.approx(values.mean() + half, abs=0.004)


def test_clusters_widen_the_interval_and_a_constant_has_none():
    values = np.repeat(np.random.default_rng(2).normal(size=50), 40)
    clusters = np.repeat(np.arange(50), 40)
    free, clustered = bootstrap_interval(values), bootstrap_interval(values, clusters)
    assert clustered[1] - clustered[0] > 4 * (free[1] - free[0])
    assert bootstrap_interval(np.full(9, 0.25)) == (0.25, 0.25)
    assert all(np.isnan(bootstrap_interval(np.array([]))))


def test_interval_is_seeded():
    values = np.random.default_rng(0).random(40)
    assert bootstrap_interval(values, seed=5) == bootstrap_interval(values, seed=5)
    assert bootstrap_interval(values, seed=5) != bootstrap_interval(values, seed=6)


def test_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(4)
    inside = 0
    for i in range(200):
        effect = rng.normal(size=30)
        values, clusters = np.repeat(effect, 3) + rng.normal(size=90), np.repeat(np.arange(30), 3)
        low, high = bootstrap_interval(values, clusters, seed=i, samples=400)
        inside += low <= 0 <= high
    assert 0.88 <= inside / 200 <= 0.98


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
def test_exact_p_value_equals_enumeration(differences):
    d = np.array(differences, dtype=float)
    sums = [abs(np.dot(signs, d)) for signs in itertools.product([1, -1], repeat=len(d))]
    assert paired_test(d, np.zeros(len(d))).p == pytest.approx(
        np.mean(np.array(sums) >= abs(d.sum()) - 1e-9)
    )


def test_known_p_values():
    # Darwin's maize (Fisher 1935): 15 pairs, the exact one-sided share is 863 / 32,768.
    darwin = np.array([49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48], dtype=float)
    test = paired_test(darwin, np.zeros(15), permutations=50_000)
    assert test.p == pytest.approx(2 * 863 / 32_768, abs=0.003)
    assert paired_test(np.ones(4), np.zeros(4)).p == pytest.approx(2 / 16)


def test_flips_whole_clusters():
    a, clusters = np.ones(40), np.repeat(np.arange(4), 10)
    assert paired_test(a, np.zeros(40), clusters).p == pytest.approx(2 / 16)
    assert paired_test(a, np.zeros(40)).p < 0.001


def test_p_values_are_uniform_under_the_null():
    rng = np.random.default_rng(7)
    p = [
        paired_test(rng.normal(size=25), rng.normal(size=25), permutations=400, samples=10).p
        for _ in range(300)
    ]
    assert np.mean(np.array(p) < 0.1) == pytest.approx(0.1, abs=0.05)


def test_detectable_effect_is_the_protocols():
    for n, seen in ((150, 0.018), (2000, 0.005), (20_000, 0.0016)):
        values = np.random.default_rng(n).normal(size=n)
        values = values / values.std(ddof=1) * 0.08
        assert smallest_detectable(values) == pytest.approx(seen, rel=0.05)
    assert np.isnan(standard_error(np.array([1.0])))


def test_standard_error_of_clusters_worked_by_hand():
    # Cluster sums 2 and 0 of 2 values each: mean .5, residuals 1 and -1, √(2 · 2) / 4.
    assert standard_error(
        np.array([1.0, 1.0, 0.0, 0.0]), np.array(["a", "a", "b", "b"])
    ) == pytest.approx(0.5)


def test_holm_worked_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]).tolist() == [1.0, 1.0]


def made(effect, low, high):
    return PairedTest(effect, low, high, 0.5, 0.01, 100, 100)


@pytest.mark.parametrize(
    ("test", "p", "claimed", "word"),
    [
        (made(0.02, 0.01, 0.03), 0.001, 0.0, "holds"),
        (made(0.02, 0.01, 0.03), 0.2, 0.0, "cannot tell here"),
        (made(-0.02, -0.03, -0.01), 0.001, 0.0, "does not hold"),
        (made(0.0, -0.01, 0.01), 0.9, 0.0, "cannot tell here"),
        (made(0.0, -0.002, 0.002), 0.9, 0.004, "does not hold"),
        (made(0.006, 0.001, 0.01), 0.01, 0.004, "cannot tell here"),
    ],
)
def test_verdicts(test, p, claimed, word):
    assert verdict(test, p, claimed=claimed) == word


def test_unaligned_values_are_refused():
    with pytest.raises(ValueError, match="same queries"):
        paired_test(np.ones(3), np.ones(4))
    with pytest.raises(ValueError, match="cluster labels"):
        bootstrap_interval(np.ones(3), np.arange(2))
    with pytest.raises(ValueError, match="at least one"):
        paired_test(np.array([]), np.array([]))
