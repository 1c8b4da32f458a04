"""Rollouts: what is drawn, how often, with which weights, and that it repeats."""

import math

import numpy as np
import pytest
import reference_decode as slow
import reference_sample as twin
import torch

from sidar.decode import METHODS, TableScorer, beam_search, noise, sample
from sidar.decode.noise import stream_keys
from sidar.index import PrefixIndex

SIZES = (3, 4, 2)
#: Draws of the frequency tests; their seed is fixed, and so are their verdicts.
DRAWS = 20_000
CPU = torch.device("cpu")


def world(variable, n=12, prompts=2, scale=1.0):
    """A random policy and an index of ``n`` of the SIDs that it can write."""
    scorer = TableScorer.random(SIZES, prompts, variable_length=variable, seed=1, scale=scale)
    possible = slow.all_sids(scorer)
    chosen = sorted(np.random.default_rng(0).choice(len(possible), n, replace=False))
    return scorer, PrefixIndex.build(slow.sid_table([possible[i] for i in chosen], SIZES))


def chi_square(counts, expected):
    """Standardised excess of the chi-square statistic: about N(0, 1) where the law is right."""
    counts, expected = np.asarray(counts, float), np.asarray(expected, float)
    assert expected.min() > 4
    freedom = len(counts) - 1
    statistic = ((counts - expected) ** 2 / expected).sum()
    return (statistic - freedom) / math.sqrt(2 * freedom)


def test_the_noise_is_splitmix64_and_each_request_has_its_own():
    # the first outputs of the published generator for seed 0
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    drawn = noise.uniform(torch.zeros(3, dtype=torch.long), torch.arange(3)).tolist()
    assert drawn == [((bits >> 12) + 0.5) / 2**52 for bits in published]
    keys = stream_keys(7, 2, ["a", "b", 5, "5"], CPU)
    assert keys[2] == keys[3]
    assert len(set(keys.tolist())) == 3
    for counter in (0, 3, (5 << 40) + 9):
        drawn = noise.uniform(keys, torch.full_like(keys, counter)).tolist()
        assert drawn == [twin.uniform(key, counter) for key in keys.tolist()]
    for other in (stream_keys(8, 2, ["a"], CPU), stream_keys(7, 3, ["a"], CPU)):
        assert other[0] != keys[0]
    u = noise.uniform(keys[:1], torch.arange(100_000))
    assert 0 < u.min() < 1e-4
    assert 1 - 1e-4 < u.max() < 1
    assert abs(float(noise.gumbel(keys[:1], torch.arange(100_000)).mean()) - 0.5772) < 0.015


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("variable", [False, True])
def test_stochastic_beam_search_equals_the_whole_tree(variable, temperature):
    scorer, index = world(variable)
    for group in (1, 4, 11, 12):
        rollouts = sample(
            scorer, [[0], [1], [0]], index, group, temperature=temperature, seed=3, step=group
        )
        keys = stream_keys(3, group, range(3), CPU).tolist()
        for row, (prompt, key) in enumerate(zip((0, 1, 0), keys, strict=True)):
            want = twin.without_replacement(scorer, prompt, index, group, key, temperature)
            assert rollouts.sids[row].tolist() == [sid for sid, _ in want]
            np.testing.assert_allclose(rollouts.weight[row], [w for _, w in want], rtol=1e-5)
            for place, (sid, _) in enumerate(want):
                codes = twin.sids_of(index)[sid]
                logp, steps = slow.sid_logp(scorer, prompt, codes)
                assert rollouts.codes[row, place, : len(codes)].tolist() == list(codes)
                assert rollouts.lengths[row, place] == len(codes)
                assert (rollouts.codes[row, place, len(codes) :] == -1).all()
                assert rollouts.logp[row, place] == pytest.approx(logp, abs=1e-6)
                written = rollouts.level_logp[row, place]
                np.testing.assert_allclose(written[: len(steps)], steps, rtol=1e-6)
                assert (written[len(steps) :] == 0).all()


