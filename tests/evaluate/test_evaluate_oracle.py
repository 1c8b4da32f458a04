"""The SID oracle: worked by hand, and against a search of all orders."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidar.data import toy
from sidar.evaluate import score_ranking
from sidar.evaluate.measures.oracle import expand, oracle_sids, reachable_oracle
from sidar.evaluate.measures.truth import Truth
from sidar.index import PrefixIndex
from sidar.types import Catalogue, EvalSet, Prompt, SemanticIds


@pytest.fixture(scope="module")
def catalogue():
    whole = toy.catalogue()
    return Catalogue(whole.table.slice(0, 8), whole.lineage)


SID = np.array([0, 0, 1, 1, 2, 3, -1, 4])
PRIOR = np.array([1, 2, 5, 4, 3, 9, 9, 0], np.float32)


def eval_set(catalogue, *judged):
    ids = tuple(f"q{q}" for q in range(len(judged)))
    qrels = {
        query: {
            ("gone" if row < 0 else catalogue.item_ids[row]): grade for row, grade in grades.items()
        }
        for query, grades in zip(ids, judged, strict=True)
    }
    return EvalSet("s", ids, tuple(Prompt(query) for query in ids), qrels)


def test_by_hand(catalogue):
    each = eval_set(
        catalogue,
        # SID 1 sums to 1.1; SIDs 2 and 0 tie: prior 3 before 2
        {0: 1.0, 2: 1.0, 3: 0.1, 4: 1.0, 5: 0.5, 7: 0.0},
        {6: 1.0, -1: 1.0},  # no SID, not in the catalogue: nothing to reach
        {7: -1.0, 1: 0.01},
        {},
    )
    found = oracle_sids(each, catalogue, SID, PRIOR, 5)
    assert found.tolist() == [[1, 2, 0, 3, -1], [-1] * 5, [0, -1, -1, -1, -1], [-1] * 5]
    assert oracle_sids(each, catalogue, SID, PRIOR, 2)[0].tolist() == [1, 2]
    hits = expand(found, SID, PRIOR, 7)
    assert hits.rows[0].tolist() == [2, 3, 4, 1, 0, 5, -1]  # row 1 has the higher prior of SID 0
    assert hits.rows[2].tolist() == [1, 0, -1, -1, -1, -1, -1]
    assert hits.scores[0].tolist() == [7, 6, 5, 4, 3, 2, 0]
    assert expand(found, SID, PRIOR, 3).rows[0].tolist() == [2, 3, 4]


def test_ties_of_the_first_sid_go_by_its_prior_too(catalogue):
    each = eval_set(catalogue, {0: 1.0, 4: 1.0})
    prior = np.array([4, 1, 0, 0, 3, 0, 0, 0], np.float32)  # SID 0's best member before SID 2's
    assert oracle_sids(each, catalogue, SID, prior, 2).tolist() == [[0, 2]]
    assert reachable_oracle(np.array([[2, 0]]), each, catalogue, SID, prior).tolist() == [[0, 2]]


def test_the_reachable_oracle_moves_good_sids_to_the_front_and_leaves_the_rest(catalogue):
    each = eval_set(catalogue, {0: 1.0, 4: 0.5, 5: 1.0}, {})
    beam = np.array([[4, 2, 1, 0, -1], [3, 1, -1, -1, -1]])
    found = reachable_oracle(beam, each, catalogue, SID, PRIOR)
    # SID 3 was not reached and is not added
    assert found.tolist() == [[0, 2, 4, 1, -1], [3, 1, -1, -1, -1]]
    with pytest.raises(ValueError, match="3 queries for the 2"):
        reachable_oracle(np.zeros((3, 1), int), each, catalogue, SID, PRIOR)
    with pytest.raises(ValueError, match="7 priors for 8 rows"):
        oracle_sids(each, catalogue, SID, PRIOR[:7])


def test_expansion_is_the_index_rule():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, [3, 3], size=(40, 2)).astype(np.int32)
    lengths = np.where(rng.random(40) < 0.1, 0, 2).astype(np.int32)
    codes[lengths == 0] = -1
    prior = rng.integers(0, 4, 40).astype(np.float32)
    index = PrefixIndex.build(SemanticIds(codes, lengths, (3, 3)), prior)
    numbers = np.full(40, -1)
    numbers[index.rows] = np.repeat(np.arange(index.n_sids), np.diff(index.rows_start))
    ranked = np.stack([rng.permutation(index.n_sids) for _ in range(5)])
    ranked[1, 2:] = -1
    assert (expand(ranked, numbers, prior, 25).rows == index.expand(ranked, 25)).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=8, max_size=8))
def test_no_order_of_sids_has_a_higher_mrr_or_sid_ndcg(grades):
    whole = toy.catalogue()
    catalogue = Catalogue(whole.table.slice(0, 8), whole.lineage)
    each = eval_set(catalogue, dict(enumerate(grades)))
    truth = Truth.of_catalogue(each.qrels, each.query_ids, catalogue, 1.0).project(SID)
    mine = score_ranking(
        truth, oracle_sids(each, catalogue, SID, PRIOR, 5), ["ndcg@3", "mrr", "recall@2"]
    )
    orders = np.array(list(permutations(range(5))))
    for order in orders:
        other = score_ranking(truth, order[None], ["ndcg@3", "mrr", "recall@2"])
        for measure in other:
            assert other[measure][0] <= mine[measure][0] + 1e-9
    beam = reachable_oracle(orders[7][None], each, catalogue, SID, PRIOR)
    again = score_ranking(truth, beam, ["ndcg@3", "mrr", "recall@2"])  # a beam that holds every SID
    assert {m: v[0] for m, v in again.items()} == pytest.approx({m: v[0] for m, v in mine.items()})
