import numpy as np
import pytest
import reference_evaluate as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from sidar.evaluate import GroupRanking, Truth, expected_scores
from sidar.evaluate.measures.metrics import parse_measure

NAMES = [
    "ndcg@3",
    "ndcg",
    "mrr",
    "mrr@2",
    "rprec",
    "recall@1",
    "recall@4",
    "hit@2",
    "hit@4",
    "precision@3",
]


def world(groups, missed):
    """Groups of grades, ranked, and judged grades that no group holds → truth, sid_of_row, ranked
    numbers.
    """
    rows = [grade for group in groups for grade in group] + missed
    sid_of_row = np.array(
        [s for s, group in enumerate(groups) for _ in group] + [len(groups)] * len(missed)
    )
    truth = Truth.build(
        {"q": {str(r): g for r, g in enumerate(rows)}}, ["q"], int, len(rows), relevant=1.0
    )
    return truth, sid_of_row, np.arange(len(groups))[None]


group = st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=3)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(group, min_size=1, max_size=3),
    st.lists(st.sampled_from([0.5, 1.0]), max_size=2),
    st.integers(3, 9),
)
def test_equals_the_mean_over_every_order(groups, missed, depth):
    truth, sid_of_row, ranked = world(groups, missed)
    ours = expected_scores(truth, GroupRanking.of_sids(truth, ranked, sid_of_row), NAMES, depth)
    judged = [g for part in groups for g in part] + missed
    for name in NAMES:
        kind, k = parse_measure(name)
        slow = reference.expected(kind, k, groups, judged, 1.0, depth)
        assert ours[name][0] == pytest.approx(slow, abs=1e-9), name


def test_topic_oracle_by_hand():
    truth = Truth.build({"q": {"0": 1, "1": 1, "2": 0, "3": 0}}, ["q"], int, 10)
    scores = expected_scores(
        truth, GroupRanking.of_pool(truth), ["recall@2", "rprec", "mrr", "hit@2", "recall@100"]
    )
    assert scores["recall@2"][0] == pytest.approx(0.5)
    assert scores["rprec"][0] == pytest.approx(0.5)
    assert scores["hit@2"][0] == pytest.approx(1 - 1 / 6)
    assert scores["mrr"][0] == pytest.approx(1 / 2 + 2 / 6 / 2 + 1 / 6 / 3)
    assert scores["recall@100"][0] == 1


def test_random_order_of_a_catalogue_is_one_big_group():
    truth = Truth.build({"q": {"5": 1}, "empty": {}}, ["q", "empty"], int, 1000)
    groups = GroupRanking.of_pool(truth, np.array([1000, 1000]))
    scores = expected_scores(truth, groups, ["recall@10", "hit@10", "mrr@10"])
    assert scores["recall@10"].tolist() == [pytest.approx(0.01), 0]
    assert scores["hit@10"].tolist() == [pytest.approx(0.01), 0]
    assert scores["mrr@10"][0] == pytest.approx(sum(1 / r for r in range(1, 11)) / 1000)


def test_absent_sids_and_empty_rankings_score_nothing():
    truth = Truth.build({"q": {"0": 1}}, ["q"], int, 2)
    ranked = np.full((1, 3), -1)
    scores = expected_scores(truth, GroupRanking.of_sids(truth, ranked, np.array([0, 1])), NAMES)
    assert all(values[0] == 0 for values in scores.values())