def test_a_weight_by_hand():
    """Two SIDs of probability 1/2 and a group of one: κ is the loser's perturbed log-prob g, and
    the weight is ½ / (1 − exp(−½ e^−g)).
    """
    table = TableScorer([torch.zeros(1, 1, 2)], (2,))
    index = PrefixIndex.build(slow.sid_table([(0,), (1,)], (2,)))
    rollouts = sample(table, [[0]], index, 1, seed=5)
    key = int(stream_keys(5, 0, [0], CPU)[0])
    scores = [math.log(0.5) - math.log(-math.log(twin.uniform(key, i))) for i in (0, 1)]
    assert rollouts.sids[0, 0] == int(np.argmax(scores))
    weight = 0.5 / (1 - math.exp(-0.5 * math.exp(-min(scores))))
    assert rollouts.weight[0, 0] == pytest.approx(weight, rel=1e-7)
    everything = sample(table, [[0]], index, 2, seed=5)
    np.testing.assert_allclose(everything.weight, [[0.5, 0.5]])  # both are certain: q = 1


@pytest.mark.parametrize("variable", [False, True])
def test_groups_without_replacement_are_as_frequent_as_they_should(variable):
    scorer, index = world(variable, n=7)
    p = twin.drawn_policy(scorer, 0, index)
    assert sum(p) == pytest.approx(1)
    rollouts = sample(scorer, [[0]] * DRAWS, index, 3, seed=1)
    sets = twin.set_probabilities(p, 3)
    bits = (1 << rollouts.sids).sum(1)
    counts = [(bits == sum(1 << sid for sid in members)).sum() for members in sets]
    assert sum(counts) == DRAWS
    likely = [i for i, chance in enumerate(sets.values()) if DRAWS * chance > 5]
    expected = np.array(list(sets.values())) * DRAWS
    assert chi_square(np.array(counts)[likely], expected[likely]) < 3
    included = np.bincount(rollouts.sids.ravel(), minlength=7) / DRAWS
    exact = np.array(twin.inclusion(p, 3))
    error = np.sqrt(exact * (1 - exact) / DRAWS)
    assert (np.abs(included - exact) < 4 * error).all()
    # the noise reaches what is drawn: the first of a group is a plain draw from p
    firsts = np.bincount(rollouts.sids[:, 0], minlength=7)
    assert chi_square(firsts, np.array(p) * DRAWS) < 3


