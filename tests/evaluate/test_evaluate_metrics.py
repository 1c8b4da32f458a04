import time

import ir_measures
import numpy as np
import pytest
import reference_evaluate as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from sidar.evaluate import Truth, evaluate, score_ranking
from sidar.evaluate.measures.metrics import parse_measure

OURS_TO_THEIRS = {
    "ndcg@10": ir_measures.nDCG @ 10,
    "ndcg@3": ir_measures.nDCG @ 3,
    "ndcg": ir_measures.nDCG,
    "rprec": ir_measures.Rprec,
    "recall@2": ir_measures.R @ 2,
    "recall@100": ir_measures.R @ 100,
    "hit@1": ir_measures.Success @ 1,
    "hit@5": ir_measures.Success @ 5,
    "precision@5": ir_measures.P @ 5,
    "mrr": ir_measures.RR,
    "mrr@3": ir_measures.RR @ 3,
}


def theirs(qrels, run, measures):
    plain = {q: dict(results) for q, results in run.items()}
    table = {m: dict.fromkeys(qrels, 0.0) for m in measures}
    for row in ir_measures.iter_calc([OURS_TO_THEIRS[m] for m in measures], qrels, plain):
        name = next(m for m in measures if OURS_TO_THEIRS[m] == row.measure)
        table[name][row.query_id] = row.value
    return {m: np.array([table[m][q] for q in qrels]) for m in measures}


grades = st.dictionaries(
    st.sampled_from([f"d{i}" for i in range(14)]), st.sampled_from([0, 1, 10, 100]), min_size=1
)
lists = st.lists(st.sampled_from([f"d{i}" for i in range(18)]), unique=True, max_size=18)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(grades, lists), min_size=1, max_size=4))
def test_equals_ir_measures_on_runs_without_ties(queries):
    qrels = {f"q{i}": judged for i, (judged, _) in enumerate(queries)}
    run = {
        f"q{i}": [(d, 50.0 - r) for r, d in enumerate(found)]
        for i, (_, found) in enumerate(queries)
        if found
    }
    ours = evaluate(qrels, run, list(OURS_TO_THEIRS))
    for name, values in theirs(qrels, run, list(OURS_TO_THEIRS)).items():
        np.testing.assert_allclose(ours[name], values, atol=1e-6, err_msg=name)


def test_a_run_worked_by_hand():
    qrels = {"a": {"x": 1.0, "y": 0.1, "z": 0.0}, "b": {"x": 1.0}, "none": {"x": 0.01}}
    run = {"a": [("z", 3.0), ("y", 2.0), ("x", 1.0)], "none": [("x", 1.0)]}
    scores = evaluate(qrels, run, ["ndcg@10", "mrr", "rprec", "recall@1", "recall@3", "hit@3"])
    ideal = 1 + 0.1 / np.log2(3)
    np.testing.assert_allclose(
        scores["ndcg@10"], [(0.1 / np.log2(3) + 0.5) / ideal, 0, 1], rtol=1e-6
    )
    assert scores["mrr"].tolist() == [pytest.approx(1 / 3), 0, 0]  # "none" has nothing of grade 1
    assert scores["rprec"].tolist() == [0, 0, 0]
    assert scores["recall@1"].tolist() == [0, 0, 0]
    assert scores["recall@3"].tolist() == [1, 0, 0]
    assert evaluate(qrels, run, ["mrr"], relevant=0)["mrr"].tolist() == [0.5, 0, 1]


def test_recall_is_a_share_and_hit_is_not():
    qrels = {"q": {"a": 1, "b": 1, "c": 1, "d": 1}}
    scores = evaluate(qrels, {"q": [("a", 2.0), ("e", 1.0)]}, ["recall@2", "hit@2", "precision@2"])
    assert (scores["recall@2"][0], scores["hit@2"][0], scores["precision@2"][0]) == (0.25, 1.0, 0.5)


def test_query_ids_fix_the_order_and_an_unjudged_query_scores_zero():
    scores = evaluate({"a": {"x": 1}}, {"a": [("x", 1.0)]}, ["mrr"], query_ids=["new", "a"])
    assert scores["mrr"].tolist() == [0, 1]


@pytest.mark.parametrize("bad", ["recall", "ndcg@0", "map", "rprec@5", "hit", ""])
def test_unknown_measures_are_named(bad):
    with pytest.raises(ValueError, match="know ndcg"):
        parse_measure(bad)


def test_faulty_runs_and_judgments_name_the_query():
    with pytest.raises(ValueError, match="'q' lists item 'x' twice"):
        evaluate({"q": {"x": 1}}, {"q": [("x", 2.0), ("x", 1.0)]}, ["mrr"])
    with pytest.raises(ValueError, match="scores of query 'q' rise"):
        evaluate({"q": {"x": 1}}, {"q": [("x", 1.0), ("y", 2.0)]}, ["mrr"])
    with pytest.raises(ValueError, match="query 'r', item 'y' has grade nan"):
        evaluate({"q": {"x": 1}, "r": {"x": 0, "y": float("nan")}}, {}, ["mrr"])


