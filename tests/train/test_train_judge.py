"""``preference.judge``: a reward orders the model's own answers into y_w* and negatives."""

from types import SimpleNamespace

import numpy as np
import pytest
from toy_train import align_task, list_stream, quick, tiny_model, toy_sids, write_backbone

from sidar.config import AlignConfig, PreferenceConfig
from sidar.index import PrefixIndex
from sidar.rewards import ItemReward, Reward
from sidar.train.align import AlignTask
from sidar.train.negatives import BeamNegatives
from sidar.train.parts import frozen_copy
from sidar.train.rl.judge import Judge, _verdict


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(write_backbone(tmp_path_factory.mktemp("backbone"), hidden=16, layers=1))


class ByRow(ItemReward):
    """An item is worth its row."""

    def item_scores(self, request, rows):
        return rows.astype(np.float64)


def fitted(reward):
    index = PrefixIndex.build(toy_sids())
    catalogue = SimpleNamespace(alive=np.ones(64, bool))
    return reward.fit(SimpleNamespace(index=index, dataset=SimpleNamespace(catalogue=catalogue)))


def judged(model, reward):
    index, sids = PrefixIndex.build(toy_sids()), toy_sids()
    judge = Judge(fitted(reward), index, sids)
    return BeamNegatives(frozen_copy(model), index, 11, 8, judge)


def test_verdicts_by_hand():
    """Beams a … e worth .5, .9, .1, .1, .7; chosen are c (.1) and x, worth .6 and .2."""
    sids, reward = [0, 1, 2, 3, 4, -1], np.array([0.5, 0.9, 0.1, 0.1, 0.7, 0.0])
    high = _verdict(sids, reward, [7, 2], np.array([0.6, 0.2]))
    assert (high.star, high.worst) == (1, [3, 0, 4])  # not c, not padding; the star is no negative
    log = _verdict(sids, reward, [7, 2], np.array([0.9, 0.2]))
    assert (log.star, log.worst) == (None, [3, 0, 4])  # equal does not beat, and is no negative
    tie = _verdict([5, 6], np.array([0.1, 0.1]), [7], np.array([1.0]))
    assert (tie.star, tie.worst) == (None, [5, 6])  # of equal rewards the likeliest first
    assert _verdict([7], np.array([1.0]), [7], np.array([1.0])).worst == []
    # y_w* of the log is the first chosen, whatever another chosen one is worth
    low = _verdict([5, 6], np.array([0.5, 0.2]), [7, 8], np.array([0.3, 0.9]))
    assert (low.star, low.worst) == (None, [6])


def test_the_best_answer_becomes_the_star_and_the_worst_the_negatives(model):
    model.eval()
    lists, beam = list_stream(model), judged(model, ByRow())
    plain = BeamNegatives(frozen_copy(model), PrefixIndex.build(toy_sids()), 11, 8)
    numbers, sids = list(range(12)), toy_sids()
    mined, stars = beam.mined(lists, numbers)
    examples = lists.rows(numbers, mined, stars)
    requests = lists.requests(numbers)
    promoted = 0
    for request, answers, example in zip(requests, plain(lists, numbers), examples, strict=True):
        chosen = list(request.tiers)
        others = [row for row in answers if row not in chosen]
        expected, bar = chosen, chosen[0]
        if max(others) > max(chosen):
            promoted += 1
            expected, bar = [max(others), *chosen], max(others)
        right = [c for c in example.candidates if c.is_positive]
        wrong = [c.codes for c in example.candidates if not c.is_positive]
        assert [c.codes for c in right] == [sids.tuple_of(row) for row in expected]
        assert max(right, key=lambda c: c.tier).codes == sids.tuple_of(expected[0])
        worst = sorted(row for row in others if row < bar)[:3]
        assert wrong == [sids.tuple_of(row) for row in worst]
    assert 0 < promoted < 12


def test_without_a_judge_lists_are_the_logs(model):
    lists = list_stream(model)
    beam = BeamNegatives(frozen_copy(model), PrefixIndex.build(toy_sids()), 11, 8)
    mined, stars = beam.mined(lists, [0, 1])
    assert mined == beam(lists, [0, 1])
    assert stars == [None, None]


@pytest.mark.parametrize("objective", ["raddpo", "sdpo"])
def test_the_judge_reaches_the_batches_of_a_run(model, objective):
    cfg = quick(AlignConfig, objective=objective, rdrw_window=32)
    task: AlignTask = align_task(model, cfg, beam_negatives=judged(model, ByRow()))
    sids = toy_sids()
    row_of = {sids.tuple_of(row): row for row in range(64)}

    def stars(drawn):
        """Rows of y_w* in a batch; batches are made up by length, so the tasks' lists differ."""
        return [row_of[one.candidates[0].codes] for one in drawn.batch(0) if one.is_list]

    assert np.mean(stars(task)) > np.mean(stars(align_task(model, cfg)))


def test_rewards_that_depend_on_the_group_see_answers_and_choices_apart(model):
    seen = []

    class Watched(Reward):
        relative = True

        def score(self, requests, rollouts):
            seen.append((rollouts.sids.shape[1], bool(np.isnan(rollouts.logp).any())))
            return np.zeros(rollouts.sids.shape)

    judged(model, Watched()).mined(list_stream(model), [0, 1, 2])
    assert seen[0] == (11, False)
    assert seen[1][1]


def test_judges_are_rewards_and_need_beams():
    with pytest.raises(ValueError, match="gradd"):
        PreferenceConfig(negatives="beam", judge="gradd")
    with pytest.raises(ValueError, match=r"set preference.negatives to 'beam'"):
        PreferenceConfig(judge="graded")
    assert PreferenceConfig(negatives="beam", judge="graded").judge == "graded"