@pytest.mark.parametrize(("variable", "temperature"), [(False, 1.0), (True, 1.0), (False, 2.0)])
def test_the_weighted_gradient_is_unbiased_and_the_unweighted_one_is_not(variable, temperature):
    """∇ Σ_y π(y) r(y) over the SIDs of the index, with respect to the logits of the first level."""
    scorer, index = world(variable, n=7, scale=1.5)
    sids = twin.sids_of(index)
    model = np.array(twin.policy(scorer, 0, index))
    reward = 0.2 * np.random.default_rng(2).normal(size=7) + (model == model.max())
    first = np.exp(scorer.tables[0][0, 0].double().numpy())
    # d log π(y) / d logits of the first level = one-hot of its code − softmax
    gradient = np.array([np.eye(3)[sid[0]] - first for sid in sids]) * reward[:, None]  # (7, 3)
    assert model.sum() < 0.7  # the model also writes what is no SID, and π must not be renormalised
    exact = model @ gradient

    drawn = sample(scorer, [[0]] * DRAWS, index, 3, temperature=temperature, seed=4)
    weighted = (drawn.weight[:, :, None] * gradient[drawn.sids]).sum(1)  # (DRAWS, 3)
    error = weighted.std(0) / math.sqrt(DRAWS)
    assert (error < 0.01).all()
    assert (np.abs(weighted.mean(0) - exact) < 4 * error).all()

    # the mean over the group has another expectation than any policy at hand
    plain = gradient[drawn.sids].mean(1)
    error = plain.std(0) / math.sqrt(DRAWS)
    p = np.array(twin.drawn_policy(scorer, 0, index, temperature))
    included = np.array(twin.inclusion(p, 3)) / 3
    assert (np.abs(plain.mean(0) - included @ gradient) < 4 * error).all()
    for target in (exact, exact / model.sum(), p @ gradient):
        assert (np.abs(plain.mean(0) - target) > 10 * error).any()


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("variable", [False, True])
def test_draws_with_replacement_follow_the_constrained_policy(variable, temperature):
    scorer, index = world(variable)
    rollouts = sample(
        scorer,
        [[0], [1]] * (DRAWS // 8),
        index,
        4,
        method="temperature",
        temperature=temperature,
        seed=6,
    )
    assert rollouts.weight is None
    for prompt in (0, 1):
        drawn = rollouts.sids[prompt::2]
        p = np.array(twin.drawn_policy(scorer, prompt, index, temperature))
        likely = p * drawn.size > 5
        counts = np.bincount(drawn.ravel(), minlength=12)
        assert chi_square(counts[likely], p[likely] * drawn.size) < 3
        # members of a group are drawn apart from each other
        same = (drawn[:, 0] == drawn[:, 1]).mean()
        assert abs(same - (p**2).sum()) < 4 / math.sqrt(len(drawn))
    check_logp(scorer, index, rollouts, prompts=[0, 1])


def check_logp(scorer, index, rollouts, prompts):
    """Compare the log-probs of the first rows of ``rollouts`` with the tables', SID by SID."""
    for row, prompt in enumerate(prompts):
        for place, sid in enumerate(rollouts.sids[row].tolist()):
            logp, steps = slow.sid_logp(scorer, prompt, twin.sids_of(index)[sid])
            assert rollouts.logp[row, place] == pytest.approx(logp, abs=1e-6)
            np.testing.assert_allclose(
                rollouts.level_logp[row, place, : len(steps)], steps, rtol=1e-6
            )
            assert rollouts.lengths[row, place] == len(twin.sids_of(index)[sid])


@pytest.mark.parametrize("variable", [False, True])
def test_free_draws_follow_the_model_and_tell_what_is_no_sid(variable):
    scorer, index = world(variable)
    rollouts = sample(scorer, [[0]] * (DRAWS // 4), index, 4, method="free", seed=8)
    model = np.array(twin.policy(scorer, 0, index))
    expected = np.append(model, 1 - model.sum()) * rollouts.sids.size  # the last one is SID −1
    counts = np.bincount(np.where(rollouts.sids < 0, 12, rollouts.sids).ravel(), minlength=13)
    likely = expected > 5
    assert chi_square(counts[likely], expected[likely]) < 3
    for place in range(4):
        codes = rollouts.codes[0, place, : rollouts.lengths[0, place]].tolist()
        logp, _ = slow.sid_logp(scorer, 0, codes)
        assert rollouts.logp[0, place] == pytest.approx(logp, abs=1e-6)
        known = dict(zip(twin.sids_of(index), range(12), strict=True))
        assert rollouts.sids[0, place] == known.get(tuple(codes), -1)


def test_a_beam_of_rollouts_is_the_beam():
    scorer, index = world(True)
    rollouts = sample(scorer, [[0], [1]], index, 5, method="beam")
    beams = beam_search(scorer, [[0], [1]], index, 5)
    assert rollouts.weight is None
    for ours, theirs in (("sids", "sids"), ("codes", "codes"), ("logp", "scores")):
        np.testing.assert_array_equal(getattr(rollouts, ours), getattr(beams, theirs))
    check_logp(scorer, index, rollouts, prompts=[0, 1])


@pytest.mark.parametrize("variable", [False, True])
@pytest.mark.parametrize("method", ["beam", "gumbel"])
def test_groups_are_unique_and_valid(method, variable):
    scorer, index = world(variable, n=12, scale=3.0)
    rollouts = sample(scorer, [[0], [1]] * 50, index, 8, method=method)
    assert all(len(set(row)) == 8 for row in rollouts.sids.tolist())
    assert rollouts.sids.min() >= 0
    assert (rollouts.lengths == (rollouts.codes >= 0).sum(-1)).all()
    for codes, sids in zip(rollouts.codes, rollouts.sids, strict=True):
        np.testing.assert_array_equal(index.lookup(codes), sids)


@pytest.mark.parametrize("method", METHODS)
def test_draws_depend_on_seed_step_and_request_and_not_on_the_batch(method):
    scorer, index = world(True, prompts=3)
    prompts, names = [[0], [1], [2], [0]], ["p", "q", "r", "s"]
    whole = sample(scorer, prompts, index, 5, method=method, requests=names, seed=1, step=2)
    again = sample(scorer, prompts, index, 5, method=method, requests=names, seed=1, step=2)
    np.testing.assert_array_equal(whole.sids, again.sids)
    np.testing.assert_array_equal(whole.logp, again.logp)
    for order in ([3, 1], [2], [1, 0, 3, 2]):
        part = sample(
            scorer,
            [prompts[i] for i in order],
            index,
            5,
            method=method,
            requests=[names[i] for i in order],
            seed=1,
            step=2,
            batch=1 + len(order) // 2,
        )
        np.testing.assert_array_equal(part.codes, whole.codes[order])
        np.testing.assert_array_equal(part.logp, whole.logp[order])
    if method != "beam":
        for changes in ({"seed": 2}, {"step": 3}, {"requests": ["a", "b", "c", "d"]}):
            settings = {"requests": names, "seed": 1, "step": 2, **changes}
            other = sample(scorer, prompts, index, 5, method=method, **settings)
            assert (other.codes != whole.codes).any()
        assert (whole.codes[0] != whole.codes[3]).any()  # the same prompt, two requests


@pytest.mark.parametrize("method", ["beam", "gumbel"])
def test_a_group_is_never_silently_smaller(method):
    scorer, index = world(True, n=6)
    with pytest.raises(ValueError, match=r"prompt 0: the index leaves 6 .* needs 8.*allow_fewer"):
        sample(scorer, [[0], [1]], index, 8, method=method)
    rollouts = sample(scorer, [[0], [1]], index, 8, method=method, allow_fewer=True)
    assert (np.sort(rollouts.sids[:, :6], 1) == np.arange(6)).all()
    for name, padding in (("sids", -1), ("codes", -1), ("lengths", 0), ("logp", -np.inf)):
        assert (getattr(rollouts, name)[:, 6:] == padding).all()
    if method == "gumbel":
        np.testing.assert_allclose(rollouts.weight[:, :6], np.exp(rollouts.logp[:, :6]))
        assert (rollouts.weight[:, 6:] == 0).all()
    assert sample(scorer, [], index, 3, method=method).sids.shape == (0, 3)


def test_an_impossible_sid_is_never_drawn():
    logits = torch.tensor([[[0.0, 1.0, -torch.inf]]])
    scorer = TableScorer([logits], (3,))
    index = PrefixIndex.build(slow.sid_table([(0,), (1,), (2,)], (3,)))
    for method in ("beam", "gumbel"):
        with pytest.raises(ValueError, match="leaves 2 different SIDs"):
            sample(scorer, [[0]], index, 3, method=method)
    for method in ("temperature", "free"):
        assert sample(scorer, [[0]] * 200, index, 5, method=method).sids.max() == 1


@pytest.mark.parametrize("method", METHODS)
def test_damaged_weights_are_an_error(method):
    scorer, index = world(True)
    scorer.tables[1][0] = torch.nan
    with pytest.raises(ValueError, match="the model answered NaN"):
        sample(scorer, [[0], [1]], index, 4, method=method)


def test_wrong_arguments_are_named():
    scorer, index = world(False)
    with pytest.raises(ValueError, match="no sampling method 'nucleus'; take one of beam, gumbel"):
        sample(scorer, [[0]], index, 2, method="nucleus")
    with pytest.raises(ValueError, match="group is 0"):
        sample(scorer, [[0]], index, 0)
    with pytest.raises(ValueError, match=r"temperature is 0\.0; it must be above 0"):
        sample(scorer, [[0]], index, 2, temperature=0.0)
    with pytest.raises(ValueError, match="2 prompts, but 1 requests"):
        sample(scorer, [[0], [1]], index, 2, requests=["a"])
