"""Ranking measures in numpy: graded nDCG, R-precision, recall, hit rate, precision and MRR, one
value per query.

The values equal those of ir_measures (tests compare them). Conventions, stated once:

* a query without results scores 0 everywhere; so does a query without any relevant item (as
  trec_eval does);
* nDCG takes the grades as gains, as given, with discount 1 / log2(rank + 1); negative grades gain
  0;
* the binary measures count a grade ≥ ``relevant`` (1 by default: "Exact" of a judged set; 0 = any
  positive grade);
* recall@k = |hits ∩ positives| / |positives| and hit@k ∈ {0, 1} are different numbers: papers often
  mean the second.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from sidar.evaluate.measures.truth import Truth
from sidar.types import Catalogue, EvalSet, Hits, Qrels, Run, Scores

_MEASURE = re.compile(r"(ndcg|mrr|recall|hit|precision|rprec)(?:@([1-9]\d*))?")


def parse_measure(measure: str) -> tuple[str, int | None]:
    """``"recall@10"`` → ``("recall", 10)``.

    Raises ``ValueError`` that lists the measures there are.
    """
    match = _MEASURE.fullmatch(measure)
    name, cutoff = (match[1], match[2]) if match else ("", None)
    needs_cutoff = name in ("recall", "hit", "precision")
    if not name or (needs_cutoff and cutoff is None) or (name == "rprec" and cutoff is not None):
        raise ValueError(
            f"unknown measure {measure!r}; know ndcg[@k], mrr[@k], rprec, recall@k, hit@k, "
            "precision@k"
        )
    return name, int(cutoff) if cutoff else None


def score_ranking(truth: Truth, ranked: np.ndarray, measures: Sequence[str]) -> Scores:
    """Measures of ``ranked`` (Q, k) things, best first, −1 = none, against ``truth``: {measure:
    (Q,) float64}.

    Things must be unique inside a query (:func:`sidar.evaluate.runs.run_from_hits` checks it).
    """
    return score_grades(truth, truth.grades_of(ranked), measures)


def score_grades(truth: Truth, grades: np.ndarray, measures: Sequence[str]) -> Scores:
    """Measures from ``grades`` (Q, k) float32, the grade at each rank (0 = unjudged
    or no result).
    """
    wanted = [(measure, *parse_measure(measure)) for measure in measures]
    relevant = truth.is_relevant(grades)  # (Q, k) bool
    positives = np.maximum(truth.n_relevant, 1)  # no positives: hits are 0 anyway, and 0/1 = 0
    scores: Scores = {}
    for measure, name, cutoff in wanted:
        if name == "ndcg":
            ideal = truth.ideal_dcg(cutoff)
            gains = np.maximum(grades[:, :cutoff], 0)
            dcg = gains @ (1 / np.log2(np.arange(gains.shape[1]) + 2))  # float64
            scores[measure] = np.divide(dcg, ideal, out=np.zeros(len(truth)), where=ideal > 0)
        elif name == "mrr":
            top = relevant[:, :cutoff]
            found = top.any(axis=1)
            first = top.argmax(axis=1) if top.shape[1] else np.zeros(len(truth), dtype=np.int64)
            scores[measure] = found / (first + 1.0)
        elif name == "rprec":
            inside = np.arange(grades.shape[1]) < truth.n_relevant[:, None]
            scores[measure] = (relevant & inside).sum(axis=1) / positives
        else:
            hits = np.count_nonzero(relevant[:, :cutoff], axis=1)
            divisor = {"recall": positives, "precision": cutoff, "hit": 1}[name]
            scores[measure] = (np.minimum(hits, 1) if name == "hit" else hits) / divisor
    return {measure: values.astype(np.float64) for measure, values in scores.items()}


def objective(
    eval_set: EvalSet, catalogue: Catalogue, measure: str, relevant: float = 1.0
) -> Callable[[Hits], float]:
    """``hits -> mean of measure`` on ``eval_set``: what a baseline or a fusion is tuned by (on dev
    sets only).
    """
    truth = Truth.of_catalogue(eval_set.qrels, eval_set.query_ids, catalogue, relevant)
    return lambda hits: float(score_ranking(truth, hits.rows, [measure])[measure].mean())


def evaluate(
    qrels: Qrels,
    run: Run,
    measures: Sequence[str],
    *,
    query_ids: Sequence[str] | None = None,
    relevant: float = 1.0,
) -> Scores:
    """``evaluate(qrels, run, ["ndcg@10", "rprec", "recall@100", "mrr"])`` → one value per query and
    measure.

    ``query_ids`` fixes queries and order (default: those of ``qrels``). ``relevant``: grade from
    which an item counts for binary measures, 0 = any positive grade. Lists are read in their own
    order, best first. Raises ``ValueError`` naming the query whose scores rise or that lists an
    item twice.
    """
    queries = list(qrels) if query_ids is None else list(query_ids)
    numbers: dict[str, int] = {}
    depth = max((len(run.get(q, ())) for q in queries), default=0)
    ranked = np.full((len(queries), depth), -1, dtype=np.int64)
    for row, query_id in enumerate(queries):
        results = run.get(query_id, ())
        ids = [numbers.setdefault(item_id, len(numbers)) for item_id, _ in results]
        if len(set(ids)) < len(ids):
            twice = next(item_id for i, (item_id, _) in enumerate(results) if ids[i] in ids[:i])
            raise ValueError(f"run: query {query_id!r} lists item {twice!r} twice")
        if any(later[1] > earlier[1] for earlier, later in pairwise(results)):
            raise ValueError(f"run: scores of query {query_id!r} rise; sort its results best first")
        ranked[row, : len(ids)] = ids
    truth = Truth.build(
        qrels, queries, lambda item_id: numbers.get(item_id, -1), len(numbers), relevant
    )
    return score_ranking(truth, ranked, measures)
