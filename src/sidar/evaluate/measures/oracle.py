"""What the SID table itself allows: SIDs in the order of the truth, expanded by the prior.

Two ceilings of the item-level measures, for the tables that ask how much a better order of SIDs
could bring (docs/evaluation.md, *headroom*): over all SIDs, and over those that a given beam
reached. Both are ceilings of the *rule* "SIDs in order, inside an SID by the prior"; the order is
greedy (best member first), so a measure may be beaten by another order where a large SID holds one
good item among many.
"""

from __future__ import annotations

import numpy as np

from sidar.evaluate.measures.truth import Truth
from sidar.types import Catalogue, EvalSet, Hits


def oracle_sids(
    eval_set: EvalSet,
    catalogue: Catalogue,
    sid_of_row: np.ndarray,
    prior: np.ndarray,
    width: int = 500,
) -> np.ndarray:
    """(Q, width) SID numbers by the truth of each query, −1 = none: only SIDs with a positive grade
    are ranked.

    An SID's grade is the highest of its members; ties by the sum of its members' positive grades,
    then by the highest prior of its members, then by lower number. ``sid_of_row`` (N,) the SID
    number of each row, −1 = no live SID; ``prior`` (N,).
    """
    graded = _graded(eval_set, catalogue, sid_of_row)
    best_prior = _best_prior(sid_of_row, prior)
    out = np.full((len(graded), width), -1, np.int64)
    for q, (sids, top, total) in enumerate(graded):
        order = np.lexsort((sids, -best_prior[sids], -total, -top))[:width]
        out[q, : len(order)] = sids[order]
    return out


def reachable_oracle(
    ranked: np.ndarray,
    eval_set: EvalSet,
    catalogue: Catalogue,
    sid_of_row: np.ndarray,
    prior: np.ndarray,
) -> np.ndarray:
    """``ranked`` (Q, W) SID numbers (−1 = none) in the order of :func:`oracle_sids`, the rest after
    in their old order.

    What the same beam would be worth in the best order: the headroom of alignment, which moves few
    SIDs into a beam.
    """
    graded = _graded(eval_set, catalogue, sid_of_row)
    if len(ranked) != len(graded):
        raise ValueError(
            f"rankings of {len(ranked)} queries for the {len(graded)} of {eval_set.name}"
        )
    best_prior = _best_prior(sid_of_row, prior)
    out = np.full(ranked.shape, -1, np.int64)
    for q, (sids, top, total) in enumerate(graded):
        found = ranked[q][ranked[q] >= 0].astype(np.int64)
        grade, summed = np.zeros(len(found)), np.zeros(len(found))
        if len(sids):
            at = np.minimum(np.searchsorted(sids, found), len(sids) - 1)
            known = sids[at] == found
            grade[known], summed[known] = top[at[known]], total[at[known]]
        good, rest = np.flatnonzero(grade > 0), np.flatnonzero(grade <= 0)
        of = found[good]
        good = good[np.lexsort((of, -best_prior[of], -summed[good], -grade[good]))]
        out[q, : len(found)] = found[np.concatenate([good, rest])]
    return out


def expand(ranked: np.ndarray, sid_of_row: np.ndarray, prior: np.ndarray, k: int = 500) -> Hits:
    """``ranked`` (Q, W) SID numbers → (Q, k) items: SIDs in order, inside an SID by falling prior,
    then by lower row.

    The rule of every generative row (``PrefixIndex.expand``), for rankings that no index made.
    Scores are k, k−1 ….
    """
    rows = np.flatnonzero(sid_of_row >= 0)
    rows = rows[np.lexsort((rows, -prior[rows], sid_of_row[rows]))]
    n_sids = int(max(sid_of_row.max(initial=-1), ranked.max(initial=-1))) + 1
    starts = np.concatenate(
        [[0], np.cumsum(np.bincount(sid_of_row[rows], minlength=n_sids))]
    ).astype(np.int64)
    out = np.full((len(ranked), k), -1, np.int32)
    for q, sids in enumerate(ranked):
        at = 0
        for sid in sids[sids >= 0]:
            if at >= k:
                break
            members = rows[starts[sid] : starts[sid + 1]][: k - at]
            out[q, at : at + len(members)] = members
            at += len(members)
    return Hits(out, np.where(out >= 0, np.arange(k, 0, -1), 0).astype(np.float32))


def _graded(
    eval_set: EvalSet, catalogue: Catalogue, sid_of_row: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Per query: its SIDs of positive grade (rising), the highest and the summed positive grade of
    their members.
    """
    truth = Truth.of_catalogue(eval_set.qrels, eval_set.query_ids, catalogue, 0.0)
    known = truth.things < len(catalogue)
    sid = (
        np.where(known, sid_of_row[np.where(known, truth.things, 0)], -1)
        if len(sid_of_row)
        else truth.things * 0 - 1
    )
    found = []
    for q in range(len(truth)):
        span = slice(int(truth.starts[q]), int(truth.starts[q + 1]))
        keep = (sid[span] >= 0) & (truth.grades[span] > 0)
        grades = truth.grades[span][keep].astype(np.float64)
        sids, place = np.unique(sid[span][keep], return_inverse=True)
        top = np.zeros(len(sids))
        np.maximum.at(top, place, grades)
        found.append((sids, top, np.bincount(place, weights=grades, minlength=len(sids))))
    return found


def _best_prior(sid_of_row: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """(n_sids,) the highest prior of each SID's members."""
    if len(prior) != len(sid_of_row):
        raise ValueError(f"{len(prior)} priors for {len(sid_of_row)} rows")
    best = np.full(int(sid_of_row.max(initial=-1)) + 1, -np.inf)
    has = sid_of_row >= 0
    np.maximum.at(best, sid_of_row[has], prior[has])
    return best
