"""Expand and rerank: by hand, at both ends of the weight, and against a loop."""

from itertools import pairwise

import numpy as np
import pytest

from sidar.decode import TableScorer, beam_search, to_hits
from sidar.decode.rerank import WEIGHTS, Pool, choose_weight
from sidar.evaluate.runs import run_from_hits
from sidar.index import PrefixIndex
from sidar.types import SemanticIds

# SIDs (0,0) with rows 0, 3; (0,1) row 1; (1,0) row 2; (1,1) rows 4, 5. Row 3 has the higher prior
# of its SID.
CODES = np.array([[0, 0], [0, 1], [1, 0], [0, 0], [1, 1], [1, 1]], np.int32)
PRIOR = np.array([1, 1, 1, 2, 2, 1], np.float32)
ITEMS = np.array([[1, 0], [0, 1], [0.6, 0.8], [0.8, 0.6], [0, 1], [1, 0]], np.float32)


def world(logits=((2.0, 0.0), (0.0, 1.0))):
    import torch

    index = PrefixIndex.build(SemanticIds(CODES, np.full(6, 2, np.int32), (2, 2)), PRIOR)
    first = torch.tensor([logits[0]])[:, None]
    second = torch.tensor([[logits[1], logits[1]]])
    scorer = TableScorer([first, second], (2, 2))
    return index, beam_search(scorer, [[0]], index, 4)


def test_by_hand():
    """log π: SID (0,1) first, then (0,0), (1,1), (1,0); at weight 3 the vectors turn it over."""
    index, beams = world()
    a, b = np.log(1 / (1 + np.exp(-2))), np.log(1 / (1 + np.exp(2)))
    c, d = np.log(1 / (1 + np.exp(1))), np.log(1 / (1 + np.exp(-1)))
    pool = Pool.of(beams, index, np.array([[1, 0]], np.float32), ITEMS)
    assert pool.hits.rows.tolist() == [[1, 3, 0, 4, 5, 2]]  # beam order, inside an SID by the prior
    np.testing.assert_allclose(pool.cosine, [[0, 0.8, 1, 0, 1, 0.6]], atol=1e-6)
    found = pool.ranked(3.0, 4)
    want = {1: a + d, 3: a + c + 2.4, 0: a + c + 3, 4: b + d, 5: b + d + 3, 2: b + c + 1.8}
    assert found.rows.tolist() == [[0, 3, 5, 1]]
    np.testing.assert_allclose(found.scores, [[want[row] for row in (0, 3, 5, 1)]], atol=1e-5)
    assert found.sids.tolist() == [[[0, 0], [0, 0], [1, 1], [0, 1]]]
    # the SID's own, untouched
    np.testing.assert_allclose(found.level_logp[0, 2], [b, d], atol=1e-6)


def test_weight_zero_is_the_beam_and_a_large_one_the_vectors():
    index, beams = world()
    queries = np.array([[0.6, 0.8]], np.float32)
    pool = Pool.of(beams, index, queries, ITEMS)
    plain = to_hits(beams, index, 6)
    assert (pool.ranked(0.0, 6).rows == plain.rows).all()
    np.testing.assert_allclose(pool.ranked(0.0, 6).scores, plain.scores)
    assert pool.ranked(1e6, 3).rows.tolist() == [
        np.argsort(-(ITEMS @ queries[0]), kind="stable")[:3].tolist()
    ]
    for weight in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="number ≥ 0"):
            pool.order(weight)


def test_against_a_loop_and_as_a_run():
    from sidar.data import toy

    rng = np.random.default_rng(0)
    codes = rng.integers(0, [5, 4, 3], size=(64, 3)).astype(np.int32)
    index = PrefixIndex.build(
        SemanticIds(codes, np.full(64, 3, np.int32), (5, 4, 3)), rng.random(64, np.float32)
    )
    items, queries = (rng.normal(size=(n, 8)).astype(np.float32) for n in (64, 5))
    items[7] = items[9]  # equal vectors
    beams = beam_search(TableScorer.random((5, 4, 3), 5), [[i] for i in range(5)], index, 12)
    allowed = rng.random(64) < 0.8
    pool = Pool.of(beams, index, queries, items, allowed=allowed)
    found = pool.ranked(2.5, 10)
    for q in range(5):
        scored = []
        for sid, logp in zip(beams.sids[q], beams.scores[q], strict=True):
            for row in index.rows[index.rows_start[sid] : index.rows_start[sid + 1]]:
                if allowed[row]:
                    scored.append((float(logp) + 2.5 * float(items[row] @ queries[q]), int(row)))
        best = sorted(scored, key=lambda x: -x[0])[:10]
        assert [row for _, row in best] == found.rows[q][found.rows[q] >= 0].tolist()
        np.testing.assert_allclose([s for s, _ in best], found.scores[q, : len(best)], atol=1e-4)
    run = run_from_hits(found, [f"q{q}" for q in range(5)], toy.catalogue())
    assert all(a[1] > b[1] for listed in run.values() for a, b in pairwise(listed))


def test_the_weight_is_the_one_that_validation_likes_best():
    index, beams = world()
    pool = Pool.of(beams, index, np.array([[1, 0]], np.float32), ITEMS)

    def first_is(row):
        return lambda hits: float(hits.rows[0, 0] == row)

    # the model's own order, and the lowest weight of equals
    assert choose_weight([(pool, first_is(1))]) == (0.0, 1.0)
    weight, value = choose_weight([(pool, first_is(0))])
    assert value == 1.0
    assert weight in WEIGHTS
    assert weight == next(w for w in WEIGHTS if pool.ranked(w, 1).rows[0, 0] == 0)
    both, value = choose_weight([(pool, first_is(1)), (pool, first_is(0))])
    assert (both, value) == (0.0, 0.5)
    assert choose_weight([])[0] == 0.0


def test_what_does_not_fit_is_said():
    index, beams = world()
    with pytest.raises(ValueError, match=r"query vectors \(2, 2\) do not fit 1 queries"):
        Pool.of(beams, index, np.zeros((2, 2), np.float32), ITEMS)
    with pytest.raises(ValueError, match="names row 5, there are 4 item vectors"):
        Pool.of(beams, index, np.zeros((1, 2), np.float32), ITEMS[:4])
