"""What the statistics promise, on simulated users with a planted lift (experiments/online.py)."""

import numpy as np
import pytest

from experiments import online


@pytest.fixture(scope="module")
def estimates():
    """``{lift: {CUPED: effects by metric}}`` of 1,000 experiments each.

    With CUPED only metrics that the pre-period foretells; the benchmark has all.
    """
    adjusted = [metric for metric in online.SIMULATED if metric.name in ("CTR", "dwell")]
    return {lift: online.estimates(lift, adjusted=adjusted) for lift in (0.0, online.LIFT)}


@pytest.mark.parametrize("lift", [0.0, online.LIFT])
@pytest.mark.parametrize("cuped", [False, True])
def test_intervals_cover_the_planted_lift_as_stated(estimates, lift, cuped):
    for name, effects in estimates[lift][cuped].items():
        relative, absolute = online.coverage(effects, lift, online.EXPECTED[name])
        assert 0.93 <= relative <= 0.97, name
        assert 0.93 <= absolute <= 0.97, name


@pytest.mark.parametrize("lift", [0.0, online.LIFT])
def test_cuped_is_unbiased_and_its_spread_is_as_stated(estimates, lift):
    for name, effects in estimates[lift][True].items():
        control = online.EXPECTED[name]
        lifts = np.array([effect.absolute for effect in effects])
        noise = lifts.std() / np.sqrt(len(lifts))
        assert lifts.mean() == pytest.approx(lift * control, abs=3.5 * noise), name
        stated = np.mean([effect.absolute_se for effect in effects])
        assert lifts.std() == pytest.approx(stated, rel=0.08), name
        plain = np.std([effect.absolute for effect in estimates[lift][False][name]])
        saved = np.mean([effect.variance_saved for effect in effects])
        assert (lifts.std() / plain) ** 2 == pytest.approx(1 - saved, rel=0.15), name
    # a metric that the pre-period foretells
    assert np.mean([e.variance_saved for e in estimates[lift][True]["dwell"]]) > 0.3


def noise_of(level, runs):
    return 3 * np.sqrt(level * (1 - level) / runs)


def test_peeking_twenty_times_keeps_the_level():
    for name, (always, ordinary) in online.new_users_at_every_look().items():
        assert always <= online.ALPHA + noise_of(online.ALPHA, online.RUNS), name
        assert ordinary > 0.15, name  # what peeking does to an ordinary test


def test_peeking_at_users_who_stay_keeps_the_level():
    runs = 60
    for name, share in online.users_who_stay(runs, per_bucket=200).items():
        assert share <= online.ALPHA + noise_of(online.ALPHA, runs), name


def test_a_real_lift_is_seen_at_any_time():
    below = online.users_who_stay(25, per_bucket=400, lift=0.2)
    assert below["CTR"] > 0.8


def test_a_mismatch_of_two_per_cent_rings_and_none_does_not():
    assert online.mismatch(0.49, runs=300) > 0.85
    assert online.mismatch(0.5, runs=300) < 0.02


def test_the_computed_size_has_the_power():
    _, power = online.power_at_computed_size()
    assert power == pytest.approx(0.8, abs=0.03)