def random_truth(rng, queries, size, relevant):
    judged = [rng.choice(size, rng.integers(0, 6), replace=False) for _ in range(queries)]
    qrels = {
        f"q{q}": {str(t): float(rng.choice([0, 0.01, 0.1, 1])) for t in row}
        for q, row in enumerate(judged)
    }
    return qrels, Truth.build(qrels, list(qrels), int, size, relevant)


@pytest.mark.parametrize("relevant", [0.0, 0.1, 1.0])
def test_arrays_equal_the_slow_twin(relevant):
    rng = np.random.default_rng(3)
    qrels, truth = random_truth(rng, 300, 40, relevant)
    ranked = np.stack([rng.permutation(40)[:12] for _ in range(300)])
    ranked[rng.random(300) < 0.2, 7:] = -1
    names = ["ndcg@5", "ndcg", "mrr", "rprec", "recall@3", "hit@2", "precision@4"]
    ours = score_ranking(truth, ranked, names)
    for q, judged in enumerate(qrels.values()):
        found = [float(np.float32(judged.get(str(t), 0))) for t in ranked[q] if t >= 0]
        pool = [float(np.float32(g)) for g in judged.values()]
        threshold = float(np.float32(relevant))
        for name in names:
            kind, k = parse_measure(name)
            assert ours[name][q] == pytest.approx(
                reference.measure(kind, k, found, pool, threshold), abs=1e-9
            )


def test_truth_counts_items_that_the_catalogue_lacks_and_refuses_unknown_rows():
    truth = Truth.build({"q": {"here": 1, "gone": 1}}, ["q"], lambda i: 0 if i == "here" else -1, 3)
    scores = score_ranking(truth, np.array([[0, 1, 2]]), ["recall@3", "rprec"])
    assert scores["recall@3"].tolist() == [0.5]
    with pytest.raises(ValueError, match="thing 4"):
        truth.grades_of(np.array([[4]]))
    with pytest.raises(ValueError, match="ranking of 2 queries"):
        truth.grades_of(np.array([[0], [1]]))


def test_projection_takes_the_highest_grade_and_keeps_the_unreachable():
    number_of = np.array([0, 0, 1, -1])
    truth = Truth.build(
        {"q": {"0": 0.1, "1": 1.0, "3": 1.0, "2": 0.0}, "r": {"2": 1.0}}, ["q", "r"], int, 4
    )
    sids = truth.project(number_of)
    assert sids.n_relevant.tolist() == [2, 1]  # SID 0 and the item without an SID
    scores = score_ranking(sids, np.array([[1, 0], [0, 1]]), ["recall@2", "mrr", "ndcg@2"])
    assert scores["recall@2"].tolist() == [0.5, 1.0]
    assert scores["mrr"].tolist() == [0.5, 0.5]


def test_projection_keeps_judged_items_that_the_catalogue_lacks():
    truth = Truth.build({"q": {"here": 1, "gone": 1}}, ["q"], lambda i: 0 if i == "here" else -1, 3)
    sids = truth.project(np.array([1, 0, 0]))
    assert sids.n_relevant.tolist() == [2]
    assert score_ranking(sids, np.array([[1, 0]]), ["recall@2"])["recall@2"].tolist() == [0.5]
    sums, counts = truth.sums_of(np.array([[1, 0]]), np.array([1, 0, 0]))
    assert (sums.tolist(), counts.tolist()) == ([[1, 0]], [[1, 0]])


def test_restriction_keeps_only_the_members():
    truth = Truth.build({"q": {"0": 1, "1": 1}, "r": {"1": 1}}, ["q", "r"], int, 3)
    head = truth.restrict(np.array([True, False, False]))
    assert head.n_relevant.tolist() == [1, 0]
    assert score_ranking(head, np.array([[0], [1]]), ["recall@1"])["recall@1"].tolist() == [1, 0]


def test_a_hundred_thousand_queries_take_half_a_second():
    rng = np.random.default_rng(0)
    queries, k, size = 100_000, 100, 1_000_000
    ranked = rng.integers(0, size, (queries, k), dtype=np.int32)
    things = np.sort(rng.integers(0, size, (queries, 10)), axis=1)
    truth = Truth(
        np.arange(queries + 1) * 10, things.ravel(), np.ones(queries * 10, np.float32), size
    )
    start = time.process_time()
    score_ranking(truth, ranked, ["ndcg@10", "recall@100", "mrr", "rprec"])
    # 0.5 s on a quiet core; the bound leaves room for a shared one
    assert time.process_time() - start < 1.5
