"""Effects on data that can be worked out by hand, and against slower forms of the same."""

import numpy as np
import pytest
from scipy import stats

from sidar.ab.effects import compare
from sidar.ab.power import smallest_detectable, users_for, users_needed
from sidar.ab.sequential import SCALES, always_valid_p, half_width
from sidar.ab.srm import sample_ratio


def draw(n=400, seed=0):
    rng = np.random.default_rng(seed)
    treated = np.arange(n) % 2 == 1
    base = rng.gamma(2, 1, n)
    x = rng.poisson(base * np.where(treated, 1.3, 1.0)).astype(float)
    w = 1.0 + rng.poisson(3 * base)
    before = rng.poisson(base).astype(float)
    return x, w, treated, before


def test_a_mean_is_welchs_test():
    x, _, treated, _ = draw()
    effect = compare(x, treated)
    welch = stats.ttest_ind(x[treated], x[~treated], equal_var=False)
    interval = welch.confidence_interval(0.95)
    assert effect.absolute == pytest.approx(x[treated].mean() - x[~treated].mean())
    assert effect.p == pytest.approx(welch.pvalue)
    assert (effect.absolute_low, effect.absolute_high) == pytest.approx(tuple(interval))


def test_ratio_and_relative_lift_have_the_spread_of_a_bootstrap_over_users():
    x, w, treated, _ = draw()
    effect = compare(x, treated, w)
    assert effect.control == pytest.approx(x[~treated].sum() / w[~treated].sum())
    rng = np.random.default_rng(1)
    drawn = []
    for _ in range(4000):
        a = rng.choice(np.flatnonzero(~treated), (~treated).sum())
        b = rng.choice(np.flatnonzero(treated), treated.sum())
        drawn.append((x[a].sum() / w[a].sum(), x[b].sum() / w[b].sum()))
    control, treatment = np.array(drawn).T
    assert effect.absolute_se == pytest.approx(np.std(treatment - control), rel=0.05)
    assert effect.relative_se == pytest.approx(np.std(treatment / control - 1), rel=0.05)


def test_cuped_is_the_regression_on_the_covariate():
    """A least-squares fit with the treatment as a column gives the same difference."""
    x, _, treated, before = draw()
    effect = compare(x, treated, covariates=before[:, None])
    design = np.stack([np.ones(len(x)), treated, before], axis=1)
    coefficients, residual, *_ = np.linalg.lstsq(design, x, rcond=None)
    assert effect.absolute == pytest.approx(coefficients[1])
    plain = compare(x, treated)
    assert effect.variance_saved == pytest.approx(
        1 - residual[0] / sum(np.square(x[g] - x[g].mean()).sum() for g in (treated, ~treated)),
        abs=0.01,
    )
    assert effect.absolute_se < plain.absolute_se
    # covariates that say the same twice, or nothing, change nothing
    more = np.stack([before, 2 * before, np.ones(len(x))], axis=1)
    assert compare(x, treated, covariates=more).absolute == pytest.approx(effect.absolute)
    nothing = compare(x, treated, covariates=np.ones((len(x), 1)))
    assert nothing.absolute == pytest.approx(plain.absolute)
    assert nothing.variance_saved == pytest.approx(0)


def test_what_cannot_be_computed_is_nan_and_raises_nothing():
    treated = np.array([False, False, True, True])
    flat = compare(np.ones(4), treated)
    assert flat.absolute == 0
    assert np.isnan(flat.p)
    zero = compare(np.array([0.0, 0, 1, 2]), treated)
    assert np.isnan(zero.relative)
    assert zero.absolute == 1.5
    empty = compare(np.ones(4), treated, w=np.array([0.0, 0, 1, 1]), covariates=np.eye(4))
    assert np.isnan(empty.absolute)


def test_users_needed():
    # 16 σ² / d² per bucket is the rule of thumb for 80 % power
    assert users_needed(1.0, 0.1) / 2 == pytest.approx(16 / 0.1**2, rel=0.02)
    assert users_needed(1.0, 0.1, (0.9, 0.1)) > 2 * users_needed(1.0, 0.1)
    # +0.34 % of a UCVR of 10 %: about six million users a bucket
    sd = np.sqrt(0.1 * 0.9)
    needed = users_needed(sd, 0.0034 * 0.1)
    assert needed / 2 == pytest.approx(12.2e6, rel=0.02)
    # the same from the standard error that some users had
    se = sd * np.sqrt(4 / 10_000)
    assert users_for(0.0034 * 0.1, se, 10_000) == pytest.approx(needed)
    assert smallest_detectable(se) == pytest.approx(2.8016 * se, rel=1e-4)
    assert np.isnan(users_for(0.1, float("nan"), 10))


def test_the_always_valid_p_is_the_integral_over_the_mixture():
    difference, variance, tau = 0.3, 0.01, 0.2
    shifts = np.linspace(-3, 3, 200_001)
    mixture = np.mean([stats.norm.pdf(shifts, 0, tau * scale) for scale in SCALES], axis=0)
    likelihood = np.exp((shifts * difference - shifts**2 / 2) / variance)
    ratio = np.trapezoid(mixture * likelihood, shifts)
    p = always_valid_p(np.array([difference]), np.array([variance]), tau)
    assert p[0] == pytest.approx(1 / ratio)
    # it never rises, and a look without an estimate changes nothing
    looks = always_valid_p(np.array([0.3, np.nan, 0.0]), np.array([0.01, np.nan, 0.005]), tau)
    assert looks.tolist() == [p[0]] * 3
    assert always_valid_p(np.array([0.0]), np.array([0.01]), tau) == [1.0]


def test_the_confidence_sequence_holds_zero_until_p_is_below_alpha():
    variance, tau = np.array([0.01]), 0.2
    half = half_width(variance, tau)
    inside, outside = (always_valid_p(half * by, variance, tau)[0] for by in (0.999, 1.001))
    assert inside > 0.05 > outside
    assert half_width(np.array([0.0, np.nan]), tau).tolist() == [np.inf, np.inf]


def test_sample_ratio():
    test = sample_ratio(("a", "b"), np.array([5000, 5000]))
    assert test.p == 1
    assert not test.alarm
    assert "no sample-ratio mismatch" in test.line()
    wrong = sample_ratio(("a", "b"), np.array([49_000, 51_000]))
    assert wrong.p == pytest.approx(stats.chisquare([49_000, 51_000]).pvalue)
    assert wrong.alarm
    assert "SAMPLE-RATIO MISMATCH" in wrong.line()
    planned = sample_ratio(("a", "b"), np.array([9000, 1000]), {"b": 10, "a": 90})
    assert planned.p == 1
    with pytest.raises(ValueError, match="the experiment has a, b; name the same"):
        sample_ratio(("a", "b"), np.array([1, 1]), {"a": 1, "c": 1})
