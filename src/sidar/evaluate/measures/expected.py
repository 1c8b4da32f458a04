"""Expected measures of a ranking of *groups* whose members come in random order: exact, no
sampling.

A Semantic ID is a cluster, so a ranked list of SIDs is a ranking of groups of items. The order
inside a group is a decision (Sidar's: the prior); docs/evaluation.md wants the value under a random
order beside it. The same formulas give the topic oracle (one group: the judged pool of the query)
and the random system (one group: the catalogue).

For a group that starts after s items, has n members, r of them relevant, and gains summing to g:

* recall, precision, R-precision: the number of relevant members among the t drawn is
  hypergeometric, mean r·t / n;
* nDCG: each member is equally likely at each of the group's ranks, so the mean gain g / n stands at
  every rank;
* hit: P(no relevant member among t) = C(n−r, t) / C(n, t);
* MRR: P(first relevant member at place t) = C(n−t, r−1) / C(n, r), in the first group that has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sidar.evaluate.measures.metrics import parse_measure
from sidar.evaluate.measures.truth import Truth
from sidar.types import Scores


@dataclass(frozen=True)
class GroupRanking:
    """Ranked groups of Q queries: ``sizes`` (Q, G) int64 (0 = none), ``gains`` (Q, G) sums of
    positive grades, ``relevant`` (Q, G) int64 counts.
    """

    sizes: np.ndarray
    gains: np.ndarray
    relevant: np.ndarray

    @classmethod
    def of_sids(cls, truth: Truth, ranked: np.ndarray, sid_of_row: np.ndarray) -> GroupRanking:
        """``ranked`` (Q, G) SID numbers, −1 = none; ``sid_of_row`` (N,) the SID number of each live
        row, −1 = none.
        """
        members = np.bincount(
            sid_of_row[sid_of_row >= 0], minlength=int(ranked.max(initial=-1)) + 1
        )
        gains, relevant = truth.sums_of(ranked, sid_of_row)
        sizes = np.where(ranked >= 0, members[np.maximum(ranked, 0)] if len(members) else 0, 0)
        return cls(sizes.astype(np.int64), gains, relevant)

    @classmethod
    def of_pool(cls, truth: Truth, sizes: np.ndarray | None = None) -> GroupRanking:
        """One group per query: its judged pool (the topic oracle), or ``sizes`` (Q,) things that
        contain it.
        """
        pool = np.diff(truth.starts) if sizes is None else np.asarray(sizes)
        gains = np.bincount(truth.query, weights=np.maximum(truth.grades, 0), minlength=len(truth))
        return cls(pool[:, None].astype(np.int64), gains[:, None], truth.n_relevant[:, None])


def expected_scores(
    truth: Truth, groups: GroupRanking, measures: Sequence[str], depth: int = 500
) -> Scores:
    """{measure: (Q,) float64} expected over uniformly random orders inside each group; lists are
    cut at ``depth``.
    """
    sizes = groups.sizes.astype(np.float64)
    ends = sizes.cumsum(axis=1)
    starts = ends - sizes
    safe = np.maximum(sizes, 1)
    positives = np.maximum(truth.n_relevant, 1)
    # DCG of k ones
    ideal_of_rank = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(depth) + 2))])

    def hits_within(cutoff: np.ndarray) -> np.ndarray:
        # (Q, G) members inside the cut
        drawn = np.clip(np.minimum(cutoff, depth)[:, None] - starts, 0, sizes)
        return (groups.relevant * drawn / safe).sum(axis=1)

    scores: Scores = {}
    for measure in measures:
        name, cut = parse_measure(measure)
        cutoff = min(cut or depth, depth)
        whole = np.full(len(truth), cutoff)
        if name == "ndcg":
            from_, to = (np.minimum(edge, cutoff).astype(np.int64) for edge in (starts, ends))
            dcg = (groups.gains / safe * (ideal_of_rank[to] - ideal_of_rank[from_])).sum(axis=1)
            ideal = truth.ideal_dcg(cut)
            scores[measure] = np.divide(dcg, ideal, out=np.zeros(len(truth)), where=ideal > 0)
        elif name == "recall":
            scores[measure] = hits_within(whole) / positives
        elif name == "precision":
            scores[measure] = hits_within(whole) / (cut or 1)
        elif name == "rprec":
            scores[measure] = hits_within(truth.n_relevant) / positives
        elif name == "hit":
            scores[measure] = _hit(groups, starts, cutoff)
        else:
            scores[measure] = _reciprocal_rank(groups, starts, cutoff)
    return scores


def _first_relevant(
    groups: GroupRanking, starts: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Start, size, relevant count of the first group with a relevant member, and whether there is
    one; each (Q,).
    """
    has = groups.relevant > 0
    first = has.argmax(axis=1)
    pick = np.arange(len(first)), first
    return starts[pick].astype(np.int64), groups.sizes[pick], groups.relevant[pick], has[pick]


def _log_factorials(n: int) -> np.ndarray:
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])


def _hit(groups: GroupRanking, starts: np.ndarray, cutoff: int) -> np.ndarray:
    """(Q,) P(at least one relevant member within ``cutoff``): only the first group that has one can
    be cut inside.
    """
    start, n, r, has = _first_relevant(groups, starts)
    drawn = np.clip(cutoff - start, 0, n)
    lf = _log_factorials(int(n.max(initial=0)))
    spared = drawn <= n - r  # else every draw of that many contains a relevant member
    left = np.where(spared, n - r - drawn, 0)
    log_none = lf[n - r] - lf[left] + lf[n - drawn] - lf[n]
    return np.where(has, 1 - np.where(spared, np.exp(log_none), 0.0), 0.0)


def _reciprocal_rank(groups: GroupRanking, starts: np.ndarray, cutoff: int) -> np.ndarray:
    """(Q,) expected 1 / rank of the first relevant member, 0 beyond ``cutoff``."""
    start, n, r, has = _first_relevant(groups, starts)
    lf = _log_factorials(int(n.max(initial=0)))
    values = np.zeros(len(start))
    cases, inverse = np.unique(np.stack([start, n, r], axis=1)[has], axis=0, return_inverse=True)
    of_case = np.zeros(len(cases))
    for i, (s, size, k) in enumerate(cases.tolist()):
        # places that the first relevant member can take
        t = np.arange(1, min(size - k + 1, max(cutoff - s, 0)) + 1)
        log_p = lf[size - t] - lf[k - 1] - lf[size - t - k + 1] - (lf[size] - lf[k] - lf[size - k])
        of_case[i] = (np.exp(log_p) / (s + t)).sum()
    values[has] = of_case[inverse.ravel()]
    return values
